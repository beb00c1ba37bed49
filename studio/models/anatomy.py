"""The parts of a loaded model as a real forward pass goes through them, and the VAE's round trip of a picture.

    prompt -> text encoder -> states            latents, t, states -> UNet (down, mid, up) -> prediction
    picture -> VAE encoder -> latents -> VAE decoder -> picture         PSNR = 10 log10(2^2 / MSE) for values in [-1, 1]
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.checks import require_float, require_int
from studio.errors import InvalidOption
from studio.media.images import fit, from_images, to_image, to_images
from studio.models.conditioning import batched
from studio.options import SampleOptions

if TYPE_CHECKING:
    from studio.models.contract import DiffusionModel

__all__ = ["Part", "RoundTrip", "anatomy", "vae_round_trip"]

MAX_PERTURB = 10.0
LABELS = {
    "text_encoder": "Text encoder", "text_encoder_2": "Second text encoder", "text_encoder_3": "Third text encoder (T5)",
    "depth_estimator": "Depth estimator", "image_encoder": "Picture encoder", "image_normalizer": "Normalizer of its embedding",
    "unet": "UNet", "transformer": "Transformer",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module of the model. depth: 0 for a network, 1 for a part of it. parameters: how many numbers; memory_mib: of its
    weights as they lie. shape_in, shape_out: of the first tensor in and out, for one picture; () where none passed."""

    name: str
    label: str
    depth: int
    parameters: int
    memory_mib: float
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """What the VAE makes of a picture.

    original: cut and resized to fit. reconstruction: decoded again. psnr_db: between the two, infinite where they are equal.
    channels: the latents' channels as grey pictures, each from its 1st to its 99th percentile. latents: (C, h, w) float32
    in the model's scale, as they were decoded.
    """

    original: Image.Image
    reconstruction: Image.Image
    psnr_db: float
    channels: list[Image.Image]
    latents: np.ndarray


# --- the parts -----------------------------------------------------------------------------------------------

def anatomy(model: "DiffusionModel", prompt: str = "") -> list[Part]:
    """The parts in the order in which a run meets them, traced by hooks through one forward pass of one picture."""
    modules = _modules(model)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    with _traced(modules, shapes), torch.inference_mode():
        _pass_through(model, prompt)
    return [_part(name, label, depth, module, *shapes.get(name, ((), ()))) for name, label, depth, module in modules]


Named = tuple[str, str, int, Any]


def _modules(model: "DiffusionModel") -> list[Named]:
    """The networks in the order in which a run meets them; a VAE is its two halves."""
    modules: list[Named] = []
    for name, part in model.parts.items():
        if name == "vae":
            for half in ("encoder", "decoder"):
                modules += _blocks(f"vae.{half}", f"VAE {half}", getattr(part, half))
        elif name.startswith("text_encoder") or name in ("depth_estimator", "image_encoder", "image_normalizer"):
            modules.append((name, LABELS[name], 0, part))
        else:
            modules += _blocks(name, LABELS[name], part)
    return modules


def _blocks(name: str, label: str, network: Any) -> list[Named]:
    """A network and its parts, in the order of the data: into it, down, middle, up, out of it."""
    parts: list[Named] = [(name, label, 0, network)]
    decodes = name.endswith("decoder")
    for attribute, words in (
        ("time_embedding", "time embedding"), ("add_embedding", "size and pooled prompt"), ("time_text_embed", "time and pooled prompt"),
        ("conv_in", "into it"), ("pos_embed", "patches"), ("context_embedder", "words"), ("down_blocks", "down"), ("mid_block", "middle"),
        ("up_blocks", "up"), ("transformer_blocks", "block"), ("conv_out", "out of it"), ("proj_out", "out of it"), ("proj_out_2", "out of it"),
    ):
        module = getattr(network, attribute, None)
        if module is None or (decodes and attribute == "down_blocks"):
            continue
        if isinstance(module, torch.nn.ModuleList):
            parts += [(f"{name}.{attribute}.{i}", f"{words} {i + 1}", 1, block) for i, block in enumerate(module)]
        else:
            parts.append((f"{name}.{attribute}", words, 1, module))
    return parts


@contextmanager
def _traced(modules: Sequence[Named], shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[None]:
    """Hooks that note the shapes of the first tensor in and out of each module."""
    handles = [module.register_forward_hook(_noting(name, shapes), with_kwargs=True) for name, _, _, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _noting(name: str, shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Callable[..., None]:
    def note(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        shapes[name] = _shape((*args, *kwargs.values())), _shape(output)

    return note


def _shape(value: Any) -> tuple[int, ...]:
    """Of the first tensor with more than one dimension, wherever it is."""
    if isinstance(value, Tensor):
        return tuple(value.shape) if value.ndim > 1 else ()
    values = value.values() if hasattr(value, "values") else value if isinstance(value, (tuple, list)) else ()
    return next((shape for shape in map(_shape, values) if shape), ())


def _pass_through(model: "DiffusionModel", prompt: str) -> None:
    # Some models only go on with a picture.
    options = SampleOptions(model=model.name, prompt=prompt if model.prompts else "", init_image=Image.new("RGB", (8, 8)))
    state = torch.zeros(1, *model.state_shape(options), device=model.device)
    if model.prompts is not None:
        # Not through the cache of embeddings: the encoders are to be seen at work.
        model.prompts.encode_afresh(prompt, model.device)
    cond, _ = model.condition(options)
    model.predict(state, 1.0, batched([cond], 1))
    _, height, width = (side * model.factor for side in state.shape[1:])
    if model.rgb_map is not None:
        pictures = torch.zeros(1, model.info.channels, height, width)
        model.decode(model.encode(pictures, [torch.Generator()]))


def _part(name: str, label: str, depth: int, module: Any, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> Part:
    weights = list(module.parameters())
    memory = sum(weight.numel() * weight.element_size() for weight in weights) / 2**20
    parameters = sum(weight.numel() for weight in weights)
    return Part(name=name, label=label, depth=depth, parameters=parameters, memory_mib=memory, shape_in=shape_in, shape_out=shape_out)


# --- the round trip ------------------------------------------------------------------------------------------

def vae_round_trip(model: Any, picture: Image.Image, perturb: float = 0.0, seed: int = 0) -> RoundTrip:
    """Encode a picture, move its latents by `perturb` times unit noise (0 to 10, drawn from `seed`), and decode it.

    Raises InvalidOption.
    """
    if model.rgb_map is None:
        raise InvalidOption(f"{model.info.label} is a pixel model: it has no latents; choose a text-to-image model.")
    require_float("perturb", perturb, 0.0, MAX_PERTURB)
    require_int("seed", seed, 0, 2**63 - 1)
    original = fit(picture.convert("RGB"), model.info.width, model.info.height)
    x = from_images([original])
    with torch.inference_mode():
        latents = model.scaled(model.posterior(x)[0])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents.device)
        latents = latents + perturb * noise
        decoded = model.decode(latents).clamp(-1, 1).cpu()
    error = float(((decoded - x) ** 2).mean())
    return RoundTrip(
        original=original, reconstruction=to_images(decoded)[0], psnr_db=10 * float(np.log10(4 / error)) if error else float("inf"),
        channels=[_grey(channel) for channel in latents[0].float().cpu().numpy()], latents=latents[0].float().cpu().numpy(),
    )


def _grey(channel: np.ndarray) -> Image.Image:
    low, high = np.percentile(channel, (1, 99))
    scaled = np.clip((channel - low) / max(high - low, 1e-6), 0, 1)
    return to_image(np.rint(scaled * 255).astype(np.uint8)[..., None])
