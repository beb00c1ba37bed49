"""A backend with ControlNets but without a model: discs that follow no map, and a menu of nets."""

import tempfile
from collections.abc import Iterator
from threading import Event
from typing import Any

import torch

from studio.models.controlnet_menu import ControlNetInfo
from studio.options import SampleOptions
from studio.runs import Runs
from studio.runs.following import Follower
from studio.sampling.events import Finished, StepDone
from tests.tabs.fake_text import FakeTextStudio

NETS = {
    "edges": ControlNetInfo(label="Edges", about="", source="edges", annotators=("toybox-edges", "canny")),
    "depth": ControlNetInfo(label="Depth", about="", source="depth", annotators=("toybox-depth",)),
}
BLOCKS = 5


class FakeControlStudio(FakeTextStudio):
    """Runs are those of FakeTextStudio, with sizes of residuals that a test can read off. `asked` holds the options of every run."""

    def __init__(self, step_s: float = 0.0, nets: dict[str, ControlNetInfo] | None = None):
        super().__init__(step_s=step_s)
        self.controlnets = NETS if nets is None else nets
        self.asked: list[SampleOptions] = []
        self.runs = Runs(tempfile.mkdtemp(prefix="studio-runs-"))
        self.follower = Follower()

    def sample(self, options: SampleOptions, stop: Any = None) -> Iterator[StepDone | Finished]:
        self.asked.append(options)
        return super().sample(options, stop)

    def _run(self, options: SampleOptions, stop: Event, step_s: float) -> Iterator[StepDone | Finished]:
        for event in super()._run(options, stop, step_s):
            if isinstance(event, Finished) and options.units:
                steps, images = event.trajectory.x_t.shape[:2]
                sizes = torch.arange(steps * len(options.units) * BLOCKS).reshape(steps, 1, len(options.units), BLOCKS)
                event.trajectory.extras["residual_sizes"] = sizes.expand(-1, images, -1, -1).half()  # type: ignore[index]
            yield event
