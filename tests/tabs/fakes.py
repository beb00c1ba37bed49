"""A backend without a model: pictures of a disc that comes out of the noise, in the shape of the studio's contract."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import torch

from studio.errors import InvalidOption, StudioError, UnknownName
from studio.kept import Kept, own_limits
from studio.media.images import to_images
from studio.models.catalogue import ModelInfo
from studio.models.device import Device
from studio.models.memory import Resident
from studio.options import SampleOptions
from studio.sampling.events import Finished, StepDone
from studio.sampling.trajectory import Recorder, Trajectory

T = 1000


class FakeStudio:
    """Draws in no time, or `step_s` seconds a step; "broken" steps raise at the index `fail_at`."""

    def __init__(self, step_s: float = 0.0):
        self.step_s, self.public = step_s, False
        self.fail_at: int | None = None
        self.asked: list[SampleOptions] = []
        self.readied: list[SampleOptions] = []
        self.weighed: list[tuple[SampleOptions, ...]] = []
        self.loaded: list[str] = []
        self.kept = Kept(own_limits())
        self.device = Device()
        self.models = {
            "disc": ModelInfo(
                label="Discs", about="Coloured discs, 32 x 32.", source="", width=32, height=32, class_names=("red", "green", "blue"), default_steps=20,
            ),
            "ring": ModelInfo(label="Rings", about="Grey rings, 16 x 16, without classes.", source="", width=16, height=16, channels=1, default_steps=10),
        }

    def describe(self, name: str) -> ModelInfo:
        if name not in self.models:
            raise UnknownName.of("model", name, self.models)
        return self.models[name]

    def takes(self, name: str) -> tuple[str, ...]:
        return ()

    def noise_curve(self, options: SampleOptions) -> dict[str, list[float]]:
        rows = [_scales(t) for t in range(T)]
        return {"t": list(range(T)), "log_snr": [row[3] for row in rows], "signal": [row[0] for row in rows], "noise": [row[1] for row in rows]}

    def sample(self, options: SampleOptions, stop: Event | None = None) -> Iterator[StepDone | Finished]:
        self.asked.append(options)
        if options.model not in self.models:
            raise UnknownName.of("model", options.model, self.models)
        if options.num_steps > T:
            raise InvalidOption(f"The model has {T} timesteps, so num_steps can be 1 to {T}, but {options.num_steps=}.")
        yield from self._run(options, stop or Event(), self.step_s)

    def _run(self, options: SampleOptions, stop: Event, step_s: float) -> Iterator[StepDone | Finished]:
        model = self.models[options.model]
        x0, eps = _pictures(model, options)
        recorder = Recorder(options, {"channels": model.channels})
        x_t = eps
        for index in range(options.num_steps):
            if stop.is_set():
                break
            if index == self.fail_at:
                raise StudioError("The device ran out of memory; choose fewer images.")
            t = round((T - 1) * (1 - index / max(1, options.num_steps - 1)))
            signal, noise, sigma, log_snr = _scales(t)
            x_t = signal * x0 + noise * eps
            belief = x0 * signal + 0.02 * eps
            step = StepDone(index=index, num_steps=options.num_steps, timestep=float(t), sigma=sigma, log_snr=log_snr, x_t=x_t, x0_hat=belief, eps_hat=eps)
            recorder.add(step)
            yield step
            time.sleep(step_s)
        done = len(recorder.steps) == options.num_steps
        final = x0 if done else x_t
        if recorder.steps:
            yield Finished(images=to_images(final), trajectory=recorder.trajectory(final))

    def require_room(self, *runs: SampleOptions, keep: bool = True) -> None:
        self.weighed.append(runs)

    def make_ready(self, options: SampleOptions) -> None:
        self.readied.append(options)

    def residents(self) -> list[Resident]:
        return [Resident(name=name, memory_gib=0.25, last_used=0.0) for name in self.loaded]

    def shelf(self, kind: str) -> list[Any]:
        return []

    def load_run(self, path: str | Path) -> Trajectory:
        return Trajectory.load(path)


def _scales(t: float) -> tuple[float, float, float, float]:
    signal = math.cos((t + 1) / T * math.pi / 2)
    noise = math.sqrt(1 - signal**2)
    if signal < 1e-8:
        return 0.0, 1.0, math.inf, -math.inf
    return signal, noise, noise / signal, 2 * math.log(signal / noise)


def _pictures(model: ModelInfo, options: SampleOptions) -> tuple[torch.Tensor, torch.Tensor]:
    size = (options.num_images, model.channels, model.height, model.width)
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, model.height), torch.linspace(-1, 1, model.width), indexing="ij")
    x0 = torch.full(size, 0.9)
    noise: list[Any] = []
    for i in range(options.num_images):
        generator = torch.Generator().manual_seed(options.seed + i)
        x, y, radius = (torch.rand(3, generator=generator) * 0.6 - torch.tensor([0.3, 0.3, -0.3])).tolist()
        inside = (xs - x) ** 2 + (ys - y) ** 2 < radius**2
        colour = torch.rand(model.channels, generator=generator) * 1.6 - 1
        x0[i][:, inside] = colour[:, None].expand(-1, int(inside.sum()))
        noise.append(torch.randn(size[1:], generator=generator))
    return x0, torch.stack(noise)
