"""Run files: what is saved comes back, and what is not a run file is refused in a sentence."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from studio import SampleOptions, Studio
from studio.errors import BadRunFile, TooLarge
from studio.sampling.steps import StepDone
from studio.sampling.streams import ALWAYS
from studio.sampling.trajectory import Recorder, Trajectory
from tests.hostile.files import hostile_runs, run_file


@pytest.fixture(scope="module")
def trajectory(tiny_model):
    *_, finished = Studio().sample(SampleOptions(model=tiny_model, scheduler="ddpm", num_steps=4, num_images=2, class_label="a", seed=3))
    return finished.trajectory


def test_a_run_file_gives_back_the_run(trajectory, tmp_path):
    back = Trajectory.load(trajectory.save(tmp_path / "run.safetensors"))
    assert back.options == trajectory.options and list(back.steps) == list(trajectory.steps) and back.complete
    for name in (*ALWAYS, "x_final"):
        assert torch.equal(getattr(back, name), getattr(trajectory, name))


def test_zero_snr_survives_the_file(tiny_model_folder, tmp_path):
    model = tiny_model_folder(schedule="flow", mean_type="v_prediction")
    *_, finished = Studio().sample(SampleOptions(model=model, num_steps=3))
    back = Trajectory.load(finished.trajectory.save(tmp_path / "run.safetensors"))
    assert back.steps[0].sigma == float("inf") and back.steps[0].log_snr == float("-inf")


def rewritten(trajectory, tmp_path, **changes):
    """The run file with some metadata changed."""
    path = trajectory.save(tmp_path / "run.safetensors")
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in (*ALWAYS, "x_final")}
    save_file(tensors, path, metadata={**metadata, **changes})
    return path


def test_a_file_cut_short_is_refused(trajectory, tmp_path):
    path = trajectory.save(tmp_path / "run.safetensors")
    for keep in (0, 5, 200, path.stat().st_size - 10):
        cut = tmp_path / f"cut-{keep}.safetensors"
        cut.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(BadRunFile, match="Save it again"):
            Trajectory.load(cut)


def test_another_version_is_refused_by_its_number(trajectory, tmp_path):
    with pytest.raises(BadRunFile, match="version 7"):
        Trajectory.load(rewritten(trajectory, tmp_path, version="7"))


def test_other_peoples_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadRunFile, match="not a run of the studio"):
        Trajectory.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [{"options": "{"}, {"options": json.dumps({"eta": 7})}, {"options": json.dumps({"wings": 2})}, {"steps": "[]"}, {"steps": "[{}]"},
     {"steps": "3"}, {"options": "[1]"}],
)
def test_damaged_metadata_is_refused_in_a_sentence(trajectory, tmp_path, changes):
    with pytest.raises(BadRunFile, match="Save it again"):
        Trajectory.load(rewritten(trajectory, tmp_path, **changes))


@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (1, 2, 4, 4), (1, 5, 4, 4), (1, 3, 0, 4), (0, 3, 4, 4)])
def test_a_run_file_without_pictures_or_of_no_colours_is_refused(tmp_path, shape):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(run_file(shape=(1, *shape)))
    with pytest.raises(BadRunFile, match="damaged"):
        Trajectory.load(path)


def test_a_run_file_of_whole_numbers_is_refused(tmp_path):
    path = tmp_path / "whole.safetensors"
    path.write_bytes(run_file(dtype="I16"))
    with pytest.raises(BadRunFile, match="damaged"):
        Trajectory.load(path)


SOUND = {
    "good", "nan", "infinite", "one-pixel", "line", "many", "final-pixels", "beliefs", "options-path", "options-script", "options-size",
    "model-none", "model-kind", "model-channels",
}


@pytest.mark.parametrize("name", hostile_runs())
def test_a_run_file_of_which_any_part_does_not_fit_is_refused_in_a_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(hostile_runs()[name])
    if path.stem in SOUND:
        assert len(Trajectory.load(path).steps) == 1
    else:
        with pytest.raises(BadRunFile, match=r"\.$"):
            Trajectory.load(path)


def test_a_public_studio_opens_no_run_larger_than_it_draws(tmp_path):
    path = tmp_path / "line.safetensors"
    path.write_bytes(hostile_runs()["line.safetensors"])
    assert Studio().load_run(path).x_final.shape[-1] == 60_000
    with pytest.raises(TooLarge, match="at most 128 x 128"):
        Studio(public=True).load_run(path)


# --- recording -----------------------------------------------------------------------------------------------

def recorded(taken, num_steps=8, guided=()):
    """A recorder of `taken` steps, those in `guided` with what guidance adds; every number of a step is its index."""
    recorder = Recorder(SampleOptions(num_steps=num_steps), {})
    for index in range(taken):
        x = torch.full((1, 3, 2, 2), float(index))
        parts = {"x0_cond": x + 100, "clip_gradient": x + 200} if index in guided else {}
        recorder.add(StepDone(index=index, num_steps=num_steps, timestep=1.0, sigma=1.0, log_snr=0.0, x_t=x, x0_hat=x, eps_hat=x, parts=parts))
    return recorder


def test_the_streams_of_a_run_are_not_there_twice():
    recorder = recorded(8)
    first, second = (recorder.trajectory(torch.zeros(1, 3, 2, 2)) for _ in range(2))
    for name in first.streams:
        assert first.stream(name).data_ptr() == second.stream(name).data_ptr()
    assert first.rests["x_t"].data_ptr() == second.rests["x_t"].data_ptr()


@pytest.mark.parametrize("taken", [1, 3, 7, 8])
def test_a_run_that_was_stopped_holds_the_steps_that_were_taken(taken, tmp_path):
    run = recorded(taken).trajectory(torch.zeros(1, 3, 2, 2))
    assert run.x_t[:, 0, 0, 0, 0].tolist() == [*range(taken)] and run.complete == (taken == 8)
    # No more than twice of what was taken is held for it.
    assert run.x_t.untyped_storage().nbytes() < 2 * run.x_t.nbytes or taken == 8
    assert torch.equal(Trajectory.load(run.save(tmp_path / "run.safetensors")).x_t, run.x_t)


def test_streams_of_some_steps_alone_are_filled_before_and_after_them():
    run = recorded(5, 5, guided=(1, 3)).trajectory(torch.zeros(1, 3, 2, 2))
    assert run.stream("x0_cond")[:, 0, 0, 0, 0].tolist() == [0, 101, 2, 103, 4]
    assert run.stream("clip_gradient")[:, 0, 0, 0, 0].tolist() == [0, 201, 0, 203, 0]
