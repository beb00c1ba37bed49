"""Tiny random checkpoints in one file, in their authors' original layouts: pipelines of diffusers written back by the inverse of its conversion."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.tiny_sd import make_tokenizer, text_config

Weights = dict[str, Tensor]
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3",
          "conv_shortcut": "skip_connection"}
TOP = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0",
       "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "class_embedding": "label_emb"}


def unet_to_original(unet: Any) -> Weights:
    """The weights of a UNet2DConditionModel under the names of the latent diffusion code."""
    layers = unet.config.layers_per_block
    attends = ["CrossAttn" in kind for kind in unet.config.up_block_types]

    def place(block: int, part: str, index: int, side: str) -> str:
        if part in ("downsamplers", "upsamplers"):
            after = f"output_blocks.{block * (layers + 1) + layers}.{1 + attends[block]}.conv"
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op" if side == "down" else after
        first = f"input_blocks.{1 + block * (layers + 1) + index}" if side == "down" else f"output_blocks.{block * (layers + 1) + index}"
        return f"{first}.{0 if part == 'resnets' else 1}"

    def renamed(name: str) -> str:
        if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
            side, block, part, index, rest = match.groups()
            rest = rest.removeprefix("conv.") if part.endswith("samplers") else inner(rest) if part == "resnets" else rest
            return f"{place(int(block), part, int(index), side)}.{rest}"
        if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
            part, index, rest = match.groups()
            return f"middle_block.{1 if part == 'attentions' else 2 * int(index)}.{inner(rest) if part == 'resnets' else rest}"
        top, end = name.rsplit(".", 1)
        return f"{TOP[top]}.{end}"

    def inner(rest: str) -> str:
        layer, end = rest.split(".", 1)
        return f"{RESNET[layer]}.{end}"

    return {f"model.diffusion_model.{renamed(name)}": value for name, value in unet.state_dict().items()}


def vae_to_original(vae: Any, prefix: str = "first_stage_model.") -> Weights:
    """The weights of an AutoencoderKL under the names of the latent diffusion code."""
    levels = len(vae.config.block_out_channels)
    found = {}
    for name, value in vae.state_dict().items():
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", name.replace("down_blocks.", "down."))
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", new).replace("mid_block.attentions.0", "mid.attn_1")
        new = new.replace(".resnets.", ".block.").replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in new:
            for theirs, own in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(f"attn_1.{theirs}.", f"attn_1.{own}.")
            value = value[..., None, None] if value.ndim == 2 else value
        found[prefix + new] = value
    return found


def clip_to_original(encoder: Any, prefix: str) -> Weights:
    """The weights of a CLIP text encoder in transformers' layout, as they lie in SD 1, SDXL and SD 3 files."""
    return {
        f"{prefix}{name if name.startswith(('text_model.', 'text_projection')) else f'text_model.{name}'}": value
        for name, value in encoder.state_dict().items()
    }


def open_clip_to_original(encoder: Any, prefix: str, unused_layer: bool = False) -> Weights:
    """The same in OpenCLIP's layout. unused_layer: with one more layer at the end, as SD 2 files have it."""
    weights = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    found = {"token_embedding.weight": weights["embeddings.token_embedding.weight"], "positional_embedding": weights["embeddings.position_embedding.weight"]}
    found |= {f"ln_final.{end}": weights[f"final_layer_norm.{end}"] for end in ("weight", "bias")}
    if "text_projection.weight" in weights:
        found["text_projection"] = weights["text_projection.weight"].T.contiguous()
    layers = encoder.config.num_hidden_layers
    for i in range(layers):
        old, new = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for end in ("weight", "bias"):
            found[f"{new}attn.in_proj_{end}"] = torch.cat([weights[f"{old}self_attn.{one}_proj.{end}"] for one in "qkv"])
            for theirs, own in OPEN_CLIP.items():
                found[f"{new}{own}.{end}"] = weights[f"{old}{theirs}.{end}"]
    if unused_layer:
        last = f"transformer.resblocks.{layers - 1}."
        found |= {name.replace(last, f"transformer.resblocks.{layers}."): value.clone() for name, value in found.items() if name.startswith(last)}
    return {prefix + name: value for name, value in found.items()}


OPEN_CLIP = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
SD3_BLOCK = {"norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1", "ff.net.0.proj": "x_block.mlp.fc1",
             "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
             "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj", "attn.norm_q": "x_block.attn.ln_q",
             "attn.norm_k": "x_block.attn.ln_k", "attn.norm_added_q": "context_block.attn.ln_q", "attn.norm_added_k": "context_block.attn.ln_k"}
SD3_TOP = {"pos_embed.proj": "x_embedder.proj", "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
           "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2", "context_embedder": "context_embedder",
           "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
           "proj_out": "final_layer.linear", "norm_out.linear": "final_layer.adaLN_modulation.1"}


def sd3_to_original(transformer: Any) -> Weights:
    """The weights of an SD3Transformer2DModel under the names of Stability's code."""
    weights, found = transformer.state_dict(), {}
    last = transformer.config.num_layers - 1
    for name, value in weights.items():
        if name == "pos_embed.pos_embed":
            found["pos_embed"] = value
        elif match := re.match(r"transformer_blocks\.(\d+)\.(.*)\.(weight|bias)", name):
            block, part, end = match.groups()
            if part in SD3_BLOCK:
                swapped = part == "norm1_context.linear" and int(block) == last
                found[f"joint_blocks.{block}.{SD3_BLOCK[part]}.{end}"] = _swapped(value) if swapped else value
            elif part in ("attn.to_q", "attn.add_q_proj"):
                start = f"transformer_blocks.{block}."
                kinds = ("attn.to_q", "attn.to_k", "attn.to_v") if part == "attn.to_q" else ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
                side = "x_block" if part == "attn.to_q" else "context_block"
                found[f"joint_blocks.{block}.{side}.attn.qkv.{end}"] = torch.cat([weights[f"{start}{kind}.{end}"] for kind in kinds])
        else:
            top, end = name.rsplit(".", 1)
            found[f"{SD3_TOP[top]}.{end}"] = _swapped(value) if top == "norm_out.linear" else value
    return {f"model.diffusion_model.{name}": value for name, value in found.items()}


def _swapped(value: Tensor) -> Tensor:
    """Scale and shift in the other order."""
    return torch.cat(list(reversed(value.chunk(2))))


def save_original(path: Path, weights: Weights, words: Mapping[str, Any], dtype: torch.dtype = torch.float32, metadata: Mapping[str, str] | None = None) -> str:
    """Write the file, and beside it the tokenizers that a tiny vocabulary needs; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.to(dtype).contiguous().clone() for name, value in weights.items()}, path, metadata=dict(metadata or {}))
    for name, tokenizer in words.items():
        if tokenizer is not None:
            tokenizer.save_pretrained(path.with_suffix("") / name)
    return str(path)


# --- pipelines whose shapes say all ----------------------------------------------------------------------------

def tiny_vae(channels: int = 4, **config: Any) -> Any:
    """An AutoencoderKL of f = 4 whose groups are the published ones."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**{
        "block_out_channels": (32, 32, 64), "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": channels, "sample_size": 32, "scaling_factor": 0.18215, **config,
    })


def tiny_unet(**config: Any) -> Any:
    """A UNet2DConditionModel of two levels, the second of which reads 64 numbers a token."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 64, "attention_head_dim": 8, **config,
    })
    unet.conv_out.weight.data *= 3
    return unet


def tiny_text(tokenizer: Any, width: int, act: str, projected: bool = False, heads: int = 1) -> Any:
    """A CLIP text encoder with one head for every 64 numbers, as the published ones."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(**{**text_config(tokenizer, width), "hidden_act": act, "num_attention_heads": heads})
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def words_in(folder: Path) -> Any:
    """A tiny tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    return make_tokenizer(folder)
