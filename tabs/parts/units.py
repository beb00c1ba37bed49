"""Units of ControlNets on the page: up to three cards, each with its net, what its map is made of, and how it acts.

    values of a card -> map_asked -> MapRequest -> make_map -> map        the same for the preview and for the run
    values of a card -> unit_of  -> ControlUnit

Cards are shown and hidden; what a card holds is moved from one to another when units are duplicated, reordered or removed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr

from studio.checks import require_choice, require_float, require_int
from studio.control.annotators import ANNOTATORS, Annotator, MapMade, MapRequest, fits_net, make_map
from studio.errors import InvalidOption, StudioError
from studio.media.data_uris import data_uri
from studio.media.maps import RESIZES, aligned, kind_of_map, map_from_text, map_to_text
from studio.media.uploads import open_picture
from studio.models.controlnet_menu import control_info
from studio.options import SampleOptions
from studio.process.schedules import MAX_TIMESTEPS
from studio.units import MAX_UNITS, MODES, ControlUnit, controlled_steps
from tabs.parts.api import ControlApi, SamplingApi
from tabs.parts.stage import drawn_by, picture_input, to_stage, unchecked

__all__ = ["FIELDS", "FIRST", "Card", "create_card", "line_of", "map_asked", "preview", "restored_card", "setting_updates", "unit_of", "window_line"]

# What a card holds, in the order in which it is moved about; drawing and mask are kept beside the page.
FIELDS = (
    "net", "annotator", "picture", "scene", "first", "second", "invert", "resize", "scale", "start", "end", "mode", "blocks", "muted", "drawing", "mask",
)
FIRST: dict[str, Any] = {
    "net": None, "annotator": "canny", "picture": None, "scene": "a red heart on a white background", "first": 100.0, "second": 200.0, "invert": False,
    "resize": "crop", "scale": 1.0, "start": 0.0, "end": 1.0, "mode": "balanced", "blocks": "", "muted": False, "drawing": "", "mask": "",
}
# Sliders of settings that a card has; no annotator has more.
SETTINGS = ("first", "second")
NO_NETS = (
    "No ControlNet is here yet. Train one in the area “Train one” (“Toybox edges, CPU, 6 minutes”), or name a folder, a .safetensors file "
    "or a Hub id such as lllyasviel/control_v11p_sd15_canny."
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The components of a unit. parts: those of FIELDS by name. paint: the map, to look at and to draw on. line, window: what is
    said of the map and of the steps in which the unit acts. make: for annotators that load weights. take: makes the picture of the last
    run that of the unit."""

    parts: Mapping[str, Any]
    frame: Any
    paint: gr.HTML
    line: gr.HTML
    window: gr.HTML
    make: gr.Button
    take: gr.Button
    buttons: Mapping[str, gr.Button]

    @property
    def values(self) -> list[Any]:
        """Its components in the order of FIELDS."""
        return [self.parts[name] for name in FIELDS]


def create_card(studio: ControlApi, number: int, first: Mapping[str, Any], visible: bool) -> Card:
    """The components of the unit `number` (from 1), holding `first`."""
    prefix, parts = f"ctl-{number}", dict[str, Any]()
    with gr.Column(visible=visible, elem_id=prefix, elem_classes="ds-unit") as frame:
        with gr.Row(elem_classes="ds-unit-head"):
            gr.HTML(f"<strong>Unit {number}</strong>", padding=False)
            parts["muted"] = gr.Checkbox(first["muted"], label="Mute", elem_id=f"{prefix}-muted", min_width=80, container=False)
        parts["net"] = unchecked(gr.Dropdown(
            net_menu(studio), value=first["net"], label="ControlNet", allow_custom_value=not studio.public, elem_id=f"{prefix}-net",
            info="What the map steers." if studio.public else "From the menu, or a folder, file or Hub id.",
        ))
        paint = drawn_by("paint", '<div class="ds-stage ds-paint"></div>', elem_id=f"{prefix}-map")
        line = said(f"{prefix}-line")
        parts |= create_map_controls(studio, prefix, first)
        take = gr.Button("Take the picture of the last run", size="sm", elem_id=f"{prefix}-take")
        make = gr.Button("Make the map", size="sm", visible=False, elem_id=f"{prefix}-make")
        parts |= create_acting(prefix, first)
        window = said(f"{prefix}-window")
        buttons = create_buttons(prefix)
    parts |= {name: gr.State(first[name]) for name in ("drawing", "mask")}
    return Card(parts=parts, frame=frame, paint=paint, line=line, window=window, make=make, take=take, buttons=buttons)


def said(elem_id: str) -> gr.HTML:
    """A line of the page for a sentence."""
    return gr.HTML(elem_id=elem_id, elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)


def create_map_controls(studio: ControlApi, prefix: str, first: Mapping[str, Any]) -> dict[str, Any]:
    """What the map is made of."""
    annotator = ANNOTATORS[first["annotator"]]
    menu = [(entry.label, name) for name, entry in ANNOTATORS.items() if not (studio.public and entry.needs)]
    parts: dict[str, Any] = {"annotator": unchecked(gr.Dropdown(
        menu, value=first["annotator"], label="Map", info=annotator.about, elem_id=f"{prefix}-annotator",
    ))}
    parts["picture"] = picture_input(
        label="Picture", sources=["upload", "clipboard"], height=150, format="png", visible=annotator.of == "picture", elem_id=f"{prefix}-picture",
    )
    parts["scene"] = gr.Textbox(
        first["scene"], label="Toybox scene", info="Its exact map. What is left open is drawn by chance.", max_lines=2, visible=annotator.of == "scene",
        elem_id=f"{prefix}-scene",
    )
    for index, name in enumerate(SETTINGS):
        parts[name] = unchecked(gr.Slider(elem_id=f"{prefix}-{name}", **setting_told(annotator, index, first[name])))
    parts["resize"] = unchecked(gr.Dropdown(
        [(label.partition(":")[0], name) for name, label in RESIZES.items()], value=first["resize"], label="Brought to size", elem_id=f"{prefix}-resize",
        info="Fit leaves black beside it, Stretch bends it.",
    ))
    parts["invert"] = gr.Checkbox(first["invert"], label="Invert: black for white", elem_id=f"{prefix}-invert")
    return parts


def create_acting(prefix: str, first: Mapping[str, Any]) -> dict[str, Any]:
    """How strongly, when and where the unit acts."""
    parts: dict[str, Any] = {"scale": unchecked(gr.Slider(
        0.0, 2.0, first["scale"], step=0.05, label="Scale", info="Higher: closer to the map.", elem_id=f"{prefix}-scale",
    ))}
    with gr.Row():
        for name, label in (("start", "Acts from"), ("end", "to")):
            parts[name] = gr.Number(first[name], step=0.05, label=label, info="Share of the steps.", min_width=100, elem_id=f"{prefix}-{name}")
    parts["mode"] = unchecked(gr.Dropdown(
        [(label.partition(":")[0], name) for name, label in MODES.items()], value=first["mode"], label="What counts more", elem_id=f"{prefix}-mode",
    ))
    parts["blocks"] = gr.Textbox(
        first["blocks"], label="Weights of the blocks", placeholder="1 each; or as many numbers as blocks", max_lines=1, elem_id=f"{prefix}-blocks",
        info="From the first skip connection to the middle; 0 mutes one.",
    )
    return parts


def create_buttons(prefix: str) -> dict[str, gr.Button]:
    """What is done with the unit as a whole."""
    with gr.Row(elem_classes="ds-press"):
        return {
            name: gr.Button(label, size="sm", min_width=60, elem_id=f"{prefix}-{name}")
            for name, label in (("duplicate", "Duplicate"), ("up", "Up"), ("remove", "Remove"))
        }


def net_menu(studio: ControlApi) -> list[tuple[str, str]]:
    """Labels and names of the ControlNets, as they are now."""
    return [(info.label, name) for name, info in studio.controlnets.items()]


def setting_told(annotator: Annotator, index: int, value: Any = None) -> dict[str, Any]:
    """What the slider of the annotator's setting `index` is told; hidden where there is none, with a range that takes what it holds."""
    if index >= len(annotator.settings):
        return {"minimum": 0.0, "maximum": 1000.0, "label": "Setting", "visible": False}
    one = annotator.settings[index]
    within = isinstance(value, (int, float)) and one.low <= value <= one.high
    return {
        "value": value if within else one.default, "minimum": one.low, "maximum": one.high, "step": one.step, "label": one.label, "info": one.info,
        "visible": True,
    }


def setting_updates(card: Card, name: str, values: Sequence[Any] = (None, None)) -> dict[Any, Any]:
    """The card's components as an annotator wants them."""
    if name not in ANNOTATORS:
        return {}
    annotator, parts = ANNOTATORS[name], card.parts
    sliders = {parts[slot]: gr.update(**setting_told(annotator, i, value)) for i, (slot, value) in enumerate(zip(SETTINGS, values))}
    return {
        **sliders, parts["annotator"]: gr.update(value=name, info=annotator.about), parts["picture"]: gr.update(visible=annotator.of == "picture"),
        parts["scene"]: gr.update(visible=annotator.of == "scene"), card.make: gr.update(visible=bool(annotator.needs)),
    }


# --- from the values of a card -------------------------------------------------------------------------------

def map_asked(values: Mapping[str, Any], size: tuple[int, int]) -> MapRequest:
    """The map that the card asks for, for a run of `size` (width, height). Raises StudioError."""
    name = values["annotator"]
    if name not in ANNOTATORS:
        return MapRequest(annotator=name)
    told = {setting.name: values[slot] for setting, slot in zip(ANNOTATORS[name].settings, SETTINGS)}
    require_choice("resize", values["resize"], RESIZES)
    return MapRequest(
        annotator=name, picture=_picture(values, size), scene=values["scene"] or "", settings=told, width=size[0], height=size[1],
        resize=values["resize"], invert=bool(values["invert"]),
    )


def _picture(values: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """What was drawn stands before what was uploaded, where the map is to be taken as it is."""
    if values["annotator"] == "map" and values["drawing"]:
        return map_from_text(values["drawing"])
    path = values["picture"]
    return opened(path, *size, values["resize"])[0] if path and ANNOTATORS[values["annotator"]].of == "picture" else None


@lru_cache(maxsize=8)
def opened(path: str, width: int, height: int, resize: str) -> tuple[Any, tuple[int, int]]:
    """An uploaded picture in the size of the run, and its own size; while a threshold moves it is not opened again. Raises BadImage."""
    picture = open_picture(path)
    return aligned(picture, width, height, resize), picture.size


def unit_of(values: Mapping[str, Any], size: tuple[int, int], number: int) -> ControlUnit:
    """The unit, with its map made. Raises StudioError, naming the unit."""
    try:
        made = None if values["muted"] else make_map(map_asked(values, size)).map
        return ControlUnit(
            net=net_named(values), map=made, annotator=values["annotator"], scale=values["scale"], start=values["start"], end=values["end"],
            mode=values["mode"], blocks=read_blocks(values["blocks"]), mask=map_from_text(values["mask"]) if values["mask"] else None,
            resize=values["resize"], muted=bool(values["muted"]),
        )
    except StudioError as error:
        raise InvalidOption(f"Unit {number}: {error}") from error


def read_blocks(text: str | None) -> tuple[float, ...]:
    """Weights from "1, 0.5, 0". Raises InvalidOption."""
    try:
        return tuple(float(part) for part in (text or "").replace(";", ",").split(",") if part.strip())
    except ValueError:
        raise InvalidOption(f"Weights of the blocks are numbers with commas between them, but they are {text!r:.60}.") from None


def restored_card(card: Card, unit: ControlUnit) -> dict[Any, Any]:
    """The card's components for a unit that was kept: its map as it is, whatever it was made of."""
    values = {
        **FIRST, "net": unit.net or None, "annotator": "map", "resize": unit.resize, "scale": unit.scale, "start": unit.start, "end": unit.end,
        "mode": unit.mode, "blocks": ", ".join(f"{weight:g}" for weight in unit.blocks), "muted": unit.muted,
        "drawing": map_to_text(unit.map) if unit.map else "", "mask": map_to_text(unit.mask) if unit.mask else "",
    }
    return held(card, values)


def held(card: Card, values: Mapping[str, Any]) -> dict[Any, Any]:
    """The card's components when it is to hold these values."""
    settings = setting_updates(card, values["annotator"], [values[slot] for slot in SETTINGS])
    plain = {card.parts[name]: values[name] for name in FIELDS if name not in ("annotator", *SETTINGS, "picture", "scene")}
    shown = {part: gr.update(**{**settings[part], "value": values[name]}) for name in ("picture", "scene") if (part := card.parts[name]) in settings}
    return {**plain, **settings, **shown}


# --- what is shown and said ----------------------------------------------------------------------------------

def preview(studio: ControlApi, values: Mapping[str, Any], size: tuple[int, int], *, load: bool = False) -> tuple[Any, str]:
    """The map for Studio.paint, and what is said of it. load: also with an annotator that has to load its weights."""
    try:
        request = map_asked(values, size)
        if ANNOTATORS[request.annotator].needs and not load:
            return gr.skip(), "This annotator loads its weights: press “Make the map”."
        made = make_map(request)
    except StudioError as error:
        return to_stage({"map": "", "width": size[0], "height": size[1], "mask": values["mask"]}), escape(str(error))
    return painted(made, values["mask"]), line_of(studio, values, made, request)


def painted(made: MapMade, mask: str) -> str:
    """A map as Studio.paint takes it."""
    binary = kind_of_map(made.map) == "binary"
    # Of two greys one channel says all, in a third of the time.
    uri = data_uri(made.map.convert("L") if binary else made.map)
    return to_stage({"map": uri, "width": made.map.width, "height": made.map.height, "mask": mask, "binary": binary})


def line_of(studio: ControlApi, values: Mapping[str, Any], made: MapMade, request: MapRequest) -> str:
    """What is to be said of the map, and of the net that is to follow it."""
    said = [*made.notes, net_line(studio, net_named(values), request.annotator, made)]
    own = _own_size(values, request)
    if own != (request.width, request.height):
        how = {"crop": "cropped", "fit": "fitted", "stretch": "stretched"}[request.resize]
        said.append(f"{own[0]} x {own[1]}, {how} to {request.width} x {request.height}.")
    return " ".join(escape(sentence) for sentence in said if sentence)


def _own_size(values: Mapping[str, Any], request: MapRequest) -> tuple[int, int]:
    """Of what the map is made of; that of the map where it is drawn from a scene."""
    if request.picture is None:
        return request.width, request.height
    drawn = request.annotator == "map" and values["drawing"]
    return request.picture.size if drawn else opened(values["picture"], request.width, request.height, request.resize)[1]


def net_named(values: Mapping[str, Any]) -> str:
    """The ControlNet of the card; what is no text names none."""
    return values["net"].strip() if isinstance(values["net"], str) else ""


def net_line(studio: ControlApi, name: str, annotator: str, made: MapMade) -> str:
    """What is to be said of a net that is to follow a map of this annotator."""
    if not name:
        here = any(info.embedded for info in studio.controlnets.values())
        return "Choose a ControlNet for this map." if here or studio.public else NO_NETS
    info = studio.controlnets.get(name)
    if info is None and not studio.public:
        # A folder may say what it follows; what is none is refused when it is to run.
        with suppress(StudioError, OSError):
            info = control_info(name)
    return fits_net(annotator, info.annotators, info.label, made.map) if info else ""


def window_line(values: Mapping[str, Any], num_steps: int, strength: float | None) -> str:
    """Which steps of the run the unit acts in. strength: of a run that starts from a picture, else None."""
    if values["muted"]:
        return "Muted."
    try:
        require_int("Steps", num_steps, 1, MAX_TIMESTEPS)
        require_float("Strength", strength if strength is not None else 1.0, 0.0, 1.0)
        unit = ControlUnit(start=values["start"], end=values["end"], scale=values["scale"])
    except StudioError as error:
        return escape(str(error))
    count = num_steps if strength is None else max(1, int(num_steps * strength))
    steps = controlled_steps(unit, count)
    if not steps:
        return f"Acts in none of the {count} steps: widen the window."
    if unit.scale == 0:
        return "Acts in no step: its scale is 0."
    return f"Acts in steps {steps[0] + 1} to {steps[-1] + 1} of {count}."


def size_of_run(studio: SamplingApi, model: str | None, width: Any, height: Any) -> tuple[int, int]:
    """(width, height) of the pictures: as asked, or the model's own."""
    info = studio.models.get(model or "")
    own = (info.width, info.height) if info else (512, 512)
    asked = [int(side) if isinstance(side, (int, float)) and 8 <= side <= 4096 else mine for side, mine in zip((width, height), own)]
    return asked[0], asked[1]


def units_in(options: SampleOptions) -> tuple[ControlUnit, ...]:
    """Units of options that were kept, as many as there are cards for."""
    return options.control[:MAX_UNITS]
