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


TO_PAINT = "To draw a part of it anew, choose Draw anew and paint there."
PAINTED = "What is not veiled is drawn anew."
# Where the whole of a large picture is painted on, it is shown no larger.
BOARD_SIDE = 768


@dataclass(frozen=True, kw_only=True)
class Start:
    """The components. controls: init_image, strength, the text of init_mask and how it acts, by the names of their options. board: the picture, to
    paint on. masked: around how the mask acts."""

    controls: Controls
    board: gr.HTML
    line: gr.HTML
    masked: gr.Column

    @property
    def restorable(self) -> list[Any]:
        """What an opened run sets besides the strength."""
        return [self.controls["init_image"], self.controls["init_mask"], self.board, self.masked]


def create_start(prefix: str) -> Start:
    """The components; the board is shown with a picture."""
    controls = create_controls(prefix, ("init_image", "strength"), strength=0.6)
    board = drawn_by("paint", '<div class="ds-stage ds-paint" data-modes="look mask" data-mask="Draw anew"></div>', elem_id=f"{prefix}-anew", visible=False)
    line = gr.HTML(elem_id=f"{prefix}-anew-line", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    with gr.Column(visible=False, elem_id=f"{prefix}-masked") as masked:
        controls |= create_controls(prefix, ("mask_blur", "mask_padding", "mask_overlay"), mask_padding=0)
    return Start(controls={**controls, "init_mask": gr.State("")}, board=board, line=line, masked=masked)


def wire_start(start: Start, sized: list[Any], size_of: Callable[..., tuple[int, int]]) -> None:
    """Another picture stands on the board without a mask. size_of: (width, height) of the run from the values of `sized`."""
    picture, mask, padding = (start.controls[name] for name in ("init_image", "init_mask", "mask_padding"))

    def on_picture(path: str | None, margin: Any, *values: Any) -> dict[Any, Any]:
        hidden = {start.board: gr.update(visible=False), start.masked: gr.update(visible=False), mask: "", start.line: ""}
        if not path:
            return hidden
        try:
            return {**hidden, start.board: gr.update(value=board_of(open_picture(path), margin, size_of(*values)), visible=True), start.line: TO_PAINT}
        except StudioError as error:
            return {**hidden, start.line: escape(str(error))}

    def on_padding(path: str | None, margin: Any, text: str, *values: Any) -> dict[Any, Any]:
        # What is painted already stays: a mask is known in either frame.
        if not path or text:
            return {start.board: gr.skip()}
        return {start.board: gr.update(value=board_of(open_picture(path), margin, size_of(*values)), visible=True)}

    def on_paint(event: gr.EventData) -> dict[Any, Any]:
        said = event_value(event, what=str, png=str)
        try:
            if said["png"]:
                map_from_text(said["png"])
            return {mask: said["png"], start.line: PAINTED if said["png"] else TO_PAINT, start.masked: gr.update(visible=bool(said["png"]))}
        except BadImage as error:
            return {start.line: escape(str(error))}

    shown = [start.board, start.masked, mask, start.line]
    gr.on([picture.upload, picture.clear, picture.input], on_picture, [picture, padding, *sized], shown, **CHEAP)
    padding.input(on_padding, [picture, padding, mask, *sized], start.board, **CHEAP)
    start.board.select(on_paint, None, [mask, start.line, start.masked], **CHEAP)


def board_of(picture: Image.Image, padding: Any, size: tuple[int, int]) -> str:
    """A picture without a mask, to paint on: as the run shows it, or all of it where only the masked part is worked on."""
    return painted(picture, "", frame_of(picture, padding, size))


def frame_of(picture: Image.Image, padding: Any, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in which a mask is painted. size: of the run."""
    if not padding:
        return size
    scale = min(1.0, BOARD_SIDE / max(picture.size))
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def painted(picture: Image.Image, mask: str, size: tuple[int, int]) -> str:
    """A picture as Studio.paint takes it, cut to the size of the run as the run does."""
    width, height = size
    return to_stage({"map": data_uri(fit(picture.convert("RGB"), width, height)), "width": width, "height": height, "mask": mask, "binary": False})


def restored_start(start: Start, options: SampleOptions, size: tuple[int, int]) -> dict[Any, Any]:
    """The components for a run that was kept."""
    picture, mask, board, masked = start.restorable
    if options.init_image is None:
        return {picture: None, mask: "", board: gr.update(visible=False), masked: gr.update(visible=False)}
    size = frame_of(options.init_image, options.mask_padding, size)
    text = map_to_text(options.init_mask) if options.init_mask is not None else ""
    shown = painted(options.init_image, map_to_text(fit(options.init_mask.convert("RGB"), *size)) if options.init_mask is not None else "", size)
    return {picture: options.init_image, mask: text, board: gr.update(value=shown, visible=True), masked: gr.update(visible=bool(text))}
