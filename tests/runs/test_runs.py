"""Runs as processes: started, followed, stopped, resumed, queued, killed. The trainer is the pixel one on eight-pixel digits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from studio.errors import InvalidOption, UnknownName
from studio.runs import Runs, queue, read_events
from studio.runs.folder import write_state
from studio.runs.processes import is_alive, process_start
from tests.copies import Copy

SMALL = {
    "data": "digits", "resolution": 8, "widths": "16,32", "attention_from": 5, "batch_size": 8, "checkpoint_every": 10, "sample_every": 0,
    "tensorboard": False,
}


def wait_for(condition, seconds: float = 120.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return value


@pytest.fixture
def runs(tmp_path):
    made = Runs(tmp_path / "runs")
    yield made
    for view in made.list():
        if view.pid and is_alive(view.pid):
            os.kill(view.pid, signal.SIGKILL)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.fixture
def whole(tmp_path):
    """The folder of the run that the others are compared with: trained here, with nothing between its steps."""
    from trainers.ddpm import DDPMOptions, train

    list(train(DDPMOptions(**SMALL, steps=60, output=str(tmp_path / "whole")), progress=False))
    return tmp_path / "whole"


# One story, since each start of a process loads torch anew: that of the one that is killed does, the others are copies.
def test_runs_outlive_the_studio_that_started_them_queue_fail_stop_and_resume_and_a_killed_one_ends_in_the_very_same_weights(runs, whole, monkeypatch):
    monkeypatch.setattr(queue, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Copy}))
    starter = f"from studio.runs import Runs; Runs({str(runs.root)!r}).start('ddpm', {{**{SMALL!r}, 'steps': 60}}, name='killed')"
    subprocess.run([sys.executable, "-c", starter], check=True)
    nowhere = str(runs.root / "nothing" / "gone")
    second = runs.start("ddpm", {**SMALL, "steps": 50, "data": nowhere}, name="second")
    third = runs.start("ddpm", {**SMALL, "steps": 60}, name="third")
    assert (second.state, third.state) == ("waiting", "waiting")
    assert [runs.position(name)[0] for name in ("second", "third")] == [1, 2]
    assert runs.stop("third").state == "stopped" and runs.read("second").state == "waiting"

    # The process that started it is gone; it goes on.
    view = wait_for(lambda: (now := runs.read("killed")).saved >= 10 and now)
    assert view.state == "running" and is_alive(view.pid)
    os.kill(view.pid, signal.SIGKILL)
    view = wait_for(lambda: (now := runs.read("killed")).state == "interrupted" and now)
    assert 10 <= view.saved < 60 and "Resume" in view.message

    failed = wait_for(lambda: (now := runs.read("second")).state == "failed" and now)
    assert nowhere in failed.message and failed.log_tail
    assert "python -m trainers.ddpm --config" in failed.command

    # Asked before its first step, it stops after that one.
    assert runs.resume("killed").state == "starting" and runs.stop("killed").stopping
    stopped = wait_for(lambda: (now := runs.read("killed")).state == "stopped" and now)
    assert view.saved < stopped.saved == stopped.step < 60 and f"Stopped after step {stopped.step} of 60" in stopped.message

    runs.resume("killed")
    wait_for(lambda: runs.read("killed").state == "finished")
    assert weights(runs.read("killed").path) == weights(whole)
    events, _ = read_events(runs.read("killed").path)
    assert [event["step"] for event in events] == list(range(60))

    runs.delete("killed")
    assert not stopped.path.exists()
    with pytest.raises(UnknownName):
        runs.read("killed")


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/x", ".hidden", "a b", "x" * 65])
def test_names_that_are_no_names_are_refused(runs, name):
    with pytest.raises(InvalidOption, match="letters, digits"):
        runs.start("ddpm", SMALL, name=name)
    assert not runs.root.exists() or not [path for path in runs.root.iterdir() if path.is_dir()]


@pytest.mark.parametrize(("trainer", "options", "error"), [
    ("painter", {}, "painter"), ("ddpm", {"colour": 1}, "colour"), ("ddpm", {"steps": 0}, "steps"), ("ddpm", {"lr": 1e3}, "lr"),
])
def test_what_cannot_run_is_refused_before_a_folder_is_made(runs, trainer, options, error):
    with pytest.raises((InvalidOption, UnknownName), match=error):
        runs.start(trainer, options, name="new")
    assert not (runs.root / "new").exists()


def test_a_process_number_given_to_another_process_is_not_taken_for_the_run(tmp_path):
    me = os.getpid()
    assert is_alive(me, process_start(me)) and not is_alive(me, process_start(me) - 1) and not is_alive(None)


def test_half_written_files_are_read_as_far_as_they_go(tmp_path):
    (tmp_path / "events.jsonl").write_text(json.dumps({"step": 0, "loss": 1.0}) + "\n" + '{"step": 1, "lo')
    events, offset = read_events(tmp_path)
    assert [event["step"] for event in events] == [0]
    with open(tmp_path / "events.jsonl", "a") as file:
        file.write('ss": 2.0}\n')
    assert [event["step"] for event in read_events(tmp_path, offset)[0]] == [1]
    write_state(tmp_path, state="waiting")
    assert json.loads((tmp_path / "state.json").read_text()) == {"state": "waiting"} and list(Path(tmp_path).glob("*.tmp")) == []
