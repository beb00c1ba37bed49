"""The groups of studio.conditions as arguments of endpoints: an object each, described by what its options say of themselves."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any

from studio.additions import MAX_LORAS
from studio.conditions import CONDITIONS, group_of
from studio.options import OptionInfo, option_info

__all__ = ["group_schema", "with_groups"]

# The last argument of an endpoint that knows who asks.
REQUEST = "request"
WHOLE, WORDS = {"type": "integer"}, {"type": "string"}
LORA = {"type": "object", "properties": {"file": WORDS, "weight": {"type": "number"}}, "required": ["file"]}


def with_groups(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same endpoint with an argument more for each group; they come to it as one argument, `conditions`, made and checked.

    function: a generator whose last arguments are `conditions` and `request`.
    """
    own = [one for one in inspect.signature(function).parameters.values() if one.name not in ("conditions", REQUEST)]
    kind, asker = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.signature(function).parameters[REQUEST]
    more = [inspect.Parameter(name, kind, default=None, annotation=dict | None) for name in CONDITIONS]
    signature = inspect.Signature([*own, *more, asker])

    @wraps(function)
    def taking(*values: Any) -> Iterator[Any]:
        named = signature.bind(*values).arguments
        told = {name: group_of(name, given) for name in CONDITIONS if (given := without_nulls(named.pop(name, None)))}
        yield from function(conditions=told, **named)

    # Both are where Gradio looks for what a function takes.
    taking.__signature__ = signature  # type: ignore[attr-defined]
    taking.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return taking


def without_nulls(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is given: null stands for the default of an option too."""
    return {name: value for name, value in (values or {}).items() if value is not None}


def group_schema(name: str) -> dict[str, Any]:
    """A group as JSON Schema: what each option is, from what to what, and what happens when it goes up."""
    properties = {field.name: described(option_info(f"{name}.{field.name}"), field.default) for field in fields(CONDITIONS[name])}
    return {"type": "object", "description": option_info(name).label, "properties": properties}


def described(info: OptionInfo, default: Any) -> dict[str, Any]:
    """One option: its kind, its range, and its own words."""
    return {**kind_of(info, default), "description": f"{info.label}. {info.info}".strip()}


def kind_of(info: OptionInfo, default: Any) -> dict[str, Any]:
    """The kind of an option's value in JSON Schema."""
    span = {name: end for name, end in (("minimum", info.low), ("maximum", info.high)) if end is not None}
    if info.kind == "pair":
        return {"type": "array", "items": {**WHOLE, **span}, "minItems": 2, "maxItems": 2}
    if info.kind == "numbers":
        return {"type": "array", "items": {**WHOLE, **span}}
    if info.kind == "many":
        return {"type": "array", "items": {"enum": [value for _, value in info.choices]}}
    if info.kind == "loras":
        return {"type": "array", "items": LORA, "maxItems": MAX_LORAS}
    if info.kind == "files":
        return {"type": "array", "items": WORDS}
    if info.low is None:
        return WORDS
    return {"type": "integer" if isinstance(info.low, int) else "number", **span}
