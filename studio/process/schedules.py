"""Noise schedules: how much of the picture is left at every timestep.

    x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps,    eps ~ N(0, I)
    alpha_t = 1 - beta_t,   alpha_bar_t = alpha_0 * ... * alpha_t,   t = 0 .. T-1 (0 = least noise)
    snr_t = alpha_bar_t / (1 - alpha_bar_t),   sigma_t = snr_t ** -0.5,   log_snr_t = log(snr_t)

A schedule is a float64 array of betas; everything else follows from it.
Ho et al. 2020 (arXiv:2006.11239), Nichol & Dhariwal 2021 (arXiv:2102.09672),
Karras et al. 2022 (arXiv:2206.00364), Lin et al. 2023 (arXiv:2305.08891), Esser et al. 2024 (arXiv:2403.03206).
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, repeat
from numbers import Real

import numpy as np

from studio.errors import InvalidOption, UnknownName

__all__ = [
    "SCHEDULES", "CURVES", "ScheduleInfo", "make_betas", "schedule_options", "rescale_zero_terminal_snr",
    "alphas_cumprod", "betas_from_alphas_cumprod", "space_timesteps", "spaced_timesteps", "parse_timesteps", "respace_betas", "curves",
]

Array = np.ndarray
MAX_RESPACING = 1_000
MAX_TIMESTEPS = 10_000
# The largest beta that a schedule built from a ratio may have; 1 would destroy the picture in one step.
MAX_BETA = 0.999


# --- the schedules -------------------------------------------------------------------------------------------

def linear(num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Array:
    """Betas on a line; the ends are given for T = 1000 and scaled by 1000/T (Ho et al. 2020)."""
    scale = 1000 / num_timesteps
    return np.linspace(scale * beta_start, scale * beta_end, num_timesteps)


def scaled_linear(num_timesteps: int, beta_start: float = 0.00085, beta_end: float = 0.012) -> Array:
    """Square roots of the betas on a line: Stable Diffusion's schedule (not rescaled with T, as there)."""
    return np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps) ** 2


def sqrt_linear(num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Array:
    """Betas on a line between fixed ends: the name of latent-diffusion's code, where "linear" is scaled_linear.

    Equal to `linear` at T = 1000; the ends are not rescaled with T, so a short process keeps much of the picture.
    """
    return np.linspace(beta_start, beta_end, num_timesteps)


def sqrt(num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> Array:
    """Betas are the square roots of a line (latent-diffusion's "sqrt"): the picture is gone within the first steps."""
    return np.sqrt(np.linspace(beta_start, beta_end, num_timesteps))


def cosine(num_timesteps: int, offset: float = 0.008, power: float = 2.0) -> Array:
    """alpha_bar(u) = cos((u + s) / (1 + s) * pi/2) ** power, beta capped at 0.999 (Nichol & Dhariwal 2021)."""
    u = np.linspace(0, 1, num_timesteps + 1)
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** power
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


def sigmoid(num_timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02, steepness: float = 6.0) -> Array:
    """Betas follow a logistic curve over [-steepness, steepness], ends scaled by 1000/T."""
    scale = 1000 / num_timesteps
    logistic = 1 / (1 + np.exp(-np.linspace(-steepness, steepness, num_timesteps)))
    return scale * (beta_start + (beta_end - beta_start) * logistic)


def karras(num_timesteps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Array:
    """EDM's noise levels: sigma ** (1/rho) on a line (Karras et al. 2022), as the betas that give those sigmas."""
    if not 0 < sigma_min < sigma_max:
        raise InvalidOption(f"karras needs 0 < sigma_min < sigma_max, but {sigma_min=} and {sigma_max=}.")
    ramp = np.linspace(0, 1, num_timesteps)
    sigma = (sigma_min ** (1 / rho) + ramp * (sigma_max ** (1 / rho) - sigma_min ** (1 / rho))) ** rho
    return betas_from_alphas_cumprod(1 / (1 + sigma**2))


def flow(num_timesteps: int, shift: float = 1.0) -> Array:
    """Flow matching, x = (1 - s) x0 + s eps, as the variance-preserving schedule of the same SNR.

    s runs over (0, 1] and is bent by s -> shift s / (1 + (shift - 1) s) (Esser et al. 2024); shift > 1 spends
    more steps in the noise. The last step is pure noise, so the terminal SNR is zero.
    """
    if shift <= 0:
        raise InvalidOption(f"flow needs a shift above 0, but {shift=}.")
    s = np.linspace(0, 1, num_timesteps + 1)[1:]
    s = shift * s / (1 + (shift - 1) * s)
    return betas_from_alphas_cumprod((1 - s) ** 2 / ((1 - s) ** 2 + s**2))


@dataclass(frozen=True, kw_only=True)
class ScheduleInfo:
    """A menu entry: the function that makes the betas, and what it is known for."""

    make: Callable[..., Array]
    label: str
    about: str


SCHEDULES: dict[str, ScheduleInfo] = {
    "linear": ScheduleInfo(make=linear, label="Linear", about="DDPM, 2020: the first; spends many steps in near-pure noise."),
    "scaled_linear": ScheduleInfo(make=scaled_linear, label="Scaled linear", about="Stable Diffusion; keeps a trace of the picture at the end."),
    "cosine": ScheduleInfo(make=cosine, label="Cosine", about="Improved DDPM, 2021: destroys the picture evenly."),
    "sigmoid": ScheduleInfo(make=sigmoid, label="Sigmoid", about="Flat ends, steep middle."),
    "sqrt_linear": ScheduleInfo(make=sqrt_linear, label="Linear, fixed ends", about="Latent diffusion's sqrt_linear: a line that is not rescaled with T."),
    "sqrt": ScheduleInfo(make=sqrt, label="Square root", about="Noise comes within the first steps."),
    "karras": ScheduleInfo(make=karras, label="EDM (Karras)", about="Noise levels from 0.002 to 80, dense where detail is decided."),
    "flow": ScheduleInfo(make=flow, label="Flow matching", about="Rectified flow's straight line, at the same SNR."),
}


def make_betas(name: str, num_timesteps: int = 1000, *, zero_terminal_snr: bool = False, **options: float) -> Array:
    """The betas of a schedule.

    Args:
        name: a key of SCHEDULES.
        num_timesteps: T, 1 to 10,000.
        zero_terminal_snr: rescale so that the last timestep is pure noise (Lin et al. 2023).
        options: the parameters of the schedule's own function (see `schedule_options`).
    Returns:
        (T,) float64 in (0, 1]; 1 only where the SNR is zero.
    Raises:
        UnknownName: no such schedule. InvalidOption: T, a parameter, or the betas they give are out of range.
    """
    if name not in SCHEDULES:
        raise UnknownName.of("noise schedule", name, SCHEDULES)
    num_timesteps = _whole_num_timesteps(num_timesteps)
    unknown = set(options) - set(schedule_options(name))
    if unknown:
        raise InvalidOption(f"Schedule {name!r} takes {', '.join(schedule_options(name))}; leave out {', '.join(sorted(unknown))}.")
    with np.errstate(all="ignore"):
        betas = np.asarray(SCHEDULES[name].make(num_timesteps, **options), dtype=np.float64)
    _check_betas(name, betas)
    return rescale_zero_terminal_snr(betas) if zero_terminal_snr else betas


def schedule_options(name: str) -> dict[str, float]:
    """The parameters of a schedule and their defaults. Raises UnknownName."""
    if name not in SCHEDULES:
        raise UnknownName.of("noise schedule", name, SCHEDULES)
    parameters = inspect.signature(SCHEDULES[name].make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _whole_num_timesteps(num_timesteps: int) -> int:
    # A form's number field may say 1000.0, or None when it is empty.
    if isinstance(num_timesteps, bool) or not isinstance(num_timesteps, Real) or not 1 <= num_timesteps <= MAX_TIMESTEPS or num_timesteps % 1:
        raise InvalidOption(f"The number of timesteps must be a whole number from 1 to {MAX_TIMESTEPS}, but {num_timesteps=}.")
    return int(num_timesteps)


def _check_betas(name: str, betas: Array) -> None:
    # 1 - beta < 1 refuses also the betas that float64 cannot tell from 0.
    if not np.all(1 - betas < 1) or betas.max() > 1 or np.any(betas[:-1] >= 1):
        low, high = betas.min(), betas.max()
        raise InvalidOption(
            f"Schedule {name!r} with these parameters gives betas from {low:.4g} to {high:.4g}, and they must lie in (0, 1); "
            f"use more timesteps or a smaller beta_end."
        )


# --- from betas to everything else ---------------------------------------------------------------------------

def alphas_cumprod(betas: Array) -> Array:
    """alpha_bar_t = prod (1 - beta), (T,) float64 in [0, 1); 0 where float64 no longer holds it in full."""
    alpha_bar = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    # Below this the product stops falling: 0.9 times the least number rounds back to it.
    return np.where(alpha_bar < np.finfo(np.float64).tiny, 0.0, alpha_bar)


def betas_from_alphas_cumprod(alpha_bar: Array) -> Array:
    """The betas whose cumulative product is `alpha_bar`: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}.

    A step from nothing to nothing (zero SNR, or below what float64 can hold) has beta 1.
    """
    previous = np.append(1.0, alpha_bar[:-1])
    return 1 - np.divide(alpha_bar, previous, out=np.zeros_like(previous), where=previous > 0)


def rescale_zero_terminal_snr(betas: Array) -> Array:
    """Shift and stretch sqrt(alpha_bar) so that it ends at 0 and still starts where it did (Lin et al. 2023, arXiv:2305.08891, alg. 1).

    Raises:
        InvalidOption: a single timestep, or betas that are 0 throughout.
    """
    root = np.sqrt(alphas_cumprod(betas))
    if len(root) == 1 or root[0] == root[-1]:
        raise InvalidOption(f"Zero terminal SNR needs at least 2 timesteps that differ, but there are {len(root)} from {root[0]:.4g} to {root[-1]:.4g}.")
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return betas_from_alphas_cumprod(root**2)


CURVES: dict[str, str] = {
    "beta": "beta",
    "alpha_bar": "alpha-bar (signal power)",
    "sqrt_alpha_bar": "signal scale  sqrt(alpha-bar)",
    "sqrt_one_minus_alpha_bar": "noise scale  sqrt(1 - alpha-bar)",
    "snr": "SNR",
    "log_snr": "log-SNR",
    "sigma": "sigma (noise to signal)",
    "posterior_variance": "posterior variance",
    "posterior_mean_coef1": "posterior mean: weight of x0",
    "posterior_mean_coef2": "posterior mean: weight of x_t",
}


def curves(betas: Array) -> dict[str, Array]:
    """Every derived curve of a schedule against t, keyed as CURVES; (T,) float64 each.

    At zero SNR, log_snr is -inf and sigma is inf; the posterior at t = 0 has variance 0 and mean x0.
    """
    betas = np.asarray(betas, dtype=np.float64)
    alpha_bar = alphas_cumprod(betas)
    previous = np.append(1.0, alpha_bar[:-1])
    with np.errstate(divide="ignore"):
        snr = alpha_bar / (1 - alpha_bar)
        return {
            "beta": betas,
            "alpha_bar": alpha_bar,
            "sqrt_alpha_bar": np.sqrt(alpha_bar),
            "sqrt_one_minus_alpha_bar": np.sqrt(1 - alpha_bar),
            "snr": snr,
            "log_snr": np.log(snr),
            "sigma": 1 / np.sqrt(snr),
            "posterior_variance": betas * (1 - previous) / (1 - alpha_bar),
            "posterior_mean_coef1": betas * np.sqrt(previous) / (1 - alpha_bar),
            "posterior_mean_coef2": (1 - previous) * np.sqrt(1 - betas) / (1 - alpha_bar),
        }


# --- respacing -----------------------------------------------------------------------------------------------

def space_timesteps(num_timesteps: int, section_counts: str | Sequence[int]) -> list[int]:
    """Which of T timesteps a shorter process keeps, as improved-diffusion chooses them (Nichol & Dhariwal 2021, arXiv:2102.09672).

    Checkpoints are published with these timesteps, so a stride that is no whole number is added up in floating point and
    each sum rounded, halves to the even neighbour.

    Args:
        num_timesteps: T.
        section_counts: "ddimN" for one whole-number stride that yields exactly N steps, or how many steps to keep
            of each of as many equal sections, first = least noise: [10, 15, 20] or "10,15,20"; [N] spreads N evenly.
    Returns:
        Ascending timesteps in 0..T-1.
    Raises:
        InvalidOption: the request is impossible; the message says why.
    """
    num_timesteps = _whole_num_timesteps(num_timesteps)
    counts = parse_timesteps(section_counts)
    if isinstance(counts, int):
        return _ddim_stride(num_timesteps, counts)
    size, extra = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        kept += [start + step for step in _strided(length, count, section)]
        start += length
    return kept


def parse_timesteps(text: str | Sequence[int]) -> int | list[int]:
    """"ddim50" -> 50; "10,15,20" or [10, 15, 20] -> [10, 15, 20]. Raises InvalidOption."""
    if not isinstance(text, str):
        counts = list(text)
        if any(isinstance(count, bool) or not isinstance(count, Real) or count % 1 for count in counts):
            raise InvalidOption(f"Respacing needs whole numbers of steps, but they are {counts}.")
        counts = [int(count) for count in counts]
    elif len(text) > MAX_RESPACING:
        raise InvalidOption(f"Respacing is written like 'ddim50' or '10,15,20', but it has {len(text):,} characters.")
    elif match := re.fullmatch(r"ddim\s*(-?\d+)", text.strip().lower()):
        return int(match[1])
    else:
        try:
            counts = [int(part) for part in text.split(",")]
        except ValueError:
            raise InvalidOption(f"Respacing is written like 'ddim50' or '10,15,20', but it is {text!r}.") from None
    if not counts:
        raise InvalidOption("Respacing needs at least one count, such as '50' or '10,15,20'.")
    return counts


def _ddim_stride(num_timesteps: int, count: int) -> list[int]:
    for stride in range(1, num_timesteps + 1):
        if len(range(0, num_timesteps, stride)) == count:
            return list(range(0, num_timesteps, stride))
    raise InvalidOption(f"No whole-number stride takes exactly {count} of {num_timesteps} timesteps; {_near_counts(num_timesteps, count)}.")


def _near_counts(num_timesteps: int, count: int) -> str:
    possible = sorted({len(range(0, num_timesteps, stride)) for stride in range(1, num_timesteps + 1)}, key=lambda n: abs(n - count))
    return f"the nearest that work are {' and '.join(f'ddim{n}' for n in possible[:2])}"


def _strided(length: int, count: int, section: int) -> list[int]:
    """`count` steps spread over 0..length-1, both ends kept."""
    if count < 1 or count > length:
        raise InvalidOption(f"Section {section + 1} has {length} timesteps, so it can keep 1 to {length} of them, not {count}.")
    stride = (length - 1) / (count - 1) if count > 1 else 1.0
    # Added up, not multiplied: the last bits of the sums decide to which side a half goes.
    return [round(position) for position in accumulate(repeat(stride, count - 1), initial=0.0)]


def respace_betas(betas: Array, timesteps: Sequence[int]) -> Array:
    """The betas of the process that visits only `timesteps`: it has the same alpha_bar at each of them. Raises InvalidOption where they do not ascend."""
    kept = np.asarray(timesteps, dtype=int)
    # Between -1 and T, every timestep must be above the one before it.
    fenced = np.concatenate([[-1], kept, [len(betas)]])
    falls = np.flatnonzero(np.diff(fenced) <= 0)
    if kept.size == 0 or falls.size:
        wrong = f"{fenced[falls[0] + 1]} follows {fenced[falls[0]]}" if falls.size else "there are none"
        raise InvalidOption(f"Timesteps must ascend within 0..{len(betas) - 1}, but {wrong}.")
    return betas_from_alphas_cumprod(alphas_cumprod(betas)[kept])


SPACINGS = ("leading", "trailing", "linspace")


def spaced_timesteps(num_timesteps: int, num_steps: int, spacing: str = "trailing") -> list[int]:
    """N of T timesteps, ascending, as diffusers' schedulers choose them.

    "trailing" starts at pure noise, T-1; "leading" starts a stride below it and ends at 0; "linspace" has both ends.
    Raises InvalidOption, UnknownName.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise InvalidOption(f"The model knows {num_timesteps} timesteps, so the number of steps must be 1 to {num_timesteps}, but {num_steps=}.")
    if spacing not in SPACINGS:
        raise UnknownName.of("timestep spacing", spacing, SPACINGS)
    if spacing == "trailing":
        # Counted, not stepped down to 0: rounding would let one step too many in, at t = -1 (61 of 1000).
        return sorted((np.round(num_timesteps - np.arange(num_steps) * (num_timesteps / num_steps)) - 1).astype(int).tolist())
    if spacing == "leading":
        return (np.arange(num_steps) * (num_timesteps // num_steps)).tolist()
    return np.linspace(0, num_timesteps - 1, num_steps).round().astype(int).tolist()
