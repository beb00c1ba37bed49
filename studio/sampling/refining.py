"""A refiner that takes over on the way: base model and refiner one after the other, on one schedule.

    steps with t >= c are the base model's, those below it the refiner's        c = T - start T, rounded

That is what diffusers' two pipelines do with denoising_end and denoising_start (Podell et al. 2023, arXiv:2307.01952, section
2.5). The state goes over as it is; what a multistep solver remembers does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from studio.errors import InvalidOption, ModelUnavailable
from studio.models.contract import DiffusionModel
from studio.models.loading import load_model
from studio.options import SampleOptions
from studio.process.conversions import NoiseLevel
from studio.sampling.denoisers import Denoiser, Prediction
from studio.sampling.guidance import guided
from studio.sampling.samplers import Sampler, clips, make_sampler

__all__ = ["GetModel", "Refining", "refining"]

# Gives the loaded model of a name.
GetModel = Callable[[str], DiffusionModel]


@dataclass(frozen=True, kw_only=True)
class Refining:
    """What takes over at step `first` of the whole schedule."""

    first: int
    sampler: Sampler
    denoiser: Denoiser


@dataclass(frozen=True, kw_only=True)
class _Refined:
    """A denoiser whose steps say that they are the refiner's."""

    inner: Denoiser

    def __call__(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        prediction = self.inner(x_t, level)
        return replace(prediction, figures={**prediction.figures, "refined": True})


def refining(model: DiffusionModel, options: SampleOptions, timesteps: Sequence[float], first: int, get_model: GetModel | None = None) -> Refining | None:
    """The refiner of the options, told what it must be told; None where they name none.

    Args:
        timesteps: of the whole schedule, descending; first: the step at which the run begins.
    Raises:
        InvalidOption: either of the two would have no step. ModelUnavailable: the two do not belong together.
    """
    if not options.refined.model:
        return None
    refiner = (get_model or load_model)(options.refined.model)
    _require_alike(model, refiner)
    cutoff = round(model.path.num_timesteps * (1 - options.refined.start))
    begins = sum(t >= cutoff for t in timesteps)
    if not first < begins < len(timesteps):
        of_whom = "the base model" if begins <= first else "the refiner"
        raise InvalidOption(
            f"Of {len(timesteps) - first} steps none is left to {of_whom} where it is handed over at {options.refined.start:g}: take more steps, or "
            "hand over elsewhere."
        )
    denoiser = guided(refiner, options, timesteps, clips(model, options))
    return Refining(first=begins, sampler=make_sampler(model, options), denoiser=_Refined(inner=denoiser))


def _require_alike(model: DiffusionModel, refiner: DiffusionModel) -> None:
    """Refuse a refiner of other states than the model's. Raises ModelUnavailable."""
    def refusal(why: str) -> ModelUnavailable:
        return ModelUnavailable(f"{refiner.info.label} cannot go on with what {model.info.label} began: {why}. Choose a refiner of the same family.")

    ours, its = model.path, refiner.path
    if refiner.network.config.in_channels != model.network.config.in_channels or refiner.factor != model.factor:
        raise refusal("its latents are others")
    alike = ours.prediction_type == its.prediction_type and ours.num_timesteps == its.num_timesteps
    places = range(0, ours.num_timesteps, max(1, ours.num_timesteps // 10))
    if not alike or not np.allclose([ours.log_snr(t) for t in places], [its.log_snr(t) for t in places], atol=1e-3):
        raise refusal("it was trained on other noise")
