"""Diffusion Studio's backend: see and steer how a diffusion model makes a picture.

    from studio import Studio, SampleOptions
    for event in Studio().sample(SampleOptions(model="digits-ddpm", class_label="7", num_steps=25)):
        ...                      # StepDone x 25, then Finished

Importing this package is quick: torch is loaded when the first model is.
"""

from studio.importing import safe_to_import
from studio.machine import prefer_huge_pages

# Before anything of the studio can import them, and before torch makes a tensor.
safe_to_import("diffusers", "transformers")
prefer_huge_pages()

from studio.api import Studio  # noqa: E402
from studio.errors import StudioError  # noqa: E402
from studio.options import SampleOptions  # noqa: E402
from studio.sampling.events import Finished, StepDone, StepInfo  # noqa: E402

__all__ = ["Studio", "SampleOptions", "StepDone", "StepInfo", "Finished", "StudioError"]
