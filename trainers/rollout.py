"""Drawing while a model learns: from noise to a step without a graph, and single steps with one.

    x_T -> ... -> x_t (no graph) -> x0_hat (graph)           the studio's own DDIM, guidance and conversions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from studio.models.conditioning import Conditioning, batched
from studio.models.steady import steady
from studio.options import SampleOptions
from studio.process.conversions import NoiseLevel
from studio.process.noise import draw_noise
from studio.process.paths import Discretization
from studio.sampling.denoisers import Denoiser, Network, Prediction, Reader
from studio.sampling.guidance import ClassifierFree
from studio.sampling.samplers import DDIM

__all__ = ["Conditions", "Drawn", "Rollout", "Tuned", "seeded"]

# Of what the text encoders said of prompts: a small model's are read thousands of times, of T5's a few dozen fill it.
BYTES_KEPT = 256 * 2**20


class Tuned(torch.nn.Module):
    """The network that learns, asked as its model asks it. One forward pass, so that accelerate wraps it whole."""

    def __init__(self, model: Any):
        super().__init__()
        # Under the name of its folder, by which what a checkpoint holds is put into the base again.
        setattr(self, model.network_name, model.network)
        self.model = model
        if hasattr(model, "traced"):
            # Graphs and folded weights would stay those of the beginning.
            model.traced.frozen = False

    def forward(self, x_t: Tensor, t: Any, conditioning: Conditioning) -> Tensor:
        """What it says at x_t (B, C, h, w); t: a number, or one for each of the batch."""
        return self.model.predict(x_t.contiguous(memory_format=torch.channels_last), t, conditioning)


class Conditions:
    """What the network is told of prompts; those used last are kept."""

    def __init__(self, model: Any, resolution: int):
        self.model, self.resolution = model, resolution
        self._of = lru_cache(maxsize=max(1, BYTES_KEPT // bytes_of(self._made(""))))(self._made)

    def _made(self, prompt: str, beside: str = "") -> tuple[Conditioning, Conditioning]:
        """Of a prompt, and of one that guidance leads away from."""
        size = {"width": self.resolution, "height": self.resolution}
        with torch.no_grad():
            cond, uncond = self.model.condition(SampleOptions(model=self.model.name, prompt=prompt, negative_prompt=beside, **size))
        assert uncond is not None
        return cond, uncond

    def of(self, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        """(the prompts', the empty one's), B rows each."""
        pairs = [self._of(prompt) for prompt in prompts]
        places = [places_of(cond) for cond, _ in pairs]
        longest = prompts[places.index(max(places))]
        # A family lengthens a prompt of fewer chunks as it does beside a longer negative one: what that adds is its own affair.
        conds = [cond if count == max(places) else self._of(prompt, longest)[0] for prompt, count, (cond, _) in zip(prompts, places, pairs)]
        return batched(conds, 1), batched([self._of(longest)[1]], len(prompts))


def bytes_of(conditions: Sequence[Conditioning]) -> int:
    """What the tensors of some conditions take."""
    return sum(tensor.nbytes for one in conditions for tensor in vars(one).values() if isinstance(tensor, Tensor))


def places_of(said: Conditioning) -> int:
    """How many places the words have that a network is told."""
    assert said.text is not None
    return said.text.shape[1]


def seeded(count: int, generator: torch.Generator) -> list[torch.Generator]:
    """A generator for each picture, of seeds that `generator` draws."""
    return [torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (count,), generator=generator).tolist()]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Pictures as they are drawn. denoisers: of the steps without a graph, and of those with one. generators: one a picture."""

    denoiser: Denoiser
    late: Denoiser
    generators: Sequence[torch.Generator]
    prompts: Sequence[str]


class Rollout:
    """The steps of a run of `num_steps`.

    Args:
        model: of the studio, whose path and conditions are taken.
        eta: noise that steps add; guidance_scale: of the steps without a graph; late_guidance: whether those with one are guided too.
    """

    def __init__(self, model: Any, *, num_steps: int, eta: float, guidance_scale: float, late_guidance: bool, resolution: int):
        self.model, self.scale, self.late_guidance = model, guidance_scale, late_guidance
        self.steps: Discretization = model.path.discretize(num_steps)
        self.sampler = DDIM(self.steps, eta=eta)
        self.read = Reader(path=model.path, clip_x0=False)
        self.conditions = Conditions(model, resolution)
        self.shape = model.state_shape(SampleOptions(model=model.name, width=resolution, height=resolution))

    @property
    def levels(self) -> Sequence[NoiseLevel]:
        """One a step, noisiest first."""
        return self.steps.levels

    def begin(self, network: Any, prompts: Sequence[str], generators: Sequence[torch.Generator]) -> tuple[Drawn, Tensor]:
        """Pictures of prompts, and their noise (B, C, h, w)."""
        cond, uncond = self.conditions.of(prompts)
        alone = Network(model=_Asked(network), conditioning=cond, read=self.read)
        guided: Denoiser = alone
        if self.scale != 1:
            both = batched([uncond, cond], len(prompts))
            guided = ClassifierFree(alone=alone, both=both, scale=self.scale, rescale=0.0, low=float("-inf"), high=float("inf"))
        drawn = Drawn(denoiser=guided, late=guided if self.late_guidance else alone, generators=generators, prompts=prompts)
        return drawn, draw_noise(generators, self.shape, self.model.device)

    @torch.no_grad()
    def advance(self, drawn: Drawn, x_t: Tensor, first: int, last: int) -> Tensor:
        """The states before step `last`, from those before step `first`; no graph is built."""
        with steady(self.model.network):
            for index in range(first, last):
                x_t = self.step(drawn, drawn.denoiser(x_t, self.levels[index]), x_t, index)
        return x_t

    def step(self, drawn: Drawn, prediction: Prediction, x_t: Tensor, index: int) -> Tensor:
        """The states after step `index`."""
        return self.sampler.step(drawn.denoiser, prediction, x_t, index, drawn.generators)

    @torch.no_grad()
    def pictures(self, network: Any, prompts: Sequence[str], seeds: Sequence[int], at_once: int) -> Tensor:
        """(N, 3, H, W) in [-1, 1] on the CPU, drawn to the end, a prompt and a seed each."""
        parts = []
        for first in range(0, len(prompts), at_once):
            some = slice(first, first + at_once)
            drawn, x_t = self.begin(network, prompts[some], [torch.Generator().manual_seed(seed) for seed in seeds[some]])
            parts.append(self.model.decode(self.advance(drawn, x_t, 0, len(self.levels))).clamp(-1, 1).cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class _Asked:
    """The network as it learns, asked as a model is."""

    network: Any

    def predict(self, x_t: Tensor, t: Any, conditioning: Conditioning) -> Tensor:
        return self.network(x_t, t, conditioning).float()
