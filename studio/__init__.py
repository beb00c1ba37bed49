"""Diffusion Studio's backend: see and steer how a diffusion model makes a picture.

    from studio import Studio, SampleOptions
    for event in Studio().sample(SampleOptions(model="digits-ddpm", class_label="7", num_steps=25)):
        ...                      # StepDone x 25, then Finished

Importing this package is quick: torch is loaded when the first model is.
"""

from studio.api import Studio
from studio.errors import StudioError
from studio.options import SampleOptions
from studio.sampling.events import Finished, StepDone, StepInfo

__all__ = ["Studio", "SampleOptions", "StepDone", "StepInfo", "Finished", "StudioError"]
