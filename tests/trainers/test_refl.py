"""Tuning by a reward, on a tiny random pipeline: gradients, what is watched, what comes out, what is refused."""

import json
from pathlib import Path

import pytest
import torch

from studio.errors import InvalidOption
from studio.runs.trainers.refl import ReFLOptions, check
from tests.tiny_sd import save_tiny_sd
from trainers.refl import ReFLTask, train


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
