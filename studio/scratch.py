"""Files of the moment: one folder a process, made when it is first needed, gone when the process is.

<temporary folder>/diffusion-studio-XXXX/lock       held for as long as the process lives, however it ends
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["scratch_folder", "passing_folder", "sweep"]

PREFIX = "diffusion-studio-"
LOCK = "lock"


@cache
def scratch_folder() -> Path:
    """This process's own folder for files of the moment."""
    folder, lock = _claimed()
    atexit.register(_remove, folder, lock)
    return folder


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder for what is written and handed on at once; it goes with the block."""
    with tempfile.TemporaryDirectory(dir=scratch_folder(), ignore_cleanup_errors=True) as name:
        yield Path(name)


def sweep() -> list[Path]:
    """Remove the folders of the studio's processes that are gone, however they ended; gives what was removed.

    Only this user's, only real folders of that name, and only where nobody holds the lock.
    """
    return [folder for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _is_own(folder) and _swept(folder)]


def _claimed() -> tuple[Path, FileLock]:
    """A new folder with its lock held. Another process may sweep it away before it is locked: then the next one is tried."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout):
            continue
        if folder.is_dir():
            return folder, lock
        lock.release()


def _is_own(folder: Path) -> bool:
    # A link of that name may lead anywhere.
    if folder.is_symlink() or not folder.is_dir():
        return False
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def _swept(folder: Path) -> bool:
    try:
        if not (folder / LOCK).exists():
            # Of a process that ended between two lines of `_claimed`: only an empty one is known to be the studio's.
            folder.rmdir()
            return True
        lock = FileLock(folder / LOCK)
        with lock.acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except (OSError, Timeout):
        return False
    return not folder.exists()


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
