"""What may be put into a model: the files in the studio's folders to choose from, and the words that those which are chosen are called by."""

from html import escape
from pathlib import PurePath
from typing import Any

import gradio as gr

from studio.additions import called
from studio.errors import StudioError
from tabs.parts.api import SamplingApi
from tabs.parts.controls import Controls, read
from tabs.parts.stage import CHEAP, unchecked

__all__ = ["create_shelf"]

# The option that a file of a kind is named under, and the kind in words.
PLACES = {"lora": ("added.loras", "LoRA"), "embedding": ("added.embeddings", "Embedding"), "vae": ("added.vae", "VAE")}
NOTHING = "Put .safetensors files into a folder that the studio was started with (--folder PATH), and they are listed here."


def create_shelf(studio: SamplingApi, prefix: str, controls: Controls) -> None:
    """A menu of the files that there are, which writes the chosen one into its control, and the line of words below."""
    choices = menu(studio)
    taken = unchecked(gr.Dropdown(choices, value=None, label="Take a file", info="" if choices else NOTHING, elem_id=f"{prefix}-added-take"))
    line = gr.HTML(elem_id=f"{prefix}-added-words", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    places = [controls[name] for name, _ in PLACES.values()]

    def on_take(said: str | None, *texts: str | None) -> dict[Any, Any]:
        kind, _, path = (said or "").partition(":")
        if kind not in PLACES:
            return {taken: None}
        index = list(PLACES).index(kind)
        return {places[index]: path if kind == "vae" else with_line(texts[index] or "", path), taken: None}

    taken.focus(lambda: gr.update(choices=menu(studio), info="" if menu(studio) else NOTHING), None, taken, **CHEAP)
    taken.input(on_take, [taken, *places], [*places, taken], **CHEAP)
    gr.on([place.change for place in places], lambda *texts: words_line(studio, *texts), places, line, trigger_mode="always_last", **CHEAP)


def menu(studio: SamplingApi) -> list[tuple[str, str]]:
    """Labels, and kind and path of each file."""
    return [(f"{label}: {called(file.path)}", f"{kind}:{file.path}") for kind, (_, label) in PLACES.items() for file in studio.shelf(kind)]


def with_line(text: str, line: str) -> str:
    """The text with one more line, unless it has it."""
    return text if line in text.splitlines() else f"{text.rstrip()}\n{line}".lstrip()


def words_line(studio: SamplingApi, loras: str | None, embeddings: str | None, vae: str | None) -> str:
    """HTML: by what words the LoRAs and embeddings that are named are called; or what is wrong with how they are written."""
    try:
        named = {called(lora.file) for lora in read("added.loras", loras)} | {PurePath(file).stem for file in read("added.embeddings", embeddings)}
    except StudioError as error:
        return escape(str(error))
    files = [file for kind in ("lora", "embedding") for file in studio.shelf(kind) if called(file.path) in named]
    said = [f"{called(file.path)}: {', '.join(file.words) if file.words else 'it names no words of its own'}" for file in files]
    return f"Words to write in the prompt. {escape('; '.join(said))}." if said else ""
