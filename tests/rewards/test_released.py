"""Scorers of released weights, on tiny random weights in the same formats."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPModel

from studio.errors import ModelUnavailable
from studio.rewards import load_reward
from studio.rewards.scorers.aesthetic import head_from
from studio.rewards.scorers.hpsv2 import from_open_clip

PICTURES = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
PROMPTS = ["a red heart", "a blue star"]


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return CLIPModel.from_pretrained(tiny_clip).eval()


def test_pickscore_is_the_cosine_at_the_scale_that_was_learned(tiny_clip, clip):
    ours, cosine = (load_reward(f"{kind}:{tiny_clip}")(PICTURES, PROMPTS) for kind in ("pickscore", "clip"))
    assert ours.tolist() == pytest.approx((cosine / 100 * clip.logit_scale.exp().item()).tolist(), rel=1e-4)


def aesthetic_weights(width):
    generator = torch.Generator().manual_seed(1)
    sizes = dict(zip((0, 2, 4, 6, 7), ((width, 1024), (1024, 128), (128, 64), (64, 16), (16, 1))))
    return {
        f"layers.{place}.{kind}": torch.randn((after, before) if kind == "weight" else (after,), generator=generator) * 0.05
        for place, (before, after) in sizes.items() for kind in ("weight", "bias")
    }


def test_the_aesthetic_head_reads_the_picture_alone(tiny_clip, clip, tmp_path):
    weights = aesthetic_weights(clip.config.projection_dim)
    torch.save(weights, tmp_path / "head.pth")
    reward = load_reward(f"aesthetic:{tmp_path / 'head.pth'}+{tiny_clip}")
    values = reward(PICTURES, PROMPTS)
    assert torch.equal(values, reward(PICTURES, PROMPTS[::-1])) and values[0] != values[1]
    from studio.models.companions import read_clip
    from studio.rewards.pixels import squared

    known = read_clip("x", tiny_clip, torch.device("cpu"))
    x = known.embed_pictures(squared(PICTURES, known.side))
    for place in (0, 2, 4, 6, 7):
        x = nn.functional.linear(x, weights[f"layers.{place}.weight"], weights[f"layers.{place}.bias"])
    assert values.tolist() == pytest.approx(x[:, 0].tolist(), abs=1e-5)
    with pytest.raises(ModelUnavailable, match="no aesthetic head"):
        head_from({"a": torch.zeros(1)})


BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def as_open_clip(network):
    """The weights of a CLIPModel under open_clip's names."""
    own, found = network.state_dict(), {}
    found |= {
        "visual.class_embedding": own["vision_model.embeddings.class_embedding"], "visual.conv1.weight": own["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": own["vision_model.embeddings.position_embedding.weight"], "visual.proj": own["visual_projection.weight"].T,
        "token_embedding.weight": own["text_model.embeddings.token_embedding.weight"], "logit_scale": own["logit_scale"],
        "positional_embedding": own["text_model.embeddings.position_embedding.weight"], "text_projection": own["text_projection.weight"].T,
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm", "ln_final": "text_model.final_layer_norm"}
    for theirs, ours in norms.items():
        found |= {f"{theirs}.{kind}": own[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    towers = (("visual.transformer", "vision_model", network.config.vision_config), ("transformer", "text_model", network.config.text_config))
    for tower, ours, config in towers:
        for i in range(config.num_hidden_layers):
            block = f"{ours}.encoder.layers.{i}"
            for kind in ("weight", "bias"):
                found[f"{tower}.resblocks.{i}.attn.in_proj_{kind}"] = torch.cat([own[f"{block}.self_attn.{part}_proj.{kind}"] for part in "qkv"])
                found |= {f"{tower}.resblocks.{i}.{name}.{kind}": own[f"{block}.{mine}.{kind}"] for name, mine in BLOCK.items()}
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}


@pytest.fixture
def heads(monkeypatch, clip):
    """Tiny towers have other heads than open_clip's 64 features each."""
    text = clip.config.text_config
    monkeypatch.setattr("studio.rewards.scorers.hpsv2.HEAD", text.hidden_size // text.num_attention_heads)


@torch.no_grad()
def test_open_clips_weights_give_the_same_network(clip, heads):
    for config in (clip.config.vision_config, clip.config.text_config):
        config.hidden_act = "gelu"
    theirs = CLIPModel(clip.config).eval()
    theirs.load_state_dict(clip.state_dict())
    ours = from_open_clip(as_open_clip(clip), eos_token_id=clip.config.text_config.eos_token_id)
    side = clip.config.vision_config.image_size
    pixels, ids = torch.randn(2, 3, side, side), torch.randint(1, 20, (2, 8))
    a, b = (network.get_image_features(pixel_values=pixels) for network in (ours, theirs))
    assert torch.allclose(getattr(a, "pooler_output", a), getattr(b, "pooler_output", b), atol=1e-5)
    a, b = (network.get_text_features(input_ids=ids) for network in (ours, theirs))
    assert torch.allclose(getattr(a, "pooler_output", a), getattr(b, "pooler_output", b), atol=1e-5)


def test_hpsv2_is_read_from_a_file_with_its_tokenizer_beside_it(tiny_clip, clip, heads, tmp_path):
    import shutil

    for file in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "vocab.json", "merges.txt", "special_tokens_map.json", "config.json"):
        path = f"{tiny_clip}/{file}"
        if shutil.os.path.exists(path):
            shutil.copy(path, tmp_path / file)
    save_file(as_open_clip(clip), tmp_path / "hps.safetensors")
    values = load_reward(f"hpsv2:{tmp_path / 'hps.safetensors'}")(PICTURES, PROMPTS)
    assert values.shape == (2,) and values.abs().max() <= 100
    with pytest.raises(ModelUnavailable, match="open_clip"):
        from_open_clip({"visual.conv1.weight": torch.zeros(2, 3, 4, 4)})


def test_what_cannot_be_fetched_or_found_says_what_to_do(tmp_path):
    with pytest.raises(ModelUnavailable, match="no ImageReward.pt in the folder"):
        load_reward(f"blip:{tmp_path}")
    with pytest.raises(ModelUnavailable, match="network, or name the file"):
        load_reward("zai-org/ImageReward")
    with pytest.raises(ModelUnavailable, match="no folder, no file"):
        load_reward("blip:nothing")
