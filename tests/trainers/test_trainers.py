"""The pixel trainer, in a few steps on small data: what it keeps, that it resumes exactly, that it learns."""

import json
from contextlib import nullcontext
from dataclasses import replace

import accelerate
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from studio import SampleOptions, Studio
from studio.errors import InvalidOption, UnknownName
from studio.process.diffusion import LOSS_TYPES, MEAN_TYPES, VAR_TYPES
from trainers.data import batch_indices, digit_split, load_pictures
from trainers.ddpm import DDPMOptions, DDPMTask, make_diffusion, train
from trainers.loop import min_snr_weights

SMALL = {"resolution": 8, "widths": "16,32", "attention_from": 5, "batch_size": 8, "warmup": 2, "checkpoint_every": 2, "sample_every": 0}


def options(folder, **changes) -> DDPMOptions:
    return DDPMOptions(**{**SMALL, "output": str(folder), "steps": 4, **changes})


def finish(folder, **changes) -> list:
    return list(train(options(folder, **changes), progress=False))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_run_folder_holds_what_happened_and_a_model_that_the_studio_samples(tmp_path):
    logs = finish(tmp_path, sample_every=4)
    assert [log.step for log in logs] == [0, 1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3] and len(lines[0]["quartiles"]) == 4
    assert json.loads((tmp_path / "config.json").read_text())["widths"] == "16,32"
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000001", "step-000003"]
    assert Image.open(tmp_path / "samples" / "step-000004.png").size == (10 * 8 + 9 * 2, 4 * 8 + 3 * 2)
    *_, finished = Studio().sample(SampleOptions(model=str(tmp_path / "model"), class_label="7", num_steps=2))
    assert finished.images[0].size == (8, 8)


def test_plain_diffusers_loads_the_result(tmp_path):
    from diffusers import DDPMPipeline

    finish(tmp_path, steps=1)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.unet.config.num_class_embeds == 11 and pipeline.scheduler.config.beta_schedule == "squaredcos_cap_v2"


def test_a_network_whose_features_are_scaled_by_time_is_loaded_as_such(tmp_path):
    from diffusers import DDPMPipeline

    finish(tmp_path, time_scales=True, mean_type="sample", min_snr_gamma=5.0, min_snr_offset=1.0)
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.unet.config.resnet_time_scale_shift == "scale_shift" and pipeline.scheduler.config.prediction_type == "sample"
    *_, finished = Studio().sample(SampleOptions(model=str(tmp_path / "model"), class_label="7", num_steps=2))
    assert torch.isfinite(finished.trajectory.x_final).all()


def test_an_offset_keeps_the_weight_of_the_noisiest_steps():
    snr = torch.tensor([0.0, 0.5, 5.0, 100.0])
    assert min_snr_weights("sample", snr, 5.0, 1.0).tolist() == [1.0, 1.5, 6.0, 6.0]
    assert min_snr_weights("sample", snr, 5.0).tolist() == [0.0, 0.5, 5.0, 5.0]


def test_a_resumed_run_ends_in_the_very_same_weights(tmp_path):
    finish(tmp_path / "whole", steps=6)
    stopped = train(options(tmp_path / "stopped", steps=6), progress=False)
    for _ in range(5):  # the last checkpoint is that of step 3; step 4 was taken and is lost
        next(stopped)
    stopped.close()
    assert [log.step for log in finish(tmp_path / "stopped", steps=6)] == [4, 5]
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "events.jsonl").read_text().splitlines()]
    assert steps == list(range(6))


def test_steps_that_overflow_in_fp16_are_left_out_and_the_scale_goes_on_where_it_was(tmp_path, monkeypatch):
    class Scaling(accelerate.Accelerator):
        """As with fp16 on a GPU: gradients are scaled, and the scale at first is far too large. The arithmetic stays float32."""

        mixed_precision = "fp16"

        def __init__(self, **_):
            super().__init__(cpu=True)
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=2.0**127)

        def autocast(self):
            return nullcontext()

    real = DDPMTask.losses
    monkeypatch.setattr(DDPMTask, "losses", lambda *args: replace(losses := real(*args), descend=8 * losses.descend))  # that they overflow
    plain = finish(tmp_path / "plain", steps=8)
    monkeypatch.setattr(accelerate, "Accelerator", Scaling)
    logs = finish(tmp_path / "whole", steps=8)
    left_out = [log.step for log in logs if log.grad_norm is None]
    assert left_out == list(range(len(left_out))) and 0 < len(left_out) < 8
    assert logs[len(left_out)].grad_norm == pytest.approx(plain[0].grad_norm, rel=0.5)
    facts = json.loads((tmp_path / "whole" / "checkpoints" / "step-000007" / "facts.json").read_text())
    assert facts["scaler"]["scale"] == 2.0 ** (127 - len(left_out))

    cut = train(options(tmp_path / "cut", steps=8), progress=False)
    for _ in range(5):
        next(cut)
    cut.close()
    finish(tmp_path / "cut", steps=8)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


# Every two of them meet once; what all three make together is tried in tests/process.
SQUARE = [(mean, var, LOSS_TYPES[(i + j) % len(LOSS_TYPES)]) for i, mean in enumerate(MEAN_TYPES) for j, var in enumerate(VAR_TYPES)]


@pytest.mark.parametrize(("mean_type", "var_type", "loss_type"), SQUARE)
def test_every_parameterisation_and_loss_takes_steps(tmp_path, mean_type, var_type, loss_type):
    logs = finish(tmp_path, steps=1, mean_type=mean_type, var_type=var_type, loss_type=loss_type)
    assert np.isfinite(logs[0].loss) and logs[0].grad_norm > 0


def test_the_loss_falls(tmp_path):
    logs = finish(tmp_path, steps=40, lr=5e-3, mean_type="v_prediction", checkpoint_every=100)
    first, last = (np.mean([log.loss for log in part]) for part in (logs[:5], logs[-5:]))
    assert last < 0.7 * first


def test_min_snr_weighs_the_error_of_x0_the_same_for_every_target():
    t = torch.tensor([10, 500, 990])
    snr = torch.tensor([make_diffusion(DDPMOptions(schedule="linear")).coefficient("snr", int(i)) for i in t])
    weight = {kind: min_snr_weights(kind, snr, 5.0) for kind in ("sample", "epsilon", "v_prediction")}
    # An error d of x0 is an error d sqrt(SNR) of eps and d sqrt(SNR + 1) of v, so the weights times those agree.
    torch.testing.assert_close(weight["epsilon"] * snr, weight["sample"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight["v_prediction"] * (snr + 1), weight["sample"], rtol=1e-4, atol=1e-6)
    # With an offset of 1 the noisiest steps weigh as in plain v-prediction.
    assert min_snr_weights("v_prediction", snr, 5.0, 1.0)[1:].tolist() == pytest.approx([1, 1])


def test_batches_follow_the_step_alone_and_cover_every_picture_once_an_epoch():
    whole = batch_indices(10, 4, seed=1)
    batches = [next(whole) for _ in range(5)]
    assert sorted(torch.cat(batches).tolist()) == sorted([*range(10)] * 2)
    resumed = batch_indices(10, 4, seed=1, start=3)
    assert torch.equal(next(resumed), batches[3])


def test_a_folder_is_read_with_aspect_kept_and_folders_as_classes(tmp_path):
    for name, colour in (("cats", (255, 0, 0)), ("dogs", (0, 0, 255))):
        (tmp_path / name).mkdir()
        wide = Image.new("RGB", (40, 20), (0, 255, 0))
        wide.paste(colour, (10, 0, 30, 20))  # the centre that a crop to a square must keep
        wide.save(tmp_path / name / "wide.png")
    pictures = load_pictures(str(tmp_path), 8)
    assert pictures.class_names == ("cats", "dogs") and pictures.pixels.shape == (2, 3, 8, 8)
    middle = pictures.pixels[0, :, 4, 1:-1].float()
    assert (middle[0] > 250).all() and (middle[1:] < 5).all()
    # Shrinking a fine checkerboard must give grey, not some of its squares.
    board = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))
    folder = tmp_path / "fine"
    folder.mkdir()
    board.save(folder / "board.png")
    grey = load_pictures(str(folder), 8, channels=1).pixels.float()
    assert grey.std() < 3 and abs(grey.mean() - 127.5) < 3


def test_the_digits_are_split_once_and_for_all():
    train_part, held_out = digit_split(16)
    assert (len(train_part), len(held_out)) == (1437, 360)
    seen = {tuple(row.flatten().tolist()) for row in train_part.pixels}
    assert sum(tuple(row.flatten().tolist()) in seen for row in held_out.pixels) <= 1  # the data itself may hold a double


NONSENSE = [
    {"steps": 0}, {"lr": 0.0}, {"lr": 1e3}, {"label_drop": 2.0}, {"min_snr_offset": -1.0},
    {"widths": "10,20"}, {"widths": "wide"}, {"resolution": 15}, {"batch_size": -1},
]


@pytest.mark.parametrize("changes", NONSENSE)
def test_nonsense_is_refused_before_anything_starts(tmp_path, changes):
    with pytest.raises(InvalidOption):
        options(tmp_path, **changes)


def test_data_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UnknownName, match="neither digits, toybox"):
        load_pictures("no-such-folder-or-dataset", 8)
    with pytest.raises(InvalidOption, match="no pictures"):
        load_pictures(str(tmp_path), 8)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InvalidOption, match="text.png"):
        load_pictures(str(tmp_path), 8)


def test_an_optimiser_is_put_back_in_the_layout_of_its_weights():
    from trainers.run_folder import pack_optimizer, unpack_optimizer

    def made():
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
        return layer, torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def step(layer, optimizer, seed):
        layer(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, kept = made()
    step(whole, kept, 1)
    resumed, other = made()
    resumed.load_state_dict(whole.state_dict())
    unpack_optimizer(other, {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in pack_optimizer(kept).items()})
    assert other.state[resumed.weight]["exp_avg"].stride() == resumed.weight.stride() != (36, 9, 3, 1)
    step(whole, kept, 2)
    step(resumed, other, 2)
    assert torch.equal(whole.weight, resumed.weight) and torch.equal(whole.bias, resumed.bias)
