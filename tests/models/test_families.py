"""SDXL, Stable Diffusion 3 and DiT against diffusers' own pipelines of the same folders, and what each is refused."""

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from studio import SampleOptions, Studio
from studio.conditions import FlowTold, SizeTold, TextsTold
from studio.errors import InvalidOption, ModelUnavailable, StudioError
from studio.models import DiffusionModel, load_model
from studio.process.noise import draw_noise
from studio.process.schedulers import FLOW_CLASSES, SCHEDULERS
from studio.sampling.compare import common_axis, difference_maps
from studio.sampling.export import read_options, save_png
from studio.sampling.loop import sample
from studio.sampling.trajectory import Trajectory
from tests.tiny_families import save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl

PROMPT = "a red star on a blue butterfly"
SAVERS = {"sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3, "dit": save_tiny_dit}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / name) for name, save in SAVERS.items()}


@pytest.fixture(scope="module")
def models(folders):
    return {name: load_model(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pipelines(folders):
    return {name: quiet(diffusers.DiffusionPipeline.from_pretrained(folder)) for name, folder in folders.items()}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    pipeline.own_config = dict(pipeline.scheduler.config)
    return pipeline


def options(model, **changes):
    told = {"prompt": PROMPT} if model.info.text else {"class_label": "goldfish"}
    return SampleOptions(**{"model": model.name, "num_steps": 6, "seed": 3, **told, **changes})


def ours(model, **changes):
    *steps, finished = sample(model, options(model, **changes))
    return steps, np.stack([np.asarray(image) for image in finished.images]).astype(int), finished.trajectory


def theirs(pipeline, scheduler, guidance_scale, num_images, seed=3, **call):
    """What diffusers' pipeline makes of the same folder, seeds and steps."""
    name = FLOW_CLASSES.get(scheduler) if "Flow" in pipeline.own_config["_class_name"] else SCHEDULERS[scheduler].diffusers_class or "DDIMScheduler"
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": pipeline.own_config.get("shift")} if "Flow" not in name else {}
    extra = flow if "Flow" in pipeline.own_config["_class_name"] else {}
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.own_config, **SCHEDULERS[scheduler].config, **extra)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(num_images)]
    told = {"class_labels": [1] * num_images} if "DiT" in type(pipeline).__name__ else {"prompt": PROMPT, "num_images_per_prompt": num_images}
    if "DiT" not in type(pipeline).__name__:
        told |= {"height": 32, "width": 32}
    images = pipeline(**{**told, "generator": generators, "num_inference_steps": 6, "guidance_scale": guidance_scale, **call}).images
    return np.stack([np.asarray(image) for image in images]).astype(int)


# Each family with its own default scheduler first, and those that its pipeline takes.
TAKEN = [("sdxl", name) for name in ("euler", "ddim", "dpm++_2m")] + [("sd3", name) for name in ("euler", "dpm++_2m")]
# DiTPipeline does not scale its noise for schedulers that work in sigma, so Euler has no oracle there.
TAKEN += [("dit", name) for name in ("ddim", "dpm++_2m")]


@pytest.mark.parametrize(("family", "scheduler"), TAKEN)
def test_the_picture_is_that_of_the_familys_own_pipeline(models, pipelines, family, scheduler):
    for guidance_scale, num_images in ((1.0, 1), (4.0, 1), (4.0, 2)):
        steps, picture, _ = ours(models[family], scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images)
        assert np.abs(picture - theirs(pipelines[family], scheduler, guidance_scale, num_images)).max() <= 1
        assert np.ptp(picture) > 20 and len(steps) == 6  # a flat picture would prove nothing


def test_negative_prompts_and_other_sizes_are_the_pipelines_own(models, pipelines):
    for family in ("sdxl", "sd3"):
        _, picture, _ = ours(models[family], scheduler="euler", guidance_scale=4.0, negative_prompt="the butterfly")
        assert np.abs(picture - theirs(pipelines[family], "euler", 4.0, 1, negative_prompt="the butterfly")).max() <= 1
        _, picture, _ = ours(models[family], scheduler="euler", guidance_scale=4.0, width=48, height=24)
        assert picture.shape == (1, 24, 48, 3) and np.abs(picture - theirs(pipelines[family], "euler", 4.0, 1, width=48, height=24)).max() <= 1


TOLD_SDXL = {
    "sizes": (
        {"size": SizeTold(original=(64, 24), crop=(5, 9), target=(40, 32))},
        {"original_size": (24, 64), "crops_coords_top_left": (9, 5), "target_size": (32, 40)},
    ),
    "sizes to avoid": (
        {"size": SizeTold(crop=(4, 0), negative_original=(16, 8), negative_crop=(3, 2)), "negative_prompt": "the butterfly"},
        {"crops_coords_top_left": (0, 4), "negative_original_size": (8, 16), "negative_target_size": (32, 32), "negative_crops_coords_top_left": (2, 3),
         "negative_prompt": "the butterfly"},
    ),
    "two prompts": (
        {"texts": TextsTold(prompt_2="a butterfly", negative_prompt_2="red"), "negative_prompt": "blue"},
        {"prompt_2": "a butterfly", "negative_prompt_2": "red", "negative_prompt": "blue"},
    ),
    "layers of CLIP": ({"texts": TextsTold(clip_skip=1)}, {"clip_skip": 1}),
}


@pytest.mark.parametrize("told", TOLD_SDXL)
def test_sdxl_is_told_sizes_second_prompts_and_layers_as_the_pipeline_tells_it(models, pipelines, told):
    changes, call = TOLD_SDXL[told]
    plain = ours(models["sdxl"], scheduler="euler", guidance_scale=4.0)[1]
    for scheduler, guidance_scale, num_images in (("euler", 4.0, 2), ("dpm++_2m", 1.0, 1)):
        _, picture, _ = ours(models["sdxl"], scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, **changes)
        # One at a time: of several pictures this pipeline gives some the wrong one of the two sizes.
        wanted = np.concatenate([theirs(pipelines["sdxl"], scheduler, guidance_scale, 1, seed=3 + i, **call) for i in range(num_images)])
        assert np.abs(picture - wanted).max() <= 1
        # What is told is heard.
        assert guidance_scale == 1 or np.abs(picture[0] - plain[0]).max() > 1


def test_what_is_told_beside_is_kept_in_pictures_and_run_files_and_a_fork_can_change_it(models, tmp_path):
    size = SizeTold(original=(64, 24), crop=(5, 9))
    _, _, run = ours(models["sdxl"], scheduler="euler", size=size, texts=TextsTold(prompt_2="a butterfly"))
    back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
    assert back.options == run.options and back.options.size.crop == (5, 9) and back.options.texts.prompt_2 == "a butterfly"
    assert read_options(save_png(run.images[0], tmp_path / "run.png", run.options)) == run.options
    *_, fork = Studio().resume(back, 3, size=SizeTold(original=(8, 8)))
    assert (fork.trajectory.x_final - run.x_final).abs().max() > 1e-3


def test_checkpoints_that_say_an_empty_negative_prompt_is_words_and_those_without_t5(tmp_path):
    for folder in (save_tiny_sdxl(tmp_path / "words", force_zeros=False), save_tiny_sd3(tmp_path / "short", t5=False, shift=1.0, qk_norm="rms_norm")):
        absent = {"text_encoder_3": None, "tokenizer_3": None} if "short" in folder else {}
        model, pipeline = load_model(folder), quiet(diffusers.DiffusionPipeline.from_pretrained(folder, **absent))
        assert np.abs(ours(model, scheduler="euler", guidance_scale=4.0)[1] - theirs(pipeline, "euler", 4.0, 1)).max() <= 1


@pytest.mark.parametrize(("family", "scheduler"), [*TAKEN, ("sd3", "ddim"), ("sd3", "heun"), ("sd3", "unipc"), ("dit", "ddpm"), ("sdxl", "unipc")])
def test_x_t_is_made_of_x0_hat_and_eps_hat_at_every_step(models, family, scheduler):
    steps, _, _ = ours(models[family], scheduler=scheduler, guidance_scale=3.0)
    for step in steps:
        assert step.log_snr == pytest.approx(-2 * np.log(step.sigma)) if 0 < step.sigma < np.inf else True
        # A flow's alpha and sigma add up to 1, those of betas in squares.
        alpha, sigma = step.scales
        assert (alpha + sigma if family == "sd3" else alpha**2 + sigma**2) == pytest.approx(1)
        torch.testing.assert_close(alpha * step.x0_hat + sigma * step.eps_hat, step.x_t, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(step.x0_uncond + 3 * (step.x0_cond - step.x0_uncond), step.x0_hat, atol=1e-2, rtol=1e-3)
    assert [step.log_snr for step in steps] == sorted(step.log_snr for step in steps)


def test_ddim_on_a_flow_is_eulers_step_and_its_noise_comes_with_eta(models):
    euler, ddim = (ours(models["sd3"], scheduler=name, guidance_scale=3.0)[2].x_final for name in ("euler", "ddim"))
    torch.testing.assert_close(ddim, euler, atol=1e-4, rtol=1e-4)
    assert (ours(models["sd3"], scheduler="ddim", eta=1.0)[2].x_final - ours(models["sd3"], scheduler="ddim")[2].x_final).abs().max() > 0.1


def test_a_flow_and_a_diffusion_begin_with_the_same_noise_and_meet_on_one_axis(models):
    flow, diffusion = (ours(models[family], scheduler="euler", guidance_scale=3.0)[2] for family in ("sd3", "sdxl"))
    noise = [draw_noise([torch.Generator().manual_seed(3)], (channels, 8, 8), torch.device("cpu")) for channels in (16, 4)]
    assert torch.equal(noise[0][:, :4], noise[1])
    meetings = common_axis(flow.steps, diffusion.steps)
    assert [one.log_snr for one in meetings] == sorted(one.log_snr for one in meetings) and len(meetings) >= 6
    assert difference_maps(flow, diffusion, "x0_hat", meetings).shape == (len(meetings), 1, 8, 8)


def test_dit_learns_its_variance_and_ddpm_uses_it(models, tmp_path):
    model = models["dit"]
    assert model.path.learns_variance and model.path.diffusion.var_type == "learned_range"
    fixed = load_model(save_tiny_dit(tmp_path / "fixed", learns_variance=False))
    assert not fixed.path.learns_variance and len(ours(fixed, scheduler="ddpm")[0]) == 6


@pytest.mark.parametrize("family", SAVERS)
def test_a_run_is_kept_scrubbed_and_reopened_without_the_model_and_forked(models, family, tmp_path):
    model = models[family]
    assert isinstance(model, DiffusionModel)
    _, picture, run = ours(model, scheduler="euler", guidance_scale=3.0, num_images=2)
    back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
    assert back.latent and back.pictures("x0_hat").shape == (6, 2, 3, 8, 8) and np.abs(np.asarray(back.images[1]).astype(int) - picture[1]).max() == 0
    *_, fork = Studio().resume(back, 3)
    assert (fork.trajectory.x_final - run.x_final).abs().max() < 1e-3 * run.x_final.std()


@pytest.mark.parametrize("family", SAVERS)
def test_a_start_from_a_picture_stays_near_it(models, family):
    from PIL import Image

    model, start = models[family], Image.new("RGB", (32, 32), (200, 30, 60))
    near, far = (ours(model, scheduler="euler", init_image=start, strength=strength)[2].x_final for strength in (0.2, 1.0))
    clean = model.encode(torch.zeros(1, 3, 32, 32), [torch.Generator().manual_seed(0)])
    assert near.shape == far.shape == clean.shape and (near - far).abs().max() > 0.05


def test_words_are_looked_at_in_unets_and_in_joint_attention(models):
    for family in ("sdxl", "sd3"):
        steps, picture, run = ours(models[family], scheduler="euler", guidance_scale=3.0, num_images=2, record_attention=True)
        maps = steps[0].attention
        assert maps.shape[:2] == (2, 16) and torch.allclose(maps.sum(1), torch.ones(()), atol=1e-4) and maps.std(dim=1).max() > 0
        assert np.abs(picture - ours(models[family], scheduler="euler", guidance_scale=3.0, num_images=2)[1]).max() == 0
        assert run.stream("attention").shape[:3] == (6, 2, 16)


def test_attention_between_patches_is_the_layers_own_and_is_kept(models, tmp_path):
    from studio.models.attention import PatchAttentionRecorder

    model = models["dit"]
    steps, picture, run = ours(model, guidance_scale=3.0, num_images=2, record_attention=True)
    maps = steps[0].attention
    # Sixteen patches of 8 x 8 pixels, each with a map of where it looked.
    assert maps.shape == (2, 16, 4, 4) and torch.allclose(maps.sum((-2, -1)), torch.ones(()), atol=1e-4) and maps.std() > 0
    assert np.abs(picture - ours(model, guidance_scale=3.0, num_images=2)[1]).max() == 0
    back = Trajectory.load(run.save(tmp_path / "run.safetensors"))
    assert back.stream("attention").shape == (6, 2, 16, 4, 4) and back.model["patches"]["size"] == 8 and back.model["patches"]["grid"] == [4, 4]
    layer, states = model.network.transformer_blocks[0].attn1, torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    recorder, coarse = PatchAttentionRecorder(model.network, 1, 4, 4), PatchAttentionRecorder(model.network, 1, 4, 4)
    query, key = (project(states).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for project in (layer.to_q, layer.to_k))
    whole = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1).mean(1)
    recorder.see(layer, states, states)
    torch.testing.assert_close(recorder.maps().flatten(2), whole, atol=1e-5, rtol=1e-4)
    # Taken together, four patches look as their mean does, and are looked at as their sum is.
    coarse.grid = (2, 2)
    coarse.see(layer, states, states)
    blocks = whole.reshape(2, 2, 2, 2, 2, 2, 2, 2)
    torch.testing.assert_close(coarse.maps().reshape(2, 2, 2, 2), blocks.mean((1, 3)).sum((3, 5)), atol=1e-5, rtol=1e-4)


def test_joint_attention_is_the_layers_own(models):
    """Against the softmax over everything that the layer sees, of which the words' share is taken."""
    from studio.models.attention import JointAttentionRecorder

    layer = models["sd3"].network.transformer_blocks[0].attn
    generator = torch.Generator().manual_seed(0)
    places, words = torch.randn(1, 16, 32, generator=generator), torch.randn(1, 12, 32, generator=generator)
    recorder = JointAttentionRecorder(models["sd3"].network, 1, 4, 4, 12)
    recorder.see(layer, places, words)
    heads = lambda x: x.unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # noqa: E731
    keys = torch.cat([heads(layer.to_k(places)), heads(layer.add_k_proj(words))], dim=2)
    whole = (heads(layer.to_q(places)) @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)[..., 16:]
    torch.testing.assert_close(recorder.maps()[0].flatten(1).T, (whole / whole.sum(-1, keepdim=True)).mean(1)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", SAVERS)
def test_anatomy_tokens_and_memory_work_or_say_what_there_is_not(folders, models, family):
    studio, folder = Studio(), folders[family]
    parts = {part.name: part for part in studio.anatomy(folder, "a red star" if family != "dit" else "")}
    network = "unet" if family == "sdxl" else "transformer"
    assert parts[network].parameters == sum(p.numel() for p in models[family].network.parameters()) and parts[network].shape_out[1] >= 4
    assert "vae.decoder" in parts and all(part.memory_mib > 0 for part in parts.values() if part.depth == 0)
    if family == "dit":
        with pytest.raises(InvalidOption, match="reads no text"):
            studio.tokens(folder, "a")
    else:
        assert parts["text_encoder_2"].shape_out and "butterfly" in "".join(studio.tokens(folder, PROMPT).words)
        assert len(studio.readings(folder, PROMPT)) == {"sdxl": 2, "sd3": 3}[family]
    assert studio.residents()[0].memory_gib > 0
    curve = studio.noise_curve(options(models[family]))
    assert len(curve["t"]) == 1000 and np.all(np.diff(curve["log_snr"]) < 0)


# --- what each encoder reads ---------------------------------------------------------------------------------

def test_each_encoder_of_sdxl_reads_its_own_prompt_as_the_pipeline_tells_the_network(models, pipelines):
    first, second = models["sdxl"].prompts.readings(PROMPT, TextsTold(prompt_2="a butterfly"))
    pipeline = pipelines["sdxl"]
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(prompt=PROMPT, prompt_2="a butterfly", do_classifier_free_guidance=False)
    np.testing.assert_allclose(np.concatenate([first.states, second.states], axis=1), states[0], atol=1e-5)
    np.testing.assert_allclose(second.pooled, pooled[0], atol=1e-5)
    assert first.pooled is None and (first.encoder, second.encoder) == ("CLIP L", "OpenCLIP G") and first.states.shape == (16, 32)
    assert first.tokens.words == ("a", "red", "star", "on", "a", "blue", "butterfly") and second.tokens.words == ("a", "butterfly")
    long = models["sdxl"].prompts.readings("a", TextsTold(prompt_2=" ".join(["red"] * 20)))
    assert [len(reading.tokens.tokens) for reading in long] == [len(reading.states) for reading in long] == [32, 32]
    assert np.abs(models["sdxl"].prompts.readings(PROMPT, TextsTold(clip_skip=1))[0].states - first.states).max() > 0.01


def test_the_refiner_has_one_encoder_and_it_is_the_second(tmp_path):
    folder = save_tiny_refiner(tmp_path / "refiner")
    [only] = load_model(folder).prompts.readings(PROMPT, TextsTold(prompt_2="of the base model"))
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(folder)
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(prompt=PROMPT, do_classifier_free_guidance=False)
    np.testing.assert_allclose(only.states, states[0], atol=1e-5)
    np.testing.assert_allclose(only.pooled, pooled[0], atol=1e-5)
    assert only.encoder == "OpenCLIP G" and only.tokens.words[-1] == "butterfly"


def test_the_three_encoders_of_sd3_read_as_the_pipeline_tells_the_network(models, pipelines, tmp_path):
    texts = TextsTold(prompt_2="a butterfly", prompt_3="a red star x")
    clip_l, clip_g, t5 = models["sd3"].prompts.readings(PROMPT, texts)
    pipeline = pipelines["sd3"]
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(PROMPT, texts.prompt_2, texts.prompt_3, do_classifier_free_guidance=False)
    np.testing.assert_allclose(np.concatenate([clip_l.states, clip_g.states], axis=1), states[0, :16, : 32 + 48], atol=1e-5)
    np.testing.assert_allclose(t5.states, states[0, 16 : 16 + len(t5.tokens.tokens)], atol=1e-5)
    np.testing.assert_allclose(np.concatenate([clip_l.pooled, clip_g.pooled]), pooled[0], atol=1e-5)
    ids = pipeline.tokenizer_3(texts.prompt_3).input_ids
    assert [token.id for token in t5.tokens.tokens] == ids and t5.tokens.words == ("a", "red", "star", "x") and t5.pooled is None
    assert t5.tokens.limit == 256 and t5.tokens.cut_off == ""
    far = models["sd3"].prompts.readings("red " * 300 + "star")[2].tokens
    assert len(far.tokens) == 256 and far.cut_off.split() == ["red"] * 45 + ["star"]

    off = models["sd3"].prompts.readings(PROMPT, TextsTold(encoders=("clip_l",)))
    assert [reading.note.partition(":")[0] for reading in off] == ["", "switched off", "switched off"] and off[1].states is off[2].tokens is None
    *_, absent = load_model(save_tiny_sd3(tmp_path / "short", t5=False)).prompts.readings(PROMPT)
    assert absent.encoder == "T5" and "left out of this checkpoint" in absent.note and absent.tokens is absent.states is None


# --- refusals ------------------------------------------------------------------------------------------------

def test_a_flow_is_refused_schedulers_of_betas_in_a_sentence(models):
    for scheduler, said in (("ddpm", "is a flow"), ("pndm", "not made for flows"), ("euler_ancestral", "not made for flows")):
        with pytest.raises(InvalidOption, match=said):
            next(sample(models["sd3"], options(models["sd3"], scheduler=scheduler)))
    with pytest.raises(InvalidOption, match="no betas to respace"):
        next(sample(models["sd3"], options(models["sd3"], scheduler="ddim", timesteps="ddim5")))


@pytest.mark.parametrize(("family", "changes", "said"), [
    ("sdxl", {"class_label": "goldfish"}, "told what to draw by its prompt"), ("sd3", {"class_label": "3"}, "told what to draw by its prompt"),
    ("dit", {"prompt": "a star", "class_label": None}, "reads no text"), ("dit", {"class_label": "unicorn"}, "unicorn"),
    ("dit", {"class_label": 5000}, "0 to 999"), ("dit", {"class_label": None, "guidance_scale": 4.0}, "no class is chosen"),
    ("sdxl", {"flow": FlowTold(shift=2.0)}, "'Shift of the flow'"),
    ("sd3", {"size": SizeTold(crop=(1, 1))}, "cannot be told 'Crop"), ("sdxl", {"texts": TextsTold(prompt_3="a")}, "'Third prompt'"),
    ("sdxl", {"texts": TextsTold(clip_skip=9)}, "clip_skip can be at most"), ("dit", {"texts": TextsTold(prompt_2="a")}, "'Second prompt'"),
    ("sd3", {"width": 36}, "multiple of 8"), ("sdxl", {"height": 30}, "28 or 32"),
])
def test_what_a_family_does_not_know_is_said_in_a_sentence_before_the_first_step(models, family, changes, said):
    with pytest.raises(StudioError, match=said):
        next(sample(models[family], options(models[family], **changes)))


def test_parts_that_do_not_belong_together_missing_parts_refiners_and_foreign_families(folders, tmp_path):
    with pytest.raises(ModelUnavailable, match="do not belong together"):
        load_model(save_tiny_sdxl(tmp_path / "wide", text_width=96))
    for family, part in (("sdxl", "vae"), ("sd3", "transformer"), ("dit", "vae")):
        broken = Path(shutil.copytree(folders[family], tmp_path / f"broken-{family}"))
        shutil.rmtree(broken / part)
        with pytest.raises(ModelUnavailable, match="holds no"):
            load_model(str(broken))
    alone = Path(shutil.copytree(folders["sdxl"], tmp_path / "alone"))
    index = json.loads((alone / "model_index.json").read_text())
    (alone / "model_index.json").write_text(json.dumps({**index, "text_encoder_2": [None, None], "tokenizer_2": [None, None]}))
    with pytest.raises(ModelUnavailable, match="no second text encoder"):
        load_model(str(alone))
    (alone / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ModelUnavailable, match="FluxPipeline"):
        load_model(str(alone))


def test_a_pickle_is_never_read(folders, tmp_path):
    copy = Path(shutil.copytree(folders["dit"], tmp_path / "pickled"))
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ModelUnavailable, match="safetensors"):
        load_model(str(copy))


# --- the menu and downloads ----------------------------------------------------------------------------------

@pytest.mark.parametrize("family", SAVERS)
def test_a_download_fetches_what_a_family_is_read_from_and_nothing_else(folders, family):
    from fnmatch import fnmatch

    from studio.models.downloads import IGNORED, PATTERNS

    fetched = lambda name: any(fnmatch(name, one) for one in PATTERNS) and not any(fnmatch(name, one) for one in IGNORED)  # noqa: E731
    folder = Path(folders[family])
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.parent.name != "words"]
    assert files and [name for name in files if not fetched(name)] == []
    # Shards of a large encoder come too; pickles, half-precision copies and other frameworks' weights do not.
    assert fetched("text_encoder_3/model-00001-of-00002.safetensors") and fetched("text_encoder_3/model.safetensors.index.json")
    for name in ("transformer/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "vae/model.onnx", "safety_checker/x.safetensors"):
        assert not fetched(name)


def test_every_family_has_a_menu_entry_with_its_licence_size_and_memory():
    from studio.models import MODELS
    from studio.models.families import FAMILIES

    assert {info.family for info in MODELS.values()} == set(FAMILIES)
    for name, info in MODELS.items():
        assert info.licence and info.memory_gib > 0 and info.width and info.height and info.text == FAMILIES[info.family].text, name
