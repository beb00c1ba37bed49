"""Checkpoints that were damaged: found out before they are trusted, the newest good one taken, both named."""

import json
import shutil
from contextlib import closing

import pytest

from studio.errors import DamagedFile
from studio.manifest import MANIFEST, verify_manifest, write_manifest
from studio.runs.checkpoints import list_checkpoints, newest_good, verify
from studio.runs.folder import read_run
from trainers import ddpm
from trainers.ddpm import DDPMOptions
from trainers.program import run_program
from trainers.run_folder import RunFolder

SMALL = {
    "data": "digits", "resolution": 8, "widths": "16,32", "attention_from": 5, "batch_size": 8, "steps": 6, "checkpoint_every": 2, "keep_checkpoints": 5,
    "sample_every": 0, "tensorboard": False,
}


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's own Ctrl-C stays


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that was cut off after its fifth step: checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("trained") / "cut"
    with closing(ddpm.train(DDPMOptions(**SMALL, output=str(folder)), progress=False)) as steps:
        for _ in range(5):
            next(steps)
    assert [path.name for path in list_checkpoints(folder)] == ["step-000001", "step-000003"]
    return folder


@pytest.fixture
def cut(trained, tmp_path):
    """A copy of that run."""
    return shutil.copytree(trained, tmp_path / "cut")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights that the same run ends with when nothing comes between."""
    folder = tmp_path_factory.mktemp("whole")
    list(ddpm.train(DDPMOptions(**SMALL, output=str(folder)), progress=False))
    return weights(folder)


def weights(folder):
    return (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()


def resume(folder):
    options = [part for name, value in SMALL.items() if name != "tensorboard" for part in (f"--{name.replace('_', '-')}", str(value))]
    run_program(DDPMOptions, ddpm.train, [*options, "--no-tensorboard", "--output", str(folder)], description="")


def flip(path, at=-40):
    """One bit of the file, its length as it was."""
    text = bytearray(path.read_bytes())
    text[at] ^= 1
    path.write_bytes(bytes(text))


DAMAGES = {
    "a bit of the weights": (lambda path: flip(path / "network.safetensors"), "network.safetensors is not what was written"),
    "a bit of the optimiser": (lambda path: flip(path / "optimizer.safetensors"), "optimizer.safetensors is not what was written"),
    "averages cut short": (lambda path: (path / "ema.safetensors").write_bytes((path / "ema.safetensors").read_bytes()[:-100]), "ema.safetensors is missing"),
    "no optimiser": (lambda path: (path / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
    "facts of another kind": (lambda path: (path / "facts.json").write_text("[]"), "facts.json is missing, or not as long"),
    "no facts": (lambda path: (path / "facts.json").unlink(), "facts.json is missing"),
    "a manifest that is none": (lambda path: (path / MANIFEST).write_text("[]"), "manifest.json holds no object"),
    "an empty manifest": (lambda path: (path / MANIFEST).write_text("{}"), "manifest.json: files is missing"),
    "a manifest of other files": (lambda path: (path / MANIFEST).write_text('{"files": {}}'), "manifest.json does not name network.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_good_checkpoint_is_taken_and_the_sentence_names_both(cut, whole, damage):
    spoil, words = DAMAGES[damage]
    spoil(cut / "checkpoints" / "step-000003")
    resume(cut)
    view = read_run(cut)
    assert view.state == "finished" and f"The checkpoint of step 4 ({words}" in view.message
    assert "is damaged; that of step 2, the newest good one, was taken instead." in view.message
    assert weights(cut) == whole
    # Taken again and kept anew; the damaged one has a name under which nobody takes it.
    assert [path.name for path in view.checkpoints] == ["step-000001", "step-000003", "step-000005"]
    assert all(verify(path) for path in view.checkpoints) and (cut / "checkpoints" / "step-000003.damaged").is_dir()


def test_where_no_checkpoint_is_good_the_run_says_so_and_does_not_begin_anew(cut):
    for path in list_checkpoints(cut):
        flip(path / "network.safetensors")
    with pytest.raises(SystemExit):
        resume(cut)
    view = read_run(cut)
    assert view.state == "failed" and view.message.startswith("The checkpoints of step 4 (network.safetensors is not what was written")
    assert "step 2 (network" in view.message and "there is no other to go on from" in view.message and "intact" not in view.message
    assert not (cut / "model").exists() and len(view.checkpoints) == 2


def test_a_failure_calls_no_damaged_checkpoint_intact(cut, monkeypatch):
    def damages(self, step, *args):
        flip(self.checkpoints / "step-000003" / "network.safetensors")
        raise KeyError("a bug")

    monkeypatch.setattr(RunFolder, "save_checkpoint", damages)
    with pytest.raises(SystemExit):
        resume(cut)
    assert "The checkpoint of step 2 is intact" in read_run(cut).message


def test_checkpoints_of_an_earlier_version_are_judged_by_their_own_headers(cut):
    newest = list_checkpoints(cut)[-1]
    (newest / MANIFEST).unlink()
    assert newest_good(cut).good == newest and not newest_good(cut).said
    (newest / "ema.safetensors").write_bytes((newest / "ema.safetensors").read_bytes()[:-1])
    choice = newest_good(cut)
    assert choice.good == list_checkpoints(cut)[0] and "ema.safetensors is missing, damaged or cut short" in choice.said


def test_a_checkpoint_under_the_name_of_another_is_none(cut):
    older, newest = list_checkpoints(cut)
    newest.rename(cut / "checkpoints" / "step-000099")
    assert "facts.json is that of step 4" in newest_good(cut).said and newest_good(cut).good == older


def test_a_manifest_knows_every_file_and_every_bit_of_it(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1000))
    (tmp_path / "b.json").write_text("{}")
    write_manifest(tmp_path)
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == {"a.bin", "b.json"}
    verify_manifest(tmp_path)
    flip(tmp_path / "a.bin", at=500)
    with pytest.raises(DamagedFile, match="a.bin is not what was written"):
        verify_manifest(tmp_path)
