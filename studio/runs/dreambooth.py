"""Teaching a subject, from the person's side: their pictures judged, shown as training sees them, and kept for the run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from studio.errors import BadImage, InvalidOption
from studio.media.images import to_square
from studio.media.uploads import open_picture
from studio.models.catalogue import ASSETS
from studio.runs.costs import cost_of
from studio.runs.folder import RunView
from studio.runs.queue import Runs
from studio.runs.trainers.dreambooth import DreamBoothOptions, RunCost, check_model
from studio.runs.trainers.options import require_in_range
from studio.runs.trainers.presets import PRESETS, Preset

__all__ = ["EXAMPLE", "presets", "fields", "open_pictures", "seen", "options_from", "start", "estimate", "MOST_PICTURES"]

EXAMPLE = ASSETS / "examples" / "domino"
MOST_PICTURES = 20
VALIDATION = "{instance}|{instance} on a yellow background|{class_}"


def presets() -> dict[str, Preset]:
    """Presets by name, with label, about and options."""
    return PRESETS


def fields() -> dict[str, dataclasses.Field]:
    """Every option with its default, and its help and choices as metadata; no torch is loaded."""
    return {field.name: field for field in dataclasses.fields(DreamBoothOptions)}


def open_pictures(paths: Sequence[str | Path]) -> list[Image.Image]:
    """The pictures in the files. Raises InvalidOption for too few or too many, BadImage that names each file it cannot read."""
    if not paths:
        raise InvalidOption("There are no pictures of the subject; give 2 to 20 of them, 3 to 5 are usual, or take the example.")
    pictures, bad = [], []
    for path in paths:
        try:
            pictures.append(open_picture(path))
        except BadImage as error:
            bad.append(f"{Path(path).name}: {error}")
    if bad:
        raise BadImage(" ".join(bad))
    if len(pictures) == 1:
        raise InvalidOption("One picture is not enough to tell the subject from its surroundings; give at least 2, better 3 to 5.")
    if len(pictures) > MOST_PICTURES:
        raise InvalidOption(f"{len(pictures)} pictures are more than the {MOST_PICTURES} that are taken; 3 to 5 are usual.")
    return pictures


def seen(picture: Image.Image, resolution: int, crop: str) -> Image.Image:
    """The square that training sees of a picture; of random crops, one. Raises InvalidOption for a size that training refuses."""
    require_in_range(fields()["resolution"], resolution)
    if crop == "center":
        return to_square(picture, resolution, crop)
    import torch

    return to_square(picture, resolution, crop, torch.Generator().manual_seed(0))


def options_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """The trainer's options from those of a form: prompts to look at are made up where none are given. Raises InvalidOption."""
    empty = [name for name, value in values.items() if value is None]
    if empty:
        raise InvalidOption(f"{empty[0]} is empty; give it a value, or choose a preset to fill it in.")
    options = {name: value.strip() if isinstance(value, str) else value for name, value in values.items()}
    if not options.get("validation_prompts"):
        options["validation_prompts"] = VALIDATION.format(instance=options.get("instance_prompt"), class_=options.get("class_prompt"))
    return options


def start(runs: Runs, name: str, pictures: Sequence[str | Path], options: Mapping[str, Any]) -> RunView:
    """Check everything, keep the pictures in the run's folder, queue the run. Raises a StudioError, and nothing of it is left."""
    runs.require_free(name)
    taken = open_pictures(pictures)
    checked = options_from(options)

    def save(folder: Path) -> None:
        for i, picture in enumerate(taken):
            picture.save(folder / f"{i:02d}.png")

    return runs.start("dreambooth", checked, name=name, uploads={"instances": save})


def estimate(runs: Runs, options: Mapping[str, Any]) -> RunCost:
    """What such a run among these will take: see studio.runs.costs.cost_of. Raises StudioError."""
    return cost_of(runs, "dreambooth", options_from(options), check_model)
