"""One run killed with SIGKILL at random moments, resumed each time, against the same run left alone: are the weights identical?

Every fourth kill comes at any time of the start, the drawing of class pictures included; the others come while it trains,
in which a checkpoint is written every fourth step.
"""

import hashlib
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from studio.runs import Runs, RunView
from studio.runs.dreambooth import EXAMPLE
from studio.runs.folder import read_state

KILLS = 20
OPTIONS = {
    "base": "toybox-sd", "instances": str(EXAMPLE), "steps": 600, "batch_size": 2, "num_class_images": 16, "class_steps": 10, "sample_every": 200,
    "checkpoint_every": 4, "ema_decay": 0.98, "validation_steps": 5, "keep_checkpoints": 2,
}


def main() -> None:
    """Print when it was killed, and whether the weights are the same."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        # Apart from each other, so that neither finds the class pictures of the other.
        whole, cut = Runs(Path(folder) / "whole"), Runs(Path(folder) / "cut")
        whole.start("dreambooth", OPTIONS, name="run")
        _to_the_end(whole)
        cut.start("dreambooth", OPTIONS, name="run")
        kills: list[str] = []
        while len(kills) < KILLS:
            resumed, at_start = time.time(), len(kills) % 4 == 0
            if not at_start:
                _wait_for_a_step(cut, since=resumed)
            time.sleep(chance.uniform(0.3, 12) if at_start else chance.uniform(0, 2))
            view = cut.read("run")
            if view.state == "finished":
                break
            os.kill(view.pid, signal.SIGKILL)
            kills.append(view.phase or (f"the start, {view.saved} saved" if at_start else f"step {view.step}"))
            _wait_for(cut, ("interrupted",))
            cut.resume("run")
        _to_the_end(cut)
        print(f"killed {len(kills)} times, at: {', '.join(kills)}")
        same = _weights(whole.read("run")) == _weights(cut.read("run"))
        print(f"weights after {OPTIONS['steps']} steps: {'identical' if same else 'DIFFERENT'}; steps logged once each: {_once_each(cut.read('run'))}")


def _to_the_end(runs: Runs) -> None:
    _wait_for(runs, ("finished", "failed"))
    view = runs.read("run")
    assert view.state == "finished", view.message


def _wait_for_a_step(runs: Runs, since: float) -> None:
    """Until the process that was started after `since` writes events: it trains."""
    folder = runs.read("run").path
    events = folder / "events.jsonl"
    while runs.read("run").state != "finished":
        started = read_state(folder).started
        if started > since and events.exists() and events.stat().st_mtime > started:
            return
        time.sleep(0.05)


def _wait_for(runs: Runs, states: tuple[str, ...]) -> None:
    while runs.read("run").state not in states:
        runs.list()
        time.sleep(0.1)


def _weights(view: RunView) -> dict[str, str]:
    return {str(file.relative_to(view.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted((view.path / "model").rglob("*.safetensors"))}


def _once_each(view: RunView) -> bool:
    from studio.runs import read_events

    events, _ = read_events(view.path)
    return [event["step"] for event in events if "step" in event] == list(range(OPTIONS["steps"]))


if __name__ == "__main__":
    main()
