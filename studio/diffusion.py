"""The mathematics of one step under its public name: see studio.process.diffusion."""

from studio.process.diffusion import *  # noqa: F403
from studio.process.diffusion import __all__ as __all__
