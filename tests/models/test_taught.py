"""What a run taught, loaded by the studio: LoRAs and checkpoints, on a tiny random pipeline."""

import json
from pathlib import Path

import pytest
import torch

from studio import SampleOptions, Studio
from studio.errors import ModelUnavailable
from studio.models import load_model
from studio.models.loading import estimated_gib
from studio.models.taught import base_of
from studio.toybox.subject import example_pictures
from trainers.dreambooth import DreamBoothOptions, train


def train_run(tiny_sd, folder: Path, **changes) -> Path:
    pictures = folder / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(example_pictures()[:2]):
        picture.save(pictures / f"{i}.png")
    options = DreamBoothOptions(
        base=tiny_sd, instances=str(pictures), output=str(folder / "run"), resolution=32, steps=4, batch_size=2, prior_weight=0.0, sample_every=0,
        checkpoint_every=2, lr=5e-3, tensorboard=False, **changes,
    )
    list(train(options, progress=False))
    return folder / "run"


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_model(name, torch.device("cpu")).network.state_dict()


def far(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert set(a) == set(b)
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize(("changes", "rounding"), [({"method": "lora", "rank": 4, "alpha": 8.0}, 1e-6), ({"method": "full", "ema_decay": 0.9}, 2e-3)])
def test_the_last_checkpoint_is_the_result_and_the_one_before_lies_between(tiny_sd, tmp_path, changes, rounding):
    run = train_run(tiny_sd, tmp_path, **changes)
    base, result = weights(tiny_sd), weights(str(run / "model"))
    halfway, last = (weights(str(run / "checkpoints" / f"step-{step:06d}")) for step in (1, 3))
    assert far(base, result) > 1e-3 and far(base, halfway) > 1e-3 and far(halfway, last) > 1e-3
    # A whole pipeline is saved in half precision.
    assert far(last, result) < rounding
    checkpoint = run / "checkpoints" / "step-000003"
    assert base_of(str(checkpoint)) == tiny_sd
    assert estimated_gib(str(checkpoint)) == estimated_gib(tiny_sd)
    text = bytearray((checkpoint / "ema.safetensors").read_bytes() or (checkpoint / "network.safetensors").read_bytes())
    text[-3] ^= 1
    (checkpoint / "ema.safetensors").write_bytes(bytes(text))
    with pytest.raises(ModelUnavailable, match="ema.safetensors is not what was written"):
        load_model(str(checkpoint), torch.device("cpu"))


def test_a_lora_draws_through_the_studio_as_its_base_does(tiny_sd, tmp_path):
    run = train_run(tiny_sd, tmp_path, method="lora")
    options = SampleOptions(model=str(run / "model"), prompt="a sks cat", num_steps=2, guidance_scale=2.0)
    *_, finished = Studio().sample(options)
    assert finished.images[0].size == (32, 32)


def test_a_damaged_lora_is_refused_in_a_sentence(tiny_sd, tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"not weights")
    (tmp_path / "studio.json").write_text(json.dumps({"kind": "lora", "base": tiny_sd}))
    with pytest.raises(ModelUnavailable, match="does not fit its base model, or is damaged"):
        load_model(str(tmp_path))
