"""Where a model comes from, and what all families share in reading it: configs, parts, processes, and why it failed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.conditions import NOTHING_ADDED, Added
from studio.errors import ModelUnavailable
from studio.models.catalogue import MODELS, ModelInfo
from studio.models.facts import model_facts

if TYPE_CHECKING:
    import torch

    from studio.process.diffusion import GaussianDiffusion

__all__ = ["Source", "is_single_file", "known_info", "load_part", "diffusion_of", "why_not", "scheduler_config_of"]

# What transformers and diffusers raise for missing, foreign and broken files is of every kind.
READING_FAILS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to load. name: as it was asked for. place: the folder, file or Hub id. device: where it is put. dtype: of the
    weights of a latent model. offload: the name of a Holding (studio.models.memory), "" = whole.
    added: what is put into it, with the files' paths in full.
    """

    name: str
    place: str
    device: "torch.device"
    dtype: "torch.dtype"
    offload: str = ""
    added: Added = NOTHING_ADDED

    def facts(self) -> dict[str, Any]:
        """What the studio's own trainers say beside diffusers' configs; empty for other models. Raises DamagedFile."""
        return model_facts(Path(self.place))


def is_single_file(name: str) -> bool:
    """Whether the name is that of a checkpoint in one .safetensors file that is there."""
    return name.endswith(".safetensors") and Path(name).is_file()


def known_info(name: str, family: str) -> ModelInfo:
    """The menu entry of a model, or a new one for a model that is in no menu."""
    # The result of a run lies in <run>/model.
    path = Path(name).parent if Path(name).name == "model" else Path(name)
    return MODELS.get(name) or ModelInfo(
        label=path.name.removesuffix(".safetensors"), about=f"From {name}.", source=name, width=0, height=0, family=family,
    )


def load_part(source: Source, part: str, load: Callable[..., Any], what: str, parts: str) -> Any:
    """A part of a pipeline from its sub-folder, or from the root where old checkpoints keep it. Raises ModelUnavailable."""
    try:
        return load(source.place, subfolder=part)
    except READING_FAILS as in_subfolder:
        try:
            return load(source.place)
        except READING_FAILS:
            raise ModelUnavailable(why_not(source.name, in_subfolder, what, parts)) from in_subfolder


def why_not(name: str, error: Exception, what: str, parts: str) -> str:
    """Why a model could not be read, in a sentence. what: the kind of model; parts: what its folder must hold."""
    text = str(error)
    if "gated" in text or "401" in text or "403" in text:
        return f"{name!r} is gated or private: accept its licence on the Hub and log in with `hf auth login`."
    if Path(name).is_dir():
        return f"The folder {name!r} holds no {what} with safetensors weights in diffusers' format {parts}."
    if is_single_file(name):
        return f"The file {name!r} could not be read as a {what} in its original layout ({text[:200]}): it is damaged, or its parts do not belong together."
    return f"{name!r} could not be fetched: it is not in the cache and the Hub cannot be reached, or it holds no {what} with safetensors weights."


def diffusion_of(config: dict[str, Any], facts: dict[str, Any]) -> "GaussianDiffusion":
    """The process that a scheduler's config describes, or the studio's own facts where they say more."""
    from diffusers import DDPMScheduler

    from studio.process.diffusion import GaussianDiffusion

    # diffusers itself expands its schedule names to betas, so every name it knows works here.
    betas = DDPMScheduler.from_config(config).betas.double().numpy()
    if facts.get("schedule"):
        from studio.process.schedules import make_betas

        betas = make_betas(facts["schedule"], facts["num_timesteps"])
    var_type = facts.get("var_type") or config.get("variance_type", "fixed_small")
    return GaussianDiffusion(
        betas, mean_type=facts.get("mean_type") or config.get("prediction_type", "epsilon"),
        # diffusers has "fixed_small_log" and the like: the same variance, written differently.
        var_type=var_type.removesuffix("_log"),
    )


def scheduler_config_of(pipeline: Any) -> dict[str, Any]:
    """The scheduler's config as the checkpoint has it: what it leaves unsaid is each scheduler's own to choose, as in diffusers."""
    config = dict(pipeline.scheduler.config)
    unsaid = config.pop("_use_default_values", [])
    return {key: value for key, value in config.items() if key not in unsaid or key == "num_train_timesteps"}
