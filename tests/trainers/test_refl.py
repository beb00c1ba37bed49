"""Tuning by a reward, on a tiny random pipeline: gradients, what is watched, what comes out, what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from studio.errors import InvalidOption, RunFailed
from studio.models.loading import load_model
from studio.rankings import open_rankings
from studio.rewards.signs import diversity, diversity_of_each
from studio.runs.folder import read_state
from studio.runs.refl import base_facts
from studio.runs.trainers.refl import REFL_PRESETS, ReFLOptions, check
from studio.toybox import caption, parse_caption
from tests.tiny_sd import save_tiny_sd
from trainers import rollout, tuning_data
from trainers.captions import toybox_scenes
from trainers.command_line import parse_options
from trainers.dreambooth import own_device
from trainers.followed import Followed
from trainers.looking import Looking, sureness
from trainers.refl import ReFLTask, train
from trainers.refl_estimate import estimate, update_s
from trainers.rollout import Conditions
from trainers.tuning_data import split_prompts


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("tiny"))


def options(base, folder, **changes) -> ReFLOptions:
    small = {
        "base": str(base), "output": str(folder / "run"), "resolution": 32, "steps": 3, "batch_size": 2, "num_steps": 5, "stop_low": 2, "stop_high": 4,
        "rewards": "redness", "judge": "sharpness", "reward_weight": 1.0, "cap": 100.0, "data": "typed", "prompts": "a red star|a blue star|the butterfly",
        "validation_prompts": 2, "validation_samples": 2, "validation_steps": 2, "sample_every": 2, "checkpoint_every": 2, "pretrain_pictures": 4,
        "pretrain_batch": 2, "lr": 1e-3, "tensorboard": False,
    }
    return ReFLOptions(**{**small, **changes})


@pytest.mark.parametrize("changes", [
    {}, {"method": "lora", "kl_weight": 0.1, "guidance_scale": 2.0, "late_guidance": True}, {"algorithm": "draft_k", "last_steps": 2, "kl_weight": 0.1},
    {"algorithm": "draft_lv"},
])
def test_a_run_says_what_it_follows_and_its_result_is_a_model(base, tmp_path, changes):
    asked = options(base, tmp_path, **changes)
    logs = list(train(asked, progress=False))
    assert [log.step for log in logs] == [0, 1, 2] and {"reward", "reward_std", "pretrain"} <= set(logs[0].extra) and logs[0].grad_norm > 0
    events = [json.loads(line) for line in (Path(asked.output) / "events.jsonl").read_text().splitlines()]
    (first, last) = [event["measured"] for event in events if "measured" in event]
    assert first["distance"] > 0 and {"reward_held_out", "reward_trained", "judge", "judge_t", "diversity", "edges", "output_norm"} <= set(last)
    assert len(list((Path(asked.output) / "samples").iterdir())) == 2
    assert json.loads((Path(asked.output) / "model" / "studio.json").read_text())["base"] == str(base)
    assert ("kl" in logs[-1].extra) == ("kl_weight" in changes)


@pytest.mark.parametrize("changes", [{"ema_decay": 0.9}, {"method": "lora", "algorithm": "draft_lv", "kl_weight": 0.1, "result": "best"}])
def test_a_run_that_was_cut_off_ends_in_the_very_same_weights(base, tmp_path, changes):
    whole, cut = (options(base, tmp_path, output=str(tmp_path / name), steps=5, **changes) for name in ("whole", "cut"))
    list(train(whole, progress=False))
    stopped = train(cut, progress=False)
    for _ in range(3):
        next(stopped)
    stopped.close()
    assert [log.step for log in train(cut, progress=False)] == [2, 3, 4]
    files = [path.relative_to(whole.output) for path in (Path(whole.output) / "model").rglob("*.safetensors")]
    assert files
    for name in files:
        a, b = load_file(Path(whole.output) / name), load_file(Path(cut.output) / name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert (Path(whole.output) / "base.json").read_text() == (Path(cut.output) / "base.json").read_text()
    events = [[json.loads(line).get("measured") for line in (Path(one.output) / "events.jsonl").read_text().splitlines()] for one in (whole, cut)]
    assert [one for one in events[0] if one] == [one for one in events[1] if one]


def test_a_run_ends_at_the_alarm_with_its_best_checkpoint(base, tmp_path, monkeypatch):
    """The held-out scorer likes the first look best; at the second one the alarm rings."""
    untouched = {"reward_held_out": 0.0, "reward_spread": 1.0}
    seen = iter([{"judge": 2.0}, {"judge": 1.0, "reward_t": 9.0, "judge_t": -9.0}])
    monkeypatch.setattr(Looking, "_measure", lambda self, held_out, trained, growth: untouched if growth == 1.0 else next(seen))
    asked = options(base, tmp_path, steps=9, stop_on_alarm=True, result="best", lr=1e-2, ema_decay=0.0)
    assert [log.step for log in train(asked, progress=False)] == [0, 1, 2, 3]
    run = Path(asked.output)
    assert json.loads((run / "best.json").read_text()) == {"step": 1, "score": 2.0}
    kept = load_file(run / "checkpoints" / "step-000001" / "network.safetensors")
    result = load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor.half(), result[name.removeprefix("unet.")]) for name, tensor in kept.items())
    assert "9.0 standard errors" in read_state(run).message
    assert list(train(asked, progress=False)) == [], "it has ended, however often it is started"


# --- from rankings -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_and_gradient_of_diffusion_dpo_are_the_published_ones(base, tmp_path, rankings, method):
    asked = options(base, tmp_path, algorithm="dpo", data=str(rankings.folder), format="database", pretrain_weight=0.0, method=method, beta=50.0)
    task = ReFLTask(asked)
    task.network.eval()
    with torch.no_grad():
        for parameter in task.network.parameters():  # no longer the base
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    losses = task.losses(task.network, torch.arange(3), torch.Generator().manual_seed(3), torch.device("cpu"))
    losses.descend.backward()
    learned = [parameter for parameter in task.network.parameters() if parameter.requires_grad]
    ours = [parameter.grad.clone() for parameter in learned]
    task.network.zero_grad()
    loss = plain_dpo(task, base, torch.Generator().manual_seed(3))
    loss.backward()
    assert losses.descend.item() == pytest.approx(loss.item(), rel=1e-4) and losses.descend.item() != pytest.approx(np.log(2), rel=1e-3)
    theirs = [parameter.grad for parameter in learned]
    difference = sum((a - b).square().sum() for a, b in zip(ours, theirs)).sqrt() / sum(b.square().sum() for b in theirs).sqrt()
    assert difference < 1e-4


def plain_dpo(task: ReFLTask, base, generator: torch.Generator) -> torch.Tensor:
    """As the released trainer computes it, with a second model for the reference."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    from trainers.captions import token_ids

    pipeline, pairs, beta = task.model.pipeline, task.pairs.trained[:3], task.options.beta
    reference = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32, safety_checker=None).unet.eval()
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    t = torch.randint(1000, (3,), generator=generator)
    noise = torch.randn((3, 4, 8, 8), generator=generator)
    text = pipeline.text_encoder(token_ids(pipeline.tokenizer, [task.pairs.data.prompts[pair.better] for pair in pairs]))[0]

    def errors(unet, item):
        pixels = task.pairs.data.pixels[[getattr(pair, item) for pair in pairs]].float() / 127.5 - 1
        z = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        return (unet(scheduler.add_noise(z, noise, t), t, text).sample - noise).square().mean(dim=(1, 2, 3))

    model = errors(pipeline.unet, "better") - errors(pipeline.unet, "worse")
    with torch.no_grad():
        fixed = errors(reference, "better") - errors(reference, "worse")
    return -torch.nn.functional.logsigmoid(-0.5 * beta * (model - fixed)).mean()


def test_a_run_of_diffusion_dpo_holds_prompts_out(base, tmp_path, rankings):
    asked = options(base, tmp_path, algorithm="dpo", data=str(rankings.folder), format="database", held_out=0.4, method="lora")
    logs = list(train(asked, progress=False))
    assert {"preferred", "error", "pretrain"} == set(logs[0].extra)
    facts = base_facts(Path(asked.output))
    assert facts.held_out and all(prompt.startswith("a star") for prompt in facts.held_out) and "reward_held_out" not in facts.measured


def test_too_few_rankings_are_refused(base, tmp_path):
    opened = open_rankings(tmp_path / "few", "")
    opened.close()
    with pytest.raises(InvalidOption, match="0 rankings"):
        ReFLTask(options(base, tmp_path, algorithm="dpo", data=str(tmp_path / "few"), format="database"))


def test_a_reward_that_is_no_number_ends_the_run_as_failed(base, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.refl.capped", lambda cap: lambda rewards: rewards)
    asked = options(base, tmp_path, sample_every=0, checkpoint_every=1)
    running = train(asked, progress=False)
    next(running)
    monkeypatch.setattr(Followed, "__call__", lambda self, pictures, prompts: pictures.mean(dim=(1, 2, 3)) * float("nan"))
    with pytest.raises(RunFailed, match="no longer a number"):
        next(running)
    assert [path.name for path in (Path(asked.output) / "checkpoints").iterdir()] == ["step-000000"]


def test_the_estimate_counts_what_is_asked(base, tmp_path):
    asked = options(base, tmp_path)
    whole, low_rank = (estimate(replace(asked, method=method)) for method in ("full", "lora"))
    assert 0 < low_rank.trained_parameters < whole.trained_parameters and low_rank.memory_gib < whole.memory_gib and whole.seconds > 0
    # Three steps without a graph and one with it, of three passes; two pictures scored forward and back; two more of the pre-training loss.
    assert update_s(asked, 1.0, 10.0) == 2 * (3 + 3 + 20) + 2 * 3
    assert update_s(replace(asked, algorithm="dpo", pretrain_weight=0.0), 1.0, 0.0) == 2 * (2 + 2 * 3)


def test_prompts_of_the_toy_world_leave_things_open_as_people_do(tmp_path):
    asked = ReFLOptions(output=str(tmp_path), data="toybox", prompt_limit=300)
    trained, held_out = split_prompts(asked, None)
    said = [parse_caption(prompt) for prompt in (*trained, *held_out)]
    complete = sum({"colour", "background"} <= set(one) for one in said) / len(said)
    assert 0.55 < complete < 0.9 and not set(trained) & set(held_out)
    assert split_prompts(asked, None) == (trained, held_out) != split_prompts(replace(asked, seed=1), None)


def test_what_must_not_be_forgotten_is_said_as_the_model_was_taught(base, tmp_path):
    """In other words and with parts left unsaid as well, and a share with none at all."""
    asked = options(base, tmp_path, pretrain_data="toybox", pretrain_pictures=40)
    model = load_model(str(base), own_device(), dtype=torch.float32)
    told, dropped = (tuning_data.kept_pictures(one, model, None, []) for one in (asked, replace(asked, caption_drop=0.5)))
    complete = [prompt == caption(scene) for prompt, scene in zip(told.prompts, toybox_scenes(asked.seed, 40))]
    assert 10 <= sum(complete) <= 30 and "" not in told.prompts
    assert torch.equal(told.latents, dropped.latents) and 10 <= dropped.prompts.count("") <= 30
    assert all(b in ("", a) for a, b in zip(told.prompts, dropped.prompts))


def test_what_was_read_of_prompts_is_kept_within_its_bytes(tiny_sd, monkeypatch):
    model = load_model(tiny_sd, own_device(), dtype=torch.float32)
    monkeypatch.setattr(rollout, "BYTES_KEPT", 2 * rollout.bytes_of(Conditions(model, 32)._made("")))
    conditions = Conditions(model, 32)
    for prompt in ("one", "two", "two", "three", "one"):
        conditions.of([prompt])
    found = conditions._of.cache_info()
    assert (found.misses, found.currsize) == (4, 2)


def test_diversity_is_measured_of_all_and_of_each_prompt():
    areas = torch.tensor([-1.0, 1.0, 0.0, 0.5, 0.25])[:, None, None, None].expand(5, 3, 16, 16)
    prompts = ["wide", "wide", "narrow", "narrow", "alone"]
    assert torch.allclose(diversity_of_each(areas, prompts), torch.tensor([2.0, 0.5])) and diversity(areas, prompts) == pytest.approx(1.25)
    assert sureness(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)) == pytest.approx(2 * 3**0.5) and math.isnan(sureness(torch.ones(1), torch.zeros(1)))


def test_a_preset_is_an_option_of_the_command_line(tmp_path):
    presets = {name: entry.options for name, entry in REFL_PRESETS.items()}
    found = parse_options(ReFLOptions, ["--preset", "toybox-hacked", "--steps", "7"], prog="refl", description="", presets=presets)
    assert found.rewards == "jpeg_bits" and found.steps == 7 and found.pretrain_weight == 0


@pytest.mark.parametrize(("score", "changes", "said"), [
    (lambda self, pictures, prompts: pictures.mean(dim=(1, 2, 3)) * 0 + 7, {}, "says 7 of every picture"),
    (lambda self, pictures, prompts: pictures.mean(dim=(1, 2, 3)) * float("nan"), {}, "gives no number"),
    (lambda self, pictures, prompts: pictures.mean(dim=(1, 2, 3)) + 50, {"cap": 2.0}, "above the cap of 2"),
])
def test_a_reward_that_cannot_be_followed_is_refused_before_the_first_step(base, tmp_path, monkeypatch, score, changes, said):
    monkeypatch.setattr(Followed, "__call__", score)
    with pytest.raises(InvalidOption, match=said):
        ReFLTask(options(base, tmp_path, **changes))


def test_prompts_that_are_held_out_are_never_trained_on(base, tmp_path):
    task = ReFLTask(options(base, tmp_path))
    assert len(task.trained) == 2 and len(task.held_out) == 1 and not set(task.trained) & set(task.held_out)


@pytest.mark.parametrize(("changes", "said"), [
    ({"rewards": "jpeg_size"}, "Diffusion-DPO"), ({"prompts": " | "}, "at least 2 prompts"), ({"stop_high": 5}, "stop range"),
    ({"stop_low": 4, "stop_high": 3}, "stop range"), ({"judge": "redness"}, "cannot judge"), ({"rewards": ""}, "1 to 8 scorers"),
    ({"algorithm": "dpo", "data": "nowhere"}, "no.*rankings|there are none"), ({"algorithm": "draft_k", "last_steps": 6}, "last 6 of 5"),
    ({"result": "best", "judge": ""}, "best weights"), ({"rewards": "redness*much"}, "is a number"),
])
def test_what_cannot_work_is_refused_in_a_sentence(base, tmp_path, changes, said):
    with pytest.raises(InvalidOption, match=said):
        check(options(base, tmp_path, **changes))


def test_the_gradient_is_that_of_the_loss_written_plainly(base, tmp_path):
    """The released loop: everything before the stop without a graph, the stop's x0_hat decoded and scored in one graph."""
    asked = options(base, tmp_path, pretrain_weight=0.0, eta=0.0)
    task = ReFLTask(asked)
    task.network.eval()
    losses = task.losses(task.network, torch.arange(2), torch.Generator().manual_seed(7), torch.device("cpu"))
    losses.descend.backward()
    ours = [parameter.grad.clone() for parameter in task.network.parameters() if parameter.grad is not None]
    task.network.zero_grad()
    plain_loss(task, torch.Generator().manual_seed(7)).backward()
    theirs = [parameter.grad for parameter in task.network.parameters() if parameter.grad is not None]
    difference = sum((a - b).square().sum() for a, b in zip(ours, theirs, strict=True)).sqrt() / sum(b.square().sum() for b in theirs).sqrt()
    assert difference < 1e-4


def plain_loss(task: ReFLTask, generator: torch.Generator) -> torch.Tensor:
    from diffusers import DDIMScheduler

    from studio.rewards import load_reward
    from trainers.captions import token_ids

    pipeline, options = task.model.pipeline, task.options
    stop = options.stop_low + int(torch.randint(options.stop_high - options.stop_low + 1, (), generator=generator))
    seeds = torch.randint(2**62, (2,), generator=generator).tolist()
    x = torch.cat([torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    prompts = task.trained[:2]
    text = pipeline.text_encoder(token_ids(pipeline.tokenizer, prompts))[0]
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(options.num_steps)
    with torch.no_grad():
        for t in scheduler.timesteps[:stop]:
            x = scheduler.step(pipeline.unet(x, t, text).sample, t, x).prev_sample
    t = scheduler.timesteps[stop]
    x0_hat = scheduler.step(pipeline.unet(x, t, text).sample, t, x).pred_original_sample
    pictures = pipeline.vae.decode(x0_hat / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    rewards = load_reward("redness")(pictures, prompts)
    return options.reward_weight * torch.relu(options.cap - rewards).mean()


def test_prompts_of_more_and_of_fewer_chunks_stand_in_one_batch(tiny_sd):
    conditions = Conditions(load_model(tiny_sd, own_device(), dtype=torch.float32), 32)
    short, long = "a red star", "a red star beside " + "a very large blue boat and " * 8
    cond, uncond = conditions.of([short, long])
    (one, _), (other, empty) = conditions.of([short]), conditions.of([long])
    places = one.text.shape[1]
    assert cond.text.shape == uncond.text.shape and cond.text.shape[1] == other.text.shape[1] > places
    assert torch.equal(cond.text[:1, :places], one.text) and torch.equal(cond.text[1:], other.text)
    # What follows the short one is the empty prompt, which says nothing.
    assert torch.equal(cond.text[:1, places:], empty.text[:, places:]) and torch.equal(uncond.text[0], uncond.text[1])
