"""Putting into a pipeline what is added to a model: LoRAs, textual inversion embeddings, a VAE of one's own.

    W + weight * (alpha / rank) * up @ down       a LoRA (Hu et al. 2021, arXiv:2106.09685), added to the weights themselves
    <word> -> vectors of its own                  textual inversion (Gal et al. 2022, arXiv:2208.01618)

diffusers converts kohya's layout and peft adds. The weights are changed before a model is used, so what is made of them
later (frozen graphs, folded convolutions) has the additions in it; a model with other additions is another model in memory.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.additions import Lora
from studio.conditions import Added
from studio.errors import ModelUnavailable, StudioError
from studio.models.original_configs import VAE_SCALES, vae_config, write_config
from studio.models.originals import Header, read_header
from studio.scratch import passing_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_loras", "embedding_vectors", "put_in"]

FAILS = (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, IndexError)
# How the name of the first of a LoRA's two matrices ends.
FIRST = ".lora_A.weight"
# By the width of the words that a network reads.
READERS: Mapping[int, str] = {
    768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL", 1280: "SDXL's refiner", 4096: "Stable Diffusion 3",
}


def put_in(pipeline: Any, name: str, additions: Added) -> None:
    """Put all of them into a pipeline that lies in the computer's memory. Raises ModelUnavailable."""
    if additions.vae:
        pipeline.register_modules(vae=_vae(pipeline, name, additions.vae))
    for file in additions.embeddings:
        _add_embedding(pipeline, name, file)
    add_loras(pipeline, name, additions.loras)


# --- LoRAs ---------------------------------------------------------------------------------------------------

def add_loras(pipeline: Any, name: str, loras: "tuple[Lora, ...]") -> None:
    """Add LoRAs to the weights of a pipeline, in this order. Raises ModelUnavailable for one that does not fit, before any is added."""
    if not loras:
        return
    if not hasattr(pipeline, "load_lora_weights"):
        raise ModelUnavailable(f"{name!r} takes no LoRA: its family has none; choose a Stable Diffusion model, or clear LoRA.")
    for lora in loras:
        _check_lora(pipeline, name, lora.file)
    try:
        adapters = [f"lora_{i}" for i in range(len(loras))]
        for adapter, lora in zip(adapters, loras):
            path = Path(lora.file)
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=adapter, use_safetensors=True, local_files_only=True)
        pipeline.set_adapters(adapters, [lora.weight for lora in loras])
        held = [part for part in pipeline._lora_loadable_modules if getattr(getattr(pipeline, part, None), "peft_config", None)]
        pipeline.fuse_lora(components=held, adapter_names=adapters)
        pipeline.unload_lora_weights()
    except FAILS as error:
        named = ", ".join(repr(Path(lora.file).name) for lora in loras)
        raise ModelUnavailable(f"The LoRA {named} does not fit {name!r}, or is damaged ({str(error)[:200]}); choose another.") from error


def _check_lora(pipeline: Any, name: str, file: str) -> None:
    """Every matrix of a LoRA must have its layer in the network: what has none would be left out without a word."""
    header = read_header(file)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    prefix = "unet." if getattr(pipeline, "unet", None) is not None else "transformer."
    try:
        path = Path(file)
        options = {"unet_config": network.config} if prefix == "unet." else {}
        weights = pipeline.lora_state_dict(str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True, **options)
    except FAILS as error:
        raise _other_family(pipeline, name, file, header) from error
    weights = weights[0] if isinstance(weights, tuple) else weights
    if not weights or not all("lora" in key for key in weights):
        raise ModelUnavailable(f"The file {Path(file).name!r} is no LoRA that diffusers reads; choose one in diffusers' or kohya's layout.")
    if not all(key.startswith((prefix, "text_encoder")) for key in weights):
        raise _other_family(pipeline, name, file, header)
    layers = dict(network.named_modules())
    for layer, down in _downs(weights, prefix):
        there = layers.get(layer)
        width = getattr(there, "in_features", getattr(there, "in_channels", None))
        if width is None or width != down.shape[1]:
            raise _other_family(pipeline, name, file, header)


def _downs(weights: Mapping[str, Any], prefix: str) -> "Iterator[tuple[str, Tensor]]":
    """The layers of the network that a LoRA has matrices for, with the first of the two: (rank, width of the layer's input, ...)."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix) and not key.endswith(".alpha")}
    if own and not any(FIRST in key for key in own):
        own = convert_unet_state_dict_to_peft(own)
    for key, value in own.items():
        if key.endswith(FIRST):
            yield key.removesuffix(FIRST), value


def _other_family(pipeline: Any, name: str, file: str, header: Header) -> ModelUnavailable:
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    width = getattr(network.config, "cross_attention_dim", None) or getattr(network.config, "joint_attention_dim", None)
    is_of = READERS.get(width, "another family") if isinstance(width, int) else "another family"
    return ModelUnavailable(
        f"The LoRA {Path(file).name!r} was taught to {taught_to(header)}, and {name!r} is {is_of}: its layers do not fit; choose one of the same family."
    )


def taught_to(header: Header) -> str:
    """The family that a LoRA was taught to, in words: by its metadata, else by the width of the words that it reads."""
    said = header.said("modelspec.architecture") or header.said("ss_base_model_version")
    if said:
        return said.split("/")[0]
    for key, shape in header.shapes.items():
        if "attn2" in key and ("to_k" in key or "to_v" in key) and ("lora_down" in key or "lora_A" in key or "lora.down" in key):
            return READERS.get(shape[1], "another model")
    return "another model"


# --- embeddings ----------------------------------------------------------------------------------------------

def embedding_vectors(file: str) -> "dict[str, Tensor]":
    """The vectors (N, D) of an embedding by the encoder that they are for: "clip_l", "clip_g". Raises ModelUnavailable.

    Read are diffusers' form (one tensor under its word), AUTOMATIC1111's (emb_params) and SDXL's (clip_l and clip_g).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelUnavailable(f"The embedding {Path(file).name!r} cannot be read ({error}): it is cut short or no .safetensors file.") from error
    named: dict[str, Tensor] = {encoder: weights[encoder] for encoder in ("clip_l", "clip_g") if encoder in weights}
    if not named and "emb_params" in weights:
        named = {"clip_l": weights["emb_params"]}
    elif not named and len(weights) == 1:
        named = {"clip_l": next(iter(weights.values()))}
    vectors: dict[str, Tensor] = {encoder: value.reshape(-1, value.shape[-1]) for encoder, value in named.items() if value.ndim in (1, 2)}
    if not vectors:
        raise ModelUnavailable(
            f"The file {Path(file).name!r} is no textual inversion embedding: it holds neither emb_params, nor clip_l and clip_g, nor one word's vectors."
        )
    return vectors


def _add_embedding(pipeline: Any, name: str, file: str) -> None:
    """Its word, which is the file's name, becomes tokens with its vectors in every encoder that it is for."""
    vectors, word = embedding_vectors(file), Path(file).stem
    encoders = {"clip_l": ("tokenizer", "text_encoder"), "clip_g": ("tokenizer_2", "text_encoder_2")}
    two = getattr(pipeline, "text_encoder_2", None) is not None
    if not hasattr(pipeline, "load_textual_inversion") or two != ("clip_g" in vectors):
        wanted = "SDXL" if "clip_g" in vectors else "Stable Diffusion 1 or 2"
        raise ModelUnavailable(f"The embedding {Path(file).name!r} is for {wanted}, and {name!r} is of another family; choose another.")
    for encoder, values in vectors.items():
        words, text_encoder = (getattr(pipeline, part) for part in encoders[encoder])
        width = text_encoder.config.hidden_size
        if values.shape[1] != width:
            raise ModelUnavailable(
                f"The embedding {Path(file).name!r} has vectors of {values.shape[1]} numbers and {name!r} reads {width}: "
                "it is of another family; choose another."
            )
        try:
            pipeline.load_textual_inversion(values, token=word, tokenizer=words, text_encoder=text_encoder)
        except FAILS as error:
            said = str(error)[:200]
            raise ModelUnavailable(f"The embedding {Path(file).name!r} cannot be added to {name!r}: {said}; rename its file, which is its word.") from error


# --- the VAE -------------------------------------------------------------------------------------------------

def _vae(pipeline: Any, name: str, place: str) -> Any:
    """The AutoencoderKL of a folder in diffusers' format, or of a file in that or the original layout. Raises ModelUnavailable."""
    own = pipeline.vae
    try:
        vae = _vae_of_folder(Path(place), own) if Path(place).is_dir() else _vae_of_file(place, own)
    except StudioError:
        raise
    except FAILS as error:
        raise ModelUnavailable(f"{place!r} is no VAE that diffusers reads ({str(error)[:200]}); choose a folder or a file of an AutoencoderKL.") from error
    for kind, told in (("latents of", "latent_channels"), ("a factor of", "block_out_channels")):
        one, other = (getattr(vae.config, told) for vae in (vae, own))
        one, other = (2 ** (len(value) - 1) if isinstance(value, (list, tuple)) else value for value in (one, other))
        if one != other:
            raise ModelUnavailable(f"The VAE {Path(place).name!r} has {kind} {one} and {name!r} works with {other}: it is of another family; choose another.")
    return vae


def _vae_of_folder(folder: Path, own: Any) -> Any:
    from diffusers import AutoencoderKL

    inner = {"subfolder": "vae"} if not (folder / "config.json").is_file() and (folder / "vae").is_dir() else {}
    return AutoencoderKL.from_pretrained(str(folder), use_safetensors=True, torch_dtype=own.dtype, local_files_only=True, **inner)


def _vae_of_file(file: str, own: Any) -> Any:
    from diffusers import AutoencoderKL

    header = read_header(file)
    prefix = "first_stage_model." if header.has("first_stage_model.") else ""
    with passing_folder() as folder:
        if header.has(f"{prefix}encoder.down."):
            # The scale of the latents is that of the model that they are for.
            scales = {key: value for key in VAE_SCALES["sd3"] if (value := getattr(own.config, key, None)) is not None}
            write_config(folder / "config.json", vae_config(header, "sd", prefix) | {"norm_num_groups": own.config.norm_num_groups} | scales)
        elif header.has("encoder.down_blocks."):
            write_config(folder / "config.json", dict(own.config))
        else:
            raise ModelUnavailable(f"The file {Path(file).name!r} holds no VAE by its keys; choose one of an AutoencoderKL.")
        return AutoencoderKL.from_single_file(file, config=str(folder), torch_dtype=own.dtype, local_files_only=True)

