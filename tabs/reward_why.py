"""The area of the Score tab that takes a closer look at one picture: which pixels and which words its score hangs on."""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.errors import InvalidOption
from studio.media.data_uris import data_uri
from studio.media.uploads import open_picture
from studio.models.device import Waiting, Work
from studio.rewards.explaining import Explanation, WordScores
from tabs.parts.api import ScoringApi
from tabs.parts.panel import Change, Changes, RunPanel, Values
from tabs.parts.scorers import create_scorer, label_of, number
from tabs.parts.stage import drawn_by, picture_input, to_stage
from tabs.parts.turns import shared, waiting_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Look", "create_why", "pixels_value", "words_value"]

INVITATION = "Give a picture and its prompt, or press one among the scored pictures, and ask for its pixels or its words."
STARTS = {"pixels": "Which pixels", "words": "Which words"}
MAX_SIDE = 512


@dataclass(frozen=True, kw_only=True)
class Look:
    """What other areas fill in: the picture and its prompt."""

    picture: gr.Image
    prompt: gr.Textbox


def create_why(studio: ScoringApi) -> Look:
    """The components, handlers and wiring of the area; gives what a picture may be sent to.

    Args:
        studio: scores.
    """
    panel = RunPanel(studio, "why", "Look")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            picture = picture_input(label="Picture", sources=["upload", "clipboard"], height=220, elem_id="why-picture")
            prompt = gr.Textbox(label="Prompt", lines=2, max_lines=4, elem_id="why-prompt")
            scorer = create_scorer(studio, "why")
            starts = panel.create_presses(STARTS)
            more = gr.Textbox(
                label="Words to try as well", max_lines=2, elem_id="why-more", info="Tried in every place, separated by commas; none: leave out, and its like.",
            )
        with gr.Column(elem_classes="ds-stage-column"):
            panel.places["stage"] = drawn_by("why", '<div class="ds-stage ds-why"></div>', elem_id="why-stage", value=to_stage({"invitation": INVITATION}))

    def changes_of(kind: str) -> Changes:
        def changes(values: Values, switch: Event) -> Iterator[Change]:
            if not values[scorer]:
                raise InvalidOption("Choose a scorer first.")
            asked = Asked(
                picture=open_picture(values[picture], MAX_SIDE), prompt=(values[prompt] or "").strip(), scorer=values[scorer],
                more=[word.strip() for word in (values[more] or "").split(",") if word.strip()],
            )
            looking = SHOWN[kind](studio, asked)
            return shown(shared(studio.device, values[panel.session].asker, Work(name=f"look {kind}"), looking, switch), switch)
        return changes

    for kind, start in starts.items():
        panel.wire_run(changes_of(kind), [picture, prompt, scorer, more], [start.click])
    return Look(picture=picture, prompt=prompt)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is looked at."""

    picture: "Image.Image"
    prompt: str
    scorer: str
    more: list[str]


def shown(looking: Iterator[Change | Waiting], switch: Event) -> Iterator[Change]:
    yield {"status": "Loading the scorer."}
    for event in looking:
        yield {"status": waiting_line(event)} if isinstance(event, Waiting) else event
        if switch.is_set():
            yield {"status": "Stopped."}
            return


# --- pixels --------------------------------------------------------------------------------------------------

def pixels_shown(studio: ScoringApi, asked: Asked) -> Iterator[Change]:
    for event in studio.explain_score(asked.picture, asked.prompt, asked.scorer):
        if isinstance(event, Explanation):
            yield {"stage": pixels_value(studio, asked, event), "status": f"Score {event.score:.3f}. {agreement_line(event)}"}
        else:
            yield {"status": f"Painting patches over: {event:.0%}."}


def pixels_value(studio: ScoringApi, asked: Asked, found: Explanation) -> str:
    """JSON text for Studio.why: the picture and the two maps as grey sprites of one byte a place."""
    loss = found.occlusion
    reach = float(np.abs(loss).max()) or 1.0
    maps = [{
        "name": "occlusion", "label": "Occlusion", "about": f"what the score loses when the place is painted over, up to {loss.max():.3g}",
        "src": map_uri(np.clip(loss, 0, None) / reach), "smooth": True,
    }]
    if found.saliency is not None:
        top = float(np.quantile(found.saliency, 0.995)) or 1.0
        maps.insert(0, {
            "name": "saliency", "label": "Saliency", "about": "how much a small change of the pixel would change the score", "smooth": False,
            "src": map_uri(found.saliency / top),
        })
    return to_stage({"picture": data_uri(asked.picture), "title": titled(studio, asked, found.score), "maps": maps})


def map_uri(levels: np.ndarray) -> str:
    """(h, w) in 0..1 as a grey PNG."""
    return data_uri(np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)[..., None])


def agreement_line(found: Explanation) -> str:
    if found.saliency is None:
        return "This scorer has no gradient, so there is occlusion alone."
    if found.agreement is None:
        return "One of the maps is flat: there the score does not depend on the picture."
    word = "agree" if found.agreement > 0.5 else "agree in part" if found.agreement > 0.2 else "disagree"
    return f"The two maps {word} (Spearman {found.agreement:.2f})."


def titled(studio: ScoringApi, asked: Asked, score: float) -> str:
    return f"{label_of(studio, asked.scorer)['label']} {score:.3f}: {asked.prompt or 'no prompt'}"


# --- words ---------------------------------------------------------------------------------------------------

def words_shown(studio: ScoringApi, asked: Asked) -> Iterator[Change]:
    base, rows = 0.0, list[WordScores]()
    for event in studio.word_scores(asked.picture, asked.prompt, asked.scorer, asked.more):
        if isinstance(event, WordScores):
            rows.append(event)
        else:
            base = event
        yield {"stage": words_value(studio, asked, base, rows), "status": f"Score {base:.3f}; {len(rows)} words tried."}


def words_value(studio: ScoringApi, asked: Asked, base: float, rows: list[WordScores]) -> str:
    """JSON text for Studio.why: each word, and how the score changes with another in its place."""
    told: list[dict[str, Any]] = [
        {"word": row.word, "others": [{"word": word, "change": number(score - base)} for word, score in row.scores.items()]} for row in rows
    ]
    return to_stage({"picture": data_uri(asked.picture), "title": titled(studio, asked, base), "words": told})


SHOWN = {"pixels": pixels_shown, "words": words_shown}
