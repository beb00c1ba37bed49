"""What a run will take, from a timed look at its base model on this machine, by a process of its own (trainers.estimate)."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from studio.errors import InvalidOption, RunFailed
from studio.runs.folder import write_config
from studio.runs.processes import ROOT, environment
from studio.runs.queue import Runs
from studio.runs.trainers import require_kinds
from studio.runs.trainers.dreambooth import RunCost
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.places import kept_within
from studio.runs.trainers.registry import TRAINERS
from studio.scratch import passing_folder

__all__ = ["ESTIMATED", "ask", "cost_of"]

logger = logging.getLogger(__name__)
# Trainers whose runs can be foretold.
ESTIMATED = ("dreambooth", "controlnet", "refl")


def cost_of(runs: Runs, trainer: str, options: Mapping[str, Any], check: Callable[[Any], None] | None = None) -> RunCost:
    """What a run of the trainer among these will take; a process of its own loads the base model and times it.

    check: in place of the trainer's own. Raises InvalidOption or UnknownName where the options cannot work, RunFailed where the process
    ended without an answer.
    """
    asked = kept_within(trainer, dict(options), runs.folders)
    require_kinds(trainer, asked)
    info = TRAINERS[trainer]
    checked = info.options(**asked)
    if (check or info.check) is not None:
        (check or info.check)(checked)  # type: ignore[misc]
    return ask(trainer, checked)


def ask(trainer: str, options: LoopOptions) -> RunCost:
    """What `python -m trainers.estimate` says of checked options. Raises InvalidOption with what it refuses, RunFailed where it said nothing."""
    with passing_folder() as folder:
        write_config(folder, options)
        command = [sys.executable, "-m", "trainers.estimate", trainer, "--config", str(folder / "options.toml")]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, env=environment())
    answer = _last_object(done.stdout)
    if "error" in answer:
        raise InvalidOption(answer["error"])
    if done.returncode or not answer:
        logger.error("The estimate ended with %d:\n%s", done.returncode, done.stderr[-4000:])
        raise RunFailed("The estimate was ended, as when the memory is not enough for the base model; the log says more. The run itself may be started.")
    return RunCost(**answer)


def _last_object(text: str) -> dict[str, Any]:
    """The JSON object in the last line of what a program printed, empty where there is none."""
    try:
        answer = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return answer if isinstance(answer, dict) else {}
