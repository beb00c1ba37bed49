"""Models that are another one and what it was taught: a LoRA, or a checkpoint of a DreamBooth run.

    <run>/model/studio.json {"kind": "lora", "base": name}, with pytorch_lora_weights.safetensors
    <run>/checkpoints/step-000099/ facts.json, network.safetensors, ema.safetensors; <run>/config.json says the base and how
"""

import json
from pathlib import Path
from typing import Any

from studio.errors import ModelUnavailable

__all__ = ["base_of", "taught"]

LORA_FILE = "pytorch_lora_weights.safetensors"


def base_of(source: str) -> str | None:
    """The name of the model that this one adds to; None for a model of its own."""
    facts = _read(Path(source) / "studio.json")
    if facts.get("kind") == "lora":
        return facts.get("base")
    return _run_options(source).get("base")


def taught(pipeline: Any, source: str) -> Any:
    """The base model's pipeline, with the weights in the folder put in or added, so that it costs no more than its base."""
    from safetensors import SafetensorError

    try:
        _learn_checkpoint(pipeline, Path(source)) if _run_options(source) else _learn_lora(pipeline, source)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelUnavailable(f"What was taught in {source!r} does not fit its base model, or is damaged: {error}") from error
    return pipeline


def _learn_lora(pipeline: Any, source: str) -> None:
    pipeline.load_lora_weights(source, weight_name=LORA_FILE, use_safetensors=True, local_files_only=True)
    pipeline.fuse_lora(components=["unet"])
    pipeline.unload_lora_weights()


def _learn_checkpoint(pipeline: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    options = _run_options(str(folder))
    if options["method"] == "lora":
        from peft import LoraConfig

        pipeline.unet.add_adapter(LoraConfig(r=options["rank"], lora_alpha=options["alpha"], target_modules=options["targets"].split(",")))
    # The averages are what a run keeps, where it has them.
    weights = {**load_file(folder / "network.safetensors"), **load_file(folder / "ema.safetensors")}
    for name in ("unet", "text_encoder"):
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}
        getattr(pipeline, name).load_state_dict(own, strict=False)
    if options["method"] == "lora":
        pipeline.unet.fuse_lora()
        pipeline.unet.unload_lora()


def _run_options(source: str) -> dict[str, Any]:
    """The options of the DreamBooth run that a checkpoint is of; empty for any other folder."""
    folder = Path(source)
    if folder.parent.name != "checkpoints" or not (folder / "network.safetensors").is_file():
        return {}
    options = _read(folder.parent.parent / "config.json")
    return options if {"base", "method"} <= set(options) else {}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
