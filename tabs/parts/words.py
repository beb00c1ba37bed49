"""What the model reads: the tokens of a prompt, and the numbers that the text encoder makes of them."""

from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.conditions import AS_TRAINED, NOTHING_ADDED, Added, TextsTold
from studio.errors import StudioError
from studio.models.catalogue import MODELS
from studio.models.weighting import plain_text
from studio.options import SampleOptions
from studio.toybox import unknown_words
from tabs.parts.api import TextApi
from tabs.parts.stage import drawn_by, to_stage

if TYPE_CHECKING:
    from studio.models.prompts import Reading, Tokens

__all__ = ["create_words", "words_of", "unknown_line", "tokens_of", "at_hand"]

# Colours reach out to so many deviations of the embedding; the few dimensions that CLIP lets grow far beyond are clipped.
DEVIATIONS = 3.0
# So many unknown words are named.
MOST_NAMED = 3


def create_words(elem_id: str, value: str = "") -> gr.HTML:
    """Chips and a heat map, drawn by assets/ui/embedding.js; the value is what `words_of` gives."""
    return drawn_by("words", '<div class="ds-words"></div>', elem_id=elem_id, value=value)


def words_of(studio: TextApi, model: str | None, prompt: str, texts: TextsTold = AS_TRAINED, added: Added = NOTHING_ADDED) -> str:
    """JSON text: for each text encoder its tokens with what they are, what was cut off, its states and its pooled vector; or a note.

    One encoder without a pooled vector stands for itself. texts: how the encoders read. added: what is put into the model; it counts where a
    model with that is in memory already.
    """
    if not model:
        return to_stage({"note": ""})
    if not at_hand(studio, model):
        return to_stage({"note": "The model's own tokenizer says how it reads the prompt: press Generate once to load it."})
    added = added if (model, str(added)) in [(one.name, one.added) for one in studio.residents()] else NOTHING_ADDED
    try:
        shown = [reading_shown(reading) for reading in studio.readings(model, prompt, texts, added)]
    except StudioError as error:
        return to_stage({"note": str(error)})
    alone = len(shown) == 1 and "pooled" not in shown[0]
    return to_stage({"prompt": prompt, **({name: value for name, value in shown[0].items() if name != "encoder"} if alone else {"encoders": shown})})


def unknown_line(model: str | None, prompt: str | None) -> str:
    """HTML: which words of the prompt the small world of an embedded model does not hold; empty where there is none, or for any other model."""
    entry = MODELS.get(model or "")
    unknown = unknown_words(plain_text(prompt or "")) if entry and entry.embedded and entry.text else ()
    if not unknown:
        return ""
    named = [f"“{escape(word)}”" for word in unknown[:MOST_NAMED]]
    if more := len(unknown) - len(named):
        named.append(f"{more} more")
    if len(named) == 1:
        return f"{named[0]} is not a word of this model's world."
    return f"{', '.join(named[:-1])} and {named[-1]} are not words of this model's world."


def reading_shown(reading: "Reading") -> dict[str, Any]:
    """What an encoder makes of a prompt, or the note that says why it reads nothing."""
    if reading.tokens is None or reading.states is None:
        return {"encoder": reading.encoder, "note": reading.note}
    pooled = {} if reading.pooled is None else {"pooled": {**levels_of(reading.pooled[None]), "norm": float(np.linalg.norm(reading.pooled))}}
    return {
        "encoder": reading.encoder, "limit": reading.tokens.limit, "cut_off": reading.tokens.cut_off, **tokens_shown(reading.tokens),
        "embedding": levels_of(reading.states), **pooled,
    }


def tokens_shown(tokens: "Tokens") -> dict[str, Any]:
    """Tokens with what each is; of a long prompt chunk by chunk, each with marks of its own."""
    shown, last = [], "piece"
    for place, token in enumerate(tokens.tokens):
        starts = tokens.begins and place % tokens.limit == 0
        last = "start" if starts else "piece" if token.word is not None else "end" if last in ("start", "piece") else "padding"
        weight = {} if token.weight == 1 else {"weight": round(token.weight, 3)}
        shown.append({"id": token.id, "text": token.text, "word": token.word, "kind": last, **weight})
    return {"tokens": shown}


def levels_of(states: np.ndarray) -> dict[str, Any]:
    """(L, D) as bytes: 0 is -reach, 255 is reach."""
    reach = float(DEVIATIONS * states.std()) or 1.0
    levels = np.rint(127.5 * (1 + np.clip(states / reach, -1, 1))).astype(np.uint8)
    return {"rows": states.shape[0], "columns": states.shape[1], "reach": reach, "levels": b64encode(levels.tobytes()).decode()}


def tokens_of(studio: TextApi, options: SampleOptions, even_unloaded: bool = True) -> "Tokens | None":
    """The tokens of a run's prompt, where its attention was recorded and its model is at hand."""
    if not options.record_attention or not (even_unloaded or at_hand(studio, options.model)):
        return None
    try:
        return studio.tokens(options.model, options.prompt, options.added)
    except StudioError:
        return None


def at_hand(studio: TextApi, model: str) -> bool:
    """Whether the model can be asked without a download or a long load."""
    return model in [one.name for one in studio.residents()] or (model in studio.models and studio.models[model].embedded)
