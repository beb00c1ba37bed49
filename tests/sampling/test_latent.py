"""Latent sampling: the same pictures as diffusers' own pipelines, x0_hat of every scheduler, guidance, refusals."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from studio import Finished, SampleOptions, StepDone, Studio
from studio.errors import InvalidOption, ModelUnavailable, StudioError
from studio.models import load_model
from studio.process.schedulers import SCHEDULERS
from studio.sampling.guidance import guided
from studio.sampling.loop import resume, sample
from studio.sampling.samplers import make_sampler

PROMPT = "a red star on the blue background"


@pytest.fixture(scope="module")
def model(tiny_sd):
    return load_model(tiny_sd)


@pytest.fixture(scope="module")
def pipeline(tiny_sd):
    from diffusers import StableDiffusionPipeline

    return quiet(StableDiffusionPipeline.from_pretrained(tiny_sd))


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    pipeline.own_config = dict(pipeline.scheduler.config)
    return pipeline


def options(model, **changes) -> SampleOptions:
    return SampleOptions(**{"model": model.name, "prompt": PROMPT, "num_steps": 6, "num_images": 1, **changes})


def run(model, **changes) -> tuple[list[StepDone], Finished]:
    *steps, finished = sample(model, options(model, **changes))
    return steps, finished


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def theirs(pipeline, scheduler: str, *, num_images: int = 1, seed: int = 0, sigmas: str = "", num_steps: int = 6, **call) -> np.ndarray:
    """What diffusers' pipeline makes of the same folder, seeds and steps."""
    import diffusers

    info = SCHEDULERS[scheduler]
    name = info.diffusers_class or {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler"}[scheduler]
    extra = {f"use_{sigmas}_sigmas": True} if sigmas else {}
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.own_config, **info.config, **extra)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(num_images)]
    return pixels(pipeline(PROMPT, num_images_per_prompt=num_images, generator=generators, num_inference_steps=num_steps, **call).images)


# --- the same pictures as diffusers' own pipelines -----------------------------------------------------------

@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("guidance_scale", "num_images"), [(1.0, 1), (4.0, 2)])
def test_the_picture_is_that_of_stable_diffusion_pipeline(model, pipeline, scheduler, guidance_scale, num_images):
    ours = pixels(run(model, scheduler=scheduler, guidance_scale=guidance_scale, num_images=num_images, seed=3)[1].images)
    difference = np.abs(ours - theirs(pipeline, scheduler, guidance_scale=guidance_scale, num_images=num_images, seed=3)).max()
    assert difference <= 1
    assert np.ptp(ours) > 20  # a flat picture would prove nothing


def test_eta_negative_prompt_rescale_and_sizes_are_those_of_the_pipeline(model, pipeline):
    for scheduler, ours, call in (
        ("ddim", {"eta": 0.6}, {"eta": 0.6}),
        ("ddim", {"negative_prompt": "butterfly"}, {"negative_prompt": "butterfly"}),
        ("euler", {"guidance_rescale": 0.7}, {"guidance_rescale": 0.7}),
        ("dpm++_2m", {"width": 48, "height": 24}, {"width": 48, "height": 24}),
    ):
        mine = pixels(run(model, scheduler=scheduler, guidance_scale=4.0, **ours)[1].images)
        assert np.abs(mine - theirs(pipeline, scheduler, guidance_scale=4.0, **call)).max() <= 1


@pytest.mark.parametrize("sigmas", ["karras", "exponential", "beta"])
def test_other_noise_levels_are_diffusers_own(model, pipeline, sigmas):
    for scheduler in ("euler", "dpm++_2m"):
        ours = pixels(run(model, scheduler=scheduler, sigmas=sigmas, guidance_scale=4.0)[1].images)
        assert np.abs(ours - theirs(pipeline, scheduler, sigmas=sigmas, guidance_scale=4.0)).max() <= 1
        assert np.abs(ours - pixels(run(model, scheduler=scheduler, guidance_scale=4.0)[1].images)).max() > 1


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_models_that_predict_v_or_x0_give_the_pipelines_picture(tmp_path, prediction_type):
    from diffusers import StableDiffusionPipeline

    from tests.tiny_sd import save_tiny_sd

    model = load_model(save_tiny_sd(tmp_path / "sd", scheduler={"prediction_type": prediction_type, "timestep_spacing": "trailing"}))
    pipeline = quiet(StableDiffusionPipeline.from_pretrained(model.name))
    for scheduler in ("ddim", "ddpm", "euler"):
        ours = pixels(run(model, scheduler=scheduler, guidance_scale=4.0)[1].images)
        assert np.abs(ours - theirs(pipeline, scheduler, guidance_scale=4.0)).max() <= 1


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++_2m", "unipc"])  # diffusers' PNDM loses its first slope when it starts in the middle
def test_image_to_image_is_diffusers_own(tiny_sd, model, scheduler, strength):
    import diffusers

    pipeline = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(tiny_sd, safety_checker=None, feature_extractor=None)
    pipeline.set_progress_bar_config(disable=True)
    if SCHEDULERS[scheduler].diffusers_class:
        pipeline.scheduler = getattr(diffusers, SCHEDULERS[scheduler].diffusers_class).from_config(pipeline.scheduler.config, **SCHEDULERS[scheduler].config)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    expected = pipeline(
        PROMPT, image=picture, strength=strength, num_inference_steps=10, guidance_scale=4.0, generator=[torch.Generator().manual_seed(5)],
    ).images
    steps, finished = run(model, scheduler=scheduler, init_image=picture, strength=strength, num_steps=10, guidance_scale=4.0, seed=5)
    assert len(steps) == int(10 * strength)
    assert np.abs(pixels(finished.images) - pixels(expected)).max() <= 1


# --- what is reported ----------------------------------------------------------------------------------------

OFFERED = [(name, sigmas) for name, info in SCHEDULERS.items() if info.diffusers_class for sigmas in ("", "karras") if sigmas in ("", *info.sigmas)]


@pytest.mark.parametrize(("scheduler", "sigmas"), OFFERED)
def test_x0_hat_is_the_schedulers_own_pred_original_sample(model, scheduler, sigmas):
    chosen = options(model, scheduler=scheduler, sigmas=sigmas)
    sampler = make_sampler(model, chosen)
    denoiser = guided(model, chosen, [], clip_x0=False)
    generators = [torch.Generator().manual_seed(0)]
    state = sampler.start(torch.randn(1, *model.state_shape(chosen), generator=generators[0]), None, 0)
    kwargs = {"generator": generators} if "generator" in sampler._step_kwargs else {}
    for index in range(2):
        x_t, level = sampler.to_model_scale(state, index), sampler.levels[index]
        prediction = denoiser(x_t, level)
        if index == 0 and not sampler.two_stage and not sampler.is_pndm:
            result = sampler.scheduler.step(prediction.output, sampler.scheduler.timesteps[0], state, **kwargs)
            hat = getattr(result, "pred_original_sample", None)
            if hat is not None:
                torch.testing.assert_close(prediction.x0_hat, hat, atol=1e-3, rtol=1e-4)
            state = result.prev_sample
        else:
            state = sampler.step(denoiser, prediction, state, index, generators)
        # Of latents nothing is clipped, and x_t is made of its parts.
        torch.testing.assert_close(level.alpha * prediction.x0_hat + level.sigma * prediction.eps_hat, x_t, atol=1e-4, rtol=1e-4)


def test_events_carry_both_sides_of_guidance_and_their_blend(model):
    steps, finished = run(model, guidance_scale=4.0, guidance_start=0.2, guidance_end=0.7, num_steps=10, num_images=2)
    assert [step.guidance_scale for step in steps] == [1, 1, 4, 4, 4, 4, 4, 1, 1, 1]
    for step in steps:
        if step.guidance_scale == 1:
            assert step.x0_uncond is None and step.eps_cond is None
        else:
            torch.testing.assert_close(step.eps_uncond + 4 * (step.eps_cond - step.eps_uncond), step.eps_hat, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(step.x0_uncond + 4 * (step.x0_cond - step.x0_uncond), step.x0_hat, atol=1e-2, rtol=1e-3)
    trajectory = finished.trajectory
    assert trajectory.streams == ("x_t", "x0_hat", "eps_hat", "x0_uncond", "x0_cond")
    assert trajectory.stream("x0_cond").shape == trajectory.x_t.shape and torch.equal(trajectory.stream("x0_cond")[0], trajectory.x0_hat[0])
    assert torch.equal(trajectory.stream("x0_uncond")[3], steps[3].x0_uncond.half())


def test_no_unconditional_pass_where_guidance_does_not_act(model, monkeypatch):
    batches = []
    inner = model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda x, *args, **kwargs: batches.append(len(x)) or inner(x, *args, **kwargs))
    run(model, guidance_scale=1.0)
    run(model, guidance_scale=4.0, guidance_end=0.5)
    assert batches == [1] * 6 + [2] * 3 + [1] * 3


def test_a_new_seed_encodes_nothing_again(tiny_sd, monkeypatch):
    model = load_model(tiny_sd)
    calls = []
    inner = model.pipeline.text_encoder.forward
    monkeypatch.setattr(model.pipeline.text_encoder, "forward", lambda *args, **kwargs: calls.append(1) or inner(*args, **kwargs))
    for seed in range(3):
        run(model, seed=seed, guidance_scale=4.0, num_steps=2)
    assert len(calls) == 2  # the prompt and the empty one
    run(model, prompt="a star", guidance_scale=4.0, num_steps=2)
    assert len(calls) == 3


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "euler", "euler_ancestral"])
def test_a_fork_with_nothing_changed_is_the_rest_of_the_run(model, scheduler):
    picture = Image.new("RGB", (32, 32), "red")
    for start in ({}, {"init_image": picture, "strength": 0.9}):
        trajectory = run(model, scheduler=scheduler, guidance_scale=4.0, num_steps=8, **start)[1].trajectory
        *_, finished = resume(model, trajectory, 3)
        torch.testing.assert_close(finished.trajectory.x_final, trajectory.x_final, atol=3e-2, rtol=3e-2)
        *_, other = resume(model, trajectory, 3, prompt="butterfly")
        assert (other.trajectory.x_final - trajectory.x_final).abs().max() > 1e-2


def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(model):
    together = pixels(run(model, num_images=3, seed=5, guidance_scale=4.0, scheduler="dpm++_2m_sde")[1].images)
    alone = pixels(run(model, num_images=1, seed=7, guidance_scale=4.0, scheduler="dpm++_2m_sde")[1].images)
    assert np.abs(together[2] - alone[0]).max() <= 1


# --- previews and run files ----------------------------------------------------------------------------------

def test_a_run_file_opens_without_the_model_and_shows_its_pictures(model, tmp_path):
    picture = Image.new("RGB", (40, 30), "blue")
    steps, finished = run(model, guidance_scale=4.0, num_images=2, init_image=picture, strength=0.7)
    from studio.sampling.trajectory import Trajectory

    back = Trajectory.load(finished.trajectory.save(tmp_path / "run.safetensors"))
    assert back.latent and back.streams == finished.trajectory.streams and list(back.steps) == list(finished.trajectory.steps)
    assert np.array_equal(pixels(back.images), pixels(finished.images))
    assert back.options.init_image is not None and back.options.init_image.size == (40, 30)
    assert back.pictures("x0_hat").shape == (len(steps), 2, 3, 8, 8)
    torch.testing.assert_close(back.pictures("x0_hat", 1), steps[1].pictures("x0_hat"), atol=2e-2, rtol=0)
    assert abs(back.pictures("eps_hat", 0).std().item() - 1 / 3) < 0.1


def test_a_run_file_whose_colours_are_damaged_is_refused(model, tmp_path):
    import dataclasses

    from studio.errors import BadRunFile
    from studio.sampling.trajectory import Trajectory

    trajectory = run(model, num_steps=2)[1].trajectory
    for damaged in ({"weight": [[1, 2]] * 3, "bias": [0, 0, 0]}, {"weight": 3}, {"weight": [["x"]], "bias": []}, None):
        path = dataclasses.replace(trajectory, model={**trajectory.model, "rgb_map": damaged}).save(tmp_path / "run.safetensors")
        with pytest.raises(BadRunFile, match="again from the studio"):
            Trajectory.load(path)


def test_the_preview_map_finds_colours_that_are_linear_in_the_latents():
    from studio.models.rgb_maps import _least_squares

    generator = torch.Generator().manual_seed(0)
    latents, weight, bias = torch.randn(200, 4, generator=generator), torch.randn(3, 4, generator=generator), torch.tensor([0.1, -0.2, 0.3])
    fitted = _least_squares(latents, latents @ weight.T + bias)
    torch.testing.assert_close(fitted.weight, weight)
    torch.testing.assert_close(fitted.bias, bias)


def test_the_preview_map_is_fitted_once_and_kept_on_disk(tiny_sd, tmp_path, monkeypatch):
    from studio.models import rgb_maps

    monkeypatch.setenv("DIFFUSION_STUDIO_CACHE", str(tmp_path))
    fits = []
    inner = rgb_maps.fit_rgb_map
    monkeypatch.setattr(rgb_maps, "fit_rgb_map", lambda *args: fits.append(1) or inner(*args))
    first, second = load_model(tiny_sd), load_model(tiny_sd)
    assert first.rgb_map is first.rgb_map
    torch.testing.assert_close(first.rgb_map.weight, second.rgb_map.weight)
    assert len(fits) == 1 and len(list(tmp_path.rglob("*.json"))) == 1
    for path in tmp_path.rglob("*.json"):
        path.write_text("{broken")
    assert load_model(tiny_sd).rgb_map.bias.shape == (3,) and len(fits) == 2


# --- words ---------------------------------------------------------------------------------------------------

def test_tokens_are_those_of_the_tokenizer_and_a_long_prompt_is_in_chunks(model):
    tokens = model.prompts.tokens("a red butterfly")
    assert len(tokens.tokens) == tokens.limit == 16
    assert [token.id for token in tokens.tokens] == model.pipeline.tokenizer("a red butterfly", padding="max_length", max_length=16).input_ids
    assert [(token.text, token.word) for token in tokens.tokens[:5]] == [("<|startoftext|>", None), ("a", 0), ("red", 1), ("butter", 2), ("fly", 2)]
    assert tokens.words == ("a", "red", "butterfly") and tokens.cut_off == ""
    long = model.prompts.tokens(" ".join(["red"] * 14 + ["blue", "star"]))
    assert long.words == (*["red"] * 14, "blue", "star") and long.cut_off == "" and len(long.tokens) == 32
    [reading] = model.prompts.readings("a red star")
    assert reading.states.shape == (16, 32) and reading.pooled is None and reading.tokens == model.prompts.tokens("a red star")


# --- where the words look ------------------------------------------------------------------------------------

@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_attention_is_recorded_without_changing_the_picture(model, guidance_scale):
    plain = run(model, guidance_scale=guidance_scale, num_images=2)[1]
    steps, finished = run(model, guidance_scale=guidance_scale, num_images=2, record_attention=True)
    assert np.array_equal(pixels(plain.images), pixels(finished.images))
    maps = finished.trajectory.stream("attention")
    assert maps.shape == (6, 2, 16, 8, 8) and maps.dtype == torch.float16 and "attention" not in plain.trajectory.streams
    # Every place gives its attention away whole.
    torch.testing.assert_close(steps[0].attention.sum(dim=1), torch.ones(2, 8, 8), atol=1e-4, rtol=0)
    assert type(next(m for n, m in model.network.named_modules() if n.endswith("attn2")).processor).__name__.startswith("AttnProcessor")


def test_attention_of_one_layer_is_what_its_softmax_says(model):
    from studio.models.attention import AttentionRecorder

    layer = next(module for name, module in model.network.named_modules() if name.endswith("attn2"))
    generator = torch.Generator().manual_seed(0)
    places, states = torch.randn(2, 16, layer.to_q.in_features, generator=generator), torch.randn(2, 16, 32, generator=generator)
    recorder = AttentionRecorder(model.network, 1, 4, 4)
    with recorder.recording(), torch.no_grad():
        layer(places, encoder_hidden_states=states)
        query, key = layer.head_to_batch_dim(layer.to_q(places[1:])), layer.head_to_batch_dim(layer.to_k(states[1:]))
        expected = layer.get_attention_scores(query, key).mean(dim=0)
    torch.testing.assert_close(recorder.maps()[0].flatten(1).T, expected, atol=1e-5, rtol=1e-5)


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 30}, "28 or 32"), ({"height": 2}, "the nearest is 4"), ({"width": 0}, "0"), ({"width": 10**6}, "1000000"),
        ({"guidance_scale": -1.0}, "-1"), ({"guidance_scale": float("inf")}, "inf"), ({"guidance_start": 0.8, "guidance_end": 0.2}, "0.8"),
        ({"guidance_rescale": 1.5}, "1.5"), ({"sigmas": "karras"}, "DDIM"), ({"scheduler": "euler", "sigmas": "carras"}, "karras, exponential, beta"),
        ({"class_label": "7"}, "prompt"), ({"prompt": "x" * 5000}, "4000"), ({"prompt": 3}, "3"),
    ],
)
def test_nonsense_is_refused_in_a_sentence_before_the_first_step(model, changes, said):
    with pytest.raises(StudioError) as error:
        next(sample(model, options(model, **changes)))
    assert said in str(error.value) and str(error.value).rstrip()[-1] in ".?"


def test_pixel_models_are_guided_by_their_classes_and_read_no_prompt(tiny_model):
    pixel = load_model(tiny_model)
    plain = {"model": tiny_model, "num_steps": 4, "num_images": 2}
    steps = list(sample(pixel, SampleOptions(**plain, class_label="a", guidance_scale=3.0)))[:-1]
    assert steps[0].x0_uncond is not None and steps[0].guidance_scale == 3
    alone = list(sample(pixel, SampleOptions(**plain, class_label="a")))[:-1]
    torch.testing.assert_close(steps[0].x0_cond, alone[0].x0_hat, atol=1e-5, rtol=1e-5)
    for changes, said in (({"prompt": "a star"}, "reads no text"), ({"guidance_scale": 2.0}, "no class is chosen"), ({"record_attention": True}, "text")):
        with pytest.raises(InvalidOption, match=said):
            next(sample(pixel, SampleOptions(**plain, **changes)))


def test_the_learned_variance_is_not_guided(tiny_model_folder):
    pixel = load_model(tiny_model_folder(var_type="learned_range", schedule="linear"))
    for scheduler in ("ddpm", "euler"):
        options = SampleOptions(model=pixel.name, class_label="a", guidance_scale=3.0, num_steps=3, scheduler=scheduler)
        assert list(sample(pixel, options))[-1].trajectory.x_final.isfinite().all()


def test_foreign_and_broken_folders_are_refused_in_a_sentence(tiny_sd, tmp_path):
    import json
    import shutil

    other = tmp_path / "other"
    other.mkdir()
    (other / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelUnavailable, match="KandinskyPipeline"):
        load_model(str(other))
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd, broken)
    shutil.rmtree(broken / "vae")
    with pytest.raises(ModelUnavailable, match="no Stable Diffusion model"):
        load_model(str(broken))
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"nothing")
    with pytest.raises(ModelUnavailable, match="cut short"):
        load_model(str(file))


def test_the_studio_takes_the_folder_like_any_model(tiny_sd):
    *_, finished = Studio().sample(SampleOptions(model=tiny_sd, prompt="a star", num_steps=2, guidance_scale=2.0))
    assert finished.images[0].size == (32, 32) and finished.trajectory.latent


def test_words_read_in_one_thread_leave_the_prompts_of_another_whole(tiny_sd):
    encoder, stop, lengths = load_model(tiny_sd, torch.device("cpu")).prompts, threading.Event(), set()

    def read_words():
        while not stop.is_set():
            encoder.tokens("a red star on a blue background")

    reader = threading.Thread(target=read_words)
    reader.start()
    try:
        for i in range(300):
            lengths.add(encoder.encode_afresh(f"a cat number {i}", torch.device("cpu")).states.shape[1])
    finally:
        stop.set()
        reader.join()
    assert lengths == {encoder.limit}
