"""What else a model is told in pictures: a depth map, a small picture to enlarge, pictures to vary. Shown for the models that know it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.models.families import Family
from studio.models.loading import known_family
from studio.options import SampleOptions
from tabs.parts.controls import Controls, create_controls

__all__ = ["TOLD", "ToldParts", "create_told", "restored_told", "taken", "told_updates"]

TOLD = ("cond_image", "cond_image_2", "cond_mix", "noise_level", "depth_model")
PICTURES = ("cond_image", "cond_image_2")


@dataclass(frozen=True, kw_only=True)
class ToldParts:
    """The components. controls: by the names of their options. box: around them. start: the accordion of the picture to start from."""

    controls: Controls
    box: gr.Column
    start: gr.Accordion

    @property
    def outputs(self) -> list[Any]:
        """What another model changes."""
        return [self.box, self.start, *self.controls.values()]

    @property
    def restorable(self) -> list[Any]:
        """What an opened run sets besides the plain values."""
        return [self.box, self.start, *(self.controls[name] for name in PICTURES)]


def create_told(prefix: str) -> tuple[gr.Column, Controls]:
    """The components, hidden until a model knows them."""
    with gr.Column(visible=False, elem_id=f"{prefix}-told", elem_classes="ds-told") as box:
        return box, create_controls(prefix, TOLD, noise_level=0)


def told_updates(parts: ToldParts, models: Mapping[str, Any], name: str | None) -> dict[Any, Any]:
    """The components for a model: what it knows, in its own words; of one that nothing is known of, all of it."""
    family = known_family(name or "", models)
    takes = TOLD if family is None else family.takes
    updates: dict[Any, Any] = {parts.controls[one]: gr.update(visible=one in takes) for one in TOLD}
    if family is not None and family.picture:
        most, own = family.noise
        updates[parts.controls["cond_image"]] = gr.update(visible=True, label=family.picture)
        updates[parts.controls["noise_level"]] = gr.update(visible="noise_level" in takes, maximum=max(1, most), value=own)
    # What is open stays so: a picture that is there already counts with another model too.
    start = gr.update(open=True) if starts_from_picture(family) else gr.update()
    return {parts.box: gr.update(visible=family is None or bool(family.picture)), parts.start: start, **updates}


def starts_from_picture(family: Family | None) -> bool:
    """Whether a model makes something only of a picture to start from, or mostly."""
    return family is not None and bool({"init_mask", "depth_model"} & set(family.takes))


def taken(models: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of controls without what the model does not know; of one that nothing is known of, what is told with a picture."""
    family = known_family((values["model"] or "").strip(), models)
    takes = (TOLD if values.get("cond_image") else ("depth_model",)) if family is None else family.takes
    return {name: value for name, value in values.items() if name not in TOLD or name in takes}


def restored_told(parts: ToldParts, models: Mapping[str, Any], options: SampleOptions) -> dict[Any, Any]:
    """The components for a run that was kept."""
    updates = told_updates(parts, models, options.model)
    for name in TOLD:
        value = getattr(options, name)
        if value is not None or name in PICTURES:
            updates[parts.controls[name]] = {**updates[parts.controls[name]], "value": value}
    return updates
