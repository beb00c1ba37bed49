"""The anatomy of a model: its parts as a forward pass meets them, and what its VAE makes of one's own picture."""

import math
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from studio.errors import InvalidOption
from studio.media.data_uris import data_uri
from studio.media.images import fit
from studio.media.pictures import PICTURES, load_picture
from studio.media.uploads import open_picture
from tabs.parts.api import TextApi
from tabs.parts.openings import Opening, recorded
from tabs.parts.panel import DEVICE
from tabs.parts.stage import CHEAP, PRIVATE, drawn_by, menu_of, picture_input, said_in_a_sentence, to_stage, unchecked
from tabs.parts.turns import alone
from tabs.parts.visitors import asker_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from studio.models.patches import Patches

__all__ = ["create_area", "patches_shown", "record"]

FIRST_PICTURE = "toybox"
OF_TAB = "that of the picture"
# So many dimensions of the vectors of places are shown, from the first to the last.
DIMENSIONS = 12
MAX_PERTURB = 3.0

ABOUT = r"""
A latent diffusion model is three networks. The **text encoder** turns the tokens into states; the **U-Net** is asked at every step what noise
it sees in the latents, and looks at those states through cross-attention; the **VAE** knows the way from pictures to latents and back, and is
needed only at the two ends. The numbers come from a real forward pass. In DiT and Stable Diffusion 3 a **transformer** on patches stands in the
U-Net's place: what a patch is and what it is told of its place is shown with it.
"""
ABOUT_VAE = r"""
### Through the VAE and back

What the VAE cannot give back, no prompt can draw. $\mathrm{PSNR} = 10\log_{10}\left(2^2 / \mathrm{MSE}\right)$ for values in $[-1, 1]$: 30 dB looks alike,
40 dB the same. Latents moved by noise still decode to something like the picture: that is why diffusion may work in them.
"""
LATEX: list[dict[str, str | bool]] = [{"left": "$", "right": "$", "display": False}]


def create_area(studio: TextApi, model: gr.Dropdown, prompt: gr.Textbox) -> Any:
    """The components, handlers and wiring; gives the event of the tracing, to hang more on.

    Args:
        studio: takes models apart.
        model, prompt: of the tab, which this area is about.
    """
    gr.Markdown(ABOUT, elem_classes="ds-about")
    with gr.Row(elem_classes="ds-chain-controls"):
        taken = create_choice(studio)
        look = gr.Button("Take it apart", variant="primary", min_width=140, scale=0, elem_id="anatomy-look")
        note = gr.HTML(elem_id="anatomy-note", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    parts = drawn_by("anatomy", '<div class="ds-stage ds-anatomy"></div>', elem_id="anatomy-parts", value=recorded("anatomy", "parts"))

    gr.Markdown(ABOUT_VAE, latex_delimiters=LATEX, elem_classes="ds-about")
    with gr.Row(elem_classes="ds-layout"):
        with gr.Column(elem_classes="ds-controls"):
            example, upload = create_pictures()
            perturb = gr.Slider(
                0, MAX_PERTURB, 0, step=0.05, label="Move the latents by", info="Times unit noise. 1 is as much as the latents themselves vary.",
                elem_id="anatomy-perturb",
            )
            seed = gr.Number(0, label="Seed of that noise", precision=0, elem_id="anatomy-seed")
            send = gr.Button("There and back", variant="primary", elem_id="anatomy-send")
        with gr.Column(elem_classes="ds-stage-column"):
            trip = drawn_by("roundTrip", '<div class="ds-stage ds-trip"></div>', elem_id="anatomy-trip", value=recorded("anatomy", "trip"))

    def on_look(
        name: str | None, of_tab: str | None, text: str, example: str, upload: str | None, request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            asked, picture = chosen(name or of_tab), picture_of(example, upload)

            def apart() -> dict[str, Any]:
                return {**parts_shown(studio.anatomy(asked, text)), **patches_shown(studio.patches(asked), picture)}

            found = yield from alone(studio.device, asker_of(request), "take apart", apart, note)
            yield {parts: to_stage(found), note: ""}

    def on_send(
        name: str | None, of_tab: str | None, example: str, upload: str | None, perturb: float, seed: int, request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        with said_in_a_sentence():
            asked, picture = chosen(name or of_tab), picture_of(example, upload)

            def there_and_back() -> Any:
                return studio.vae_round_trip(asked, picture, perturb=perturb, seed=seed)

            shown = trip_shown((yield from alone(studio.device, asker_of(request), "there and back", there_and_back, note)))
            yield {trip: to_stage({"perturb": perturb, **shown}), note: ""}

    looked = look.click(lambda: "Tracing a forward pass.", None, note, **CHEAP)
    looked = looked.then(on_look, [taken, model, prompt, example, upload], [parts, note], **PRIVATE, **DEVICE)
    looked.failure(lambda: "", None, note, **CHEAP)
    inputs, events = [taken, model, example, upload, perturb, seed], [send.click, example.input, upload.input, perturb.change, seed.submit]
    gr.on(events, on_send, inputs, [trip, note], trigger_mode="always_last", **PRIVATE, **DEVICE)
    return looked


def create_choice(studio: TextApi) -> gr.Dropdown:
    """The model that is looked at: that of the tab, or any other, also of those that read no words."""
    menu = [(OF_TAB, ""), *menu_of(studio, text=True), *menu_of(studio, text=False)]
    return unchecked(gr.Dropdown(
        menu, value="", label="Model", allow_custom_value=not studio.public, elem_id="anatomy-model", scale=0, min_width=240,
    ))


def create_pictures() -> tuple[gr.Dropdown, gr.Image]:
    """An example, and one's own picture in its place."""
    example = gr.Dropdown([(one.label, name) for name, one in PICTURES.items()], value=FIRST_PICTURE, label="Picture", elem_id="anatomy-example")
    upload = picture_input(label="Or your own", sources=["upload", "webcam", "clipboard"], height=170, elem_id="anatomy-upload")
    return example, upload


def record(studio: TextApi, model: str, prompt: str) -> Opening:
    """What the area opens with: the parts of a model, and a picture through its VAE."""
    parts = parts_shown(studio.anatomy(model, prompt))
    trip = trip_shown(studio.vae_round_trip(model, load_picture(FIRST_PICTURE, seed=1)))
    told = {"title": f"A recorded look at {studio.describe(model).label}"}
    return Opening(
        made_with={"model": model, "prompt": prompt, "picture": FIRST_PICTURE},
        places={"parts": to_stage({**parts, **told}), "trip": to_stage({"perturb": 0, **trip, **told})},
    )


def chosen(model: str | None) -> str:
    if not model:
        raise InvalidOption("Choose a model first.")
    return model


def picture_of(example: str, upload: str | None) -> "Image":
    """One's own picture, or one of the examples."""
    return open_picture(upload) if upload else load_picture(example, seed=1)


def patches_shown(patches: "Patches | None", picture: "Image") -> dict[str, Any]:
    """A transformer's patches as the page draws them, on a picture: how alike their places are, and some dimensions of what tells them apart."""
    if patches is None:
        return {}
    positions, (rows, columns), alike = patches.positions.numpy(), patches.grid, patches.alike().numpy()
    reach = float(np.abs(positions).max()) or 1.0
    indices = np.unique(np.linspace(0, len(positions) - 1, DIMENSIONS).round().astype(int))
    levels = np.rint(127.5 * (1 + positions[indices] / reach)).astype(np.uint8)
    shown = {
        "grid": [rows, columns], "pixels": patches.pixels, "side": patches.side, "channels": patches.channels, "width": len(positions),
        "picture": data_uri(fit(picture.convert("RGB"), columns * patches.pixels, rows * patches.pixels)),
        "alike": {"grid": list(alike.shape[:2]), "levels": b64encode(alike.tobytes()).decode()},
        "dimensions": {"indices": indices.tolist(), "reach": reach, "levels": b64encode(levels.tobytes()).decode()},
    }
    return {"patches": shown}


def parts_shown(parts: list[Any]) -> dict[str, Any]:
    """The parts as the page draws them."""
    names: tuple[str, ...] = ("name", "label", "depth", "parameters", "memory_mib", "shape_in", "shape_out")
    return {"parts": [{name: getattr(part, name) for name in names} for part in parts]}


def trip_shown(trip: Any) -> dict[str, Any]:
    """A round trip as the page draws it; an infinite PSNR travels as null."""
    return {
        "original": data_uri(trip.original), "reconstruction": data_uri(trip.reconstruction), "psnr_db": trip.psnr_db if math.isfinite(trip.psnr_db) else None,
        "channels": [data_uri(channel) for channel in trip.channels], "size": list(trip.original.size), "shape": list(trip.latents.shape),
        "mean": float(trip.latents.mean()), "deviation": float(trip.latents.std()),
    }
