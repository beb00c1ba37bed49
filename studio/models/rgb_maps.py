"""The linear map from a VAE's latents to small pictures, fitted once for each VAE and kept.

Over pictures p with latents z = E(p), least squares of the decoder's own picture D(z), averaged over each latent's
pixels, on z: a dozen numbers a VAE.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.files import cache_folder, write_text
from studio.media.images import fit, from_images
from studio.media.pictures import PICTURES, load_picture
from studio.media.previews import RgbMap

if TYPE_CHECKING:
    from PIL import Image


__all__ = ["rgb_map_of", "fit_rgb_map"]

# Photographs for real VAEs, drawn scenes for Toybox's own; both for each, since a VAE does not say what it has seen.
NUM_SCENES = 12
# Enough latents to fit five numbers a channel, and quick on a CPU.
MAX_SIDE = 256


def rgb_map_of(model: Any) -> RgbMap:
    """The map of the model's VAE: from the cache beside the studio's other ones, else fitted and kept there."""
    path = cache_folder() / "previews" / f"{_fingerprint(model)}.json"
    try:
        return RgbMap.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):
        fitted = fit_rgb_map(model, [load_picture(name) for name in PICTURES] + [load_picture("toybox", seed) for seed in range(1, NUM_SCENES)])
    _keep(path, fitted)
    return fitted


def fit_rgb_map(model: Any, pictures: "Sequence[Image.Image]") -> RgbMap:
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


def _fingerprint(model: Any) -> str:
    """Of the VAE's weights at its two ends and its scale: the same VAE in another model has the same map."""
    vae = model.vae
    parts = [vae.encoder.conv_in.weight, vae.encoder.conv_out.weight, vae.decoder.conv_in.weight, vae.decoder.conv_out.weight]
    digest = sha256(f"{vae.config.scaling_factor} {model.factor}".encode())
    for part in parts:
        # Offloaded weights can lie on "meta"; the config then has to do.
        digest.update(part.detach().half().cpu().numpy().tobytes() if part.device.type != "meta" else model.name.encode())
    return digest.hexdigest()[:24]


def _keep(path: Path, fitted: RgbMap) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(fitted.to_json()))
    except OSError:
        # A read-only home costs a second at the next start, no more.
        return
