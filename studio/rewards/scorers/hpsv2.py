"""HPSv2: a CLIP-H that was taught which of two pictures people prefer (Wu et al. 2023, arXiv:2306.09341), from a file of its weights.

    score = 100 cos(picture, prompt)

The released file is open_clip's; here its names become those of transformers' CLIPModel.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import ModelUnavailable
from studio.rewards.contract import RewardInfo, RewardSource, Score
from studio.rewards.scorers.clip import PER_CENT, cosine_score
from studio.rewards.scorers.pickscore import PROCESSOR
from studio.rewards.weights import file_of, read_weights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OTHERS", "REWARDS", "from_open_clip"]

FILE = "HPS_v2.1_compressed.pt"
# Features of one attention head in ViT-H's picture tower; 64 in every other tower of open_clip.
HEAD_OF_H, WIDTH_OF_H, HEAD = 80, 1280, 64

# open_clip -> transformers, of one block of a tower.
BLOCK: tuple[tuple[str, str], ...] = (
    (r"\.ln_1\.", ".layer_norm1."), (r"\.ln_2\.", ".layer_norm2."), (r"\.attn\.out_proj\.", ".self_attn.out_proj."), (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
TOWERS: tuple[tuple[str, str], ...] = (
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."), (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
)
SINGLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding", "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight", "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias", "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias", "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight", "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias", "logit_scale": "logit_scale",
}


def from_open_clip(tensors: "Mapping[str, Tensor]", eos_token_id: int = 49407) -> Any:
    """A CLIPModel with open_clip's weights, its sizes read off them. Raises ModelUnavailable where they are others."""
    from transformers import CLIPModel

    try:
        network = CLIPModel(config_of(tensors, eos_token_id))
        missing, unexpected = network.load_state_dict(renamed(tensors), strict=False)
    except (KeyError, RuntimeError, ValueError, StopIteration) as error:
        raise ModelUnavailable(f"These are not the weights of an open_clip network: {str(error).splitlines()[-1].strip()[:120]}.") from error
    lost = [name for name in missing if not name.endswith("position_ids")]
    if lost or unexpected:
        raise ModelUnavailable(f"These are not the weights of an open_clip network: {(lost or unexpected)[0]} is {'missing' if lost else 'unknown'}.")
    return network.eval()


def config_of(tensors: "Mapping[str, Tensor]", eos_token_id: int) -> Any:
    from transformers import CLIPConfig

    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    places = len(tensors["visual.positional_embedding"]) - 1
    words, text_width = tensors["token_embedding.weight"].shape
    shared: dict[str, Any] = {"hidden_act": "gelu", "projection_dim": tensors["text_projection"].shape[1]}
    vision = {
        "hidden_size": width, "intermediate_size": len(tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"]), "patch_size": patch,
        "num_hidden_layers": depth(tensors, r"^visual\.transformer\.resblocks\.(\d+)\."), "image_size": patch * round(places**0.5),
        "num_attention_heads": width // (HEAD_OF_H if width == WIDTH_OF_H else HEAD) or 1, **shared,
    }
    text = {
        "hidden_size": text_width, "intermediate_size": len(tensors["transformer.resblocks.0.mlp.c_fc.weight"]), "vocab_size": words,
        "num_hidden_layers": depth(tensors, r"^transformer\.resblocks\.(\d+)\."), "max_position_embeddings": len(tensors["positional_embedding"]),
        "num_attention_heads": text_width // HEAD or 1, "eos_token_id": eos_token_id, **shared,
    }
    return CLIPConfig(vision_config=vision, text_config=text, projection_dim=shared["projection_dim"])


def depth(tensors: "Mapping[str, Tensor]", pattern: str) -> int:
    return 1 + max(int(match[1]) for name in tensors if (match := re.match(pattern, name)))


def renamed(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The weights by transformers' names: queries, keys and values apart, projections turned."""
    found = {own: tensors[name] for name, own in SINGLE.items()}
    found |= {"visual_projection.weight": tensors["visual.proj"].T, "text_projection.weight": tensors["text_projection"].T}
    for name, tensor in tensors.items():
        own = name
        for pattern, place in TOWERS:
            own = re.sub(pattern, place, own)
        if own == name:
            continue
        if ".attn.in_proj_" in own:
            begin, kind = own.split(".attn.in_proj_")
            found |= {f"{begin}.self_attn.{part}_proj.{kind}": third for part, third in zip("qkv", tensor.chunk(3))}
            continue
        for pattern, place in BLOCK:
            own = re.sub(pattern, place, own)
        found[own] = tensor
    return {name: tensor.contiguous() for name, tensor in found.items()}


def load(source: RewardSource) -> Score:
    """Raises ModelUnavailable."""
    from studio.models.companions import READING_FAILS, clip_of

    network = from_open_clip(read_weights(file_of(source.place, FILE))).to(source.dtype)
    folder = Path(source.place) if Path(source.place).is_dir() else Path(source.place).parent
    try:
        here = (folder / "preprocessor_config.json").is_file()
        return cosine_score(clip_of(source.name, network, str(folder) if here else PROCESSOR, source.device), PER_CENT)
    except READING_FAILS as error:
        raise ModelUnavailable(f"The tokenizer and processor {PROCESSOR} are in no cache and cannot be fetched; put their files beside the weights.") from error


OTHERS = RewardInfo(label="HPSv2", about="Which of two pictures people prefer: the file of its weights (HPS_v2.1_compressed.pt).", load=load, size_mib=3_900)
# Its weights are given by name (hpsv2:FILE); the menu does not fetch them.
REWARDS: dict[str, RewardInfo] = {}
