"""Latents as small pictures without the decoder: rgb = weight . latent + bias, fitted once for each VAE.

Over pictures p with latents z = E(p), least squares of the decoder's own picture D(z), averaged over each latent's
pixels, on z: a dozen numbers a VAE, microseconds a step. The real decoder is for the steps that somebody opens.
Pixel runs pass through the same functions untouched, so whoever shows a run need not ask what kind it is.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.errors import BadRunFile
from studio.images import fit, from_images
from studio.pictures import PICTURES, load_picture

if TYPE_CHECKING:
    from PIL import Image

    from studio.models import LatentModel

__all__ = ["RgbMap", "rgb_map_of", "as_pictures", "preview", "cache_folder"]

# Photographs for real VAEs, drawn scenes for Toybox's own; both for each, since a VAE does not say what it has seen.
NUM_SCENES = 12
# Enough latents to fit five numbers a channel, and quick on a CPU.
MAX_SIDE = 256
STREAMS_OF_NOISE = ("eps_hat", "eps_uncond", "eps_cond")


@dataclass(frozen=True, kw_only=True)
class RgbMap:
    """weight: (3, C), bias: (3,) float32: latents in the model's scale -> rgb in [-1, 1]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """(..., C, h, w) -> (..., 3, h, w), on the latents' device."""
        weight, bias = self.weight.to(latents.device), self.bias.to(latents.device)
        return torch.einsum("rc,...chw->...rhw", weight, latents.float()) + bias[:, None, None]

    def noise(self, eps: Tensor) -> Tensor:
        """(..., C, h, w) unit normal -> (..., 3, h, w) of deviation 1/3 each, so that three deviations fill the range."""
        weight = self.weight / self.weight.norm(dim=1, keepdim=True).clamp(min=1e-6) / 3
        return torch.einsum("rc,...chw->...rhw", weight.to(eps.device), eps.float())

    def to_json(self) -> dict[str, list]:
        """As lists of numbers, for a run file's metadata and the cache."""
        return {"weight": self.weight.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "RgbMap":
        """The inverse of `to_json`. Raises BadRunFile if the numbers are of no map."""
        try:
            weight, bias = torch.tensor(values["weight"], dtype=torch.float32), torch.tensor(values["bias"], dtype=torch.float32)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.") from error
        if weight.ndim != 2 or weight.shape[0] != 3 or bias.shape != (3,):
            raise BadRunFile("The colours of this run's latents are damaged; save it again from the studio.")
        return cls(weight=weight, bias=bias)


def as_pictures(states: Tensor, stream: str, rgb_map: RgbMap | None) -> Tensor:
    """States of any kind of run as pictures to look at.

    Args:
        states: (..., C, H, W) of a stream; stream: its name, since noise is drawn at a third of its deviation.
        rgb_map: of a latent run; None for a pixel run.
    Returns:
        (..., 3, h, w) of a latent run, one pixel a latent; (..., C, H, W) of a pixel run. About [-1, 1], float32.
    """
    if stream == "clip_gradient":
        # Only its direction and where it is strong are of interest: its size falls by orders in a run.
        states = states.float() / states.float().std(dim=(-3, -2, -1), keepdim=True).clamp(min=1e-12)
    noise = stream in STREAMS_OF_NOISE or stream == "clip_gradient"
    if rgb_map is None:
        return states.float() / 3 if noise else states.float()
    return rgb_map.noise(states) if noise else rgb_map(states)


def preview(model: Any, latents: Tensor) -> Tensor:
    """(..., C, h, w) states of a loaded model -> (..., 3, h, w) pictures in about [-1, 1]; a pixel model's own come back."""
    return as_pictures(latents, "x0_hat", model.rgb_map)


# --- the fit -------------------------------------------------------------------------------------------------

def rgb_map_of(model: "LatentModel") -> RgbMap:
    """The map of the model's VAE: from the cache beside the studio's other ones, else fitted and kept there."""
    path = cache_folder() / "previews" / f"{_fingerprint(model)}.json"
    try:
        return RgbMap.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):
        fitted = fit_rgb_map(model, [load_picture(name) for name in PICTURES] + [load_picture("toybox", seed) for seed in range(1, NUM_SCENES)])
    _keep(path, fitted)
    return fitted


def fit_rgb_map(model: "LatentModel", pictures: "Sequence[Image.Image]") -> RgbMap:
    """Least squares of the decoder's pooled pictures on the latents of the given pictures."""
    side = min(MAX_SIDE, model.info.width, model.info.height) // model.factor * model.factor
    latents, colours = [], []
    for picture in pictures:
        mean, _ = model.posterior(from_images([fit(picture.convert("RGB"), side, side)]))
        with torch.no_grad():
            decoded = model.decode(model.scaled(mean)).clamp(-1, 1)
        colours.append(torch.nn.functional.avg_pool2d(decoded, model.factor).movedim(1, -1).reshape(-1, 3).cpu())
        latents.append(model.scaled(mean).movedim(1, -1).reshape(-1, mean.shape[1]).cpu())
    return _least_squares(torch.cat(latents), torch.cat(colours))


def _least_squares(latents: Tensor, colours: Tensor) -> RgbMap:
    """latents (N, C), colours (N, 3) -> the map with the smallest squared error."""
    design = torch.cat([latents, torch.ones(len(latents), 1)], dim=1).double()
    # "gelsd" bears a VAE that leaves a channel constant.
    solution = torch.linalg.lstsq(design, colours.double(), driver="gelsd").solution.float()
    return RgbMap(weight=solution[:-1].T.contiguous(), bias=solution[-1].contiguous())


def _fingerprint(model: "LatentModel") -> str:
    """Of the VAE's weights at its two ends and its scale: the same VAE in another model has the same map."""
    vae = model.vae
    parts = [vae.encoder.conv_in.weight, vae.encoder.conv_out.weight, vae.decoder.conv_in.weight, vae.decoder.conv_out.weight]
    digest = sha256(f"{vae.config.scaling_factor} {model.factor}".encode())
    for part in parts:
        # Offloaded weights can lie on "meta"; the config then has to do.
        digest.update(part.detach().half().cpu().numpy().tobytes() if part.device.type != "meta" else model.name.encode())
    return digest.hexdigest()[:24]


def cache_folder() -> Path:
    """Where the studio keeps what it can compute again: DIFFUSION_STUDIO_CACHE, else ~/.cache/diffusion-studio."""
    return Path(os.environ.get("DIFFUSION_STUDIO_CACHE") or Path.home() / ".cache" / "diffusion-studio")


def _keep(path: Path, fitted: RgbMap) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved, so that nobody ever reads half a file.
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(fitted.to_json()))
        draft.replace(path)
    except OSError:
        # A read-only home costs a second at the next start, no more.
        return
