"""What a run folder says: the state of the run, its options, its events. Plain files, read without torch.

    config.json   the resolved options       state.json    who runs it, how far it is, how it ended
    options.toml  the same, to start again   events.jsonl  one line a step      log.txt  all that the process said
                                             before the first step also {"phase": words, "done": 3, "total": 64}
    checkpoints/  step-000499/ ...           samples/      step-000500.png ...  model/   the result
    stop          is there: please save and stop
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from studio.runs.processes import is_alive

__all__ = ["RunState", "RunView", "read_run", "read_events", "write_state", "write_config", "LIVE"]

RunState = Literal["waiting", "starting", "running", "stopped", "interrupted", "finished", "failed"]
LIVE: tuple[RunState, ...] = ("waiting", "starting", "running")
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True, kw_only=True)
class RunView:
    """A run as it stands. message: how it ended, in a sentence. step: steps taken; saved: the step of the last checkpoint + 1.

    left_s: estimate of what is left to do, None where nothing is known. phase: what is made ready before the first step,
    if the run says so, phase_done of phase_total.
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

    @property
    def live(self) -> bool:
        """Whether it runs or waits."""
        return self.state in LIVE

    @property
    def command(self) -> str:
        """What repeats the run in a terminal."""
        return f"python -m trainers.{self.trainer} --config {self.path / 'options.toml'}"

    @property
    def samples(self) -> list[Path]:
        """Its pictures, oldest first."""
        return sorted((self.path / "samples").glob("step-*.png"))

    @property
    def checkpoints(self) -> list[Path]:
        """Its complete checkpoints, oldest first."""
        return sorted(path for path in (self.path / "checkpoints").glob("step-*") if path.suffix != ".tmp")


def read_run(path: Path) -> RunView:
    """The run in the folder `path`. Never raises for files that are missing or cut short: a run may just be writing them."""
    state, options = read_json(path / "state.json"), read_json(path / "config.json")
    tail = _last_events(path / "events.jsonl")
    last = next((event for event in tail if "step" in event), {})
    ready = tail[0] if tail and "phase" in tail[0] else {}
    taken, steps = int(last.get("step", -1)) + 1, int(options.get("steps", 0))
    now = _state_now(state, finished=(path / "model").is_dir())
    return RunView(
        name=path.name, path=path, trainer=str(state.get("trainer", "")), state=now, message=_message(now, state), options=options, step=taken,
        steps=steps, saved=_saved(path), created=float(state.get("created", 0)), left_s=_left(now, last, taken, steps, options),
        stopping=(path / "stop").exists() and now in ("starting", "running"), phase=str(ready.get("phase", "")) if now == "running" else "",
        phase_done=int(ready.get("done", 0)), phase_total=int(ready.get("total", 0)), pid=state.get("pid"), log_tail=_tail(path / "log.txt"),
    )


def _state_now(state: dict[str, Any], finished: bool) -> RunState:
    said: RunState = state.get("state") or ("finished" if finished else "interrupted")
    if said in ("starting", "running") and not is_alive(state.get("pid"), state.get("process_start")):
        return "interrupted"
    return said


def _message(now: RunState, state: dict[str, Any]) -> str:
    if now == "interrupted":
        return "The process ended without a word, as when it is killed, or when the system ran out of memory. Resume goes on from the last checkpoint."
    return str(state.get("message", ""))


def _saved(path: Path) -> int:
    names = [entry.name for entry in (path / "checkpoints").glob("step-*") if entry.suffix != ".tmp"]
    return int(max(names).removeprefix("step-")) + 1 if names else 0


def _left(now: RunState, last: dict[str, Any], taken: int, steps: int, options: dict[str, Any]) -> float | None:
    speed, batch = last.get("samples_per_s"), options.get("batch_size")
    if now not in LIVE or not speed or not batch:
        return None
    return max(steps - taken, 0) * batch * options.get("accumulation", 1) / speed


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """(the whole lines of events.jsonl from byte `offset` on, the offset to go on from)."""
    try:
        with open(path / "events.jsonl", "rb") as file:
            file.seek(offset)
            text = file.read()
    except OSError:
        return [], offset
    whole = text[: text.rfind(b"\n") + 1]
    return [event for event in map(parse_event, whole.splitlines()) if event], offset + len(whole)


def write_state(path: Path, **changes: Any) -> None:
    """Change entries of state.json; written aside and renamed, so that a reader never sees half of it.

    Where there is no room for a second file, the first is written over: the block that it has is enough. Raises OSError.
    """
    state = {**read_json(path / "state.json"), **changes}
    file, aside = path / "state.json", path / f"state.json.{os.getpid()}.tmp"
    text = json.dumps(state, indent=2) + "\n"
    try:
        aside.write_text(text)
        os.replace(aside, file)
    except OSError:
        aside.unlink(missing_ok=True)
        if not file.exists():
            raise
        with open(file, "r+") as over:
            over.write(text)
            over.truncate()


def write_config(path: Path, options: Any) -> None:
    """The options dataclass as config.json, and as the options.toml that starts the run again.

    JSON's strings, numbers and lists are TOML's as well; None is left out.
    """
    values = dataclasses.asdict(options)
    (path / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    (path / "options.toml").write_text("\n".join(lines) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file, empty where it is missing or cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def parse_event(line: bytes) -> dict[str, Any]:
    """A line of events.jsonl, empty where it is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _last_events(path: Path, reach: int = 4096) -> list[dict[str, Any]]:
    """The last few events, the newest first."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - reach))
            lines = file.read().splitlines()
    except OSError:
        return []
    return [event for event in map(parse_event, reversed(lines)) if event]


def _tail(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    # A progress bar rewrites its line; the last state of each line is what counts.
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.splitlines())[-2000:]
