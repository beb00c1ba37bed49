"""The ControlNet tab: a map steers a picture. Units with their maps, the run as it streams, with and without, a strip over scales, and training."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from html import escape
from threading import Event
from typing import Any

import gradio as gr

from studio.control.annotators import ANNOTATORS, MapRequest, make_map
from studio.errors import BadImage, InvalidOption
from studio.media.maps import map_from_text
from studio.options import PICTURES, SampleOptions
from studio.sampling.compare import plan_grid
from studio.units import MAX_UNITS, ControlUnit
from tabs.compare import compared, drawn
from tabs.parts.api import ControlApi, ControlTrainingApi
from tabs.parts.arguments import event_value
from tabs.parts.control_training import create_training
from tabs.parts.controls import Controls, control, create_controls, options_from, wire_scheduler
from tabs.parts.openings import Opening, asked_with, has_opening, recorded
from tabs.parts.panel import DEVICE, FILES, Change, RunPanel, Values
from tabs.parts.ready import FirstPress
from tabs.parts.repainting import Start, create_start, restored_start, wire_start
from tabs.parts.running import recorded_film
from tabs.parts.session import Session
from tabs.parts.showing import when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, full, keep_fresh, menu_of, models_of, said_in_a_sentence, unchecked
from tabs.parts.turns import alone
from tabs.parts.units import (
    FIELDS,
    FIRST,
    Card,
    create_card,
    held,
    net_menu,
    preview,
    restored_card,
    setting_updates,
    size_of_run,
    unit_of,
    units_in,
    window_line,
)
from tabs.parts.visitors import asker_of
from tabs.text_to_image import generated, model_line, named_model

__all__ = ["create_tab", "opens_with", "record"]

PROMPT = "a red heart on a white background"
INVITATION = "Give the unit a map and a ControlNet, and press Generate."
PAIR_INVITATION = "Press Compare: the same seed with the units and without them, and where the two differ at every step."
STRIP_INVITATION = "Press Draw the strip: one seed at every scale, and how well each picture obeys the map."
MAIN = ("negative_prompt", "guidance_scale", "num_steps", "scheduler", "seed", "num_images")
FIRST_SCALES = "0, 0.25, 0.5, 0.75, 1, 1.5, 2"
# What a change of makes the map anew, and what only its line.
OF_MAP = ("picture", "scene", "first", "second", "invert", "resize", "net")
OF_WINDOW = ("start", "end", "scale", "muted")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run is asked with: the controls by the names of their options, the cards, how many of these are shown, and what it starts from."""

    controls: Controls
    cards: tuple[Card, ...]
    count: gr.State
    start: Start

    @property
    def inputs(self) -> list[Any]:
        """All of it."""
        return [*self.controls.values(), self.count, *(part for card in self.cards for part in card.values)]


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: ControlTrainingApi) -> FirstPress | None:
    """The components, handlers and wiring of the tab; gives what its first press asks for, where there is a ControlNet for it.

    Args:
        studio: samples, knows ControlNets, and trains them.
    """
    panel = RunPanel(studio, "ctl", "Generate", decoder=studio)
    with gr.Row(elem_classes="ds-model-row"):
        model, resident = create_model(studio)
    controls: Controls = {"model": model}
    with gr.Tabs(elem_classes="ds-areas"):
        with gr.Tab("Picture"), gr.Row(elem_classes="ds-layout ds-prompt-first"):
            with gr.Column(elem_classes="ds-controls"):
                controls["prompt"] = control("ctl", "prompt", PROMPT)
                panel.create_press()
                cards, count, add = create_units(studio)
                run_controls, start = create_run_controls(studio, model)
                controls |= run_controls
                panel.create_files()
            with gr.Column(elem_classes="ds-stage-column"):
                panel.create_stage(opening(), INVITATION)
        panel.places["resident"] = resident
        asked = Asked(controls=controls, cards=cards, count=count, start=start)
        with gr.Tab("With and without"):
            create_pair(studio, asked)
        with gr.Tab("Strip over scales"):
            create_strip(studio, asked)
        with gr.Tab("Train one"):
            create_training(studio)
    wire_units(studio, asked, add)
    wire_run(studio, panel, asked)
    net = first_unit(studio)["net"]
    return FirstPress(options=opens_with(net), changes=partial(steered, studio)) if net and model.value else None


def opening() -> str:
    """The recorded run that the stage opens with, where there is one."""
    return recorded("control", "stage") if has_opening("control") else ""


def create_model(studio: ControlApi) -> tuple[gr.Dropdown, gr.HTML]:
    """The menu of models, and what is said of the chosen one and of memory."""
    first = next((name for name, entry in models_of(studio, text=True).items() if entry.embedded), None)
    model = unchecked(gr.Dropdown(
        menu_of(studio, text=True), value=first, label="Model" if studio.public else "Model, or any folder, file or Hub id",
        allow_custom_value=not studio.public, elem_id="ctl-model", scale=0, min_width=288,
    ))
    resident = gr.HTML(model_line(studio, first), elem_id="ctl-resident", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    keep_fresh(model, studio, text=True)
    return model, resident


def create_units(studio: ControlApi) -> tuple[tuple[Card, ...], gr.State, gr.Button]:
    """The cards, of which the first is shown; how many are; and the button that shows another."""
    first = first_unit(studio)
    cards = tuple(create_card(studio, number, first if number == 1 else FIRST, visible=number == 1) for number in range(1, MAX_UNITS + 1))
    return cards, gr.State(1), gr.Button("Add a unit", size="sm", elem_id="ctl-add")


def first_unit(studio: ControlApi) -> dict[str, Any]:
    """What the first card holds at first: an exact map of a drawn scene, and a net that reads it, where there is one."""
    nets = [name for name, info in studio.controlnets.items() if info.embedded]
    reads = next((name for name in nets if "toybox-edges" in studio.controlnets[name].annotators), None)
    return {**FIRST, "net": reads, "annotator": "toybox-edges"}


def create_run_controls(studio: ControlApi, model: gr.Dropdown) -> tuple[Controls, Start]:
    """How the run goes; what matters less often is folded."""
    entry = models_of(studio, text=True).get(model.value)
    with gr.Accordion("How to sample", open=False, elem_id="ctl-sampling"):
        controls = create_controls("ctl", MAIN, guidance_scale=entry.default_guidance if entry else 7.5, num_steps=20, scheduler="unipc")
        controls |= create_controls("ctl", ("sigmas", "eta"))
        with gr.Row():
            controls |= {name: control("ctl", name, 0, min_width=100) for name in ("width", "height")}
        start = create_start("ctl")
    controls |= start.controls
    wire_scheduler(controls)
    wire_start(start, [model, controls["width"], controls["height"]], partial(size_of_run, studio))
    return controls, start


# --- the recorded run that the tab opens with -----------------------------------------------------------------

def opens_with(net: str) -> SampleOptions:
    """What is recorded: exact edges of a drawn scene, followed by a ControlNet of edges."""
    made = make_map(MapRequest(annotator="toybox-edges", scene=PROMPT, width=64, height=64))
    return SampleOptions(
        model="toybox-sd", prompt=PROMPT, num_steps=20, scheduler="unipc", guidance_scale=4.0,
        control=(ControlUnit(net=net, map=made.map, annotator="toybox-edges"),),
    )


def record(studio: ControlApi, net: str = "toybox-controlnet-canny") -> Opening:
    """The run that the tab opens with."""
    options = opens_with(net)
    return Opening(made_with={**asked_with(options), "control": [f"{PROMPT}, exact edges"]}, places={"stage": recorded_film(studio, options)})


# --- from what the page sends --------------------------------------------------------------------------------

def card_values(card: Card, values: Mapping[Any, Any]) -> dict[str, Any]:
    """What a card holds, by FIELDS."""
    return {name: values[card.parts[name]] for name in FIELDS}


def options_of(studio: ControlApi, asked: Asked, values: Mapping[Any, Any]) -> SampleOptions:
    """The options of the run with its units, their maps made. Raises StudioError."""
    plain = options_from({name: values[part] for name, part in asked.controls.items()})
    size = size_of_run(studio, plain.model, plain.width, plain.height)
    shown = asked.cards[: values[asked.count]]
    units = tuple(unit_of(card_values(card, values), size, number) for number, card in enumerate(shown, 1))
    if not any(not unit.muted for unit in units):
        raise InvalidOption("Every unit is muted, so nothing would steer the picture: unmute one, or use the tab Text to image.")
    return dataclasses.replace(plain, control=units)


# --- wiring: units -------------------------------------------------------------------------------------------

def wire_units(studio: ControlApi, asked: Asked, add: gr.Button) -> None:
    """Live maps, lines, and what is done with whole units."""
    for index, card in enumerate(asked.cards):
        wire_map(studio, asked, card)
        wire_window(asked, card)
        for name, button in card.buttons.items():
            wire_moving(studio, asked, button, name, index)
    wire_moving(studio, asked, add, "add", 0)
    shown = [part for card in asked.cards for part in (card.paint, card.line, card.window)]
    # The maps are drawn, not kept in the page.
    when_first_shown(lambda values: full(shown, looks(studio, asked, values)), set(asked.inputs), shown, **CHEAP)


def wire_map(studio: ControlApi, asked: Asked, card: Card) -> None:
    """The map follows what it is made of; what comes while one is made, but for the newest, is dropped."""
    sized = [asked.controls[name] for name in ("model", "width", "height")]
    inputs = {*card.values, *sized}

    def size(values: Mapping[Any, Any]) -> tuple[int, int]:
        return size_of_run(studio, *(values[part] for part in sized))

    def on_change(values: dict[Any, Any]) -> dict[Any, Any]:
        return dict(zip((card.paint, card.line), preview(studio, card_values(card, values), size(values))))

    def on_annotator(name: str) -> dict[Any, Any]:
        return full(told, setting_updates(card, name))

    def on_make(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            if studio.public:
                raise InvalidOption("A public studio fetches no weights of annotators; start the studio on your own machine for them.")
            made = yield from alone(
                studio.device, asker_of(request), "make a map", lambda: preview(studio, card_values(card, values), size(values), load=True), card.line,
            )
            yield dict(zip((card.paint, card.line), made))

    def on_paint(values: dict[Any, Any], event: gr.EventData) -> dict[Any, Any]:
        return painted_on(studio, card, card_values(card, values), size(values), event_value(event, what=str, png=str))

    # Another picture stands before what was drawn.
    card.parts["picture"].upload(lambda: "", None, card.parts["drawing"], **CHEAP)
    told = list(setting_updates(card, "canny"))
    # Only then: what the sliders hold has to lie in the ranges of the new annotator.
    card.parts["annotator"].input(on_annotator, card.parts["annotator"], told, **CHEAP).then(on_change, inputs, [card.paint, card.line], **CHEAP)
    changed = [card.parts[name].change for name in OF_MAP] + [part.change for part in sized]
    gr.on(changed, on_change, inputs, [card.paint, card.line], trigger_mode="always_last", **CHEAP)
    card.make.click(on_make, inputs, [card.paint, card.line], **PRIVATE, **DEVICE)
    card.paint.select(on_paint, inputs, [card.parts["drawing"], card.parts["mask"], *setting_updates(card, "map"), card.line], **CHEAP)


def painted_on(studio: ControlApi, card: Card, values: Mapping[str, Any], size: tuple[int, int], said: Mapping[str, str]) -> dict[Any, Any]:
    """What was drawn on a card: a map of its own, or where the unit acts. The page shows it already."""
    try:
        if said["png"]:
            map_from_text(said["png"])
        if said["what"] == "mask":
            return {card.parts["mask"]: said["png"]}
        drawn_values = {**values, "annotator": "map", "drawing": said["png"], "invert": False}
        return {card.parts["drawing"]: said["png"], **setting_updates(card, "map"), card.line: preview(studio, drawn_values, size)[1]}
    except BadImage as error:
        return {card.line: escape(str(error))}


def wire_window(asked: Asked, card: Card) -> None:
    """Under the sliders stands which steps are really controlled."""
    controls = asked.controls
    told = [controls["num_steps"], controls["init_image"], controls["strength"]]

    def on_change(values: dict[Any, Any]) -> str:
        return window_of(card, controls, values)

    changed = [card.parts[name].change for name in OF_WINDOW] + [part.change for part in told]
    gr.on(changed, on_change, {*(card.parts[name] for name in OF_WINDOW), *told}, card.window, trigger_mode="always_last", **CHEAP)


def window_of(card: Card, controls: Controls, values: Mapping[Any, Any]) -> str:
    """The line about the steps, from what the page sends."""
    strength = values[controls["strength"]] if values[controls["init_image"]] else None
    return window_line({name: values[card.parts[name]] for name in OF_WINDOW}, values[controls["num_steps"]], strength)


def looks(studio: ControlApi, asked: Asked, values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The map and the lines of every card that is shown."""
    size, shown = size_of_run(studio, *(values[asked.controls[name]] for name in ("model", "width", "height"))), dict[Any, Any]()
    for card in asked.cards[: values[asked.count]]:
        shown |= dict(zip((card.paint, card.line), preview(studio, card_values(card, values), size)))
        shown[card.window] = window_of(card, asked.controls, values)
    return shown


def wire_moving(studio: ControlApi, asked: Asked, button: gr.Button, what: str, index: int) -> None:
    """A button that moves what the cards hold."""
    def on_press(values: dict[Any, Any]) -> dict[Any, Any]:
        units = [card_values(card, values) for card in asked.cards[: values[asked.count]]]
        return placed(asked, moved(units, what, index))

    outputs = placed(asked, [FIRST]).keys()
    shown = [part for card in asked.cards for part in (card.paint, card.line, card.window)]
    pressed = button.click(on_press, set(asked.inputs), list(outputs), **CHEAP)
    pressed.then(lambda values: looks(studio, asked, values), set(asked.inputs), shown, **CHEAP)


def moved(units: list[dict[str, Any]], what: str, index: int) -> list[dict[str, Any]]:
    """The units after "add", "duplicate", "up" or "remove" of the one at `index`; what cannot be done changes nothing."""
    units = [*units]
    if what == "add" and len(units) < MAX_UNITS:
        return [*units, dict(FIRST)]
    if index >= len(units):
        return units
    if what == "duplicate" and len(units) < MAX_UNITS:
        units.insert(index + 1, dict(units[index]))
    if what == "up" and index:
        units[index - 1], units[index] = units[index], units[index - 1]
    if what == "remove" and len(units) > 1:
        del units[index]
    return units


def placed(asked: Asked, units: list[dict[str, Any]]) -> dict[Any, Any]:
    """Every card with what it is to hold, those without a unit hidden."""
    changes: dict[Any, Any] = {asked.count: len(units)}
    for index, card in enumerate(asked.cards):
        changes |= held(card, units[index] if index < len(units) else FIRST)
        changes[card.frame] = gr.update(visible=index < len(units))
    return changes


# --- wiring: runs --------------------------------------------------------------------------------------------

def wire_run(studio: ControlApi, panel: RunPanel, asked: Asked) -> None:
    """The run, and what is kept of it."""
    controls, resident = asked.controls, panel.places["resident"]
    model = controls["model"]

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        return steered(studio, options_of(studio, asked, values), switch, values[panel.session])

    def of_kept(options: SampleOptions) -> dict[Any, Any] | None:
        units = units_in(options) or (ControlUnit(muted=True),)
        cards: dict[Any, Any] = {asked.count: len(units)}
        for index, card in enumerate(asked.cards):
            cards[card.frame] = gr.update(visible=index < len(units))
            cards |= restored_card(card, units[index]) if index < len(units) else held(card, FIRST)
        size = size_of_run(studio, options.model, options.width, options.height)
        cards |= restored_start(asked.start, options, size)
        name = named_model(studio, options.model)
        return cards if name is None else {**cards, model: name}

    model.input(lambda name: model_line(studio, name), model, resident, **CHEAP)
    for card in asked.cards:
        card.parts["net"].focus(lambda: gr.update(choices=net_menu(studio)), None, card.parts["net"], **CHEAP)
        wire_taking(panel, card)
    panel.wire_run(
        changes, asked.inputs, [panel.run.click, controls["prompt"].submit], failed=lambda values: {"resident": model_line(studio, values[model])},
    )
    opened = panel.wire_files(
        {name: part for name, part in controls.items() if name not in PICTURES}, of_kept,
        beside=[*placed(asked, [FIRST]), *asked.start.restorable],
    )
    shown = [part for card in asked.cards for part in (card.paint, card.line, card.window)]
    opened.then(lambda values: looks(studio, asked, values), set(asked.inputs), shown, **CHEAP)


def wire_taking(panel: RunPanel, card: Card) -> None:
    """The picture of the last run becomes that of a unit; where the map was of a scene, its edges are taken."""
    def on_take(session: Session, name: str, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            kept = session.of(request).required("There is no run of yours yet: press Generate first, then take its picture.")
            annotator = name if name in ANNOTATORS and ANNOTATORS[name].of == "picture" and name != "map" else "canny"
            changes = setting_updates(card, annotator) if annotator != name else {}
            return {**changes, card.parts["picture"]: gr.update(value=kept.images[0], visible=True)}

    outputs = [card.parts["picture"], *(part for part in setting_updates(card, "canny") if part is not card.parts["picture"])]
    card.take.click(on_take, [panel.session, card.parts["annotator"]], outputs, **PRIVATE, **FILES)


def steered(studio: ControlApi, options: SampleOptions, switch: Event, session: Any) -> Iterator[Change]:
    """A run as the page sees it; the ControlNets are loaded within its turn."""
    for change in generated(studio, options, switch, session):
        yield {name: value for name, value in change.items() if name != "words"}


# --- with and without, and over scales -----------------------------------------------------------------------

def create_pair(studio: ControlApi, asked: Asked) -> None:
    """The same seed with the units and without them, on one scrubber, with the difference at every step."""
    panel = RunPanel(studio, "ctl-pair", "Compare")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            gr.Markdown("A is the run of the area Picture, B the same without its units.", elem_classes="ds-about")
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by(
                "compare", f'<div class="ds-stage ds-compare" data-invitation="{PAIR_INVITATION}"></div>', elem_id="ctl-pair-stage",
            )

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        options = dataclasses.replace(options_of(studio, asked, values), num_images=1)
        return compared(studio, options, dataclasses.replace(options, control=()), switch, values[panel.session].asker)

    panel.wire_run(changes, asked.inputs)


def create_strip(studio: ControlApi, asked: Asked) -> None:
    """One seed at several scales of the first unit, and how well each obeys the map."""
    panel = RunPanel(studio, "ctl-strip", "Draw the strip")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            scales = gr.Textbox(FIRST_SCALES, label="Scales of unit 1", info="From 0, which is no control, to 2.", max_lines=1, elem_id="ctl-scales")
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by(
                "pictureGrid", f'<div class="ds-stage ds-grid-stage" data-invitation="{STRIP_INVITATION}"></div>', elem_id="ctl-strip-stage",
            )
            panel.places["sheet"] = gr.File(label="The strip as one picture", visible=False, interactive=False, height=60, elem_id="ctl-strip-sheet")

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        options = options_of(studio, asked, values)
        cells = plan_grid("control_scale", options, {"seed": [options.seed], "control": scaled(options.control, read_scales(values[scales]))})
        return drawn(studio, "control_scale", cells, switch, values[panel.session].asker)

    panel.wire_run(changes, [*asked.inputs, scales])


def read_scales(text: str | None) -> list[float]:
    """Scales from "0, 0.5, 1". Raises InvalidOption."""
    try:
        return [float(part) for part in (text or "").replace(";", ",").split(",") if part.strip()]
    except ValueError:
        raise InvalidOption(f"Scales are numbers with commas between them, but they are {text!r:.60}.") from None


def scaled(units: tuple[ControlUnit, ...], scales: list[float]) -> list[tuple[ControlUnit, ...]]:
    """The units once for each scale of the first that is not muted. Raises InvalidOption."""
    first = next(index for index, unit in enumerate(units) if not unit.muted)
    return [tuple(dataclasses.replace(unit, scale=scale) if index == first else unit for index, unit in enumerate(units)) for scale in scales]
