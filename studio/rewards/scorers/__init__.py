"""One file a kind of scorers: whatever lies in this folder is on the menu.

Each file says in REWARDS what it adds to the menu, and in OTHERS what further ones of its kind are like, read from anywhere (None: there are none).
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

__all__ = ["modules"]


def modules() -> dict[str, Any]:
    """The files of this folder by their names."""
    return {name: import_module(f"{__name__}.{name}") for _, name, _ in iter_modules(__path__)}
