"""The reward network of ImageReward: against the package's own forward, and its traps."""

import dataclasses
import importlib.util
import os
import sys
import types

import pytest
import torch
from torch import nn

from studio.errors import ModelUnavailable
from studio.rewards import load_reward
from studio.rewards.blip import RewardFacts, from_released, save_folder
from studio.rewards.weights import read_weights

# As many as the embedded tokenizer knows, and more.
WORDS = 1024
SIZES = {
    "vision": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text": {"vocab_size": WORDS, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "layer_norm_eps": 1e-12},
}


# --- a plain derivation of the published forward -------------------------------------------------------------

def attention(query, key, value, heads, mask=None):
    def split(x):
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    scores = split(query) @ split(key).transpose(-1, -2) / (query.shape[-1] // heads) ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
    return (scores.softmax(-1) @ split(value)).transpose(1, 2).flatten(2)


class Published:
    """ViT, BERT with cross-attention, and the head, written out by hand over weights under the names of ImageReward.pt."""

    def __init__(self, weights):
        self.weights = weights

    def linear(self, name, x):
        return nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, name, x, eps):
        return nn.functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], eps)

    def see(self, pixels):
        own = "blip.visual_encoder"
        patches = nn.functional.conv2d(pixels, self.weights[f"{own}.patch_embed.proj.weight"], self.weights[f"{own}.patch_embed.proj.bias"], stride=16)
        x = torch.cat([self.weights[f"{own}.cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.weights[f"{own}.pos_embed"]
        for i in range(2):
            block = f"{own}.blocks.{i}"
            parts = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=-1)
            x = x + self.linear(f"{block}.attn.proj", attention(*parts, 4))
            inner = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6))
            x = x + self.linear(f"{block}.mlp.fc2", nn.functional.gelu(inner))
        return self.norm(f"{own}.norm", x, 1e-6)

    def attended(self, name, x, other, mask=None):
        query, key, value = (self.linear(f"{name}.self.{part}", of) for part, of in (("query", x), ("key", other), ("value", other)))
        out = self.linear(f"{name}.output.dense", attention(query, key, value, 4, mask))
        return self.norm(f"{name}.output.LayerNorm", out + x, 1e-12)

    def __call__(self, pixels, ids, mask):
        states, own = self.see(pixels), "blip.text_encoder"
        words, places = (self.weights[f"{own}.embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
        x = self.norm(f"{own}.embeddings.LayerNorm", words[ids] + places[: ids.shape[1]], 1e-12)
        for i in range(3):
            layer = f"{own}.encoder.layer.{i}"
            x = self.attended(f"{layer}.attention", x, x, mask)
            x = self.attended(f"{layer}.crossattention", x, states)
            inner = nn.functional.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", self.linear(f"{layer}.output.dense", inner) + x, 1e-12)
        x = x[:, 0]
        for place in (0, 2, 4, 6, 7):
            x = self.linear(f"mlp.layers.{place}", x)
        return x[:, 0]


def random_weights(seed=0):
    """Weights under the names of ImageReward.pt, of SIZES, with what the reward has no use for among them."""
    generator, shapes = torch.Generator().manual_seed(seed), {}
    own = "blip.visual_encoder"
    shapes |= {f"{own}.cls_token": (1, 1, 64), f"{own}.pos_embed": (1, 5, 64), f"{own}.patch_embed.proj.weight": (64, 3, 16, 16)}
    shapes |= {f"{own}.patch_embed.proj.bias": (64,), **layer(f"{own}.norm", 64)}
    for i in range(2):
        block = f"{own}.blocks.{i}"
        shapes |= {**layer(f"{block}.norm1", 64), **layer(f"{block}.norm2", 64), **layer(f"{block}.attn.qkv", 192, 64), **layer(f"{block}.attn.proj", 64, 64)}
        shapes |= {**layer(f"{block}.mlp.fc1", 128, 64), **layer(f"{block}.mlp.fc2", 64, 128)}
    own = "blip.text_encoder"
    shapes |= {f"{own}.embeddings.word_embeddings.weight": (WORDS, 96), f"{own}.embeddings.position_embeddings.weight": (512, 96)}
    shapes |= layer(f"{own}.embeddings.LayerNorm", 96)
    for i in range(3):
        block = f"{own}.encoder.layer.{i}"
        for name, other in (("attention", 96), ("crossattention", 64)):
            shapes |= layer(f"{block}.{name}.self.query", 96, 96) | layer(f"{block}.{name}.self.key", 96, other)
            shapes |= layer(f"{block}.{name}.self.value", 96, other) | layer(f"{block}.{name}.output.dense", 96, 96)
            shapes |= layer(f"{block}.{name}.output.LayerNorm", 96)
        shapes |= layer(f"{block}.intermediate.dense", 160, 96) | layer(f"{block}.output.dense", 96, 160) | layer(f"{block}.output.LayerNorm", 96)
    for place, (before, after) in zip((0, 2, 4, 6, 7), ((96, 1024), (1024, 128), (128, 64), (64, 16), (16, 1))):
        shapes |= layer(f"mlp.layers.{place}", after, before)
    unused = {"blip.vision_proj.weight": (8, 64), "blip.text_proj.weight": (8, 96)}
    weights = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in (shapes | unused).items()}
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(512)[None]
    return weights


def layer(name, after, before=None):
    return {f"{name}.weight": (after,) if before is None else (after, before), f"{name}.bias": (after,)}


@pytest.fixture(scope="module")
def weights():
    return random_weights()


def inputs():
    ids = torch.randint(3, WORDS, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 2 + [0] * 5])
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)), ids, mask


@torch.no_grad()
def test_the_network_is_the_published_forward(weights):
    network, given = from_released(weights, SIZES), inputs()
    expected = Published(weights)(*given)
    # The head's layers multiply: its numbers are large with weights of this size.
    assert (network(*given) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert expected.std() > 0.1


@torch.no_grad()
def test_every_word_matters_and_padding_does_not(weights):
    network, (pixels, ids, mask) = from_released(weights, SIZES), inputs()
    before = network(pixels, ids, mask)
    last, padded = ids.clone(), ids.clone()
    last[0, 6] = (ids[0, 6] + 1) % WORDS
    padded[2, 4] = (ids[2, 4] + 1) % WORDS
    assert network(pixels, last, mask)[0] != before[0], "[CLS] must see the last word: no causal mask"
    assert torch.equal(network(pixels, padded, mask), before)
    assert not torch.equal(network(pixels.flip(0), ids, mask), before)


def test_weights_that_are_others_or_not_all_are_refused_in_a_sentence(weights):
    short = {name: tensor for name, tensor in weights.items() if "blocks.1.norm1" not in name}
    with pytest.raises(ModelUnavailable, match="layers.1.layer_norm1"):
        from_released(short, SIZES)
    with pytest.raises(ModelUnavailable, match="not the weights"):
        from_released({**weights, "mlp.layers.0.weight": torch.zeros(3, 3)}, SIZES)


def test_a_pickle_with_code_is_not_read(tmp_path):
    torch.save({"a": torch.zeros(1), "b": types.SimpleNamespace(c=1)}, tmp_path / "bad.pt")
    with pytest.raises(ModelUnavailable, match="not read"):
        read_weights(tmp_path / "bad.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelUnavailable, match="cut short"):
        read_weights(tmp_path / "cut.pt")


def test_a_saved_folder_gives_the_same_rewards_and_transformers_reads_its_parts(weights, tmp_path):
    from transformers import AutoTokenizer
    from transformers.models.blip.modeling_blip import BlipVisionModel

    from studio.models.catalogue import ASSETS

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "models" / "toybox-clip")
    network = from_released(weights, SIZES)
    sized = from_released(weights, SIZES).half().float()
    save_folder(network, tokenizer, RewardFacts(side=32, max_tokens=16, mean=1.5, std=2.0), tmp_path / "model")
    reward = load_reward(str(tmp_path / "model"), torch.device("cpu"))
    x, prompts = torch.rand(2, 3, 48, 32) * 2 - 1, ["red", "a red"]
    assert torch.isfinite(reward(x, prompts)).all()
    pixels = torch.randn(1, 3, 32, 32)
    again = BlipVisionModel.from_pretrained(tmp_path / "model" / "vision_model", dtype=torch.float32)
    with torch.no_grad():
        assert torch.allclose(again(pixel_values=pixels).last_hidden_state, sized.see(pixels), atol=1e-4)
    assert dataclasses.asdict(RewardFacts())["std"] == 1.0


# --- against the package itself ------------------------------------------------------------------------------

class PatchEmbed(nn.Module):
    """timm's, as the package uses it."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim):
        super().__init__()
        self.proj, self.num_patches = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size), (img_size // patch_size) ** 2

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


# What the package imports and this test has no use for but the name.
ABSENT = {
    "timm": (), "timm.models": (), "timm.models.registry": ("register_model",), "timm.models.layers": ("trunc_normal_", "DropPath"),
    "timm.models.helpers": ("named_apply", "adapt_input_conv"), "fairscale": (), "fairscale.nn": (), "fairscale.nn.checkpoint": (),
    "fairscale.nn.checkpoint.checkpoint_activations": ("checkpoint_wrapper",),
}


@pytest.fixture
def package(monkeypatch):
    """(its ViT, its BERT): the package cannot be imported on today's transformers, so what it misses is put there for this test alone."""
    found = importlib.util.find_spec("ImageReward")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("image-reward is not installed; `make test` installs it.")
        pytest.skip("image-reward is not installed (pip install --no-deps image-reward==1.5); the forward written out above stands for it.")
    import transformers.modeling_utils as modeling
    from transformers import pytorch_utils

    for name in ("apply_chunking_to_forward", "find_pruneable_heads_and_indices", "prune_linear_layer"):
        monkeypatch.setattr(modeling, name, getattr(pytorch_utils, name, None), raising=False)
    monkeypatch.setitem(sys.modules, "transformers.file_utils", types.SimpleNamespace(ModelOutput=object))
    for name, members in ABSENT.items():
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**dict.fromkeys(members, lambda *args, **kwargs: None)))
    vit = types.SimpleNamespace(_cfg=None, PatchEmbed=PatchEmbed)
    monkeypatch.setitem(sys.modules, "timm.models.vision_transformer", vit)
    root = found.submodule_search_locations[0]
    for name in ("ImageReward", "ImageReward.models", "ImageReward.models.BLIP"):
        module = types.ModuleType(name)
        module.__path__ = [root + name.removeprefix("ImageReward").replace(".", "/")]
        monkeypatch.setitem(sys.modules, name, module)
    vision, text = (importlib.import_module(f"ImageReward.models.BLIP.{name}") for name in ("vit", "med"))
    yield vision, text
    for module in (vision, text):
        sys.modules.pop(module.__name__)


@torch.no_grad()
def test_the_network_is_the_packages_own(weights, package, monkeypatch):
    vision, text = package
    seen = vision.VisionTransformer(img_size=32, patch_size=16, embed_dim=64, depth=2, num_heads=4, mlp_ratio=2).eval()
    kind = text.BertModel
    monkeypatch.setattr(kind, "init_weights", lambda self: None)
    monkeypatch.setattr(kind, "get_head_mask", lambda self, mask, count: [None] * count, raising=False)
    monkeypatch.setattr(kind, "invert_attention_mask", lambda self, mask: (1.0 - mask[:, None, None].float()) * -1e4, raising=False)
    config = text.BertConfig(**SIZES["text"], max_position_embeddings=512, is_decoder=True)
    for name, value in {"encoder_width": 64, "add_cross_attention": True, "position_embedding_type": "absolute"}.items():
        setattr(config, name, value)
    read = kind(config=config, add_pooling_layer=False).eval()
    for part, name in ((seen, "blip.visual_encoder."), (read, "blip.text_encoder.")):
        missing, unexpected = part.load_state_dict({key.removeprefix(name): value for key, value in weights.items() if key.startswith(name)}, strict=False)
        assert not unexpected and set(missing) <= {"embeddings.position_ids"}
    pixels, ids, mask = inputs()
    states = seen(pixels)
    features = read(ids, attention_mask=mask, encoder_hidden_states=states, encoder_attention_mask=torch.ones(states.shape[:2]), return_dict=True)
    own = from_released(weights, SIZES)
    assert (own.see(pixels) - states).abs().max() < 1e-5
    assert (own.features(states, ids, mask) - features.last_hidden_state[:, 0]).abs().max() < 1e-5


def test_a_fresh_network_tells_pictures_and_prompts_apart_from_its_first_step_on():
    """transformers' own first weights of the picture tower have a deviation of 1e-10, and of a narrow text tower [CLS] says the same whatever it reads."""
    from trainers.reward import RewardOptions, fresh

    torch.manual_seed(0)
    network, tokenizer, facts = fresh(RewardOptions(width=64, vision_layers=2, text_layers=2))
    from studio.rewards.blip import tokens_of

    ids, mask = tokens_of(tokenizer, ["a red heart", "a blue star on a green background"], facts.max_tokens)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        states = network.see(pixels)
        features = network.features(states[[0, 0, 1]], ids[[0, 1, 0]], mask[[0, 1, 0]])
    assert states.std() > 0.1
    other_words, other_picture = (features[0] - features[1]).norm() / features[0].norm(), (features[0] - features[2]).norm() / features[0].norm()
    assert other_words > 0.02 and other_picture > 0.02


@torch.no_grad()
def test_a_clips_picture_tower_sees_much_the_same_in_the_reward():
    from transformers import CLIPModel

    from studio.models.catalogue import ASSETS
    from studio.rewards.blip import pixels_of
    from trainers.captions import draw_scenes, toybox_scenes
    from trainers.reward import RewardOptions, fresh

    folder = ASSETS / "models" / "toybox-clip"
    clip = CLIPModel.from_pretrained(folder).eval()
    network, _, _ = fresh(RewardOptions(clip=str(folder)))
    pictures = draw_scenes(toybox_scenes(9, 24), 64).float() / 127.5 - 1
    states = network.see(pixels_of(pictures, 64))[:, 0]
    theirs = clip.vision_model(pixel_values=pictures).pooler_output
    centred = [part - part.mean(0) for part in (states, theirs)]
    assert torch.nn.functional.cosine_similarity(*centred, dim=1).mean() > 0.65
