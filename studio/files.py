"""How the studio keeps files: what can be computed again, contents told apart, paths kept in their folders, files written and read whole.

A file or folder appears under its name only when all of it is written, so that neither a kill nor a full disk leaves half.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

from studio.errors import DamagedFile

__all__ = ["ASIDE", "cache_folder", "digest", "lies_within", "read_object", "remove", "write_text", "written_aside"]

# A record of the studio's is a few kilobytes.
MOST_BYTES = 2**20
# How the name of what is being written ends.
ASIDE = ".tmp"


def cache_folder() -> Path:
    """Where the studio keeps what it can compute again: DIFFUSION_STUDIO_CACHE, else ~/.cache/diffusion-studio."""
    return Path(os.environ.get("DIFFUSION_STUDIO_CACHE") or Path.home() / ".cache" / "diffusion-studio")


def digest(path: str | Path) -> str:
    """A name for what a file holds: equal for equal bytes alone (SHA-256, hexadecimal). Raises OSError."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def lies_within(path: str | Path, folders: Iterable[str | Path]) -> bool:
    """Whether the path, every link followed, lies in one of the folders; whether it is there does not matter."""
    try:
        real = Path(path).resolve()
        return any(real.is_relative_to(Path(folder).resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
        return False


# --- written whole -------------------------------------------------------------------------------------------

@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or a folder to; at the end it takes the place of what is at `path`.

    Where the block raises, what it wrote is removed and `path` is left as it was. Raises OSError.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{ASIDE}")
    remove(aside)
    try:
        yield aside
        if aside.is_dir():
            remove(path)  # a folder cannot be renamed onto one that holds something
        os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise


def write_text(path: Path, text: str) -> None:
    """The text as the whole of a file, in UTF-8. Raises OSError."""
    with written_aside(path) as aside:
        aside.write_text(text, "utf-8")


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all in it; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


# --- read whole ----------------------------------------------------------------------------------------------

def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None where there is no such file. Raises DamagedFile that names the file and what is wrong."""
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    # Of a model in one file there is no folder to look in either.
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedFile(f"{path.name} cannot be read: {error.strerror}.") from error
    if len(text) > MOST_BYTES:
        raise DamagedFile(f"{path.name} is larger than {MOST_BYTES // 2**20} MiB, which no such file is.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path.name} is no JSON, or cut short.") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path.name} holds no object with names and values.")
    return value
