"""The Denoising tab: a model turns noise into a picture, x_t and x0_hat at every step."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr

from studio.errors import StudioError
from studio.media.uploads import open_picture
from studio.options import SampleOptions
from studio.process.schedulers import SCHEDULERS
from studio.sampling.events import Finished
from studio.sampling.export import read_options
from studio.sampling.live import freshest
from studio.scratch import passing_folder
from tabs.parts.filmstrip import curve_of, film, live_frame
from tabs.parts.keeping import DOWNLOAD, KEEPERS, STREAMS, save_pictures
from tabs.parts.session import Session
from tabs.parts.stage import create_stage, keep_fresh, models_of, picture_input, said_in_a_sentence, to_stage, unchecked

if TYPE_CHECKING:
    from studio.models.prompts import Tokens
    from studio.sampling.trajectory import Trajectory

__all__ = ["create_tab"]

ANY_CLASS = ""
SEED_END = 2**31


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: Any) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: gives models, describe, sample, noise_curve, opening_run and load_run, as studio.Studio does.
    """
    menu = models_of(studio, "pixel")
    first, entry = next(iter(menu.items()))

    session = gr.State(Session(studio.kept, "denoise"), delete_callback=Session.stop)
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            model = gr.Dropdown(
                [(m.label, name) for name, m in menu.items()], value=first, label="Model", info=entry.about, allow_custom_value=not studio.public,
                elem_id="denoise-model",
            )
            class_label = gr.Dropdown(
                class_choices(entry), value=ANY_CLASS, label="Class", info="What the picture is to show; any leaves it to the model.",
                visible=bool(entry.class_names), elem_id="denoise-class",
            )
            with gr.Row(elem_classes="ds-press"):
                run = gr.Button("Run", variant="primary", elem_id="denoise-run", min_width=80, scale=2)
                stop = gr.Button("Stop", interactive=False, elem_id="denoise-stop", min_width=60, scale=1)
            status = gr.HTML(elem_id="denoise-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
            scheduler = gr.Dropdown(
                [(s.label, name) for name, s in SCHEDULERS.items()], value="ddim", label="Scheduler", info=SCHEDULERS["ddim"].about,
                elem_id="denoise-scheduler",
            )
            num_steps = gr.Number(entry.default_steps, label="Steps", precision=0, info="More: slower, and closer to the exact path.", elem_id="denoise-steps")
            eta = gr.Slider(0, 1, 0, step=0.05, label="eta", info="Higher: more fresh noise at every step. 0 draws none, 1 is DDPM.", elem_id="denoise-eta")
            with gr.Row(elem_classes="ds-seed"):
                seed = gr.Number(0, label="Seed", precision=0, info="Another number: other noise to start.", elem_id="denoise-seed", min_width=120, scale=4)
                dice = gr.Button("New seed", elem_id="denoise-dice", size="sm", min_width=72, scale=1)
            num_images = gr.Number(4, label="Images", precision=0, info="More: several seeds side by side, and slower.", elem_id="denoise-images")
            with gr.Accordion("More", open=False, elem_id="denoise-more"):
                timesteps = gr.Textbox(
                    value="", label="Respacing", placeholder="ddim50 or 10,15,20", max_lines=1, elem_id="denoise-respacing",
                    info="In place of Steps: how many to take of each part, least noise first. A larger count walks through its part more slowly.",
                )
                clip_x0 = gr.Checkbox(True, label="Clip x0_hat", info="On: the belief never leaves the range of a picture.", elem_id="denoise-clip")
                init_image = picture_input(label="Start from a picture", sources=["upload", "webcam", "clipboard"], height=190, elem_id="denoise-init")
                strength = gr.Slider(
                    0, 1, 0.6, step=0.05, label="Noise it up to", info="Higher: less of that picture is left to start from. 1 is pure noise.",
                    elem_id="denoise-strength",
                )
            with gr.Accordion("Keep it", open=False, elem_id="denoise-keep"):
                stream = gr.Radio(STREAMS, value="both", label="Stream", info="What the film and the contact sheet show.")
                with gr.Row(elem_classes="ds-keep"):
                    keep_buttons = {kind: gr.Button(label, size="sm", min_width=72, elem_id=f"denoise-keep-{kind}") for kind, (label, _) in KEEPERS.items()}
                kept = gr.File(label="Kept", interactive=False, visible=False, height=60, elem_id="denoise-kept")
            with gr.Column(elem_id="denoise-open"):
                opened = gr.UploadButton("Open a run or a saved picture", size="sm", file_types=[".safetensors", ".png", ".gif"])
        with gr.Column(elem_classes="ds-stage-column"):
            stage = create_stage("denoise-stage", drop_to="#denoise-open")
            pictures = gr.Gallery(label="Pictures", visible=False, format="png")

    for control in (model, class_label, scheduler, eta, strength):
        unchecked(control)
    controls = {
        "model": model, "class_label": class_label, "num_steps": num_steps, "timesteps": timesteps, "scheduler": scheduler, "eta": eta,
        "clip_x0": clip_x0, "seed": seed, "num_images": num_images, "strength": strength,
    }
    with gr.Group(visible=False):
        # For clients of /sample: the page has the tab "Text to image" for these.
        further = [
            gr.Textbox("", label="prompt"), gr.Textbox("", label="negative_prompt"), gr.Number(1, label="guidance_scale"),
            gr.Number(0, label="guidance_start"), gr.Number(1, label="guidance_end"), gr.Number(0, label="guidance_rescale"),
            gr.Number(0, label="clip_guidance_scale"), gr.Textbox("", label="sigmas"), gr.Number(0, label="width", precision=0),
            gr.Number(0, label="height", precision=0), gr.Checkbox(False, label="record_attention"),
        ]
    results = {"stage": stage, "status": status, "pictures": pictures, "stop": stop, "session": session}

    def on_open_page() -> str | None:
        trajectory = studio.opening_run()
        return trajectory and to_stage(film(trajectory, run="opening", title="A recorded run", autoplay=True))

    def on_model(name: str) -> dict[Any, Any]:
        with said_in_a_sentence():
            chosen = studio.describe(name)
        return {model: gr.update(info=chosen.about), num_steps: chosen.default_steps, class_label: class_update(chosen, ANY_CLASS)}

    def on_scheduler(name: str) -> dict[Any, Any]:
        return {scheduler: gr.update(info=SCHEDULERS[name].about), eta: eta_update(name, 0), timesteps: timesteps_update(name, "")}

    def on_ask(session: Session) -> dict[Any, Any]:
        session.ask()
        return {stop: gr.update(interactive=True), status: "Waiting for the device."}

    def on_run(
        model: str, class_label: str, num_steps: int, timesteps: str, scheduler: str, eta: float, clip_x0: bool, seed: int, num_images: int,
        strength: float, session: Session, init_image: str | None = None, prompt: str = "", negative_prompt: str = "", guidance_scale: float = 1.0,
        guidance_start: float = 0.0, guidance_end: float = 1.0, guidance_rescale: float = 0.0, clip_guidance_scale: float = 0.0, sigmas: str = "",
        width: int = 0, height: int = 0, record_attention: bool = False, request: gr.Request | None = None,
    ) -> Iterator[dict[Any, Any]]:
        """Sample pictures, from a class or from a prompt; a width or height of 0 is the model's own.

        Gives the stage's film (JSON text), a sentence on how it went, and the pictures as PNG files.
        """
        switch = session.of(request).begin()
        try:
            with_text = {
                "prompt": prompt, "negative_prompt": negative_prompt, "guidance_scale": guidance_scale, "guidance_start": guidance_start,
                "guidance_end": guidance_end, "guidance_rescale": guidance_rescale, "clip_guidance_scale": clip_guidance_scale, "sigmas": sigmas,
                "width": width or None, "height": height or None, "record_attention": record_attention,
            }
            options = options_from(
                model=model, class_label=class_label, num_steps=num_steps, timesteps=timesteps, scheduler=scheduler, eta=eta,
                # Clipping is for pictures: latents have no bounds of their own.
                clip_x0=clip_x0 if studio.describe(model).kind == "pixel" else None,
                seed=seed, num_images=num_images, strength=strength, init_image=init_image, **with_text,
            )
            for change in run_shown(studio, options, switch, session):
                yield {results[name]: value for name, value in change.items()}
        except Exception as error:
            # Gradio drops what is chained to a run that raises, so the page is put in order before.
            sentence = str(error) if isinstance(error, StudioError) else "The run failed; the log of the studio says why."
            yield {status: sentence, stop: stop_update(session), stage: to_stage({"kind": "note", "title": "The run failed"})}
            with said_in_a_sentence():
                raise
        finally:
            session.running.remove(switch)

    def on_stop(session: Session) -> dict[Any, Any]:
        return {status: "Stopping after this step." if session.stop() else "Nothing is running."}

    def on_file(path: str, session: Session, request: gr.Request) -> dict[Any, Any]:
        with said_in_a_sentence():
            if Path(path).suffix.lower() != ".safetensors":
                return restored(read_options(path), "The options of this picture are set; press Run to make it again.")
            trajectory = session.of(request).open(studio, path)
            text = to_stage(film(trajectory, run=session.run, title=f"Run file {Path(path).name}", autoplay=True))
            return {stage: text, **restored(trajectory.options, f"Opened a run of {len(trajectory.steps)} steps.")}

    def restored(options: SampleOptions, sentence: str) -> dict[Any, Any]:
        values: dict[Any, Any] = {control: getattr(options, name) for name, control in controls.items()}
        values[eta], values[timesteps] = eta_update(options.scheduler, options.eta), timesteps_update(options.scheduler, options.timesteps or "")
        values[scheduler] = gr.update(value=options.scheduler, info=SCHEDULERS[options.scheduler].about)
        menu = models_of(studio, "pixel")
        if options.model not in menu:
            del values[model], values[class_label]
            return {**values, status: f"{sentence} Its model, {options.model}, is not here, so the chosen one stays."}
        values[model] = gr.update(value=options.model, info=menu[options.model].about)
        values[class_label] = class_update(menu[options.model], options.class_label)
        return {**values, status: sentence}

    def on_keep(kind: str) -> Callable[[str, Session], Iterator[dict[Any, Any]]]:
        def keep(stream: str, session: Session) -> Iterator[dict[Any, Any]]:
            with said_in_a_sentence(), passing_folder() as folder:
                trajectory = session.required("There is no run of yours to keep yet: press Run first.")
                # Gradio copies the file before it goes on.
                yield {kept: gr.update(value=str(KEEPERS[kind][1](trajectory, stream, folder)), visible=True)}
        return keep

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # Gradio shows an error only of what went through its queue, so what may refuse is queued.
    cheap: dict[str, Any] = {**private, "queue": False}
    files: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2}

    gr.on(None, on_open_page, None, stage, **cheap)
    keep_fresh(model, studio, "pixel")
    model.input(on_model, model, [model, num_steps, class_label], **private, **files)
    scheduler.input(on_scheduler, scheduler, [scheduler, eta, timesteps], **cheap)
    dice.click(lambda: random.randrange(SEED_END), None, seed, **cheap)
    asked = run.click(on_ask, session, [stop, status], trigger_mode="multiple", **cheap)
    asked.then(
        on_run, [*controls.values(), session, init_image, *further], list(results.values()), api_name="sample", trigger_mode="multiple",
        concurrency_id="gpu", concurrency_limit=1, show_progress="minimal", show_progress_on=status,
    )
    stop.click(on_stop, session, status, **cheap)
    opened.upload(on_file, [opened, session], [stage, status, *controls.values()], **private, **files)
    for kind, button in keep_buttons.items():
        written = button.click(on_keep(kind), [stream, session], kept, api_visibility="private", **files)
        written.success(None, kept, None, js=DOWNLOAD, **cheap)


# --- what the controls say -----------------------------------------------------------------------------------

def class_choices(model: Any) -> list[tuple[str, str]]:
    return [("any", ANY_CLASS), *((name, name) for name in model.class_names)]


def class_update(model: Any, label: str | int | None) -> dict[str, Any]:
    names = model.class_names
    value = names[label] if isinstance(label, int) and 0 <= label < len(names) else label or ANY_CLASS
    return gr.update(choices=class_choices(model), value=value, visible=bool(names))


def eta_update(scheduler: str, value: float) -> dict[str, Any]:
    return gr.update(value=value, visible=SCHEDULERS[scheduler].takes_eta)


def timesteps_update(scheduler: str, value: str) -> dict[str, Any]:
    return gr.update(value=value, visible=SCHEDULERS[scheduler].diffusers_class is None)


def stop_update(session: Session) -> dict[str, Any]:
    """The stop button at the end of a run: pressable while another one waits."""
    return gr.update(interactive=bool(session.waiting))


def options_from(*, class_label: str, timesteps: str, init_image: str | None, strength: float, **values: Any) -> SampleOptions:
    """The one SampleOptions that the tab builds. Strength counts only where there is a picture to start from."""
    start = {"init_image": open_picture(init_image), "strength": strength} if init_image else {}
    return SampleOptions(class_label=class_label or None, timesteps=(timesteps or "").strip() or None, **start, **values)


# --- a run, as the page sees it ------------------------------------------------------------------------------

def run_shown(
    studio: Any, options: SampleOptions, switch: Event, session: Session, tokens: "Callable[[], Tokens | None]" = lambda: None,
) -> Iterator[dict[str, Any]]:
    """Changes of the page by the names of its parts: live frames, then the film with all that belongs to it.

    tokens: gives those of the prompt, for a film that shows where they were looked at.
    """
    run, since, trajectory = uuid4().hex, monotonic(), None
    if not switch.is_set():
        yield {"status": "Preparing the model.", "stop": gr.update(interactive=True)}
        curve = curve_of(studio.noise_curve(options))
        for event in freshest(studio.sample(options, stop=switch), switch):
            if not isinstance(event, Finished):
                yield {"stage": to_stage(live_frame(event, run=run, curve=curve, options=options)), "status": ""}
            else:
                trajectory = event.trajectory
    if trajectory is None or not trajectory.steps:
        yield {"status": "Stopped before the first step.", "stage": to_stage({"kind": "note", "title": ""}), "stop": stop_update(session)}
        return
    session.keep(trajectory, run)
    with passing_folder() as folder:
        # Gradio copies the pictures before it goes on.
        yield {
            "stage": to_stage(film(trajectory, run=run, title=title_of(trajectory), curve=curve, tokens=tokens())), "session": session,
            "status": how_it_went(trajectory, monotonic() - since), "pictures": [str(path) for path in save_pictures(trajectory, folder)],
            "stop": stop_update(session),
        }


def title_of(trajectory: "Trajectory") -> str:
    options = trajectory.options
    label = "" if options.class_label is None else f", {options.class_label}"
    if options.prompt:
        return f"{options.prompt}, seed {options.seed}"
    return f"{Path(options.model).name}{label}, {SCHEDULERS[options.scheduler].label}, seed {options.seed}"


def how_it_went(trajectory: "Trajectory", took_s: float) -> str:
    done, asked = len(trajectory.steps), trajectory.steps[0].num_steps
    if trajectory.complete:
        return f"Done: {done} steps in {took_s:.1f} s."
    return f"Stopped at step {done} of {asked}. The {done} steps are kept: play them, or keep them as a file."
