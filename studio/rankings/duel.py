"""Two models against each other, judged blind: the share of comparisons that one wins, how sure that is, and how many are still needed.

    p = (wins + ties / 2) / n          interval: Wilson 1927, (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)
    it leaves out 1/2, so that one is better, from n = z^2 / (2p - 1)^2 on
"""

import math
from dataclasses import dataclass

from studio.rankings.agreement import Table, wins_by_task

__all__ = ["Z", "Duel", "duel", "needed", "wilson"]

Z = 1.959964  # of 95 %


@dataclass(frozen=True, kw_only=True)
class Duel:
    """comparisons: how many there were. rate: the share that the first won, a tie half of one; low, high: its 95 % interval.

    still_needed: further comparisons until the interval leaves out one half, if the rate stays; None where the two are equal.
    """

    comparisons: int = 0
    rate: float | None = None
    low: float = 0.0
    high: float = 1.0
    still_needed: int | None = None

    @property
    def sure(self) -> bool:
        """Whether one of them is better, by the interval."""
        return self.rate is not None and not self.low <= 0.5 <= self.high


def duel(table: Table, first: str, second: str) -> Duel:
    """How often pictures of the model `first` were put before those of `second` of the same task."""
    wins = wins_by_task(table, [first, second]).sum(0) if len(table.task) else None
    won, lost = (0.0, 0.0) if wins is None else (float(wins[0, 1]), float(wins[1, 0]))
    count = round(won + lost)
    if not count:
        return Duel()
    rate = won / (won + lost)
    low, high = wilson(rate, count)
    wanted = needed(rate)
    return Duel(comparisons=count, rate=rate, low=low, high=high, still_needed=None if wanted is None else max(0, wanted - count))


def wilson(share: float, count: int) -> tuple[float, float]:
    """(low, high) of a share of `count`, 95 %."""
    middle, scale = share + Z**2 / (2 * count), 1 + Z**2 / count
    spread = Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    return (middle - spread) / scale, (middle + spread) / scale


def needed(rate: float) -> int | None:
    """Comparisons from which on a rate leaves out one half; None for one half itself."""
    return None if rate == 0.5 else math.floor((Z / (2 * rate - 1)) ** 2) + 1
