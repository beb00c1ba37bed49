"""Files of visitors take so much of the disk and no more: the oldest go, what is in use stays."""

import os
import time

import pytest

from studio.disk_room import DiskRoom, used
from studio.errors import InvalidOption, StudioBusy

HOUR = 3600


def kept(folder, name: str, size: int, age_s: float = 0.0):
    path = folder / name / "file.bin"
    path.parent.mkdir()
    path.write_bytes(b"\0" * size)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_what_was_used_longest_ago_goes_first_and_no_more_than_must(tmp_path):
    first, second, third = (kept(tmp_path, name, 40, hours * HOUR) for name, hours in (("a", 3), ("b", 2), ("c", 1)))
    used(first)
    DiskRoom(tmp_path, 120).make(30)
    assert first.exists() and third.exists() and not second.exists() and not second.parent.exists()


def test_what_is_in_use_is_never_removed_and_who_finds_no_room_is_told_so(tmp_path):
    old, new = kept(tmp_path, "old", 10, HOUR), kept(tmp_path, "new", 60)
    with pytest.raises(StudioBusy, match="try again in 10 minutes"):
        DiskRoom(tmp_path, 100).make(50)
    assert old.exists() and new.exists()
    DiskRoom(tmp_path, 100).make(35)
    assert new.exists() and not old.exists()


def test_files_that_came_since_the_last_count_are_counted(tmp_path):
    room = DiskRoom(tmp_path, 100)
    for name in "ab":
        room.make(40)
        kept(tmp_path, name, 40, HOUR)
    room.make(40)
    assert not (tmp_path / "a").exists() and (tmp_path / "b").exists()


def test_a_link_is_counted_as_a_link_and_what_it_leads_to_is_left(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\0" * 1000)
    folder = tmp_path / "uploads"
    folder.mkdir()
    link = folder / "link"
    link.symlink_to(secret)
    os.utime(link, (0, 0), follow_symlinks=False)
    DiskRoom(folder, 100).make(100)
    assert secret.exists() and not link.is_symlink()


def test_a_room_without_size_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="most"):
        DiskRoom(tmp_path, 0)
