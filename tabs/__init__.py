"""The studio's panels: each module has create_tab(studio), and knows the backend only through what it is given."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["without_stubs"]


@contextmanager
def without_stubs() -> Iterator[None]:
    """Inside, Gradio writes no stub files of its components for editors, which it otherwise does whenever it is imported: a second of each start.

    It writes none of a class that has no file, so here its own classes have none.
    """
    known = inspect.getfile

    def getfile(object: Any) -> str:
        if isinstance(object, type) and object.__module__.startswith("gradio."):
            raise FileNotFoundError(f"{object.__name__} is looked up without its file.")
        return known(object)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = known


with without_stubs():
    import gradio  # noqa: F401
