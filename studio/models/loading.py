"""Loading of diffusion models in diffusers' format: an embedded one, a folder, a .safetensors file, or a Hub id."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import ModelUnavailable, StudioError, UnknownName
from studio.models.catalogue import ASSETS, MODELS, ModelInfo
from studio.models.latent import LatentModel
from studio.models.pixel import PixelModel
from studio.models.taught import base_of, taught

if TYPE_CHECKING:
    import torch

    from studio.process.diffusion import GaussianDiffusion

__all__ = ["load_model", "resolve", "is_hub_id", "estimated_gib", "Model"]

Model = PixelModel | LatentModel

# The prediction types that both diffusers and studio.process.diffusion know; "previous" comes from studio.json alone.
STUDIO_FACTS = "studio.json"
LATENT_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
PIXEL_PIPELINES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")


def pick_device() -> "torch.device":
    """CUDA, else MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: "torch.device") -> "torch.dtype":
    """Of a latent model's weights: half precision where it is fast and safe (CUDA), else float32."""
    import torch

    return torch.float16 if device.type == "cuda" else torch.float32


def resolve(name: str) -> str:
    """What to load for a model's name: the embedded folder, the folder or file as given, or a Hub id. Raises UnknownName."""
    if name in MODELS:
        source = MODELS[name].source
        return str(ASSETS / source) if MODELS[name].embedded else source
    if Path(name).is_dir() or is_single_file(name) or name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise UnknownName.of("model", name, MODELS)


def is_single_file(name: str) -> bool:
    """Whether the name is that of a checkpoint in one .safetensors file that is there."""
    return name.endswith(".safetensors") and Path(name).is_file()


def is_hub_id(name: str) -> bool:
    """Whether loading this name may have to fetch it. Raises UnknownName."""
    source = resolve(name)
    return not Path(source).exists()


def estimated_gib(name: str) -> float:
    """GiB that a model will take on the device, before it is loaded. Raises UnknownName."""
    from studio.models.memory import estimate_gib

    if base := base_of(resolve(name)):
        return estimated_gib(base)
    known = MODELS[name].memory_gib if name in MODELS and not MODELS[name].embedded else None
    half = known is not None and MODELS[name].kind == "latent" and pick_device().type == "cuda"
    return estimate_gib(resolve(name), known, half or known is not None and MODELS[name].kind == "pixel")


def load_model(name: str, device: "torch.device | None" = None, *, offload: bool = False) -> Model:
    """Load a model by menu name, folder, file or Hub id. Raises UnknownName, or ModelUnavailable with what to do.

    device: where it is put; None = the best there is. offload: keep a latent model in the computer's memory and lend
    its parts to the device as they are needed (slower, and a third less memory).
    """
    source = resolve(name)
    device = device or pick_device()
    if is_single_file(source) or base_of(source):
        return _latent_model(name, source, device, offload)
    kind = pipeline_class(source)
    if kind in LATENT_PIPELINES:
        return _latent_model(name, source, device, offload)
    if kind is not None and kind not in PIXEL_PIPELINES:
        raise ModelUnavailable(
            f"{name!r} is a {kind}; the studio takes pixel diffusion models (DDPMPipeline, DDIMPipeline) "
            "and Stable Diffusion 1 and 2 (StableDiffusionPipeline)."
        )
    return _pixel_model(name, source, device)


def pipeline_class(source: str) -> str | None:
    """The class that model_index.json names; None where there is none, as in the oldest pixel checkpoints."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(source).get("_class_name")
    except (OSError, ValueError):
        return None


# --- pixel models --------------------------------------------------------------------------------------------

def _pixel_model(name: str, source: str, device: "torch.device") -> PixelModel:
    config = _load_part(source, "scheduler", _scheduler_config, name)
    network = _load_part(source, "unet", _network, name)
    facts = _facts(source)
    network = network.to(device).eval().requires_grad_(False)
    return PixelModel(
        name=name, info=_pixel_info(name, network.config, config, facts), network=network, diffusion=_diffusion(config, facts),
        timestep_spacing=config.get("timestep_spacing", "leading"), clip_sample=bool(config.get("clip_sample", True)),
        null_class=len(facts["class_names"]) if facts.get("class_names") else None,
        scheduler_config={"timestep_spacing": config.get("timestep_spacing", "leading")},
    )


def _network(path: str, **where: str) -> Any:
    import torch
    from diffusers import UNet2DModel

    return UNet2DModel.from_pretrained(path, dtype=torch.float32, use_safetensors=True, **where)


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
            raise ModelUnavailable(_why(name, in_subfolder, "pixel diffusion model", "(unet/ and scheduler/)")) from in_subfolder


def _why(name: str, error: Exception, what: str, parts: str) -> str:
    text = str(error)
    if "gated" in text or "401" in text or "403" in text:
        return f"{name!r} is gated or private: accept its licence on the Hub and log in with `hf auth login`."
    if Path(name).is_dir():
        return f"The folder {name!r} holds no {what} with safetensors weights in diffusers' format {parts}."
    if is_single_file(name):
        return (
            f"The file {name!r} is no Stable Diffusion 1 or 2 checkpoint, or its configuration is not in the cache and the Hub cannot be reached; "
            "a folder of the same name beside it, in diffusers' format, takes its place."
        )
    return (
        f"{name!r} could not be fetched: it is not in the cache and the Hub cannot be reached, "
        f"or it holds no {what} with safetensors weights."
    )


def _facts(source: str) -> dict[str, Any]:
    path = Path(source) / STUDIO_FACTS
    return json.loads(path.read_text()) if path.is_file() else {}


def _diffusion(config: dict[str, Any], facts: dict[str, Any]) -> "GaussianDiffusion":
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


def _pixel_info(name: str, network: Any, config: dict[str, Any], facts: dict[str, Any]) -> ModelInfo:
    size = network.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return dataclasses.replace(
        _known(name), width=width, height=height, channels=network.in_channels,
        class_names=tuple(facts.get("class_names", _known(name).class_names)), num_timesteps=config["num_train_timesteps"],
    )


def _known(name: str) -> ModelInfo:
    # The result of a run lies in <run>/model.
    path = Path(name).parent if Path(name).name == "model" else Path(name)
    return MODELS.get(name) or ModelInfo(label=path.name.removesuffix(".safetensors"), about=f"From {name}.", source=name, width=0, height=0)


# --- latent models -------------------------------------------------------------------------------------------

def _latent_model(name: str, source: str, device: "torch.device", offload: bool) -> LatentModel:
    from studio.models.prompts import PromptEncoder

    pipeline = _pipeline(name, source, pick_dtype(device))
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    _check_latent(name, pipeline)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    config = _raw_scheduler_config(source, pipeline)
    diffusion = _diffusion(config, {"var_type": "fixed_small"})
    return LatentModel(
        name=name, info=_latent_info(name, pipeline, config), pipeline=pipeline, prompts=PromptEncoder(pipeline.tokenizer, pipeline.text_encoder),
        diffusion=diffusion, scheduler_config=config, timestep_spacing=config.get("timestep_spacing", "leading"),
        steps_offset=int(config.get("steps_offset", 0)),
        final_alpha_bar=1.0 if config.get("set_alpha_to_one", True) else float(1 - diffusion.betas[0]),
    )


def _pipeline(name: str, source: str, dtype: "torch.dtype") -> Any:
    from diffusers import StableDiffusionPipeline

    if base := base_of(source):
        return taught(_pipeline(base, resolve(base), dtype), source)
    options: dict[str, Any] = {"dtype": dtype, "safety_checker": None, "requires_safety_checker": False}
    try:
        if not is_single_file(source):
            return StableDiffusionPipeline.from_pretrained(source, use_safetensors=True, feature_extractor=None, image_encoder=None, **options)
        beside = Path(source).with_suffix("")
        if beside.is_dir():
            options["config"] = str(beside)
        return StableDiffusionPipeline.from_single_file(source, **options)
    except StudioError:
        raise
    # What transformers and diffusers raise for missing, foreign and broken files is of every kind.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        parts = "(unet/, vae/, text_encoder/, tokenizer/ and scheduler/)"
        raise ModelUnavailable(_why(name, error, "Stable Diffusion model", parts)) from error


def _check_latent(name: str, pipeline: Any) -> None:
    unet, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
    if unet.in_channels != latents:
        raise ModelUnavailable(f"{name!r} takes {unet.in_channels} channels for latents of {latents}: it is made for inpainting or the like, not text alone.")
    # "text" pools the prompt's own features into the time embedding, so it wants nothing more than the prompt.
    if unet.addition_embed_type not in (None, "text") or unet.class_embed_type or unet.time_cond_proj_dim:
        raise ModelUnavailable(f"{name!r} wants more than a prompt (a size, a class or a guidance scale); the studio takes Stable Diffusion 1 and 2.")


def _raw_scheduler_config(source: str, pipeline: Any) -> dict[str, Any]:
    """The scheduler's config as the checkpoint has it: what it leaves unsaid is each scheduler's own to choose, as in diffusers."""
    config = dict(pipeline.scheduler.config)
    unsaid = config.pop("_use_default_values", [])
    return {key: value for key, value in config.items() if key not in unsaid or key == "num_train_timesteps"}


def _latent_info(name: str, pipeline: Any, config: dict[str, Any]) -> ModelInfo:
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    factor = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return dataclasses.replace(
        _known(name), kind="latent", width=width * factor, height=height * factor, num_timesteps=config["num_train_timesteps"],
    )
