"""One step of DDPM and DDIM, and the training losses: identities, hand arithmetic, and what must not change the result."""

import itertools
import math

import numpy as np
import pytest
import torch

from studio.errors import InvalidOption, UnknownName
from studio.process.diffusion import LOSS_TYPES, MEAN_TYPES, VAR_TYPES, GaussianDiffusion
from studio.process.schedules import SCHEDULES, alphas_cumprod, make_betas, space_timesteps
from tests.process.three import THREE_SCHEDULES

torch.set_num_threads(1)

THREE = pytest.mark.parametrize("schedule", THREE_SCHEDULES)
EVERY_MEAN = pytest.mark.parametrize("mean_type", MEAN_TYPES)
EVERY_VARIANCE = pytest.mark.parametrize("var_type", VAR_TYPES)
EVERY_LOSS = pytest.mark.parametrize("loss_type", LOSS_TYPES)
BOTH_PRECISIONS = pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["float32", "float64"])
LEARNED = ("learned", "learned_range")
SHAPE = (3, 2, 4, 4)


def assert_close(ours, theirs, *, rtol=1e-7, atol=1e-7):
    # torch.testing.assert_close loads 500 modules on its first call.
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert torch.allclose(ours, theirs, rtol=rtol, atol=atol), f"{(ours - theirs).abs().max()=}, {rtol=}, {atol=}"


def process(schedule="scaled_linear", num_timesteps=1000, *, zero_terminal_snr=False, **kinds):
    return GaussianDiffusion(make_betas(schedule, num_timesteps, zero_terminal_snr=zero_terminal_snr), **kinds)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def picture(*shape, seed=7, dtype=torch.float64):
    return torch.rand(shape or SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).mul(2).sub(1).to(dtype)


def output_like(x, var_type, seed=3):
    """A model's output that has nothing to do with x; learned channels stay in -1..1."""
    prediction = normal(*x.shape, seed=seed, dtype=x.dtype)
    return torch.cat([prediction, picture(*x.shape, seed=seed + 1, dtype=x.dtype)], dim=1) if var_type in LEARNED else prediction


def says(output):
    return lambda x_t, timesteps: output


def some_timesteps(num_timesteps):
    return sorted({0, 1, 2, num_timesteps // 3, num_timesteps - 2, num_timesteps - 1})


# --- the forward process -------------------------------------------------------------------------------------

@THREE
@pytest.mark.parametrize("zero_terminal_snr", [False, True], ids=["plain", "zero_snr"])
def test_a_chain_of_single_steps_is_the_jump_in_closed_form(schedule, zero_terminal_snr):
    p = process(schedule, 200, zero_terminal_snr=zero_terminal_snr)
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    # A step is x -> a x + b z: its coefficients come out of x = 1, z = 0 and x = 0, z = 1.
    scale, variance = 1.0, 0.0
    for t in range(200):
        a, b = p.q_step(one, t, nothing).item(), p.q_step(nothing, t, one).item()
        scale, variance = a * scale, a**2 * variance + b**2
        closed = p.q_mean_variance(one, t)
        assert scale == pytest.approx(closed.mean.item(), rel=1e-10, abs=1e-300)
        assert variance == pytest.approx(closed.variance.item(), rel=1e-9)
        assert math.log(variance) == pytest.approx(closed.log_variance.item(), rel=1e-9, abs=1e-12)


def test_pictures_noised_step_by_step_have_the_mean_and_variance_of_the_closed_form():
    count, generator = 20_000, torch.Generator().manual_seed(0)
    p = process("linear", 100)
    x = torch.full((count, 1, 1, 1), 0.7, dtype=torch.float64)
    clean = x[:1]
    for t in range(20):
        x = p.q_step(x, t, torch.randn(x.shape, generator=generator, dtype=x.dtype))
    closed = p.q_mean_variance(clean, 19)
    variance = closed.variance.item()
    assert abs(x.mean().item() - closed.mean.item()) < 4 * math.sqrt(variance / count)
    # The variance of a normal sample variance is 2 variance^2 / (n - 1).
    assert abs(x.var().item() - variance) < 4 * variance * math.sqrt(2 / (count - 1))


def test_q_sample_is_the_closed_form_mean_plus_its_deviation_times_the_noise():
    p, x0, noise = process("cosine"), picture(), normal()
    t = torch.tensor([0, 500, 999])
    closed = p.q_mean_variance(x0, t)
    assert_close(p.q_sample(x0, t, noise), closed.mean + closed.variance.sqrt() * noise, rtol=0, atol=1e-12)


def test_noise_that_is_not_given_is_drawn_afresh():
    p, x0 = process(), picture()
    for draw in (lambda: p.q_sample(x0, 999), lambda: p.q_step(x0, 999), lambda: p.p_sample(says(x0), x0, 999).x_prev):
        assert not torch.equal(draw(), draw())


# --- the posterior -------------------------------------------------------------------------------------------

@THREE
def test_the_posterior_is_the_product_of_the_two_gaussians_it_is_made_of(schedule):
    betas = make_betas(schedule, 300)
    p, alpha_bar = GaussianDiffusion(betas), alphas_cumprod(betas)
    x0, x_t = torch.full((1, 1, 1, 1), 0.3, dtype=torch.float64), torch.full((1, 1, 1, 1), -1.7, dtype=torch.float64)
    for t in range(1, 300):
        alpha, before = 1 - betas[t], alpha_bar[t - 1]
        # In x_{t-1}: N(x_t; sqrt(alpha) x_{t-1}, beta) N(x_{t-1}; sqrt(before) x0, 1 - before). Precisions add.
        precision = alpha / betas[t] + 1 / (1 - before)
        mean = (math.sqrt(alpha) / betas[t] * -1.7 + math.sqrt(before) / (1 - before) * 0.3) / precision
        posterior = p.q_posterior_mean_variance(x0, x_t, t)
        assert posterior.mean.item() == pytest.approx(mean, rel=1e-8, abs=1e-10)
        assert posterior.variance.item() == pytest.approx(1 / precision, rel=1e-8)
        assert posterior.log_variance.item() == pytest.approx(-math.log(precision), rel=1e-8)


def test_the_posterior_at_t_0_is_the_clean_picture_and_its_log_variance_that_of_t_1():
    p, x0, x_t = process(), picture(), normal()
    posterior = p.q_posterior_mean_variance(x0, x_t, 0)
    assert_close(posterior.mean, x0, rtol=0, atol=1e-12)
    assert posterior.variance.item() == 0
    assert posterior.log_variance.item() == p.q_posterior_mean_variance(x0, x_t, 1).log_variance.item()


def test_a_process_of_a_single_step_goes_straight_to_x0():
    p, x_t, x0 = GaussianDiffusion([0.5], mean_type="sample"), normal(), picture()
    assert_close(p.p_sample(says(x0), x_t, 0).x_prev, x0)
    assert_close(p.ddim_sample(says(x0), x_t, 0, eta=1.0).x_prev, x0)


# --- conversions ---------------------------------------------------------------------------------------------

@THREE
@BOTH_PRECISIONS
def test_eps_to_x0_to_v_to_eps_is_a_round_trip(schedule, dtype, atol):
    p, x0, eps = process(schedule), picture(dtype=dtype), normal(dtype=dtype)
    for t in some_timesteps(1000):
        x_t = p.q_sample(x0, t, eps)
        signal, noise = math.sqrt(p.coefficient("alpha_bar", t)), math.sqrt(1 - p.coefficient("alpha_bar", t))
        v = p.v_from_x0_eps(x0, eps, t)
        assert_close(p.x0_from_v(x_t, v, t), x0, rtol=0, atol=atol)
        assert_close(p.eps_from_v(x_t, v, t), eps, rtol=0, atol=atol)
        # These two divide by a scale that comes near 0, and the rounding of x_t with it.
        assert_close(p.eps_from_x0(x_t, x0, t) * noise, eps * noise, rtol=0, atol=atol)
        if signal > 0:  # flow ends in pure noise, where eps says nothing of x0
            assert_close(p.x0_from_eps(x_t, eps, t) * signal, x0 * signal, rtol=0, atol=atol)


@THREE
@BOTH_PRECISIONS
def test_eps_and_score_are_a_round_trip_and_the_score_is_the_gradient_of_log_q(schedule, dtype, atol):
    p, x0, eps = process(schedule), picture(dtype=dtype), normal(dtype=dtype)
    for t in some_timesteps(1000):
        assert_close(p.eps_from_score(p.score_from_eps(eps, t), t), eps, rtol=0, atol=atol)
    t = 500
    x_t = p.q_sample(x0, t, eps).requires_grad_()
    q = p.q_mean_variance(x0, t)
    torch.distributions.Normal(q.mean, q.variance.sqrt()).log_prob(x_t).sum().backward()
    assert_close(p.score_from_eps(eps, t), x_t.grad, rtol=10 * atol, atol=10 * atol)


@THREE
@EVERY_MEAN
@BOTH_PRECISIONS
@pytest.mark.parametrize("zero_terminal_snr", [False, True], ids=["plain", "zero_snr"])
def test_the_target_of_every_mean_type_leads_back_to_x0(schedule, mean_type, dtype, atol, zero_terminal_snr):
    p = process(schedule, 400, zero_terminal_snr=zero_terminal_snr, mean_type=mean_type)
    x0, eps = picture(dtype=dtype), normal(dtype=dtype)
    for t in some_timesteps(400):
        # What multiplies x0 in the prediction; where it is tiny, x0 is known to rounding / weight and no better.
        weight = {"epsilon": p.coefficient("sqrt_alpha_bar", t), "previous": p.coefficient("posterior_mean_coef1", t)}.get(mean_type, 1.0)
        if weight == 0:
            assert mean_type == "epsilon" and t == 399  # at zero SNR the noise says nothing of x0
            continue
        x_t = p.q_sample(x0, t, eps)
        back = p.x0_from_prediction(x_t, p.target(x0, x_t, eps, t), t)
        assert_close(back * weight, x0 * weight, rtol=0, atol=atol)


@EVERY_MEAN
def test_the_targets_are_what_their_names_say(mean_type):
    # alpha_bar = 0.8, 0.4; x0 = 0.5, eps = 2, so x_1 = 0.5 sqrt(0.4) + 2 sqrt(0.6).
    p = GaussianDiffusion([0.2, 0.5], mean_type=mean_type)
    x0, eps = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.5, 2.0))
    x_1 = 0.5 * math.sqrt(0.4) + 2 * math.sqrt(0.6)
    expected = {
        "epsilon": 2.0,
        "sample": 0.5,
        "v_prediction": math.sqrt(0.4) * 2 - math.sqrt(0.6) * 0.5,
        "previous": (0.5 * math.sqrt(0.8) * 0.5 + 0.2 * math.sqrt(0.5) * x_1) / 0.6,
    }
    assert p.target(x0, p.q_sample(x0, 1, eps), eps, 1).item() == pytest.approx(expected[mean_type], rel=1e-14)


# --- the reverse process -------------------------------------------------------------------------------------

@EVERY_MEAN
@EVERY_VARIANCE
@pytest.mark.parametrize("clip_x0", [False, True], ids=["free", "clipped"])
def test_the_mean_is_the_posteriors_with_x0_hat_in_place_of_x0(mean_type, var_type, clip_x0):
    p, x_t = process(mean_type=mean_type, var_type=var_type), normal()
    for t in some_timesteps(1000):
        output = output_like(x_t, var_type)
        estimate = p.p_mean_variance(says(output), x_t, t, clip_x0)
        # A "previous" model says the mean itself, whatever becomes of x0_hat.
        expected = output[:, : x_t.shape[1]] if mean_type == "previous" else p.q_posterior_mean_variance(estimate.x0_hat, x_t, t).mean
        assert_close(estimate.mean, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0, 10, 999])
def test_the_mean_of_a_previous_model_is_its_output_to_the_bit_and_clipping_changes_x0_hat_alone(t):
    p, x_t = process(mean_type="previous"), 3 * normal()
    output = output_like(x_t, "fixed_small")
    free, clipped = (p.p_mean_variance(says(output), x_t, t, clip_x0) for clip_x0 in (False, True))
    assert torch.equal(free.mean, output) and torch.equal(clipped.mean, output)
    assert torch.equal(clipped.x0_hat, free.x0_hat.clamp(-1, 1)) and not torch.equal(clipped.x0_hat, free.x0_hat)
    step = p.p_sample(says(output), x_t, t, noise=torch.zeros_like(x_t))
    assert torch.equal(step.x_prev, output) and torch.equal(step.x0_hat, clipped.x0_hat)


@EVERY_MEAN
@EVERY_VARIANCE
def test_x0_hat_and_eps_hat_explain_the_state_together(mean_type, var_type):
    p, x_t = process(mean_type=mean_type, var_type=var_type), normal()
    for t, clip_x0 in itertools.product((0, 10, 999), (False, True)):
        estimate = p.p_mean_variance(says(output_like(x_t, var_type)), x_t, t, clip_x0)
        assert_close(p.q_sample(estimate.x0_hat, t, estimate.eps_hat), x_t, rtol=0, atol=1e-9)


@EVERY_MEAN
def test_clipping_holds_x0_hat_in_range_and_re_derives_eps_from_it(mean_type):
    p, x_t, t = process(mean_type=mean_type), 3 * normal(), 500
    free, clipped = (p.p_mean_variance(says(output_like(x_t, "fixed_small")), x_t, t, clip_x0) for clip_x0 in (False, True))
    assert free.x0_hat.abs().max() > 1.5  # or there would be nothing to clip
    assert_close(clipped.x0_hat, free.x0_hat.clamp(-1, 1), rtol=0, atol=0)
    alpha_bar = p.coefficient("alpha_bar", t)
    expected = (x_t - math.sqrt(alpha_bar) * clipped.x0_hat) / math.sqrt(1 - alpha_bar)
    assert_close(clipped.eps_hat, expected, rtol=0, atol=1e-12)
    assert (clipped.eps_hat - free.eps_hat).abs().max() > 0.1
    assert torch.equal(clipped.mean, free.mean) == (mean_type == "previous")


def test_clipping_is_the_default_of_every_sampler():
    p, x_t = process(), 3 * normal()
    model, noise = says(output_like(x_t, "fixed_small")), normal(seed=9)
    for sample in (p.p_sample, p.ddim_sample):
        assert sample(model, x_t, 500, noise=noise).x0_hat.abs().max() == 1
        assert sample(model, x_t, 500, clip_x0=False, noise=noise).x0_hat.abs().max() > 1
    assert p.p_mean_variance(model, x_t, 500).x0_hat.abs().max() == 1


@EVERY_VARIANCE
@THREE
def test_variance_and_log_variance_are_one_number_said_twice(schedule, var_type):
    p, x_t = process(schedule, var_type=var_type), normal()
    for t in some_timesteps(1000)[1:]:
        estimate = p.p_mean_variance(says(output_like(x_t, var_type)), x_t, t)
        assert_close(estimate.log_variance.exp(), estimate.variance, rtol=1e-10, atol=0)


@THREE
def test_fixed_variances_are_the_posteriors_and_beta_with_its_first_entry_replaced(schedule):
    betas, x_t = make_betas(schedule), normal()
    small, large = (GaussianDiffusion(betas, var_type=var_type) for var_type in ("fixed_small", "fixed_large"))
    posterior = [small.q_posterior_mean_variance(x_t, x_t, t).variance.item() for t in (0, 1, 500)]
    assert posterior[0] == 0
    for t, of_small, of_large in ((0, posterior[0], posterior[1]), (1, posterior[1], betas[1]), (500, posterior[2], betas[500])):
        assert small.p_mean_variance(says(x_t), x_t, t).variance.item() == pytest.approx(of_small, rel=1e-12)
        assert large.p_mean_variance(says(x_t), x_t, t).variance.item() == pytest.approx(of_large, rel=1e-12)


@THREE
def test_learned_range_runs_from_the_posterior_variance_to_beta(schedule):
    betas, x_t = make_betas(schedule), normal()
    p = GaussianDiffusion(betas, var_type="learned_range")
    for t in some_timesteps(1000):
        low, middle, high = (
            p.p_mean_variance(says(torch.cat([x_t, torch.full_like(x_t, share)], dim=1)), x_t, t).log_variance for share in (-1, 0, 1)
        )
        posterior = p.q_posterior_mean_variance(x_t, x_t, t).log_variance
        assert_close(low, posterior.expand_as(low), rtol=1e-12, atol=1e-12)
        assert_close(high, torch.full_like(high, math.log(betas[t])), rtol=1e-12, atol=1e-12)
        assert_close(middle, (low + high) / 2, rtol=1e-12, atol=1e-12)


def test_learned_variance_is_the_channels_themselves_as_a_log():
    p, x_t = process(var_type="learned"), normal()
    log_variance = normal(seed=5)
    estimate = p.p_mean_variance(says(torch.cat([x_t, log_variance], dim=1)), x_t, 300)
    assert_close(estimate.log_variance, log_variance, rtol=0, atol=0)
    assert_close(estimate.variance, log_variance.exp())


@EVERY_MEAN
@EVERY_VARIANCE
def test_a_ddpm_step_adds_the_deviation_times_the_noise_and_none_at_t_0(mean_type, var_type):
    p, x_t, noise = process(mean_type=mean_type, var_type=var_type), normal(), normal(seed=2)
    model = says(output_like(x_t, var_type))
    for t in some_timesteps(1000):
        estimate, step = p.p_mean_variance(model, x_t, t), p.p_sample(model, x_t, t, noise=noise)
        deviation = 0.0 if t == 0 else estimate.variance.sqrt()
        assert_close(step.x_prev, estimate.mean + deviation * noise, rtol=0, atol=1e-12)
        assert torch.equal(step.x0_hat, estimate.x0_hat) and torch.equal(step.eps_hat, estimate.eps_hat)


@THREE
@EVERY_MEAN
@pytest.mark.parametrize("clip_x0", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize("spacing", [None, "ddim20", "3,4,5"], ids=str)
def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance(schedule, mean_type, clip_x0, spacing):
    p = process(schedule, 40, mean_type=mean_type)
    p = p if spacing is None else p.respaced(space_timesteps(40, spacing))
    x_t, noise = normal(), normal(seed=2)
    model = says(output_like(x_t, "fixed_small"))
    for t in range(p.num_timesteps - (schedule == "flow" and mean_type == "epsilon" and not clip_x0)):
        ddim = p.ddim_sample(model, x_t, t, eta=1.0, clip_x0=clip_x0, noise=noise)
        if mean_type == "previous" and clip_x0:  # its mean is what it says; DDIM goes by the clipped x0_hat
            posterior = p.q_posterior_mean_variance(ddim.x0_hat, x_t, t)
            x_prev = posterior.mean + posterior.variance.sqrt() * noise
        else:
            x_prev = p.p_sample(model, x_t, t, clip_x0=clip_x0, noise=noise).x_prev
        scale = max(1.0, x_prev.abs().max().item())
        assert_close(ddim.x_prev / scale, x_prev / scale, rtol=0, atol=1e-10)


@THREE
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_ddim_step_keeps_the_noise_level_that_the_schedule_asks_for(schedule, eta):
    p = process(schedule, 100, mean_type="sample")
    one, nothing = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for t in range(1, 100):
        # x0_hat = 0, so x_prev = direction * eps_hat + sigma * z: their squares sum to 1 - alpha_bar_{t-1}.
        x_t = one * p.coefficient("sqrt_one_minus_alpha_bar", t)  # eps_hat = 1
        direction = p.ddim_sample(says(nothing), x_t, t, eta=eta, noise=nothing).x_prev.item()
        sigma = p.ddim_sample(says(nothing), x_t, t, eta=eta, noise=one).x_prev.item() - direction
        before, now = p.coefficient("alpha_bar", t - 1), p.coefficient("alpha_bar", t)
        assert sigma == pytest.approx(eta * math.sqrt((1 - before) / (1 - now)) * math.sqrt(1 - now / before), rel=1e-7, abs=1e-15)
        assert direction**2 + sigma**2 == pytest.approx(1 - before, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("as_tensor", [False, True], ids=["int", "tensor"])
def test_the_last_step_of_ddim_is_x0_hat_without_noise(eta, as_tensor):
    p, x_t = process(), normal()
    t = torch.zeros(len(x_t), dtype=torch.int64) if as_tensor else 0
    step = p.ddim_sample(says(x_t / 2), x_t, t, eta=eta, noise=normal(seed=2))
    assert_close(step.x_prev, step.x0_hat, rtol=0, atol=1e-12)


def test_ddim_without_eta_needs_no_noise_and_ignores_it():
    p, x_t = process(), normal()
    steps = [p.ddim_sample(says(x_t), x_t, 500, noise=noise).x_prev for noise in (None, normal(seed=1), normal(seed=2))]
    assert torch.equal(steps[0], steps[1]) and torch.equal(steps[0], steps[2])


# --- what must not change the result --------------------------------------------------------------------------

@EVERY_MEAN
@EVERY_VARIANCE
def test_a_number_and_a_tensor_of_timesteps_give_the_same_steps(mean_type, var_type):
    p = process("cosine", 100, mean_type=mean_type, var_type=var_type)
    x_t, noise = normal(dtype=torch.float32), normal(seed=2, dtype=torch.float32)
    model = says(output_like(x_t, var_type))
    for t in (0, 1, 99):
        many = torch.full((len(x_t),), t)
        for take in (
            lambda time: p.q_sample(x_t, time, noise),
            lambda time: p.q_step(x_t, time, noise),
            lambda time: p.q_posterior_mean_variance(noise, x_t, time).mean,
            lambda time: p.p_mean_variance(model, x_t, time).log_variance,
            lambda time: p.p_sample(model, x_t, time, noise=noise).x_prev,
            lambda time: p.ddim_sample(model, x_t, time, eta=0.0, noise=noise).x_prev,
            lambda time: p.ddim_sample(model, x_t, time, eta=0.3, noise=noise).x_prev,
            lambda time: p.ddim_sample(model, x_t, time, eta=1.0, noise=noise).x_prev,
        ):
            one, each = torch.broadcast_tensors(take(t), take(many))
            assert_close(one, each, rtol=1e-5, atol=1e-5)


@EVERY_MEAN
@EVERY_VARIANCE
def test_each_picture_of_a_batch_is_stepped_at_its_own_timestep(mean_type, var_type):
    p = process(mean_type=mean_type, var_type=var_type)
    x_t, noise, times = normal(), normal(seed=2), [0, 400, 999]
    output = output_like(x_t, var_type)
    for sample in (p.p_sample, p.ddim_sample):
        together = sample(says(output), x_t, torch.tensor(times), noise=noise)
        for row, t in enumerate(times):
            mine = slice(row, row + 1)
            alone = sample(says(output[mine]), x_t[mine], t, noise=noise[mine])
            for ours, theirs in zip(together, alone, strict=True):
                assert_close(ours[mine], theirs, rtol=1e-12, atol=1e-12)


@EVERY_MEAN
@EVERY_VARIANCE
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("as_tensor", [False, True], ids=["int", "tensor"])
def test_half_precision_states_and_models_are_computed_in_float32(mean_type, var_type, half, as_tensor):
    p = process(mean_type=mean_type, var_type=var_type)
    x_t, noise, x0 = normal(dtype=half), normal(seed=2, dtype=half), picture(dtype=half)
    output = output_like(x_t, var_type)
    for t in (0, 2, 999):
        time = torch.full((len(x_t),), t) if as_tensor else t
        for take in (
            lambda time, x, o, z, c: p.q_sample(c, time, z),
            lambda time, x, o, z, c: p.q_step(c, time, z),
            lambda time, x, o, z, c: p.q_posterior_mean_variance(c, x, time).mean,
            lambda time, x, o, z, c: p.p_mean_variance(says(o), x, time, clip_x0=False).log_variance,
            lambda time, x, o, z, c: p.p_sample(says(o), x, time, noise=z).x_prev,
            lambda time, x, o, z, c: p.ddim_sample(says(o), x, time, eta=0.3, noise=z).x_prev,
            lambda time, x, o, z, c: p.ddim_sample(says(o), x, time, clip_x0=False).x0_hat,
            lambda time, x, o, z, c: p.ddim_sample(says(o), x, time, clip_x0=False).eps_hat,
            # A model under autocast: half-precision output, float32 state.
            lambda time, x, o, z, c: p.p_sample(says(o), x.float(), time, noise=z.float()).x_prev,
            lambda time, x, o, z, c: p.p_mean_variance(says(o), x.float(), time).log_variance,
        ):
            ours, exact = take(time, x_t, output, noise, x0), take(time, x_t.float(), output.float(), noise.float(), x0.float())
            assert ours.dtype == torch.float32
            assert_close(ours, exact, rtol=1e-6, atol=1e-6)


@EVERY_MEAN
@EVERY_VARIANCE
def test_float64_stays_float64(mean_type, var_type):
    p, x_t = process(mean_type=mean_type, var_type=var_type), normal()
    estimate = p.p_mean_variance(says(output_like(x_t, var_type)), x_t, torch.tensor([3, 4, 5]))
    assert {part.dtype for part in estimate} == {torch.float64}


def test_float32_steps_stay_near_float64_where_the_coefficients_cancel():
    # At zero SNR and eta = 1 the direction's coefficient is 0: 1 - ab_prev - sigma^2 in float32 would leave sqrt(1e-7).
    for schedule in SCHEDULES:
        p = process(schedule, 100, zero_terminal_snr=True, mean_type="v_prediction")
        x_t, v, noise = normal(), normal(seed=3), normal(seed=2)
        for t in (*range(0, 100, 9), 98):
            for eta in (0.0, 0.3, 1.0):
                exact = p.ddim_sample(says(v), x_t, t, eta=eta, noise=noise).x_prev
                single = p.ddim_sample(says(v.float()), x_t.float(), torch.full((3,), t), eta=eta, noise=noise.float()).x_prev
                assert_close(single.double(), exact, rtol=0, atol=1e-5)


# --- respaced processes --------------------------------------------------------------------------------------

@THREE
@pytest.mark.parametrize("spacing", ["ddim25", "10,15,20"])
def test_a_respaced_process_noises_as_the_original_does_at_the_kept_timesteps(schedule, spacing):
    p, x0, noise = process(schedule), picture(), normal()
    kept = space_timesteps(1000, spacing)
    short = p.respaced(kept)
    assert short.num_timesteps == len(kept) and short.timesteps == kept
    for index, t in enumerate(kept):
        assert_close(short.q_sample(x0, index, noise), p.q_sample(x0, t, noise), rtol=0, atol=1e-9)


@pytest.mark.parametrize("as_tensor", [False, True], ids=["int", "tensor"])
def test_the_model_is_told_the_original_timesteps_also_after_respacing_twice(as_tensor):
    heard = []
    p = process().respaced(range(0, 1000, 10)).respaced([2, 50, 99])
    x_t = normal()
    p.p_sample(lambda x, timesteps: heard.append(timesteps) or x, x_t, torch.tensor([2, 2, 2]) if as_tensor else 2)
    assert heard[0].tolist() == [990, 990, 990] and heard[0].dtype == torch.int64


def test_a_respaced_process_keeps_its_kinds():
    p = process(mean_type="v_prediction", var_type="learned_range", loss_type="rescaled_kl").respaced([1, 500])
    assert (p.mean_type, p.var_type, p.loss_type) == ("v_prediction", "learned_range", "rescaled_kl")


def test_one_ddim_jump_is_many_small_ones_when_the_estimate_does_not_change():
    # With x0_hat and eps_hat fixed, x_t stays on the line q_sample(x0, t, eps), whatever the stride.
    p, x0, eps = process(mean_type="sample"), picture(), normal()
    for kept in ([0, 999], range(0, 1000, 111), range(1000)):
        short = p.respaced(kept)
        x = p.q_sample(x0, 999, eps)
        for index in reversed(range(1, short.num_timesteps)):
            x = short.ddim_sample(says(x0), x, index).x_prev
        assert_close(x, p.q_sample(x0, 0, eps), rtol=0, atol=1e-9)


# --- losses --------------------------------------------------------------------------------------------------

def perfect_model(p, x0, noise, t):
    """A model that knows the picture: its output is right, and its variance channels say the posterior's variance."""
    x_t = p.q_sample(x0, t, noise)
    alpha_bar = torch.tensor([p.coefficient("alpha_bar", int(step)) for step in t], dtype=x0.dtype).reshape(-1, 1, 1, 1)
    posterior = p.q_posterior_mean_variance(x0, x_t, t)
    said = {
        "epsilon": (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt(),
        "sample": x0,
        "v_prediction": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0,
        "previous": posterior.mean,
    }[p.mean_type]
    extra = {"learned": posterior.log_variance.expand_as(x0), "learned_range": -torch.ones_like(x0)}.get(p.var_type)
    return says(said if extra is None else torch.cat([said, extra], dim=1))


@EVERY_MEAN
@EVERY_VARIANCE
@EVERY_LOSS
def test_the_perfect_model_has_no_loss_but_that_of_a_variance_which_is_not_the_posteriors(mean_type, var_type, loss_type):
    betas = make_betas("linear", 500)
    p = GaussianDiffusion(betas, mean_type=mean_type, var_type=var_type, loss_type=loss_type)
    x0, noise, t = picture(), normal(), torch.tensor([1, 250, 499])
    parts = p.training_losses(perfect_model(p, x0, noise, t), x0, t, noise)
    assert all(part.shape == (3,) for part in parts.values())
    expected = torch.zeros(3, dtype=torch.float64)
    if loss_type in ("kl", "rescaled_kl") and var_type == "fixed_large":
        # KL of N(m, small) from N(m, large) = (log(large / small) + small / large - 1) / 2 nats.
        ratio = torch.tensor([betas[step] / p.q_posterior_mean_variance(x0, x0, int(step)).variance.item() for step in t])
        expected = 0.5 * (ratio.log() + 1 / ratio - 1) / math.log(2) * (500 if loss_type == "rescaled_kl" else 1)
        assert expected[0] > 0.05
    # The way from eps or x_{t-1} to the mean and back costs some digits, and the KL divides them by the variance.
    assert_close(parts["loss"], expected, rtol=1e-6, atol=1e-9)


@EVERY_MEAN
@EVERY_VARIANCE
@EVERY_LOSS
def test_the_loss_has_the_parts_that_it_is_made_of(mean_type, var_type, loss_type):
    kinds = {"mean_type": mean_type, "var_type": var_type}
    betas = make_betas("scaled_linear", 200)
    p = GaussianDiffusion(betas, loss_type=loss_type, **kinds)
    x0, noise, t = picture(), normal(), torch.tensor([0, 100, 199])
    output = output_like(x0, var_type)
    parts = p.training_losses(says(output), x0, t, noise)
    # One bound whatever the loss, T = 200 of it for rescaled_kl, and 200/1000 beside rescaled_mse.
    bound = GaussianDiffusion(betas, loss_type="kl", **kinds).training_losses(says(output), x0, t, noise)["loss"]
    mse = ((p.target(x0, p.q_sample(x0, t, noise), noise, t) - output[:, :2]) ** 2).mean(dim=(1, 2, 3))
    vb_weight = {"mse": 1.0, "rescaled_mse": 0.2}.get(loss_type) if var_type in LEARNED else 0.0
    expected = {"kl": bound, "rescaled_kl": 200 * bound}.get(loss_type, mse if not vb_weight else mse + vb_weight * bound)
    assert_close(parts["loss"], expected, rtol=1e-12, atol=1e-12)
    names = {"loss", "vb"} if loss_type in ("kl", "rescaled_kl") else {"loss", "mse", "vb"} if var_type in LEARNED else {"loss", "mse"}
    assert set(parts) == names


@THREE
def test_the_kl_of_a_wrong_x0_is_half_the_drop_in_snr_times_its_squared_error(schedule):
    # Kingma et al. 2021 (arXiv:2107.00630, eq. 13): with the posterior variance, KL = (snr_{t-1} - snr_t) error^2 / 2 nats.
    # For beta = 0.2, 0.5: snr = 4 and 2/3, so an error of 0.3 costs (10/3) * 0.09 / 2 = 0.15 nats.
    x0, noise = picture(), normal()
    hand = GaussianDiffusion([0.2, 0.5], mean_type="sample", loss_type="kl").training_losses(says(x0 + 0.3), x0, torch.tensor([1, 1, 1]), noise)
    assert_close(hand["loss"], torch.full((3,), 0.15 / math.log(2), dtype=torch.float64), rtol=1e-12, atol=0)

    alpha_bar = alphas_cumprod(make_betas(schedule))
    snr = alpha_bar / (1 - alpha_bar)
    p = process(schedule, mean_type="sample", loss_type="kl")
    for t in (1, 2, 500, 999):
        loss = p.training_losses(says(x0 - 0.3), x0, torch.full((3,), t), noise)["loss"]
        expected = (snr[t - 1] - snr[t]) * 0.09 / 2 / math.log(2)
        assert_close(loss, torch.full((3,), expected, dtype=torch.float64), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize(("mean_type", "var_type"), zip(MEAN_TYPES, VAR_TYPES, strict=True))  # each of both once: they meet in the mean and the variance alone
@pytest.mark.parametrize("centre", [-1.0, -0.2, 1.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_likelihoods_of_all_256_values_of_a_pixel_sum_to_one(mean_type, var_type, centre, dtype):
    p = process("linear", 1000, mean_type=mean_type, var_type=var_type, loss_type="kl")
    x0 = (torch.arange(256, dtype=dtype) / 255 * 2 - 1).reshape(256, 1, 1, 1)
    noise = normal(256, 1, 1, 1, dtype=dtype)
    t = torch.zeros(256, dtype=torch.int64)
    # The same estimate, whatever the pixel: x0_hat = centre. At t = 0 the mean is x0_hat itself.
    wrong = torch.full_like(x0, centre)
    x_t = p.q_sample(x0, t, noise)
    output = p.target(wrong, x_t, p.eps_from_x0(x_t, wrong, t), t)
    if var_type in LEARNED:
        output = torch.cat([output, torch.full_like(x0, -4.0 if var_type == "learned" else 0.3)], dim=1)
    bits = p.training_losses(says(output), x0, t, noise)["loss"]
    # Up to the floor of 1e-12 under each probability, and float32's differences of two probabilities near 1.
    assert (2.0 ** -bits.double()).sum().item() == pytest.approx(1, abs=1e-9 if dtype == torch.float64 else 2e-4)


def test_the_likelihood_of_a_pixel_is_the_normals_share_of_its_bin():
    # log-variance -2: deviation exp(-1). Value 128 is x = 1/255, its bin (0, 2/255); the ends are open.
    p = process("linear", 1000, mean_type="sample", var_type="learned", loss_type="kl")
    x0 = torch.tensor([-1.0, 1 / 255, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    output = torch.cat([torch.full_like(x0, 0.1), torch.full_like(x0, -2.0)], dim=1)
    bits = p.training_losses(says(output), x0, torch.zeros(3, dtype=torch.int64), normal(3, 1, 1, 1))["loss"]

    def below(value):
        return 0.5 * (1 + math.erf((value - 0.1) / math.exp(-1) / math.sqrt(2)))

    expected = [-math.log2(share) for share in (below(-1 + 1 / 255), below(2 / 255) - below(0), 1 - below(1 - 1 / 255))]
    np.testing.assert_allclose(bits.numpy(), expected, rtol=1e-9)


@EVERY_MEAN
@EVERY_VARIANCE
def test_the_bound_is_the_expected_description_length_and_never_negative(mean_type, var_type):
    p = process(mean_type=mean_type, var_type=var_type, loss_type="kl")
    x0, noise = picture(6, 2, 4, 4), normal(6, 2, 4, 4)
    vb = p.training_losses(says(output_like(x0, var_type)), x0, torch.tensor([0, 1, 2, 300, 998, 999]), noise)["vb"]
    assert torch.all(vb >= 0) and torch.all(torch.isfinite(vb))


@EVERY_MEAN
@pytest.mark.parametrize("var_type", LEARNED)
@pytest.mark.parametrize("loss_type", ["mse", "rescaled_mse"])
def test_beside_mse_the_bound_trains_the_variance_alone(mean_type, var_type, loss_type):
    p = process("linear", 400, mean_type=mean_type, var_type=var_type, loss_type=loss_type)
    x0, noise, t = picture(), normal(), torch.tensor([0, 200, 399])
    output = output_like(x0, var_type).requires_grad_()
    parts = p.training_losses(says(output), x0, t, noise)
    (of_vb,) = torch.autograd.grad(parts["vb"].sum(), output, retain_graph=True)
    (of_mse,) = torch.autograd.grad(parts["mse"].sum(), output, retain_graph=True)
    (of_loss,) = torch.autograd.grad(parts["loss"].sum(), output)
    assert torch.all(of_vb[:, :2] == 0)
    # At t = 0 a wild estimate is below the floor of the likelihood, where there is nothing to learn from.
    assert torch.all(of_vb[1:, 2:] != 0)
    assert torch.all(of_mse[:, :2] != 0) and torch.all(of_mse[:, 2:] == 0)
    assert_close(of_loss[:, :2], of_mse[:, :2])
    assert_close(of_loss[:, 2:], of_vb[:, 2:] * (0.4 if loss_type == "rescaled_mse" else 1.0))


@EVERY_MEAN
@EVERY_VARIANCE
@pytest.mark.parametrize("loss_type", ["kl", "rescaled_kl"])
def test_the_bound_alone_trains_mean_and_variance(mean_type, var_type, loss_type):
    p = process("linear", 400, mean_type=mean_type, var_type=var_type, loss_type=loss_type)
    x0, noise, t = picture(), normal(), torch.tensor([0, 200, 399])
    output = perfect_model(p, x0, noise, t)(None, None) + 1e-3
    output.requires_grad_()
    p.training_losses(says(output), x0, t, noise)["loss"].sum().backward()
    assert torch.all(torch.isfinite(output.grad)) and torch.all(output.grad != 0)


@EVERY_MEAN
@EVERY_LOSS
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_a_half_precision_model_is_trained_with_float32_losses(mean_type, loss_type, half):
    p = process(mean_type=mean_type, var_type="learned_range", loss_type=loss_type)
    x0, noise, t = picture(dtype=torch.float32), normal(dtype=torch.float32), torch.tensor([0, 500, 999])
    output = output_like(x0, "learned_range").to(half)
    ours, exact = (p.training_losses(says(o), x0, t, noise) for o in (output, output.float()))
    for name, part in ours.items():
        assert part.dtype == torch.float32
        assert_close(part, exact[name], rtol=1e-6, atol=1e-6)


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: GaussianDiffusion([0.1], mean_type="eps"), UnknownName, "mean type named 'eps'"),
        (lambda: GaussianDiffusion([0.1], var_type="fixed"), UnknownName, "variance type named 'fixed'"),
        (lambda: GaussianDiffusion([0.1], loss_type="l1"), UnknownName, "loss type named 'l1'"),
        (lambda: GaussianDiffusion([]), InvalidOption, r"shape=\(0,\)"),
        (lambda: GaussianDiffusion(0.1), InvalidOption, r"shape=\(\)"),
        (lambda: GaussianDiffusion([[0.1, 0.2]]), InvalidOption, r"shape=\(1, 2\)"),
        (lambda: GaussianDiffusion([0.1, 0.0]), InvalidOption, "from 0 to 0.1"),
        (lambda: GaussianDiffusion([0.1, 1.25]), InvalidOption, "from 0.1 to 1.25"),
        (lambda: GaussianDiffusion([0.1, math.nan]), InvalidOption, "nan"),
        (lambda: GaussianDiffusion([0.1, 0.2], timesteps=[5]), InvalidOption, r"timesteps\)=1 and .*num_timesteps=2"),
        (lambda: GaussianDiffusion([0.1, 0.2]).respaced([1, 7]), InvalidOption, "2 follows 7"),
        (lambda: process().ddim_sample(says(normal()), normal(), 5, eta=1.5), InvalidOption, r"eta=1\.5"),
        (lambda: process().ddim_sample(says(normal()), normal(), 5, eta=-0.1), InvalidOption, r"eta=-0\.1"),
        (lambda: process(var_type="learned").p_sample(says(normal()), normal(), 5), InvalidOption, "'learned' must give 4 channels, but it gives 2"),
        (lambda: process().p_sample(says(normal(3, 4, 4, 4)), normal(), 5), InvalidOption, "'fixed_small' must give 2 channels, but it gives 4"),
    ],
)
def test_nonsense_is_refused_in_a_sentence_that_holds_the_value(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert str(caught.value)[-1] in ".?"
