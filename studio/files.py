"""Where the studio keeps what it can compute again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Where the studio keeps what it can compute again: DIFFUSION_STUDIO_CACHE, else ~/.cache/diffusion-studio."""
    return Path(os.environ.get("DIFFUSION_STUDIO_CACHE") or Path.home() / ".cache" / "diffusion-studio")
