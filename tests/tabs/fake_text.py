"""A backend with text but without a model: latents of four channels, words, guidance, attention, a decoder that enlarges."""

import dataclasses
import math
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import numpy as np
import torch

from studio.conditions import AS_TRAINED, NOTHING_ADDED, Added, TextsTold
from studio.errors import StudioError
from studio.media.images import to_images, to_pixels
from studio.media.previews import RgbMap
from studio.models.anatomy import Part, RoundTrip
from studio.models.catalogue import ModelInfo
from studio.models.patches import Patches
from studio.models.prompts import Reading, Token, Tokens
from studio.options import SampleOptions
from studio.sampling.events import Finished, StepDone
from studio.sampling.export import decoded_run
from studio.sampling.trajectory import Recorder, Trajectory
from tests.tabs.fakes import FakeStudio, _pictures, _scales

LIMIT = 12
FACTOR = 4
SIDE = 16
# What the three colours are made of; the fourth channel says nothing.
RGB_MAP = RgbMap(weight=torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]]), bias=torch.zeros(3))


# What the fake models have in common.
TEXT: dict[str, Any] = {"source": "", "family": "stable-diffusion", "channels": 4, "default_guidance": 4.0}


class FakeTextStudio(FakeStudio):
    """Discs in latents. `fetches` is what a download tells; `decodes` counts what the decoder was asked."""

    def __init__(self, step_s: float = 0.0):
        super().__init__(step_s=step_s)
        self.models = {
            "words": ModelInfo(label="Words", about="Discs by prompt.", width=SIDE * FACTOR, height=SIDE * FACTOR, default_steps=20, **TEXT),
            "far/away": ModelInfo(label="Far away", about="On the Hub.", width=64, height=64, size_mib=2048, default_steps=30, **TEXT),
            **self.models,
        }
        self.fetches: list[Any] = []
        self.decodes: list[tuple[str, int]] = []

    def download(self, name: str) -> Iterator[Any]:
        self.describe(name)
        if name not in self.loaded:
            yield from self.fetches
            self.loaded.insert(0, name)

    def memory_gib(self) -> float:
        return 8.0

    def tokens(self, model: str, prompt: str, added: Added = NOTHING_ADDED) -> Tokens:
        """Words by blanks, those of more than six letters in two pieces."""
        pieces = [(piece, number) for number, word in enumerate(prompt.split()) for piece in ([word[:6], word[6:]] if len(word) > 6 else [word])]
        room = LIMIT - 2
        kept, beyond = pieces[:room], pieces[room:]
        middle = [Token(id=10 + i, text=text, word=word) for i, (text, word) in enumerate(kept)]
        padding = [Token(id=1, text="end", word=None)] * (LIMIT - len(middle) - 1)
        words = tuple(dict.fromkeys(prompt.split()))
        return Tokens(tokens=(Token(id=0, text="start", word=None), *middle, *padding), words=words, cut_off=" ".join(text for text, _ in beyond), limit=LIMIT)

    def readings(self, model: str, prompt: str, texts: TextsTold = AS_TRAINED, added: Added = NOTHING_ADDED) -> tuple[Reading, ...]:
        states = np.random.default_rng(len(prompt)).normal(size=(LIMIT, 20)).astype(np.float32)
        return (Reading(encoder="Text encoder", tokens=self.tokens(model, prompt, added), states=states),)

    def decode(self, trajectory: Trajectory, stream: str, index: int) -> list[Any]:
        self.decodes.append((stream, index))
        return to_images(_enlarged(trajectory.pictures(stream, index)))

    def decoded(self, trajectory: Trajectory, stream: str) -> Any:
        return decoded_run(trajectory, stream, self.decode)

    def anatomy(self, model: str, prompt: str = "") -> list[Part]:
        state = (1, 4, SIDE, SIDE)
        return [
            Part(name="text_encoder", label="Text encoder", depth=0, parameters=200_000, memory_mib=0.8, shape_in=(1, LIMIT), shape_out=(1, LIMIT, 20)),
            Part(name="unet", label="UNet", depth=0, parameters=1_500_000, memory_mib=5.7, shape_in=state, shape_out=state),
            Part(name="unet.mid_block", label="middle", depth=1, parameters=500_000, memory_mib=1.9, shape_in=state, shape_out=()),
        ]

    def patches(self, model: str) -> Patches | None:
        if model != "far/away":
            return None
        rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(4.0), indexing="ij")
        return Patches(pixels=16, side=2, channels=4, positions=torch.stack([rows - 0.5, columns - 1.5, 0 * rows]))

    def vae_round_trip(self, model: str, picture: Any, perturb: float = 0.0, seed: int = 0) -> RoundTrip:
        small = picture.resize((64, 64))
        return RoundTrip(original=small, reconstruction=small, psnr_db=31.4 - 5 * perturb, channels=[small.convert("L")] * 4, latents=np.ones((4, 16, 16)))

    def _run(self, options: SampleOptions, stop: Event, step_s: float) -> Iterator[StepDone | Finished]:
        if not self.models[options.model].text:
            yield from super()._run(options, stop, step_s)
            return
        x0, eps = _pictures(dataclasses.replace(self.models[options.model], width=SIDE, height=SIDE), options)
        x0 = x0 * min(1.0, options.guidance_scale / 8)
        recorder = Recorder(options, {"kind": "latent", "rgb_map": RGB_MAP.to_json(), "factor": FACTOR})
        for index in range(options.num_steps):
            if stop.is_set():
                break
            if index == self.fail_at:
                raise StudioError("The device ran out of memory; choose fewer images.")
            step = _step(options, x0, eps, index)
            recorder.add(step)
            yield step
            time.sleep(step_s)
        if recorder.steps:
            pixels = to_pixels(_enlarged(RGB_MAP(x0)))
            yield Finished(images=to_images(_enlarged(RGB_MAP(x0))), trajectory=recorder.trajectory(x0, pixels))


def _step(options: SampleOptions, x0: torch.Tensor, eps: torch.Tensor, index: int) -> StepDone:
    t = round(999 * (1 - index / max(1, options.num_steps - 1)))
    signal, noise, sigma, log_snr = _scales(t)
    guided, pulled = options.guidance_scale != 1, bool(options.clip_guidance_scale)
    return StepDone(
        index=index, num_steps=options.num_steps, timestep=float(t), sigma=sigma, log_snr=log_snr, x_t=signal * x0 + noise * eps, x0_hat=x0 * signal,
        eps_hat=eps, rgb_map=RGB_MAP, guidance_scale=options.guidance_scale if guided else 1.0,
        parts={
            **({"x0_uncond": torch.zeros_like(x0), "x0_cond": 0.5 * x0} if guided else {}),
            **({"attention": _attention(len(x0), index)} if options.record_attention else {}),
            **({"clip_gradient": 0.01 * eps} if pulled else {}),
        },
        clip_gradient_norm=tuple(1 / (1 + index) for _ in range(len(x0))) if pulled else None,
    )


def _attention(images: int, index: int) -> torch.Tensor:
    """Token k looks at row k: a map that a test can read off."""
    maps = torch.full((images, LIMIT, 8, 8), 0.01)
    for token in range(LIMIT):
        maps[:, token, token % 8] = 0.1 + 0.05 * token * math.exp(-0.01 * index)
    return maps


def _enlarged(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.repeat_interleave(FACTOR, dim=-1).repeat_interleave(FACTOR, dim=-2)
