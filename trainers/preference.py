"""How well a reward tells the better of two pictures, and how sure it may be.

    accuracy      share of strict pairs with r_better > r_worse; equal rewards count as wrong
    interval      95 %: the wider of Wilson's over pairs, and the bootstrap over prompts, whose pairs hang together
    calibration   pairs by how sure the reward is, sigmoid(|r_a - r_b|), and the share of each group that it has right
"""

from typing import Any

import numpy as np

from studio.rankings.duel import wilson

__all__ = ["accuracy_of", "calibration", "interval", "verdict"]

RESAMPLED = 1000
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Below so many held-out pairs, or prompts, an accuracy is not to be trusted.
PAIRS_TO_TRUST, PROMPTS_TO_TRUST = 100, 20


def accuracy_of(better: np.ndarray, worse: np.ndarray) -> float | None:
    """(N,) rewards of each pair -> the share in the right order; None where there are no pairs."""
    return float((better > worse).mean()) if len(better) else None


def interval(right: np.ndarray, group: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the share of right pairs. right: (N,) bool; group: (N,) the prompt of each."""
    count, share = len(right), float(right.mean())
    low, high = wilson(share, count)
    places = np.unique(group, return_inverse=True)[1]
    sums, sizes = np.bincount(places, right), np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLED, len(sums)))
    shares = sums[drawn].sum(1) / sizes[drawn].sum(1)
    return max(0.0, min(low, float(np.quantile(shares, 0.025)))), min(1.0, max(high, float(np.quantile(shares, 0.975))))


def calibration(better: np.ndarray, worse: np.ndarray) -> list[dict[str, Any]]:
    """[{"sure": mean probability that the reward gives its choice, "right": share right, "pairs"}], groups without pairs left out."""
    difference = better - worse
    sure, right = 1 / (1 + np.exp(-np.abs(difference))), difference > 0
    rows = []
    for low, high in zip(BINS, BINS[1:]):
        inside = (sure >= low) & ((sure < high) | (high == BINS[-1]))
        if inside.any():
            rows.append({"sure": float(sure[inside].mean()), "right": float(right[inside].mean()), "pairs": int(inside.sum())})
    return rows


def verdict(better: np.ndarray, worse: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Everything of held-out pairs as JSON: accuracy, low, high, pairs, prompts, calibration, and a note where they are too few."""
    pairs, prompts = len(better), len(np.unique(group))
    if not pairs:
        return {"accuracy": None, "pairs": 0, "prompts": 0, "note": "No pair was held out, so nothing is known of its accuracy: rank more prompts."}
    low, high = interval(better > worse, group)
    note = ""
    if pairs < PAIRS_TO_TRUST or prompts < PROMPTS_TO_TRUST:
        few = f"{pairs} pairs of {prompts} prompt{'' if prompts == 1 else 's'}"
        note = f"Too few to trust: {few} were held out, so the accuracy may be anything from {low:.0%} to {high:.0%}."
    return {
        "accuracy": accuracy_of(better, worse), "low": low, "high": high, "pairs": pairs, "prompts": prompts, "calibration": calibration(better, worse),
        "note": note,
    }


def spread(values: np.ndarray) -> tuple[float, float]:
    """(mean, deviation) of rewards; a deviation of nothing is 1, so that dividing by it changes nothing."""
    deviation = float(values.std()) if len(values) else 0.0
    return (float(values.mean()) if len(values) else 0.0), deviation if deviation > 1e-6 else 1.0
