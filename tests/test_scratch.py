"""Temporary files: one folder a process, and nothing of it is left, however the process ended."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from studio import scratch

ROOT = Path(__file__).parents[1]
CODE = "from studio.scratch import scratch_folder; (scratch_folder() / 'film.gif').write_text('x'); print(scratch_folder(), flush=True); {then}"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the test's own, for this process and for those that it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


def process(then: str) -> tuple[subprocess.Popen, Path]:
    started = subprocess.Popen([sys.executable, "-c", CODE.format(then=then)], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert started.stdout
    return started, Path(started.stdout.readline().strip())


def test_a_process_that_ends_takes_its_folder_along(temporary):
    started, folder = process("pass")
    assert started.wait(30) == 0 and folder.parent == temporary and not folder.exists()


def test_a_start_removes_what_a_killed_process_left_and_leaves_a_living_one_alone(temporary):
    killed, left = process("input()")
    living, kept = process("input()")
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert left.is_dir()
    assert scratch.sweep() == [left] and not left.exists()
    assert (kept / "film.gif").is_file()
    living.communicate("\n", timeout=30)
    assert not kept.exists() and scratch.sweep() == []


def test_only_the_studios_own_folders_are_removed(temporary):
    (temporary / "somebody-elses").mkdir()
    (temporary / "diffusion-studio-file").write_text("no folder")
    (temporary / "diffusion-studio-full").mkdir()
    (temporary / "diffusion-studio-full" / "thesis.txt").write_text("not by the studio: it has no lock")
    target = temporary / "target"
    target.mkdir()
    (target / "lock").touch()
    (temporary / "diffusion-studio-link").symlink_to(target)
    (temporary / "diffusion-studio-empty").mkdir()
    assert scratch.sweep() == [temporary / "diffusion-studio-empty"]
    assert (target / "lock").exists() and (temporary / "diffusion-studio-full" / "thesis.txt").exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owner here")
def test_another_users_folder_is_left_alone(temporary, monkeypatch):
    folder = temporary / "diffusion-studio-other"
    folder.mkdir()
    (folder / "lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    assert scratch.sweep() == [] and folder.is_dir()


def test_a_passing_folder_goes_with_its_block():
    with scratch.passing_folder() as folder:
        (folder / "film.gif").write_text("x")
        assert folder.parent == scratch.scratch_folder()
    assert not folder.exists()
