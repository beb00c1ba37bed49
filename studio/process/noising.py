"""Adding noise to a picture: in one jump, and step by step.

    closed form:  x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps,        eps ~ N(0, I)
    the chain:    x_0 = sqrt(1 - beta_0) x0 + sqrt(beta_0) z_0,  x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) z_s,  s = 1..t
    two independent draws of q(x_t | x0) differ by a normal of mean 0 and variance 2 (1 - alpha_bar_t)

Ho et al. 2020 (arXiv:2006.11239), eq. 2 and 4. numpy only. Noise is drawn on the CPU, in float32, by
`numpy.random.default_rng(seed)`, in the picture's own order (H, W, 3): the same seed gives the same eps everywhere.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from studio.checks import MAX_SEED, require_float, require_int
from studio.errors import InvalidOption
from studio.process import schedules

__all__ = [
    "NoiseOptions", "Coefficients", "ChainProgress", "ChainFinished", "Moments", "Histogram",
    "draw_eps", "noise_image", "working_copy", "compare_chain",
]

Array = np.ndarray
WORKING_SIDE = 256
SMALLEST_SIDE = 64
# Seeds of the chain's noise: of another family than the jump's, so that the two are independent.
CHAIN_STREAM = 1
NUM_BINS = 64
# How many standard errors a number may lie from theory. With six numbers, chance alone passes 4 once in 2,600 runs.
TOLERATED_ERRORS = 4.0


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What x_t is made of at one timestep; sigma is inf and log_snr -inf where the SNR is zero."""

    timestep: int
    beta: float
    alpha_bar: float
    sqrt_alpha_bar: float
    sqrt_one_minus_alpha_bar: float
    snr: float
    log_snr: float
    sigma: float


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """One noised picture.

    Args:
        schedule: a key of studio.process.schedules.SCHEDULES.
        num_timesteps: T, 1 to 10,000.
        parameters: of the schedule (see `schedules.schedule_options`); those left out keep their defaults.
        zero_terminal_snr: make the last timestep pure noise.
        respacing: "" for every step, or "ddim50", "10,15,20": the chain then visits only the kept timesteps (and t).
            The closed form does not change: alpha_bar belongs to the timestep.
        t: timestep, 0 (least noise) to T-1.
        seed: of the noise, 0 or more.
    Raises:
        InvalidOption, UnknownName: at construction.
    """

    schedule: str = "linear"
    num_timesteps: int = 1000
    parameters: Mapping[str, float] = field(default_factory=dict)
    zero_terminal_snr: bool = False
    respacing: str = ""
    t: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            require_float(name, value, -1e6, 1e6)
        require_int("num_timesteps", self.num_timesteps, 1, schedules.MAX_TIMESTEPS)
        if not isinstance(self.respacing, str):
            raise InvalidOption(f"respacing is text such as 'ddim50' or '10,15,20', but it is {self.respacing!r}.")
        self.kept()
        self.betas()
        require_int("t", self.t, 0, self.num_timesteps - 1)
        require_int("seed", self.seed, 0, MAX_SEED)

    def betas(self) -> Array:
        """(T,) float64, the whole process."""
        return schedules.make_betas(self.schedule, self.num_timesteps, zero_terminal_snr=self.zero_terminal_snr, **self.parameters)

    def kept(self) -> list[int]:
        """The timesteps that respacing keeps, ascending; all of them without it."""
        return schedules.space_timesteps(self.num_timesteps, self.respacing.strip() or [self.num_timesteps])

    def coefficients(self) -> Coefficients:
        """The numbers of timestep t."""
        table = schedules.curves(self.betas())
        names = ("beta", "alpha_bar", "sqrt_alpha_bar", "sqrt_one_minus_alpha_bar", "snr", "log_snr", "sigma")
        return Coefficients(timestep=self.t, **{name: float(table[name][self.t]) for name in names})


# --- one jump ------------------------------------------------------------------------------------------------

def draw_eps(shape: tuple[int, ...], seed: int) -> Array:
    """The noise of a seed: `shape` float32 from N(0, 1)."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def noise_image(picture: Image.Image | Array, options: NoiseOptions) -> Image.Image:
    """x_t as a picture of the same size. What leaves [-1, 1] is clipped, for the eye alone.

    picture: any PIL image, or (H, W, 3) uint8.
    """
    x0 = _to_unit(picture)
    at = options.coefficients()
    return _to_picture(at.sqrt_alpha_bar * x0 + at.sqrt_one_minus_alpha_bar * draw_eps(x0.shape, options.seed))


def working_copy(picture: Image.Image) -> Image.Image:
    """The size that the tab works in: the longer side at most 256 (antialiased) and at least 64 (whole-number enlarged)."""
    copy = picture.convert("RGB")
    if max(copy.size) > WORKING_SIDE:
        copy.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    factor = -(-SMALLEST_SIDE // max(copy.size))
    return copy.resize((copy.width * factor, copy.height * factor), Image.Resampling.NEAREST) if factor > 1 else copy


def _to_unit(picture: Image.Image | Array) -> Array:
    """(H, W, 3) float32 in [-1, 1]."""
    pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def _to_picture(x: Array) -> Image.Image:
    return Image.fromarray(np.rint((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8))


# --- the chain against the jump ------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class ChainProgress:
    """`index` of `num_steps` single steps are done; the state has reached `timestep`. picture: x at that timestep."""

    index: int
    num_steps: int
    timestep: int
    picture: Image.Image


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Mean and variance of `count` values that theory calls normal with mean 0 and variance `theory_variance`."""

    name: str
    count: int
    mean: float
    variance: float
    theory_variance: float

    @property
    def mean_error(self) -> float:
        """Standard error of the mean: sqrt(variance / n), by theory."""
        return math.sqrt(self.theory_variance / self.count)

    @property
    def variance_error(self) -> float:
        """Standard error of a normal's sample variance: variance sqrt(2 / (n - 1)), by theory."""
        return self.theory_variance * math.sqrt(2 / (self.count - 1))

    @property
    def mean_deviation(self) -> float:
        """How many standard errors the mean lies from 0."""
        return self.mean / self.mean_error

    @property
    def variance_deviation(self) -> float:
        """How many standard errors the variance lies from theory."""
        return (self.variance - self.theory_variance) / self.variance_error


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Shares of values per bin. edges: (65,); chain, jump, theory: (64,), each summing to at most 1."""

    edges: Array
    chain: Array
    jump: Array
    theory: Array


@dataclass(frozen=True, kw_only=True)
class ChainFinished:
    """Both ways to x_t, and how far they lie from theory."""

    options: NoiseOptions
    num_steps: int
    chain: Image.Image
    jump: Image.Image
    histogram: Histogram
    moments: tuple[Moments, ...]
    agrees: bool
    verdict: str


def compare_chain(picture: Image.Image | Array, options: NoiseOptions, num_events: int = 20) -> Iterator[ChainProgress | ChainFinished]:
    """Run the single steps 0..t and the one jump, each with noise of its own, and compare.

    Args:
        picture: any PIL image, or (H, W, 3) uint8; noised in its own size.
        num_events: about how many ChainProgress come before the ChainFinished.
    """
    x0 = _to_unit(picture)
    alpha_bar = schedules.alphas_cumprod(options.betas())
    visited = _visited(options)
    chain = np.empty_like(x0)
    for index, state in _walk(x0, alpha_bar[visited], options.seed, chain):
        if index == len(visited) or index % max(1, len(visited) // num_events) == 0:
            yield ChainProgress(index=index, num_steps=len(visited), timestep=visited[index - 1], picture=_to_picture(state))
    ab = float(alpha_bar[options.t])
    jump = np.float32(math.sqrt(ab)) * x0 + np.float32(math.sqrt(1 - ab)) * draw_eps(x0.shape, options.seed)
    yield _compare(options, len(visited), ab, x0, chain, jump)


def _visited(options: NoiseOptions) -> list[int]:
    """The timesteps the chain stops at: the kept ones below t, and t itself."""
    return [step for step in options.kept() if step < options.t] + [options.t]


def _walk(x0: Array, alpha_bar: Array, seed: int, state: Array) -> Iterator[tuple[int, Array]]:
    """x_s = sqrt(1 - beta_s) x_{s-1} + sqrt(beta_s) z_s in place, with the betas between the visited timesteps."""
    rng = np.random.default_rng([seed, CHAIN_STREAM])
    betas = schedules.betas_from_alphas_cumprod(alpha_bar)
    np.copyto(state, x0)
    z = np.empty_like(state)
    for index, beta in enumerate(betas, start=1):
        rng.standard_normal(out=z, dtype=np.float32)
        state *= np.float32(math.sqrt(1 - beta))
        z *= np.float32(math.sqrt(beta))
        state += z
        yield index, state


def _compare(options: NoiseOptions, num_steps: int, ab: float, x0: Array, chain: Array, jump: Array) -> ChainFinished:
    signal = math.sqrt(ab) * x0.astype(np.float64)
    moments = (
        _moments("the chain's noise", chain - signal, 1 - ab),
        _moments("the jump's noise", jump - signal, 1 - ab),
        _moments("chain minus jump", chain.astype(np.float64) - jump, 2 * (1 - ab)),
    )
    worst = max(max(abs(m.mean_deviation), abs(m.variance_deviation)) for m in moments)
    agrees = worst <= TOLERATED_ERRORS
    return ChainFinished(
        options=options, num_steps=num_steps, chain=_to_picture(chain), jump=_to_picture(jump),
        histogram=_histogram(signal, 1 - ab, chain, jump), moments=moments, agrees=agrees,
        verdict=_verdict(num_steps, worst, agrees),
    )


def _moments(name: str, values: Array, theory_variance: float) -> Moments:
    return Moments(name=name, count=values.size, mean=float(values.mean()), variance=float(values.var(ddof=1)), theory_variance=theory_variance)


def _verdict(num_steps: int, worst: float, agrees: bool) -> str:
    steps = "1 single step" if num_steps == 1 else f"{num_steps} single steps"
    if agrees:
        return f"Yes: {steps} and one jump give the same distribution. All six numbers lie within {worst:.1f} standard errors of theory."
    return f"Not this time: one of the six numbers lies {worst:.1f} standard errors from theory, which chance alone rarely does. Try another seed."


def _histogram(signal: Array, noise_variance: float, chain: Array, jump: Array) -> Histogram:
    """Values of both pictures in shared bins, and what theory expects: each grey level of x0 smeared by the noise."""
    limit = float(max(1.0, np.abs(chain).max(), np.abs(jump).max()))
    edges = np.linspace(-limit, limit, NUM_BINS + 1)
    share = 1 / signal.size
    return Histogram(
        edges=edges,
        chain=np.histogram(chain, edges)[0] * share,
        jump=np.histogram(jump, edges)[0] * share,
        theory=_expected_shares(signal, noise_variance, edges),
    )


def _expected_shares(signal: Array, noise_variance: float, edges: Array) -> Array:
    """The mass of each bin under sum over levels v of share(v) N(v, noise_variance)."""
    levels, counts = np.unique(signal, return_counts=True)
    z = (edges[:, None] - levels) / math.sqrt(2 * noise_variance)
    below = 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(z))
    return np.diff(below @ (counts / signal.size))
