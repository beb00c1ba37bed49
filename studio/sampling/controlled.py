"""ControlNets in a run: which step each acts in, with which weights, where in the picture, and how much it added.

    r_k = scale m_k b_k mask r_k(x_t, t)        summed over the units; m: the mode's weight of block k, b: the unit's own

In the modes "prompt" and "control" m rises from 0.1 at the first skip connection to 1 in the middle, on a log scale; in
"control" guidance leads away from a prediction without the map (guess mode, arXiv:2302.05543). What the denoiser answers
holds the sizes of the residuals among its parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import from_images
from studio.media.maps import aligned, is_blank
from studio.models.conditioning import Conditioning
from studio.models.contract import DiffusionModel
from studio.models.controlnets import ControlNet, load_controlnet, require_fit_for
from studio.options import SampleOptions
from studio.process.conversions import NoiseLevel
from studio.sampling.denoisers import Denoiser, Prediction
from studio.sampling.guidance import acts_between
from studio.units import ControlUnit

__all__ = ["BoundUnit", "Controlled", "GetNet", "bound_units", "controlled", "make_ready"]

# Gives the loaded ControlNet of a name.
GetNet = Callable[[str], ControlNet]


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundUnit:
    """A unit ready for a run.

    hint: (1, C, h, w) of its map. weights: of each residual. low, high: the timesteps in which it acts, low < t <= high.
    cond_only: only pictures with the prompt are told. num_images: of the run, the last rows of a batch. mask: (1, 1, h, w) of
    the latents in [0, 1], or None. seen: sizes of the residuals since it was emptied, (B, blocks) each.
    """

    net: ControlNet
    hint: Tensor
    weights: tuple[float, ...]
    low: float
    high: float
    cond_only: bool
    num_images: int
    mask: Tensor | None
    seen: list[Tensor] = field(default_factory=list)
    # What a batch of a size is told, kept: whatever hangs on it alone is worked out once a run.
    kept: dict[int, tuple[Tensor, Conditioning]] = field(default_factory=dict)

    def residuals(self, x_t: Tensor, t: float, told: Conditioning) -> tuple[Tensor, ...]:
        """What the unit adds at x_t (B, C, h, w); () outside its steps, where the network is not asked."""
        return self._weighed(x_t, t, told) if self.low < t <= self.high and any(self.weights) else ()

    def make_ready(self, x_t: Tensor, told: Conditioning) -> tuple[Tensor, ...]:
        """The same in any step, while the network is made ready for it."""
        if not any(self.weights):
            return ()
        self.net.make_ready(*self._asked(x_t, told))
        return self._weighed(x_t, 1.0, told)

    def _asked(self, x_t: Tensor, told: Conditioning) -> tuple[Tensor, Tensor, Conditioning]:
        """The states that the network is asked about, with the hint and the conditioning of each."""
        rows = x_t[-self.num_images :] if self.cond_only else x_t
        if len(x_t) not in self.kept:
            hint = self.hint.expand(len(rows), -1, -1, -1).contiguous()
            self.kept[len(x_t)] = hint, told.rows(slice(-self.num_images, None)) if self.cond_only else told
        hint, own = self.kept[len(x_t)]
        return rows, hint, own

    def _weighed(self, x_t: Tensor, t: float, told: Conditioning) -> tuple[Tensor, ...]:
        rows, hint, own = self._asked(x_t, told)
        answers = self.net.residuals(rows, t, hint, own)
        answers = tuple(answer * weight for answer, weight in zip(answers, self.weights))
        if self.mask is not None:
            answers = tuple(answer * _at(self.mask, answer) for answer in answers)
        self.seen.append(torch.stack([_size(answer[-self.num_images :].detach()) for answer in answers], dim=1))
        missing = len(x_t) - len(answers[0])
        return tuple(torch.cat([torch.zeros_like(answer[:1]).expand(missing, *answer.shape[1:]), answer]) for answer in answers) if missing else answers


def _at(mask: Tensor, residual: Tensor) -> Tensor:
    """The mask in the size of a residual: (1, 1, h, w), or (1, N, 1) of patches."""
    if residual.ndim == 3:
        patch = round((mask.numel() / residual.shape[1]) ** 0.5)
        return torch.nn.functional.avg_pool2d(mask, patch).reshape(1, -1, 1)
    height, width = residual.shape[-2:]
    return mask if mask.shape[-2:] == residual.shape[-2:] else torch.nn.functional.adaptive_avg_pool2d(mask, (height, width))


def _size(residual: Tensor) -> Tensor:
    """(B,) float32: the root of the mean square."""
    return residual.float().square().flatten(1).mean(dim=1).sqrt()


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """A denoiser that also tells how much each unit added while it answered."""

    inner: Denoiser
    units: tuple[BoundUnit, ...]

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The same prediction, with the sizes among its parts where a unit acted: (B, units, blocks), 0 where one did not."""
        for unit in self.units:
            unit.seen.clear()
        prediction = self.inner(x_t, level)
        if not any(unit.seen for unit in self.units):
            return prediction
        blocks = max(len(unit.weights) for unit in self.units)
        sizes = torch.zeros(len(x_t), len(self.units), blocks, device=x_t.device)
        for index, unit in enumerate(self.units):
            if unit.seen:
                sizes[:, index, : len(unit.weights)] = unit.seen[-1]
        return replace(prediction, parts={**prediction.parts, "residual_sizes": sizes})


def controlled(denoiser: Denoiser, units: tuple[BoundUnit, ...]) -> Denoiser:
    """The denoiser, watched where ControlNets act on it."""
    return Controlled(inner=denoiser, units=units) if units else denoiser


# --- bound to a run ---------------------------------------------------------------------------------------

def bound_units(model: DiffusionModel, options: SampleOptions, timesteps: Sequence[float], get_net: GetNet | None = None) -> tuple[BoundUnit, ...]:
    """The units of a run, but for those that are muted, ready for its model.

    Args:
        timesteps: of the run, descending; windows are counted in them. get_net: gives loaded ones; None loads them anew.
    Raises:
        InvalidOption: a unit without a map or a net, or with weights for other blocks. UnknownName, ModelUnavailable.
    """
    get_net = get_net or (lambda name: load_controlnet(name, model.device))
    for number, unit in enumerate(options.control, 1):
        _require_whole(unit, number)
    return tuple(_bound(model, options, unit, timesteps, get_net(unit.net)) for unit in options.units)


def _require_whole(unit: ControlUnit, number: int) -> None:
    if unit.muted:
        return
    if not unit.net:
        raise InvalidOption(f"Unit {number} has no ControlNet: choose one, train one, or mute the unit.")
    if unit.map is None:
        raise InvalidOption(f"Unit {number} has no map: give it a picture, draw one, take a Toybox scene, or mute the unit.")
    if is_blank(unit.map):
        raise InvalidOption(f"The map of unit {number} is of one colour, so there is nothing to follow: lower the thresholds, draw, or take another picture.")


def _bound(model: DiffusionModel, options: SampleOptions, unit: ControlUnit, timesteps: Sequence[float], net: ControlNet) -> BoundUnit:
    require_fit_for(net, model)
    _, height, width = model.state_shape(options)
    low, high = acts_between(timesteps, unit.start, unit.end)
    assert unit.map is not None
    hint = net.hint((from_images([aligned(unit.map, width * model.factor, height * model.factor, unit.resize)]) + 1) / 2, model)
    return BoundUnit(
        net=net, hint=hint, weights=_weights(unit, net), low=low, high=high, cond_only=unit.mode == "control", num_images=options.num_images,
        mask=None if unit.mask is None else _mask(unit, width, height, hint),
    )


def _weights(unit: ControlUnit, net: ControlNet) -> tuple[float, ...]:
    count = net.num_blocks
    if unit.blocks and len(unit.blocks) != count:
        blocks = f"{count} blocks" + ("" if type(net) is not ControlNet else f" ({count - 1} skip connections and the middle)")
        raise InvalidOption(f"{net.info.label} has {blocks}, but {len(unit.blocks)} weights are given.")
    # A net whose residuals say nothing of places has no shallow blocks to spare.
    rising = unit.mode != "balanced" and not net.pooled
    modes = torch.logspace(-1, 0, count).tolist() if rising else [1.0] * count
    return tuple(unit.scale * mode * own for mode, own in zip(modes, unit.blocks or [1.0] * count))


def _mask(unit: ControlUnit, width: int, height: int, like: Tensor) -> Tensor:
    """(1, 1, h, w) in [0, 1], how much of each latent lies in the mask."""
    from PIL import Image

    assert unit.mask is not None
    grey: Any = unit.mask.convert("L").resize((width, height), Image.Resampling.BOX)
    return ((from_images([grey], 1) + 1) / 2).to(like)


def make_ready(model: DiffusionModel, options: SampleOptions, get_net: GetNet | None = None) -> None:
    """Do what makes runs of these options quicker from now on, ControlNets among them. Raises what such a run would raise."""
    model.make_ready(options, bound_units(model, options, (1.0,), get_net))
