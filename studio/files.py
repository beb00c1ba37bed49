"""Where the studio keeps what it can compute again, and how it tells contents apart."""

import os
from hashlib import file_digest
from pathlib import Path

__all__ = ["cache_folder", "digest"]


def cache_folder() -> Path:
    """Where the studio keeps what it can compute again: DIFFUSION_STUDIO_CACHE, else ~/.cache/diffusion-studio."""
    return Path(os.environ.get("DIFFUSION_STUDIO_CACHE") or Path.home() / ".cache" / "diffusion-studio")


def digest(path: str | Path) -> str:
    """A name for what a file holds: equal for equal bytes alone (SHA-256, hexadecimal). Raises OSError."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()
