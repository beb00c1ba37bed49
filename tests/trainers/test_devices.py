"""A run on several devices: two processes on the CPU, which talk to each other as those of several GPUs do."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio.runs.folder import read_run, write_config
from studio.runs.processes import environment, launcher
from studio.runs.trainers.dreambooth import DreamBoothOptions
from studio.toybox.subject import example_pictures
from tests.tiny_sd import save_tiny_sd

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
WITHIN_S = 120


@pytest.fixture
def options(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(example_pictures()[:3]):
        picture.save(pictures / f"{i}.png")
    return DreamBoothOptions(
        base=save_tiny_sd(tmp_path / "tiny"), instances=str(pictures), output=str(tmp_path / "run"), resolution=32, batch_size=4, num_class_images=4,
        class_steps=2, class_images=str(tmp_path / "class"), validation_steps=2, validation_samples=1, sample_every=3, checkpoint_every=3, steps=100_000,
        tensorboard=False,
    )


@pytest.fixture
def start():
    """Starts a run of two processes; none of them outlives the test."""
    started = []

    def start(options) -> subprocess.Popen:
        started.append(_start(options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _start(options) -> subprocess.Popen:
    folder = Path(options.output)
    folder.mkdir(exist_ok=True)
    write_config(folder, options)
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [*TWO, "-m", "trainers.dreambooth", "--config", str(folder / "options.toml")], stdout=log, stderr=log, env={**environment(), **own},
            start_new_session=True,
        )


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "events.jsonl").read_text().splitlines() if (folder / "events.jsonl").exists() else []
    return [event["step"] for event in map(json.loads, lines) if "step" in event]


def test_two_processes_stop_together_resume_and_finish_as_one_run(options, start):
    folder = Path(options.output)
    process = start(options)
    end = time.monotonic() + WITHIN_S
    while len(steps_of(folder)) < 5 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    (folder / "stop").touch()
    assert process.wait(WITHIN_S) == 0, (folder / "log.txt").read_text()[-2000:]
    view = read_run(folder)
    stopped = int(re.match(r"Stopped after step (\d+) of", view.message)[1])
    assert view.state == "stopped" and stopped >= 5 and steps_of(folder) == list(range(stopped))
    assert len(list(Path(options.class_images).glob("*.png"))) == options.num_class_images

    assert start(replace(options, steps=stopped + 2)).wait(WITHIN_S) == 0
    assert read_run(folder).state == "finished" and steps_of(folder) == list(range(stopped + 2))
    assert (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_batch_that_two_cannot_share_is_refused_in_a_sentence(options, start):
    assert start(replace(options, batch_size=3, prior_weight=0.0, sample_every=0)).wait(WITHIN_S) != 0
    view = read_run(Path(options.output))
    assert view.state == "failed" and view.message.startswith("A batch of 3 cannot be shared evenly by 2 devices")


@pytest.mark.parametrize(("devices", "batch_size", "processes"), [(0, 8, 1), (1, 8, 1), (4, 8, 4), (4, 6, 3), (2, 1, 1), (8, 4, 4)])
def test_a_run_takes_as_many_devices_as_share_its_batch_evenly(monkeypatch, devices, batch_size, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    command = launcher(batch_size)
    assert command[0] == sys.executable and os.path.exists(command[0])
    assert command[1:] == ([] if processes == 1 else ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)])
