"""Training a ControlNet on a tiny random pipeline: what is copied, what learns, what comes out, what is refused."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from studio.control.drawn import map_of_scene
from studio.errors import InvalidOption, StudioError
from studio.models import load_model
from studio.models.controlnet_menu import is_controlnet
from studio.models.controlnets import make_controlnet, make_joint_controlnet
from studio.options import SampleOptions
from studio.runs.following import Follower
from studio.runs.trainers.controlnet import CONTROLNET_PRESETS, CYCLE_MAPS, STEERABLE, ControlNetOptions, check
from studio.sampling.loop import sample
from studio.toybox import caption
from studio.units import ControlUnit
from tests.tiny_families import save_tiny_sd3, save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd
from trainers.captions import draw_scenes, toybox_scenes, word
from trainers.controlnet import ControlNetTask, draw_steered, require_room_for_captions, train
from trainers.cycle import DISAGREEMENTS
from trainers.loop import run_loop
from trainers.noising import Flow
from trainers.steered import BASES, SteeredTransformer, load_base


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_tiny_sd(tmp_path_factory.mktemp("tiny"))


def options(base, folder, **changes) -> ControlNetOptions:
    small = {
        "base": str(base), "output": str(folder / "run"), "resolution": 32, "data_limit": 12, "steps": 4, "batch_size": 4, "validation_samples": 2,
        "validation_steps": 2, "sample_every": 2, "checkpoint_every": 2, "lr": 1e-2, "warmup": 0, "tensorboard": False,
    }
    return ControlNetOptions(**{**small, **changes})


# --- the copy ------------------------------------------------------------------------------------------------

def unets(tmp_path):
    """A UNet of each kind that can be told something: text alone, text pooled into the time, and SDXL's."""
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_pretrained(save_tiny_sd(tmp_path / "sd"), subfolder="unet")
    pooled = UNet2DConditionModel.from_config({**plain.config, "addition_embed_type": "text", "addition_embed_type_num_heads": 4})
    return plain, pooled, UNet2DConditionModel.from_pretrained(save_tiny_sdxl(tmp_path / "xl"), subfolder="unet")


def test_a_new_copy_says_what_the_bases_own_encoder_says_to_the_last_bit_in_every_family(tmp_path):
    for unet in unets(tmp_path):
        net = make_controlnet(unet.eval(), 4).eval()
        width = unet.config.cross_attention_dim
        generator = torch.Generator().manual_seed(0)
        x_t, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 6, width, generator=generator)
        added = {"text_embeds": torch.randn(2, 48, generator=generator), "time_ids": torch.ones(2, 6)}
        told = {"encoder_hidden_states": text, **({"added_cond_kwargs": added} if unet.config.addition_embed_type == "text_time" else {})}
        middles: list[torch.Tensor] = []
        for network in (unet, net):
            network.mid_block.register_forward_hook(lambda _, __, output, seen=middles: seen.append(output))
        with torch.no_grad():
            plain = unet(x_t, torch.tensor(3.0), return_dict=False, **told)[0]
            down, middle = net(x_t, torch.tensor(3.0), controlnet_cond=torch.rand(2, 3, 32, 32), return_dict=False, **told)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            steered = unet(x_t, torch.tensor(3.0), return_dict=False, **told, **residuals)[0]
        assert torch.equal(middles[0], middles[1]) and torch.equal(plain, steered)


def test_diffusers_own_copy_reads_a_pooled_prompt_otherwise(tmp_path):
    """Why it is not taken: should this fail one day, `make_controlnet` may go."""
    from diffusers import ControlNetModel

    pooled = unets(tmp_path)[1]
    theirs = ControlNetModel.from_unet(pooled, conditioning_embedding_out_channels=(16, 32, 64))
    assert theirs.config.addition_embed_type_num_heads != pooled.config.addition_embed_type_num_heads
    assert make_controlnet(pooled, 4).config.addition_embed_type_num_heads == 4


# --- what learns, and what comes of it -----------------------------------------------------------------------

@pytest.fixture(scope="module")
def xl(tmp_path_factory) -> str:
    return save_tiny_sdxl(tmp_path_factory.mktemp("tiny-xl"))


@pytest.mark.parametrize("family", ["base", "xl"])
def test_only_the_copy_learns_and_its_loss_at_first_is_the_bases_own(family, tmp_path, request):
    task = ControlNetTask(options(request.getfixturevalue(family), tmp_path, sample_every=0))
    assert not any(weight.requires_grad for weight in task.network.unet.parameters())
    losses = task.losses(task.network, torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    losses.descend.backward()
    learned = {name for name, weight in task.network.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0}
    assert learned and all(name.startswith("net.controlnet_") for name in learned)  # beyond the zeros nothing is reached yet
    alone = _Unsteered(task.network.unet)
    again = task.losses(alone, torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(losses.each, again.each)


class _Unsteered(torch.nn.Module):
    def __init__(self, unet):
        super().__init__()
        self.unet = unet

    def forward(self, z_t, t, text, hint, pooled=None):
        ids = torch.tensor([[32, 32, 0, 0, 32, 32]]).expand(len(z_t), -1)
        added = {} if pooled is None else {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
        return self.unet(z_t, t, text, return_dict=False, **added)[0]


def test_a_controlnet_of_xl_is_trained_and_steers_in_the_studio(xl, tmp_path):
    asked = options(xl, tmp_path, steps=2)
    assert len(list(train(asked, progress=False))) == 2 and len(list((Path(asked.output) / "samples").glob("*.png"))) == 1
    unit = ControlUnit(net=str(Path(asked.output) / "model"), map=Image.fromarray(np.eye(32, dtype=np.uint8) * 255))
    model = load_model(xl)
    with_it, without = (list(sample(model, SampleOptions(model=xl, num_steps=2, control=units)))[-1] for units in ((unit,), ()))
    assert not torch.equal(with_it.trajectory.x_final, without.trajectory.x_final)


@pytest.mark.parametrize("map", CYCLE_MAPS)
def test_a_picture_that_obeys_its_map_disagrees_with_it_little_and_gradients_lead_there(map):
    scenes = toybox_scenes(3, 6)
    renders = draw_scenes(scenes, 64).float() / 255
    if map == "canny":
        made = [cv2.Canny(np.ascontiguousarray(one), 100, 200) for one in (renders * 255).byte().movedim(1, -1).numpy()]
        maps = torch.from_numpy(np.stack(made))[:, None].expand(-1, 3, -1, -1).float() / 255
    else:
        maps = torch.from_numpy(np.stack([map_of_scene(map, scene, 64) for scene in scenes])).movedim(-1, 1).float() / 255
    own, others = (float(DISAGREEMENTS[map](renders, wanted)) for wanted in (maps, maps.roll(1, 0)))
    assert own < 0.35 and own + 0.25 < others <= 1
    pictures = (0.5 * renders + 0.5 * renders.roll(1, 0)).requires_grad_()
    before = DISAGREEMENTS[map](pictures, maps)
    before.backward()
    with torch.no_grad():
        assert DISAGREEMENTS[map](pictures - 0.02 * pictures.grad.sign(), maps) < before


def test_the_second_stage_asks_for_the_map_again_within_its_window_alone(base, tmp_path):
    task = ControlNetTask(options(base, tmp_path, sample_every=0, cycle_weight=0.5, cycle_end=0.5))
    z_t, hint = torch.randn(4, 4, 8, 8), torch.rand(4, 3, 32, 32)
    output = torch.randn(4, 4, 8, 8, requires_grad=True)
    task._cycle(output, z_t, torch.tensor([10, 499, 500, 900]), hint).backward()
    assert (output.grad.abs().amax(dim=(1, 2, 3)) > 0).tolist() == [True, True, False, False]
    assert task._cycle(output, z_t, torch.tensor([500] * 4), hint) == 0
    losses = task.losses(task.network, torch.arange(4), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert 0 < losses.extra["cycle"] <= 1 and not any(weight.requires_grad for weight in task.base.vae.parameters())


@pytest.mark.parametrize("map", ["toybox-edges", "toybox-segmentation", "toybox-depth"])
def test_a_run_measures_obedience_and_its_result_steers_in_the_studio_and_loads_in_diffusers(base, tmp_path, map):
    from diffusers import ControlNetModel

    asked = options(base, tmp_path, map=map)
    assert len(list(train(asked, progress=False))) == 4
    run = Path(asked.output)
    curves = Follower().curves(run)
    assert curves.step == [1, 2, 3, 4] and [value is not None for value in curves.values["obedience_empty"]] == [False, True, False, True]
    assert 0 <= curves.latest["obedience"] <= 1 and len(list((run / "samples").glob("*.png"))) == 2
    facts = json.loads((run / "model" / "studio.json").read_text())
    assert facts["kind"] == "controlnet" and facts["annotators"][0] == map
    ControlNetModel.from_pretrained(run / "model")
    unit = ControlUnit(net=str(run / "model"), map=Image.fromarray(np.eye(32, dtype=np.uint8) * 255))
    model = load_model(base)
    with_it, without = (list(sample(model, SampleOptions(model=base, num_steps=2, control=units)))[-1] for units in ((unit,), ()))
    assert not torch.equal(with_it.trajectory.x_final, without.trajectory.x_final)


@pytest.mark.parametrize("made", ["base", "sd3"])
def test_a_resumed_run_ends_in_the_same_weights_to_the_last_bit(made, request, tmp_path):
    from safetensors.torch import load_file

    base = request.getfixturevalue(made)
    whole, cut = (options(base, tmp_path / name, sample_every=0) for name in ("whole", "cut"))
    list(train(whole, progress=False))
    running = train(cut, progress=False)
    for _ in range(3):
        next(running)
    running.close()
    assert [log.step for log in train(cut, progress=False)] == [2, 3]
    ours, theirs = (load_file(Path(one.output) / "model" / "diffusion_pytorch_model.safetensors") for one in (cut, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def captioned_folder(folder: Path, conditioning: bool) -> Path:
    folder.mkdir()
    rows = []
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(pixels[..., :1].repeat(3, axis=2)).save(folder / f"{i}-map.png")
        rows.append({"file_name": f"{i}.png", "text": f"a star {i}", **({"conditioning_file_name": f"{i}-map.png"} if conditioning else {})})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_pictures_with_conditioning_pictures_or_an_annotator_are_learned_from(base, tmp_path):
    folder = captioned_folder(tmp_path / "pictures", conditioning=True)
    for map, channels in (("given", 1), ("canny", 1)):
        asked = options(base, tmp_path / map, data=str(folder), map=map, steps=1, batch_size=2)
        assert len(list(train(asked, progress=False))) == 1
        task = ControlNetTask(asked)
        assert task.kept["maps"].shape == (3, 32, 32, channels) and task.prompts == ["a star 0", "a star 1"]
    with pytest.raises(InvalidOption, match="must name its conditioning picture"):
        ControlNetTask(options(base, tmp_path, data=str(captioned_folder(tmp_path / "bare", conditioning=False)), map="given"))


def test_a_dataset_is_learned_from_by_the_names_of_its_columns(base, tmp_path, monkeypatch):
    import datasets

    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 32, 3), dtype=np.uint8)) for i in range(3)]
    rows = {"photo": pictures, "sketch": [picture.convert("L") for picture in pictures], "words": [["a star"], ["a heart"], ["a cat"]]}
    kinds = {"photo": datasets.Image(), "sketch": datasets.Image(), "words": datasets.Sequence(datasets.Value("string"))}
    table = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table)
    named = {"image_column": "photo", "conditioning_column": "sketch", "caption_column": "words"}
    task = ControlNetTask(options(base, tmp_path, data="someone/sketches", map="given", **named))
    assert asked[0] == ("someone/sketches", "train[:12]") and task.kept["maps"].shape == (3, 32, 32, 1) and task.prompts == ["a star", "a heart", "a cat"]
    with pytest.raises(InvalidOption, match="no column 'image'; its columns are photo"):
        ControlNetTask(options(base, tmp_path / "other", data="someone/sketches", map="canny"))


def test_a_run_may_go_on_from_another_controlnet(base, tmp_path):
    first = options(base, tmp_path / "first", sample_every=0, steps=2)
    list(train(first, progress=False))
    start = str(Path(first.output) / "model")
    task = ControlNetTask(options(base, tmp_path / "second", start=start, sample_every=0))
    assert task.network.net.controlnet_mid_block.weight.abs().sum() > 0
    other = save_tiny_sd(tmp_path / "wide", widths=(64, 96))
    with pytest.raises(InvalidOption, match="made for another model"):
        ControlNetTask(options(other, tmp_path / "third", start=start, sample_every=0))


# --- Stable Diffusion 3 --------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def sd3(tmp_path_factory) -> str:
    return save_tiny_sd3(tmp_path_factory.mktemp("tiny-sd3") / "base", qk_norm="rms_norm")


@pytest.fixture(scope="module")
def sd3_without_t5(tmp_path_factory) -> str:
    return save_tiny_sd3(tmp_path_factory.mktemp("tiny-sd3") / "short", t5=False)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def moved_off_zero(net):
    """The net with outputs and a reader of maps that are not zero, so that gradients reach everything."""
    for name, weight in net.named_parameters():
        if "controlnet_blocks" in name or "pos_embed_input" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=seeded())
    return net


def test_a_new_copy_of_sd3_is_what_diffusers_makes_and_leaves_the_base_as_it_is(sd3):
    from diffusers import SD3ControlNetModel, SD3Transformer2DModel

    transformer = SD3Transformer2DModel.from_pretrained(sd3, subfolder="transformer")
    before = dict(transformer.config)
    ours = make_joint_controlnet(transformer)
    assert dict(transformer.config) == before and ours.config.num_layers == 1
    theirs = SD3ControlNetModel.from_transformer(transformer, num_layers=1, num_extra_conditioning_channels=0)
    weights = theirs.state_dict()
    # Before training `controlnet_blocks` and `pos_embed_input` are zeros in both.
    assert weights.keys() == ours.state_dict().keys() and all(torch.equal(weights[name], tensor) for name, tensor in ours.state_dict().items())
    # Why theirs is not taken: pipelines would tell it zeros and unshifted maps, and the base's own config says one block now.
    assert theirs.config.force_zeros_for_pooled_projection and not ours.config.force_zeros_for_pooled_projection
    assert transformer.config["num_layers"] == 1 != before["num_layers"]
    with pytest.raises(InvalidOption, match="all but the last"):
        make_joint_controlnet(transformer, 2)


def test_a_copy_of_sd3_5_takes_the_dual_attention_of_the_blocks_that_it_has():
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=16, num_layers=4, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=80, caption_projection_dim=32,
        pooled_projection_dim=80, pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0, 1, 2),
    ).eval()
    net = make_joint_controlnet(transformer).eval()
    assert net.config.num_layers == 2 and tuple(net.config.dual_attention_layers) == (0, 1)
    assert net.transformer_blocks[1].state_dict().keys() == transformer.transformer_blocks[1].state_dict().keys()
    x_t, text, pooled, t = (torch.randn(*shape, generator=seeded()) for shape in ((2, 16, 8, 8), (2, 9, 80), (2, 80), (2,)))
    seen: list[torch.Tensor] = []
    for network in (transformer, net):
        network.transformer_blocks[1].register_forward_hook(lambda _, __, output: seen.append(output[1]))
    with torch.no_grad():
        plain = SteeredTransformer(transformer, net)(x_t, t, text, torch.randn(x_t.shape, generator=seeded()), pooled)
        alone = transformer(x_t, encoder_hidden_states=text, pooled_projections=pooled, timestep=t, return_dict=False)[0]
    assert torch.equal(plain, alone) and torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("family", ["sd3", "sd3_without_t5"])
def test_a_new_copy_changes_nothing_of_sd3_and_only_it_learns(family, tmp_path, request):
    task = ControlNetTask(options(request.getfixturevalue(family), tmp_path, sample_every=0))
    assert not any(weight.requires_grad for weight in task.network.transformer.parameters())
    losses = task.losses(task.network, torch.arange(4), seeded(), torch.device("cpu"))
    losses.descend.backward()
    learned = {name for name, weight in task.network.named_parameters() if weight.grad is not None and weight.grad.abs().sum() > 0}
    assert learned and all(name.startswith("net.controlnet_blocks") for name in learned)  # beyond the zeros nothing is reached yet
    again = task.losses(_SD3Alone(task.network.transformer), torch.arange(4), seeded(), torch.device("cpu"))
    assert torch.equal(losses.each, again.each)


class _SD3Alone(torch.nn.Module):
    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer

    def forward(self, z_t, t, text, hint, pooled):
        return self.transformer(z_t, encoder_hidden_states=text, pooled_projections=pooled, timestep=t, return_dict=False)[0]


@pytest.mark.parametrize(("family", "force_zeros", "sampling"), [("sd3", False, "logit_normal"), ("sd3_without_t5", True, "uniform")])
def test_a_step_of_sd3_has_the_loss_and_the_gradients_of_diffusers_own(family, force_zeros, sampling, tmp_path, request):
    """Pictures, maps and captions from scratch by diffusers' own parts, as its train_controlnet_sd3 does; nothing of ours but what is kept in halves."""
    base, start = request.getfixturevalue(family), tmp_path / "start"
    from diffusers import SD3Transformer2DModel

    moved_off_zero(make_joint_controlnet(SD3Transformer2DModel.from_pretrained(base, subfolder="transformer"), force_zeros=force_zeros)).save_pretrained(start)
    asked = options(
        base, tmp_path, sample_every=0, start=str(start), timestep_sampling=sampling, logit_mean=0.3, logit_std=0.8, caption_drop=0.5, data_limit=6,
    )
    task = ControlNetTask(asked)
    losses = task.losses(task.network, torch.arange(6), seeded(), torch.device("cpu"))
    losses.descend.backward()
    loss, gradients = plain_step(base, start, asked, force_zeros)
    assert abs(losses.descend.item() - loss) < 1e-4 * loss
    net = dict(task.network.net.named_parameters())
    # What the last copied block makes of the words leads nowhere, so it is frozen; their questions there get zeros.
    assert {name for name, gradient in gradients.items() if gradient is None} == {name for name, weight in net.items() if not weight.requires_grad}
    learned = {name: gradient for name, gradient in gradients.items() if gradient is not None and not ("add_q" in name or "added_q" in name)}
    assert len(learned) > 20
    # A pooled prompt of zeros teaches nothing to what multiplies it.
    zeros = {"time_text_embed.text_embedder.linear_1.weight"} if force_zeros else set()
    assert {name for name, gradient in learned.items() if gradient.norm() == 0} == zeros
    for name, gradient in learned.items():
        assert (net[name].grad - gradient).norm() <= 1e-4 * gradient.norm(), name


def plain_step(base, net_folder, asked, force_zeros) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step on the six pictures of a run, as train_controlnet_sd3 of diffusers goes about it."""
    from diffusers import SD3ControlNetModel, StableDiffusion3Pipeline
    from diffusers.training_utils import compute_density_for_timestep_sampling

    absent = {} if (Path(base) / "text_encoder_3").is_dir() else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(base, **absent)
    net, vae, scheduler, generator = SD3ControlNetModel.from_pretrained(net_folder).train(), pipeline.vae, pipeline.scheduler, seeded()
    scenes = toybox_scenes(asked.seed, 6)
    rng = np.random.default_rng(asked.seed)
    wordings = [[caption(scene), word(scene, rng)] for scene in scenes]
    u = compute_density_for_timestep_sampling(
        {"uniform": "none"}.get(asked.timestep_sampling, asked.timestep_sampling), 6, logit_mean=asked.logit_mean, logit_std=asked.logit_std,
        generator=generator,
    )
    timesteps = scheduler.timesteps[(u * scheduler.config.num_train_timesteps).long()]
    sigmas = scheduler.sigmas[[(scheduler.timesteps == t).nonzero().item() for t in timesteps]].view(-1, 1, 1, 1)
    noise = torch.randn(6, 16, 8, 8, generator=generator)
    wording, dropped = torch.randint(2, (6,), generator=generator).tolist(), (torch.rand(6, generator=generator) < asked.caption_drop).tolist()
    said = ["" if dropped[i] else wordings[i][wording[i]] for i in range(6)]
    assert 0 < sum(dropped) < 6

    def encoded(pixels):
        return vae.encode(pixels.float() / 127.5 - 1).latent_dist.mode()

    with torch.no_grad():
        latents = ((encoded(draw_scenes(scenes, 32)) - vae.config.shift_factor) * vae.config.scaling_factor).half().float()
        maps = torch.from_numpy(np.stack([map_of_scene(asked.map, scene, 32) for scene in scenes])).movedim(-1, 1)
        cond = (encoded(maps).half().float() - (0 if force_zeros else vae.config.shift_factor)) * vae.config.scaling_factor
        embeds, _, pooled, _ = (None if one is None else one.half().float() for one in pipeline.encode_prompt(
            said, None, None, do_classifier_free_guidance=False, negative_prompt_embeds=None,
        ))
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    residuals = net(
        hidden_states=noisy, timestep=timesteps, encoder_hidden_states=embeds, pooled_projections=0 * pooled if force_zeros else pooled, controlnet_cond=cond,
        return_dict=False,
    )[0]
    predicted = pipeline.transformer(
        hidden_states=noisy, timestep=timesteps, encoder_hidden_states=embeds, pooled_projections=pooled, block_controlnet_hidden_states=residuals,
        return_dict=False,
    )[0]
    loss = (predicted - (noise - latents)).square().reshape(6, -1).mean(1).mean()
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in net.named_parameters()}


def test_timesteps_of_a_flow_are_the_bases_own_shifted_ones(sd3, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(sd3, subfolder="scheduler")
    drawn = {how: Flow(scheduler.config, options(sd3, tmp_path, timestep_sampling=how)).draw(4000, seeded()) for how in ("logit_normal", "uniform")}
    assert all(set(t.tolist()) <= set(scheduler.timesteps.tolist()) for t in drawn.values())
    # Half of them lie above 750 with a shift of 3: s = 0.5 becomes 0.75; the logit-normal ones keep away from both ends.
    assert all(abs(t.median().item() - 750) < 15 for t in drawn.values()) and drawn["logit_normal"].std() < 0.8 * drawn["uniform"].std()
    # A share that is rounded up to 1 is the table's last.
    assert Flow(scheduler.config, options(sd3, tmp_path, logit_mean=10.0, logit_std=10.0)).draw(4000, seeded()).min() == scheduler.timesteps[-1]


def test_an_empty_map_is_told_sd3_as_the_latents_of_black(sd3):
    base = load_base(sd3)
    kept = base.read_maps(torch.zeros(3, 32, 32, 1, dtype=torch.uint8))
    hint = base.hint(kept, torch.arange(2), make_joint_controlnet(base.network))
    with torch.no_grad():
        black = base.vae.encode(torch.full((1, 3, 32, 32), -1.0)).latent_dist.mode()
    wanted = (black - base.vae.config.shift_factor) * base.vae.config.scaling_factor
    torch.testing.assert_close(hint, wanted.expand(2, -1, -1, -1), atol=2e-3, rtol=2e-3)
    assert hint.abs().max() > 0.1


def test_a_run_of_sd3_leaves_the_base_measures_obedience_and_draws_as_diffusers_does(sd3_without_t5, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from tests.control.test_oracle import assert_same, sd3_options, sd3_pictures

    base, asked = sd3_without_t5, options(sd3_without_t5, tmp_path, ema_decay=0.0)
    task, run = ControlNetTask(asked), Path(asked.output)
    assert len(list(run_loop(task, progress=False))) == 4
    frozen = load_file(Path(base) / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in task.network.transformer.state_dict().items())
    curves = Follower().curves(run)
    assert [value is not None for value in curves.values["obedience_empty"]] == [False, True, False, True] and len(list((run / "samples").glob("*.png"))) == 2
    net, facts = str(run / "model"), json.loads((run / "model" / "studio.json").read_text())
    assert facts["kind"] == "controlnet" and facts["base"] == base and is_controlnet(Path(net))
    picture = Image.fromarray(map_of_scene("toybox-edges", toybox_scenes(3, 1)[0], 32)).convert("RGB")
    unit = ControlUnit(net=net, map=picture)
    drawn, free = (
        np.asarray(list(sample(load_model(base), sd3_options(base, units, "euler")))[-1].images[0], np.float32) for units in ([unit], [])
    )
    assert_same(drawn, sd3_pictures(base, [net], [picture], "euler", monkeypatch))
    assert np.abs(drawn - free).max() > 2


def test_pictures_at_a_sample_point_of_sd3_hang_on_nothing_but_their_seeds(sd3, tmp_path):
    base = load_base(sd3)
    net, maps = moved_off_zero(make_joint_controlnet(base.network)).eval(), np.zeros((2, 32, 32, 3), np.uint8)
    told = {"resolution": 32, "num_steps": 2, "guidance_scale": 4.0, "seed": 7}
    torch.manual_seed(1)
    first, state = draw_steered(base, net, ["a star", ""], maps, **told), torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(draw_steered(base, net, ["a star", ""], maps, **told), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpointing_and_the_second_stage_work_on_sd3(sd3, tmp_path):
    asked = {"sample_every": 0, "cycle_weight": 0.5, "cycle_end": 1.0}
    tasks = [ControlNetTask(options(sd3, tmp_path, gradient_checkpointing=spare, **asked)) for spare in (False, True)]
    for task in tasks:
        moved_off_zero(task.network.net)
        losses = task.losses(task.network.train(), torch.arange(4), seeded(), torch.device("cpu"))
        losses.descend.backward()
        assert 0 < losses.extra["cycle"] <= 1
    one, other = ({name: weight.grad for name, weight in task.network.net.named_parameters() if weight.requires_grad} for task in tasks)
    assert all(torch.allclose(one[name], gradient, atol=1e-6, rtol=1e-4) for name, gradient in other.items())


def test_what_cannot_work_with_sd3_is_refused_in_a_sentence(base, sd3, tmp_path):
    from tests.tiny_control import save_tiny_controlnet, save_tiny_sd3_controlnet

    for changes, words in (
        ({"resolution": 40, "data_limit": 2}, None), ({"resolution": 136}, "multiple of 8, at most 128"), ({"layers": 2}, "at most 1"),
        ({"base": str(tmp_path / "model.safetensors")}, "single .safetensors file"),
    ):
        (tmp_path / "model.safetensors").touch()
        asked = options(**{"base": sd3, "folder": tmp_path, **changes})
        if words is None:
            check(asked)
            continue
        with pytest.raises(StudioError, match=words):
            check(asked)
    task = options(sd3, tmp_path, sample_every=0, data_limit=4)
    of_unet = save_tiny_controlnet(tmp_path / "of-unet", base)
    inpainting = save_tiny_sd3_controlnet(tmp_path / "inpainting", sd3, qk_norm="rms_norm", extra_conditioning_channels=1)
    wordless = save_tiny_sd3_controlnet(tmp_path / "large", sd3, large=True)
    joint = save_tiny_sd3_controlnet(tmp_path / "joint", sd3, qk_norm="rms_norm")
    for asked in (
        *(dataclasses.replace(task, start=start) for start in (of_unet, inpainting, wordless)),
        options(base, tmp_path / "unet", sample_every=0, data_limit=4, start=joint),
    ):
        with pytest.raises(InvalidOption, match="made for another model"):
            ControlNetTask(asked)
    # As InstantX's: zeros for the pooled prompt, and what it goes on to be is told them too.
    assert ControlNetTask(dataclasses.replace(task, start=joint)).network.net.config.force_zeros_for_pooled_projection


def test_captions_that_no_memory_holds_are_refused(sd3):
    base = load_base(sd3)
    require_room_for_captions(base, 1000)
    with pytest.raises(InvalidOption, match="choose a smaller data_limit"):
        require_room_for_captions(base, 1_000_000)


def test_the_families_of_the_menu_are_those_that_can_be_trained():
    assert set(BASES) == set(STEERABLE)


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "words"), [
    ({"map": "canny", "data": "nowhere"}, "data must be one of"), ({"base": ""}, "Choose the model to steer"),
    ({"start": "nowhere"}, "folder of a ControlNetModel"), ({"base": "digits-ddpm"}, "takes a ControlNet"),
])
def test_what_cannot_work_is_refused_before_a_run_begins(base, tmp_path, changes, words):
    with pytest.raises(StudioError, match=words):
        check(options(**{"base": base, "folder": tmp_path, **changes}))


@pytest.mark.parametrize("changes", [{"resolution": 33}, {"data": "pictures"}, {"map": "given"}, {"caption_drop": 1.5},
                                     {"cycle_weight": 1.0, "map": "scribble", "data": "pictures"}])
def test_options_that_contradict_each_other_are_refused(changes):
    with pytest.raises(InvalidOption):
        ControlNetOptions(**changes)


def test_every_preset_is_made_of_options():
    for preset in CONTROLNET_PRESETS.values():
        ControlNetOptions(**preset.options)


def test_the_judge_tells_a_net_that_does_nothing_from_what_could_be_reached_and_the_card_says_so(tmp_path, monkeypatch):
    from trainers import steering
    from trainers.cards import controlnet_card
    from trainers.pipelines import save_network
    from trainers.steering import judge_controlnet

    # Enough steps for the base to draw what it is asked for.
    monkeypatch.setattr(steering, "STEPS", 6)
    monkeypatch.setattr(steering, "PAIRS", 2)
    name = "toybox-controlnet-canny"
    save_network(make_controlnet(load_base("toybox-sd").network, 4), tmp_path)
    (tmp_path / "studio.json").write_text(json.dumps({"kind": "controlnet", "base": "toybox-sd", "annotators": ["toybox-edges", "canny"]}))
    quality = judge_controlnet(tmp_path, count=6)
    outline = quality["measured"]["F1 of the outline"]
    assert outline["empty_prompt"] < 0.5 < 0.8 < outline["ceiling_render"] and outline["ceiling_autoencoder"] > 0.7
    # Nothing is added, so words say what they say without it, and nothing is read off the map.
    assert quality["prompts"]["with_control"] == quality["prompts"]["without"]
    assert quality["contradicted"]["object_of_map"] < 0.5 < quality["contradicted"]["object_of_prompt"]
    assert Image.open(tmp_path / "contradicted.png").size == (6 * 66 - 2, 4 * 66 - 2)
    assert (tmp_path / "two-units.png").is_file() and set(quality["two_units"]) == {"edges_left", "segmentation_right"}
    card = controlnet_card(tmp_path, name, [ControlNetOptions(data="toybox-world")], quality)
    assert f"# {name}" in card and "python -m trainers.controlnet --data toybox-world" in card and "## Measured" in card
    both = {**quality, "two_units": {"edges_left": 0.9, "segmentation_right": 0.85}, "before": quality["measured"]}
    card = controlnet_card(tmp_path, name, [ControlNetOptions()], both)
    assert "F1 of 90.0%" in card and "What the second stage gains" in card


def test_the_judge_takes_a_net_of_sd3(sd3, tmp_path, monkeypatch):
    from trainers import steering
    from trainers.pipelines import save_network

    monkeypatch.setattr(steering, "STEPS", 1)
    monkeypatch.setattr(steering, "_two_units", lambda sheet: {})
    save_network(make_joint_controlnet(load_base(sd3).network), tmp_path)
    (tmp_path / "studio.json").write_text(json.dumps({"kind": "controlnet", "base": sd3, "annotators": ["toybox-edges"], "before": str(tmp_path)}))
    quality = steering.judge_controlnet(tmp_path, count=2)
    # Nothing is added yet.
    assert quality["prompts"]["with_control"] == quality["prompts"]["without"] and (tmp_path / "contradicted.png").is_file()
    assert quality["before"]["F1 of the outline"]["full_prompt"] == quality["measured"]["F1 of the outline"]["full_prompt"]


def test_an_estimate_counts_what_is_encoded_trained_and_drawn(base, xl, sd3, tmp_path):
    from trainers.estimate import estimate_control

    asked = {
        "plain": {"sample_every": 0}, "drawn": {"sample_every": 10, "validation_samples": 8}, "small": {"sample_every": 0, "gradient_checkpointing": True},
    }
    costs = {name: estimate_control(options(base, tmp_path, steps=1000, resolution=64, **changes)) for name, changes in asked.items()}
    assert costs["plain"].trained_parameters == sum(weight.numel() for weight in ControlNetTask(options(base, tmp_path)).network.net.parameters())
    assert costs["drawn"].seconds > costs["plain"].seconds and costs["small"].memory_gib < costs["plain"].memory_gib
    assert estimate_control(options(xl, tmp_path)).seconds > 0
    cost, task = estimate_control(options(sd3, tmp_path, layers=1)), ControlNetTask(options(sd3, tmp_path, sample_every=0))
    assert cost.trained_parameters == sum(weight.numel() for weight in task.network.net.parameters() if weight.requires_grad)
    with pytest.raises(InvalidOption, match="multiple of 8, at most 128"):
        estimate_control(options(sd3, tmp_path, resolution=136))
