"""Runs that go wrong half-way: failed, in a sentence, with the last checkpoint intact, and resumed once the cause is gone."""

import errno
import math

import pytest
import torch

from studio.runs.folder import read_run
from trainers import ddpm
from trainers.ddpm import DDPMOptions
from trainers.program import run_program
from trainers.run_folder import RunFolder

SMALL = "--data digits --resolution 8 --widths 16,32 --attention-from 5 --batch-size 8 --steps 6 --checkpoint-every 2 --sample-every 0 --no-tensorboard"


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's own Ctrl-C stays


def run(folder):
    run_program(DDPMOptions, ddpm.train, [*SMALL.split(), "--output", str(folder)], description="")


def weights(folder):
    return (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


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


def test_a_disk_so_full_that_the_failure_cannot_be_written_still_ends_the_program(tmp_path, monkeypatch):
    def full(*_, **changes):
        if changes.get("state") == "failed":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainers.program.write_state", full)
    monkeypatch.setattr(RunFolder, "save_checkpoint", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SystemExit):
        run(tmp_path / "run")
