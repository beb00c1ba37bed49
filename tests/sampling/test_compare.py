"""Runs beside each other: the common axis, what sets them apart, and grids with their time foretold."""

import math
import time

import pytest
import torch

from studio.additions import Lora
from studio.conditions import Added
from studio.errors import InvalidOption, UnknownName
from studio.options import SampleOptions
from studio.sampling.compare import MAX_CELLS, common_axis, difference_maps, foretold_s, network_calls, plan_grid, time_a_call, with_weights
from studio.sampling.events import StepDone, StepInfo
from studio.sampling.trajectory import Trajectory


def steps(*levels: float) -> list[StepInfo]:
    return [StepInfo(index=i, num_steps=len(levels), timestep=900.0 - i, sigma=math.exp(-level / 2), log_snr=level) for i, level in enumerate(levels)]


def run(levels: list[float], value: float, size: int = 4) -> Trajectory:
    x = torch.full((len(levels), 1, 3, size, size), value)
    return Trajectory(options=SampleOptions(), steps=steps(*levels), model={}, x_t=x, x0_hat=x, eps_hat=x, x_final=x[0])


def test_the_axis_visits_every_level_once_and_meets_the_nearest_steps():
    axis = common_axis(steps(-4, 0, 4), steps(-4, -2, 0, 2, 4))
    assert [meeting.log_snr for meeting in axis] == [-4, -2, 0, 2, 4]
    assert [meeting.b for meeting in axis] == [0, 1, 2, 3, 4]
    assert [meeting.a for meeting in axis][::2] == [0, 1, 2]


def test_runs_of_different_schedulers_meet_at_the_same_noise_not_at_the_same_step():
    axis = common_axis(steps(-6, -5, -4, 4), steps(-6, 2, 3, 4))
    at = {meeting.log_snr: (meeting.a, meeting.b) for meeting in axis}
    assert at[-4] == (2, 0) and at[2] == (3, 1)


def test_pure_noise_lies_one_beyond_the_finite_levels():
    axis = common_axis(steps(-math.inf, -3, 5), steps(-2, 5))
    assert axis[0].log_snr == -4 and axis[0].a == 0 and axis[-1].log_snr == 5


def test_black_against_white_differs_by_one_everywhere():
    a, b = run([-1, 1], -1.0), run([-1, 1], 1.0)
    axis = common_axis(a.steps, b.steps)
    assert torch.equal(difference_maps(a, b, "x0_hat", axis), torch.ones(2, 1, 4, 4))
    assert difference_maps(a, a, "x0_hat", axis).max() == 0


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(InvalidOption, match="4 x 4 and 1 of 8 x 8"):
        difference_maps(run([0], 0.0), run([0], 0.0, size=8), "x0_hat", common_axis(steps(0), steps(0)))


def test_a_grid_is_every_row_with_every_column():
    cells = plan_grid("seed_scale", SampleOptions(num_images=4, record_attention=True), {"seed": [3, 5], "guidance_scale": [1.0, 2.0, 4.0]})
    assert [(cell.row, cell.column) for cell in cells] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert cells[4].options == SampleOptions(seed=5, guidance_scale=2.0)


def test_a_grid_over_a_loras_weight_changes_the_first_and_keeps_the_others():
    base = SampleOptions(added=Added(loras=(Lora(file="a", weight=0.3), Lora(file="b", weight=0.7)), vae="own"))
    cells = plan_grid("added_loras", base, {"seed": [1], "added.loras": with_weights(base, [0.0, -1.0])})
    assert [[(lora.file, lora.weight) for lora in cell.options.added.loras] for cell in cells] == [[("a", 0), ("b", 0.7)], [("a", -1), ("b", 0.7)]]
    assert all(cell.options.added.vae == "own" for cell in cells)
    with pytest.raises(InvalidOption, match="name one under"):
        with_weights(SampleOptions(), [1.0])
    with pytest.raises(InvalidOption, match="weight of a LoRA"):
        with_weights(base, [9.0])


def test_a_grid_is_checked_before_it_starts():
    base = SampleOptions()
    with pytest.raises(InvalidOption, match=f"at most {MAX_CELLS} pictures, but 9 x 8 are 72"):
        plan_grid("prompt_seed", base, {"prompt": ["a"] * 9, "seed": list(range(8))})
    with pytest.raises(InvalidOption, match="at least one value for guidance scale"):
        plan_grid("seed_scale", base, {"seed": [1], "guidance_scale": []})
    with pytest.raises(UnknownName, match="did you mean 'euler'"):
        plan_grid("scheduler_steps", base, {"scheduler": ["eular"], "num_steps": [4]})


def test_calls_count_guidance_and_second_stages():
    assert network_calls(SampleOptions(num_steps=10)) == 10
    assert network_calls(SampleOptions(num_steps=10, guidance_scale=4.0)) == 20
    assert network_calls(SampleOptions(num_steps=10, guidance_scale=4.0, guidance_end=0.5)) == 15
    assert network_calls(SampleOptions(num_steps=10, scheduler="heun", num_images=2)) == 40


def test_a_trial_times_a_call_and_is_closed():
    closed = []

    def events():
        x = torch.zeros(1, 1, 2, 2)
        try:
            for index in range(10):
                if index:
                    time.sleep(0.02)
                yield StepDone(index=index, num_steps=10, timestep=0.0, sigma=1.0, log_snr=0.0, x_t=x, x0_hat=x, eps_hat=x)
        finally:
            closed.append(True)

    options = SampleOptions(num_steps=10, guidance_scale=2.0)
    call_s = time_a_call(events(), options)
    assert closed and call_s >= 0.0099
    cells = plan_grid("seed_scale", options, {"seed": [0, 1], "guidance_scale": [2.0]})
    assert foretold_s(cells, 0.01) == pytest.approx(0.4)
