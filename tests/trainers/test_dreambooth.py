"""Teaching a subject, on a tiny random pipeline: what is trained, what comes out, what is refused before anything begins."""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio.errors import InvalidOption
from studio.models.activations import kept_for_backward
from studio.runs.folder import read_run, write_state
from studio.runs.trainers.dreambooth import METHODS, DreamBoothOptions, check
from studio.runs.trainers.presets import PRESETS
from studio.toybox.subject import example_pictures
from tests.tiny_sd import save_tiny_sd
from trainers.dreambooth import (
    DreamBoothTask,
    draw,
    ensure_class_images,
    load_parts,
    make_network,
    prompt_inputs,
    train,
)
from trainers.estimate import _forward, drawing_calls, estimate
from trainers.program import run_program
from trainers.run_folder import RunFolder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_sd(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(example_pictures()[:3]):
        picture.save(folder / f"{i}.png")
    return folder


def options(base, pictures, **changes) -> DreamBoothOptions:
    small = {
        "base": str(base), "instances": str(pictures), "output": str(pictures.parent / "run"), "resolution": 32, "steps": 3, "batch_size": 2,
        "num_class_images": 4, "class_steps": 2, "validation_steps": 2, "sample_every": 0, "checkpoint_every": 2, "lr": 1e-3, "tensorboard": False,
        "class_images": str(pictures.parent / "class"),
    }
    return DreamBoothOptions(**{**small, **changes})


def latents_for(pipeline) -> torch.Tensor:
    return torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))


def picture_of(pipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a sks cat", latents=latents_for(pipeline), height=32, width=32, num_inference_steps=3, output_type="np").images[0]


def plain(folder):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)


@pytest.fixture
def own_precision():
    """accelerate knows one precision a process; a run has a process of its own, a test has not."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.mark.parametrize("method", METHODS)
def test_the_result_of_every_method_loads_in_plain_diffusers_and_changes_the_picture(base, pictures, method):
    asked = options(base, pictures, method=method, steps=4, lr=5e-3)
    logs = list(train(asked, progress=False))
    assert [log.step for log in logs] == [0, 1, 2, 3] and set(logs[0].extra) == {"instance", "prior"} and logs[0].grad_norm > 0
    model = Path(asked.output) / "model"
    pipeline = plain(base)
    before = picture_of(pipeline)
    if method == "lora":
        pipeline.load_lora_weights(str(model))
        assert {path.name for path in model.iterdir()} == {"pytorch_lora_weights.safetensors", "studio.json"}
    else:
        pipeline = plain(model)
        same = all(torch.equal(a.half(), b.half()) for a, b in zip(plain(base).text_encoder.parameters(), pipeline.text_encoder.parameters()))
        assert same == (method == "full")
    assert np.abs(picture_of(pipeline) - before).max() > 0.01
    assert json.loads((model / "studio.json").read_text())["base"] == str(base)


def test_lora_takes_convolutions_as_well_and_is_counted(base, pictures):
    from peft.utils import get_peft_model_state_dict

    asked = options(base, pictures, method="lora", targets="to_q, conv1,time_emb_proj", steps=2, lr=5e-3)
    list(train(asked, progress=False))
    weights = load_file(Path(asked.output) / "model" / "pytorch_lora_weights.safetensors")
    assert {name.split(".lora")[0].rsplit(".", 1)[1] for name in weights} == {"to_q", "conv1", "time_emb_proj"}
    assert estimate(asked).trained_parameters == sum(weight.numel() for weight in weights.values())
    pipeline = plain(base)
    pipeline.load_lora_weights(str(Path(asked.output) / "model"))
    loaded = get_peft_model_state_dict(pipeline.unet, adapter_name=pipeline.get_list_adapters()["unet"][0])
    assert {f"unet.{name}" for name in loaded} == set(weights) and all(torch.equal(tensor, weights[f"unet.{name}"]) for name, tensor in loaded.items())


# bitsandbytes has no wheel for every system.
EIGHT_BIT = [{"method": "full", "adam_8bit": True}] if sys.platform == "linux" else []


@pytest.mark.parametrize("changes", [
    {"method": "lora"}, {"method": "full", "ema_decay": 0.9}, {"method": "full_text", "cache": False, "crop": "random", "flip": True},
    *EIGHT_BIT, {"method": "lora", "mixed_precision": "bf16", "gradient_checkpointing": True},
])
def test_a_run_that_was_cut_off_ends_in_the_very_same_weights(base, pictures, changes, own_precision, monkeypatch):
    if changes.get("adam_8bit"):
        # It is installed apart from the packages, so that not every process imports it.
        monkeypatch.syspath_prepend(str(Path(sys.prefix) / "apart"))
    whole, cut = (options(base, pictures, output=str(pictures.parent / name), steps=5, **changes) for name in ("whole", "cut"))
    list(train(whole, progress=False))
    stopped = train(cut, progress=False)
    for _ in range(3):
        next(stopped)
    stopped.close()
    assert [log.step for log in train(cut, progress=False)] == [2, 3, 4]
    for ours in (Path(whole.output) / "model").rglob("*.safetensors"):
        theirs = Path(cut.output) / "model" / ours.relative_to(Path(whole.output) / "model")
        a, b = load_file(ours), load_file(theirs)
        assert all(torch.equal(a[name], b[name]) for name in a)
    (newest,) = sorted((Path(cut.output) / "checkpoints").iterdir())[-1:]
    kept = {value.dtype for value in load_file(newest / "optimizer.safetensors").values()}
    assert (torch.uint8 in kept) == changes.get("adam_8bit", False)


def test_the_loss_is_that_of_two_halves_and_min_snr_weighs_both(base, pictures):
    from trainers.dreambooth import DreamBoothTask

    def parts(**changes):
        task = DreamBoothTask(options(base, pictures, **changes))
        losses = task.losses(task.network, torch.arange(2), torch.Generator().manual_seed(7), torch.device("cpu"))
        return losses.descend.item(), losses.each

    both, each = parts(prior_weight=1.0)
    half, _ = parts(prior_weight=0.5)
    assert both == pytest.approx(each[:2].mean().item() + each[2:].mean().item(), rel=1e-5)
    assert half == pytest.approx(each[:2].mean().item() + 0.5 * each[2:].mean().item(), rel=1e-5)
    alone, each = parts(prior_weight=0.0)
    assert len(each) == 2 and alone == pytest.approx(each.mean().item(), rel=1e-5)
    assert parts(prior_weight=1.0, min_snr_gamma=1e-3)[0] < both
    assert parts(prior_weight=1.0, offset_noise=0.5)[0] != pytest.approx(both)


def test_cached_latents_and_prompts_give_the_losses_that_encoding_each_time_gives(base, pictures):
    asked = [options(base, pictures, output=str(pictures.parent / str(cache)), cache=cache) for cache in (True, False)]
    losses = [[log.loss for log in train(each, progress=False)] for each in asked]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_only_the_missing_class_pictures_are_drawn_and_kept_under_their_hash(base, pictures):
    parts = load_parts(str(base))
    first = ensure_class_images(options(base, pictures, num_class_images=3), parts)
    stamps = {path: path.stat().st_mtime_ns for path in first}
    more = ensure_class_images(options(base, pictures, num_class_images=5), parts)
    assert len(more) == 5 and more[:3] == first and all(path.stat().st_mtime_ns == stamps[path] for path in first)
    assert len({path.stem.split("-")[1] for path in more}) == 5
    assert ensure_class_images(options(base, pictures, num_class_images=2), parts) == first[:2]


def test_class_pictures_are_the_same_however_often_their_drawing_was_cut_off(base, pictures, tmp_path):
    parts, wanted = load_parts(str(base)), 11
    whole = ensure_class_images(options(base, pictures, class_images=str(tmp_path / "whole"), num_class_images=wanted), parts)
    for count in (1, 5, 8, wanted):
        cut = ensure_class_images(options(base, pictures, class_images=str(tmp_path / "cut"), num_class_images=count), parts)
    assert [path.name for path in cut] == [path.name for path in whole] and len(whole) == wanted


def test_class_pictures_take_the_variations_in_turn_and_training_says_them(base, pictures):
    asked = options(base, pictures, class_prompt="a cat", class_variations="on a red background | on a blue background", num_class_images=7)
    assert asked.class_prompts == ["a cat", "a cat on a red background", "a cat on a blue background"]
    assert options(base, pictures, class_images="").class_folder != replace(asked, class_images="").class_folder
    task = DreamBoothTask(asked)
    prompts = [asked.class_prompts[i % 3] for i in range(8)]
    drawn = draw(load_parts(str(base)), prompts, list(range(8)), resolution=32, num_steps=2, guidance_scale=4.0)
    for i, (kept, said) in enumerate(zip(task.sources[1].pictures, task.sources[1].prompts)):
        assert said == asked.class_prompts[i % 3] and np.array_equal(np.asarray(kept), np.asarray(drawn[i]))
    text = task._texts(["a cat on a blue background", "a sks cat"])
    assert torch.equal(text[1], task.text[0]) and torch.equal(text[0], task.text[1 + 2]) and len(task.text) == 4


def test_validation_shows_before_and_after_at_the_same_seeds(base, pictures):
    asked = options(base, pictures, sample_every=3, validation_prompts="a sks cat|a cat")
    list(train(asked, progress=False))
    (sheet,) = (Path(asked.output) / "samples").glob("*.png")
    assert Image.open(sheet).size == (8 * 32 + 4, 2 * 32)
    again = draw(load_parts(str(base)), ["a cat"], [5], resolution=32, num_steps=2, guidance_scale=2.0)
    assert np.array_equal(np.asarray(again[0]), np.asarray(draw(load_parts(str(base)), ["a cat"], [5], resolution=32, num_steps=2, guidance_scale=2.0)[0]))


def test_the_estimate_counts_what_is_trained(base, pictures):
    whole, low_rank = (estimate(options(base, pictures, method=method)) for method in ("full", "lora"))
    assert 0 < low_rank.trained_parameters < whole.trained_parameters and low_rank.memory_gib < whole.memory_gib and whole.seconds > 0


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}, {"method": "full_text"}, {"mixed_precision": "bf16"}], ids=str)
def test_what_a_forward_pass_keeps_is_counted_without_computing_it(base, pictures, changes):
    asked = options(base, pictures, **changes)
    parts = load_parts(str(base))
    network = make_network(parts, asked)
    x_t, text = torch.zeros(3, 4, 8, 8), prompt_inputs(parts, asked, ["a"] * 3)
    forward = partial(_forward, network, x_t, text, asked.mixed_precision)
    held = {}

    def keep(kept):
        if not kept.is_leaf:
            held[kept.untyped_storage().data_ptr()] = kept
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        forward()
    # Some kernels keep small things of their own in half precision.
    close = 0.002 if asked.mixed_precision != "no" else 0
    assert kept_for_backward(network, forward) == pytest.approx(sum(kept.untyped_storage().nbytes() for kept in held.values()), rel=close)
    assert 0 < kept_for_backward(network, forward, checkpointing=True) < kept_for_backward(network, forward)


def test_the_estimate_counts_every_pass_of_drawing(base, pictures):
    asked = options(base, pictures, num_class_images=5, class_steps=2, class_guidance=4.0, sample_every=2, steps=4, validation_steps=3, validation_guidance=1.0,
                    validation_prompts="a sks cat|a cat")
    sheets, seeds, prompts = 3, 4, 2  # before, after step 2, after step 4
    assert drawing_calls(asked) == 5 * 2 * 2 + sheets * seeds * prompts * 3
    ensure_class_images(asked, load_parts(str(base)))
    assert drawing_calls(asked) == sheets * seeds * prompts * 3
    assert drawing_calls(options(base, pictures, prior_weight=0.0)) == 0


def test_a_stop_before_the_first_step_keeps_what_was_drawn(base, pictures, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's own Ctrl-C stays
    asked = options(base, pictures)
    folder = RunFolder(asked.output)
    write_state(folder.path, state="starting")
    (folder.path / "stop").touch()
    arguments = [part for name in ("base", "instances", "output", "class_images") for part in (f"--{name.replace('_', '-')}", getattr(asked, name))]
    run_program(DreamBoothOptions, train, [*arguments, "--resolution", "32", "--steps", "3", "--sample-every", "0"], description="")
    view = read_run(folder.path)
    assert view.state == "stopped" and view.step == 0 and "before the first step" in view.message and not view.stopping
    # A stop that was there before anyone started the run is none: it belongs to an earlier one.
    (folder.path / "stop").touch()
    run_program(DreamBoothOptions, train, [*arguments, "--resolution", "32", "--steps", "2", "--sample-every", "0", "--num-class-images", "2"], description="")
    assert read_run(folder.path).state == "finished"


NONSENSE = [
    ({"instance_prompt": "a cat"}, "token"), ({"class_prompt": "a sks cat"}, "without the token"), ({"rank": 0}, "rank"), ({"lr": 1e3}, "lr"),
    ({"steps": 0}, "steps"), ({"resolution": 33}, "resolution"), ({"alpha": 0.0}, "alpha"), ({"prior_weight": -1.0}, "prior_weight"),
]


@pytest.mark.parametrize(("changes", "word"), NONSENSE)
def test_nonsense_is_refused_in_a_sentence(base, pictures, changes, word):
    with pytest.raises(InvalidOption, match=word):
        options(base, pictures, **changes)


def test_pictures_that_will_not_do_are_refused_before_anything_begins(base, pictures, tmp_path):
    (pictures / "broken.png").write_text("no picture")
    with pytest.raises(InvalidOption, match="broken.png"):
        check(options(base, pictures))
    for path in list(pictures.iterdir())[1:]:
        path.unlink()
    next(pictures.iterdir()).rename(pictures / "only.png")
    example_pictures()[0].save(pictures / "only.png")
    with pytest.raises(InvalidOption, match="One picture"):
        check(options(base, pictures))
    (pictures / "only.png").unlink()
    with pytest.raises(InvalidOption, match="no pictures"):
        check(options(base, pictures))
    with pytest.raises(InvalidOption, match="does not exist"):
        check(options(base, tmp_path / "nowhere"))


def test_a_class_folder_that_cannot_be_written_is_refused(base, pictures, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(InvalidOption, match="cannot be written"):
        check(options(base, pictures, class_images=str(blocker / "class")))
    assert os.path.exists(blocker)


@pytest.mark.parametrize("targets", ["nothing", "to_q,norm1", ""])
def test_targets_that_lora_cannot_take_are_refused(base, pictures, targets):
    with pytest.raises(InvalidOption, match="the usual targets are to_q"):
        estimate(options(base, pictures, method="lora", targets=targets))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_options(preset):
    assert DreamBoothOptions(**preset.options).steps > 0
