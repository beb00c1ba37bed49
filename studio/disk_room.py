"""A folder of files that may take so much of the disk and no more: what was used longest ago goes first, what is in use stays."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from studio.checks import require_float, require_int
from studio.errors import StudioBusy
from studio.machine import in_words

__all__ = ["DiskRoom", "used", "PUBLIC_DISK", "OWN_DISK"]

GIB = 2**30
# What a public studio keeps of uploads and of files made for visitors, and what one's own does.
PUBLIC_DISK, OWN_DISK = 2 * GIB, 16 * GIB
# A file that was named, served or written within so many seconds is in use.
IN_USE_S = 600.0


def used(path: str | Path) -> None:
    """Note that a file is used now: by its time of change, which nothing else here asks for."""
    with suppress(OSError):  # it went in this moment
        os.utime(path)


class DiskRoom:
    """The files below a folder, and how much of the disk they may take together.

    Args:
        folder: all files in it are this room's, however deep; a file's own folder goes with the last file in it.
        most: bytes.
        in_use_s: seconds after its last use in which a file is never removed.
    """

    def __init__(self, folder: str | Path, most: int, in_use_s: float = IN_USE_S) -> None:
        require_int("most", most, 1, 2**60)
        require_float("in_use_s", in_use_s, 0.0, 1e9)
        self.folder, self.most, self.in_use_s = Path(folder), most, in_use_s
        # Bytes that are known to be free: what was when the files were last counted, less all that room was made for since.
        self._free = 0
        self._lock = Lock()

    def make(self, size: int) -> None:
        """Have room for `size` bytes more, which are then written. Raises StudioBusy where too much is in use, and removes nothing then."""
        with self._lock:
            if size > self._free:
                self._free = self._counted(size)
            self._free -= size

    def _counted(self, size: int) -> int:
        """Bytes that are free once there is room for `size` of them."""
        files = sorted(self._files())
        free = self.most - sum(bytes_ for _, bytes_, _ in files)
        old = [(bytes_, path) for at, bytes_, path in files if at < time.time() - self.in_use_s]
        if free + sum(bytes_ for bytes_, _ in old) < size:
            raise StudioBusy(
                f"The studio keeps at most {in_words(self.most)} of files for its visitors, and as much is in use; "
                f"try again in {max(1, round(self.in_use_s / 60))} minutes."
            )
        for bytes_, path in old:
            if free >= size:
                break
            free += bytes_
            self._remove(path)
        return free

    def _files(self) -> Iterable[tuple[float, int, str]]:
        """(time of last use, bytes, path) of each."""
        for path, _, names in os.walk(self.folder):
            for name in names:
                with suppress(FileNotFoundError):
                    found = os.stat(os.path.join(path, name), follow_symlinks=False)
                    yield found.st_mtime, found.st_size, os.path.join(path, name)

    def _remove(self, path: str) -> None:
        with suppress(OSError):
            os.unlink(path)
            # Uploads of one content lie in a folder of their own.
            if os.path.dirname(path) != str(self.folder):
                os.rmdir(os.path.dirname(path))
