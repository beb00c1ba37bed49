"""Guidance: a denoiser wrapped in another one. Samplers see a denoiser and know nothing of it.

    classifier-free     out = uncond + w (cond - uncond)                    Ho & Salimans 2022, arXiv:2207.12598
    rescaled            out <- r out std(cond)/std(out) + (1 - r) out       Lin et al. 2023, arXiv:2305.08891, 3.4
    CLIP                eps <- eps + sqrt(ab) sqrt(1 - ab) s grad_x_t d(clip(D(x0_hat)), clip(text))
                        d = 2 arcsin(|a - b| / 2)^2, half the squared great-circle distance (Crowson 2021)

sqrt(ab) keeps CLIP's say small at the start, where x0_hat is a blur that it knows nothing of. w = 1 is no guidance. All of them act
on the network's raw prediction, before the scheduler's step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from studio.errors import ModelUnavailable
from studio.process.schedules import alphas_cumprod

if TYPE_CHECKING:
    from studio.models.companions import Clip
    from studio.options import SampleOptions

__all__ = ["ClassifierFree", "ClipGuided", "guided", "acts_between", "great_circle"]

Denoiser = Callable[[Tensor, Tensor | int], Tensor]


@dataclass(kw_only=True)
class ClassifierFree:
    """A denoiser that leads from one condition to another.

    alone: asked with the condition only. both: gives (2B, C, H, W), the unconditional half first, in one pass.
    low, high: the timesteps in which guidance acts, low < t <= high; outside, and at scale 1, `alone` answers.
    channels: of a state; a learned variance beside it is not guided.
    parts: (uncond, cond) of the last answer, raw, or None where there was no guidance.
    """

    alone: Denoiser
    both: Denoiser
    scale: float
    rescale: float
    low: float
    high: float
    channels: int
    parts: tuple[Tensor, Tensor] | None = field(default=None, init=False)

    def __call__(self, x_t: Tensor, timestep: Tensor | int) -> Tensor:
        """The guided prediction at x_t (B, C, H, W)."""
        if not self.low < float(timestep) <= self.high:
            self.parts = None
            return self.alone(x_t, timestep)
        uncond, cond = self.both(x_t, timestep).chunk(2)
        self.parts = uncond[:, : self.channels], cond[:, : self.channels]
        output = torch.lerp(*self.parts, self.scale)
        if self.rescale:
            output = self.rescale * output * (_deviation(self.parts[1]) / _deviation(output)) + (1 - self.rescale) * output
        return output if cond.shape[1] == self.channels else torch.cat([output, cond[:, self.channels :]], dim=1)


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


def guided(model: Any, options: "SampleOptions", timesteps: Sequence[float]) -> Denoiser:
    """The denoiser for the options: the model told its condition, guided where the options ask for it.

    timesteps: of the whole schedule, descending; the interval of guidance is counted in them. Raises InvalidOption.
    """
    cond, uncond = model.conditions(options)
    denoiser = model.bind([cond], options.num_images)
    low, high = acts_between(timesteps, options.guidance_start, options.guidance_end)
    if options.guidance_scale != 1 and low < high:
        denoiser = ClassifierFree(
            alone=denoiser, both=model.bind([uncond, cond], options.num_images), scale=options.guidance_scale, rescale=options.guidance_rescale,
            low=low, high=high, channels=model.state_shape(options)[0],
        )
    return ClipGuided(inner=denoiser, model=model, clip=_clip_for(model, options), options=options) if options.clip_guidance_scale else denoiser


def acts_between(timesteps: Sequence[float], start: float, end: float) -> tuple[float, float]:
    """(low, high): guidance acts where low < t <= high. Step i of N is inside if start <= i/N and (i+1)/N <= end."""
    count = len(timesteps)
    # Rounded first: 0.3 * 10 is a little less than 3 in binary.
    first, last = math.ceil(round(start * count, 6)), math.floor(round(end * count, 6))
    if first >= last:
        return math.inf, -math.inf
    return -math.inf if last == count else timesteps[last], math.inf if first == 0 else timesteps[first]


# --- CLIP ----------------------------------------------------------------------------------------------------

# Cut-outs of each picture: the whole of it, and squares of at least this share of its shorter side.
NUM_CUTS, SMALLEST_CUT = 4, 0.6
# Half-precision weights lose gradients below 6e-8; a power of two costs no digits.
GRADIENT_LIFT = 1024.0


class ClipGuided:
    """A denoiser whose prediction is moved so that CLIP finds the decoded x0_hat nearer to the prompt.

    parts: of the denoiser inside, if it is guided too. gradient: (B, C, h, w) of the distance in x_t at the last call;
    norms: its length for each picture.
    """

    def __init__(self, *, inner: Denoiser, model: Any, clip: "Clip", options: "SampleOptions"):
        self.inner, self.model, self.clip = inner, model, clip
        self.scale, self.seed = options.clip_guidance_scale, options.seed
        self.mean_type, self.alpha_bar = model.diffusion.mean_type, alphas_cumprod(model.diffusion.betas)
        self.text = clip.embed_text(options.prompt)
        self.parts: tuple[Tensor, Tensor] | None = None
        self.gradient: Tensor | None = None

    @property
    def norms(self) -> tuple[float, ...]:
        """The length of each picture's gradient, in units of distance for a unit of x_t."""
        return () if self.gradient is None else tuple(self.gradient.flatten(1).norm(dim=1).tolist())

    def __call__(self, x_t: Tensor, timestep: Tensor | int) -> Tensor:
        """The guided prediction at x_t (B, C, h, w); it must not be an inference tensor."""
        signal, noise = self._scales(float(timestep))
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            output = self.inner(x, timestep)
            pictures = self.model.decode(_x0_from(self.mean_type, output, x, signal, noise))
            distance = self.distance(pictures, float(timestep)).sum()
            (gradient,) = torch.autograd.grad(distance * GRADIENT_LIFT, x)
        self.gradient = (gradient / GRADIENT_LIFT).nan_to_num()
        parts = getattr(self.inner, "parts", None)
        self.parts = None if parts is None else (parts[0].detach(), parts[1].detach())
        if parts is not None:
            # The network's whole graph hangs on them otherwise.
            self.inner.parts = None  # type: ignore[attr-defined]
        return _with_eps_moved(self.mean_type, output.detach(), self.scale * signal * noise * self.gradient, signal, noise)

    def distance(self, pictures: Tensor, timestep: float) -> Tensor:
        """(B,) mean distance of each picture's cut-outs to the prompt."""
        cuts = torch.cat([self._cuts(picture, index, timestep) for index, picture in enumerate(pictures.clamp(-1.5, 1.5))])
        return great_circle(self.clip.embed_pictures(cuts), self.text).unflatten(0, (len(pictures), NUM_CUTS)).mean(dim=1)

    def _cuts(self, picture: Tensor, index: int, timestep: float) -> Tensor:
        """(NUM_CUTS, 3, side, side) of a picture (3, H, W). Drawn from seed and timestep: alone, in a batch and in a fork alike."""
        generator = torch.Generator().manual_seed((self.seed + index) * 1_000_003 % 2**62 + round(timestep * 1000))
        height, width = picture.shape[-2:]
        cuts = [picture]
        for share, down, right in torch.rand(NUM_CUTS - 1, 3, generator=generator).tolist():
            side = max(1, round(min(height, width) * (SMALLEST_CUT + (1 - SMALLEST_CUT) * share)))
            top, left = round((height - side) * down), round((width - side) * right)
            cuts.append(picture[:, top : top + side, left : left + side])
        return torch.cat([_resized(cut, self.clip.side) for cut in cuts])

    def _scales(self, timestep: float) -> tuple[float, float]:
        """sqrt(ab), sqrt(1 - ab) at a timestep that may lie between two, as solvers' do: log sigma is interpolated."""
        alpha_bar = np.maximum(self.alpha_bar, 1e-5)
        log_sigma = float(np.interp(timestep, np.arange(len(alpha_bar)), 0.5 * np.log((1 - alpha_bar) / alpha_bar)))
        signal = 1 / math.sqrt(1 + math.exp(2 * log_sigma))
        return signal, math.exp(log_sigma) * signal


def great_circle(a: Tensor, b: Tensor) -> Tensor:
    """2 arcsin(|a - b| / 2)^2 of vectors of length 1, over the last dimension."""
    # The arcsine is infinitely steep at 1, where the two are opposite.
    return 2 * ((a - b).norm(dim=-1) / 2).clamp(max=1 - 1e-6).arcsin() ** 2


def _resized(picture: Tensor, side: int) -> Tensor:
    """(3, H, W) -> (1, 3, side, side), smoothed where it shrinks."""
    return torch.nn.functional.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False, antialias=True)


def _x0_from(mean_type: str, output: Tensor, x_t: Tensor, signal: float, noise: float) -> Tensor:
    if mean_type == "epsilon":
        return (x_t - noise * output) / signal
    return signal * x_t - noise * output if mean_type == "v_prediction" else output


def _with_eps_moved(mean_type: str, output: Tensor, move: Tensor, signal: float, noise: float) -> Tensor:
    """The prediction whose eps is larger by `move`: then x0 is smaller by noise/signal move, and v larger by move/signal."""
    if mean_type == "epsilon":
        return output + move
    return output + move / signal if mean_type == "v_prediction" else output - noise / signal * move


def _clip_for(model: Any, options: "SampleOptions") -> "Clip":
    from studio.models.companions import load_clip

    name = options.clip_model or model.info.clip
    if not name:
        raise ModelUnavailable(
            f"CLIP guidance needs a CLIP beside {model.info.label}, and none is known for it; "
            "name one as clip_model (such as openai/clip-vit-base-patch32), or set clip_guidance_scale to 0."
        )
    return load_clip(name, model.device)
