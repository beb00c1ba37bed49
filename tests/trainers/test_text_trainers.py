"""The trainers of the text-to-image family, in a few steps on small data: what they keep, that they resume exactly, that they learn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio.errors import InvalidOption
from studio.toybox import ATTRIBUTES, INVERSE, Scene, caption, parse_pair, seen_relation
from trainers import attributes, clip, latent, near, vae
from trainers.captions import Captioned, load_captioned, toybox_scenes, word
from trainers.cards import command

CLIP = {"resolution": 32, "data_limit": 64, "width": 32, "text_layers": 1, "vision_layers": 1, "batch_size": 16, "steps": 4, "sample_every": 0, "warmup": 1}
VAE = {"resolution": 32, "data_limit": 32, "widths": "8,16", "batch_size": 4, "steps": 4, "sample_every": 0, "warmup": 1}
LATENT = {
    "resolution": 32, "data_limit": 32, "widths": "16,32", "batch_size": 4, "steps": 4, "sample_every": 0, "warmup": 1, "checkpoint_every": 2,
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A CLIP and a VAE of four steps."""
    folder = tmp_path_factory.mktemp("trained")
    list(clip.train(clip.ClipOptions(output=str(folder / "clip"), **CLIP), progress=False))
    list(vae.train(vae.VaeOptions(output=str(folder / "vae"), **VAE), progress=False))
    return folder


def latent_options(trained, folder, **changes):
    return latent.LatentOptions(**{**LATENT, "output": str(folder), "vae": str(trained / "vae/model"), "clip": str(trained / "clip/model"), **changes})


# --- CLIP ----------------------------------------------------------------------------------------------------

def test_every_word_of_the_toy_world_is_one_token_and_no_text_is_an_error():
    tokenizer = clip.make_tokenizer(clip.toybox_texts(), 32)
    words = ["a", "small", "red", "star", "in", "the", "upper", "left", "corner", "against", "a", "violet", "background"]
    assert tokenizer.tokenize(" ".join(words)) == [word + "</w>" for word in words]
    for text in ("", "zebra", "Ünïcödé 漢字 🎈", "it's 3.5 km — ok?", "x" * 500):
        ids = clip.token_ids(tokenizer, [text])
        assert ids.shape == (1, 32) and ids[0, 0] == tokenizer.bos_token_id and (ids >= 0).all() and (ids < len(tokenizer)).all()
        assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(tokenizer("a zebra", add_special_tokens=False).input_ids).split() == ["a", "zebra"]


def test_a_clip_reloads_with_its_tokenizer_as_it_was_trained(trained):
    from transformers import CLIPModel, CLIPTokenizer

    tokenizer, model = CLIPTokenizer.from_pretrained(trained / "clip/model"), CLIPModel.from_pretrained(trained / "clip/model", dtype=torch.float32).eval()
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id and tokenizer.model_max_length == 32
    task = clip.ClipTask(clip.ClipOptions(output=str(trained / "again"), start=str(trained / "clip/model"), **CLIP))
    text = "a blue ring on a pink background"
    assert torch.equal(clip.token_ids(task.tokenizer, [text]), clip.token_ids(tokenizer, [text]))
    assert 0 <= clip.retrieval_accuracy(model, tokenizer, groups=1, choices=8) <= 1


@pytest.mark.parametrize(("towers", "moves"), [("picture", ("vision", "visual")), ("text", ("text",))])
def test_a_tower_that_learns_alone_leaves_the_other_as_it_was(trained, tmp_path, towers, moves):
    options = clip.ClipOptions(output=str(tmp_path), start=str(trained / "clip/model"), towers=towers, **CLIP)
    list(clip.train(options, progress=False))
    before, after = load_file(trained / "clip/model/model.safetensors"), load_file(tmp_path / "model/model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])} - {"logit_scale"}
    assert moved and all(name.startswith(moves) for name in moved)


def test_what_a_tower_alone_needs_is_said():
    with pytest.raises(InvalidOption, match="start"):
        clip.ClipOptions(towers="picture")
    with pytest.raises(InvalidOption, match="toybox"):
        clip.ClipOptions(towers="text", data="somewhere")
    with pytest.raises(InvalidOption, match="both, text or picture"):
        clip.ClipOptions(towers="none")


def test_text_features_are_those_of_transformers(trained):
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(trained / "clip/model", dtype=torch.float32).eval()
    ids = clip.token_ids(CLIPTokenizer.from_pretrained(trained / "clip/model"), ["a red star", "a blue ring on a pink background"])
    with torch.inference_mode():
        own, theirs = clip.text_features(model, ids), model(input_ids=ids, pixel_values=torch.zeros(1, 3, 32, 32)).text_embeds
    assert torch.allclose(own, theirs, atol=1e-6)


def test_words_alone_teach_the_text_tower_what_differs(tmp_path):
    options = clip.ClipOptions(output=str(tmp_path), towers="text", **{**CLIP, "steps": 60, "lr": 2e-3})
    logs = list(clip.train(options, progress=False))
    assert np.mean([log.loss for log in logs[-5:]]) < 0.7 * np.mean([log.loss for log in logs[:5]])


def test_a_near_scene_differs_in_one_attribute():
    scene = Scene(object="star", colour="red", background="blue", size="small", position="left")
    changed = [near.near_scene(scene, np.random.default_rng(seed)) for seed in range(200)]
    differing = [[name for name in ATTRIBUTES if getattr(other, name) != getattr(scene, name)] for other in changed]
    assert all(len(names) == 1 for names in differing) and {names[0] for names in differing} == set(ATTRIBUTES)
    assert near.near_scene("a caption", np.random.default_rng(0)) == "a caption"


def test_a_near_scene_of_two_says_something_else_in_one_respect():
    wrong = set()
    for k, scene in enumerate(toybox_scenes(3, 400, "all", "toybox-pairs")):
        other = near.near_scene(scene, np.random.default_rng(k))
        before, after = parse_pair(caption(scene)), parse_pair(caption(other))
        changed = [name for name, one, two in zip(("first", "relation", "second", "background"), before, after) if one != two]
        swapped = changed == ["first", "second"] and before[0]["colour"] == after[2]["colour"] and before[2]["colour"] == after[0]["colour"]
        assert len(changed) == 1 or swapped
        wrong.add("colours" if swapped else changed[0])
    assert wrong == {"first", "relation", "second", "background", "colours"}


def test_a_wrong_relation_is_never_true_of_the_picture():
    for k, scene in enumerate(toybox_scenes(4, 300, "all", "toybox-pairs")):
        other = near.WRONG["relation"](scene, np.random.default_rng(k))
        assert other.relation not in (scene.relation, "and", seen_relation(scene))
        assert scene.relation != "and" or other.relation == INVERSE[seen_relation(scene)]


def test_every_caption_of_the_world_fits_into_the_text_tower():
    tokenizer, rng = clip.make_tokenizer(clip.toybox_texts(), 32), np.random.default_rng(0)
    texts = [word(scene, rng) for scene in toybox_scenes(5, 1500, "all", "toybox-world")]
    lengths = [len(ids) for ids in tokenizer(texts).input_ids]
    assert max(lengths) <= 32 and all(" ".join(tokenizer.tokenize(text)).count("</w>") == len(text.split()) for text in texts)


@pytest.mark.parametrize("towers", ["both", "text"])
def test_a_clip_learns_from_the_world_of_two(tmp_path, towers):
    from transformers import CLIPModel, CLIPTokenizer

    options = clip.ClipOptions(output=str(tmp_path), data="toybox-world", towers=towers, near_captions=2, **CLIP)
    assert all(np.isfinite(log.loss) for log in clip.train(options, progress=False))
    model = CLIPModel.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    shares = clip.pair_accuracy(model, CLIPTokenizer.from_pretrained(tmp_path / "model"), count=8)
    assert set(shares) == {"relation", "swapped colours"} and all(0 <= share <= 1 for share in shares.values())


def test_the_captions_that_relations_are_judged_by_differ_in_the_relation_alone():
    scene = next(scene for scene in toybox_scenes(6, 50, "all", "toybox-pairs") if scene.relation == "above")
    texts = clip.told_relations(scene, np.random.default_rng(0))
    assert texts[0] == caption(scene) and len(set(texts)) == 4
    assert {text.replace("to the left of", "above").replace("to the right of", "above").replace("below", "above") for text in texts} == {texts[0]}


@pytest.mark.parametrize("wrong", [0, 2])
def test_near_captions_are_further_wrong_answers(tmp_path, wrong):
    task = clip.ClipTask(clip.ClipOptions(output=str(tmp_path), near_captions=wrong, **CLIP))
    indices = torch.arange(16)
    assert len(task._captions(indices, 1)) == 16 * (1 + wrong)
    losses = task.losses(task.network, indices, torch.Generator().manual_seed(0), torch.device("cpu"))
    # With all answers equally likely, right ones are found by chance alone: log of their number, from either side.
    with torch.no_grad():
        task.network.logit_scale.fill_(-20)
    losses = task.losses(task.network, indices, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert losses.descend.item() == pytest.approx((np.log(16 * (1 + wrong)) + np.log(16)) / 2, abs=1e-3)


def test_accuracy_by_attribute_is_a_share(trained):
    from transformers import CLIPModel, CLIPTokenizer

    model = CLIPModel.from_pretrained(trained / "clip/model", dtype=torch.float32).eval()
    share = clip.attribute_accuracy(model, CLIPTokenizer.from_pretrained(trained / "clip/model"), "size", count=12)
    assert 0 <= share <= 1 and share * 12 == pytest.approx(round(share * 12))


def test_clip_learns_to_tell_four_pictures_apart(tmp_path):
    options = clip.ClipOptions(output=str(tmp_path), **{**CLIP, "data_limit": 8, "batch_size": 8, "steps": 60, "lr": 2e-3})
    logs = list(clip.train(options, progress=False))
    assert np.mean([log.loss for log in logs[-5:]]) < 0.5 * np.mean([log.loss for log in logs[:5]])


# --- VAE -----------------------------------------------------------------------------------------------------

def test_a_vae_reloads_with_a_measured_scaling_factor(trained):
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(trained / "vae/model", torch_dtype=torch.float32).eval()
    data = load_captioned("toybox", 32, limit=32, seed=0)
    with torch.inference_mode():
        z = model.encode(data.batch(torch.arange(32))).latent_dist.mode() * model.config.scaling_factor
    assert z.shape == (32, 4, 16, 16) and z.std().item() == pytest.approx(1, rel=0.02)


def test_a_decoder_trained_alone_leaves_the_latents_as_they_were(trained, tmp_path):
    options = vae.VaeOptions(output=str(tmp_path), start=str(trained / "vae/model"), decoder_only=True, **VAE)
    list(vae.train(options, progress=False))
    before, after = (load_file(folder / "model/diffusion_pytorch_model.safetensors") for folder in (trained / "vae", tmp_path))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(name.startswith(("encoder", "quant_conv")) for name in moved)
    assert (tmp_path / "model/config.json").read_text().count("scaling_factor") == 1


def test_the_perceptual_term_is_zero_for_equal_pictures_and_counts_in_the_loss(trained):
    options = vae.VaeOptions(output=str(trained / "p"), perceptual_weight=1.0, perceptual_model=str(trained / "clip/model"), **VAE)
    task = vae.VaeTask(options)
    x = task.data.batch(torch.arange(4))
    assert task.perceptual(x, x).item() == 0 and task.perceptual(x, -x).item() > 0
    plain = vae.VaeTask(vae.VaeOptions(output=str(trained / "q"), **VAE))
    plain.network.load_state_dict(task.network.state_dict())
    losses = [each.losses(each.network, torch.arange(4), torch.Generator().manual_seed(1), torch.device("cpu")).descend.item() for each in (task, plain)]
    assert losses[0] > losses[1]


def test_the_preview_term_is_what_least_squares_leave():
    torch.manual_seed(0)
    latents = torch.randn(4, 3, 8, 8)
    colours = torch.einsum("oc,bchw->bohw", torch.tensor([[1.0, 2, 0], [0, 1, -1], [0.5, 0, 0]]), latents) + 0.3
    pictures = colours.repeat_interleave(4, -1).repeat_interleave(4, -2)
    error, explained = vae.preview_error(latents, pictures)
    assert error.item() < 1e-6 and explained.item() > 0.9999
    noisy = pictures + torch.randn(4, 3, 8, 8).repeat_interleave(4, -1).repeat_interleave(4, -2)
    by_numpy = np.linalg.lstsq(
        np.c_[latents.movedim(1, -1).reshape(-1, 3), np.ones(256)], torch.nn.functional.avg_pool2d(noisy, 4).movedim(1, -1).reshape(-1, 3), rcond=None,
    )[1]
    assert vae.preview_error(latents, noisy)[0].item() == pytest.approx(float(by_numpy.sum()) / (256 * 3), rel=1e-4)


def test_the_slope_of_the_preview_term_is_that_of_the_refitted_map():
    torch.manual_seed(0)
    latents, pictures, way = torch.randn(2, 4, 8, 8).double().requires_grad_(), torch.randn(2, 3, 16, 16).double(), torch.randn(2, 4, 8, 8).double()
    error, _ = vae.preview_error(latents, pictures)
    error.backward()
    ahead, behind = (vae.preview_error(latents.detach() + step * way, pictures)[0] for step in (1e-4, -1e-4))
    assert ((ahead - behind) / 2e-4).item() == pytest.approx((latents.grad * way).sum().item(), rel=1e-3)


def test_the_preview_term_makes_latents_that_a_linear_map_reads(tmp_path):
    shares = []
    for weight in (0.0, 1.0):
        options = vae.VaeOptions(output=str(tmp_path / str(weight)), preview_weight=weight, data="toybox-world", **{**VAE, "steps": 40, "lr": 3e-3})
        shares.append(np.mean([log.extra["preview"] for log in list(vae.train(options, progress=False))[-5:]]))
    assert shares[1] > shares[0] + 0.02


def test_what_previews_explain_is_measured_on_fresh_scenes(trained):
    from trainers.latent import load_vae

    model = load_vae(str(trained / "vae/model"))
    assert 0 < vae.preview_explained(model, world="toybox-world", count=16) <= 1


# --- latent --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_result_is_a_pipeline_that_plain_diffusers_loads(trained, tmp_path, prediction_type):
    from diffusers import StableDiffusionPipeline

    logs = list(latent.train(latent_options(trained, tmp_path, prediction_type=prediction_type, sample_every=4), progress=False))
    assert len(logs) == 4 and np.isfinite(logs[-1].loss) and len(logs[-1].quartiles) == 4
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.prediction_type == prediction_type
    assert pipeline("a red star", num_inference_steps=2).images[0].size == (32, 32)
    assert Image.open(tmp_path / "samples/step-000004.png").size[0] > 6 * 32
    assert "_name_or_path" not in json.loads((tmp_path / "model/vae/config.json").read_text())


def test_a_resumed_latent_run_reads_its_cache_and_ends_in_the_very_same_weights(trained, tmp_path, monkeypatch):
    def weights(folder):
        return load_file(folder / "model/unet/diffusion_pytorch_model.safetensors")

    list(latent.train(latent_options(trained, tmp_path / "whole"), progress=False))
    stopped = latent.train(latent_options(trained, tmp_path / "cut"), progress=False)
    for _ in range(3):
        next(stopped)
    stopped.close()
    monkeypatch.setattr(latent, "encode_pictures", lambda *_: pytest.fail("encoded a second time"))
    assert [log.step for log in latent.train(latent_options(trained, tmp_path / "cut"), progress=False)] == [2, 3]
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_an_early_model_is_kept_besides_and_differs_in_its_network_alone(trained, tmp_path):
    list(latent.train(latent_options(trained, tmp_path, early=2), progress=False))
    for part, same in (("vae", True), ("text_encoder", True), ("unet", False)):
        (one,), (other,) = ([load_file(file) for file in (tmp_path / name / part).glob("*.safetensors")] for name in ("early", "model"))
        assert all(torch.equal(one[name], other[name]) for name in one) == same
    two_steps = latent_options(trained, tmp_path / "two", steps=2, lr_plan="constant")
    list(latent.train(two_steps, progress=False))
    list(latent.train(latent_options(trained, tmp_path / "four", early=2, lr_plan="constant"), progress=False))
    early, two = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (tmp_path / "four/early", tmp_path / "two/model"))
    assert all(torch.equal(early[name], two[name]) for name in early)


def test_with_zero_terminal_snr_the_last_step_is_noise_alone_and_the_folder_says_so(trained, tmp_path):
    from diffusers import StableDiffusionPipeline

    scheduler = latent.make_scheduler("v_prediction", zero_terminal_snr=True)
    z, noise = torch.ones(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    assert torch.allclose(scheduler.add_noise(z, noise, torch.tensor([999])), noise, atol=1e-3)
    assert not torch.allclose(latent.make_scheduler("v_prediction").add_noise(z, noise, torch.tensor([999])), noise, atol=1e-3)
    logs = list(latent.train(latent_options(trained, tmp_path, zero_terminal_snr=True, data="toybox-world", sample_every=4), progress=False))
    assert all(np.isfinite(log.loss) for log in logs)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    assert np.isfinite(np.asarray(pipeline("a red star", num_inference_steps=2, output_type="np").images)).all()
    with pytest.raises(InvalidOption, match="v_prediction"):
        latent.LatentOptions(zero_terminal_snr=True, prediction_type="epsilon")


def test_the_studio_samples_a_model_with_zero_terminal_snr(trained, tmp_path):
    from studio import Finished, SampleOptions, Studio

    list(latent.train(latent_options(trained, tmp_path, zero_terminal_snr=True, steps=1), progress=False))
    for scheduler in ("ddim", "ddpm"):
        *_, finished = Studio().sample(SampleOptions(model=str(tmp_path / "model"), prompt="a red star", num_steps=3, scheduler=scheduler))
        assert isinstance(finished, Finished) and torch.isfinite(finished.trajectory.x_final).all()


def test_dropped_captions_are_the_empty_one(trained, tmp_path):
    task = latent.LatentTask(latent_options(trained, tmp_path, caption_drop=1.0))
    told = []

    def network(z_t, t, text, return_dict):
        told.append(text)
        return (torch.zeros_like(z_t),)

    task.losses(network, torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    empty = latent.encode_texts(task.encoder, task.tokenizer, [""])[0].float()
    assert torch.equal(told[0], empty.expand(4, -1, -1))


def test_only_the_pictures_whose_caption_holds_the_word_are_shown(trained, tmp_path):
    task = latent.LatentTask(latent_options(trained, tmp_path, only="large"))
    scenes = load_captioned("toybox", 32, limit=32, seed=0).texts
    assert task.kept.tolist() == [i for i, scene in enumerate(scenes) if scene.size == "large"] and task.size == len(task.kept)
    with pytest.raises(InvalidOption, match="No caption"):
        latent.LatentTask(latent_options(trained, tmp_path, only="zebra"))


def test_parts_that_are_missing_are_refused(tmp_path):
    with pytest.raises(InvalidOption, match="vae must name a folder"):
        latent.check(latent.LatentOptions(vae=str(tmp_path / "none")))


# --- captions and the examiner -------------------------------------------------------------------------------

def test_half_of_the_captions_say_everything():
    scene = Scene(object="star", colour="red", background="blue", size="small", position="left")
    data = Captioned(pixels=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), texts=[scene])
    rng = np.random.default_rng(0)
    told = [data.caption(0, rng) for _ in range(400)]
    assert data.caption(0) == caption(scene) and 180 < told.count(caption(scene)) < 260 and len(set(told)) > 20


def test_a_folder_is_read_with_captions_beside_or_in_a_table(tmp_path):
    for name in ("one", "two"):
        Image.new("RGB", (20, 30), "red").save(tmp_path / f"{name}.png")
    with pytest.raises(InvalidOption, match="no captioned pictures"):
        load_captioned(str(tmp_path), 16)
    (tmp_path / "one.txt").write_text("a red sheet\n")
    assert list(load_captioned(str(tmp_path), 16).texts) == ["a red sheet"]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "two.png", "text": "another"}\n')
    data = load_captioned(str(tmp_path), 16)
    assert list(data.texts) == ["another"] and data.pixels.shape == (1, 3, 16, 16)


def test_the_examiner_learns_from_renders_and_reads_pictures(tmp_path):
    options = attributes.AttributeOptions(output=str(tmp_path), data_limit=64, batch_size=16, steps=20, lr=6e-3, warmup=5, sample_every=0, tensorboard=False)
    logs = list(attributes.train(options, progress=False))
    assert logs[-1].loss < 0.8 * logs[0].loss
    examiner = attributes.load_examiner(tmp_path / "model")
    right = attributes.examine_renders(examiner, seed=3, count=50)
    assert set(right) == {"object", "colour", "background", "size", "position"} and all(len(answers) == 50 for answers in right.values())
    assert set(json.loads((Path(tmp_path) / "model/accuracy.json").read_text())) == set(right)


def test_a_recipe_is_written_as_the_command_that_repeats_it():
    options = vae.VaeOptions(steps=5, start="runs/x", decoder_only=True)
    assert command(options) == "python -m trainers.vae --steps 5 --start runs/x --decoder-only"
