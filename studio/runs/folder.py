"""What a run folder says: the state of the run, its options, its events. Plain files, read without torch.

    config.json   the resolved options       state.json    who runs it, how far it is, how it ended
    options.toml  the same, to start again   events.jsonl  one line a step      log.txt  all that the process said
                                             before the first step also {"phase": words, "done": 3, "total": 64}
    checkpoints/  step-000499/ ...           samples/      step-000500.png ...  model/   the result
    stop          is there: please save and stop
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import DamagedFile
from studio.files import read_object, write_text
from studio.models.facts import STUDIO_FACTS, model_facts
from studio.records import read_record
from studio.runs.checkpoints import list_checkpoints, steps_of
from studio.runs.processes import ROOT, is_alive
from studio.runs.records import RunState, StateRecord, event_of, read_config

__all__ = ["LIVE", "RunView", "read_events", "read_run", "read_state", "read_toml", "run_folders", "write_config", "write_state"]

STATE = "state.json"
SAMPLE = re.compile(r"step-(\d{1,12})\.png")
LIVE: tuple[RunState, ...] = ("waiting", "starting", "running")
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as it stands. message: how it ended, in a sentence. step: steps taken; saved: the step of the last checkpoint + 1.
    example: whether it was recorded with the studio, and is nobody's own.

    left_s: estimate of what is left to do, None where nothing is known. phase: what is made ready before the first step,
    if the run says so, phase_done of phase_total. Of a "damaged" one little is known: message says what cannot be read.
    """

    name: str
    path: Path
    trainer: str
    state: RunState
    message: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    steps: int = 0
    saved: int = 0
    created: float = 0.0
    left_s: float | None = None
    stopping: bool = False
    phase: str = ""
    phase_done: int = 0
    phase_total: int = 0
    pid: int | None = None
    log_tail: str = ""
    example: bool = False

    @property
    def live(self) -> bool:
        """Whether it runs or waits."""
        return self.state in LIVE

    @property
    def busy(self) -> bool:
        """Whether its process has the device; that of a damaged run may."""
        return self.state in ("starting", "running") or self.state == "damaged" and self.pid is not None

    @property
    def command(self) -> str:
        """What repeats the run in a terminal."""
        folder = self.path.relative_to(ROOT) if self.example else self.path
        return f"python -m trainers.{self.trainer} --config {folder / 'options.toml'}"

    @property
    def samples(self) -> list[Path]:
        """Its pictures, oldest first."""
        return [path for _, path in self.numbered_samples]

    @property
    def numbered_samples(self) -> list[tuple[int, Path]]:
        """(steps taken, picture), oldest first."""
        found = []
        with suppress(OSError):
            for path in (self.path / "samples").iterdir():
                if (match := SAMPLE.fullmatch(path.name)) and path.is_file():
                    found.append((int(match[1]), path))
        return sorted(found)

    @property
    def checkpoints(self) -> list[Path]:
        """Its complete checkpoints, oldest first."""
        return list_checkpoints(self.path)


def run_folders(root: Path) -> list[Path]:
    """The folders of runs under `root`, none where that cannot be read: each holds a state.json, and has a name that can be shown."""
    try:
        found = [path for path in root.iterdir() if path.name.isprintable() and not path.name.startswith(".")]
        return [path for path in found if os.path.lexists(path / STATE)]
    except OSError:
        return []


# --- read ----------------------------------------------------------------------------------------------------

def read_run(path: Path) -> RunView:
    """The run in the folder `path`. Never raises: what is missing a run may just be writing, what makes no sense is "damaged"."""
    state = StateRecord()
    try:
        state = read_state(path)
        return _view(path, state)
    except (DamagedFile, OSError) as error:
        alive = state.state in ("starting", "running") and is_alive(state.pid, state.process_start)
        return RunView(
            name=path.name, path=path, trainer=state.trainer, state="damaged", created=state.created, pid=state.pid if alive else None,
            message=f"This run cannot be read: {error} Delete it, or put right what is wrong in {path}.", log_tail=_tail(path / "log.txt"),
        )


def read_state(path: Path) -> StateRecord:
    """state.json of the run. Raises DamagedFile."""
    return read_record(StateRecord, path / STATE) or StateRecord()


def _view(path: Path, state: StateRecord) -> RunView:
    options, tail = read_config(path / "config.json", state.trainer), _last_events(path / "events.jsonl")
    last = next((event for event in tail if "step" in event and "measured" not in event), {})
    ready = tail[0] if tail and "phase" in tail[0] else {}
    taken, steps, saved = last.get("step", -1) + 1, options.get("steps", 0), list_checkpoints(path)
    now = _state_now(state, finished=(path / "model").is_dir())
    if now == "finished":
        _require_result(path / "model")
    return RunView(
        name=path.name, path=path, trainer=state.trainer, state=now, message=_message(now, state), options=options, step=taken,
        steps=steps, saved=steps_of(saved[-1]) if saved else 0, created=state.created, left_s=_left(now, last, taken, steps, options),
        stopping=(path / "stop").exists() and now in ("starting", "running"), phase=ready.get("phase", "") if now == "running" else "",
        phase_done=ready.get("done", 0), phase_total=ready.get("total", 0), pid=state.pid, log_tail=_tail(path / "log.txt"),
    )


def _state_now(state: StateRecord, finished: bool) -> RunState:
    said = state.state or ("finished" if finished else "interrupted")
    if said in ("starting", "running") and not is_alive(state.pid, state.process_start):
        return "interrupted"
    return said  # type: ignore[return-value]


def _message(now: RunState, state: StateRecord) -> str:
    if now == "interrupted":
        return "The process ended without a word, as when it is killed, or when the system ran out of memory. Resume goes on from the last checkpoint."
    return state.message


def _require_result(model: Path) -> None:
    """Refuse a result whose facts cannot be read. Raises DamagedFile."""
    try:
        model_facts(model)
    except DamagedFile as error:
        raise DamagedFile(f"model/{error}" if str(error).startswith(STUDIO_FACTS) else str(error)) from error


def _left(now: RunState, last: dict[str, Any], taken: int, steps: int, options: dict[str, Any]) -> float | None:
    speed, batch = last.get("samples_per_s"), options.get("batch_size")
    if now not in LIVE or not speed or not batch:
        return None
    left = max(steps - taken, 0) * batch * options.get("accumulation", 1) / speed
    return left if math.isfinite(left) else None


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """(the whole lines of events.jsonl from byte `offset` on, the offset to go on from). Raises DamagedFile."""
    try:
        with open(path / "events.jsonl", "rb") as file:
            file.seek(offset)
            text = file.read()
    except OSError:
        return [], offset
    whole = text[: text.rfind(b"\n") + 1]
    return [event for event in map(parse_event, whole.splitlines()) if event], offset + len(whole)


def parse_event(line: bytes) -> dict[str, Any]:
    """A line of events.jsonl as event_of checked it, empty where it is none: a kill may have cut it short. Raises DamagedFile."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) and event_of(event) is not None else {}


def _last_events(path: Path, reach: int = 4096) -> Sequence[dict[str, Any]]:
    """The last few events, the newest first. Raises DamagedFile."""
    return [event for event in map(parse_event, reversed(_end_of(path, reach).splitlines())) if event]


def _tail(path: Path) -> str:
    text = _end_of(path, LOG_TAIL_BYTES).decode(errors="replace")
    # A progress bar rewrites its line; the last state of each line is what counts.
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.splitlines())[-2000:]


def _end_of(path: Path, reach: int) -> bytes:
    """The last bytes of a file, none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - reach))
            return file.read(reach)
    except OSError:
        return b""


def read_toml(path: Path) -> str:
    """options.toml of the run, as text. Raises DamagedFile."""
    try:
        return (path / "options.toml").read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DamagedFile(f"options.toml of the run {path.name!r} cannot be read, so its options cannot be taken.") from error


# --- written -------------------------------------------------------------------------------------------------

def write_state(path: Path, **changes: Any) -> None:
    """Change entries of state.json, whole, so that a reader never sees half of it; one that cannot be read is begun anew.

    Where there is no room for a second file, the first is written over: the block that it has is enough. Raises OSError.
    """
    file = path / STATE
    try:
        state = read_object(file) or {}
    except DamagedFile:
        state = {}
    text = json.dumps({**state, **changes}, indent=2) + "\n"
    try:
        write_text(file, text)
    except OSError:
        if not file.exists():
            raise
        with open(file, "r+") as over:
            over.write(text)
            over.truncate()


def write_config(path: Path, options: Any) -> None:
    """The options dataclass as config.json, and as the options.toml that starts the run again. Raises OSError.

    JSON's strings, numbers and lists are TOML's as well; None is left out.
    """
    values = dataclasses.asdict(options)
    write_text(path / "config.json", json.dumps(values, indent=2) + "\n")
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    write_text(path / "options.toml", "\n".join(lines) + "\n")
