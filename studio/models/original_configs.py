"""The configs of diffusers for a checkpoint in one file, made from the shapes of its weights.

Shapes say widths, depths and which blocks attend; what they do not say (the noise schedule, the scale of latents, heads)
is the family's own, as its authors published it. What a file's metadata says (modelspec.*) comes before that.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from studio.errors import ModelUnavailable
from studio.models.catalogue import ASSETS
from studio.models.originals import ORIGINALS, UNET, Header
from studio.models.vocabulary import END, START, read_merges, vocabulary_of

__all__ = ["VAE_SCALES", "predicts", "says_prediction", "vae_config", "write_config", "write_configs"]

Config = dict[str, Any]
CLIP_MERGES = ASSETS / "tokenizers" / "clip" / "merges.txt"
VAE = "first_stage_model."
T5 = "text_encoders.t5xxl.transformer."
HEAD = 64
# Noise that is given back is like itself; a picture is not like noise.
ALIKE = 0.5
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
LATENT_DDIM = {**BETAS, "_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, "skip_prk_steps": True}

# Of each family's latents: the scale, and what else its VAE is told.
VAE_SCALES: Mapping[str, Config] = MappingProxyType({
    "sd": {"scaling_factor": 0.18215}, "sdxl": {"scaling_factor": 0.13025, "force_upcast": True},
    "sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609, "force_upcast": True}, "upscaler": {"scaling_factor": 0.08333},
})


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What shapes do not say. vae: a key of VAE_SCALES; side: of latents, where the metadata names no resolution; encoders: by the
    names of their folders, what makes each config; heads: of a UNet, a fixed number, or None: one for every 64 channels."""

    vae: str
    side: int
    encoders: Mapping[str, Callable[[Header], Config]]
    heads: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def write_configs(folder: Path, header: Header, kind: str, beside: Path) -> list[str]:
    """Write what diffusers' single-file loaders read beside the weights: model_index.json, configs and tokenizers; gives the parts that there are not.

    Args:
        kind: a key of ORIGINALS. beside: a folder whose tokenizers, where it has some, come before CLIP's own.
    Raises:
        ModelUnavailable: shapes that no network of the kind has; a T5 encoder without its tokenizer.
    """
    family = FAMILIES[kind]
    try:
        parts = {name: make(header) for name, make in family.encoders.items() if name != "text_encoder_3" or header.has(T5)}
        parts |= _transformer(header) if kind == "sd3" else {"unet": _unet(header, kind)}
        parts["vae"] = vae_config(header, family.vae, VAE)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelUnavailable(f"The file holds only part of {ORIGINALS[kind].label}, or is damaged: {error} is missing; fetch it again.") from error
    schedulers = _schedulers(header, kind)
    index: Config = {"_class_name": ORIGINALS[kind].pipeline, **family.more, **dict.fromkeys(ABSENT[kind], [None, None])}
    for name, config in (parts | schedulers).items():
        index[name] = ["transformers" if name in parts and "text" in name else "diffusers", config["_class_name"]]
        write_config(folder / name / ("config.json" if name in parts else "scheduler_config.json"), config)
    for name, config in parts.items():
        if "text" in name:
            words = name.replace("text_encoder", "tokenizer")
            index[words] = ["transformers", _write_tokenizer(folder / words, beside / words, config)]
    write_config(folder / "model_index.json", index)
    return [name for name, value in index.items() if value == [None, None]]


def write_config(path: Path, config: Config) -> None:
    """Write a config as JSON, with the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))


# --- networks ------------------------------------------------------------------------------------------------

def _count(header: Header, pattern: str) -> int:
    """How many numbers stand in the one place of the pattern, counted from 0."""
    found = {int(match[1]) for name in header.shapes if (match := re.match(pattern, name))}
    return max(found) + 1 if found else 0


def _unet(header: Header, kind: str) -> Config:
    shapes, family = header.shapes, FAMILIES[kind]
    blocks = _count(header, re.escape(UNET) + r"input_blocks\.(\d+)\.")
    ends = [i for i in range(blocks) if f"{UNET}input_blocks.{i}.0.op.weight" in shapes]
    layers = (ends[0] if ends else blocks) - 1
    firsts = [0, *ends]
    widths = [shapes[f"{UNET}input_blocks.{start + 1}.0.out_layers.3.weight"][0] for start in firsts]
    depths = [_count(header, re.escape(f"{UNET}input_blocks.{start + 1}.1.transformer_blocks.") + r"(\d+)\.") for start in firsts]
    middle = _count(header, re.escape(f"{UNET}middle_block.1.transformer_blocks.") + r"(\d+)\.")
    attention = f"{UNET}middle_block.1."
    told = shapes[f"{attention}transformer_blocks.0.attn2.to_k.weight"][1]
    only_words = [
        bool(depth) and shapes[f"{UNET}input_blocks.{start + 1}.1.transformer_blocks.0.attn1.to_k.weight"][1] != width
        for start, depth, width in zip(firsts, depths, widths)
    ]
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    config: Config = {
        "_class_name": "UNet2DConditionModel", "sample_size": _side(header, kind), "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0], "block_out_channels": widths, "layers_per_block": layers, "down_block_types": kinds,
        "up_block_types": [one.replace("Down", "Up") for one in reversed(kinds)], "cross_attention_dim": told,
        "attention_head_dim": family.heads or [max(1, width // HEAD) for width in widths],
        "use_linear_projection": len(shapes[f"{attention}proj_in.weight"]) == 2,
        "transformer_layers_per_block": [depth or (middle if level + 1 == len(depths) else 1) for level, depth in enumerate(depths)],
    }
    if any(only_words):
        # A level without attention says nothing of it.
        config["only_cross_attention"] = [words or not depth for words, depth in zip(only_words, depths)]
        config["only_cross_attention"][-1] = only_words[-1]
    return config | _added(header, kind)


def _added(header: Header, kind: str) -> Config:
    """What the time embedding is told beside the time: sizes and the pooled prompt, or a noise level."""
    shapes = header.shapes
    if kind == "upscaler":
        return {"num_class_embeds": shapes[f"{UNET}label_emb.weight"][0]}
    if f"{UNET}label_emb.0.0.weight" not in shapes:
        return {}
    pooled = _open_clip(header, "conditioner.embedders.0.model." if kind == "sdxl-refiner" else "conditioner.embedders.1.model.")["projection_dim"]
    width = shapes[f"{UNET}label_emb.0.0.weight"][1]
    return {
        "addition_embed_type": "text_time", "projection_class_embeddings_input_dim": width,
        "addition_time_embed_dim": (width - pooled) // (5 if kind == "sdxl-refiner" else 6),
    }


def _transformer(header: Header) -> dict[str, Config]:
    shapes = header.shapes
    channels, patch = shapes[f"{UNET}x_embedder.proj.weight"][1:3]
    inner, read = shapes[f"{UNET}context_embedder.weight"]
    layers = _count(header, re.escape(UNET) + r"joint_blocks\.(\d+)\.")
    blocks = f"{UNET}joint_blocks."
    return {"transformer": {
        "_class_name": "SD3Transformer2DModel", "sample_size": _side(header, "sd3"), "patch_size": patch, "in_channels": channels,
        "out_channels": shapes[f"{UNET}final_layer.linear.weight"][0] // patch**2, "num_layers": layers, "attention_head_dim": min(HEAD, inner),
        "num_attention_heads": max(1, inner // HEAD), "joint_attention_dim": read, "caption_projection_dim": inner,
        "pooled_projection_dim": shapes[f"{UNET}y_embedder.mlp.0.weight"][1], "pos_embed_max_size": round(shapes[f"{UNET}pos_embed"][1] ** 0.5),
        "qk_norm": "rms_norm" if f"{blocks}0.x_block.attn.ln_q.weight" in shapes else None,
        "dual_attention_layers": [i for i in range(layers) if f"{blocks}{i}.x_block.attn2.qkv.weight" in shapes],
    }}


def vae_config(header: Header, scale: str, prefix: str = "") -> Config:
    """The config of an AutoencoderKL in the original layout, under `prefix`. scale: a key of VAE_SCALES. Raises KeyError for what is missing."""
    shapes = header.shapes
    levels = _count(header, re.escape(prefix) + r"encoder\.down\.(\d+)\.")
    return {
        "_class_name": "AutoencoderKL", "block_out_channels": [shapes[f"{prefix}encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(header, re.escape(prefix) + r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": shapes[f"{prefix}decoder.conv_in.weight"][1],
        "use_quant_conv": f"{prefix}quant_conv.weight" in shapes, "use_post_quant_conv": f"{prefix}post_quant_conv.weight" in shapes,
        **VAE_SCALES[scale],
    }


def _side(header: Header, kind: str) -> int:
    """Of latents: by the resolution that the metadata names, else the family's own."""
    if match := re.fullmatch(r"(\d{2,4})x\1", header.said("modelspec.resolution")):
        factor = 2 ** (_count(header, re.escape(VAE) + r"encoder\.down\.(\d+)\.") - 1)
        return int(match[1]) // factor
    return 96 if kind == "sd2" and _prediction(header, kind) == "v_prediction" else FAMILIES[kind].side


# --- text encoders -------------------------------------------------------------------------------------------

def _clip(header: Header, prefix: str, act: str = "quick_gelu", projected: bool = False) -> Config:
    """Of a CLIP text encoder in transformers' layout."""
    shapes, start = header.shapes, f"{prefix}text_model."
    vocabulary, width = shapes[f"{start}embeddings.token_embedding.weight"]
    return _text(
        vocabulary, width, shapes[f"{start}encoder.layers.0.mlp.fc1.weight"][0], _count(header, re.escape(start) + r"encoder\.layers\.(\d+)\."),
        shapes[f"{start}embeddings.position_embedding.weight"][0], act, shapes.get(f"{prefix}text_projection.weight", (width,))[0], projected,
    )


def _open_clip(header: Header, prefix: str, left_out: int = 0, projected: bool = True) -> Config:
    """Of OpenCLIP's own layout. left_out: so many of the last layers are not used."""
    shapes = header.shapes
    vocabulary, width = shapes[f"{prefix}token_embedding.weight"]
    layers = _count(header, re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.") - left_out
    return _text(
        vocabulary, width, shapes[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"][0], layers, shapes[f"{prefix}positional_embedding"][0], "gelu",
        shapes.get(f"{prefix}text_projection", (0, width))[1], projected,
    )


def _text(vocabulary: int, width: int, hidden: int, layers: int, places: int, act: str, projection: int, projected: bool) -> Config:
    return {
        "_class_name": "CLIPTextModelWithProjection" if projected else "CLIPTextModel", "architectures": ["CLIPTextModel"], "model_type": "clip_text_model",
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // HEAD), "max_position_embeddings": places, "hidden_act": act, "projection_dim": projection,
        # The marks of start and end are the last two pieces.
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1 if act == "quick_gelu" else 0,
    }


def _t5(header: Header) -> Config:
    prefix, shapes = T5, header.shapes
    vocabulary, width = shapes[f"{prefix}shared.weight"]
    first = f"{prefix}encoder.block.0.layer.0.SelfAttention."
    buckets, heads = shapes[f"{first}relative_attention_bias.weight"]
    gated = f"{prefix}encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in shapes
    dense = shapes[f"{prefix}encoder.block.0.layer.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"][0]
    return {
        "_class_name": "T5EncoderModel", "model_type": "t5", "vocab_size": vocabulary, "d_model": width, "d_kv": shapes[f"{first}q.weight"][0] // heads,
        "d_ff": dense, "num_layers": _count(header, re.escape(prefix) + r"encoder\.block\.(\d+)\."), "num_heads": heads,
        "relative_attention_num_buckets": buckets, "feed_forward_proj": "gated-gelu" if gated else "relu",
    }


def _write_tokenizer(folder: Path, beside: Path, encoder: Config) -> str:
    """The tokenizer of an encoder; gives its class. Raises ModelUnavailable."""
    t5 = encoder["_class_name"] == "T5EncoderModel"
    if beside.is_dir():
        shutil.copytree(beside, folder)
    elif t5 or encoder["vocab_size"] != len(words := vocabulary_of(read_merges(CLIP_MERGES.read_text("utf-8")))):
        raise ModelUnavailable(
            f"The file holds a text encoder whose tokenizer no file brings along: put its folder {beside.name}/, as in diffusers' format, "
            f"into {str(beside.parent)!r}."
        )
    else:
        write_config(folder / "vocab.json", words)
        shutil.copy(CLIP_MERGES, folder / "merges.txt")
        marks = {"bos_token": START, "eos_token": END, "unk_token": END}
        pad = END if encoder["hidden_act"] == "quick_gelu" else "!"
        write_config(folder / "tokenizer_config.json", {**marks, "pad_token": pad, "model_max_length": encoder["max_position_embeddings"]})
    return "T5TokenizerFast" if t5 else "CLIPTokenizer"


# --- noise ---------------------------------------------------------------------------------------------------

def _schedulers(header: Header, kind: str) -> dict[str, Config]:
    if kind == "sd3":
        return {"scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}}
    told = {**LATENT_DDIM, "prediction_type": _prediction(header, kind)}
    if kind.startswith("sdxl"):
        told |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "rescale_betas_zero_snr": "ztsnr" in header.shapes}
    if kind != "upscaler":
        return {"scheduler": told}
    low = {**BETAS, "_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "clip_sample": True}
    return {"scheduler": told, "low_res_scheduler": low}


def predicts(network: Any, width: int) -> str:
    """What a network of Stable Diffusion 2 predicts, whose file does not say it: "epsilon" or "v_prediction", by asking it at the noisiest step.

    There the state is all but the noise itself: who predicts the noise gives it back, who predicts v gives the picture that it believes in.
    width: of the words that it reads.
    """
    import torch

    x_t = torch.randn(1, network.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = network(x_t.to(network.dtype), 999, encoder_hidden_states=torch.zeros(1, 77, width, dtype=network.dtype), return_dict=False)[0].float()
    return "epsilon" if torch.nn.functional.cosine_similarity(said.flatten(), x_t.flatten(), dim=0) > ALIKE else "v_prediction"


def says_prediction(header: Header) -> bool:
    """Whether the file says what its network predicts."""
    return header.said("modelspec.prediction_type").lower() in ("v", "epsilon") or "v_pred" in header.shapes or bool(header.said("ss_v_parameterization"))


def _prediction(header: Header, kind: str) -> str:
    """What the network predicts: as its metadata says, or a mark among its keys, else as its family was published."""
    said = header.said("modelspec.prediction_type").lower()
    if said in ("v", "epsilon"):
        return "v_prediction" if said == "v" else "epsilon"
    if "v_pred" in header.shapes or header.said("ss_v_parameterization").lower() == "true":
        return "v_prediction"
    return "v_prediction" if kind in ("sd2", "upscaler") else "epsilon"


# --- data ----------------------------------------------------------------------------------------------------

def _sd1(header: Header) -> Config:
    return _clip(header, "cond_stage_model.transformer.")


def _sd2(header: Header) -> Config:
    # Its condition is the layer before the last.
    return _open_clip(header, "cond_stage_model.model.", left_out=1, projected=False)


def _sdxl_first(header: Header) -> Config:
    return _clip(header, "conditioner.embedders.0.transformer.")


def _sdxl_second(header: Header) -> Config:
    return _open_clip(header, "conditioner.embedders.1.model.")


def _sd3_encoders(which: str) -> Callable[[Header], Config]:
    return lambda header: _clip(header, f"text_encoders.clip_{which}.transformer.", "quick_gelu" if which == "l" else "gelu", projected=True)


# Parts of a pipeline that a file of the kind does not hold, or may leave out.
ABSENT: Mapping[str, tuple[str, ...]] = MappingProxyType({
    **dict.fromkeys(ORIGINALS, ()), "sdxl-refiner": ("text_encoder", "tokenizer"), "sd3": ("text_encoder_3", "tokenizer_3"),
})
_SDXL = {"text_encoder": _sdxl_first, "text_encoder_2": _sdxl_second}
_ZEROS = {"force_zeros_for_empty_prompt": True}
FAMILIES: Mapping[str, _Family] = MappingProxyType({
    "sd1": _Family(vae="sd", side=64, encoders={"text_encoder": _sd1}, heads=8),
    "sd1-inpainting": _Family(vae="sd", side=64, encoders={"text_encoder": _sd1}, heads=8),
    "sd2": _Family(vae="sd", side=64, encoders={"text_encoder": _sd2}),
    "sd2-inpainting": _Family(vae="sd", side=64, encoders={"text_encoder": _sd2}),
    "upscaler": _Family(vae="upscaler", side=128, encoders={"text_encoder": _sd2}, heads=8, more={"max_noise_level": 350}),
    "sdxl": _Family(vae="sdxl", side=128, encoders=_SDXL, more=_ZEROS),
    "sdxl-inpainting": _Family(vae="sdxl", side=128, encoders=_SDXL, more=_ZEROS),
    "sdxl-refiner": _Family(
        vae="sdxl", side=128, encoders={"text_encoder_2": lambda header: _open_clip(header, "conditioner.embedders.0.model.")},
        more={"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
    ),
    "sd3": _Family(vae="sd3", side=128, encoders={"text_encoder": _sd3_encoders("l"), "text_encoder_2": _sd3_encoders("g"), "text_encoder_3": _t5}),
})
