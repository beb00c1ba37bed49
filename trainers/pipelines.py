"""Pipeline folders of plain diffusers and transformers: put together, and written in fp16.

Weights are stored in half precision, because the folders are committed, and the configs name float32: transformers takes
the precision of a network from its config, diffusers takes float32 whatever is stored. So `from_pretrained(folder)` gives
a pipeline whose parts fit together and run on every device.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["make_pipeline", "save_network", "save_pipeline", "to_half"]


def make_pipeline(*, unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> Any:
    """A quiet StableDiffusionPipeline of the parts at hand, without a safety checker; nothing is copied."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(pipeline: Any, path: Path) -> None:
    """Write the folder of a pipeline, one part after the other, so that the model is never held twice.

    Args:
        pipeline: a diffusers pipeline, on any device, in any precision.
        path: the folder; it is made if need be.
    """
    pipeline.save_config(path)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            save_network(part, path / name)
        elif part is not None:
            part.save_pretrained(path / name)


def save_network(network: Any, path: Path) -> None:
    """Write config and weights of a diffusers or transformers network; the network stays as and where it is.

    Args:
        network: a ModelMixin of diffusers or a PreTrainedModel of transformers.
        path: the folder; it is made if need be.
    """
    from diffusers import ModelMixin

    halves = {name: to_half(value) for name, value in network.state_dict().items()}
    if isinstance(network, ModelMixin):
        network.save_config(path)
        save_file(halves, path / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    else:
        network.save_pretrained(path, state_dict=halves)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(_portable(config), indent=2) + "\n")


def to_half(value: Tensor) -> Tensor:
    """The values on the CPU, fp16 where they are floating-point, laid out as safetensors wants them."""
    return value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """The config without the place it was read from, which was one of this machine, and with float32 for every transformers network in it."""
    tidied = {key: _portable(value) if isinstance(value, dict) else value for key, value in config.items() if key != "_name_or_path"}
    return tidied | ({"dtype": "float32"} if "model_type" in config else {})
