"""Units of ControlNets: what a run is told of one of them. Data only; studio.sampling.controlled makes a run follow it."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from PIL import Image

from studio.checks import quoted, require_choice, require_float, require_text
from studio.errors import InvalidOption
from studio.media.maps import RESIZES, map_from_text, map_to_text

__all__ = ["MAX_UNITS", "MODES", "ControlUnit", "controlled_steps"]

MAX_UNITS = 3
MAX_SCALE = 2.0
# Residuals of any network that is known: 12 + 1 in Stable Diffusion 1.
MAX_BLOCKS = 64
PICTURES = ("map", "mask")

MODES: Mapping[str, str] = MappingProxyType({
    "balanced": "Balanced: every block with its whole weight", "prompt": "The prompt is more important: shallow blocks weigh a tenth of the middle",
    "control": "The map is more important: the same, and guidance leads away from a picture without it",
})


@dataclass(frozen=True, kw_only=True)
class ControlUnit:
    """One ControlNet of a run.

    Args:
        net: a key of studio.models.controlnets.CONTROLNETS, a folder, a .safetensors file, or a Hub id.
        map: what the picture is to follow; None: not given yet, and no run takes such a unit.
        annotator: what made the map of a picture, a key of studio.control.ANNOTATORS; "" = not known.
        scale: how strongly it acts, 0 to 2.
        start, end: the share of the run's steps, 0 to 1, in which it acts: step i of N where start <= i/N and (i+1)/N <= end.
        mode: a key of MODES.
        blocks: the weight of each residual, from the first to the middle, 0 to 2; () = 1 each.
        mask: where it acts: white, and not where it is black; None = everywhere.
        resize: how the map is brought to the size of the run, a key of studio.media.maps.RESIZES.
        muted: it is left out.
    Raises:
        InvalidOption.
    """

    net: str = ""
    map: Image.Image | None = None
    annotator: str = ""
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: str = "balanced"
    blocks: tuple[float, ...] = ()
    mask: Image.Image | None = None
    resize: str = "crop"
    muted: bool = False

    def __post_init__(self) -> None:
        require_text("net", self.net, 1_000)
        require_text("annotator", self.annotator, 100)
        require_float("scale", self.scale, 0.0, MAX_SCALE)
        require_float("start", self.start, 0.0, 1.0)
        require_float("end", self.end, 0.0, 1.0)
        require_choice("mode", self.mode, MODES)
        require_choice("resize", self.resize, RESIZES)
        if self.start > self.end:
            raise InvalidOption(f"A ControlNet must start before it ends, but start={self.start:g} and end={self.end:g}.")
        if not isinstance(self.muted, bool):
            raise InvalidOption(f"muted must be true or false, but it is {quoted(self.muted)}.")
        if not isinstance(self.blocks, tuple) or len(self.blocks) > MAX_BLOCKS:
            raise InvalidOption(f"blocks must be a weight for each residual, at most {MAX_BLOCKS}, but it is {quoted(self.blocks)}.")
        for weight in self.blocks:
            require_float("the weight of a block", weight, 0.0, MAX_SCALE)
        for name in PICTURES:
            if not isinstance(getattr(self, name), Image.Image | None):
                raise InvalidOption(f"{name} must be a picture, but it is {quoted(getattr(self, name))}.")

    def to_dict(self, *, pictures: bool = True) -> dict[str, Any]:
        """JSON-ready: what is not as by default; pictures as PNG files in data URIs, or left out."""
        changed = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in PICTURES}
        values = {name: value for name, value in changed.items() if value != getattr(_DEFAULTS, name)}
        texts = {name: map_to_text(picture) for name in PICTURES if pictures and (picture := getattr(self, name)) is not None}
        return {**values, **({"blocks": list(self.blocks)} if self.blocks else {}), **texts}

    @classmethod
    def from_dict(cls, values: object) -> "ControlUnit":
        """The inverse of `to_dict`. Raises InvalidOption, BadImage."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) - known:
            raise InvalidOption(f"A unit of ControlNet must say some of {', '.join(sorted(known))}, but it is {quoted(values)}.")
        blocks = values.get("blocks", [])
        if not isinstance(blocks, list):
            raise InvalidOption(f"blocks must be a list of weights, but it is {quoted(blocks)}.")
        pictures = {name: map_from_text(values[name]) for name in PICTURES if values.get(name) is not None}
        return cls(**{**values, "blocks": tuple(blocks), **pictures})


_DEFAULTS = ControlUnit()


def controlled_steps(unit: ControlUnit, num_steps: int) -> range:
    """The steps of a run of `num_steps` in which the unit acts, counted from 0; none where its window covers no whole step."""
    # Rounded first: 0.3 * 10 is a little less than 3 in binary.
    first, last = math.ceil(round(unit.start * num_steps, 6)), math.floor(round(unit.end * num_steps, 6))
    return range(first, max(first, last))
