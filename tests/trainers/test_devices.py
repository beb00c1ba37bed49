"""A run on several devices: two processes on the CPU, which talk to each other as those of several GPUs do."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studio.runs.folder import read_run, read_state, write_config, write_state
from studio.runs.processes import environment, launcher, process_start
from studio.runs.trainers.dreambooth import DreamBoothOptions
from studio.toybox.subject import example_pictures
from tests.copies import copies
from tests.tiny_sd import save_tiny_sd
from trainers import dreambooth, program

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


class Together:
    """The processes of one run, as torch's launcher starts them: they meet at a store that this process holds."""

    def __init__(self, options):
        self.folder = prepared(options)
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes = [copies().Process(target=take_part, args=(self.folder, rank, self.store.port)) for rank in range(2)]
        for process in self.processes:
            process.start()

    @property
    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def ended_well(self) -> bool:
        """Wait for the end of all of them."""
        for process in self.processes:
            process.join(WITHIN_S)
        return [process.exitcode for process in self.processes] == [0, 0]

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def take_part(folder: Path, rank: int, port: int) -> None:
    """The program of the trainer, in one process of two."""
    from trainers.dreambooth import main

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True", CUDA_VISIBLE_DEVICES="",
    )
    with open(folder / "log.txt", "ab") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    main(["--config", str(folder / "options.toml")])


def prepared(options) -> Path:
    """The folder of a run with its options in it."""
    folder = Path(options.output)
    folder.mkdir(exist_ok=True)
    write_config(folder, options)
    return folder


@pytest.fixture
def start():
    """Starts a run of two processes; none of them outlives the test."""
    started = []

    def start(options) -> Together:
        started.append(Together(options))
        return started[-1]

    yield start
    for run in started:
        run.kill()


def steps_of(folder: Path) -> list[int]:
    lines = (folder / "events.jsonl").read_text().splitlines() if (folder / "events.jsonl").exists() else []
    return [event["step"] for event in map(json.loads, lines) if "step" in event]


def test_two_processes_stop_together_resume_and_finish_as_one_run(options, start):
    folder = Path(options.output)
    run = start(options)
    end = time.monotonic() + WITHIN_S
    while len(steps_of(folder)) < 5 and run.running and time.monotonic() < end:
        time.sleep(0.05)
    (folder / "stop").touch()
    assert run.ended_well(), (folder / "log.txt").read_text()[-2000:]
    view = read_run(folder)
    stopped = int(re.match(r"Stopped after step (\d+) of", view.message)[1])
    assert view.state == "stopped" and stopped >= 5 and steps_of(folder) == list(range(stopped))
    assert len(list(Path(options.class_images).glob("*.png"))) == options.num_class_images

    assert start(replace(options, steps=stopped + 2)).ended_well(), (folder / "log.txt").read_text()[-2000:]
    assert read_run(folder).state == "finished" and steps_of(folder) == list(range(stopped + 2))
    assert (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_batch_that_two_cannot_share_is_refused_in_a_sentence_by_the_program_that_a_launcher_starts(options):
    folder = prepared(replace(options, batch_size=3, prior_weight=0.0, sample_every=0))
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "trainers.dreambooth"]
    environment_of_two = {**environment(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([*two, "--config", str(folder / "options.toml")], env=environment_of_two, capture_output=True, timeout=WITHIN_S)
    view = read_run(folder)
    assert ended.returncode != 0 and view.state == "failed" and view.message.startswith("A batch of 3 cannot be shared evenly by 2 devices")


def test_a_process_beside_the_main_one_does_not_end_before_it_is_said_why(options, monkeypatch):
    """A launcher ends all processes when the first has ended, and which one is first is chance."""
    folder, began = prepared(replace(options, batch_size=3)), time.time()
    write_state(folder, state="failed", message="of an earlier start", started=1.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def end() -> None:
        with pytest.raises(SystemExit):
            dreambooth.main(["--config", str(folder / "options.toml")])

    monkeypatch.setattr(program, "SAYS_WITHIN_S", 0.2)
    end()
    assert read_run(folder).message.startswith("A batch of 3 cannot be shared evenly by 2 devices")
    write_state(folder, state="running", message="", pid=os.getpid(), process_start=process_start(os.getpid()), started=began)
    monkeypatch.setattr(program, "SAYS_WITHIN_S", WITHIN_S)
    looks = threading.Semaphore(0)
    monkeypatch.setattr(program, "read_state", lambda path: (looks.release(), read_state(path))[1])
    beside = threading.Thread(target=end)
    beside.start()
    assert all(looks.acquire(timeout=WITHIN_S) for _ in range(3)), "it looks again and again, and ends with none of these looks"
    write_state(folder, state="failed", message="said by the main process")
    beside.join(WITHIN_S)
    assert not beside.is_alive() and read_run(folder).message == "said by the main process"


def test_what_a_process_beside_it_has_said_stays_when_the_main_one_finds_it_gone(options, monkeypatch):
    folder = prepared(options)

    def gone(train, options) -> None:
        assert read_state(folder).state == "running"
        write_state(folder, state="failed", message="The memory is not enough.")
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(program, "_take_all_steps", gone)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit):
            dreambooth.main(["--config", str(folder / "options.toml")])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert (read_run(folder).state, read_run(folder).message) == ("failed", "The memory is not enough.")


@pytest.mark.parametrize(("devices", "batch_size", "processes"), [(0, 8, 1), (1, 8, 1), (4, 8, 4), (4, 6, 3), (2, 1, 1), (8, 4, 4)])
def test_a_run_takes_as_many_devices_as_share_its_batch_evenly(monkeypatch, devices, batch_size, processes):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    command = launcher(batch_size)
    assert command[0] == sys.executable and os.path.exists(command[0])
    assert command[1:] == ([] if processes == 1 else ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)])
