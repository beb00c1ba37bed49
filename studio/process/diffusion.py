"""The mathematics of one diffusion step, DDPM and DDIM.

    q(x_t | x_0)       = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)
    q(x_{t-1} | x_t, x_0) = N(coef1_t x_0 + coef2_t x_t, posterior_variance_t I)
    p(x_{t-1} | x_t)   = the same with the model's x0_hat in place of x_0
    DDIM: x_prev = sqrt(ab_prev) x0_hat + sqrt(1 - ab_prev - sigma^2) eps_hat + sigma z

Ho et al. 2020 (arXiv:2006.11239), Nichol & Dhariwal 2021 (arXiv:2102.09672), Song et al. 2021 (arXiv:2010.02502),
Salimans & Ho 2022 (arXiv:2202.00512) for v.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption, UnknownName
from studio.process import schedules
from studio.process.conversions import NoiseLevel, eps_from, output_from, x0_from
from studio.process.kinds import LOSS_TYPES, MEAN_TYPES, VAR_TYPES

__all__ = ["GaussianDiffusion", "Gaussian", "Estimate", "Step", "Model", "MEAN_TYPES", "VAR_TYPES", "LOSS_TYPES"]

# A timestep of the whole batch, or one per picture. A plain int needs no look-up on the device, so loops use it.
Time = int | Tensor
Model = Callable[[Tensor, Tensor], Tensor]


class Gaussian(NamedTuple):
    """A diagonal normal distribution over pictures: each (B, C, H, W), or broadcastable to it."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


class Estimate(NamedTuple):
    """What the model predicts at x_t: p(x_{t-1} | x_t), and the x0_hat and eps_hat behind it, (B, C, H, W) each."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    x0_hat: Tensor
    eps_hat: Tensor


class Step(NamedTuple):
    """One step taken: the next state, and the estimates that led there (of the step's own timestep)."""

    x_prev: Tensor
    x0_hat: Tensor
    eps_hat: Tensor


class GaussianDiffusion:
    """A forward process q given by its betas, and the reverse process p that a model defines on it.

    Args:
        betas: (T,) in (0, 1].
        mean_type: what the model predicts: "epsilon", "sample" (x_0), "v_prediction", or "previous" (x_{t-1}).
        var_type: "fixed_small" (posterior variance), "fixed_large" (beta), or with 2C output channels "learned"
            (log-variance) or "learned_range" (-1..1 from the posterior log-variance to log beta).
        loss_type: "mse", "rescaled_mse", "kl" (bits/dim), "rescaled_kl" (their sum over T).
        timesteps: (T,) what the model is told at each step; 0..T-1 unless the process was respaced.
    Raises:
        UnknownName, InvalidOption.
    """

    def __init__(
        self,
        betas: Sequence[float] | np.ndarray,
        *,
        mean_type: str = "epsilon",
        var_type: str = "fixed_small",
        loss_type: str = "mse",
        timesteps: Sequence[int] | None = None,
    ):
        for kind, name, menu in (("mean type", mean_type, MEAN_TYPES), ("variance type", var_type, VAR_TYPES), ("loss type", loss_type, LOSS_TYPES)):
            if name not in menu:
                raise UnknownName.of(kind, name, menu)
        self.mean_type, self.var_type, self.loss_type = mean_type, var_type, loss_type
        self.betas = np.asarray(betas, dtype=np.float64)
        if self.betas.ndim != 1 or not len(self.betas):
            raise InvalidOption(f"betas must be a list of numbers, but {self.betas.shape=}.")
        # 1 - beta < 1 refuses also NaN and the betas that float64 cannot tell from 0.
        if not np.all(1 - self.betas < 1) or self.betas.max() > 1:
            raise InvalidOption(f"betas must lie in (0, 1], but they run from {self.betas.min():.4g} to {self.betas.max():.4g}.")
        self.num_timesteps = len(self.betas)
        self.timesteps = list(range(self.num_timesteps)) if timesteps is None else [int(t) for t in timesteps]
        if len(self.timesteps) != self.num_timesteps:
            raise InvalidOption(f"There must be one timestep per beta, but {len(self.timesteps)=} and {self.num_timesteps=}.")
        self._tables = _tables(self.betas)
        self._on_device: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def respaced(self, timesteps: Sequence[int]) -> "GaussianDiffusion":
        """The shorter process that visits only `timesteps` (ascending indices of this one) at the same noise levels."""
        return GaussianDiffusion(
            schedules.respace_betas(self.betas, timesteps), mean_type=self.mean_type, var_type=self.var_type,
            loss_type=self.loss_type, timesteps=[self.timesteps[t] for t in timesteps],
        )

    @property
    def learns_variance(self) -> bool:
        """Whether the model has 2C output channels."""
        return self.var_type in ("learned", "learned_range")

    def coefficient(self, name: str, t: int) -> float:
        """One number of a float64 table, such as coefficient("alpha_bar", 10); names as in `schedules.CURVES`."""
        return float(self._tables[name][t])

    def _at(self, name: str, t: Time, like: Tensor) -> Tensor | float:
        """The table's entries at t, shaped to broadcast over `like`; float32, or float64 where `like` is."""
        dtype = _compute_dtype(like)
        if isinstance(t, int):
            value = float(self._tables[name][t])
            # A number takes the dtype of the tensor beside it, so half precision needs a tensor to be lifted out of it.
            return value if like.dtype == dtype else like.new_full([1] * like.ndim, value, dtype=dtype)
        key = (name, like.device, dtype)
        if key not in self._on_device:
            # Cast before moving: some devices (MPS) have no float64.
            self._on_device[key] = torch.from_numpy(self._tables[name]).to(dtype).to(like.device)
        return self._on_device[key][t].reshape(-1, *[1] * (like.ndim - 1))

    def _full(self, name: str, t: Time, like: Tensor) -> Tensor:
        value = self._at(name, t, like)
        return value if isinstance(value, Tensor) else like.new_full([1] * like.ndim, value, dtype=_compute_dtype(like))

    # --- the forward process ---------------------------------------------------------------------------------

    def q_mean_variance(self, x0: Tensor, t: Time) -> Gaussian:
        """q(x_t | x_0) for x0 (B, C, H, W) and t in 0..T-1."""
        return Gaussian(
            self._at("sqrt_alpha_bar", t, x0) * x0,
            self._full("one_minus_alpha_bar", t, x0),
            self._full("log_one_minus_alpha_bar", t, x0),
        )

    def q_sample(self, x0: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """x_t drawn from q(x_t | x_0) in one jump; `noise` is eps, (B, C, H, W), drawn if not given."""
        noise = torch.randn_like(x0) if noise is None else noise
        return self._at("sqrt_alpha_bar", t, x0) * x0 + self._at("sqrt_one_minus_alpha_bar", t, x0) * noise

    def q_step(self, x_prev: Tensor, t: Time, noise: Tensor | None = None) -> Tensor:
        """x_t drawn from q(x_t | x_{t-1}): a single step of the chain; x_{-1} is the clean picture."""
        noise = torch.randn_like(x_prev) if noise is None else noise
        return self._at("sqrt_alpha", t, x_prev) * x_prev + self._at("sqrt_beta", t, x_prev) * noise

    def q_posterior_mean_variance(self, x0: Tensor, x_t: Tensor, t: Time) -> Gaussian:
        """q(x_{t-1} | x_t, x_0): where the state came from, were x_0 known. Its log-variance is clipped at t = 0."""
        return Gaussian(
            self._posterior_mean(x0, x_t, t),
            self._full("posterior_variance", t, x_t),
            self._full("posterior_log_variance", t, x_t),
        )

    def _posterior_mean(self, x0: Tensor, x_t: Tensor, t: Time) -> Tensor:
        return self._at("posterior_mean_coef1", t, x_t) * x0 + self._at("posterior_mean_coef2", t, x_t) * x_t

    # --- conversions between eps, x0, v, previous and score ---------------------------------------------------

    def _level(self, t: Time, like: Tensor) -> NoiseLevel:
        """The noise levels at t, shaped to broadcast over `like`."""
        posterior = None
        if self.mean_type == "previous":
            posterior = (self._at("posterior_mean_coef1", t, like), self._at("posterior_mean_coef2", t, like))
        return NoiseLevel(timestep=0.0, alpha=self._at("sqrt_alpha_bar", t, like), sigma=self._at("sqrt_one_minus_alpha_bar", t, like), posterior=posterior)

    def x0_from_eps(self, x_t: Tensor, eps: Tensor, t: Time) -> Tensor:
        """x_0 = (x_t - sqrt(1 - ab) eps) / sqrt(ab). Undefined at zero SNR, where eps says nothing of x_0."""
        return x0_from("epsilon", eps, x_t, self._level(t, x_t))

    def eps_from_x0(self, x_t: Tensor, x0: Tensor, t: Time) -> Tensor:
        """eps = (x_t - sqrt(ab) x_0) / sqrt(1 - ab)."""
        return eps_from("sample", x0, x_t, x0, self._level(t, x_t))

    def x0_from_v(self, x_t: Tensor, v: Tensor, t: Time) -> Tensor:
        """x_0 = sqrt(ab) x_t - sqrt(1 - ab) v."""
        return x0_from("v_prediction", v, x_t, self._level(t, x_t))

    def eps_from_v(self, x_t: Tensor, v: Tensor, t: Time) -> Tensor:
        """eps = sqrt(1 - ab) x_t + sqrt(ab) v."""
        return eps_from("v_prediction", v, x_t, None, self._level(t, x_t))

    def v_from_x0_eps(self, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
        """v = sqrt(ab) eps - sqrt(1 - ab) x_0 (Salimans & Ho 2022)."""
        return output_from("v_prediction", x0, eps, self._level(t, x0))

    def score_from_eps(self, eps: Tensor, t: Time) -> Tensor:
        """The score, grad log q(x_t) = -eps / sqrt(1 - ab)."""
        return -eps / self._at("sqrt_one_minus_alpha_bar", t, eps)

    def eps_from_score(self, score: Tensor, t: Time) -> Tensor:
        """eps = -sqrt(1 - ab) score."""
        return -self._at("sqrt_one_minus_alpha_bar", t, score) * score

    def x0_from_prediction(self, x_t: Tensor, prediction: Tensor, t: Time) -> Tensor:
        """x0_hat (B, C, H, W), not clipped, from the model's output of whatever mean type."""
        return x0_from(self.mean_type, prediction, x_t, self._level(t, x_t))

    def target(self, x0: Tensor, x_t: Tensor, noise: Tensor, t: Time) -> Tensor:
        """What a model of this mean type should have said, (B, C, H, W)."""
        if self.mean_type == "epsilon":
            return noise
        if self.mean_type == "v_prediction":
            return self.v_from_x0_eps(x0, noise, t)
        if self.mean_type == "previous":
            return self._posterior_mean(x0, x_t, t)
        return x0

    # --- the reverse process ---------------------------------------------------------------------------------

    def estimate(self, output: Tensor, x_t: Tensor, t: Time, *, clip_x0: bool = True) -> Estimate:
        """p(x_{t-1} | x_t) from the model's raw output, (B, C, H, W), or (B, 2C, H, W) where it learns the variance.

        x0_hat is clipped to [-1, 1] before the mean is computed, if asked, and eps_hat is re-derived from it. The output of a
        "previous" model is the mean itself: clipping changes what is reported as x0_hat and eps_hat, not the mean.
        """
        prediction, log_variance = self._split(output, x_t, t)
        x0_hat = self.x0_from_prediction(x_t, prediction, t)
        if clip_x0:
            x0_hat = x0_hat.clamp(-1, 1)
        mean = prediction if self.mean_type == "previous" else self._posterior_mean(x0_hat, x_t, t)
        variance = log_variance.exp() if self.learns_variance else self._full(_VARIANCE[self.var_type], t, x_t)
        return Estimate(mean, variance, log_variance, x0_hat, self._eps_hat(prediction, x0_hat, x_t, t, clip_x0))

    def _eps_hat(self, prediction: Tensor, x0_hat: Tensor, x_t: Tensor, t: Time, clip_x0: bool) -> Tensor:
        if self.mean_type == "epsilon" and not clip_x0:
            return prediction
        if self.mean_type == "v_prediction" and not clip_x0:
            return self.eps_from_v(x_t, prediction, t)
        return self.eps_from_x0(x_t, x0_hat, t)

    def _split(self, output: Tensor, x_t: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        channels = x_t.shape[1]
        expected = 2 * channels if self.learns_variance else channels
        if output.shape[1] != expected:
            raise InvalidOption(f"A model with variance {self.var_type!r} must give {expected} channels, but it gives {output.shape[1]}.")
        # A half-precision model must not make the mathematics half precision.
        output = output.to(_compute_dtype(x_t))
        if not self.learns_variance:
            return output, self._full(_LOG_VARIANCE[self.var_type], t, x_t)
        prediction, extra = output.split(channels, dim=1)
        return prediction, extra if self.var_type == "learned" else self._in_range(extra, x_t, t)

    def _in_range(self, extra: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Log-variance between the (clipped) posterior's and log beta (Nichol & Dhariwal 2021, eq. 15)."""
        share = (extra + 1) / 2
        return share * self._at("log_beta", t, x_t) + (1 - share) * self._at("posterior_log_variance", t, x_t)

    def predict(self, model: Model, x_t: Tensor, t: Time) -> Tensor:
        """The model's raw output at x_t; it is told the original timestep where the process is respaced."""
        if isinstance(t, int):
            return model(x_t, torch.full((x_t.shape[0],), self.timesteps[t], device=x_t.device))
        return model(x_t, torch.as_tensor(self.timesteps, device=t.device)[t])

    def p_mean_variance(self, model: Model, x_t: Tensor, t: Time, clip_x0: bool = True) -> Estimate:
        """p(x_{t-1} | x_t) for a model called as model(x_t, timesteps (B,)): mean, variance, log_variance, x0_hat, eps_hat."""
        return self.estimate(self.predict(model, x_t, t), x_t, t, clip_x0=clip_x0)

    def p_step(self, estimate: Estimate, t: Time, noise: Tensor | None) -> Tensor:
        """x_{t-1} = mean + std * noise, and the mean alone at t = 0, where `noise` may be None."""
        if isinstance(t, int) and t == 0:
            return estimate.mean
        if noise is None:
            raise InvalidOption(f"A DDPM step draws noise everywhere but at t = 0; give it at {t=}.")
        if isinstance(t, int):
            return estimate.mean + (0.5 * estimate.log_variance).exp() * noise
        alive = (t > 0).reshape(-1, *[1] * (noise.ndim - 1))
        return estimate.mean + alive * (0.5 * estimate.log_variance).exp() * noise

    def p_sample(self, model: Model, x_t: Tensor, t: Time, *, clip_x0: bool = True, noise: Tensor | None = None) -> Step:
        """One DDPM step from x_t (B, C, H, W) at t to t - 1."""
        estimate = self.p_mean_variance(model, x_t, t, clip_x0)
        noise = torch.randn_like(x_t) if noise is None else noise
        return Step(self.p_step(estimate, t, noise), estimate.x0_hat, estimate.eps_hat)

    def ddim_sigma(self, t: Time, eta: float, like: Tensor) -> Tensor | float:
        """sigma = eta sqrt((1 - ab_prev) / (1 - ab)) sqrt(1 - ab / ab_prev); eta = 1 is DDPM's posterior deviation."""
        return eta * self._at("posterior_std", t, like)

    def ddim_step(self, estimate: Estimate, t: Time, *, eta: float, noise: Tensor | None) -> Tensor:
        """The next state by DDIM; `noise` may be None where eta is 0."""
        x0_hat, eps_hat = estimate.x0_hat, estimate.eps_hat
        # 1 - ab_prev - sigma^2 as a sum of positive terms: as a difference it would lose its digits in float32.
        deterministic = self._at("posterior_mean_coef2", t, x0_hat) * self._at("sqrt_one_minus_alpha_bar", t, x0_hat)
        direction = (deterministic**2 + (1 - eta**2) * self._at("posterior_variance", t, x0_hat)) ** 0.5
        x_prev = self._at("sqrt_alpha_bar_prev", t, x0_hat) * x0_hat + direction * eps_hat
        return x_prev if eta == 0 or noise is None else x_prev + self.ddim_sigma(t, eta, noise) * noise

    def ddim_sample(self, model: Model, x_t: Tensor, t: Time, *, eta: float = 0.0, clip_x0: bool = True, noise: Tensor | None = None) -> Step:
        """One DDIM step; eta from 0 (deterministic) to 1 (DDPM)."""
        if not 0 <= eta <= 1:
            raise InvalidOption(f"eta runs from 0 (deterministic) to 1 (as random as DDPM), but {eta=}.")
        estimate = self.p_mean_variance(model, x_t, t, clip_x0)
        noise = torch.randn_like(x_t) if noise is None else noise
        return Step(self.ddim_step(estimate, t, eta=eta, noise=noise), estimate.x0_hat, estimate.eps_hat)

    # --- losses ----------------------------------------------------------------------------------------------

    def training_losses(self, model: Model, x0: Tensor, t: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of each picture, (B,), under "loss", with its parts "mse" and "vb" (bits/dim) where they are computed.

        x0: (B, C, H, W) in [-1, 1]; t: (B,) int64.
        """
        noise = torch.randn_like(x0) if noise is None else noise
        x_t = self.q_sample(x0, t, noise)
        output = self.predict(model, x_t, t)
        if self.loss_type in ("kl", "rescaled_kl"):
            vb = self._bound(output, x0, x_t, t)
            return {"loss": vb * self.num_timesteps if self.loss_type == "rescaled_kl" else vb, "vb": vb}
        prediction = output[:, : x0.shape[1]]
        mse = _mean_flat((self.target(x0, x_t, noise, t) - prediction) ** 2)
        if not self.learns_variance:
            return {"loss": mse, "mse": mse}
        # The bound trains the variance alone: its gradient must not reach the mean.
        vb = self._bound(torch.cat([prediction.detach(), output[:, x0.shape[1] :]], dim=1), x0, x_t, t)
        # rescaled_mse weighs it T/1000, as in the reference; with T = 1000 that is the plain sum over steps / 1000.
        weight = self.num_timesteps / 1000 if self.loss_type == "rescaled_mse" else 1.0
        return {"loss": mse + weight * vb, "mse": mse, "vb": vb}

    def _bound(self, output: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """One term of the variational bound in bits/dim, (B,): KL for t > 0, the decoder's likelihood at t = 0."""
        true = self.q_posterior_mean_variance(x0, x_t, t)
        model = self.estimate(output, x_t, t, clip_x0=False)
        kl = _mean_flat(_normal_kl(true, model)) / math.log(2)
        nll = _mean_flat(-_discretized_log_likelihood(x0, model.mean, 0.5 * model.log_variance)) / math.log(2)
        return torch.where(t == 0, nll, kl)


_VARIANCE = {"fixed_small": "posterior_variance", "fixed_large": "fixed_large_variance"}
_LOG_VARIANCE = {"fixed_small": "posterior_log_variance", "fixed_large": "fixed_large_log_variance"}


def _tables(betas: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that depends on t alone, (T,) float64 each."""
    table = schedules.curves(betas)
    alpha_bar, posterior_variance = table["alpha_bar"], table["posterior_variance"]
    # The posterior variance is 0 at t = 0; its log takes the next step's, and with it beta's first entry.
    clipped = np.append(posterior_variance[1:2] if len(betas) > 1 else betas[:1], posterior_variance[1:])
    large = np.append(clipped[:1], betas[1:])
    return table | {
        "sqrt_alpha_bar_prev": np.sqrt(np.append(1.0, alpha_bar[:-1])),
        "one_minus_alpha_bar": 1 - alpha_bar,
        "log_one_minus_alpha_bar": np.log(1 - alpha_bar),
        "sqrt_alpha": np.sqrt(1 - betas),
        "sqrt_beta": np.sqrt(betas),
        "log_beta": np.log(betas),
        "posterior_log_variance": np.log(clipped),
        "posterior_std": np.sqrt(posterior_variance),
        "fixed_large_variance": large,
        "fixed_large_log_variance": np.log(large),
    }


def _compute_dtype(like: Tensor) -> torch.dtype:
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _mean_flat(x: Tensor) -> Tensor:
    return x.flatten(1).mean(dim=1)


def _normal_kl(p: Gaussian, q: Estimate) -> Tensor:
    """KL(p || q) of diagonal normals, elementwise, in nats."""
    return 0.5 * (q.log_variance - p.log_variance + (p.log_variance - q.log_variance).exp() - 1 + (p.mean - q.mean) ** 2 * (-q.log_variance).exp())


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log P of 8-bit x in [-1, 1] under a normal, each value a bin 2/255 wide, the end bins open (Ho et al. 2020, eq. 13)."""
    inverse_std = (-log_std).exp()
    upper = torch.special.ndtr((x - mean + 1 / 255) * inverse_std)
    lower = torch.special.ndtr((x - mean - 1 / 255) * inverse_std)
    floor = 1e-12
    middle = (upper - lower).clamp(min=floor).log()
    return torch.where(x < -0.999, upper.clamp(min=floor).log(), torch.where(x > 0.999, (1 - lower).clamp(min=floor).log(), middle))
