"""Samplers against data whose denoiser is known: for x0 ~ N(mu, S), x_t is normal and E[x0 | x_t] is a line.

    x_t ~ N(sqrt(ab) mu, ab S + (1 - ab) I),   E[x0 | x_t] = mu + sqrt(ab) S (ab S + (1 - ab) I)^-1 (x_t - sqrt(ab) mu)

With that model every sampler is an affine map plus noise, so what it must give is known without sampling.
"""

import math

import numpy as np
import pytest
import torch

from studio.process.diffusion import MEAN_TYPES, GaussianDiffusion
from studio.process.schedules import make_betas, space_timesteps
from tests.process.three import THREE_SCHEDULES

torch.set_num_threads(1)

THREE = pytest.mark.parametrize("schedule", THREE_SCHEDULES)
EVERY_MEAN = pytest.mark.parametrize("mean_type", MEAN_TYPES)
BOTH_SPACINGS = pytest.mark.parametrize("spacing", [None, "5,10,20"], ids=["all_steps", "respaced"])

# Two correlated dimensions, so that a sampler that mixes up channels or forgets a correlation is caught.
MU = np.array([0.4, -0.7])
COVARIANCE = np.array([[0.30, 0.12], [0.12, 0.09]])
# One dimension for what is computed and not sampled.
CENTRE, DEVIATION = 0.3, 0.5


def noise_levels(betas, kept=None):
    """alpha_bar now and one step before, at the kept timesteps; a loop, so as not to be the code under test."""
    alpha_bar, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        alpha_bar.append(product)
    now = [alpha_bar[t] for t in (range(len(betas)) if kept is None else kept)]
    return now, [1.0, *now[:-1]]


def gain(alpha_bar, covariance):
    return math.sqrt(alpha_bar) * covariance @ np.linalg.inv(alpha_bar * covariance + (1 - alpha_bar) * np.eye(len(covariance)))


def posterior_weights(now, before):
    """Of x0 and x_t in the mean of q(x_{t-1} | x_t, x0), and its variance: two normal densities in x_{t-1} multiplied."""
    alpha = now / before
    if before == 1:
        return 1.0, 0.0, 0.0
    variance = 1 / (alpha / (1 - alpha) + 1 / (1 - before))
    return variance * math.sqrt(before) / (1 - before), variance * math.sqrt(alpha) / (1 - alpha), variance


def exact_model(mean_type, now, before, mu, covariance, timesteps=None, extra=None):
    """The best possible model of the data, for pictures (B, C, 1, 1); `extra(index)` is its variance channel."""
    timesteps = list(range(len(now))) if timesteps is None else list(timesteps)
    centre = torch.tensor(mu, dtype=torch.float64).reshape(1, -1, 1, 1)

    def model(x_t, told):
        index = timesteps.index(int(told[0]))
        alpha_bar = now[index]
        matrix = torch.tensor(gain(alpha_bar, covariance))
        x0 = centre + torch.einsum("ij,bjhw->bihw", matrix, x_t - math.sqrt(alpha_bar) * centre)
        eps = (x_t - math.sqrt(alpha_bar) * x0) / math.sqrt(1 - alpha_bar)
        of_x0, of_x_t, _ = posterior_weights(alpha_bar, before[index])
        said = {
            "epsilon": eps,
            "sample": x0,
            "v_prediction": math.sqrt(alpha_bar) * eps - math.sqrt(1 - alpha_bar) * x0,
            "previous": of_x0 * x0 + of_x_t * x_t,
        }[mean_type]
        return said if extra is None else torch.cat([said, torch.full_like(said, extra(index))], dim=1)

    return model


def propagate(now, before, mu, covariance, sampler):
    """Mean and covariance of the samples, from N(0, I) through every step by the formulas of the papers."""
    mean, spread, unit = np.zeros(len(mu)), np.eye(len(mu)), np.eye(len(mu))
    for index in reversed(range(len(now))):
        alpha_bar, previous = now[index], before[index]
        matrix = gain(alpha_bar, covariance)  # x0_hat = matrix x_t + constant
        constant = mu - math.sqrt(alpha_bar) * matrix @ mu
        of_x0, of_x_t, small = posterior_weights(alpha_bar, previous)
        if sampler in ("fixed_small", "fixed_large"):
            variance = 0.0 if index == 0 else small if sampler == "fixed_small" else 1 - alpha_bar / previous
            step, shift = of_x0 * matrix + of_x_t * unit, of_x0 * constant
        else:
            variance = sampler**2 * (1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous)
            direction = math.sqrt(max(1 - previous - variance, 0)) / math.sqrt(1 - alpha_bar)
            step = math.sqrt(previous) * matrix + direction * (unit - math.sqrt(alpha_bar) * matrix)
            shift = (math.sqrt(previous) - direction * math.sqrt(alpha_bar)) * constant
        mean, spread = step @ mean + shift, step @ spread @ step.T + variance * unit
    return mean, spread


def samples(process, model, sampler, count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, len(MU), 1, 1, generator=generator, dtype=torch.float64)
    for t in reversed(range(process.num_timesteps)):
        noise = None if sampler == 0 else torch.randn(x.shape, generator=generator, dtype=x.dtype)
        if isinstance(sampler, str):
            x = process.p_sample(model, x, t, clip_x0=False, noise=noise).x_prev
        else:
            x = process.ddim_sample(model, x, t, eta=sampler, clip_x0=False, noise=torch.zeros_like(x) if noise is None else noise).x_prev
    return x.flatten(1).numpy()


def assert_distributed(drawn, mean, covariance):
    """Mean and covariance of the drawn points, each within 4 standard errors."""
    count, variance = len(drawn), np.diag(covariance)
    assert np.all(np.abs(drawn.mean(axis=0) - mean) < 4 * np.sqrt(variance / count))
    # Of a normal sample covariance: (S_ii S_jj + S_ij^2) / (n - 1).
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / (count - 1))
    assert np.all(np.abs(np.cov(drawn.T) - covariance) < 4 * error)


# --- samples -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sampler", ["fixed_small", "fixed_large", 0.0, 0.3, 1.0], ids=str)
@EVERY_MEAN
@BOTH_SPACINGS
def test_samples_have_the_mean_and_covariance_that_the_steps_propagate(mean_type, sampler, spacing):
    betas = make_betas("linear", 200)
    kept = range(200) if spacing is None else space_timesteps(200, spacing)
    process = GaussianDiffusion(betas, mean_type=mean_type, var_type=sampler if isinstance(sampler, str) else "fixed_small").respaced(kept)
    now, before = noise_levels(betas, kept)
    model = exact_model(mean_type, now, before, MU, COVARIANCE, kept)
    expected = propagate(now, before, MU, COVARIANCE, sampler)
    assert_distributed(samples(process, model, sampler, 2000, seed=1), *expected)


@pytest.mark.parametrize("sampler", ["fixed_small", "fixed_large", 0.0, 1.0], ids=str)
def test_a_thousand_steps_bring_back_the_data(sampler):
    betas = make_betas("linear", 1000)
    now, before = noise_levels(betas)
    mean, covariance = propagate(now, before, MU, COVARIANCE, sampler)
    # What is left of the discretisation (and of starting from N(0, I)), computed and not sampled: 1 % of a deviation, 3 % of a variance.
    deviation = np.sqrt(np.diag(COVARIANCE))
    assert np.all(np.abs(mean - MU) < 0.01 * deviation)
    assert np.all(np.abs(covariance - COVARIANCE) < 0.03 * np.outer(deviation, deviation))
    process = GaussianDiffusion(betas, var_type=sampler if isinstance(sampler, str) else "fixed_small")
    drawn = samples(process, exact_model("epsilon", now, before, MU, COVARIANCE), sampler, 2000, seed=2)
    assert_distributed(drawn, mean, covariance)


# --- steps as affine maps: no sampling, no chance --------------------------------------------------------------

def affine(sample, model, t):
    """(slope, offset, deviation) of the step x -> slope x + offset + deviation z, from x = 0, 1, 0 and z = 0, 0, 1."""
    x, z = (torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1, 1) for values in ([0, 1, 0], [0, 0, 1]))
    offset, at_one, with_noise = sample(model, x, t, clip_x0=False, noise=z).x_prev.flatten().tolist()
    return at_one - offset, offset, with_noise - offset


def one_dimensional(
    schedule, num_timesteps, deviation=DEVIATION, *, kept=None, mean_type="epsilon", var_type="fixed_small", extra=None, zero_terminal_snr=False
):
    betas = make_betas(schedule, num_timesteps, zero_terminal_snr=zero_terminal_snr)
    kept = range(num_timesteps) if kept is None else kept
    now, before = noise_levels(betas, kept)
    process = GaussianDiffusion(betas, mean_type=mean_type, var_type=var_type).respaced(kept)
    model = exact_model(mean_type, now, before, np.array([CENTRE]), np.array([[deviation**2]]), kept, extra)
    return process, model, now, before


def level(alpha_bar, deviation=DEVIATION):
    """Mean and variance of x_t."""
    return math.sqrt(alpha_bar) * CENTRE, alpha_bar * deviation**2 + 1 - alpha_bar


def reverse_variance(now, before, deviation=DEVIATION):
    """Of x_{t-1} given x_t: the precision of what was there plus that of the step that led here."""
    return 1 / (1 / level(before, deviation)[1] + (now / before) / (1 - now / before))


@THREE
@EVERY_MEAN
@pytest.mark.parametrize("var_type", ["learned", "learned_range"])
@BOTH_SPACINGS
def test_with_the_right_learned_variance_every_step_lands_on_the_exact_marginal(schedule, mean_type, var_type, spacing):
    kept = range(60) if spacing is None else space_timesteps(60, spacing)
    now, before = noise_levels(make_betas(schedule, 60), kept)

    def extra(index):
        if index == 0:
            return 0.0
        log_variance = math.log(reverse_variance(now[index], before[index]))
        if var_type == "learned":
            return log_variance
        low, high = math.log(posterior_weights(now[index], before[index])[2]), math.log(1 - now[index] / before[index])
        # At flow's last step, from pure noise, the two ends are one.
        return 0.0 if high - low < 1e-12 else 2 * (log_variance - low) / (high - low) - 1

    last_of_flow = schedule == "flow" and mean_type == "epsilon" and now[-1] == 0
    process, model, now, before = one_dimensional(schedule, 60, kept=kept, mean_type=mean_type, var_type=var_type, extra=extra)
    for t in range(1, len(now) - last_of_flow):  # at zero SNR eps says nothing of x0
        slope, offset, noise = affine(process.p_sample, model, t)
        mean, variance = level(now[t])
        assert (slope * mean + offset, slope**2 * variance + noise**2) == pytest.approx(level(before[t]), rel=1e-8)


@EVERY_MEAN
def test_the_learned_variances_of_data_lie_between_the_posteriors_and_beta(mean_type):
    # Why learned_range interpolates between just these: data without spread needs the one, N(mu, 1) the other.
    now, before = noise_levels(make_betas("linear", 60))
    for t in range(1, 60):
        small, large = posterior_weights(now[t], before[t])[2], 1 - now[t] / before[t]
        assert small == pytest.approx(reverse_variance(now[t], before[t], 0.0), rel=1e-9)
        assert large == pytest.approx(reverse_variance(now[t], before[t], 1.0), rel=1e-9)
    for deviation, var_type in ((0.0, "fixed_small"), (1.0, "fixed_large")):
        process, model, now, before = one_dimensional("linear", 60, deviation, mean_type=mean_type, var_type=var_type)
        mean, variance = level(now[-1], deviation)
        for t in reversed(range(1, 60)):
            slope, offset, noise = affine(process.p_sample, model, t)
            mean, variance = slope * mean + offset, slope**2 * variance + noise**2
            assert (mean, variance) == pytest.approx(level(before[t], deviation), rel=1e-8)


def ddpm_variance_error(schedule, num_timesteps, var_type):
    """How far the variance of DDPM's samples is from the data's, when the start is the exact x_T."""
    process, model, now, _ = one_dimensional(schedule, num_timesteps, var_type=var_type)
    _, variance = level(now[-1])
    for t in reversed(range(num_timesteps)):
        slope, _, noise = affine(process.p_sample, model, t)
        variance = slope**2 * variance + noise**2
    return variance - DEVIATION**2


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_ddpms_error_halves_when_its_steps_double(schedule, var_type):
    # linear and sigmoid scale their betas with 1000/T, so a longer process is the same one in finer steps.
    coarse, fine = (ddpm_variance_error(schedule, num_timesteps, var_type) for num_timesteps in (400, 800))
    # Too small a variance draws samples together, too large a one spreads them.
    assert (coarse < 0) == (var_type == "fixed_small")
    assert coarse / fine == pytest.approx(2, abs=0.15)


def ddim_error(schedule, kept, *, mean_type="epsilon", to_clean=False, zero_terminal_snr=False):
    """How far DDIM's (slope, offset) over `kept` is from the probability flow's, which carries quantiles to quantiles."""
    process, model, now, _ = one_dimensional(schedule, 1024, kept=kept, mean_type=mean_type, zero_terminal_snr=zero_terminal_snr)
    slope, offset = 1.0, 0.0
    for t in reversed(range(0 if to_clean else 1, len(kept))):
        a, b, noise = affine(process.ddim_sample, model, t)
        assert noise == 0
        slope, offset = a * slope, a * offset + b
    (start, start_variance), (end, end_variance) = level(now[-1]), level(1.0 if to_clean else now[0])
    exact = math.sqrt(end_variance / start_variance)
    return slope - exact, offset - (end - exact * start)


@THREE
@EVERY_MEAN
def test_ddims_error_halves_when_its_steps_double(schedule, mean_type):
    # From T-1 down to T/8, where every schedule is smooth in t: 896 timesteps in strides of 16, 8 and 4.
    # At flow's last step, of zero SNR, eps says nothing of x0.
    last = 1022 if schedule == "flow" and mean_type == "epsilon" else 1023
    errors = [ddim_error(schedule, range(last - 896, last + 1, stride), mean_type=mean_type)[0] for stride in (16, 8, 4)]
    assert abs(errors[0]) > 1e-5  # or rounding would be measured
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], abs=0.05)


@pytest.mark.parametrize("mean_type", [name for name in MEAN_TYPES if name != "epsilon"])
@THREE
def test_ddims_error_halves_all_the_way_from_pure_noise_to_the_clean_picture(schedule, mean_type):
    errors = []
    for stride in (16, 8, 4):
        kept = range(stride - 1, 1024, stride)
        slope, offset = ddim_error(schedule, kept, mean_type=mean_type, to_clean=True, zero_terminal_snr=True)
        # From pure noise, x_T = 0 is the centre of the data, and DDIM carries centres exactly.
        assert offset == pytest.approx(0, abs=1e-9)
        errors.append(slope)
    # Near the clean picture sigma is a root of t, not a line, so the limit of 2 comes a little late.
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], abs=0.12)


@EVERY_MEAN
@pytest.mark.parametrize("schedule", ["scaled_linear", "cosine", "karras"])
def test_ddim_is_exact_in_any_number_of_steps_where_the_data_is_one_picture(schedule, mean_type):
    # With no spread, x0_hat never changes, so the steps have nothing to be wrong about.
    for count in (1, 3, 10):
        kept = [*range(0, 1000, 1000 // count)][:count]
        process, model, _, _ = one_dimensional(schedule, 1000, 0.0, kept=kept, mean_type=mean_type)
        x = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
        for t in reversed(range(count)):
            x = process.ddim_sample(model, x, t, clip_x0=False, noise=torch.zeros_like(x)).x_prev
        assert x.flatten().tolist() == pytest.approx([CENTRE] * 3, abs=1e-6)
