"""What comes up from the backend: a stream of frozen events, StepDone for each step and Finished at the end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.sampling.steps import StepDone, StepInfo

if TYPE_CHECKING:
    from PIL import Image

    from studio.sampling.trajectory import Trajectory

__all__ = ["StepInfo", "StepDone", "Finished"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is over. images: one PIL picture per seed; trajectory: everything that happened."""

    images: "list[Image.Image]"
    trajectory: "Trajectory"
