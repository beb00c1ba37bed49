"""A form made from a trainer's options: a component for each, by the kind of its default, with its help as what it says."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gradio as gr

from tabs.parts.stage import unchecked

__all__ = ["option_control", "option_values"]


def option_control(field: dataclasses.Field, prefix: str, value: Any = None, label: str = "", **told: Any) -> Any:
    """The component for an option. value: what it says at first, None for the default; label: its name in words unless given."""
    value = field.default if value is None else value
    text = field.metadata["help"].replace("%%", "%")
    shared: dict[str, Any] = {
        "label": label or field.name.replace("_", " ").capitalize(), "info": f"{text[0].upper()}{text[1:]}.",
        "elem_id": f"{prefix}-{field.name.replace('_', '-')}", **told,
    }
    if isinstance(field.default, bool):
        return gr.Checkbox(value, **shared)
    if field.metadata["choices"]:
        return unchecked(gr.Dropdown(**{"choices": field.metadata["choices"], "value": value, **shared}))
    if isinstance(field.default, (int, float)):
        return gr.Number(value, precision=0 if isinstance(field.default, int) else None, min_width=110, **shared)
    return gr.Textbox(value, max_lines=2, **shared)


def option_values(fields: Mapping[str, dataclasses.Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's options from a form's values: where parts are allowed whole numbers count as numbers with parts."""
    def taken(name: str, value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and isinstance(fields[name].default, float) else value.strip() if isinstance(value, str) else value
    return {name: taken(name, value) for name, value in values.items() if value is not None}
