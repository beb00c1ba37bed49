"""Areas of the Score tab about sampling: the reward of every step of a run, and the best of N seeds."""

from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr
import numpy as np

from studio.checks import require_int
from studio.errors import InvalidOption
from studio.media.data_uris import small_uri
from studio.models.device import Waiting, Work
from studio.rewards import reward_info
from studio.rewards.along import Along, BestSoFar
from tabs.parts.api import ScoringApi
from tabs.parts.controls import options_from
from tabs.parts.filmstrip import film
from tabs.parts.openings import Opening, asked_with, recorded
from tabs.parts.panel import Change, Changes, RunPanel, Values
from tabs.parts.running import finished
from tabs.parts.scorers import create_sampling, create_scorer, create_scorers, drawn, first_options, first_scorers, label_of, last_run, number
from tabs.parts.stage import drawn_by, to_stage, unchecked
from tabs.parts.turns import shared, waiting_line

if TYPE_CHECKING:
    from studio.sampling.trajectory import Trajectory

__all__ = ["along_value", "best_value", "create_along", "create_best", "record_along"]

ALONG = "Draw a picture and see when its reward rises: scrub, and the point moves along the curve."
BEST = "Draw many seeds of one prompt; the best stands first, and the curve says what a further seed is worth."
STARTS = {"drawn": "Draw and score", "last": "Score the last run"}
THUMBNAIL = 160
MOST_SEEDS = 64


# --- along a run ---------------------------------------------------------------------------------------------

def create_along(studio: ScoringApi) -> None:
    """The components, handlers and wiring of the area.

    Args:
        studio: draws, decodes and scores.
    """
    panel = RunPanel(studio, "along", "Draw and score")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            starts = panel.create_presses(STARTS)
            scorers = create_scorers(studio, "along")
            controls = create_sampling(studio, "along")
        with gr.Column(elem_classes="ds-stage-column"):
            panel.create_stage(recorded("along", "stage"), ALONG)

    def changes_of(kind: str) -> Changes:
        def changes(values: Values, switch: Event) -> Iterator[Change]:
            names, session = values[scorers] or [], values[panel.session]
            if not names:
                raise InvalidOption("Choose at least one scorer.")
            for name in names:
                reward_info(name)
            if kind == "last":
                return scored_along(studio, last_run(studio, session.asker.page), names, switch, session)
            options = options_from({name: values[control] for name, control in controls.items()})
            return drawn_along(studio, options, names, switch, session)
        return changes

    for kind, start in starts.items():
        panel.wire_run(changes_of(kind), [scorers, *controls.values()], [start.click])


def drawn_along(studio: ScoringApi, options: Any, names: list[str], switch: Event, session: Any) -> Iterator[Change]:
    yield {"status": "Preparing."}
    trajectory = yield from drawn(studio, options, switch, session.asker)
    if trajectory is None:
        yield {"status": "Stopped: a curve needs the run to its end."}
        return
    yield from scored_along(studio, trajectory, names, switch, session)


def scored_along(studio: ScoringApi, trajectory: "Trajectory", names: list[str], switch: Event, session: Any) -> Iterator[Change]:
    """The film of the run, then the curve of its rewards."""
    work, so_far = Work(name="score a run", amount=float(len(trajectory.steps) * len(names))), None
    for event in shared(studio.device, session.asker, work, studio.rewards_along(trajectory, names), switch):
        if isinstance(event, Waiting):
            yield {"status": waiting_line(event)}
            continue
        so_far = event
        yield {"status": f"Scoring step {event.done} of {event.total}."}
        if switch.is_set():
            break
    if so_far is None or so_far.done < so_far.total:
        yield {"status": "Stopped: the curve needs every step."}
        return
    yield {"stage": along_value(studio, trajectory, so_far), "status": best_step(so_far)}


def along_value(studio: ScoringApi, trajectory: "Trajectory", along: Along, run: str = "") -> str:
    """JSON text for the stage: its film, with the mean reward of the pictures at each step. run: its name; a new one where none is given."""
    series = [
        {"name": name, "label": label_of(studio, name)["label"], "values": [number(float(np.mean(step))) for step in steps]}
        for name, steps in along.rewards.items()
    ]
    shown = film(trajectory, run=run or uuid4().hex, title=f"A recorded run: {trajectory.options.prompt}" if run else trajectory.options.prompt)
    return to_stage({**shown, "decodes": [], "rewards": series})


def record_along(studio: ScoringApi) -> Opening:
    """The run that the area opens with: what the first values of its controls give, with the rewards of the scorers that are chosen first."""
    options, names = first_options(studio), first_scorers(studio)
    trajectory = finished(studio, options)
    *_, last = studio.rewards_along(trajectory, names)
    return Opening(made_with={**asked_with(options), "scorers": names}, places={"stage": along_value(studio, trajectory, last, run="opening")})


def best_step(along: Along) -> str:
    """When it became good, by the first scorer: the first step from which nine tenths of the rise are kept."""
    means = np.array([np.mean(step) for step in next(iter(along.rewards.values()))])
    rise = means[-1] - means[0]
    if rise <= 0:
        return f"The reward does not rise along this run: {means[0]:.3f} at its first step, {means[-1]:.3f} at its last."
    below = np.flatnonzero(means < means[0] + 0.9 * rise)
    first = int(below[-1]) + 2 if len(below) else 1
    return f"From {means[0]:.3f} to {means[-1]:.3f}; nine tenths of the rise are there from step {first} of {len(means)} on."


# --- best of N -----------------------------------------------------------------------------------------------

def create_best(studio: ScoringApi) -> None:
    """The components, handlers and wiring of the area.

    Args:
        studio: draws and scores.
    """
    panel = RunPanel(studio, "best", "Draw and keep the best")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            panel.create_press()
            scorer = create_scorer(studio, "best")
            count = unchecked(gr.Slider(2, MOST_SEEDS, 8, step=1, label="Seeds", elem_id="best-count", info="More: a better best, by less and less."))
            controls = create_sampling(studio, "best")
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by(
                "scores", '<div class="ds-stage ds-scores"></div>', elem_id="best-stage", value=to_stage({"invitation": BEST}),
            )

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        options = options_from({name: values[control] for name, control in controls.items()})
        if not values[scorer]:
            raise InvalidOption("Choose a scorer first.")
        require_int("Seeds", values[count], 2, MOST_SEEDS)
        work = Work(name="best of", amount=float(options.num_steps * values[count]))
        drawing = studio.best_of(options, values[count], values[scorer])
        return best_shown(studio, values[scorer], options.prompt, shared(studio.device, values[panel.session].asker, work, drawing, switch), switch)

    panel.wire_run(changes, [scorer, count, *controls.values()])


def best_shown(studio: ScoringApi, scorer: str, prompt: str, drawing: Iterator[BestSoFar | Waiting | None], switch: Event) -> Iterator[Change]:
    """The pictures as they come, the best first."""
    yield {"status": "Drawing the first seeds."}
    for event in drawing:
        if isinstance(event, Waiting):
            yield {"status": waiting_line(event)}
        elif event is not None:
            yield {"stage": best_value(studio, scorer, prompt, event), "status": gain_line(event)}
        if switch.is_set():
            yield {"status": "Stopped; what was drawn stays."}
            return


def best_value(studio: ScoringApi, scorer: str, prompt: str, best: BestSoFar) -> str:
    """JSON text for Studio.scores, with the curve of what more seeds are worth."""
    return to_stage({
        "pictures": [{"src": small_uri(picture, THUMBNAIL), "name": f"seed {seed}", "prompt": prompt} for picture, seed in zip(best.pictures, best.seeds)],
        "scorers": [{"name": scorer, **label_of(studio, scorer)}], "scores": {scorer: [number(score) for score in best.scores]},
        "share": None if len(best.scores) == best.total else len(best.scores) / best.total, "agreement": None,
        "curve": {"x": list(range(1, len(best.scores) + 1)), "y": [number(value) for value in best.expected], "xLabel": "seeds", "yLabel": "expected best"},
    })


def gain_line(best: BestSoFar) -> str:
    """What the best is, and what it gains on one seed alone."""
    expected = best.expected
    return f"Seed {best.seeds[best.best]} is the best of {len(best.scores)}: {best.scores[best.best]:.3f}; one seed alone reaches {expected[0]:.3f} on average."
