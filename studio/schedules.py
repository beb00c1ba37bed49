"""The noise schedules under their public name: see studio.process.schedules."""

from studio.process.schedules import *  # noqa: F403
from studio.process.schedules import __all__ as __all__
