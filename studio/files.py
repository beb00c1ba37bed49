"""Where the studio keeps what it can compute again, how it tells contents apart, and whether a path stays in its folders."""

import os
from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

__all__ = ["cache_folder", "digest", "lies_within"]


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
