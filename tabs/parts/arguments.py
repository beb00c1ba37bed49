"""What a program sends to a handler, checked before the handler sees it: how many values, and of which kind each is.

An endpoint (gr.api) says by its annotations what it takes, a handler of the page by its components. What passes is of
the kind that the handler was written for, so whatever it raises then is a defect of the studio and not of the caller.
"""

import math
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, TypedDict, Union, get_args, get_origin

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.components.api_component import Api
from gradio.utils import get_function_params

from studio.errors import InvalidOption

__all__ = ["Upload", "checked", "conformed", "event_value", "parameters_of"]

MAX_TEXT = 100_000
# JSON on the way back knows no larger whole numbers.
MAX_WHOLE = 2**63
SHOWN = 60


class Upload(TypedDict, total=False):
    """A file as a program names it: `path` is what /gradio_api/upload gave."""

    path: str


Choice = str | int | float | None
# What the page sends for a component; what is not listed is left to the component itself.
KINDS: dict[type, Any] = {
    gr.Textbox: str | None, gr.Number: float | None, gr.Slider: float | None, gr.Checkbox: bool | None, gr.Radio: Choice, gr.CheckboxGroup: list[Choice],
    gr.HTML: str | None, gr.Markdown: str | None, gr.Button: str | None, gr.Dataset: int | None,
    gr.Image: Upload | None, gr.File: Upload | list[Upload] | None, gr.UploadButton: Upload | list[Upload] | None,
}
WORDS = {
    int: "a whole number", float: "a number", str: f"a text of at most {MAX_TEXT:,} characters", bool: "true or false", dict: "an object", list: "a list",
    Upload: "a file that was uploaded",
}


def checked(fn: BlockFunction, values: Sequence[Any]) -> list[Any]:
    """The values as the handler takes them. Raises InvalidOption with what is wrong, in a sentence."""
    names, hints = parameters_of(fn)
    if len(values) != len(names):
        takes = f"{len(names)} {'value' if len(names) == 1 else 'values'}"
        raise InvalidOption(f"{endpoint_name(fn)} takes {takes}{listed(fn, names)}, but {len(values)} came.")
    defaults = [block.value if isinstance(block, Api) else None for block in fn.inputs]
    return [conformed(name, default if value is None else value, hint) for name, value, hint, default in zip(names, values, hints, defaults)]


def parameters_of(fn: BlockFunction) -> tuple[list[str], list[Any]]:
    """Names and kinds of what a handler is sent, in order."""
    if fn.inputs and all(isinstance(block, Api) for block in fn.inputs):
        found = get_function_params(fn.fn or (lambda: None))
        return [name for name, *_ in found], [hint if default is not None or not has else hint | None for _, has, default, hint in found]
    return [str(getattr(block, "label", None) or block.get_block_name()) for block in fn.inputs], [kind_of(block) for block in fn.inputs]


def kind_of(block: Any) -> Any:
    if isinstance(block, gr.Dropdown):
        return list[Choice] | None if block.multiselect else Choice
    if isinstance(block, gr.Slider) and "preprocess" not in vars(block):
        # Gradio itself compares it with the ends, unless the studio judges it (tabs.parts.stage.unchecked).
        return float
    return next((kind for component, kind in KINDS.items() if isinstance(block, component)), Any)


def conformed(name: str, value: Any, hint: Any) -> Any:
    """The value, where it is of the kind. A number without a fraction counts as a whole one. Raises InvalidOption, naming the kinds."""
    for kind in alternatives(hint):
        fits, taken = fitted(value, kind)
        if fits:
            return taken
    kinds = [kind_in_words(kind) for kind in alternatives(hint) if kind is not NoneType]
    raise InvalidOption(f"{name} must be {' or '.join(kinds)}, but it is {shown(value)}.")


def fitted(value: Any, kind: Any) -> tuple[bool, Any]:
    """Whether the value is of the kind, and as what it is taken."""
    if kind is Any:
        return True, value
    if get_origin(kind) is list:
        inner = [fitting(item, get_args(kind)[0]) for item in value] if isinstance(value, list) else []
        return isinstance(value, list) and all(fits for fits, _ in inner), [item for _, item in inner]
    test = TESTS.get(kind)
    fits = bool(test(value)) if test else isinstance(value, kind)
    return fits, int(value) if fits and kind is int else value


def fitting(value: Any, hint: Any) -> tuple[bool, Any]:
    return next((found for kind in alternatives(hint) if (found := fitted(value, kind))[0]), (False, value))


def alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)


def is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MAX_WHOLE <= value < MAX_WHOLE if isinstance(value, int) else math.isfinite(value)


TESTS: dict[Any, Callable[[Any], bool]] = {
    int: lambda value: is_number(value) and value == int(value) and -MAX_WHOLE <= value < MAX_WHOLE, float: is_number,
    str: lambda value: isinstance(value, str) and len(value) <= MAX_TEXT,
    # Which files may be named is for tabs.parts.uploads to judge.
    Upload: lambda value: isinstance(value, dict),
}


# --- in words ------------------------------------------------------------------------------------------------

def endpoint_name(fn: BlockFunction) -> str:
    return f"/{fn.api_name}" if fn.api_visibility == "public" else "This part of the page"


def listed(fn: BlockFunction, names: list[str]) -> str:
    return f" ({', '.join(names)})" if names and fn.api_visibility == "public" else ""


def kind_in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        inner = [kind_in_words(one) for one in alternatives(get_args(kind)[0]) if one is not NoneType]
        return f"a list, each of it {' or '.join(inner)}"
    return WORDS.get(kind, f"a {getattr(kind, '__name__', kind)}")


def shown(value: Any) -> str:
    """The value in at most some 60 characters; what is nested is only named."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# --- what an event carries -----------------------------------------------------------------------------------

def event_value(event: gr.EventData, **hints: Any) -> dict[str, Any]:
    """What the page's own event says, by name and kind. Raises InvalidOption for anything else."""
    said = event._data
    if not isinstance(said, dict):
        raise InvalidOption(f"The event must say {', '.join(hints)}, but it is {shown(said)}.")
    return {name: conformed(name, said.get(name), hint) for name, hint in hints.items()}
