"""What stands in the files of a run, as data: nothing of a run is read but through these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.checks import is_number, quoted, require_choice, require_float, require_int, require_text
from studio.errors import DamagedFile, InvalidOption, StudioError
from studio.files import read_object
from studio.records import record_of
from studio.runs.trainers import TRAINERS, require_kinds

__all__ = ["MOST", "CheckpointFacts", "MeasuredEvent", "PhaseEvent", "RunState", "StateRecord", "StepEvent", "event_of", "read_config"]

RunState = Literal["waiting", "starting", "running", "stopped", "interrupted", "finished", "failed", "damaged"]
# Those that a trainer or the queue write down.
WRITTEN = ("", "waiting", "starting", "running", "stopped", "finished", "failed")
# More steps than any run takes, and the largest number that sums of others stay finite with.
MOST, LARGEST = 10**12, 1e300
LATEST_S = 1e11
MOST_PID = 2**31


@dataclass(frozen=True, kw_only=True)
class StateRecord:
    """state.json: who runs the run and how it ended. Times are seconds since 1970; process_start is that of studio.runs.processes."""

    trainer: str = ""
    state: str = ""
    message: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    pid: int | None = None
    process_start: float | None = None

    def __post_init__(self) -> None:
        require_text("trainer", self.trainer, 100)
        require_choice("state", self.state, WRITTEN)
        require_text("message", self.message)
        for name in ("created", "started", "ended"):
            require_float(name, getattr(self, name), 0, LATEST_S)
        if self.pid is not None:
            require_int("pid", self.pid, 1, MOST_PID)
        if self.process_start is not None:
            require_float("process_start", self.process_start, 0, LATEST_S)


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """A line of events.jsonl for a step. Numbers may be NaN, of a loss that ran away, or None where nothing is known."""

    step: int
    loss: float | None = None
    quartiles: Sequence[float | None] = ()
    grad_norm: float | None = None
    lr: float | None = None
    samples_per_s: float | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        require_int("step", self.step, 0, MOST)
        for name in ("loss", "grad_norm", "lr", "samples_per_s", "memory_gib"):
            _require_figure(name, getattr(self, name))
        if not isinstance(self.quartiles, (list, tuple)) or len(self.quartiles) > 4:
            raise InvalidOption(f"quartiles must be a list of at most 4 numbers, but it is {quoted(self.quartiles)}.")
        for value in self.quartiles:
            _require_figure("quartiles", value)


@dataclass(frozen=True, kw_only=True)
class PhaseEvent:
    """A line of events.jsonl from before the first step: what is made ready, `done` of `total`."""

    phase: str
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        require_text("phase", self.phase, 200)
        require_int("done", self.done, 0, MOST)
        require_int("total", self.total, 0, MOST)


@dataclass(frozen=True, kw_only=True)
class MeasuredEvent:
    """A line of events.jsonl from a sample point: what was measured of the pictures drawn after step `step`, by name."""

    step: int
    measured: Mapping[str, float | None]

    def __post_init__(self) -> None:
        require_int("step", self.step, 0, MOST)
        if not isinstance(self.measured, dict) or len(self.measured) > 20:
            raise InvalidOption(f"measured must be an object of at most 20 numbers, but it is {quoted(self.measured)}.")
        for name, value in self.measured.items():
            require_text("A name", name, 100)
            _require_figure(name, value)


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """facts.json of a checkpoint. step: the last one taken, from 0; loss: smoothed; scaler: that of fp16."""

    step: int
    samples: int = 0
    loss: float | None = None
    scaler: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        require_int("step", self.step, 0, MOST)
        require_int("samples", self.samples, 0, 10**18)
        _require_figure("loss", self.loss)
        if self.scaler is not None and not isinstance(self.scaler, dict):
            raise InvalidOption(f"scaler must be an object, but it is {quoted(self.scaler)}.")


def _require_figure(name: str, value: object) -> None:
    # NaN and infinities are what they are: they compare false, or lie beyond every number.
    if value is not None and (not is_number(value) or LARGEST < abs(value) < float("inf")):
        raise InvalidOption(f"{name} must be a number or null, but it is {quoted(value)}.")


def event_of(values: Mapping[str, Any]) -> StepEvent | MeasuredEvent | PhaseEvent | None:
    """A line of events.jsonl; None for one that tells of something else. Raises DamagedFile."""
    kinds: dict[str, Callable[..., Any]] = {"measured": MeasuredEvent, "step": StepEvent, "phase": PhaseEvent}
    kind = next((kind for name, kind in kinds.items() if name in values), None)
    return None if kind is None else record_of(kind, values, "events.jsonl")  # type: ignore[arg-type]


def read_config(path: Path, trainer: str) -> dict[str, Any]:
    """config.json: the options of the run, of the kinds that its trainer gives them; empty where it is not written yet.

    Bounds are not looked at: another version may have had others. Raises DamagedFile.
    """
    options = read_object(path) or {}
    try:
        for name, value in options.items():
            require_text("A name", name, 100)
            _require_plain(name, value)
        for name in ("steps", "batch_size", "accumulation"):
            require_int(name, options.get(name, 1), 0, MOST)
        if trainer in TRAINERS:
            require_kinds(trainer, options)
    except StudioError as error:
        raise DamagedFile(f"{path.name}: {error}") from error
    return options


def _require_plain(name: str, value: object) -> None:
    """An option is a text, a number, true, false or null."""
    if isinstance(value, str):
        require_text(name, value)
    elif is_number(value):
        require_float(name, value, -LARGEST, LARGEST)
    elif isinstance(value, (list, dict)):
        raise InvalidOption(f"{name} must be a text, a number, true or false, but it is {quoted(value)}.")
