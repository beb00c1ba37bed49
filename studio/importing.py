"""Libraries that several threads of a studio need at once, and that were not made for it: while they are imported, and while they make networks.

diffusers and transformers, and packages in them, put another module in their own place while they are imported, to load their parts late. A thread
that imports one while another is still at it waits for that one, and is then given the module that stood there before, in which nothing is found:
"cannot import name". And while weights are read, diffusers has every network of the process made without any (accelerate's init_empty_weights): one
that another thread makes meanwhile stays empty.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

__all__ = ["ReplacedModules", "one_at_a_time", "safe_to_import"]

Args = ParamSpec("Args")
Result = TypeVar("Result")

_making = RLock()


def one_at_a_time(make: Callable[Args, Result]) -> Callable[Args, Result]:
    """A function that makes or loads networks, such that of all functions of this kind one runs at a time."""

    @wraps(make)
    def made(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        with _making:
            return make(*args, **kwargs)

    return made


class ReplacedModules(MetaPathFinder):
    """Finds the packages of these names, and those in them, as ever; what is not in the module that one began as is looked up in the one in its place."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """As importlib asks it of every finder; None for any other package."""
        if name.partition(".")[0] not in self.names:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, found), None)
        loader: Any = spec and spec.loader
        if loader is not None and spec and spec.submodule_search_locations is not None:
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
