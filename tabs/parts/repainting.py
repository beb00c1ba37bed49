"""The picture that a run starts from, and what of it is drawn anew: a mask painted on it (inpainting)."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from studio.errors import BadImage, StudioError
from studio.media.data_uris import data_uri
from studio.media.images import fit
from studio.media.maps import map_from_text, map_to_text
from studio.media.uploads import open_picture
from studio.options import SampleOptions
from tabs.parts.arguments import event_value
from tabs.parts.controls import Controls, create_controls
from tabs.parts.stage import CHEAP, drawn_by, to_stage

__all__ = ["Start", "create_start", "restored_start", "wire_start"]


@dataclass(frozen=True, kw_only=True)
class Start:
    """The components. controls: init_image, strength and the text of init_mask, by the names of their options. board: the picture, to paint on."""

    controls: Controls
    board: gr.HTML
    line: gr.HTML

    @property
    def restorable(self) -> list[Any]:
        """What an opened run sets besides the strength."""
        return [self.controls["init_image"], self.controls["init_mask"], self.board]


def create_start(prefix: str) -> Start:
    """The components; the board is shown with a picture."""
    controls = create_controls(prefix, ("init_image", "strength"), strength=0.6)
    board = drawn_by("paint", '<div class="ds-stage ds-paint" data-modes="look mask" data-mask="Draw anew"></div>', elem_id=f"{prefix}-anew", visible=False)
    line = gr.HTML(elem_id=f"{prefix}-anew-line", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    return Start(controls={**controls, "init_mask": gr.State("")}, board=board, line=line)


def wire_start(start: Start, sized: list[Any], size_of: Callable[..., tuple[int, int]]) -> None:
    """Another picture stands on the board without a mask. size_of: (width, height) of the run from the values of `sized`."""
    picture, mask = start.controls["init_image"], start.controls["init_mask"]

    def on_picture(path: str | None, *values: Any) -> dict[Any, Any]:
        if not path:
            return {start.board: gr.update(visible=False), mask: "", start.line: ""}
        try:
            return {start.board: gr.update(value=painted(open_picture(path), "", size_of(*values)), visible=True), mask: "", start.line: ""}
        except StudioError as error:
            return {start.board: gr.update(visible=False), mask: "", start.line: escape(str(error))}

    def on_paint(event: gr.EventData) -> dict[Any, Any]:
        said = event_value(event, what=str, png=str)
        try:
            if said["png"]:
                map_from_text(said["png"])
            return {mask: said["png"], start.line: "What is not veiled is drawn anew." if said["png"] else ""}
        except BadImage as error:
            return {start.line: escape(str(error))}

    gr.on([picture.upload, picture.clear, picture.input], on_picture, [picture, *sized], [start.board, mask, start.line], **CHEAP)
    start.board.select(on_paint, None, [mask, start.line], **CHEAP)


def painted(picture: Image.Image, mask: str, size: tuple[int, int]) -> str:
    """A picture as Studio.paint takes it, cut to the size of the run as the run does."""
    width, height = size
    return to_stage({"map": data_uri(fit(picture.convert("RGB"), width, height)), "width": width, "height": height, "mask": mask, "binary": False})


def restored_start(start: Start, options: SampleOptions, size: tuple[int, int]) -> dict[Any, Any]:
    """The components for a run that was kept."""
    picture, mask, board = start.restorable
    if options.init_image is None:
        return {picture: None, mask: "", board: gr.update(visible=False)}
    text = map_to_text(options.init_mask) if options.init_mask is not None else ""
    shown = painted(options.init_image, map_to_text(fit(options.init_mask.convert("RGB"), *size)) if options.init_mask is not None else "", size)
    return {picture: options.init_image, mask: text, board: gr.update(value=shown, visible=True)}
