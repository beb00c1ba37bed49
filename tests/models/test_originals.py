"""Checkpoints in one file, in their original layout: drawn as diffusers' pipeline of the same weights draws, and refused in a sentence."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from studio import SampleOptions
from studio.errors import ModelUnavailable
from studio.models import load_model, rgb_maps
from studio.models.latents import open_pipeline
from studio.models.original_configs import _write_tokenizer, predicts
from studio.models.originals import ORIGINALS, Header, read_header, recognised
from studio.models.sources import Source
from studio.sampling.loop import sample
from tests import tiny_originals as tiny

PROMPT = "a red star on a blue butterfly"
SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
DDIM = {**SCHEDULER, "clip_sample": False, "set_alpha_to_one": False}


@pytest.fixture(autouse=True)
def _preview_map_from_small_pictures(monkeypatch):
    """Files that name no size are taken for models of 512 pixels and more, and the map of their VAE, which no test here looks at, would be fitted at 256."""
    monkeypatch.setattr(rgb_maps, "MAX_SIDE", 32)


def sd1(folder: Path, channels: int = 4):
    words = tiny.words_in(folder / "words")
    unet, vae, text = tiny.tiny_unet(in_channels=channels), tiny.tiny_vae(), tiny.tiny_text(words, 64, "quick_gelu")
    weights = tiny.unet_to_original(unet) | tiny.vae_to_original(vae) | tiny.clip_to_original(text, "cond_stage_model.transformer.")
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=words, scheduler=diffusers.DDIMScheduler(**DDIM), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )
    return pipeline, weights, {"tokenizer": words}


def sd2(folder: Path):
    words = tiny.words_in(folder / "words")
    unet, vae = tiny.tiny_unet(use_linear_projection=True, attention_head_dim=[1, 1]), tiny.tiny_vae()
    text = tiny.tiny_text(words, 64, "gelu")
    weights = tiny.unet_to_original(unet) | tiny.vae_to_original(vae) | tiny.open_clip_to_original(text, "cond_stage_model.model.", unused_layer=True)
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, vae=vae, text_encoder=text, tokenizer=words, scheduler=diffusers.DDIMScheduler(**DDIM, prediction_type="v_prediction"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    return pipeline, weights, {"tokenizer": words}


def sdxl(folder: Path, v_prediction: bool = False):
    words, words_2 = tiny.words_in(folder / "words"), tiny.words_in(folder / "words")
    unet = tiny.tiny_unet(
        use_linear_projection=True, attention_head_dim=[1, 1], cross_attention_dim=64 + 128, transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 128,
    )
    vae = tiny.tiny_vae(scaling_factor=0.13025, force_upcast=True)
    text, text_2 = tiny.tiny_text(words, 64, "quick_gelu"), tiny.tiny_text(words, 128, "gelu", projected=True, heads=2)
    weights = tiny.unet_to_original(unet) | tiny.vae_to_original(vae) | tiny.clip_to_original(text, "conditioner.embedders.0.transformer.")
    weights |= tiny.open_clip_to_original(text_2, "conditioner.embedders.1.model.")
    more = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True} if v_prediction else {}
    weights |= {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)} if v_prediction else {}
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=unet, vae=vae, text_encoder=text, text_encoder_2=text_2, tokenizer=words, tokenizer_2=words_2, add_watermarker=False,
        scheduler=diffusers.EulerDiscreteScheduler(**SCHEDULER, timestep_spacing="leading", **more),
    )
    return pipeline, weights, {"tokenizer": words, "tokenizer_2": words_2}


def sd3(folder: Path):
    words, words_2 = tiny.words_in(folder / "words"), tiny.words_in(folder / "words")
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=1, joint_attention_dim=256,
        caption_projection_dim=64, pooled_projection_dim=64 + 128, out_channels=16, pos_embed_max_size=16,
    )
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.3)
    vae = tiny.tiny_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False, force_upcast=True)
    text, text_2 = tiny.tiny_text(words, 64, "quick_gelu", projected=True), tiny.tiny_text(words, 128, "gelu", projected=True, heads=2)
    # The file leaves out CLIP-L's projection, which is none.
    text.text_projection.weight.data = torch.eye(64)
    weights = tiny.sd3_to_original(transformer) | tiny.vae_to_original(vae)
    weights |= {name: value for name, value in tiny.clip_to_original(text, "text_encoders.clip_l.transformer.").items() if "text_projection" not in name}
    weights |= tiny.clip_to_original(text_2, "text_encoders.clip_g.transformer.")
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, text_encoder=text, text_encoder_2=text_2, tokenizer=words, tokenizer_2=words_2, text_encoder_3=None,
        tokenizer_3=None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return pipeline, weights, {"tokenizer": words, "tokenizer_2": words_2}


def parts_of(kind: str, folder: Path) -> tuple[dict, dict, dict]:
    """Networks of the kinds that go on where something is told beside the state, their weights in the original layout, and the words."""
    words = tiny.words_in(folder / "words")
    xl, open_clip = kind.startswith("sdxl"), kind != "sd1-inpainting"
    told: dict = {"in_channels": {"sdxl-refiner": 4, "upscaler": 7}.get(kind, 9), "out_channels": 4}
    told |= {"use_linear_projection": True, "attention_head_dim": 8 if kind == "upscaler" else [1, 1]} if open_clip else {}
    if xl:
        refiner = kind == "sdxl-refiner"
        told |= {
            "cross_attention_dim": 128 if refiner else 192, "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": (5 if refiner else 6) * 8 + 128,
        }
    told |= {"num_class_embeds": 400, "only_cross_attention": [True, True], "cross_attention_dim": 96} if kind == "upscaler" else {}
    parts = {"unet": tiny.tiny_unet(**told), "vae": tiny.tiny_vae(**({"force_upcast": True} if xl else {}))}
    weights = tiny.unet_to_original(parts["unet"]) | tiny.vae_to_original(parts["vae"])
    if xl:
        parts["text_encoder_2"] = tiny.tiny_text(words, 128, "gelu", projected=True, heads=2)
        weights |= tiny.open_clip_to_original(parts["text_encoder_2"], f"conditioner.embedders.{0 if kind == 'sdxl-refiner' else 1}.model.")
    else:
        parts["text_encoder"] = tiny.tiny_text(words, 96 if kind == "upscaler" else 64, "gelu" if open_clip else "quick_gelu")
        own = partial(tiny.open_clip_to_original, prefix="cond_stage_model.model.", unused_layer=True)
        weights |= own(parts["text_encoder"]) if open_clip else tiny.clip_to_original(parts["text_encoder"], "cond_stage_model.transformer.")
    if kind == "sdxl-inpainting":
        parts["text_encoder"] = tiny.tiny_text(words, 64, "quick_gelu")
        weights |= tiny.clip_to_original(parts["text_encoder"], "conditioner.embedders.0.transformer.")
    return parts, weights, {"tokenizer": words, "tokenizer_2": words} if xl else {"tokenizer": words}


@pytest.mark.parametrize("kind", ["sdxl-refiner", "sd1-inpainting", "sd2-inpainting", "sdxl-inpainting", "upscaler"])
def test_files_of_the_other_kinds_become_the_pipelines_that_they_were(kind, tmp_path):
    torch.manual_seed(0)
    parts, weights, words = parts_of(kind, tmp_path)
    path = tiny.save_original(tmp_path / "x.safetensors", weights, words)
    assert recognised(read_header(path), path) == kind
    source = Source(name=path, place=path, device=torch.device("cpu"), dtype=torch.float32)
    pipeline = open_pipeline(source, ORIGINALS[kind].pipeline, "model", "")
    for name, part in parts.items():
        read, wanted = getattr(pipeline, name).state_dict(), part.state_dict()
        assert read.keys() == wanted.keys() and all(torch.equal(read[key], wanted[key]) for key in wanted), name
    text = torch.zeros(1, 4, parts["unet"].config.cross_attention_dim)
    more = {"class_labels": torch.tensor([3])} if kind == "upscaler" else {}
    if kind.startswith("sdxl"):
        more["added_cond_kwargs"] = {"text_embeds": torch.ones(1, 128), "time_ids": torch.ones(1, 5 if kind == "sdxl-refiner" else 6)}
    x_t = torch.randn(1, parts["unet"].config.in_channels, 8, 8)
    answers = [unet(x_t, 500, encoder_hidden_states=text, **more).sample for unet in (parts["unet"].eval(), pipeline.unet.eval())]
    torch.testing.assert_close(answers[0], answers[1])
    # And the studio draws with it what it draws with the same pipeline kept as a folder.
    pipeline.save_pretrained(tmp_path / "kept")
    picture, mask = Image.new("RGB", (32, 32), (200, 30, 60)), Image.new("L", (32, 32), 0)
    mask.paste(255, (8, 8, 24, 24))
    begins = {"init_image": picture, "strength": 1.0 if "inpainting" in kind else 0.5}
    told = {"cond_image": picture.resize((8, 8)), "width": None, "height": None} if kind == "upscaler" else begins
    told |= {"init_mask": mask} if "inpainting" in kind else {}
    file, folder = (drawn(name, guidance_scale=3.0, **told) for name in (path, str(tmp_path / "kept")))
    assert np.ptp(file) > 10 and np.abs(file - folder).max() <= 1


MAKERS = {"sd1": (sd1, "ddim"), "sd2": (sd2, "ddim"), "sdxl": (sdxl, "euler"), "sd3": (sd3, "euler")}


def drawn(name: str, **changes) -> np.ndarray:
    *_, finished = sample(load_model(name), SampleOptions(**{"model": name, "prompt": PROMPT, "num_steps": 4, "seed": 3, "width": 32, "height": 32, **changes}))
    return np.asarray(finished.images[0]).astype(int)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_in_the_original_layout_draws_what_diffusers_draws_of_the_same_weights(kind, tmp_path):
    make, scheduler = MAKERS[kind]
    torch.manual_seed(0)
    pipeline, weights, words = make(tmp_path)
    # A name that says nothing of what it is.
    path = tiny.save_original(tmp_path / "x.safetensors", weights, words)
    assert recognised(read_header(path), path) == kind
    pipeline.set_progress_bar_config(disable=True)
    told = {"num_inference_steps": 4, "guidance_scale": 3.0, "height": 32, "width": 32}
    theirs = np.asarray(pipeline(PROMPT, generator=torch.Generator().manual_seed(3), **told).images[0]).astype(int)
    ours = drawn(path, scheduler=scheduler, guidance_scale=3.0)
    assert np.ptp(theirs) > 20 and np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(dtype, tmp_path):
    torch.manual_seed(0)
    _, weights, words = sd1(tmp_path)
    whole, half = (tiny.save_original(tmp_path / f"{name}.safetensors", weights, words, one) for name, one in (("whole", torch.float32), ("half", dtype)))
    assert 0 < np.abs(drawn(half) - drawn(whole)).mean() < 4


def test_what_shapes_do_not_say_is_taken_from_the_metadata_and_from_marks(tmp_path):
    torch.manual_seed(0)
    _, weights, words = sd2(tmp_path)
    said = {"modelspec.prediction_type": "epsilon", "modelspec.resolution": "64x64"}
    model = load_model(tiny.save_original(tmp_path / "said.safetensors", weights, words, metadata=said))
    assert model.path.prediction_type == "epsilon" and (model.info.width, model.info.height) == (64, 64)
    plain = load_model(tiny.save_original(tmp_path / "plain.safetensors", weights, words))
    assert plain.path.prediction_type == "v_prediction"
    _, weights, words = sdxl(tmp_path, v_prediction=True)
    marked = load_model(tiny.save_original(tmp_path / "marked.safetensors", weights, words))
    assert marked.path.prediction_type == "v_prediction" and marked.scheduler_config["rescale_betas_zero_snr"]


@pytest.mark.parametrize(("gives", "said"), [(lambda x: 0.9 * x, "epsilon"), (lambda x: -0.3 * x.flip(-1), "v_prediction")])
def test_what_a_network_predicts_that_does_not_say_it_is_asked_of_it(gives, said):
    class Network:
        config, dtype = SimpleNamespace(in_channels=4), torch.float32

        def __call__(self, x_t, t, encoder_hidden_states, return_dict):
            return (gives(x_t),)

    assert predicts(Network(), 8) == said


def test_a_folder_of_the_files_name_beside_it_is_its_configuration(tmp_path):
    torch.manual_seed(0)
    pipeline, weights, _ = sd1(tmp_path)
    pipeline.scheduler = diffusers.DDIMScheduler(**DDIM, prediction_type="v_prediction")
    pipeline.save_pretrained(tmp_path / "my-checkpoint")
    model = load_model(tiny.save_original(tmp_path / "my-checkpoint.safetensors", weights, {}))
    assert model.path.prediction_type == "v_prediction" and model.info.label == "my-checkpoint" and model.info.text


def test_the_vocabulary_of_clip_is_the_published_one(tmp_path):
    from transformers import CLIPTokenizer

    encoder = {"_class_name": "CLIPTextModel", "vocab_size": 49408, "hidden_act": "quick_gelu", "max_position_embeddings": 77}
    assert _write_tokenizer(tmp_path / "tokenizer", tmp_path / "none", encoder) == "CLIPTokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a photo of an astronaut riding a horse").input_ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407]


# --- which is which ------------------------------------------------------------------------------------------

UNET = "model.diffusion_model."
CLIP, OPEN_CLIP = "cond_stage_model.transformer.text_model.x", "cond_stage_model.model.x"
ONE, TWO = "conditioner.embedders.0.model.x", "conditioner.embedders.1.model.x"
FILES = {
    "sd1": {CLIP: 1}, "sd2": {OPEN_CLIP: 1}, "sdxl": {"conditioner.embedders.0.transformer.x": 1, TWO: 1, f"{UNET}label_emb.0.0.weight": 1},
    "sdxl-refiner": {ONE: 1, f"{UNET}label_emb.0.0.weight": 1}, "sd1-inpainting": {CLIP: 9}, "sd2-inpainting": {OPEN_CLIP: 9},
    "sdxl-inpainting": {TWO: 9}, "upscaler": {OPEN_CLIP: 7, f"{UNET}label_emb.weight": 1},
    "sd3": {f"{UNET}joint_blocks.0.context_block.x": 1, "text_encoders.clip_l.x": 1, "text_encoders.clip_g.x": 1},
}


def header_of(keys, channels: int = 4) -> Header:
    channels = max([channels, *(number for number in keys.values() if number > 1)]) if isinstance(keys, dict) else channels
    return Header(shapes={**dict.fromkeys(keys, (8,)), f"{UNET}input_blocks.0.0.weight": (8, channels, 3, 3)}, metadata={})


@pytest.mark.parametrize("kind", ORIGINALS)
def test_every_kind_is_told_by_its_keys_and_shapes(kind):
    assert recognised(header_of(FILES[kind]), "x") == kind


@pytest.mark.parametrize(("keys", "said"), [
    (["lora_unet_down.lora_down.weight"], "is a LoRA"), (["emb_params"], "textual inversion"), (["double_blocks.0.x"], "Flux"),
    (["control_model.x"], "ControlNet"), (["encoder.down.0.x"], "is a VAE"), (["down_blocks.0.x"], "one network"),
    ([f"{UNET}joint_blocks.0.context_block.x"], "without its CLIP"), (["something.else"], "no model that the studio knows"),
    ([f"{UNET}input_blocks.1.0.x"], "without its text encoder"),
    ([f"{UNET}input_blocks.1.0.x", "depth_model.model.x"], "Stable Diffusion with depth, which .* take the folder"),
    ([f"{UNET}input_blocks.1.0.x", "noise_augmentor.data_mean", "embedder.model.x"], "Stable unCLIP, which .* take the folder"),
])
def test_files_of_other_kinds_are_told_what_they_are_in_a_sentence(keys, said, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(8) for key in keys}, path)
    with pytest.raises(ModelUnavailable, match=said):
        load_model(str(path))


def test_a_file_that_is_cut_short_or_misses_a_part_or_its_words_is_refused_in_a_sentence(tmp_path):
    torch.manual_seed(0)
    _, weights, words = sd1(tmp_path)
    path = Path(tiny.save_original(tmp_path / "x.safetensors", {name: value for name, value in weights.items() if "first_stage" not in name}, words))
    with pytest.raises(ModelUnavailable, match="only part of Stable Diffusion 1"):
        load_model(str(path))
    lonely = tiny.save_original(tmp_path / "lonely.safetensors", weights, {})
    with pytest.raises(ModelUnavailable, match="whose tokenizer no file brings along"):
        load_model(lonely)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelUnavailable, match="cut short"):
        load_model(str(path))
    less = {name: value for name, value in load_file(lonely).items() if "output_blocks.1" not in name}
    with pytest.raises(ModelUnavailable, match="could not be read"):
        load_model(tiny.save_original(tmp_path / "less.safetensors", less, words))
