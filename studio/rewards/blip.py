"""The reward network of ImageReward (Xu et al. 2023, arXiv:2304.05977) on transformers' BLIP classes, in any size.

    picture -> ViT -> states;  prompt -> BERT with cross-attention on them -> [CLS] -> linear head of five layers -> r
    reward = (r - mean) / std          mean, std: of r over the pictures it was trained on

Three traps. The text encoder has cross-attention only with is_decoder=True in its configuration, but the forward must not say is_decoder:
that would mask what follows a token, and [CLS] is the first. BlipVisionConfig draws weights of deviation 1e-10 unless told otherwise.
Where padding is the end token as well, only the mask tells them apart.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from studio.checks import require_float, require_int
from studio.errors import DamagedFile, ModelUnavailable
from studio.records import read_record
from studio.rewards.pixels import normalised, squared
from studio.rewards.weights import read_weights

__all__ = ["FACTS", "RELEASED", "BlipReward", "RewardFacts", "from_released", "load_folder", "save_folder"]

FACTS, HEAD = "reward.json", "head.safetensors"
# Of the head's layers: features out, and the dropout after it (none after the last two). No activations between them.
HEAD_WIDTHS, HEAD_DROPOUT = (1024, 128, 64, 16, 1), (0.2, 0.2, 0.1)
# Where each linear layer of the head stands among its dropouts, in the released weights.
HEAD_PLACES = (0, 2, 4, 6, 7)


@dataclass(frozen=True, kw_only=True)
class RewardFacts:
    """reward.json of a folder: how pictures and prompts are given to the network, and what its numbers are measured against.

    side: pixels a side; max_tokens: of a prompt; mean, std: of the raw output; accuracy: what was measured of it, by name.
    """

    side: int = 224
    max_tokens: int = 35
    mean: float = 0.0
    std: float = 1.0
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_int("side", self.side, 1, 2048)
        require_int("max_tokens", self.max_tokens, 2, 4096)
        require_float("mean", self.mean, -1e6, 1e6)
        require_float("std", self.std, 1e-9, 1e6)


# Configurations of the released ImageReward-v1.0: ViT-L/16 and a BERT of base size.
RELEASED: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text": {"vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "layer_norm_eps": 1e-12},
}
RELEASED_FACTS = RewardFacts(side=224, max_tokens=35, mean=0.16717362830052426, std=1.0333394966054072)
INITIAL_DEVIATION = 0.02


class BlipReward(nn.Module):
    """The network. vision, text: keyword arguments of BlipVisionConfig and BlipTextConfig."""

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        # is_decoder and the width of what is attended to are what the network cannot be without.
        seen = BlipVisionConfig(**{"initializer_range": INITIAL_DEVIATION, **vision})
        read = BlipTextConfig(**{**text, "is_decoder": True, "encoder_hidden_size": seen.hidden_size})
        self.vision_model = BlipVisionModel(seen)
        self.text_encoder = BlipTextModel(read, add_pooling_layer=False)
        self.head = head_of(read.hidden_size)

    def see(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, side, side) -> the picture's states (B, P, D)."""
        return self.vision_model(pixel_values=pixels.to(self.dtype)).last_hidden_state

    def features(self, states: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, D) of [CLS], which has read the prompt (ids, mask: (B, L)) against the picture's states."""
        return self.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=states).last_hidden_state[:, 0]

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B,) raw rewards, before mean and std."""
        return self.head(self.features(self.see(pixels), ids, mask))[:, 0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.vision_model.post_layernorm.weight.dtype


def head_of(width: int) -> nn.Sequential:
    """width -> 1024 -> 128 -> 64 -> 16 -> 1, with weights N(0, 1 / (width + 1)) and no bias at first."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(zip((width, *HEAD_WIDTHS), HEAD_WIDTHS)):
        linear = nn.Linear(before, after)
        nn.init.normal_(linear.weight, std=1 / (width + 1))
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if place < len(HEAD_DROPOUT):
            layers.append(nn.Dropout(HEAD_DROPOUT[place]))
    return nn.Sequential(*layers)


# --- pictures and prompts as it takes them -------------------------------------------------------------------

def pixels_of(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3, side, side), normalised as CLIP's are."""
    return normalised(squared(images, side))


def tokens_of(tokenizer: Any, prompts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """(ids, mask), (B, L) each, padded to the longest of them; what is beyond the limit is cut off."""
    found = tokenizer(list(prompts), padding="longest", truncation=True, max_length=max_tokens, return_tensors="pt")
    return found.input_ids, found.attention_mask


# --- folders -------------------------------------------------------------------------------------------------

def save_folder(network: BlipReward, tokenizer: Any, facts: RewardFacts, folder: Path) -> None:
    """vision_model/ and text_encoder/ as transformers reads them, tokenizer/, head.safetensors and reward.json; half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vision_model", "text_encoder"):
        part = getattr(network, name)
        weights = {key: half(tensor) for key, tensor in part.state_dict().items()}
        part.save_pretrained(folder / name, state_dict=weights)
    tokenizer.save_pretrained(folder / "tokenizer")
    save_file({key: half(tensor) for key, tensor in network.head.state_dict().items()}, folder / HEAD)
    (folder / FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n")


def half(tensor: Tensor) -> Tensor:
    """As it is kept in a file."""
    return tensor.detach().cpu().half().contiguous() if tensor.is_floating_point() else tensor.detach().cpu().contiguous()


def load_folder(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[BlipReward, Any, RewardFacts]:
    """(network in eval mode, tokenizer, facts) of a folder that save_folder wrote. Raises ModelUnavailable."""
    from transformers import AutoTokenizer

    try:
        facts = read_record(RewardFacts, folder / FACTS)
        sizes = {name: json.loads((folder / name / "config.json").read_text("utf-8")) for name in ("vision_model", "text_encoder")}
        network = BlipReward(sizes["vision_model"], sizes["text_encoder"])
        for name in sizes:
            getattr(network, name).load_state_dict(read_weights(folder / name / "model.safetensors"), strict=False)
        network.head.load_state_dict(read_weights(folder / HEAD))
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, DamagedFile) as error:
        why = str(error)[:120]
        raise ModelUnavailable(f"{folder} is no whole folder of a reward that was trained here ({why}); train it again, or name another.") from error
    if facts is None:
        raise ModelUnavailable(f"There is no {FACTS} in {folder}; name the folder of a reward that was trained here.")
    return network.to(device, dtype).eval(), tokenizer, facts


# --- the released weights ------------------------------------------------------------------------------------

# ImageReward.pt -> transformers, in this order; a name that none of them knows is not used here.
KEYS: tuple[tuple[str, str], ...] = (
    (r"^blip\.visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.", r"vision_model.encoder.layers.\1.self_attn.qkv."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
    (r"^blip\.visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (r"^blip\.text_encoder\.", "text_encoder."),
    (r"^mlp\.layers\.(\d+)\.", r"head.\1."),
)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ImageReward.pt under the names of BlipReward; projections and queues that the reward has no use for are left out."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, own in KEYS:
            if re.match(pattern, name) and not name.endswith("position_ids"):
                found[re.sub(pattern, own, name)] = tensor
                break
    return found


def from_released(tensors: Mapping[str, Tensor], sizes: Mapping[str, Mapping[str, Any]] = RELEASED) -> BlipReward:
    """The network with the weights of ImageReward.pt. Raises ModelUnavailable where they are others."""
    network = BlipReward(sizes["vision"], sizes["text"])
    own = renamed(tensors)
    try:
        missing, unexpected = network.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise ModelUnavailable(f"These are not the weights of ImageReward-v1.0: {str(error).splitlines()[-1].strip()[:120]}.") from error
    lost = [name for name in missing if not name.endswith("position_ids")]
    if lost or unexpected:
        raise ModelUnavailable(f"These are not the weights of ImageReward-v1.0: {(lost or unexpected)[0]} is {'missing' if lost else 'unknown'}.")
    return network.eval()
