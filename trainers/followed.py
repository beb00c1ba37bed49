"""What a model follows: one or several scorers as one number, and its gradient in x0_hat, a few pictures at a time.

    r = sum_k w_k (r_k - mean_k) / std_k          loss = w mean(relu(cap - r)), or -w mean(r)
    g = d loss / d x0_hat, then (x0_hat g).sum() has the loss's gradient in the network's weights

so that the decoder's and the scorers' activations are never held for all pictures at once, nor beside the network's own backward pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from studio.errors import RunFailed
from studio.rewards import Reward

__all__ = ["Followed", "Pulled", "capped", "pulled"]

# A power of two, that half precision does not lose small gradients.
LIFT = 1024.0


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Scorers with their weights. units: (mean, deviation) that each is measured in."""

    rewards: Sequence[Reward]
    weights: Sequence[float]
    units: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, pictures: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) of pictures (B, 3, H, W) in [-1, 1]; gradients flow."""
        total = torch.zeros((), device=pictures.device)
        for reward, weight in zip(self.rewards, self.weights):
            mean, std = self.units.get(reward.name, (0.0, 1.0))
            total = total + weight * (reward(pictures, prompts).to(pictures.device) - mean) / std
        return total

    def measured_in(self, units: Mapping[str, tuple[float, float]]) -> "Followed":
        """The same, each scorer less its mean, by its deviation."""
        return replace(self, units=dict(units))


@dataclass(frozen=True)
class Pulled:
    """rewards: (B,). loss: the mean over the pictures, weighed. gradient: of it, in x0_hat."""

    rewards: Tensor
    loss: Tensor
    gradient: Tensor


def capped(cap: float) -> Callable[[Tensor], Tensor]:
    """relu(cap - r), the published loss: no gradient above the cap."""
    return lambda rewards: torch.relu(cap - rewards)


def pulled(model: Any, follow: Followed, loss_of: Callable[[Tensor], Tensor], weight: float, x0_hat: Tensor, prompts: Sequence[str], at_once: int) -> Pulled:
    """The rewards of x0_hat (B, C, h, w) and the gradient that they pull it with. Raises RunFailed where a reward is no number."""
    rewards, losses, gradients = [], [], []
    for first in range(0, len(prompts), at_once):
        some = slice(first, first + at_once)
        with torch.enable_grad():
            x = x0_hat[some].detach().requires_grad_()
            reward = follow(model.decode(x).clamp(-1, 1), prompts[some])
            loss = weight * loss_of(reward)
            (gradient,) = torch.autograd.grad(LIFT / len(prompts) * loss.sum(), x)
        rewards.append(reward.detach())
        losses.append(loss.detach())
        gradients.append(gradient / LIFT)
    found = torch.cat(rewards)
    if not found.isfinite().all():
        raise RunFailed("A reward is no longer a number, so the run was ended; look at the last pictures, and choose another scorer or a lower learning rate.")
    return Pulled(found, torch.cat(losses).mean(), torch.cat(gradients))
