"""Packages that put another module in their own place while they are imported, made safe to import by several threads at once.

diffusers and transformers do so, to load their parts late. A thread that imports such a package while another one is still at it waits for that
one, and is then given the module that stood there before, in which nothing is found: "cannot import name".
"""

import sys
from collections.abc import Collection, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["ReplacedModules", "safe_to_import"]


class ReplacedModules(MetaPathFinder):
    """Finds the packages of these names as ever; what is not in the module they began as is looked up in the one that took its place."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As importlib asks it of every finder; None for any other package."""
        if name not in self.names:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, found), None)
        loader: Any = spec and spec.loader
        if loader is not None:
            loader.exec_module = partial(_executed, loader.exec_module)
        return spec


def _executed(exec_module: Any, module: ModuleType) -> None:
    exec_module(module)
    put = sys.modules.get(module.__name__)
    if put is not module:
        # Asked for what the module itself has not (PEP 562).
        vars(module)["__getattr__"] = partial(getattr, put)


def safe_to_import(*names: str) -> None:
    """From now on the packages of these names may be imported by several threads at once. One that is imported already is left alone."""
    sys.meta_path.insert(0, ReplacedModules(names))
