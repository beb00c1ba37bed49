"""Our steps against diffusers' DDPMScheduler and DDIMScheduler, with the same model output and the same noise.

Their tables are float32, and 1 - alpha_bar loses its digits there near the clean picture (1 - 0.9999 is good to 6e-4).
So each formula is compared twice: with their tables lifted to float64, where nothing but a different formula can
differ, and as shipped, where the bound is 1e-5 plus the measured rounding of the table entries that the step reads.
"""

import itertools
from functools import cache, partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from studio.process.diffusion import GaussianDiffusion
from studio.process.schedules import SCHEDULES, SPACINGS, alphas_cumprod, make_betas, spaced_timesteps
from tests.process.three import THREE_SCHEDULES

torch.set_num_threads(1)

T, NUM_STEPS = 1000, 50
# The schedules that diffusers has a name for; the others reach it as trained_betas.
NAMED = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")
SEQUENCES = (None, *SPACINGS)

THREE = pytest.mark.parametrize("schedule", THREE_SCHEDULES)
EVERY_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)
EVERY_PREDICTION = pytest.mark.parametrize("prediction_type", PREDICTIONS)
EVERY_VARIANCE = pytest.mark.parametrize("variance_type", VARIANCES)
EVERY_SEQUENCE = pytest.mark.parametrize("spacing", SEQUENCES, ids=str)
BOTH_CLASSES = pytest.mark.parametrize("scheduler_class", [DDPMScheduler, DDIMScheduler], ids=["ddpm", "ddim"])
OFF_AND_ON = (False, True)


def tensor(seed, low_to_high=False):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 3, 4, 4)
    return torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1 if low_to_high else torch.randn(shape, generator=generator, dtype=torch.float64)


X_T, OUTPUT, VARIANCE_OUTPUT, NOISE = tensor(0), tensor(1), tensor(2, low_to_high=True), tensor(3)


def config(scheduler_class, schedule):
    named = schedule in NAMED and not (schedule == "sigmoid" and scheduler_class is DDIMScheduler)
    return NAMED[schedule] if named else {"trained_betas": make_betas(schedule, T)}


@cache
def float32_table(scheduler_class, schedule, zero_snr):
    """alpha_bar of their scheduler, as a user gets it."""
    return scheduler_class(num_train_timesteps=T, rescale_betas_zero_snr=zero_snr, **config(scheduler_class, schedule)).alphas_cumprod


@cache
def float64_table(schedule, zero_snr):
    """alpha_bar without their rounding."""
    betas = torch.tensor(make_betas(schedule, T))
    return torch.cumprod(1 - (rescale_zero_terminal_snr(betas) if zero_snr else betas), dim=0)


@cache
def scheduler_without_table(scheduler_class, spacing, **options):
    scheduler = scheduler_class(num_train_timesteps=T, timestep_spacing=spacing or "leading", **options)
    if spacing or scheduler_class is DDIMScheduler:
        scheduler.set_timesteps(NUM_STEPS if spacing else T)
    return scheduler


def their_scheduler(scheduler_class, table, spacing, **options):
    scheduler = scheduler_without_table(scheduler_class, spacing, **options)
    scheduler.alphas_cumprod = table  # all that a step reads
    return scheduler


@cache
def our_process(schedule, zero_snr, kept=None, **kinds):
    full = GaussianDiffusion(make_betas(schedule, T, zero_terminal_snr=zero_snr), **kinds)
    return full if kept is None else full.respaced(kept)


def steps(scheduler, spacing):
    """(timestep, what our process keeps, index of the timestep in it) at the ends and in the middle of their sequence."""
    sequence = scheduler.timesteps.tolist()[::-1]
    for index in (0, 1, len(sequence) // 2, len(sequence) - 2, len(sequence) - 1):
        t = sequence[index]
        if spacing == "linspace" and isinstance(scheduler, DDIMScheduler):
            # Their DDIM does not look where the sequence goes: from t it always leads to t - T // N.
            stride = T // NUM_STEPS
            yield t, tuple(range(t % stride, t + 1, stride)), t // stride
        else:
            yield t, tuple(sequence) if spacing else None, index


def difference(ours, theirs):
    """The largest, relative to their magnitude where that is above 1; what is infinite or nan must be so in both."""
    ours, theirs = ours.double().numpy(), theirs.double().numpy()
    finite = np.isfinite(theirs)
    assert np.array_equal(np.isfinite(ours), finite)
    ours, theirs = ours[finite], theirs[finite]
    return np.abs(ours - theirs).max(initial=0) / np.abs(theirs).max(initial=1)


def ddpm_pair(scheduler, process, index, t, *, clip_x0, variance_type, dtype=torch.float64):
    """(ours, theirs) of a DDPM step, as (x_prev, x0_hat) each."""
    output, x_t = OUTPUT.to(dtype), X_T.to(dtype)
    extra = VARIANCE_OUTPUT.to(dtype)
    learned = variance_type in ("learned", "learned_range")
    our_output = torch.cat([output, extra], dim=1) if learned else output
    # "learned" is the variance itself there, and its log here (as in guided-diffusion).
    their_output = torch.cat([output, extra.exp() if variance_type == "learned" else extra], dim=1) if learned else output
    theirs = scheduler.step(their_output, t, x_t, generator=torch.Generator().manual_seed(4))
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(4), dtype=dtype)
    ours = process.p_sample(lambda x, told: our_output, x_t, index, clip_x0=clip_x0, noise=noise)
    # They add noise wherever t > 0, even to the finished picture when the sequence does not end at 0; we never do.
    # The last mean is x0_hat itself: with alpha_bar_prev = 1 the posterior's weights are 1 and 0.
    x_prev = theirs.pred_original_sample if index == 0 and t > 0 else theirs.prev_sample
    return (ours.x_prev, ours.x0_hat), (x_prev, theirs.pred_original_sample)


def ddim_pair(scheduler, process, index, t, *, clip_x0, eta, dtype=torch.float64):
    output, x_t, noise = OUTPUT.to(dtype), X_T.to(dtype), NOISE.to(dtype)
    # use_clipped_model_output: eps is re-derived from the clipped x0_hat, as in GLIDE and here.
    theirs = scheduler.step(output, t, x_t, eta=eta, use_clipped_model_output=clip_x0, variance_noise=noise)
    x_prev = theirs.prev_sample
    if eta == 1 and process.coefficient("alpha_bar", index) == 0:
        # From pure noise sigma^2 is all of 1 - ab_prev, but their root of the difference sees -1e-17 (nan) or 6e-8 (2e-4).
        ab_prev = process.coefficient("alpha_bar", index - 1)
        x_prev = ab_prev**0.5 * theirs.pred_original_sample + (1 - ab_prev) ** 0.5 * noise
    ours = process.ddim_sample(lambda x, told: output, x_t, index, eta=eta, clip_x0=clip_x0, noise=noise)
    return (ours.x_prev, ours.x0_hat), (x_prev, theirs.pred_original_sample)


# --- tables --------------------------------------------------------------------------------------------------

@EVERY_SCHEDULE
@BOTH_CLASSES
@pytest.mark.parametrize("zero_snr", OFF_AND_ON, ids=["plain", "zero_snr"])
def test_alpha_bar_is_theirs_up_to_their_float32(schedule, scheduler_class, zero_snr):
    theirs = float32_table(scheduler_class, schedule, zero_snr).numpy()
    ours = alphas_cumprod(make_betas(schedule, T, zero_terminal_snr=zero_snr))
    # Where float32 underflows, their rescaling divides 0 by 0.
    held = np.isfinite(theirs)
    assert held.all() or (schedule == "sqrt" and zero_snr and held[:900].all())
    np.testing.assert_allclose(ours[held], theirs[held], rtol=0, atol=2e-6)


@EVERY_SCHEDULE
def test_zero_terminal_snr_is_theirs_in_float64(schedule):
    np.testing.assert_allclose(alphas_cumprod(make_betas(schedule, T, zero_terminal_snr=True)), float64_table(schedule, True), rtol=1e-9, atol=1e-15)


@BOTH_CLASSES
@pytest.mark.parametrize("spacing", SPACINGS)
def test_spaced_timesteps_are_those_of_set_timesteps(scheduler_class, spacing):
    scheduler = scheduler_class(num_train_timesteps=T, timestep_spacing=spacing)
    for count in (1, 2, 3, 7, 10, 15, 20, 25, 30, 49, 50, 99, 333, 500, 750, 999, 1000):
        scheduler.set_timesteps(count)
        assert spaced_timesteps(T, count, spacing) == scheduler.timesteps.tolist()[::-1]


def test_61_trailing_steps_are_theirs_but_for_the_step_at_minus_1_that_their_rounding_lets_in():
    scheduler = DDIMScheduler(num_train_timesteps=T, timestep_spacing="trailing")
    scheduler.set_timesteps(61)
    assert [-1, *spaced_timesteps(T, 61, "trailing")] == scheduler.timesteps.tolist()[::-1]


# --- one step, tables in float64 -----------------------------------------------------------------------------

@THREE
@EVERY_PREDICTION
@EVERY_VARIANCE
@EVERY_SEQUENCE
def test_a_ddpm_step_is_theirs(schedule, prediction_type, variance_type, spacing):
    for zero_snr, clip_x0 in itertools.product(OFF_AND_ON, OFF_AND_ON):
        options = {"prediction_type": prediction_type, "variance_type": variance_type, "clip_sample": clip_x0}
        scheduler = their_scheduler(DDPMScheduler, float64_table(schedule, zero_snr), spacing, **options)
        for t, kept, index in steps(scheduler, spacing):
            process = our_process(schedule, zero_snr, kept, mean_type=prediction_type, var_type=variance_type)
            pair = ddpm_pair(scheduler, process, index, t, clip_x0=clip_x0, variance_type=variance_type)
            for ours, theirs in zip(*pair, strict=True):
                assert difference(ours, theirs) < 1e-8, f"{t=} {zero_snr=} {clip_x0=}"


@THREE
@EVERY_PREDICTION
@EVERY_SEQUENCE
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_ddim_step_is_theirs(schedule, prediction_type, spacing, eta):
    for zero_snr, clip_x0 in itertools.product(OFF_AND_ON, OFF_AND_ON):
        options = {"prediction_type": prediction_type, "clip_sample": clip_x0}
        scheduler = their_scheduler(DDIMScheduler, float64_table(schedule, zero_snr), spacing, **options)
        for t, kept, index in steps(scheduler, spacing):
            process = our_process(schedule, zero_snr, kept, mean_type=prediction_type)
            pair = ddim_pair(scheduler, process, index, t, clip_x0=clip_x0, eta=eta)
            for ours, theirs in zip(*pair, strict=True):
                assert difference(ours, theirs) < 1e-7, f"{t=} {zero_snr=} {clip_x0=}"


@THREE
@pytest.mark.parametrize("zero_snr", OFF_AND_ON, ids=["plain", "zero_snr"])
@BOTH_CLASSES
def test_noising_and_velocity_are_theirs(schedule, zero_snr, scheduler_class):
    scheduler, process = their_scheduler(scheduler_class, float64_table(schedule, zero_snr), None), our_process(schedule, zero_snr)
    for times in ([0, 1], [2, 500], [998, 999]):
        t = torch.tensor(times)
        assert difference(process.q_sample(X_T, t, NOISE), scheduler.add_noise(X_T, NOISE, t)) < 1e-10
        assert difference(process.v_from_x0_eps(X_T, NOISE, t), scheduler.get_velocity(X_T, NOISE, t)) < 1e-10


# --- one step, as shipped ------------------------------------------------------------------------------------

def rounding(table, exact, t, before):
    """The largest relative error of what a step reads from their float32 table."""

    def reads(table, one):
        now, previous = table[t], table[before] if before >= 0 else one
        variance = (1 - previous) / (1 - now) * (1 - now / previous)
        return np.array([now, 1 - now, previous, 1 - previous, now / previous, 1 - now / previous, 1 - previous - variance], dtype=np.float64)

    theirs, right = reads(table.numpy(), np.float32(1)), reads(exact.numpy(), np.float64(1))
    matters = np.abs(right) > 1e-15
    return np.abs(theirs / np.where(matters, right, 1) - 1)[matters].max()


def assert_agrees_as_shipped(scheduler_class, schedule, spacing, zero_snr, options, pair_of, **kinds):
    """Every step to 1e-5 and twice the rounding of their table; the steps where that is above 1 % are left to float64."""
    table, exact = float32_table(scheduler_class, schedule, zero_snr), float64_table(schedule, zero_snr)
    scheduler = their_scheduler(scheduler_class, table, spacing, **options)
    compared = 0
    for t, kept, index in steps(scheduler, spacing):
        before = (range(T) if kept is None else kept)[index - 1] if index else -1
        with np.errstate(invalid="ignore"):  # sqrt underflows in float32
            error = rounding(table, exact, t, before)
        if not error < 0.01:
            continue
        compared += 1
        pair = pair_of(scheduler, our_process(schedule, zero_snr, kept, **kinds), index, t, clip_x0=options["clip_sample"], dtype=torch.float32)
        for ours, theirs in zip(*pair, strict=True):
            assert ours.dtype == torch.float32
            assert difference(ours, theirs) < 1e-5 + 2 * error, f"{t=} {zero_snr=} {options=} {error=}"
    assert compared >= 2


@THREE
@EVERY_PREDICTION
@EVERY_SEQUENCE
def test_a_ddpm_step_is_theirs_as_shipped(schedule, prediction_type, spacing):
    for zero_snr, (variance_type, clip_x0) in itertools.product(OFF_AND_ON, (("fixed_small", True), ("learned_range", False))):
        options = {"prediction_type": prediction_type, "variance_type": variance_type, "clip_sample": clip_x0}
        pair_of = partial(ddpm_pair, variance_type=variance_type)
        assert_agrees_as_shipped(DDPMScheduler, schedule, spacing, zero_snr, options, pair_of, mean_type=prediction_type, var_type=variance_type)


@THREE
@EVERY_PREDICTION
@EVERY_SEQUENCE
def test_a_ddim_step_is_theirs_as_shipped(schedule, prediction_type, spacing):
    for zero_snr, (eta, clip_x0) in itertools.product(OFF_AND_ON, ((0.0, False), (1.0, True))):
        options = {"prediction_type": prediction_type, "clip_sample": clip_x0}
        assert_agrees_as_shipped(DDIMScheduler, schedule, spacing, zero_snr, options, partial(ddim_pair, eta=eta), mean_type=prediction_type)


@THREE
@BOTH_CLASSES
def test_noising_and_velocity_are_theirs_as_shipped(schedule, scheduler_class):
    scheduler, process = their_scheduler(scheduler_class, float32_table(scheduler_class, schedule, False), None), our_process(schedule, False)
    x0, noise = X_T.float(), NOISE.float()
    for t in (0, 1, 2, 10, 500, 999):
        # sqrt(1 - ab) of a float32 ab: an ulp of 1, over twice the root, times noise of up to 4.
        bound = 1e-5 + 4 * 2**-23 / 2 / process.coefficient("sqrt_one_minus_alpha_bar", t)
        time = torch.tensor([t, t])
        assert (process.q_sample(x0, time, noise) - scheduler.add_noise(x0, noise, time)).abs().max() < bound
        assert (process.v_from_x0_eps(x0, noise, time) - scheduler.get_velocity(x0, noise, time)).abs().max() < bound


# --- whole runs ----------------------------------------------------------------------------------------------

def toy_model(x, timesteps):
    """Depends on the state and on the timestep, so a run that tells the model a wrong one goes astray."""
    return torch.sin(2 * x) * (0.2 + timesteps.reshape(-1, 1, 1, 1) / T)


@THREE
@EVERY_PREDICTION
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_whole_ddpm_run_ends_where_theirs_does(schedule, prediction_type, spacing):
    scheduler = their_scheduler(
        DDPMScheduler, float64_table(schedule, False), spacing, prediction_type=prediction_type, variance_type="fixed_small", clip_sample=True
    )
    process = our_process(schedule, False, tuple(spaced_timesteps(T, NUM_STEPS, spacing)), mean_type=prediction_type)
    x = theirs = X_T
    generator, their_generator = torch.Generator().manual_seed(6), torch.Generator().manual_seed(6)
    for t in scheduler.timesteps:
        theirs = scheduler.step(toy_model(theirs, t), t, theirs, generator=their_generator).prev_sample
    for index in reversed(range(NUM_STEPS)):
        x = process.p_sample(toy_model, x, index, noise=torch.randn(x.shape, generator=generator, dtype=x.dtype)).x_prev
    # The 1e-20 that they put in place of the last variance is noise of 1e-10.
    assert difference(x, theirs) < 1e-7


@THREE
@EVERY_PREDICTION
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])  # for linspace, see `steps`
def test_a_whole_ddim_run_ends_where_theirs_does(schedule, prediction_type, spacing, eta):
    scheduler = their_scheduler(DDIMScheduler, float64_table(schedule, False), spacing, prediction_type=prediction_type, clip_sample=True)
    process = our_process(schedule, False, tuple(spaced_timesteps(T, NUM_STEPS, spacing)), mean_type=prediction_type)
    noises = torch.randn(NUM_STEPS, *X_T.shape, generator=torch.Generator().manual_seed(8), dtype=X_T.dtype)
    x = theirs = X_T
    for t, noise in zip(scheduler.timesteps, noises, strict=True):
        theirs = scheduler.step(toy_model(theirs, t), t, theirs, eta=eta, use_clipped_model_output=True, variance_noise=noise).prev_sample
    for index, noise in zip(reversed(range(NUM_STEPS)), noises, strict=True):
        x = process.ddim_sample(toy_model, x, index, eta=eta, noise=noise).x_prev
    assert difference(x, theirs) < 1e-6
