"""Where a ranking is least sure: which task says most about the strengths of its models, by a Bradley-Terry posterior.

    strengths s ~ N(0, PRIOR^2), P(a beats b) = p = sigmoid(s_a - s_b); the posterior as a normal one around its mode:
    precision H = 1/PRIOR^2 + sum over comparisons of p (1 - p) (e_a - e_b)(e_a - e_b)^T, covariance C = H^-1
    information of comparing a and b once more: log(1 + p (1 - p) (e_a - e_b)^T C (e_a - e_b)) / 2, in nats (Chaloner and Verdinelli 1995)

What it saves: by how much the mean variance of the differences falls with each ranking, against tasks in a random order.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from studio.rankings.agreement import read_table, wins_by_task

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["Posterior", "information", "posterior", "posterior_of", "saved_share"]

PRIOR = 2.0
NEWTON_STEPS = 25
# How long a posterior is taken to hold, and of how many collections it is kept.
KEPT_S, MOST_KEPT = 30.0, 64
LOCK = threading.Lock()
KNOWN: "LRUCache[tuple[str, str, str], tuple[float, Posterior]]" = LRUCache(MOST_KEPT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """strengths (M,), covariance (M, M) of the models in `models`."""

    models: Sequence[str]
    strengths: np.ndarray
    covariance: np.ndarray

    @property
    def uncertainty(self) -> float:
        """The mean variance of the difference of two models; 0 where there are fewer than two."""
        pairs = list(combinations(range(len(self.models)), 2))
        return float(np.mean([spread(self.covariance, a, b) for a, b in pairs])) if pairs else 0.0


def posterior(models: Sequence[str], wins: np.ndarray) -> Posterior:
    """The posterior of the strengths given wins (M, M): how often the model of the row beat that of the column, ties half a win for each."""
    games = wins + wins.T
    strengths = np.zeros(len(models))
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
        gradient = (wins - games * p).sum(1) - strengths / PRIOR**2
        step = np.linalg.solve(precision(games, p), gradient)
        strengths = strengths + np.clip(step, -2, 2)
        if np.abs(step).max(initial=0) < 1e-8:
            break
    p = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
    return Posterior(models=models, strengths=strengths, covariance=np.linalg.inv(precision(games, p)))


def precision(games: np.ndarray, p: np.ndarray) -> np.ndarray:
    weight = games * p * (1 - p)
    np.fill_diagonal(weight, 0)
    return np.diag(weight.sum(1)) - weight + np.eye(len(games)) / PRIOR**2


def spread(covariance: np.ndarray, a: int, b: int) -> float:
    """The variance of the difference of two strengths."""
    return float(covariance[a, a] + covariance[b, b] - 2 * covariance[a, b])


def information(known: Posterior, models: Sequence[str]) -> float:
    """Nats that ranking pictures of these models is expected to bring: the sum over their pairs."""
    places = {model: place for place, model in enumerate(known.models)}
    total = 0.0
    for one, other in combinations([places[model] for model in models if model in places], 2):
        if one == other:
            continue
        p = 1 / (1 + np.exp(known.strengths[other] - known.strengths[one]))
        total += 0.5 * float(np.log1p(p * (1 - p) * spread(known.covariance, one, other)))
    return total


def saved_share(known: Posterior, chosen: Sequence[str], others: Sequence[Sequence[str]]) -> float | None:
    """How much more the chosen task is expected to say than one of the others at random: 0.5 is half as much again. None where nothing can be said."""
    mean = float(np.mean([information(known, other) for other in others])) if others else 0.0
    return information(known, chosen) / mean - 1 if mean > 0 else None


# --- of a database -------------------------------------------------------------------------------------------

def posterior_of(rankings: "Rankings", collection: str = "") -> Posterior:
    """What the rankings of a collection say of its models; what was found is kept for half a minute, as a large database takes seconds."""
    key = (str(rankings.engine.url), str(rankings.folder), collection)
    with LOCK:
        at, known = KNOWN.get(key, (-KEPT_S, None))
        if known is None or time.monotonic() - at >= KEPT_S:
            table = read_table(rankings, collection)
            models = sorted({model for of in table.models.values() for model in of if model})
            wins = wins_by_task(table, models).sum(0) if len(table.task) else np.zeros((len(models), len(models)))
            known = posterior(models, wins)
            KNOWN[key] = (time.monotonic(), known)
        return known
