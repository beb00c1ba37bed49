"""What programs call by name: every public endpoint of the studio, with typed and named arguments.

    /schedule /noise_image                           numbers and pictures of a noise schedule
    /sample                                          pictures from noise, step by step
    /annotate /controlnet                            a control map of a picture; pictures that follow maps
    /rank_next /rank_submit /rank_export             rankings by hand
    /score                                           how good pictures are for a prompt
    /train /run_status /run_stop /run_resume         training runs; not on a public studio

A StudioError raised here reaches the caller as its sentence, and values of another kind than annotated never come here
(tabs.parts.blocks). null stands for the default of an argument.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event
from types import MappingProxyType
from typing import Any

import gradio as gr
import numpy as np
from gradio.context import get_blocks_context

from studio.checks import require_texts
from studio.conditions import CONDITIONS
from studio.control.annotators import ANNOTATORS, MapRequest, make_map
from studio.errors import InvalidOption
from studio.media.uploads import open_picture
from studio.models.device import Waiting, Work
from studio.options import SampleOptions
from studio.process.noising import NoiseOptions, noise_image, working_copy
from studio.process.schedules import curves
from studio.rankings import Ranking, open_tasks, submit
from studio.rankings.formats import export_rankings
from studio.rankings.pictures import picture_path
from studio.rewards.scoring import agreement_of_scorers
from studio.runs.dreambooth import fields
from studio.scratch import passing_folder
from studio.units import ControlUnit
from tabs.denoise import of_kind
from tabs.dreambooth import defaults, trainer_options
from tabs.parts.api import ControlApi, RankingApi, SamplingApi, ScoringApi, StudioApi, TrainingApi
from tabs.parts.arguments import Upload
from tabs.parts.controls import options_from
from tabs.parts.following import state_line
from tabs.parts.groups import group_schema, with_groups
from tabs.parts.panel import DEVICE
from tabs.parts.receiving import require_disk
from tabs.parts.running import run_for_programs
from tabs.parts.scorers import first_scorers
from tabs.parts.session import Session
from tabs.parts.stage import models_of
from tabs.parts.turns import shared
from tabs.parts.uploads import FILE_INFO
from tabs.parts.visitors import asker_of
from tabs.rank import annotator_name, require_own
from tabs.reward import given_pictures, require_scorable

__all__ = [
    "create_endpoints", "create_schedule_endpoints", "create_sample_endpoint", "create_control_endpoints", "create_rank_endpoints", "create_run_endpoints",
    "create_score_endpoint",
]

MAX_MAP_SIDE = 4096

# What an option of a training is by its default.
KINDS: tuple[type, ...] = (bool, int, float, str)


def create_endpoints(studio: StudioApi) -> None:
    """All endpoints, inside a gr.Blocks.

    Args:
        studio: samples, and trains unless it is public.
    """
    create_schedule_endpoints()
    create_sample_endpoint(studio)
    create_control_endpoints(studio)
    create_rank_endpoints(studio)
    create_score_endpoint(studio)
    if not studio.public:
        create_run_endpoints(studio)


def endpoint(function: Callable[..., Any], name: str, **options: Any) -> None:
    """gr.api whose parts say by name what they are."""
    made = gr.api(function, api_name=name, **options)
    blocks = get_blocks_context()
    assert blocks is not None
    parts: Sequence[Any] = blocks.fns[made["id"]].inputs
    for part, parameter in zip(parts, inspect.signature(function).parameters.values()):
        part.label = parameter.name
        if parameter.name in CONDITIONS:
            part._api_info = group_schema(parameter.name)
        if Upload.__name__ in str(parameter.annotation):
            part._api_info = {"type": "array", "items": FILE_INFO} if "list" in str(parameter.annotation) else FILE_INFO


def path_of(file: Upload | None) -> str | None:
    """Where an upload lies."""
    return None if file is None else str(file["path"])


def filed(component: Any, value: Any) -> Any:
    """Pictures as a component of the page would give them: files of the app, in JSON. Raises StudioBusy."""
    require_disk()
    return component.postprocess(value).model_dump()


# --- schedules -----------------------------------------------------------------------------------------------

def create_schedule_endpoints() -> None:
    """/schedule and /noise_image: cheap, and therefore not queued."""
    pictures = gr.Image(format="png", render=False)

    def noise_picture(
        picture: Upload | None = None, schedule: str = "linear", num_timesteps: int = 1000, t: int = 250, seed: int = 0,
    ) -> tuple[dict, dict]:
        """x_t of a picture, at most 256 pixels on its longer side, and the coefficients of t (null where infinite)."""
        options = NoiseOptions(schedule=schedule, num_timesteps=num_timesteps, t=t, seed=seed)
        x_t = noise_image(working_copy(open_picture(path_of(picture))), options)
        numbers = dataclasses.asdict(options.coefficients())
        return filed(pictures, x_t), {name: finite(value) for name, value in numbers.items()}

    endpoint(schedule_numbers, "schedule", queue=False)
    endpoint(noise_picture, "noise_image", queue=False)


def schedule_numbers(schedule: str = "linear", num_timesteps: int = 1000, zero_terminal_snr: bool = False, respacing: str = "") -> dict:
    """Every curve of a noise schedule against t.

    schedule: linear, scaled_linear, cosine, sigmoid, sqrt_linear, sqrt, karras or flow. num_timesteps: T, 1 to 10,000.
    respacing: "" or "ddim50" or "10,15,20". Returns schedule, num_timesteps, kept (timesteps) and curves (name -> T
    numbers; null where a value is infinite).
    """
    options = NoiseOptions(schedule=schedule, num_timesteps=num_timesteps, zero_terminal_snr=zero_terminal_snr, respacing=respacing)
    table = {name: finite(values) for name, values in curves(options.betas()).items()}
    return {"schedule": schedule, "num_timesteps": num_timesteps, "kept": options.kept(), "curves": table}


def finite(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, np.ndarray):
        return [number if fits else None for number, fits in zip(value.tolist(), np.isfinite(value).tolist())]
    return value if np.isfinite(value) else None


# --- sampling ------------------------------------------------------------------------------------------------

def create_sample_endpoint(studio: SamplingApi) -> None:
    """/sample, whose defaults are those of the first model in the menu."""
    first, entry = next(iter(models_of(studio, text=False).items()))
    gallery = gr.Gallery(format="png", render=False)

    def sample(
        model: str = first, class_label: str = "", num_steps: int = entry.default_steps, timesteps: str = "", scheduler: str = "ddim", eta: float = 0.0,
        clip_x0: bool = True, seed: int = 0, num_images: int = 4, strength: float = 0.6, init_image: Upload | None = None, prompt: str = "",
        negative_prompt: str = "", guidance_scale: float = 1.0, guidance_start: float = 0.0, guidance_end: float = 1.0, guidance_rescale: float = 0.0,
        clip_guidance_scale: float = 0.0, sigmas: str = "", width: int = 0, height: int = 0, record_attention: bool = False,
        init_mask: Upload | None = None, mask_blur: float = 0.0, mask_padding: int = 0, mask_overlay: bool = True, cond_image: Upload | None = None,
        cond_image_2: Upload | None = None, cond_mix: float = 0.5, noise_level: int = -1, depth_model: str = "",
        conditions: Mapping[str, Any] = MappingProxyType({}), request: gr.Request | None = None,
    ) -> Iterator[tuple[str | None, str, list | None]]:
        """Sample pictures, from a class or from a prompt; a width or height of 0 and a noise_level of -1 are the model's own.

        What only some families can be told comes in objects by the names of their options: size (SDXL: {"original": [1024, 1024], "crop": [0, 0]}),
        texts (second and third prompts, clip_skip, encoders), aesthetic and refined (SDXL's refiner), flow and skipped (SD 3), added (LoRAs,
        embeddings, a VAE: {"loras": [{"file": "style.safetensors", "weight": 0.8}]}).

        Gives the stage's film (JSON text), a sentence on how it went, and the pictures as PNG files.
        """
        options = options_from({
            "model": model, "class_label": class_label, "num_steps": num_steps, "timesteps": timesteps, "scheduler": scheduler, "eta": eta,
            "clip_x0": clip_x0, "seed": seed, "num_images": num_images, "strength": strength, "init_image": path_of(init_image), "prompt": prompt,
            "negative_prompt": negative_prompt, "guidance_scale": guidance_scale, "guidance_start": guidance_start, "guidance_end": guidance_end,
            "guidance_rescale": guidance_rescale, "clip_guidance_scale": clip_guidance_scale, "sigmas": sigmas, "width": width, "height": height,
            "record_attention": record_attention, "cond_image": path_of(cond_image), "cond_image_2": path_of(cond_image_2), "cond_mix": cond_mix,
            "noise_level": None if noise_level == -1 else noise_level, "depth_model": depth_model,
        })
        options = dataclasses.replace(options, **conditions)
        if init_mask is not None:
            acts: dict[str, Any] = {"mask_blur": mask_blur, "mask_padding": mask_padding or None, "mask_overlay": mask_overlay}
            options = dataclasses.replace(options, init_mask=open_picture(str(path_of(init_mask))), **acts)
        for change in run_of_program(studio, of_kind(studio, options), request):
            yield change.get("stage"), change.get("status", ""), filed(gallery, change["pictures"]) if "pictures" in change else None

    endpoint(as_outputs(with_groups(sample), tuple[str, str, list]), "sample", **DEVICE)


def run_of_program(studio: SamplingApi, options: SampleOptions, request: gr.Request | None) -> Iterator[dict[str, Any]]:
    """A run that a program asked for; nothing of it is kept when the program has what it asked for."""
    session = Session(studio.kept, "program")
    session.asker = asker_of(request)
    try:
        yield from run_for_programs(studio, options, Event(), session)
    finally:
        studio.kept.close(session.visitor)


def as_outputs(function: Callable[..., Any], kinds: Any) -> Callable[..., Any]:
    """The generator with what its last step gives, for gr.api to read."""
    function.__signature__ = inspect.signature(function).replace(return_annotation=kinds)  # type: ignore[attr-defined]
    return function


# --- ControlNets ---------------------------------------------------------------------------------------------

def create_control_endpoints(studio: ControlApi) -> None:
    """/annotate and /controlnet."""
    picture_file, gallery = gr.Image(format="png", render=False), gr.Gallery(format="png", render=False)

    def annotate(
        picture: Upload | None = None, annotator: str = "canny", scene: str = "", seed: int = 0, settings: dict | None = None, width: int = 512,
        height: int = 512, resize: str = "crop", invert: bool = False,
    ) -> tuple[dict, list]:
        """A control map of a picture, or of a Toybox scene in words, in the size asked for; and what is to be said of it, in sentences.

        settings: numbers by the names of the annotator's settings, such as {"low": 100, "high": 200} of canny.
        """
        if studio.public and annotator in ANNOTATORS and ANNOTATORS[annotator].needs:
            raise InvalidOption("A public studio fetches no weights of annotators; start the studio on your own machine for them.")
        made = make_map(MapRequest(
            annotator=annotator, picture=open_picture(path_of(picture)) if picture else None, scene=scene, seed=seed, settings=settings or {},
            width=width, height=height, resize=resize, invert=invert,
        ))
        return filed(picture_file, made.map), list(made.notes)

    def controlnet(
        model: str, prompt: str, maps: list[Upload], units: list[dict], masks: list[Upload] | None = None, negative_prompt: str = "",
        num_steps: int = 20, scheduler: str = "unipc", guidance_scale: float = 4.0, seed: int = 0, num_images: int = 1, width: int = 0, height: int = 0,
        strength: float = 0.6, init_image: Upload | None = None, conditions: Mapping[str, Any] = MappingProxyType({}),
        request: gr.Request | None = None,
    ) -> Iterator[tuple[str | None, str, list | None]]:
        """Pictures that follow maps: unit i follows maps[i], and acts where masks[i] is white, where there is one.

        units: up to three of {"net": name, folder or Hub id, "scale": 0..2, "start", "end": share of the steps, "mode": balanced, prompt or
        control, "blocks": a weight each, "resize": crop, fit or stretch, "muted"}. size, texts and the like are as in /sample.

        Gives the stage's film (JSON text), a sentence on how it went, and the pictures as PNG files.
        """
        options = options_from({
            "model": model, "prompt": prompt, "negative_prompt": negative_prompt, "num_steps": num_steps, "scheduler": scheduler,
            "guidance_scale": guidance_scale, "seed": seed, "num_images": num_images, "width": width, "height": height, "strength": strength,
            "init_image": path_of(init_image),
        })
        options = dataclasses.replace(options, control=units_from(units, maps, masks or []), **conditions)
        for change in run_of_program(studio, options, request):
            yield change.get("stage"), change.get("status", ""), filed(gallery, change["pictures"]) if "pictures" in change else None

    endpoint(annotate, "annotate", queue=False)
    endpoint(as_outputs(with_groups(controlnet), tuple[str, str, list]), "controlnet", **DEVICE)


def units_from(units: list[dict], maps: list[Upload], masks: list[Upload]) -> tuple[ControlUnit, ...]:
    """Units with their pictures. Raises InvalidOption where there are not as many maps as units: none is dropped in silence."""
    if len(maps) != len(units) or len(masks) > len(units):
        counts = f"{len(units)} units, {len(maps)} maps and {len(masks)} masks"
        raise InvalidOption(f"Every unit needs a map of its own, and may have a mask, but these are {counts}.")
    made = []
    for index, told in enumerate(units):
        if {"map", "mask"} & set(told):
            raise InvalidOption("Maps and masks are files beside the units: give them as maps and masks.")
        mask = open_picture(path_of(masks[index]), MAX_MAP_SIDE) if index < len(masks) else None
        made.append(dataclasses.replace(ControlUnit.from_dict(told), map=open_picture(path_of(maps[index]), MAX_MAP_SIDE), mask=mask))
    return tuple(made)


# --- rankings ------------------------------------------------------------------------------------------------

def create_rank_endpoints(studio: RankingApi) -> None:
    """/rank_next, /rank_submit and /rank_export: answered at once, however long the queue is."""
    picture, file = gr.Image(format="png", render=False), gr.File(render=False)

    def rank_next(annotator: str, collection: str = "", count: int = 1, request: gr.Request | None = None) -> list:
        """The tasks that the annotator has open, new ones given out until there are `count` (1 to 5); [] where there are no more.

        Each is {assignment, prompt, collection, repeat, pictures: [{position, file}], draft}. A ranking lists its values in the order of `position`.
        """
        tasks = open_tasks(studio.rankings, annotator_name(annotator, request), count, collection)
        folder = studio.rankings.folder

        def shown(one: Any) -> Any:
            # The folder of rankings may lie anywhere: what is handed out is a copy among the app's own files.
            return filed(picture, picture.move_resource_to_block_cache(str(picture_path(folder, one.sha256, one.suffix))))

        return [
            {
                "assignment": task.assignment, "prompt": task.prompt, "collection": task.collection, "repeat": task.repeat, "draft": task.draft,
                "pictures": [{"position": one.position, "file": shown(one)} for one in task.pictures],
            }
            for task in tasks
        ]

    def rank_submit(
        annotator: str, assignment: int, ranks: list, ratings: list | None = None, flags: list | None = None, note: str = "", seconds: float = 0.0,
        sent_as: str = "", request: gr.Request | None = None,
    ) -> dict:
        """Submit, or correct, the ranking of a task. What has been answered is on the disk.

        ranks: for each picture, by its position, 1 (best) to 9, equal for a tie, null for one that is left out. ratings: for each {"alignment",
        "fidelity", "harmlessness": 1 to 7}. flags: for each some of "broken", "harmful", "text_wrong", "bad". sent_as: a name of your own for this
        submission, which sent again changes nothing. Returns assignment, revision, and gold: whether a known order was met.
        """
        ranking = Ranking(ranks=ranks, ratings=ratings or (), flags=flags or (), note=note, seconds=seconds)
        return dataclasses.asdict(submit(studio.rankings, annotator_name(annotator, request), assignment, ranking, sent_as))

    def rank_export(format: str = "studio", collection: str = "", request: gr.Request | None = None) -> dict:
        """A zip file of the rankings: format studio, imagereward, pickapic, hpdv2, hpdv3 or csv."""
        require_own(studio, request)
        with passing_folder() as folder:
            path = folder / "rankings.zip"
            export_rankings(studio.rankings, format, path, collection)
            # The folder goes with the block.
            return filed(file, file.move_resource_to_block_cache(path))

    for function in (rank_next, rank_submit, rank_export):
        endpoint(function, function.__name__, queue=False)


# --- scores --------------------------------------------------------------------------------------------------

def create_score_endpoint(studio: ScoringApi) -> None:
    """/score, which has its turn on the device like everything else that uses it."""
    def score(pictures: list[Upload], prompt: str = "", rewards: list | None = None, request: gr.Request | None = None) -> Iterator[dict]:
        """How good pictures are for a prompt, by one or several scorers; higher is better.

        prompt: one line for all pictures, or one for each; "" takes those that pictures saved by the studio carry. rewards: names of scorers,
        or KIND:PLACE; null takes the first that the page offers. Returns pictures ([{name, prompt}]), scores ({reward: [number]}, in the order of the
        pictures), and agreement ({rewards, tau_b}): how alike the scorers' orders are, null where there is nothing to compare.
        """
        require_texts("rewards", rewards or [])
        given = given_pictures([str(file["path"]) for file in pictures])
        names = list(dict.fromkeys(rewards or first_scorers(studio)))
        prompts = require_scorable(studio, given, prompt, names)
        scoring = studio.score([one.picture for one in given], prompts, names)
        work = Work(name="score", amount=float(len(given) * len(names)))
        told = [event for event in shared(studio.device, asker_of(request), work, scoring) if not isinstance(event, Waiting)]
        if not told:
            raise InvalidOption("Nobody waits for this any more, so it was not done; ask for it again.")
        scores = {name: list(values) for name, values in told[-1].scores.items()}
        tau = agreement_of_scorers(scores) if len(names) > 1 and len(given) > 2 else None  # type: ignore[arg-type]
        named = [{"name": one.name, "prompt": text} for one, text in zip(given, prompts)]
        # Given so that the device's line can hold it back: what is no generator begins when it is called.
        yield {"pictures": named, "scores": scores, "agreement": tau and {"rewards": list(scores), "tau_b": tau}}

    endpoint(score, "score", **DEVICE)


# --- training runs -------------------------------------------------------------------------------------------

def create_run_endpoints(studio: TrainingApi) -> None:
    """/train, /run_status, /run_stop and /run_resume: answered at once, however long the queue is."""
    def train(pictures: list[Upload] | None = None, name: str = "subject", **options: Any) -> tuple[str, str]:
        """Check everything, then start a run. Give its name to /run_status to follow it."""
        view = studio.train_subject(name.strip(), [file["path"] for file in pictures or ()], trainer_options({**defaults(), **options}))
        return f"The run {view.name} was started; it goes on when this page is closed.", view.name

    def run_status(name: str) -> dict:
        """How a run stands: state, step, steps, time left, message, the path of its model once it has finished."""
        return status_of(studio, name)

    def run_stop(name: str) -> dict:
        """Ask a run to save and stop, or take it out of the queue."""
        studio.runs.stop(name)
        return status_of(studio, name)

    def run_resume(name: str) -> dict:
        """Let a stopped, interrupted or failed run go on from its last checkpoint."""
        studio.runs.resume(name)
        return status_of(studio, name)

    endpoint(with_options(train, defaults()), "train", queue=False)
    for function in (run_status, run_stop, run_resume):
        endpoint(function, function.__name__, queue=False)


def with_options(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with each option as an argument of its own, of the kind of its default."""
    own = [parameter for parameter in inspect.signature(function).parameters.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = {name: kind_of(name, value) for name, value in options.items()}
    more = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=options[name], annotation=kind) for name, kind in kinds.items()]

    def named(*values: Any) -> Any:
        return function(**dict(zip([parameter.name for parameter in (*own, *more)], values)))

    named.__name__, named.__doc__ = function.__name__, function.__doc__
    named.__signature__ = inspect.signature(function).replace(parameters=[*own, *more])  # type: ignore[attr-defined]
    named.__annotations__ = {**function.__annotations__, **kinds}
    return named


def kind_of(name: str, value: Any) -> Any:
    """What an option takes; a number that may have a fraction takes whole ones too."""
    default = fields()[name].default if name in fields() else value
    return next((kind for kind in KINDS if isinstance(default, kind)), str)


def status_of(studio: TrainingApi, name: str) -> dict[str, Any]:
    """A run in JSON, for programs."""
    view = studio.runs.read(name)
    place, begins_s = studio.runs.position(name)
    model: Path = view.path / "model"
    return {
        "name": view.name, "trainer": view.trainer, "state": view.state, "title": state_line(view, (place, begins_s)), "message": view.message,
        "step": view.step, "steps": view.steps, "saved": view.saved, "left_s": view.left_s, "queue_position": place, "begins_s": begins_s,
        "phase": view.phase, "phase_done": view.phase_done, "phase_total": view.phase_total, "command": view.command,
        "model": str(model) if view.state == "finished" and model.is_dir() else None,
    }
