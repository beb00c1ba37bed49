"""The Noise schedules tab: how much of a picture is left at every timestep, under one schedule or several."""

import dataclasses
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr
import numpy as np

from studio.checks import MAX_SEED, require_int
from studio.errors import InvalidOption, StudioError
from studio.media.data_uris import data_uri
from studio.media.figures import Entry, plot_schedules, save_figure, schedule_csv
from studio.media.pictures import PICTURES, load_picture
from studio.media.uploads import open_picture
from studio.process.noising import ChainFinished, ChainProgress, Moments, NoiseOptions, compare_chain, draw_eps, working_copy
from studio.process.schedules import CURVES, SCHEDULES, curves, schedule_options
from studio.scratch import passing_folder
from tabs.parts.showing import when_first_shown
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, picture_input, said_in_a_sentence

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["create_tab"]

# The noise travels as 16-bit whole numbers: steps of 1/4096 out to 8 standard deviations.
EPS_SCALE = 4096
FIRST_PICTURE, FIRST_SCHEDULES, FIRST_T = "cat", ["linear", "cosine"], 250
FIRST_CURVES = ["sqrt_alpha_bar", "sqrt_one_minus_alpha_bar", "log_snr"]
# Of several changes in a row the last one counts. Those that may refuse go through the queue.
LATEST: dict[str, Any] = {**CHEAP, "trigger_mode": "always_last"}
FALLIBLE: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last", "concurrency_limit": 4, "concurrency_id": "pictures"}
LATEX: list[dict[str, str | bool]] = [{"left": "$$", "right": "$$", "display": True}, {"left": "$", "right": "$", "display": False}]

# A download button holds its file from the moment the file is there, so one hidden button serves all three formats.
DOWNLOAD = "() => setTimeout(() => document.querySelector('#schedules-download').click(), 50)"

PARAMETER_LABELS = {
    "beta_start": "beta, first", "beta_end": "beta, last", "offset": "offset s", "power": "power", "steepness": "steepness",
    "sigma_min": "sigma, lowest", "sigma_max": "sigma, highest", "rho": "rho", "shift": "shift",
}

ABOUT = r"""
$$x_t = \textcolor{#cc6a2c}{\sqrt{\bar\alpha_t}}\;x_0 + \textcolor{#748a9c}{\sqrt{1-\bar\alpha_t}}\;\epsilon, \qquad \epsilon\sim\mathcal N(0, I)$$

$$\bar\alpha_t = \prod_{s=0}^{t}(1-\beta_s)$$

A schedule is a list of $\beta_t$: how much of the variance each step replaces by noise. Everything else follows from it.
The signal shrinks as $\sqrt{\bar\alpha_t}$ while the noise grows as $\sqrt{1-\bar\alpha_t}$; their squares add up to 1, so $x_t$ keeps its strength.
What a network can still see depends on the ratio alone, $\mathrm{SNR}_t = \bar\alpha_t/(1-\bar\alpha_t) = 1/\sigma_t^2$.
On the log-SNR axis all schedules lie on one curve: they differ only in how many steps they spend where.
"""

CHAIN_ABOUT = r"""
### Is the chain the same as the closed form?

Training jumps to $x_t$ at once; the process is defined by single steps $x_s = \sqrt{1-\beta_s}\,x_{s-1} + \sqrt{\beta_s}\,z_s$.
Run both with independent noise. If they draw from the same distribution, the noise of each has mean 0 and variance $1-\bar\alpha_t$,
and their difference has mean 0 and variance $2(1-\bar\alpha_t)$.
"""


# --- what the browser is sent --------------------------------------------------------------------------------

def pack_picture(picture: "Image.Image", seed: int) -> dict[str, Any]:
    """The picture and the noise of a seed: all the browser needs for x_t at any t. picture: RGB, as `working_copy` gives."""
    x0 = np.asarray(picture)
    eps = np.rint(draw_eps(x0.shape, seed) * EPS_SCALE).clip(-(2**15), 2**15 - 1).astype("<i2")
    packed = {"x0": to_base64(x0), "eps": to_base64(eps)}
    return {"id": fingerprint(packed), "width": picture.width, "height": picture.height, "eps_scale": EPS_SCALE, **packed}


def pack_schedules(chosen: list[NoiseOptions]) -> dict[str, Any]:
    """Every curve of every schedule as float32, and the timesteps kept where respacing leaves some out."""
    items = [
        {
            "name": options.schedule,
            "label": SCHEDULES[options.schedule].label,
            "kept": options.kept() if options.respacing.strip() else None,
            "curves": {name: to_base64(values.astype("<f4")) for name, values in curves(options.betas()).items()},
        }
        for options in chosen
    ]
    return {"id": fingerprint(items), "T": chosen[0].num_timesteps, "items": items}


def to_base64(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def fingerprint(value: Any) -> str:
    """Eight hex digits that change when the value does."""
    return f"{zlib.crc32(repr(value).encode()):08x}"


def view_of(names: list[str], axis: str) -> dict[str, Any]:
    """Which curves are drawn, in the menu's order, against what."""
    return {"curves": [name for name in CURVES if name in names], "axis": axis, "titles": CURVES}


# --- the chain as the browser shows it -----------------------------------------------------------------------

def show_progress(event: ChainProgress, started: float) -> dict[str, Any]:
    left_s = (time.perf_counter() - started) / event.index * (event.num_steps - event.index)
    return {
        "state": "running", "index": event.index, "num_steps": event.num_steps, "left_s": left_s, "chain": data_uri(event.picture),
        "words": f"step {event.index} of {event.num_steps}",
    }


def show_stopped(last: dict[str, Any] | None) -> dict[str, Any] | None:
    """The last progress, standing still; a finished result as it is."""
    if last is None or last["state"] != "running":
        return last
    return last | {"state": "stopped", "words": f"Stopped at step {last['index']} of {last['num_steps']}; the picture so far is kept."}


def show_finished(event: ChainFinished) -> dict[str, Any]:
    bins = event.histogram
    return {
        "state": "done", "index": event.num_steps, "num_steps": event.num_steps, "chain": data_uri(event.chain), "jump": data_uri(event.jump),
        "words": f"{SCHEDULES[event.options.schedule].label}, t = {event.options.t}", "verdict": event.verdict, "agrees": event.agrees,
        "histogram": {
            "centres": ((bins.edges[1:] + bins.edges[:-1]) / 2).tolist(),
            "chain": bins.chain.tolist(), "jump": bins.jump.tolist(), "theory": bins.theory.tolist(),
        },
        "moments": [show_moments(moments) for moments in event.moments],
    }


def show_moments(moments: Moments) -> dict[str, Any]:
    derived = ("mean_error", "variance_error", "mean_deviation", "variance_deviation")
    return dataclasses.asdict(moments) | {name: getattr(moments, name) for name in derived}


# --- what is kept --------------------------------------------------------------------------------------------

def entries_of(chosen: list[NoiseOptions]) -> list[Entry]:
    return [(SCHEDULES[options.schedule].label, options.betas(), options.kept()) for options in chosen]


def export(kind: str, chosen: list[NoiseOptions], names: list[str], axis: str, folder: Path) -> Path:
    """Write the curves as "png", "svg" or "csv" into the folder."""
    path = folder / f"noise-schedules.{kind}"
    if kind == "csv":
        path.write_text(schedule_csv(entries_of(chosen)), encoding="utf-8")
        return path
    return save_figure(plot_schedules(entries_of(chosen), view_of(names, axis)["curves"], axis), path)


# --- the tab -------------------------------------------------------------------------------------------------

def schedule_choices(names: list[str]) -> list[tuple[str, str]]:
    """Menu entries, in the menu's order."""
    return [(entry.label, name) for name, entry in SCHEDULES.items() if name in names]


def create_parameters() -> tuple[dict[str, gr.Column], dict[gr.Number, tuple[str, str]]]:
    """The number fields of every schedule: its group, and (schedule, parameter) of each field."""
    groups: dict[str, gr.Column] = {}
    fields: dict[gr.Number, tuple[str, str]] = {}
    for name, entry in SCHEDULES.items():
        with gr.Column(visible=name in FIRST_SCHEDULES, elem_classes="ds-parameters") as groups[name]:
            gr.Markdown(f"**{entry.label}**: {entry.about}", elem_classes="ds-about")
            with gr.Row():
                for key, default in schedule_options(name).items():
                    field = gr.Number(default, label=PARAMETER_LABELS[key], min_width=80, elem_id=f"schedules-{name}-{key}".replace("_", "-"))
                    fields[field] = (name, key)
    return groups, fields


@cache
def first_picture() -> "Image.Image":
    """What the tab opens with; not to be written into."""
    return working_copy(load_picture(FIRST_PICTURE))


@cache
def first_props() -> dict[str, Any]:
    """Everything the stage needs for its first drawing."""
    chosen = [NoiseOptions(schedule=name) for name in FIRST_SCHEDULES]
    return {"picture": pack_picture(first_picture(), 0), "schedules": pack_schedules(chosen), "view": view_of(FIRST_CURVES, "t"), "note": ""}


def checked_seed(seed: int | None) -> int:
    """The seed, once it is known to be one."""
    require_int("The seed", seed, 0, MAX_SEED)
    return int(seed or 0)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the picture, the schedules and their curves are made of."""

    example: gr.Radio
    another: gr.Button
    upload: gr.Image
    seed: gr.Number
    names: gr.CheckboxGroup
    num_timesteps: gr.Number
    zero_terminal_snr: gr.Checkbox
    respacing: gr.Textbox
    # The fields of each schedule's parameters, and the columns that hold them.
    parameters: dict[gr.Number, tuple[str, str]]
    groups: dict[str, gr.Column]
    curves: gr.Dropdown
    axis: gr.Radio
    # The picture that the stage shows, as it was read.
    picture: gr.State

    @property
    def settings(self) -> set[Any]:
        """What the schedules are made of."""
        return {self.names, self.num_timesteps, self.zero_terminal_snr, self.respacing, *self.parameters}


def create_tab(studio: Any = None) -> None:
    """The components, handlers and wiring of the tab. Schedules need no model, so nothing is asked of `studio`."""
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            form = create_form()
            create_files(form)
        with gr.Column(elem_classes="ds-stage-column"):
            stage = drawn_by(
                "noiser", '<div class="ds-stage ds-noiser"></div>', elem_id="schedules-stage", picture=None, schedules=None, note="", view=None,
            )
            gr.Markdown(ABOUT, latex_delimiters=LATEX, elem_classes="ds-about")
    wire_picture(form, stage)
    wire_schedules(form, stage)
    create_chain(form)


def create_form() -> Form:
    """The controls in the order in which they matter."""
    example = gr.Radio([(entry.label, name) for name, entry in PICTURES.items()], value=FIRST_PICTURE, label="Picture", elem_id="schedules-example")
    another = gr.Button("Another one", size="sm", visible=False, elem_id="schedules-another")
    upload = picture_input(label="Or your own", sources=["upload", "webcam", "clipboard"], height=150, elem_id="schedules-upload")
    names = gr.CheckboxGroup(schedule_choices(list(SCHEDULES)), value=FIRST_SCHEDULES, label="Schedules", elem_id="schedules-names")
    with gr.Row():
        num_timesteps = gr.Number(1000, label="T", precision=0, min_width=80, info="More: finer steps.", elem_id="schedules-timesteps")
        seed = gr.Number(0, label="Seed", precision=0, min_width=80, info="Another: other noise.", elem_id="schedules-seed")
    shown_curves = gr.Dropdown(
        [(label, name) for name, label in CURVES.items()], value=FIRST_CURVES, multiselect=True, label="Curves", elem_id="schedules-curves",
    )
    axis = gr.Radio([("timestep t", "t"), ("log-SNR", "log_snr")], value="t", label="Axis", elem_id="schedules-axis")
    zero_terminal_snr = gr.Checkbox(False, label="Zero terminal SNR", info="On: the last timestep is pure noise.", elem_id="schedules-zero-snr")
    respacing = gr.Textbox(
        label="Respacing", placeholder="ddim50  or  10,15,20", max_lines=1, elem_id="schedules-respacing",
        info="Which timesteps a shorter process keeps; they are marked on the curves. Empty: all.",
    )
    with gr.Accordion("More: parameters", open=False, elem_id="schedules-more"):
        groups, parameters = create_parameters()
    return Form(
        example=example, another=another, upload=upload, seed=seed, names=names, num_timesteps=num_timesteps, zero_terminal_snr=zero_terminal_snr,
        respacing=respacing, parameters=parameters, groups=groups, curves=shown_curves, axis=axis, picture=gr.State(None),
    )


def chosen_from(form: Form, values: Mapping[Any, Any]) -> list[NoiseOptions]:
    """One NoiseOptions for each chosen schedule, in the menu's order."""
    if not values[form.names]:
        raise InvalidOption("No schedule is chosen: take at least one under Schedules.")
    given = [(owner, key, values[field]) for field, (owner, key) in form.parameters.items() if values[field] is not None]
    common = {"num_timesteps": values[form.num_timesteps], "zero_terminal_snr": values[form.zero_terminal_snr], "respacing": values[form.respacing] or ""}
    return [
        NoiseOptions(schedule=name, parameters={key: value for owner, key, value in given if owner == name}, **common)
        for name in SCHEDULES if name in values[form.names]
    ]


# --- its wiring ----------------------------------------------------------------------------------------------

def wire_picture(form: Form, stage: gr.HTML) -> None:
    """What changes the picture and its noise."""
    def on_open() -> dict[Any, Any]:
        # All props in one update: Gradio keeps only the last one for a part that is not drawn yet, as in a tab behind.
        return {form.picture: first_picture(), stage: gr.HTML(**first_props())}

    def show_picture(image: "Image.Image", noise_seed: int | None) -> dict[Any, Any]:
        return {form.picture: image, stage: gr.HTML(picture=pack_picture(image, checked_seed(noise_seed)), note="")}

    def on_example(name: str, noise_seed: int | None) -> dict[Any, Any]:
        with said_in_a_sentence():
            shown = show_picture(working_copy(load_picture(name)), noise_seed)
            return {**shown, form.upload: None, form.another: gr.update(visible=PICTURES[name].varies)}

    def on_another(name: str, noise_seed: int | None) -> dict[Any, Any]:
        variant = int(np.random.default_rng().integers(2**31))
        with said_in_a_sentence():
            return show_picture(working_copy(load_picture(name, variant)), noise_seed)

    def on_upload(path: str | None, noise_seed: int | None) -> dict[Any, Any]:
        # `upload` always gets a value: an output left out makes Gradio build the component anew, without picture_input's reading.
        if path is None:
            return {form.upload: None}
        with said_in_a_sentence():
            image = working_copy(open_picture(path))
            return {**show_picture(image, noise_seed), form.upload: image, form.example: None, form.another: gr.update(visible=False)}

    def on_seed(noise_seed: int | None, image: "Image.Image | None") -> dict[Any, Any]:
        try:
            return {stage: gr.HTML(picture=pack_picture(image or first_picture(), checked_seed(noise_seed)), note="")}
        except StudioError as error:
            return {stage: gr.HTML(note=str(error))}

    shown, example, upload, seed = [form.picture, stage], form.example, form.upload, form.seed
    when_first_shown(on_open, None, shown, **LATEST)
    example.input(on_example, [example, seed], [*shown, upload, form.another], **FALLIBLE)
    form.another.click(on_another, [example, seed], shown, **FALLIBLE)
    # Not `input`, which comes when the field is emptied as well: a paste empties it first, and the answer to that took the picture away again.
    read = upload.upload(on_upload, [upload, seed], [*shown, upload, example, form.another], **FALLIBLE)
    read.failure(lambda: None, None, upload, **LATEST)
    seed.change(on_seed, [seed, form.picture], stage, **LATEST)


def wire_schedules(form: Form, stage: gr.HTML) -> None:
    """What changes the curves."""
    def on_settings(values: dict[Any, Any]) -> dict[Any, Any]:
        try:
            return {stage: gr.HTML(schedules=pack_schedules(chosen_from(form, values)), note="")}
        except StudioError as error:
            # Said on the stage, not as a passing message: it stands there until the control makes sense again.
            return {stage: gr.HTML(note=str(error))}

    def on_names(chosen: list[str]) -> dict[Any, Any]:
        return {group: gr.update(visible=name in chosen) for name, group in form.groups.items()}

    def on_view(chosen_curves: list[str], chosen_axis: str) -> dict[Any, Any]:
        return {stage: gr.HTML(view=view_of(chosen_curves, chosen_axis))}

    gr.on([control.change for control in form.settings], on_settings, form.settings, stage, **LATEST)
    form.names.change(on_names, form.names, list(form.groups.values()), **LATEST)
    gr.on([form.curves.change, form.axis.change], on_view, [form.curves, form.axis], stage, **LATEST)


def create_files(form: Form) -> None:
    """The curves as files."""
    with gr.Accordion("Keep it", open=False, elem_id="schedules-keep"), gr.Row(elem_classes="ds-keep"):
        keep_buttons = {kind: gr.Button(kind.upper(), size="sm", min_width=60, elem_id=f"schedules-keep-{kind}") for kind in ("png", "svg", "csv")}
        download = gr.DownloadButton(visible="hidden", elem_id="schedules-download")

    def on_keep(kind: str) -> Callable[[dict[Any, Any]], Iterator[dict[Any, Any]]]:
        def keep(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
            with said_in_a_sentence(), passing_folder() as folder:
                # Gradio copies the file before it goes on.
                yield {download: str(export(kind, chosen_from(form, values), values[form.curves], values[form.axis], folder))}
        return keep

    for kind, button in keep_buttons.items():
        written = button.click(on_keep(kind), form.settings | {form.curves, form.axis}, download, **PRIVATE)
        written.success(None, None, None, js=DOWNLOAD, **PRIVATE)


# --- the chain -----------------------------------------------------------------------------------------------

def create_chain(form: Form) -> None:
    """The chain of single steps beside the jump: its own controls, handlers and wiring."""
    with gr.Column(elem_classes="ds-section"):
        gr.Markdown(CHAIN_ABOUT, latex_delimiters=LATEX, elem_classes="ds-about")
        with gr.Row(elem_classes="ds-chain-controls"):
            name = gr.Dropdown(schedule_choices(FIRST_SCHEDULES), value=FIRST_SCHEDULES[0], label="Schedule", elem_id="schedules-chain-name")
            t = gr.Slider(0, 999, FIRST_T, step=1, label="Timestep t", min_width=200, scale=2, elem_id="schedules-chain-t")
            run = gr.Button("Run", variant="primary", min_width=90, scale=0, elem_id="schedules-run")
            stop = gr.Button("Stop", interactive=False, min_width=70, scale=0, elem_id="schedules-stop")
        chain, last_result = drawn_by("chain", '<div class="ds-stage ds-chain"></div>', elem_id="schedules-chain", result=None), gr.State(None)

    def on_names(chosen: list[str], current: str) -> Any:
        menu = schedule_choices(chosen)
        return gr.update(choices=menu, value=current if current in chosen else menu[0][1]) if menu else gr.skip()

    def on_num_timesteps(count: int | None, current: int) -> Any:
        return gr.update(maximum=count - 1, value=min(current, count - 1)) if count and count >= 2 else gr.skip()

    def on_run(values: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            by_schedule = {options.schedule: options for options in chosen_from(form, values)}
            if values[name] not in by_schedule:
                raise InvalidOption(f"The chain can run along one of the chosen schedules: {', '.join(by_schedule)}; choose one of them for it.")
            options = dataclasses.replace(by_schedule[values[name]], t=values[t], seed=checked_seed(values[form.seed]))
        image = values[form.picture] or first_picture()
        started, run_id, began = time.perf_counter(), uuid4().hex, False
        for event in compare_chain(image, options):
            result = {"run": run_id, **(show_progress(event, started) if isinstance(event, ChainProgress) else show_finished(event))}
            running = result["state"] == "running"
            # The buttons change once at each end: a progress that reaches the page after Stop must not turn them back.
            yield {chain: gr.HTML(result=result), last_result: result, **({} if running and began else pressable(running=running))}
            began = True

    def on_stop(last: dict[str, Any] | None) -> dict[Any, Any]:
        return {chain: gr.HTML(result=show_stopped(last)), **pressable(running=False)}

    def pressable(*, running: bool) -> dict[Any, Any]:
        """The one of the two buttons that can act now."""
        return {run: gr.update(interactive=not running), stop: gr.update(interactive=running)}

    form.names.change(on_names, [form.names, name], name, **LATEST)
    form.num_timesteps.change(on_num_timesteps, [form.num_timesteps, t], t, **LATEST)
    running = run.click(on_run, form.settings | {name, t, form.seed, form.picture}, [chain, last_result, run, stop], **PRIVATE)
    running.failure(lambda: pressable(running=False), None, [run, stop], **CHEAP)
    stop.click(on_stop, last_result, [chain, run, stop], cancels=running, **LATEST)
