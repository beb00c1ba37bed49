"""Tuning of the other latent families, on tiny random checkpoints: SDXL that predicts noise or v, and the flow of Stable Diffusion 3."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from studio.errors import InvalidOption, ModelUnavailable
from studio.models.loading import load_model, load_text_model
from studio.models.taught import base_of
from studio.rewards import load_reward
from studio.runs.folder import read_run, write_state
from studio.runs.results import results
from studio.runs.trainers.refl import ReFLOptions, check
from studio.runs.tuned import promote
from tests.tiny_families import save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl
from trainers.refl import ReFLTask, prediction_error, preference_margin, train
from trainers.rollout import Conditions

PROMPTS = ("a red star", "a blue star", "the butterfly")


def save_tiny_sdxl_of_v(folder: Path) -> str:
    save_tiny_sdxl(folder, force_zeros=False)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    return str(folder)


SAVED: dict[str, Callable[..., str]] = {"sdxl": save_tiny_sdxl, "sdxl-v": save_tiny_sdxl_of_v, "sd3": save_tiny_sd3}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp("base") / name) for name, save in SAVED.items()}


def options(base: str, folder: Path, **changes: Any) -> ReFLOptions:
    small = {
        "base": base, "output": str(folder / "run"), "resolution": 32, "steps": 2, "batch_size": 2, "num_steps": 4, "stop_low": 1, "stop_high": 3,
        "rewards": "redness", "judge": "sharpness", "reward_weight": 1.0, "cap": 100.0, "data": "typed", "prompts": "|".join(PROMPTS), "eta": 0.0,
        "validation_prompts": 1, "validation_samples": 2, "validation_steps": 2, "sample_every": 0, "checkpoint_every": 1, "pretrain_weight": 0.0,
        "pretrain_pictures": 2, "pretrain_batch": 2, "lr": 1e-2, "ema_decay": 0.0, "tensorboard": False,
    }
    return ReFLOptions(**{**small, **changes})


# --- the gradients, against diffusers' own parts -------------------------------------------------------------

class Plain:
    """A base as diffusers holds it, asked as its pipeline asks it."""

    def __init__(self, base: str):
        self.flow = json.loads((Path(base) / "model_index.json").read_text())["_class_name"] == "StableDiffusion3Pipeline"
        kind = diffusers.StableDiffusion3Pipeline if self.flow else diffusers.StableDiffusionXLPipeline
        self.pipeline = kind.from_pretrained(base)
        self.network = self.pipeline.transformer if self.flow else self.pipeline.unet
        config = self.pipeline.scheduler.config
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config) if self.flow else diffusers.DDIMScheduler.from_config(config)

    def told(self, prompts: list[str]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """(x_t, t) -> what the network says of these prompts."""
        with torch.no_grad():
            told = self.pipeline.encode_prompt(prompts, *[None] * 2, do_classifier_free_guidance=False) if self.flow else self.pipeline.encode_prompt(
                prompts, do_classifier_free_guidance=False,
            )
        text, pooled = told[0], told[2]
        if self.flow:
            return lambda x, t: self.network(
                hidden_states=x, timestep=t.expand(len(x)), encoder_hidden_states=text, pooled_projections=pooled, return_dict=False,
            )[0]
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * len(prompts))}
        return lambda x, t: self.network(x, t, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]

    def decoded(self, x0: torch.Tensor) -> torch.Tensor:
        config = self.pipeline.vae.config
        return self.pipeline.vae.decode(x0 / config.scaling_factor + (getattr(config, "shift_factor", None) or 0), return_dict=False)[0].clamp(-1, 1)

    def begin(self, num_steps: int) -> None:
        # A scheduler counts its steps.
        self.scheduler.set_timesteps(num_steps)

    def step(self, output: torch.Tensor, index: int, x: torch.Tensor) -> torch.Tensor:
        return self.scheduler.step(output, self.scheduler.timesteps[index], x, return_dict=False)[0]

    def x0_hat(self, output: torch.Tensor, index: int, x: torch.Tensor) -> torch.Tensor:
        if self.flow:
            return x - self.scheduler.sigmas[index] * output
        return self.scheduler.step(output, self.scheduler.timesteps[index], x).pred_original_sample


def seeded_noise(count: int, channels: int, generator: torch.Generator) -> torch.Tensor:
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()
    return torch.cat([torch.randn((1, channels, 8, 8), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def plain_loss(plain: Plain, task: ReFLTask, generator: torch.Generator) -> torch.Tensor:
    """The loss of the first two prompts, all of it in one graph but for what the method leaves out of it."""
    asked, prompts, channels = task.options, task.trained[:2], plain.network.config.in_channels
    count, score = asked.num_steps, load_reward("redness")
    stop = asked.stop_low + int(torch.randint(asked.stop_high - asked.stop_low + 1, (), generator=generator)) if asked.algorithm == "refl" else None
    x, ask = seeded_noise(2, channels, generator), plain.told(prompts)
    plain.begin(count)
    first = {"refl": stop, "draft_k": count - asked.last_steps, "draft_lv": count}[asked.algorithm]
    with torch.no_grad():
        for index in range(first):
            x = plain.step(ask(x, plain.scheduler.timesteps[index]), index, x)
    if asked.algorithm == "refl":
        x = plain.x0_hat(ask(x, plain.scheduler.timesteps[stop]), stop, x)
        return (asked.cap - score(plain.decoded(x), prompts)).relu().mean()
    if asked.algorithm == "draft_k":
        for index in range(first, count):
            x = plain.step(ask(x, plain.scheduler.timesteps[index]), index, x)
        return -score(plain.decoded(x), prompts).mean()
    level, noise = task.rollout.levels[-1], seeded_noise(4, channels, generator)
    x = level.alpha * x.repeat(2, 1, 1, 1) + level.sigma * noise
    x = plain.x0_hat(plain.told(prompts * 2)(x, plain.scheduler.timesteps[-1]), count - 1, x)
    return -score(plain.decoded(x), prompts * 2).mean()


@pytest.mark.parametrize("algorithm", ["refl", "draft_k", "draft_lv"])
@pytest.mark.parametrize("name", SAVED)
def test_the_gradient_is_that_of_diffusers_own_parts(bases, tmp_path, name, algorithm):
    task = ReFLTask(options(bases[name], tmp_path, algorithm=algorithm, last_steps=2))
    task.network.eval()
    task.losses(task.network, torch.arange(2), torch.Generator().manual_seed(7), torch.device("cpu")).descend.backward()
    plain = Plain(bases[name])
    plain_loss(plain, task, torch.Generator().manual_seed(7)).backward()
    assert difference(task.model.network, plain.network) < 1e-4


def difference(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    """Of two networks' gradients, relative to the second ones'."""
    both = [(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)]
    assert all((a is None) == (b is None) for a, b in both)
    pairs = [(a, b) for a, b in both if a is not None]
    return float(sum((a - b).square().sum() for a, b in pairs).sqrt() / sum(b.square().sum() for _, b in pairs).sqrt())


@pytest.mark.parametrize("name", SAVED)
def test_the_losses_of_pictures_and_of_pairs_are_those_of_diffusers_own_parts(bases, tmp_path, name):
    """The error of the prediction that the pre-training loss is made of, and the gradient of Diffusion-DPO's loss, which is made of four of them."""
    task, plain = ReFLTask(options(bases[name], tmp_path, kl_weight=0.1)), Plain(bases[name])
    fixed = Plain(bases[name])
    with torch.no_grad():
        for network in (task.model.network, plain.network):  # no longer the base
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    channels, prompts = plain.network.config.in_channels, list(PROMPTS[:2]) * 2
    z, noise = (torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    t = torch.tensor([250, 900] * 2)
    cond, _ = task.rollout.conditions.of(prompts)
    errors = [prediction_error(task.model, ask, cond, z, t, noise) for ask in (task.network.eval(), task.reference.predict)]
    wanted = [plain_error(one, name, prompts, z, t, noise) for one in (plain, fixed)]
    assert all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(errors, wanted))
    for error, base in (errors, wanted):
        better, worse = (error - base.detach()).chunk(2)
        margin = preference_margin(error, base.detach(), 50.0) if error is errors[0] else -25 * (better - worse)
        (-torch.nn.functional.logsigmoid(margin)).mean().backward()
    assert difference(task.model.network, plain.network) < 1e-4


def plain_error(plain: Plain, name: str, prompts: list[str], z: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """(B,) as the families' training scripts compute it."""
    if plain.flow:
        share = (t / 1000).reshape(-1, 1, 1, 1)
        x_t, target = (1 - share) * z + share * noise, noise - z
    else:
        x_t = plain.scheduler.add_noise(z, noise, t)
        target = plain.scheduler.get_velocity(z, noise, t) if name == "sdxl-v" else noise
    return (plain.told(prompts)(x_t, t) - target).square().flatten(1).mean(1)


# --- runs ----------------------------------------------------------------------------------------------------

def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{path.relative_to(folder)}/{key}": tensor for path in sorted(folder.rglob("*.safetensors")) for key, tensor in load_file(path).items()}


@pytest.mark.parametrize(("name", "changes"), [
    ("sdxl", {"sample_every": 2, "ema_decay": 0.9, "kl_weight": 0.1, "pretrain_weight": 1.0, "guidance_scale": 2.0, "late_guidance": True, "eta": 1.0}),
    ("sdxl-v", {"method": "lora", "algorithm": "draft_k", "kl_weight": 0.1}), ("sd3", {"method": "lora", "algorithm": "draft_lv", "pretrain_weight": 1.0}),
    ("sd3", {"gradient_checkpointing": True}),
])
def test_a_run_resumes_to_the_bit_and_diffusers_opens_what_it_made(bases, tmp_path, name, changes):
    require_resumed_to_the_bit(bases, tmp_path, name, changes)


@pytest.mark.parametrize(("name", "method"), [("sdxl", "full"), ("sdxl-v", "lora"), ("sd3", "full")])
def test_so_does_a_run_of_diffusion_dpo(bases, tmp_path, rankings, name, method):
    require_resumed_to_the_bit(bases, tmp_path, name, {"algorithm": "dpo", "method": method, "data": str(rankings.folder), "format": "database", "beta": 50.0})


def require_resumed_to_the_bit(bases: dict[str, str], tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    whole, cut = (options(bases[name], tmp_path, output=str(tmp_path / one), **changes) for one in ("whole", "cut"))
    list(train(whole, progress=False))
    stopped = train(cut, progress=False)
    next(stopped)
    stopped.close()
    assert [log.step for log in train(cut, progress=False)] == [1]
    results_of = [Path(one.output) / "model" for one in (whole, cut)]
    a, b = map(weights_of, results_of)
    assert a and all(torch.equal(a[key], b[key]) for key in a)
    assert learned(bases[name], results_of[0], whole.method == "lora") > 1e-4
    if whole.sample_every:
        assert list((Path(whole.output) / "samples").iterdir()) and read_run(Path(whole.output)).checkpoints


def learned(base: str, result: Path, lora: bool) -> float:
    """How far plain diffusers' picture moves from the base's at the same seed, when the result is opened by its own pipeline."""
    before, after = (diffusers.DiffusionPipeline.from_pretrained(folder) for folder in (base, base if lora else result))
    if lora:
        after.load_lora_weights(result)
    drawn = []
    for pipeline in (before, after):
        pipeline.set_progress_bar_config(disable=True)
        asked = {"height": 32, "width": 32, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
        drawn.append(pipeline("a red star", **asked).images)
    return float((drawn[0] - drawn[1]).abs().max())


@pytest.mark.parametrize(("name", "method"), [("sdxl", "full"), ("sdxl-v", "lora"), ("sd3", "lora"), ("sd3", "full")])
def test_checkpoints_and_results_stand_in_the_menus_and_are_the_run(bases, tmp_path, name, method):
    asked = options(bases[name], tmp_path, method=method)
    list(train(asked, progress=False))
    run = Path(asked.output)
    write_state(run, trainer="refl", state="finished")
    checkpoint, result = promote(read_run(run), "step-000001"), str(run / "model")
    menu = results(tmp_path)
    assert {checkpoint, result} <= set(menu) and {menu[one].family for one in (checkpoint, result)} == {name.removesuffix("-v")}
    assert base_of(checkpoint) == bases[name]
    networks = [load_model(one, torch.device("cpu")).network.state_dict() for one in (checkpoint, result, bases[name])]
    # A whole pipeline is saved in half precision.
    far = [max(float((networks[0][key] - other[key]).abs().max()) for key in other) for other in networks[1:]]
    assert far[0] < 2e-3 < far[1]


def test_prompts_of_more_and_of_fewer_chunks_are_lengthened_as_their_family_does(bases):
    long = "a red star beside " + "a very large blue boat and " * 8
    for name in ("sdxl", "sd3"):
        model = load_text_model(bases[name], torch.device("cpu"), dtype=torch.float32)
        cond, uncond = Conditions(model, 32).of(["a red star", long])
        chunks, limit = model.prompts.count(long), model.prompts.limit
        wanted = model.prompts.encoded("a red star", chunks=chunks)
        assert chunks > 1 and torch.equal(cond.text[:1], wanted.states) and torch.equal(cond.pooled[:1], wanted.pooled)
        assert cond.text.shape == uncond.text.shape and cond.text.shape[1] == limit * chunks + (256 if name == "sd3" else 0)


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("save", "said"), [(save_tiny_dit, "DiT"), (save_tiny_refiner, "refiner"), (None, "pixel diffusion")])
def test_families_that_are_not_drawn_with_by_words_alone_are_refused_in_a_sentence(tmp_path, save, said):
    base = save(tmp_path / "base") if save else "toybox-ddpm"
    with pytest.raises(InvalidOption, match=f"{said}.*words alone.*such as toybox-sd"):
        check(options(base, tmp_path))


def test_a_model_that_is_only_known_once_it_is_loaded_is_refused_then(tmp_path):
    with pytest.raises(ModelUnavailable, match="reads no prompt"):
        load_text_model(save_tiny_dit(tmp_path / "dit"), torch.device("cpu"))


def test_layers_that_a_transformer_lacks_are_refused(bases, tmp_path):
    asked = options(bases["sd3"], tmp_path, method="lora")
    check(asked)
    with pytest.raises(InvalidOption, match="conv_in"):
        check(replace(asked, targets="conv_in"))
