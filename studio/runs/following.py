"""What a run has said so far, as curves: read as it grows, smoothed, thinned to what a page can show."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from studio.runs.folder import parse_event
from studio.runs.refl import MEASURED as TUNING

__all__ = ["Curves", "Follower", "CURVES"]

MAX_POINTS = 400
SMOOTHING = 50  # steps that the running means look back on
# What a trainer measures at its sample points.
MEASURED = ("obedience", "obedience_empty", "accuracy", *TUNING)
# Figures of a step that some trainers say besides.
SAID = ("reward", "reward_std", "pretrain", "kl", "preferred")
OPTIONAL = (*SAID, *MEASURED)
# Curves by name: the loss of a step, its running mean, the running means where t lies in each quarter of 0..T, and what was measured.
CURVES = ("loss", "smooth", "q1", "q2", "q3", "q4", "grad_norm", "lr", *SAID, *MEASURED)
# Between two sample points a rise of so much is a jump.
JUMP = 0.25

Points = list[float | None]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """step: steps taken; values: a list as long for each of CURVES, None where nothing is known, and none of SAID and MEASURED where nothing
    was said; latest: the last event."""

    step: list[int] = field(default_factory=list)
    values: dict[str, Points] = field(default_factory=lambda: {name: [] for name in CURVES})
    latest: dict[str, Any] = field(default_factory=dict)

    @property
    def jump(self) -> tuple[int, int] | None:
        """The sample points, in steps taken, between which obedience with an empty prompt rose most at once; None where it never jumped."""
        known = [(step, value) for step, value in zip(self.step, self.values.get("obedience_empty", ())) if value is not None]
        rises = [(after[1] - before[1], before[0], after[0]) for before, after in zip(known, known[1:])]
        rise, before, after = max(rises, default=(0.0, 0, 0))
        return (before, after) if rise >= JUMP else None


class Follower:
    """Reads the events of runs, only what is new each time. Any thread may ask."""

    def __init__(self) -> None:
        self._read: dict[Path, _Reading] = {}
        self._lock = Lock()

    def curves(self, path: Path, max_points: int = MAX_POINTS) -> Curves:
        """The curves of the run in the folder `path`, at most about max_points of each, the last kept. Raises DamagedFile."""
        with self._lock:
            reading = self._read.get(path)
            if reading is None or not reading.goes_on(path):
                reading = self._read[path] = _Reading()
            reading.take(path)
            return reading.thinned(max_points)


class _Reading:
    """One events.jsonl as far as it was read. Lines without a step say nothing of curves."""

    def __init__(self) -> None:
        self.offset, self.tail = 0, b""
        self.curves = Curves()

    def goes_on(self, path: Path) -> bool:
        """Whether what was read is still there: a resumed run drops the lines of steps that it takes again."""
        if not self.offset:
            return True
        try:
            with open(path / "events.jsonl", "rb") as file:
                file.seek(self.offset - len(self.tail))
                return file.read(len(self.tail)) == self.tail
        except OSError:
            return False

    def take(self, path: Path) -> None:
        """Read the whole lines that are new. Raises DamagedFile."""
        try:
            with open(path / "events.jsonl", "rb") as file:
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return
        lines = text[: text.rfind(b"\n") + 1].splitlines(keepends=True)
        # All of them are looked at first: where one makes no sense, none is taken.
        for event in [event for event in map(parse_event, lines) if "step" in event]:
            self._measure(event) if "measured" in event else self._add(event)
        if lines:
            self.offset += sum(map(len, lines))
            self.tail = lines[-1]

    def _add(self, event: dict[str, Any]) -> None:
        values, quarters = self.curves.values, [*event.get("quartiles", ()), None, None, None, None][:4]
        self.curves.step.append(int(event["step"]) + 1)
        self.curves.latest.update(event)
        for name in ("loss", "grad_norm", "lr", *SAID):
            values[name].append(_number(event.get(name)))
        for name, value in zip(("smooth", "q1", "q2", "q3", "q4"), (event.get("loss"), *quarters)):
            values[name].append(_mean(values[name], _number(value)))

        for name in MEASURED:
            values[name].append(None)

    def _measure(self, event: dict[str, Any]) -> None:
        """What was measured after a step belongs to that step."""
        if not self.curves.step or self.curves.step[-1] != event["step"] + 1:
            return
        self.curves.latest.update(event["measured"])
        for name in MEASURED:
            self.curves.values[name][-1] = _number(event["measured"].get(name))

    def thinned(self, max_points: int) -> Curves:
        count = len(self.curves.step)
        stride = max(1, math.ceil(count / max_points))
        kept = [*range(0, max(count - 1, 0), stride), *range(count - 1, count)] if count else []
        # Sample points are few, and none is left out.
        kept = sorted({*kept, *(i for name in MEASURED for i, value in enumerate(self.curves.values[name]) if value is not None)})
        return Curves(
            step=[self.curves.step[i] for i in kept], latest=dict(self.curves.latest),
            values={name: [points[i] for i in kept] for name, points in self.curves.values.items() if name not in OPTIONAL or any(map(_known, points))},
        )


def _known(value: float | None) -> bool:
    return value is not None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _mean(means: Points, value: float | None) -> float | None:
    """The running mean with one more value; it begins at the first value and then looks back on ever more steps."""
    last = means[-1] if means else None
    if value is None or last is None:
        return last if value is None else value
    return last + (value - last) / min(len(means) + 1, SMOOTHING)


def watched(path: Path) -> tuple[int, ...]:
    """Changes when a follower of the run has something new to see."""
    def stamp(name: str) -> int:
        try:
            return os.stat(path / name).st_mtime_ns
        except OSError:
            return 0
    return tuple(stamp(name) for name in ("state.json", "events.jsonl", "log.txt", "samples", "stop", "checkpoints"))
