"""Forks: going on from a step with nothing changed is the run itself, for every scheduler, and forks say where they come from."""

import pytest
import torch

from studio import SampleOptions, Studio
from studio.process.schedulers import SCHEDULERS
from studio.sampling.trajectory import Trajectory

# What half precision of the record costs, in latents of deviation 1.
BOUND = 1e-3


@pytest.fixture(scope="module")
def studio():
    return Studio()


def drawn(events):
    return list(events)[-1].trajectory


def whole(studio, **changes):
    return drawn(studio.sample(SampleOptions(**{
        "model": "toybox-sd", "prompt": "a red heart on a white background", "guidance_scale": 4.0, "num_steps": 12, "seed": 3, **changes,
    })))


def apart(a, b):
    return (a.x_final - b.x_final).abs().max().item()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_fork_with_nothing_changed_is_the_run_and_so_is_a_fork_of_it(studio, scheduler):
    # Guided forks follow below.
    run = whole(studio, scheduler=scheduler, guidance_scale=1.0)
    fork = drawn(studio.resume(run, 6))
    second = drawn(studio.resume(fork, 3))
    assert len(fork.steps) == 6 and len(second.steps) == 3
    assert apart(fork, run) < BOUND and apart(second, run) < BOUND


@pytest.mark.parametrize("changes", [{"eta": 0.7}, {"num_images": 2, "seed": 8}])
def test_what_ddim_draws_is_drawn_again(studio, changes):
    run = whole(studio, **changes)
    assert apart(drawn(studio.resume(run, 5)), run) < BOUND


def test_a_fork_of_a_run_from_a_picture_is_that_run(studio):
    run = whole(studio, scheduler="dpm++_2m_sde", init_image=whole(studio, prompt="a blue star").images[0], strength=0.6)
    assert apart(drawn(studio.resume(run, 4)), run) < BOUND


def test_a_run_file_of_a_fork_names_its_parent_its_step_and_what_was_changed_and_can_be_repeated(studio, tmp_path):
    run = whole(studio, scheduler="lms")
    fork = drawn(studio.resume(run, 6, prompt="a green heart on a white background", guidance_scale=2.0))
    assert apart(fork, run) > 0.1 and run.lineage is None
    back = Trajectory.load(fork.save(tmp_path / "fork.safetensors"))
    assert back.lineage == fork.lineage and (back.lineage.parent, back.lineage.index) == (run.id, 6)
    assert back.lineage.changed == {"prompt": "a green heart on a white background", "guidance_scale": 2.0}
    again = drawn(studio.resume(back, 0))
    assert apart(again, fork) < BOUND and torch.equal(again.before(0)["x0_hat"], fork.before(0)["x0_hat"])


def test_an_id_is_that_of_the_content(studio, tmp_path):
    run = whole(studio, num_steps=3)
    assert run.id == whole(studio, num_steps=3).id == Trajectory.load(run.save(tmp_path / "run.safetensors")).id
    assert run.id != whole(studio, num_steps=3, seed=4).id
