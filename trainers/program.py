"""What makes a trainer a program: options from the command line, a state that others can read, a sentence when it fails.

    running -> finished | stopped (saved first) | failed (why, in a sentence; the last checkpoint is intact)
"""

import errno
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from studio.errors import DamagedFile, StudioError
from studio.machine import keep_freed_memory
from studio.runs.checkpoints import newest_good, steps_of
from studio.runs.folder import read_state, write_state
from studio.runs.processes import process_start
from studio.runs.trainers.presets import Preset
from trainers.command_line import config_folder, parse_options
from trainers.loop import StepLog, StopAsked, require_even_share
from trainers.run_folder import RunFolder

__all__ = ["run_program"]

# How long a process beside the main one waits for it to say what went wrong.
SAYS_WITHIN_S = 20.0


def run_program(
    kind: type, train: Callable[..., Iterator[StepLog]], argv: list[str] | None = None, *, description: str, presets: Mapping[str, Preset] | None = None,
) -> None:
    """Run a trainer from the command line. Ctrl-C and SIGTERM save first, as the file `stop` in the run folder does. presets: for --preset."""
    name = train.__module__.rsplit(".", 1)[-1] if train.__module__ != "__main__" else _name_of_main()
    options = _options_or_end(kind, argv, f"python -m trainers.{name}", description, {key: entry.options for key, entry in (presets or {}).items()})
    folder = RunFolder(options.output)
    keep_freed_memory()
    if not _is_main_process():
        _take_part(train, options, folder)
        return
    # The studio says "starting" and clears away an old wish to stop; one that is there by now is meant for this start.
    if _state_before(folder.path) != "starting":
        (folder.path / "stop").unlink(missing_ok=True)
    folder.sweep()
    write_state(folder.path, trainer=name, state="running", pid=os.getpid(), process_start=process_start(os.getpid()), started=time.time(), message="")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: (folder.path / "stop").touch())
    last = None
    try:
        last = _take_all_steps(train, options)
    except StopAsked:
        pass
    except Exception as error:
        # A process beside this one may have said what went wrong; that it is gone is all that is found here.
        if _state_before(folder.path) != "failed":
            _say(folder.path, state="failed", message=_sentence(error, folder))
        _print_traceback()
        raise SystemExit(1) from error
    _say(folder.path, ended=time.time(), **_ending(folder, options, last))
    (folder.path / "stop").unlink(missing_ok=True)


def _take_part(train: Callable[..., Iterator[StepLog]], options: Any, folder: RunFolder) -> None:
    """A process beside the main one. A launcher ends all as soon as one has failed, so that one must not end before it is said why."""
    try:
        _take_all_steps(train, options)
    except StopAsked:
        pass
    except Exception as error:
        if not _main_process_says(folder.path):
            _say(folder.path, state="failed", message=_sentence(error, folder))
        _print_traceback()
        raise SystemExit(1) from error


def _main_process_says(path: Path) -> bool:
    """Whether the main process fails as well, and says so, within SAYS_WITHIN_S; what is wrong with the options fails in every process."""
    import psutil

    launched, end = psutil.Process(os.getppid()).create_time(), time.monotonic() + SAYS_WITHIN_S
    while time.monotonic() < end:
        with suppress(DamagedFile, OSError):
            state = read_state(path)
            # What an earlier start said may still stand there.
            if state.state == "failed" and state.started > launched:
                return True
        time.sleep(0.05)
    return False


def _options_or_end(kind: type, argv: list[str] | None, prog: str, description: str, presets: Mapping[str, Mapping[str, Any]]) -> Any:
    """The options, or the end with a sentence; a run that the studio is starting has then failed."""
    try:
        return parse_options(kind, argv, prog=prog, description=description, presets=presets)
    except StudioError as error:
        folder = config_folder(argv)
        if folder is not None and _state_before(folder) == "starting":
            _say(folder, state="failed", message=f"The options of this run cannot be used: {error}")
        raise SystemExit(str(error)) from error


def _state_before(path: Path) -> str:
    try:
        return read_state(path).state
    except DamagedFile:
        return ""


def _ending(folder: RunFolder, options: Any, last: StepLog | None) -> dict[str, str]:
    done = last.step + 1 if last else _saved(folder)
    if done >= options.steps:
        # What was said on the way, of checkpoints that were damaged, stays.
        said = read_state(folder.path).message
        return {"state": "finished", "message": f"All {options.steps} steps are done; the result is in {folder.path / 'model'}. {said}".strip()}
    if _written_since(folder.path / "model", read_state(folder.path).started):
        why = read_state(folder.path).message
        return {"state": "finished", "message": f"Ended after step {done} of {options.steps}; the result is in {folder.path / 'model'}. {why}".strip()}
    if not done:
        return {"state": "stopped", "message": "Stopped before the first step; what was made ready so far is kept, and resume goes on."}
    return {"state": "stopped", "message": f"Stopped after step {done} of {options.steps}; everything up to there is saved, and resume goes on."}


def _written_since(path: Path, started: float) -> bool:
    """Whether this process wrote the folder: its run ended before its last step, and has a result."""
    return path.is_dir() and path.stat().st_mtime >= started


def _sentence(error: Exception, folder: RunFolder) -> str:
    """What went wrong and what to do, for the person who started the run."""
    saved = _saved(folder)
    intact = f" The checkpoint of step {saved} is intact." if saved else ""
    if isinstance(error, StudioError):
        return f"{error}{intact}"
    if _is_full(error):
        return f"The disk is full, or files may not grow any further. Free some space, then resume.{intact}"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename or error} is gone. Put it back, then resume.{intact}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
        return f"The memory is not enough. Use a smaller batch, a smaller resolution or gradient checkpointing.{intact}"
    return f"The run failed: {type(error).__name__}: {error}. The log below says where.{intact}"


def _is_full(error: Exception) -> bool:
    """Whether there was no room to write. What writes weights says so in its words alone, without the number."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in numbers or any(f"(os error {number})" in str(error) for number in numbers)


def _saved(folder: RunFolder) -> int:
    """The steps of the newest checkpoint that is still what was written, 0 where there is none."""
    good = newest_good(folder.path).good
    return steps_of(good) if good else 0


def _say(path: Path, **changes: Any) -> None:
    try:
        write_state(path, **changes)
    except OSError:
        _print_traceback()


def _print_traceback() -> None:
    # The log stands on the same disk, and when that is full the end must not fail as well.
    with suppress(OSError):
        traceback.print_exc()


def _take_all_steps(train: Callable[..., Iterator[StepLog]], options: Any) -> StepLog | None:
    """Run the training; gives the last step. What several processes cannot share is refused before anything is loaded."""
    require_even_share(options.batch_size, int(os.environ.get("WORLD_SIZE", "1")))
    kept = deque(train(options), maxlen=1)
    return kept[0] if kept else None


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _name_of_main() -> str:
    import __main__

    return __main__.__spec__.name.rsplit(".", 1)[-1]


