"""Units of ControlNets: what they refuse, how they travel, and what they do to a run."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption, ModelUnavailable, UnknownName
from studio.media.maps import aligned, kind_of_map, looks_inverted, map_from_text, map_to_text
from studio.models import load_model
from studio.models.controlnets import load_controlnet
from studio.options import SampleOptions
from studio.sampling.controlled import make_ready
from studio.sampling.export import read_options, save_png
from studio.sampling.loop import resume, sample
from studio.sampling.trajectory import Trajectory
from studio.units import ControlUnit, controlled_steps
from tests.tiny_control import save_tiny_controlnet

STEPS = 5


@pytest.fixture(scope="module")
def model(tiny_sd):
    return load_model(tiny_sd)


def run(model, *units, **changes):
    options = SampleOptions(**{"model": model.name, "prompt": "a star", "num_steps": STEPS, "guidance_scale": 4.0, "control": units, **changes})
    return list(sample(model, options))


def pixels(events) -> np.ndarray:
    return np.asarray(events[-1].images[0], np.float32)


# --- what a unit is ------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "words"), [
    ({"scale": 2.1}, "from 0 to 2"), ({"scale": float("nan")}, "from 0 to 2"), ({"start": 0.6, "end": 0.5}, "start before it ends"),
    ({"end": 1.5}, "from 0 to 1"), ({"mode": "strong"}, "mode must be one of"), ({"resize": "tile"}, "resize must be one of"),
    ({"blocks": (3.0,)}, "weight of a block"), ({"blocks": [1.0]}, "a weight for each residual"), ({"map": "picture.png"}, "map must be a picture"),
    ({"muted": 1}, "muted must be true or false"),
])
def test_a_unit_refuses_nonsense_in_a_sentence(values, words):
    with pytest.raises(InvalidOption, match=words):
        ControlUnit(**values)


def test_a_run_follows_at_most_three_units_and_nothing_but_units():
    for control, words in (((ControlUnit(),) * 4, "at most 3"), ([ControlUnit()], "tuple of ControlUnit")):
        with pytest.raises(InvalidOption, match=words):
            SampleOptions(model="toybox-sd", control=control)


@pytest.mark.parametrize(("start", "end", "steps"), [(0.0, 1.0, range(20)), (0.1, 0.6, range(2, 12)), (0.3, 0.9, range(3, 9)), (0.01, 0.04, range(1, 1))])
def test_the_window_of_a_unit_in_steps(start, end, steps):
    # Step i of N is inside where start <= i/N and (i+1)/N <= end.
    count = 10 if end == 0.9 else 20
    assert list(controlled_steps(ControlUnit(start=start, end=end), count)) == list(steps)


# --- how units travel ----------------------------------------------------------------------------------------

def everything(maps) -> tuple[ControlUnit, ...]:
    mask = Image.fromarray(np.eye(16, dtype=np.uint8) * 255).convert("RGB")
    grey = maps[1].convert("L").convert("RGB")
    first = ControlUnit(
        net="some/net", map=maps[0], annotator="canny", scale=0.3, start=0.1, end=0.7, mode="prompt", blocks=(0.0, 0.5, 2.0), mask=mask, resize="stretch",
    )
    return first, ControlUnit(net="other", map=grey, muted=True), ControlUnit()


def test_units_come_back_exactly_from_json_png_and_run_files(model, maps, tiny_net, tmp_path):
    options = SampleOptions(model=model.name, control=everything(maps))
    assert SampleOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert read_options(save_png(maps[0], tmp_path / "one.png", options)) == options
    kept = run(model, ControlUnit(net=tiny_net, map=maps[0], scale=0.5, mask=maps[1].convert("L").convert("RGB")))[-1].trajectory
    opened = Trajectory.load(kept.save(tmp_path / "run.safetensors"))
    assert opened.options == kept.options and opened.id == kept.id
    assert torch.equal(opened.stream("residual_sizes"), kept.stream("residual_sizes"))


@pytest.mark.parametrize("damaged", [{"control": "x"}, {"control": [3]}, {"control": [{"map": "x"}]}, {"control": [{"map": "data:image/png;base64,AAAA"}]},
                                     {"control": [{"blocks": 3}]}, {"control": [{"unknown": 1}]}, {"control": [{}] * 9}])
def test_damaged_units_in_a_file_are_refused_in_a_sentence(damaged):
    with pytest.raises(ValueError, match=r"\.$"):
        SampleOptions.from_dict({"model": "toybox-sd", **damaged})


def test_a_map_travels_without_loss(maps):
    for picture in (maps[0], maps[0].convert("L").convert("RGB")):
        assert np.array_equal(np.asarray(map_from_text(map_to_text(picture))), np.asarray(picture))


# --- maps are brought to size --------------------------------------------------------------------------------

def lines(width: int, height: int) -> Image.Image:
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 2] = pixels[:, width // 4] = 255
    return Image.fromarray(pixels).convert("RGB")


@pytest.mark.parametrize("resize", ["crop", "fit", "stretch"])
def test_binary_maps_stay_binary_and_keep_thin_lines_in_every_size(resize):
    small = np.asarray(aligned(lines(200, 120), 64, 64, resize))
    assert small.shape == (64, 64, 3) and set(np.unique(small)) == {0, 255}
    # The upright line is seen, but for where the crop leaves it out: 50 of 200 lies 10 within the middle 120.
    assert small[..., 0].max(axis=0).min() == 255 or resize != "stretch"
    assert (small[..., 0] == 255).sum() > 60
    assert kind_of_map(aligned(lines(20, 12), 64, 64, resize)) == "binary"


def test_a_map_of_the_right_size_is_left_alone_and_labels_keep_their_colours(maps):
    assert np.array_equal(np.asarray(aligned(maps[0], 32, 32, "crop")), np.asarray(maps[0]))
    labels = Image.fromarray(np.random.default_rng(0).choice(np.array([[0, 0, 0], [200, 10, 10], [0, 90, 250]], np.uint8), (50, 40)))
    assert set(map(tuple, np.asarray(aligned(labels, 64, 64, "fit")).reshape(-1, 3))) == {(0, 0, 0), (200, 10, 10), (0, 90, 250)}


def test_black_lines_on_white_are_seen_as_inverted():
    from PIL import ImageOps

    assert looks_inverted(ImageOps.invert(lines(40, 40))) and not looks_inverted(lines(40, 40))


# --- what units do to a run ----------------------------------------------------------------------------------

def test_a_fresh_controlnet_changes_nothing_to_the_last_bit(model, tiny_sd, maps, tmp_path):
    from diffusers import ControlNetModel, UNet2DConditionModel

    net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(tiny_sd, subfolder="unet"), conditioning_embedding_out_channels=(16, 32, 64))
    net.save_pretrained(tmp_path / "fresh")
    one, other = run(model, ControlUnit(net=str(tmp_path / "fresh"), map=maps[0])), run(model)
    assert torch.equal(one[-1].trajectory.x_final, other[-1].trajectory.x_final)


def test_the_sizes_of_residuals_are_kept_for_every_step_and_block(model, tiny_net, maps):
    unit = ControlUnit(net=tiny_net, map=maps[0], start=0.2, end=0.8, blocks=(0.0, 1.0, 1.0, 1.0, 2.0))
    count = load_controlnet(tiny_net).num_blocks
    assert count == 5
    events = run(model, unit, dataclasses.replace(unit, blocks=(), mode="prompt"))
    sizes = events[-1].trajectory.stream("residual_sizes")
    assert sizes.shape == (STEPS, 1, 2, count)
    acted = sizes[:, 0].amax(dim=-1) > 0
    assert acted.tolist() == [[0 < i < 4] * 2 for i in range(STEPS)]
    # Its own weights, and those of the mode: a tenth at the first, all of it in the middle.
    sizes = sizes.float().numpy()
    assert sizes[1, 0, 0, 0] == 0 and sizes[1, 0, 0, 4] == pytest.approx(2 * sizes[1, 0, 1, 4], rel=2e-3)
    assert sizes[1, 0, 1, 1] == pytest.approx(10**-0.75 * sizes[1, 0, 0, 1], rel=2e-3)
    assert events[0].residual_sizes is None and events[1].residual_sizes is not None


def test_a_net_outside_its_window_is_not_asked(model, tiny_net, maps, monkeypatch):
    net = load_controlnet(tiny_net, model.device)
    asked = []
    monkeypatch.setattr(net.network, "forward", lambda *args, forward=net.network.forward, **told: asked.append(float(args[1])) or forward(*args, **told))
    options = SampleOptions(model=model.name, num_steps=10, control=(ControlUnit(net=tiny_net, map=maps[0], start=0.3, end=0.6),))
    steps = list(sample(model, options, get_net=lambda name: net))[:-1]
    assert asked == [step.timestep for step in steps[3:6]]


def test_a_run_that_was_made_ready_draws_the_same_by_graphs(tiny_sd, tiny_net, maps):
    model, net = load_model(tiny_sd), load_controlnet(tiny_net)
    units = (ControlUnit(net=tiny_net, map=maps[0], end=0.6), ControlUnit(net=tiny_net, map=maps[1], mode="control", scale=0.5))
    options = SampleOptions(model=model.name, prompt="a star", num_steps=STEPS, guidance_scale=4.0, guidance_end=0.8, control=units)
    plain = list(sample(model, options, get_net=lambda name: net))[-1].trajectory
    make_ready(model, options, lambda name: net)
    # Of the UNet: alone and guided, with and without residuals; of the net: for all pictures, and for those with the prompt.
    assert len(model.traced._graphs) == 4 and len(net.traced._graphs) == 2
    ready = list(sample(model, options, get_net=lambda name: net))[-1].trajectory
    assert torch.allclose(ready.x_final, plain.x_final, atol=1e-4)
    assert torch.allclose(ready.stream("residual_sizes").float(), plain.stream("residual_sizes").float(), atol=1e-2)


def test_a_muted_unit_and_one_of_scale_0_do_nothing(model, tiny_net, maps):
    plain = pixels(run(model))
    assert np.array_equal(pixels(run(model, ControlUnit(net=tiny_net, map=maps[0], muted=True))), plain)
    assert np.array_equal(pixels(run(model, ControlUnit(net=tiny_net, map=maps[0], scale=0.0))), plain)


def test_a_mask_keeps_control_to_its_region(model, tiny_net, maps):
    pixels_of_mask = np.zeros((32, 32), np.uint8)
    pixels_of_mask[:, 16:] = 255
    first = {"num_steps": 1, "guidance_scale": 1.0}
    plain, free = run(model, **first)[0].x0_hat, run(model, ControlUnit(net=tiny_net, map=maps[0]), **first)[0].x0_hat
    half = run(model, ControlUnit(net=tiny_net, map=maps[0], mask=Image.fromarray(pixels_of_mask)), **first)[0].x0_hat
    moved = (half - plain).abs().mean(dim=(0, 1, 2))
    # The UNet carries a little across the border.
    assert moved[-2:].mean() > 2 * moved[:2].mean() > 0
    nothing = run(model, ControlUnit(net=tiny_net, map=maps[0], mask=Image.new("L", (32, 32))), **first)[0].x0_hat
    assert torch.equal(nothing, plain) and not torch.equal(free, half)


def test_a_seed_gives_the_same_controlled_picture_alone_and_in_a_batch(model, tiny_net, maps):
    for mode in ("balanced", "control"):
        unit = ControlUnit(net=tiny_net, map=maps[0], mode=mode)
        both = run(model, unit, num_images=2)[-1].trajectory.x_final
        assert torch.allclose(both[1:], run(model, unit, seed=1)[-1].trajectory.x_final, atol=1e-4)


def test_a_fork_goes_on_with_its_units_and_may_change_them(model, tiny_net, maps):
    unit = ControlUnit(net=tiny_net, map=maps[0], start=0.4)
    kept = run(model, unit)[-1].trajectory
    again = list(resume(model, kept, 2))[-1].trajectory
    assert torch.allclose(again.x_final, kept.x_final, atol=2e-3)
    other = list(resume(model, kept, 2, control=()))[-1].trajectory
    assert not torch.allclose(other.x_final, kept.x_final, atol=2e-2)


def test_what_is_not_in_the_mask_stays_and_a_fork_and_a_file_know_it(model, tiny_net, maps, tmp_path):
    pixels_of_mask = np.zeros((32, 32), np.uint8)
    pixels_of_mask[:, 16:] = 255
    start = {"init_image": maps[1], "init_mask": Image.fromarray(pixels_of_mask)}
    kept = run(model, ControlUnit(net=tiny_net, map=maps[0]), num_images=2, **start)[-1].trajectory
    whole = model.encode(torch.from_numpy(np.array(maps[1])).movedim(-1, 0)[None] / 127.5 - 1, [torch.Generator().manual_seed(0)])
    moved = (kept.x_final[:1] - whole).abs()
    assert moved[..., :4].max() < 1e-5 and moved[..., 4:].max() > 0.1
    again = list(resume(model, Trajectory.load(kept.save(tmp_path / "run.safetensors")), 2))[-1].trajectory
    assert torch.allclose(again.x_final, kept.x_final, atol=2e-3)
    black = Image.new("L", (32, 32))
    for wrong, words in (({"init_image": None}, "give the picture"), ({"init_mask": black}, "something white"), ({"init_mask": 3}, "must be")):
        with pytest.raises(InvalidOption, match=words):
            SampleOptions(**{"model": model.name, **start, **wrong})


# --- what a run refuses --------------------------------------------------------------------------------------

def test_what_does_not_fit_is_refused_before_the_first_step(model, tiny_net, xl_net, tiny_sdxl, tiny_model, maps, tmp_path):
    whole = ControlUnit(net=tiny_net, map=maps[0])
    cases = [
        (model, ControlUnit(net=tiny_net), InvalidOption, "Unit 1 has no map"), (model, ControlUnit(map=maps[0]), InvalidOption, "Unit 1 has no ControlNet"),
        (model, dataclasses.replace(whole, map=Image.new("RGB", (32, 32), "white")), InvalidOption, "map of unit 1 is of one colour"),
        (model, dataclasses.replace(whole, blocks=(1.0, 1.0)), InvalidOption, "has 5 blocks"),
        (model, dataclasses.replace(whole, net=xl_net), ModelUnavailable, "does not fit"),
        (load_model(tiny_sdxl), whole, ModelUnavailable, "does not fit"), (load_model(tiny_model), whole, ModelUnavailable, "takes no ControlNet"),
        (model, dataclasses.replace(whole, net=model.name), ModelUnavailable, "ControlNetModel"),
        (model, dataclasses.replace(whole, net="nowhere"), UnknownName, "There is no ControlNet named"),
        (model, dataclasses.replace(whole, net="nobody/nothing"), ModelUnavailable, "could not be fetched"),
    ]
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing of the kind")
    cases.append((model, dataclasses.replace(whole, net=str(broken)), ModelUnavailable, "no ControlNet in the original layout"))
    for one, unit, kind, words in cases:
        with pytest.raises(kind, match=words):
            next(iter(sample(one, SampleOptions(model=one.name, num_steps=2, control=(unit,)))))


def test_a_single_file_is_read_with_the_configuration_beside_it(model, tiny_net, maps, tmp_path):
    import shutil
    from pathlib import Path

    file = tmp_path / "net.safetensors"
    shutil.copy(Path(tiny_net) / "diffusion_pytorch_model.safetensors", file)
    shutil.copytree(tiny_net, tmp_path / "net")
    one, other = (run(model, ControlUnit(net=str(net), map=maps[0])) for net in (file, tiny_net))
    assert np.array_equal(pixels(one), pixels(other))


def test_colours_in_another_order_are_turned_round(tiny_sd, maps, tmp_path):
    rgb = load_controlnet(save_tiny_controlnet(tmp_path / "rgb", tiny_sd))
    bgr = load_controlnet(save_tiny_controlnet(tmp_path / "bgr", tiny_sd, controlnet_conditioning_channel_order="bgr"))
    one = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rgb.hint(one), bgr.hint(one.flip(1))) and not torch.equal(rgb.hint(one), bgr.hint(one))


# diffusers' names of parts, and those of the original layout, for a net of one layer a block.
ORIGINAL = (
    (r"^time_embedding\.linear_1", "time_embed.0"), (r"^time_embedding\.linear_2", "time_embed.2"), (r"^conv_in", "input_blocks.0.0"),
    (r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0"), (r"^controlnet_cond_embedding\.conv_out", "input_hint_block.14"),
    (r"^controlnet_cond_embedding\.blocks\.(\d)", lambda found: f"input_hint_block.{2 * int(found[1]) + 2}"),
    (r"^down_blocks\.(\d)\.resnets\.0", lambda found: f"input_blocks.{1 + 2 * int(found[1])}.0"),
    (r"^down_blocks\.(\d)\.attentions\.0", lambda found: f"input_blocks.{1 + 2 * int(found[1])}.1"),
    (r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda found: f"input_blocks.{2 + 2 * int(found[1])}.0.op"),
    (r"^mid_block\.resnets\.(\d)", lambda found: f"middle_block.{2 * int(found[1])}"), (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^controlnet_down_blocks\.(\d)", r"zero_convs.\1.0"), (r"^controlnet_mid_block", "middle_block_out.0"),
    (r"\bnorm1\b(?=.*)", "in_layers.0"), (r"\bconv1\b", "in_layers.2"), (r"\bnorm2\b", "out_layers.0"), (r"\bconv2\b", "out_layers.3"),
    (r"\btime_emb_proj\b", "emb_layers.1"), (r"\bconv_shortcut\b", "skip_connection"),
)


def original_name(name: str) -> str:
    """The original name of a weight; norms within a transformer keep theirs."""
    import re

    for pattern, into in ORIGINAL[: 13 if "transformer_blocks" in name else None]:
        name = re.sub(pattern, into, name)
    return f"control_model.{name}"


def test_a_single_file_in_the_original_layout_steers_like_the_folder_that_it_was_made_of(model, tiny_net, maps, tmp_path):
    import shutil
    from pathlib import Path

    from safetensors.torch import load_file, save_file

    weights = load_file(Path(tiny_net) / "diffusion_pytorch_model.safetensors")
    renamed = {original_name(name): weight for name, weight in weights.items()}
    assert len(renamed) == len(weights) and not set(renamed) & set(weights)
    save_file(renamed, tmp_path / "original.safetensors")
    shutil.copytree(tiny_net, tmp_path / "original", ignore=shutil.ignore_patterns("*.safetensors"))
    one, other = (run(model, ControlUnit(net=str(net), map=maps[0])) for net in (tmp_path / "original.safetensors", tiny_net))
    assert np.array_equal(pixels(one), pixels(other))
