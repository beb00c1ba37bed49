"""Runs that go wrong half-way: failed, in a sentence, with the last checkpoint intact, and resumed once the cause is gone."""

import errno
import math
import resource
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image

from studio.files import read_object
from studio.runs.folder import read_run, write_state
from trainers import ddpm
from trainers.ddpm import DDPMOptions
from trainers.program import run_program
from trainers.run_folder import RunFolder, save_whole

SMALL = "--data digits --resolution 8 --widths 16,32 --attention-from 5 --batch-size 8 --steps 6 --checkpoint-every 2 --sample-every 0 --no-tensorboard"


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's own Ctrl-C stays


def run(folder, *further):
    run_program(DDPMOptions, ddpm.train, [*SMALL.split(), "--output", str(folder), *further], description="")


def weights(folder):
    return (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


ROOM = 20_000


@contextmanager
def no_room():
    """No file grows beyond ROOM bytes meanwhile: what writes fails as on a full disk, in its own words."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_there_is_no_room_for_a_checkpoint_nothing_of_it_stays_and_the_sentence_says_so(tmp_path, monkeypatch):
    real = RunFolder.save_checkpoint

    def without_room_at_the_second(self, step, *args):
        with no_room() if step == 3 else nullcontext():
            return real(self, step, *args)

    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "save_checkpoint", without_room_at_the_second)
        with pytest.raises(SystemExit):
            run(tmp_path / "run")
    view = read_run(tmp_path / "run")
    assert view.state == "failed" and view.message.startswith("The disk is full") and "The checkpoint of step 2 is intact" in view.message
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000001"]


def test_half_a_picture_is_never_kept(tmp_path):
    noise = Image.effect_noise((256, 256), 100)
    with no_room(), pytest.raises(OSError, match="File too large"):
        save_whole(noise, tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())
    save_whole(noise, tmp_path / "sheet.png")
    assert Image.open(tmp_path / "sheet.png").tobytes() == noise.tobytes()


def test_a_sheet_that_a_kill_has_taken_is_drawn_when_the_run_goes_on(tmp_path, monkeypatch):
    every_second = ["--sample-every", "2"]
    run(tmp_path / "whole", *every_second)

    def killed(picture, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("trainers.loop.save_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", *every_second)
    assert not list((tmp_path / "run" / "samples").iterdir())
    run(tmp_path / "run", *every_second)
    sheets = {path.name: path.read_bytes() for path in (tmp_path / "run" / "samples").iterdir()}
    assert sheets == {path.name: path.read_bytes() for path in (tmp_path / "whole" / "samples").iterdir()} and len(sheets) == 3


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
    (MemoryError(), "The memory is not enough"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "The memory is not enough"),
    (FileNotFoundError(errno.ENOENT, "No such file", "pictures/7.png"), "pictures/7.png is gone"),
    (KeyError("a bug"), "The run failed: KeyError"),
])
def test_a_failure_is_a_sentence_and_the_run_goes_on_from_the_last_checkpoint(tmp_path, monkeypatch, error, said):
    real = RunFolder.save_checkpoint

    def fails_at_the_second(self, step, *args):
        if step == 3:
            (self.checkpoints / "step-000003.tmp").mkdir()  # what a failure while writing leaves behind
            raise error
        return real(self, step, *args)

    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "save_checkpoint", fails_at_the_second)
        with pytest.raises(SystemExit) as end:
            run(tmp_path / "run")
    view = read_run(tmp_path / "run")
    assert end.value.code == 1 and view.state == "failed" and said in view.message and "The checkpoint of step 2 is intact" in view.message
    assert [path.name for path in view.checkpoints] == ["step-000001"]
    run(tmp_path / "run")
    run(tmp_path / "whole")
    assert read_run(tmp_path / "run").state == "finished" and weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(tmp_path, monkeypatch):
    real = ddpm.DDPMTask.losses

    def lost(self, network, indices, generator, device):
        losses = real(self, network, indices, generator, device)
        return ddpm.Losses(descend=losses.descend * math.nan, each=losses.each * math.nan, t_share=losses.t_share)

    run_options = [*SMALL.split(), "--output", str(tmp_path / "run"), "--lr", "0.5"]
    monkeypatch.setattr(ddpm.DDPMTask, "losses", lost)
    with pytest.raises(SystemExit):
        run_program(DDPMOptions, ddpm.train, run_options, description="")
    view = read_run(tmp_path / "run")
    assert view.state == "failed" and "no longer a number at step 1" in view.message and "lower learning rate than 0.5" in view.message
    assert not view.checkpoints and not (tmp_path / "run" / "model").exists()


def test_the_word_that_the_disk_is_full_takes_the_place_of_the_last_word(tmp_path, monkeypatch):
    write_state(tmp_path, state="running", message="a longer message than the next, of which nothing stays", pid=1)

    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    write_state(tmp_path, state="failed", message="full")
    assert read_object(tmp_path / "state.json") == {"state": "failed", "message": "full", "pid": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    with pytest.raises(OSError, match="No space left"):
        write_state(tmp_path / "new", state="failed")


@pytest.mark.parametrize(("line", "words"), [('lr = 7.0', "lr"), ('colour = "red"', "colour"), ("steps = = 5", "not TOML")])
def test_options_that_the_trainer_refuses_at_its_start_are_told_where_the_run_is_looked_at(tmp_path, line, words):
    (tmp_path / "options.toml").write_text(f'output = "{tmp_path}"\n{line}\n')
    for state, then in (("starting", "failed"), ("finished", "finished")):
        write_state(tmp_path, state=state, message="")
        with pytest.raises(SystemExit, match=words) as end:
            run_program(DDPMOptions, ddpm.train, ["--config", str(tmp_path / "options.toml")], description="")
        view = read_run(tmp_path)
        assert view.state == then and (words in view.message) == (then == "failed") and "Traceback" not in str(end.value)


def test_a_log_that_is_full_ends_the_run_in_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    path.write_text("." * ROOM)
    with open(path, "a", buffering=1) as log, no_room():
        monkeypatch.setattr(sys, "stderr", log)
        with pytest.raises(SystemExit):
            run(tmp_path / "run")
        monkeypatch.undo()
    view = read_run(tmp_path / "run")
    assert view.state == "failed" and view.message.startswith("The disk is full")
    assert path.stat().st_size >= ROOM


def test_a_disk_so_full_that_the_failure_cannot_be_written_still_ends_the_program(tmp_path, monkeypatch):
    def full(*_, **changes):
        if changes.get("state") == "failed":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainers.program.write_state", full)
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit):
        run(tmp_path / "run")
