"""Loading of pixel diffusion models in diffusers' format: an embedded one, a folder, or a Hub id."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import InvalidOption, ModelUnavailable, UnknownName
from studio.models.catalogue import ASSETS, MODELS, ModelInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from studio.diffusion import GaussianDiffusion

__all__ = ["PixelModel", "load_model"]

# The prediction types that both diffusers and studio.diffusion know; "previous" comes from studio.json alone.
STUDIO_FACTS = "studio.json"


@dataclass(frozen=True, kw_only=True)
class PixelModel:
    """A loaded network with the process that it was trained on.

    network: a UNet2DModel in eval mode, float32. diffusion: all T steps. timestep_spacing: "leading", "trailing" or
    "linspace", how its makers choose fewer steps. null_class: the label that stands for "none", or None.
    """

    name: str
    info: ModelInfo
    network: "torch.nn.Module"
    diffusion: "GaussianDiffusion"
    timestep_spacing: str
    clip_sample: bool
    null_class: int | None

    @property
    def device(self) -> "torch.device":
        """Where the network lies."""
        return next(self.network.parameters()).device

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one picture."""
        return self.info.channels, self.info.height, self.info.width

    def label_index(self, class_label: str | int | None) -> int | None:
        """The index of a class by name or index; the null class for None. Raises InvalidOption, UnknownName."""
        names = self.info.class_names
        if class_label is None or class_label == "":
            return self.null_class
        if not names:
            raise InvalidOption(f"{self.info.label} was trained without classes; leave the class empty, it is {class_label!r}.")
        if isinstance(class_label, int) and not isinstance(class_label, bool):
            if not 0 <= class_label < len(names):
                raise InvalidOption(f"{self.info.label} has the classes 0 to {len(names) - 1}, but {class_label=}.")
            return class_label
        if class_label not in names:
            raise UnknownName.of("class", class_label, names)
        return names.index(class_label)

    def denoiser(self, class_label: str | int | None, num_images: int) -> "Callable[[Tensor, Tensor | int], Tensor]":
        """The network as a function of (x_t (B, C, H, W), timestep), its labels bound; gives the raw prediction."""
        import torch

        index = self.label_index(class_label)
        network = self.network
        if index is None:
            return lambda x_t, timestep: network(x_t, timestep, return_dict=False)[0]
        labels = torch.full((num_images,), index, device=self.device)
        return lambda x_t, timestep: network(x_t, timestep, class_labels=labels, return_dict=False)[0]


def pick_device() -> "torch.device":
    """CUDA, else MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve(name: str) -> str:
    """What to load for a model's name: the embedded folder, the folder as given, or a Hub id. Raises UnknownName."""
    if name in MODELS:
        source = MODELS[name].source
        return str(ASSETS / source) if MODELS[name].embedded else source
    if Path(name).is_dir() or name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise UnknownName.of("model", name, MODELS)


def load_model(name: str) -> PixelModel:
    """Load a model by menu name, folder or Hub id. Raises UnknownName, or ModelUnavailable with what to do."""
    source = resolve(name)
    config = _load_part(source, "scheduler", _scheduler_config, name)
    network = _load_part(source, "unet", _network, name)
    facts = _facts(source)
    network = network.to(pick_device()).eval().requires_grad_(False)
    return PixelModel(
        name=name, info=_info(name, network.config, config, facts), network=network, diffusion=_diffusion(config, facts),
        timestep_spacing=config.get("timestep_spacing", "leading"), clip_sample=bool(config.get("clip_sample", True)),
        null_class=len(facts["class_names"]) if facts.get("class_names") else None,
    )


def _network(path: str, **where: str) -> Any:
    import torch
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(path, torch_dtype=torch.float32, use_safetensors=True, **where)


def _scheduler_config(path: str, **where: str) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    return dict(DDPMScheduler.load_config(path, **where))


def _load_part(source: str, part: str, load: Callable[..., Any], name: str) -> Any:
    """A part of a pipeline from its sub-folder, or from the root where old checkpoints keep it."""
    try:
        return load(source, subfolder=part)
    except (OSError, ValueError) as in_subfolder:
        try:
            return load(source)
        except (OSError, ValueError):
            raise ModelUnavailable(_why(name, in_subfolder)) from in_subfolder


def _why(name: str, error: Exception) -> str:
    text = str(error)
    if "gated" in text or "401" in text or "403" in text:
        return f"{name!r} is gated or private: accept its licence on the Hub and log in with `hf auth login`."
    if Path(name).is_dir():
        return f"The folder {name!r} holds no pixel diffusion model with safetensors weights in diffusers' format (unet/ and scheduler/)."
    return (
        f"{name!r} could not be fetched: it is not in the cache and the Hub cannot be reached, "
        "or it holds no pixel diffusion model with safetensors weights."
    )


def _facts(source: str) -> dict[str, Any]:
    path = Path(source) / STUDIO_FACTS
    return json.loads(path.read_text()) if path.is_file() else {}


def _diffusion(config: dict[str, Any], facts: dict[str, Any]) -> "GaussianDiffusion":
    from diffusers import DDPMScheduler

    from studio.diffusion import GaussianDiffusion

    # diffusers itself expands its schedule names to betas, so every name it knows works here.
    betas = DDPMScheduler.from_config(config).betas.double().numpy()
    if facts.get("schedule"):
        from studio.schedules import make_betas

        betas = make_betas(facts["schedule"], facts["num_timesteps"])
    var_type = facts.get("var_type") or config.get("variance_type", "fixed_small")
    return GaussianDiffusion(
        betas, mean_type=facts.get("mean_type") or config.get("prediction_type", "epsilon"),
        # diffusers has "fixed_small_log" and the like: the same variance, written differently.
        var_type=var_type.removesuffix("_log"),
    )


def _info(name: str, network: Any, config: dict[str, Any], facts: dict[str, Any]) -> ModelInfo:
    size = network.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    known = MODELS.get(name) or ModelInfo(label=Path(name).name, about=f"From {name}.", source=name, width=width, height=height)
    return dataclasses.replace(
        known, width=width, height=height, channels=network.in_channels,
        class_names=tuple(facts.get("class_names", known.class_names)), num_timesteps=config["num_train_timesteps"],
    )
