"""Guidance: a denoiser wrapped in another one. Samplers see a denoiser and know nothing of it.

    classifier-free     out = uncond + w (cond - uncond)                    Ho & Salimans 2022, arXiv:2207.12598
    rescaled            out <- r out std(cond)/std(out) + (1 - r) out       Lin et al. 2023, arXiv:2305.08891, 3.4
    skip-layer          out <- out + s (cond - cond without some layers)    Stability AI 2024, as StableDiffusion3Pipeline has it
    CLIP                eps <- eps + sqrt(ab) sqrt(1 - ab) s grad_x_t d(clip(D(x0_hat)), clip(text))
                        d = 2 arcsin(|a - b| / 2)^2, half the squared great-circle distance (Crowson 2021)

sqrt(ab) keeps CLIP's say small at the start, where x0_hat is a blur that it knows nothing of. w = 1 is no guidance. All of them act
on the network's raw prediction, before the scheduler's step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.errors import InvalidOption, ModelUnavailable
from studio.models.conditioning import Conditioning, batched
from studio.models.weighting import plain_text
from studio.process.conversions import NoiseLevel, eps_from, output_from, x0_from
from studio.sampling.denoisers import Denoiser, Network, Prediction, Reader

if TYPE_CHECKING:
    from studio.models.beginning import Beginning
    from studio.models.companions import Clip
    from studio.models.conditioning import Unit
    from studio.options import SampleOptions

__all__ = ["ClassifierFree", "ClipGuided", "LayerSkipping", "Watched", "guided", "acts_between", "clip_for", "great_circle", "resized"]


@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """A denoiser that leads from one condition to another.

    alone: asked with the condition only. both: uncond, then cond, as one batch, so that one pass answers both.
    low, high: the timesteps in which guidance acts, low < t <= high; outside `alone` answers. A learned variance is the
    condition's own, not guided.
    """

    alone: Network
    both: Conditioning
    scale: float
    rescale: float
    low: float
    high: float

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The guided prediction at x_t (B, C, H, W), with the two that it was made of."""
        if not self.low < level.timestep <= self.high:
            return self.alone(x_t, level)
        read, channels = self.alone.read, x_t.shape[1]
        uncond, cond = self.alone.model.predict(torch.cat([x_t, x_t]), level.timestep, self.both).chunk(2)
        output = torch.lerp(uncond[:, :channels], cond[:, :channels], self.scale)
        if self.rescale:
            output = self.rescale * output * (_deviation(cond[:, :channels]) / _deviation(output)) + (1 - self.rescale) * output
        if cond.shape[1] != channels:
            output = torch.cat([output, cond[:, channels:]], dim=1)
        (x0_uncond, eps_uncond), (x0_cond, eps_cond) = read.both(uncond, x_t, level), read.both(cond, x_t, level)
        parts = {"x0_uncond": x0_uncond, "eps_uncond": eps_uncond, "x0_cond": x0_cond, "eps_cond": eps_cond}
        return read(output, x_t, level, parts, guidance_scale=self.scale)


def _deviation(x: Tensor) -> Tensor:
    return x.std(dim=tuple(range(1, x.ndim)), keepdim=True)


@dataclass(frozen=True, kw_only=True)
class LayerSkipping:
    """A guided denoiser that is also led away from what the network says without some of its layers.

    without: the network, told the condition and what it leaves out. low, high: it acts in the steps with low < t <= high.
    """

    inner: Denoiser
    without: Network
    scale: float
    low: float
    high: float

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The guided prediction at x_t (B, C, h, w), with what was believed without the layers."""
        prediction = self.inner(x_t, level)
        if not self.low < level.timestep <= self.high or "x0_cond" not in prediction.parts:
            return prediction
        read, parts = self.without.read, prediction.parts
        cond = output_from(read.path.prediction_type, parts["x0_cond"], parts["eps_cond"], level)
        without = self.without.model.predict(x_t, level.timestep, self.without.conditioning)
        output = prediction.output + self.scale * (cond - without)
        return read(output, x_t, level, {**parts, "x0_skipped": read.both(without, x_t, level)[0]}, **prediction.figures)


def _layer_skipping(inner: Denoiser, alone: Network, options: "SampleOptions", timesteps: Sequence[float]) -> Denoiser:
    """The denoiser with that of the options; itself where they ask for none, or for no whole step."""
    told, count = options.skipped, len(timesteps)
    # Step i of N is inside if start N < i < end N, as in diffusers' pipeline; that is never the first.
    inside = [i for i in range(count) if count * told.start < i < count * told.end]
    if not told.layers or not inside:
        return inner
    low = timesteps[inside[-1] + 1] if inside[-1] + 1 < count else -math.inf
    without = replace(alone, conditioning=replace(alone.conditioning, skipped=told.layers))
    return LayerSkipping(inner=inner, without=without, scale=told.scale, low=low, high=timesteps[inside[0]])


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A denoiser that also tells where each word was looked at while it answered."""

    inner: Denoiser
    recorder: Any

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The same prediction, with the maps among its parts."""
        with self.recorder.recording():
            prediction = self.inner(x_t, level)
        maps = self.recorder.maps()
        return prediction if maps is None else replace(prediction, parts={**prediction.parts, "attention": maps})


def guided(
    model: Any, options: "SampleOptions", timesteps: Sequence[float], clip_x0: bool, control: "tuple[Unit, ...]" = (), start: "Beginning | None" = None,
) -> Denoiser:
    """The denoiser for the options: the model told its condition, guided and watched where the options ask for it.

    timesteps: of the whole schedule, descending; the interval of guidance is counted in them. control: ControlNets that add
    to the network's states. start: the run's beginning, with what it is told; None asks the model. Raises InvalidOption.
    """
    cond, uncond = (start.cond, start.uncond) if start is not None else model.condition(options)
    cond = replace(cond, control=control)
    read = Reader(path=model.path, clip_x0=clip_x0)
    alone = Network(model=model, conditioning=batched([cond], options.num_images), read=read)
    denoiser: Denoiser = alone
    low, high = acts_between(timesteps, options.guidance_start, options.guidance_end)
    if options.guidance_scale != 1 and low < high:
        if uncond is None:
            raise InvalidOption(f"{model.info.label} cannot be guided; set guidance_scale to 1, it is {options.guidance_scale:g}.")
        denoiser = ClassifierFree(
            alone=alone, both=batched([uncond, cond], options.num_images), scale=options.guidance_scale, rescale=options.guidance_rescale, low=low, high=high,
        )
    if options.record_attention:
        denoiser = Watched(inner=denoiser, recorder=model.word_attention(options))
    denoiser = _layer_skipping(denoiser, alone, options, timesteps)
    return ClipGuided(inner=denoiser, model=model, read=read, clip=clip_for(model, options), options=options) if options.clip_guidance_scale else denoiser


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

    Its answer has the gradient of the distance in x_t, (B, C, h, w), and its length for each picture, in units of distance
    for a unit of x_t.
    """

    def __init__(self, *, inner: Denoiser, model: Any, read: Reader, clip: "Clip", options: "SampleOptions"):
        self.inner, self.model, self.read, self.clip = inner, model, read, clip
        self.scale, self.seed = options.clip_guidance_scale, options.seed
        self.text = clip.embed_text(plain_text(options.prompt))

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The guided prediction at x_t (B, C, h, w); it must not be an inference tensor."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            inside = self.inner(x, level)
            x0 = x0_from(self.read.path.prediction_type, inside.output[:, : x.shape[1]], x, level)
            distance = self.distance(self.model.decode(x0), level.timestep).sum()
            (gradient,) = torch.autograd.grad(distance * GRADIENT_LIFT, x)
        gradient = (gradient / GRADIENT_LIFT).nan_to_num()
        output = self._moved(inside.output.detach(), x_t, gradient, level)
        # The network's whole graph hangs on the parts otherwise.
        parts = {name: part.detach() for name, part in inside.parts.items()} | {"clip_gradient": gradient}
        norms = tuple(gradient.flatten(1).norm(dim=1).tolist())
        return self.read(output, x_t, level, parts, **inside.figures, clip_gradient_norm=norms)

    def _moved(self, output: Tensor, x_t: Tensor, gradient: Tensor, level: NoiseLevel) -> Tensor:
        """The answer whose eps is larger by sqrt(ab) sqrt(1 - ab) s gradient, in the network's own prediction type."""
        kind, channels = self.read.path.prediction_type, x_t.shape[1]
        x0 = x0_from(kind, output[:, :channels], x_t, level)
        eps = eps_from(kind, output[:, :channels], x_t, x0, level)
        move = self.scale * level.alpha * level.sigma / (level.alpha**2 + level.sigma**2) * gradient
        # x_t stays what it is, so x0 falls as eps rises; in pure noise alpha is 0.
        moved = output_from(kind, x0 - level.sigma / max(level.alpha, 1e-3) * move, eps + move, level)
        return moved if output.shape[1] == channels else torch.cat([moved, output[:, channels:]], dim=1)

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
        return torch.cat([resized(cut, self.clip.side) for cut in cuts])


def great_circle(a: Tensor, b: Tensor) -> Tensor:
    """2 arcsin(|a - b| / 2)^2 of vectors of length 1, over the last dimension."""
    # The arcsine is infinitely steep at 1, where the two are opposite.
    return 2 * ((a - b).norm(dim=-1) / 2).clamp(max=1 - 1e-6).arcsin() ** 2


def resized(picture: Tensor, side: int) -> Tensor:
    """(3, H, W) -> (1, 3, side, side), smoothed where it shrinks."""
    return torch.nn.functional.interpolate(picture[None], (side, side), mode="bilinear", align_corners=False, antialias=True)


def clip_for(model: Any, options: "SampleOptions") -> "Clip":
    """The CLIP that guides. Raises ModelUnavailable."""
    from studio.models.companions import load_clip

    name = options.clip_model or model.info.clip
    if not name:
        raise ModelUnavailable(
            f"CLIP guidance needs a CLIP beside {model.info.label}, and none is known for it; "
            "name one as clip_model (such as openai/clip-vit-base-patch32), or set clip_guidance_scale to 0."
        )
    return load_clip(name, model.device)
