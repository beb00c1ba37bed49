"""Models that are another one and what it was taught: a LoRA, or a checkpoint of a DreamBooth run.

    <run>/model/studio.json {"kind": "lora", "base": name}, with pytorch_lora_weights.safetensors
    <run>/checkpoints/step-000099/ facts.json, network.safetensors, ema.safetensors; <run>/config.json says the base and how
"""

from pathlib import Path
from typing import Any

from studio.additions import Lora
from studio.errors import DamagedFile, ModelUnavailable
from studio.manifest import MANIFEST, verify_manifest
from studio.models.added import add_loras
from studio.models.facts import TaughtOptions, model_facts, taught_options

__all__ = ["base_of", "taught"]

LORA_FILE = "pytorch_lora_weights.safetensors"


def base_of(source: str) -> str | None:
    """The name of the model that this one adds to; None for a model of its own. Raises DamagedFile, ModelUnavailable."""
    base = _named_base(source)
    if base and _named_base(base):
        raise ModelUnavailable(f"{source!r} was taught to {base!r}, which was itself taught to another model; the studio adds to whole models only.")
    return base


def _named_base(source: str) -> str | None:
    facts = model_facts(Path(source))
    if facts.get("kind") == "lora":
        return facts["base"]
    options = _taught_here(source)
    return options.base if options else None


def taught(pipeline: Any, source: str) -> Any:
    """The base model's pipeline, with the weights in the folder put in or added, so that it costs no more than its base. Raises ModelUnavailable."""
    from safetensors import SafetensorError

    try:
        options = _taught_here(source)
        _learn_checkpoint(pipeline, Path(source), options) if options else _learn_lora(pipeline, source)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, DamagedFile, ModelUnavailable) as error:
        raise ModelUnavailable(f"What was taught in {source!r} does not fit its base model, or is damaged: {error}") from error
    return pipeline


def _learn_lora(pipeline: Any, source: str) -> None:
    add_loras(pipeline, source, (Lora(file=str(Path(source) / LORA_FILE)),))


def _learn_checkpoint(pipeline: Any, folder: Path, options: TaughtOptions) -> None:
    from safetensors.torch import load_file

    if (folder / MANIFEST).exists():
        verify_manifest(folder)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    if options.method == "lora":
        from peft import LoraConfig

        targets = [end.strip() for end in options.targets.split(",") if end.strip()]
        config = LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets)  # type: ignore[arg-type]
        network.add_adapter(config)
    # The averages are what a run keeps, where it has them.
    weights = {**load_file(folder / "network.safetensors"), **load_file(folder / "ema.safetensors")}
    for name in ("unet", "transformer", "text_encoder"):
        own = {key.removeprefix(f"{name}."): tensor for key, tensor in weights.items() if key.startswith(f"{name}.")}
        if own:
            getattr(pipeline, name).load_state_dict(own, strict=False)
    if options.method == "lora":
        network.fuse_lora()
        network.unload_lora()


def _taught_here(source: str) -> TaughtOptions | None:
    """How the checkpoint in the folder was made; None for any other folder. Raises DamagedFile."""
    folder = Path(source)
    if folder.parent.name != "checkpoints" or not (folder / "network.safetensors").is_file():
        return None
    return taught_options(folder.parent.parent)
