"""Controls of what only some families can be told (studio.conditions): to be seen where the chosen model is of one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import gradio as gr

from studio.conditions import CONDITIONS, is_taken
from studio.options import SampleOptions, option_info
from tabs.parts.api import SamplingApi
from tabs.parts.controls import DEFAULTS, Controls, control, options_from, written
from tabs.parts.shelf import create_shelf
from tabs.parts.told import taken

__all__ = ["Conditions", "create_conditions"]

# Those that stand beside each other.
PAIRS = (
    ("size.original", "size.negative_original"), ("size.crop", "size.negative_crop"), ("size.target", "size.negative_target"),
    ("aesthetic.score", "aesthetic.negative"), ("skipped.start", "skipped.end"),
)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The controls by dotted names, and the folds that hold them by the names of their groups."""

    studio: SamplingApi
    controls: Controls
    folds: Mapping[str, gr.Accordion]

    @property
    def components(self) -> list[Any]:
        """Everything that changes with the model."""
        return [*self.folds.values(), *self.controls.values()]

    def updates(self, model: str | None, options: SampleOptions | None = None) -> dict[Any, Any]:
        """What is to be seen with a model; with options, what the controls then say."""
        takes = self.studio.takes(model) if model else ()
        seen = {fold: gr.update(visible=is_taken(name, takes)) for name, fold in self.folds.items()}
        for name, one in self.controls.items():
            value = {} if options is None else {"value": written(name, value_in(options, name))}
            more: dict[str, Any] = {"choices": refiners(self.studio)} if option_info(name).kind == "model" else {}
            seen[one] = gr.update(visible=is_taken(name, takes), **value, **more)
        return seen

    def of(self, model: str | None, values: Mapping[str, Any]) -> dict[str, Any]:
        """Of what all controls say, by name, what such a model can be told: what is hidden does not count."""
        takes = self.studio.takes(model) if model else ()
        return {name: value for name, value in values.items() if "." not in name or is_taken(name, takes)}

    def options(self, values: Mapping[str, Any]) -> SampleOptions:
        """The options of a run from the values of a tab's controls: of pictures and conditions, what the model can be told. Raises InvalidOption."""
        return options_from(self.of(values["model"], taken(self.studio.models, values)))


def create_conditions(studio: SamplingApi, prefix: str, model: str | None) -> Conditions:
    """A fold for each group, hidden where the model takes nothing of it."""
    takes = studio.takes(model) if model else ()
    controls, folds = {}, {}
    for group in CONDITIONS:
        with gr.Accordion(option_info(group).label, open=False, visible=is_taken(group, takes), elem_id=f"{prefix}-{group}") as folds[group]:
            names = [f"{group}.{field.name}" for field in fields(CONDITIONS[group])]
            for row in rows_of(names):
                with gr.Row():
                    for name in row:
                        of_menu = option_info(name).kind == "model"
                        more: dict[str, Any] = {"choices": refiners(studio), "allow_custom_value": not studio.public} if of_menu else {}
                        controls[name] = control(prefix, name, visible=is_taken(name, takes), **more)
            if group in BESIDE:
                BESIDE[group](studio, prefix, controls)
    return Conditions(studio=studio, controls=controls, folds=folds)


# What else stands in the fold of a group.
BESIDE: Mapping[str, Callable[[SamplingApi, str, Controls], None]] = MappingProxyType({"added": create_shelf})


def rows_of(names: list[str]) -> list[tuple[str, ...]]:
    paired = {name: pair for pair in PAIRS for name in pair}
    return list(dict.fromkeys(paired.get(name, (name,)) for name in names))


def value_in(options: SampleOptions, name: str) -> Any:
    group, _, own = name.partition(".")
    value = getattr(getattr(options, group), own)
    return DEFAULTS[name] if value is None else value


def refiners(studio: SamplingApi) -> list[tuple[str, str]]:
    """The menu of models that go on with what another began."""
    return [("none", ""), *((entry.label, name) for name, entry in studio.models.items() if entry.refines)]
