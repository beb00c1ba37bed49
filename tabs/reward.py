"""The Score tab: pictures judged by scorers, sorted, with how far the scorers agree; its other areas are tabs/reward_*.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from studio.errors import BadImage, InvalidOption, StudioError
from studio.media.data_uris import small_uri
from studio.media.uploads import open_picture
from studio.models.device import Waiting, Work
from studio.rankings.example import example_pictures
from studio.rewards.scoring import MAX_PICTURES, ScoresSoFar, agreement_of_scorers, require_pictures
from studio.sampling.export import read_options, save_png
from studio.scratch import passing_folder
from tabs.parts.api import ScoringApi, StudioApi
from tabs.parts.arguments import event_value
from tabs.parts.openings import Opening, recorded
from tabs.parts.panel import FILES, Change, RunPanel, Values
from tabs.parts.scorers import create_scorers, first_scorers, label_of, last_run, number
from tabs.parts.stage import PRIVATE, drawn_by, said_in_a_sentence, to_stage
from tabs.parts.turns import shared, waiting_line
from tabs.parts.visitors import asker_of
from tabs.reward_runs import create_along, create_best
from tabs.reward_training import create_training
from tabs.reward_why import create_why

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["create_tab", "given_pictures", "prompts_for", "record", "require_scorable", "scores_value"]

INVITATION = "Drop pictures on the left, take the example, or take what was just drawn; then press Score."
AREAS = ("Pictures", "A closer look", "Along a run", "Best of N", "Train a reward")
THUMBNAIL = 160
# Larger pictures are shrunk to this first: the networks look at 224 pixels a side, and a hundred of them have to lie in memory.
MAX_SIDE = 1024


# --- what is scored ------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Given:
    """A picture as it was given: its name, and the prompt that it carries, "" where it carries none."""

    name: str
    picture: "Image.Image"
    prompt: str = ""


def given_pictures(paths: Sequence[str] | None) -> list[Given]:
    """The pictures in the files. Raises InvalidOption for none or too many, BadImage that names each file it cannot read."""
    if not paths:
        raise InvalidOption("There are no pictures to score: drop some, take the example, or take what was just drawn.")
    if len(paths) > MAX_PICTURES:
        raise InvalidOption(f"{len(paths)} pictures are more than the {MAX_PICTURES} that are scored at once; give fewer.")
    found, bad = [], []
    for path in paths:
        try:
            found.append(Given(name=Path(path).name, picture=open_picture(path, MAX_SIDE), prompt=carried_prompt(path)))
        except BadImage as error:
            bad.append(f"{Path(path).name}: {error}")
    if bad:
        raise BadImage(" ".join(bad))
    return found


def carried_prompt(path: str) -> str:
    """The prompt in a picture that was saved here."""
    try:
        return read_options(path).prompt
    except StudioError:
        return ""


def prompts_for(given: Sequence[Given], text: str) -> list[str]:
    """A prompt for each picture: one line is for all, as many lines as pictures one each, none the prompts that they carry. Raises InvalidOption."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        return lines * len(given)
    if not lines:
        return [one.prompt for one in given]
    if len(lines) != len(given):
        raise InvalidOption(f"Write one prompt for all pictures, or one on each line for each of the {len(given)}; there are {len(lines)} lines.")
    return lines


def require_scorable(studio: ScoringApi, given: Sequence[Given], text: str, names: Sequence[str]) -> list[str]:
    """The prompt of each picture. Raises InvalidOption for too much or too little of anything, and for scorers that judge by a prompt that is not there."""
    prompts = prompts_for(given, text)
    require_pictures([one.picture for one in given], prompts, names)
    reads = [studio.rewards[name].label for name in names if name in studio.rewards and studio.rewards[name].reads_prompt]
    if reads and not all(prompts):
        raise InvalidOption(f"{reads[0]} judges a picture by its prompt: write the prompt, or choose scorers that need none.")
    return prompts


# --- what the page is shown ----------------------------------------------------------------------------------

def scores_value(studio: ScoringApi, given: Sequence[Given], prompts: Sequence[str], so_far: ScoresSoFar, title: str = "") -> str:
    """JSON text for Studio.scores. title: a line above, of what was recorded."""
    whole = so_far.done == so_far.total
    return to_stage({
        "title": title,
        "pictures": [{"src": small_uri(one.picture, THUMBNAIL), "name": one.name, "prompt": prompt} for one, prompt in zip(given, prompts)],
        "scorers": [{"name": name, **label_of(studio, name)} for name in so_far.scores],
        "scores": {name: [number(value) for value in values] for name, values in so_far.scores.items()},
        "share": None if whole else so_far.done / so_far.total,
        "agreement": agreement_of_scorers(so_far.scores) if whole and len(so_far.scores) > 1 and len(given) > 2 else None,  # type: ignore[arg-type]
    })


# --- recorded ------------------------------------------------------------------------------------------------

def example_given() -> tuple[str, list[Given]]:
    """The prompt and the pictures of the example, which the tab opens with the scores of."""
    prompt, pictures = example_pictures()
    return prompt, [Given(name=f"{kind}.png", picture=picture) for kind, picture in pictures.items()]


def record(studio: ScoringApi) -> Opening:
    """The scores of the example that the area opens with, by the scorers that are chosen first."""
    prompt, given = example_given()
    names = first_scorers(studio)
    *_, last = studio.score([one.picture for one in given], [prompt] * len(given), names)
    shown = scores_value(studio, given, [prompt] * len(given), last, f"Recorded scores of the example: {prompt}")
    return Opening(made_with={"prompt": prompt, "scorers": names}, places={"stage": shown})


# --- the tab -------------------------------------------------------------------------------------------------

def create_tab(studio: StudioApi) -> None:
    """The components, handlers and wiring of the tab.

    Args:
        studio: draws, scores, keeps rankings and trains.
    """
    with gr.Tabs(selected=AREAS[0], elem_classes="ds-areas") as areas:
        with gr.Tab(AREAS[0], id=AREAS[0]):
            files, prompt, stage = create_pictures(studio)
        with gr.Tab(AREAS[1], id=AREAS[1]):
            look = create_why(studio)
        with gr.Tab(AREAS[2], id=AREAS[2]):
            create_along(studio)
        with gr.Tab(AREAS[3], id=AREAS[3]):
            create_best(studio)
        with gr.Tab(AREAS[4], id=AREAS[4]):
            create_training(studio)

    def on_pick(paths: list[str] | None, text: str, event: gr.EventData) -> dict[Any, Any]:
        with said_in_a_sentence():
            index = event_value(event, index=int)["index"]
            # Where none were given, it is a picture of the recorded example.
            words, given = (text or "", given_pictures(paths)) if paths else example_given()
            if not 0 <= index < len(given):
                raise InvalidOption("The pictures on the left have changed; press Score again.")
            picture = paths[index] if paths else given[index].picture
            return {look.picture: picture, look.prompt: prompts_for(given, words)[index], areas: gr.Tabs(selected=AREAS[1])}

    stage.select(on_pick, [files, prompt], [look.picture, look.prompt, areas], **PRIVATE, **FILES)


def create_pictures(studio: ScoringApi) -> tuple[gr.File, gr.Textbox, gr.HTML]:
    """The area that scores given pictures; gives what it is given, and where its scores are seen."""
    panel = RunPanel(studio, "score", "Score")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            files = gr.File(file_count="multiple", type="filepath", label="Pictures", height=150, elem_id="score-pictures")
            with gr.Row(elem_classes="ds-press"):
                drawn = gr.Button("What was just drawn", size="sm", elem_id="score-drawn", min_width=90)
                example = gr.Button("Example", size="sm", elem_id="score-example", min_width=70)
            prompt = gr.Textbox(
                label="Prompt", lines=2, max_lines=12, elem_id="score-prompt",
                info="One line is for all pictures; several are one for each. Empty: the prompts that saved pictures carry.",
            )
            scorers = create_scorers(studio, "score")
            panel.create_press()
        with gr.Column(elem_classes="ds-stage-column"):
            stage = panel.places["stage"] = drawn_by(
                "scores", f'<div class="ds-stage ds-scores" data-invitation="{INVITATION}"></div>', elem_id="score-stage", value=recorded("score", "stage"),
            )
    wire_given(studio, panel, files, prompt, drawn, example)
    wire_scores(studio, panel, files, prompt, scorers)
    return files, prompt, stage


def wire_given(studio: ScoringApi, panel: RunPanel, files: gr.File, prompt: gr.Textbox, drawn: gr.Button, example: gr.Button) -> None:
    """What fills in the pictures."""
    def on_drawn(request: gr.Request) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence(), passing_folder() as folder:
            run = last_run(studio, asker_of(request).page)
            options = run.options
            paths = [str(save_png(image, folder / f"{i + 1}.png", options, alone=True)) for i, image in enumerate(run.images)]
            # Gradio copies the files before it goes on.
            yield {files: paths, prompt: options.prompt or gr.skip(), panel.status: f"{len(paths)} pictures of the run that was drawn last."}

    def on_example() -> Iterator[dict[Any, Any]]:
        with passing_folder() as folder:
            words, pictures = example_pictures()
            paths = [folder / f"{name}.png" for name in pictures]
            for path, picture in zip(paths, pictures.values()):
                picture.save(path)
            yield {files: [str(path) for path in paths], prompt: words, panel.status: "Pictures of the toy world, drawn right, wrong and badly."}

    drawn.click(on_drawn, None, [files, prompt, panel.status], **PRIVATE, **FILES)
    example.click(on_example, None, [files, prompt, panel.status], **PRIVATE, **FILES)


def wire_scores(studio: ScoringApi, panel: RunPanel, files: gr.File, prompt: gr.Textbox, scorers: gr.Dropdown) -> None:
    """Tie the press to the scorers."""
    def changes(values: Values, switch: Event) -> Iterator[Change]:
        given, names = given_pictures(values[files]), values[scorers] or []
        prompts = require_scorable(studio, given, values[prompt] or "", names)
        scoring = studio.score([one.picture for one in given], prompts, names)
        work = Work(name=f"score {' '.join(names)}"[:200], amount=float(len(given)))
        return shown(studio, given, prompts, shared(studio.device, values[panel.session].asker, work, scoring, switch), switch)

    panel.wire_run(changes, [files, prompt, scorers])


def shown(
    studio: ScoringApi, given: Sequence[Given], prompts: Sequence[str], scoring: Iterator[ScoresSoFar | Waiting], switch: Event,
) -> Iterator[Change]:
    """The scores as the page shows them while they come."""
    yield {"status": "Loading the scorers."}
    for event in scoring:
        if isinstance(event, Waiting):
            yield {"status": waiting_line(event)}
            continue
        yield {"stage": scores_value(studio, given, prompts, event), "status": f"{event.done} of {event.total} scores."}
        if switch.is_set():
            yield {"status": f"Stopped: {event.done} of {event.total} scores are there."}
            return
