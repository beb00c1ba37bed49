"""The Text to image tab: a prompt becomes a picture, with what the model reads, believes and looks at on the way."""

import json
import random
from collections.abc import Callable, Generator, Iterator
from functools import cache
from html import escape
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import InvalidOption, StudioError
from studio.media.uploads import open_picture
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS
from studio.sampling.events import Finished
from studio.sampling.export import read_options
from studio.scratch import passing_folder
from tabs.anatomy import create_area as create_anatomy
from tabs.compare import create_grid, create_pair
from tabs.denoise import SEED_END, eta_update, run_shown, stop_update
from tabs.parts.filmstrip import decoded, film
from tabs.parts.keeping import DOWNLOAD, FILMS, KEEPERS, STREAMS
from tabs.parts.session import Session
from tabs.parts.stage import create_stage, keep_fresh, picture_input, said_in_a_sentence, to_stage, unchecked
from tabs.parts.words import create_words, words_of

if TYPE_CHECKING:
    from threading import Event

    from studio.models.prompts import Tokens
    from studio.sampling.trajectory import Trajectory

__all__ = ["create_tab"]

FIRST_PROMPT = "a purple butterfly on a yellow background"
EXAMPLES = (FIRST_PROMPT, "a large red heart on a white background", "a small green boat on the left on a blue background", "an orange cat")
OPENING = Path(__file__).parents[1] / "assets" / "runs" / "text.json"
OWN_SIGMAS = ("the scheduler's own", "")


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: Any) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: gives models, describe, load, residents, sample, noise_curve, tokens, text_embedding, decode and load_run, as studio.Studio does.
    """
    menu = latent_models(studio)
    first = next((name for name, entry in menu.items() if entry.embedded), None)

    session = gr.State(Session(studio.kept, "text"), delete_callback=Session.stop)
    with gr.Row(elem_classes="ds-model-row"):
        model = gr.Dropdown(
            menu_choices(menu), value=first, label="Model" if studio.public else "Model, or any folder, file or Hub id",
            allow_custom_value=not studio.public, elem_id="t2i-model", scale=0, min_width=288,
        )
        resident = gr.HTML(
            model_line(studio, menu.get(first or "")), elem_id="t2i-resident", elem_classes="ds-status", padding=False, apply_default_css=False,
            js_on_load=None,
        )
    with gr.Tabs(elem_classes="ds-areas"):
        with gr.Tab("Picture"), gr.Row(elem_classes="ds-layout ds-prompt-first"):
            with gr.Column(elem_classes="ds-controls"):
                prompt = gr.Textbox(
                    FIRST_PROMPT, label="Prompt", lines=2, max_lines=6, placeholder="What the picture is to show", elem_id="t2i-prompt",
                )
                with gr.Row(elem_classes="ds-press"):
                    run = gr.Button("Generate", variant="primary", elem_id="t2i-run", min_width=80, scale=2)
                    stop = gr.Button("Stop", interactive=False, elem_id="t2i-stop", min_width=60, scale=1)
                status = gr.HTML(elem_id="t2i-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
                examples = gr.Dataset(
                    components=[prompt], samples=[[text] for text in EXAMPLES], label="Or take one of these", type="values", layout="gallery",
                    elem_id="t2i-examples",
                )
                negative_prompt = gr.Textbox(
                    "", label="Negative prompt", max_lines=3, placeholder="What it is not to show", elem_id="t2i-negative",
                )
                guidance_scale = gr.Slider(
                    1, 15, default_guidance(menu.get(first or "")), step=0.5, label="Guidance scale", elem_id="t2i-guidance",
                    info="Higher: closer to the prompt, with less variety. 1 is off.",
                )
                num_steps = gr.Number(
                    default_steps(menu.get(first or "")), label="Steps", precision=0, info="More: slower, with finer steps.", elem_id="t2i-steps",
                )
                scheduler = gr.Dropdown(
                    [(s.label, name) for name, s in SCHEDULERS.items()], value="ddim", label="Scheduler", info=SCHEDULERS["ddim"].about,
                    elem_id="t2i-scheduler",
                )
                with gr.Row(elem_classes="ds-seed"):
                    seed = gr.Number(0, label="Seed", precision=0, info="Another number: other noise to start.", elem_id="t2i-seed", min_width=120, scale=4)
                    dice = gr.Button("New seed", elem_id="t2i-dice", size="sm", min_width=72, scale=1)
                num_images = gr.Number(1, label="Images", precision=0, info="More: several seeds side by side, and slower.", elem_id="t2i-images")
                with gr.Accordion("More", open=False, elem_id="t2i-more"):
                    with gr.Row():
                        guidance_start = gr.Number(0, label="Guide from", info="Share of the steps.", step=0.05, min_width=110, elem_id="t2i-guide-from")
                        guidance_end = gr.Number(1, label="to", info="1 is the last one.", step=0.05, min_width=110, elem_id="t2i-guide-to")
                    guidance_rescale = gr.Slider(
                        0, 1, 0, step=0.05, label="Guidance rescale", elem_id="t2i-rescale", info="Higher: tames the glaring contrast of strong guidance.",
                    )
                    clip_guidance_scale = gr.Slider(
                        0, 1000, 0, step=10, label="CLIP guidance scale", elem_id="t2i-clip",
                        info="Higher: CLIP's own idea of the prompt pulls harder. Slow: the decoder and CLIP run at every step. 0 is off.",
                    )
                    sigmas = gr.Dropdown(
                        sigma_choices("ddim"), value="", label="Noise levels", visible=False, info="How the steps are spaced.", elem_id="t2i-sigmas",
                    )
                    eta = gr.Slider(0, 1, 0, step=0.05, label="eta", info="Higher: more fresh noise at every step.", elem_id="t2i-eta")
                    with gr.Row():
                        width = gr.Number(0, label="Width", precision=0, info="Pixels; 0 is its own.", min_width=100, elem_id="t2i-width")
                        height = gr.Number(0, label="Height", precision=0, info="Pixels; 0 is its own.", min_width=100, elem_id="t2i-height")
                    init_image = picture_input(label="Start from a picture", sources=["upload", "webcam", "clipboard"], height=190, elem_id="t2i-init")
                    strength = gr.Slider(
                        0, 1, 0.6, step=0.05, label="Strength", info="Higher: less of that picture is left. 1 is pure noise.", elem_id="t2i-strength",
                    )
                    record_attention = gr.Checkbox(
                        True, label="Record word attention", elem_id="t2i-attention",
                        info="On: see where in the picture each word was looked at. Costs a little time.",
                    )
                with gr.Accordion("Keep it", open=False, elem_id="t2i-keep"):
                    stream = gr.Radio(STREAMS, value="both", label="Stream", info="What the film and the contact sheet show.")
                    with gr.Row(elem_classes="ds-keep"):
                        keep_buttons = {kind: gr.Button(label, size="sm", min_width=72, elem_id=f"t2i-keep-{kind}") for kind, (label, _) in KEEPERS.items()}
                    kept = gr.File(label="Kept", interactive=False, visible=False, height=60, elem_id="t2i-kept")
                with gr.Column(elem_id="t2i-open"):
                    opened = gr.UploadButton("Open a run or a saved picture", size="sm", file_types=[".safetensors", ".png", ".gif"])
            with gr.Column(elem_classes="ds-stage-column"):
                stage = create_stage("t2i-stage", drop_to="#t2i-open", invitation="Say what the picture is to show, and press Generate.")
                words = create_words("t2i-words")
                pictures = gr.Gallery(label="Pictures", visible=False, format="png")
        with gr.Tab("Compare"):
            compared = create_pair(studio, model, prompt)
        with gr.Tab("Grid"):
            gridded = create_grid(studio, model, prompt, guidance_scale, num_steps, scheduler)
        with gr.Tab("Anatomy"):
            looked = create_anatomy(studio, model, prompt)

    for control in (model, scheduler, sigmas, eta, strength, guidance_scale, guidance_rescale, clip_guidance_scale):
        unchecked(control)
    controls: dict[str, Any] = {
        "model": model, "prompt": prompt, "negative_prompt": negative_prompt, "guidance_scale": guidance_scale, "num_steps": num_steps,
        "scheduler": scheduler, "seed": seed, "num_images": num_images, "guidance_start": guidance_start, "guidance_end": guidance_end,
        "guidance_rescale": guidance_rescale, "clip_guidance_scale": clip_guidance_scale, "sigmas": sigmas, "eta": eta, "width": width,
        "height": height, "strength": strength, "record_attention": record_attention,
    }
    results = {"stage": stage, "status": status, "pictures": pictures, "stop": stop, "session": session, "resident": resident, "words": words}

    def on_open_page() -> dict[Any, Any]:
        recorded = opening()
        shown = {stage: recorded["stage"], words: recorded["words"]} if recorded else {stage: gr.skip(), words: gr.skip()}
        # Trainings that have ended since the page was made bring models of their own.
        return {**shown, model: gr.update(choices=menu_choices(latent_models(studio)))}

    def on_model(name: str) -> dict[Any, Any]:
        entry = latent_models(studio).get(name)
        return {resident: model_line(studio, entry, name), num_steps: default_steps(entry), guidance_scale: default_guidance(entry)}

    def on_words(name: str, text: str) -> str:
        return words_of(studio, name, text)

    def on_scheduler(name: str) -> dict[Any, Any]:
        return {scheduler: gr.update(info=SCHEDULERS[name].about), eta: eta_update(name, 0), sigmas: sigmas_update(name, "")}

    def on_ask(session: Session) -> dict[Any, Any]:
        session.ask()
        return {stop: gr.update(interactive=True), status: "Waiting for the device."}

    def on_run(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        switch = values[session].of(request).begin()
        try:
            options = options_from(init_image=values[init_image], **{name: values[control] for name, control in controls.items()})
            for change in generated(studio, options, switch, values[session]):
                yield {results[name]: value for name, value in change.items()}
        except Exception as error:
            # Gradio drops what is chained to a run that raises, so the page is put in order before.
            sentence = str(error) if isinstance(error, StudioError) else "The run failed; the log of the studio says why."
            memory = model_line(studio, latent_models(studio).get(values[model]), values[model])
            failed = to_stage({"kind": "note", "title": "The run failed"})
            yield {status: sentence, stop: stop_update(values[session]), stage: failed, resident: memory}
            with said_in_a_sentence():
                raise
        finally:
            values[session].running.remove(switch)

    def on_stop(session: Session) -> dict[Any, Any]:
        return {status: "Stopping after this step." if session.stop() else "Nothing is running."}

    def on_open_step(session: Session, asked: gr.EventData) -> Any:
        return gr.HTML(decoded=decoded_step(studio, session, **asked._data))

    def on_file(path: str, session: Session, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            if Path(path).suffix.lower() != ".safetensors":
                return restored(read_options(path), "The options of this picture are set; press Generate to make it again.")
            trajectory = session.of(request).open(studio, path)
            tokens = tokens_of(studio, trajectory.options, even_unloaded=False)
            text = to_stage(film(trajectory, run=session.run, title=f"Run file {Path(path).name}", autoplay=True, tokens=tokens))
            return {stage: text, **restored(trajectory.options, f"Opened a run of {len(trajectory.steps)} steps.")}

    def restored(options: SampleOptions, sentence: str) -> dict[Any, Any]:
        values: dict[Any, Any] = {control: getattr(options, name) for name, control in controls.items()}
        values[scheduler] = gr.update(value=options.scheduler, info=SCHEDULERS[options.scheduler].about)
        values[eta], values[sigmas] = eta_update(options.scheduler, options.eta), sigmas_update(options.scheduler, options.sigmas)
        if options.model not in latent_models(studio) and (studio.public or options.model in studio.models):
            del values[model]
            return {**values, status: f"{sentence} Its model, {options.model}, is none of these, so the chosen one stays."}
        return {**values, status: sentence}

    def on_keep(kind: str) -> Callable[[str, Session], Iterator[dict[Any, Any]]]:
        def keep(stream: str, session: Session) -> Iterator[dict[Any, Any]]:
            with said_in_a_sentence(), passing_folder() as folder:
                whole = session.required("There is no picture of yours to keep yet: press Generate first.")
                if kind in FILMS:
                    whole = yield from told(studio.decoded(whole, stream), status)
                path = KEEPERS[kind][1](whole, stream, folder)
                # Gradio copies the file before it goes on.
                yield {kept: gr.update(value=str(path), visible=True), status: f"{KEEPERS[kind][0]} is ready: {path.name}."}
        return keep

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # Gradio shows an error only of what went through its queue, so what may refuse is queued.
    cheap: dict[str, Any] = {**private, "queue": False}
    files: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2}
    reading: dict[str, Any] = {**private, "concurrency_id": "words", "concurrency_limit": 1, "trigger_mode": "always_last"}
    device: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}

    gr.on(None, on_open_page, None, [stage, words, model], **cheap)
    keep_fresh(model, studio, "latent")
    model.input(on_model, model, [resident, num_steps, guidance_scale], **cheap)
    # Also when the prompt is about to be changed: the model is loaded by the time that it is written.
    gr.on([prompt.focus, prompt.change, model.change], on_words, [model, prompt], words, **reading)
    examples.click(lambda sample: sample[0], examples, prompt, **cheap)
    scheduler.input(on_scheduler, scheduler, [scheduler, eta, sigmas], **cheap)
    dice.click(lambda: random.randrange(SEED_END), None, seed, **cheap)
    asked = gr.on([run.click, prompt.submit], on_ask, session, [stop, status], trigger_mode="multiple", **cheap)
    asked.then(
        on_run, {*controls.values(), session, init_image}, list(results.values()), trigger_mode="multiple", show_progress="minimal",
        show_progress_on=status, api_visibility="private", **device,
    )
    for other in (compared, gridded, looked):
        other.success(lambda name: model_line(studio, latent_models(studio).get(name), name), model, resident, **cheap)
    stop.click(on_stop, session, status, **cheap)
    stage.select(on_open_step, session, stage, **private, **device)
    opened.upload(on_file, [opened, session], [stage, status, *controls.values()], **private, **files)
    for kind, button in keep_buttons.items():
        # Films are of decoded pictures, which is the device's work.
        written = button.click(on_keep(kind), [stream, session], [kept, status], **private, **(device if kind in FILMS else files))
        written.success(None, kept, None, js=DOWNLOAD, **cheap)


def told(decoding: Generator[tuple[int, int], None, "Trajectory"], status: Any) -> Generator[dict[Any, Any], None, "Trajectory"]:
    """Say how far the decoding of a run is; gives the decoded run."""
    while True:
        try:
            done, total = next(decoding)
        except StopIteration as end:
            return end.value
        if done % 5 == 0:
            yield {status: f"Decoding step {done + 1} of {total} for the film."}


# --- the recorded run that the tab opens with -----------------------------------------------------------------

def record(studio: Any, options: SampleOptions) -> dict[str, str]:
    """A whole run as the page shows it before any model is loaded: {"stage": JSON text, "words": JSON text}."""
    for event in studio.sample(options):
        if isinstance(event, Finished):
            tokens = studio.tokens(options.model, options.prompt) if options.record_attention else None
            shown = film(event.trajectory, run="opening", title=f"A recorded run: {options.prompt}", autoplay=True, tokens=tokens)
            # No run of a visitor's, so there is nothing to decode later.
            return {"stage": to_stage({**shown, "decodes": []}), "words": words_of(studio, options.model, options.prompt)}
    raise InvalidOption("The run ended before it was finished; record it again.")


@cache
def opening() -> dict[str, str] | None:
    return json.loads(OPENING.read_text("utf-8")) if OPENING.is_file() else None


# --- what the controls say -----------------------------------------------------------------------------------

def latent_models(studio: Any) -> dict[str, Any]:
    return {name: entry for name, entry in studio.models.items() if entry.kind == "latent"}


def menu_choices(menu: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry.label, name) for name, entry in menu.items()]


def model_line(studio: Any, entry: Any, name: str | None = None) -> str:
    """What the chosen model is, and what is in memory at what cost."""
    return f"{escape(about_of(entry, name))}<br>{escape(resident_line(studio))}"


def about_of(entry: Any, name: str | None) -> str:
    if entry is not None:
        size = "" if entry.embedded else f" {entry.size_mib / 1024:.1f} GiB to fetch, {entry.memory_gib:.1f} GiB of memory, licence {entry.licence}."
        return entry.about + size
    if name:
        return f"{name}: loaded when you press Generate."
    return "No text-to-image model is embedded here yet: choose one, or type a folder, a .safetensors file or a Hub id."


def default_steps(entry: Any) -> int:
    return entry.default_steps if entry else 25


def default_guidance(entry: Any) -> float:
    return entry.default_guidance if entry else 7.5


def sigma_choices(scheduler: str) -> list[tuple[str, str]]:
    return [OWN_SIGMAS, *((name, name) for name in SCHEDULERS[scheduler].sigmas)]


def sigmas_update(scheduler: str, value: str) -> dict[str, Any]:
    return gr.update(choices=sigma_choices(scheduler), value=value, visible=bool(SCHEDULERS[scheduler].sigmas))


def resident_line(studio: Any) -> str:
    """What is in memory and what it costs."""
    residents = studio.residents()
    if not residents:
        return "No model is in memory."
    held = ", ".join(f"{Path(one.name).name} {one.memory_gib:.2f} GiB{' (lent part by part)' if one.offloaded else ''}" for one in residents)
    return f"In memory: {held}; room for {studio.memory_gib():.1f} GiB."


def options_from(*, model: str | None, init_image: str | None, strength: float, width: int | None, height: int | None, **values: Any) -> SampleOptions:
    """The one SampleOptions that the tab builds. Strength counts only where there is a picture to start from."""
    if not model:
        raise InvalidOption("Choose a model first: type a folder, a .safetensors file or a Hub id.")
    start = {"init_image": open_picture(init_image), "strength": strength} if init_image else {}
    return SampleOptions(model=model.strip(), width=width or None, height=height or None, **start, **values)


# --- a run, as the page sees it ------------------------------------------------------------------------------

def generated(studio: Any, options: SampleOptions, switch: "Event", session: Session) -> Iterator[dict[str, Any]]:
    """Changes of the page by the names of its parts: the download, then the run, then what it says of words and memory."""
    if options.model not in [one.name for one in studio.residents()]:
        yield {"status": "Loading the model, which takes a few seconds the first time."}
    yield from fetched(studio, options.model, switch)
    yield from run_shown(studio, options, switch, session, tokens=lambda: tokens_of(studio, options))
    yield {"resident": model_line(studio, studio.models.get(options.model), options.model), "words": words_of(studio, options.model, options.prompt)}


def fetched(studio: Any, model: str, switch: "Event") -> Iterator[dict[str, Any]]:
    """The download of a model that is not here yet, in megabytes and time left."""
    since = monotonic()
    for progress in studio.load(model) if not switch.is_set() else ():
        if switch.is_set():
            return
        yield {"status": download_line(progress, monotonic() - since)}


def download_line(progress: Any, took_s: float) -> str:
    done, total = progress.done_bytes / 1e6, progress.total_bytes / 1e6
    if not total:
        return f"Fetching {progress.name}."
    left = f", about {took_s * (total - done) / done:.0f} s left" if 0 < done < total and took_s > 2 else ""
    return f"Fetching {progress.name}: {done:.0f} of {total:.0f} MB{left}."


def tokens_of(studio: Any, options: SampleOptions, even_unloaded: bool = True) -> "Tokens | None":
    """The tokens of a run's prompt, where its attention was recorded and its model is at hand."""
    if not options.record_attention or not (even_unloaded or at_hand(studio, options.model)):
        return None
    try:
        return studio.tokens(options.model, options.prompt)
    except StudioError:
        return None


def at_hand(studio: Any, model: str) -> bool:
    """Whether the model can be asked without a download or a long load."""
    return model in [one.name for one in studio.residents()] or (model in studio.models and studio.models[model].embedded)


def decoded_step(studio: Any, session: Session, *, run: str, stream: str, index: int) -> str:
    """One step by the real decoder, as the stage takes it; a refusal is a sentence there."""
    answer: dict[str, Any] = {"run": run, "stream": stream, "index": index}
    if run != session.run:
        return to_stage({**answer, "error": "Only the run that was made or opened last can be decoded; press Generate to make it again."})
    try:
        return to_stage({**answer, **decoded(stream, index, studio.decode(session.required("There is no run yet."), stream, index))})
    except (StudioError, KeyError, IndexError) as error:
        return to_stage({**answer, "error": f"This step cannot be decoded: {error}"})
