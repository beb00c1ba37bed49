"""Starting, queueing, stopping and resuming runs. One device: one run at a time, the others wait in the order asked.

The queue is the folders themselves, so it outlives the app: whoever looks next starts what is due.
"""

import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.errors import InvalidOption, UnknownName
from studio.runs.folder import RunView, read_run, write_config, write_state
from studio.runs.processes import ROOT, environment, launcher, process_start
from studio.runs.trainers import resolve_options

__all__ = ["Runs"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
WATCH_S = 2.0
UPLOADS = "uploads"
RESERVED = (UPLOADS, "class-images")


class Runs:
    """All runs under one folder. Every method may be called from any thread, and from several apps at once."""

    def __init__(self, root: str | Path = "runs"):
        self.root = Path(root).resolve()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watching = False
        self._lock = threading.Lock()

    # --- looking

    def list(self) -> Sequence[RunView]:
        """Every run, the newest first; starts what is due."""
        self.start_due()
        return sorted(self._views(), key=lambda view: -view.created)

    def read(self, name: str) -> RunView:
        """One run. Raises UnknownName."""
        path = self._path(name)
        if not (path / "state.json").is_file():
            raise UnknownName.of("run", name, [view.name for view in self._views()])
        return read_run(path)

    def waiting(self) -> Sequence[RunView]:
        """The queue: the next one first."""
        return sorted((view for view in self._views() if view.state == "waiting"), key=lambda view: view.created)

    def position(self, name: str) -> tuple[int, float | None]:
        """(place in the queue, 1 = next; seconds until it begins, or None where nothing is known)."""
        names = [view.name for view in self.waiting()]
        running = [view.left_s for view in self._views() if view.state in ("starting", "running")]
        place = names.index(name) + 1 if name in names else 0
        known = place == 1 and running and running[0] is not None
        return place, running[0] if known else None

    def require_free(self, name: str) -> Path:
        """The folder that a run of this name will have. Raises InvalidOption for what is no name, or taken."""
        path = self._path(name)
        if path.exists() or name in RESERVED:
            raise InvalidOption(f"There is a run named {name!r} already; choose another name, or delete that run first.")
        return path

    def uploads(self, name: str) -> Path:
        """The folder for what a person gave for a run; it goes when the run is deleted."""
        return self._path(name).parent / UPLOADS / name

    # --- acting

    def start(self, trainer: str, options: Mapping[str, Any], *, name: str) -> RunView:
        """Check everything, make the folder, queue the run. Raises InvalidOption or UnknownName before anything is made."""
        path = self.require_free(name)
        resolved = resolve_options(trainer, {**options, "output": str(path)})
        path.mkdir(parents=True)
        write_config(path, resolved)
        write_state(path, trainer=trainer, state="waiting", created=time.time(), message="")
        self.start_due()
        return self.read(name)

    def resume(self, name: str) -> RunView:
        """Queue a run again that was stopped, interrupted or has failed; it goes on from its last checkpoint."""
        view = self.read(name)
        if view.live:
            raise InvalidOption(f"The run {name!r} is {view.state}; there is nothing to resume.")
        if view.state == "finished":
            raise InvalidOption(f"The run {name!r} has finished; start a new one to train on.")
        (view.path / "stop").unlink(missing_ok=True)
        write_state(view.path, state="waiting", created=time.time(), message="", pid=None)
        self.start_due()
        return self.read(name)

    def stop(self, name: str) -> RunView:
        """Ask a running one to save and stop; take a waiting one out of the queue, which touches no other."""
        with self._dispatching():
            view = self.read(name)
            if view.state == "waiting":
                write_state(view.path, state="stopped", message="Taken out of the queue before it began.")
            elif view.live:
                (view.path / "stop").touch()
        self.start_due()
        return self.read(name)

    def delete(self, name: str) -> None:
        """Remove a run and all that it made. Refuses while it runs."""
        view = self.read(name)
        if view.live:
            raise InvalidOption(f"The run {name!r} is {view.state}; stop it before deleting it.")
        shutil.rmtree(view.path)
        shutil.rmtree(self.uploads(name), ignore_errors=True)

    def start_due(self) -> None:
        """Start the run that waits longest, if none runs."""
        with self._dispatching():
            views = self._views()
            if any(view.state in ("starting", "running") for view in views):
                return self._watch()
            waiting = sorted((view for view in views if view.state == "waiting"), key=lambda view: view.created)
            if waiting:
                self._launch(waiting[0])
                self._watch()

    # --- inside

    def _views(self) -> Sequence[RunView]:
        if not self.root.is_dir():
            return []
        for process in list(self._processes.values()):
            process.poll()  # collect those that have ended
        return [read_run(path.parent) for path in self.root.glob("*/state.json")]

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name or ""):
            raise InvalidOption(f"A run's name has letters, digits, - and _ only, 64 at most, and begins with a letter or digit; it is {name!r}.")
        return self.root / name

    def _launch(self, view: RunView) -> None:
        with open(view.path / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [*launcher(int(view.options.get("batch_size", 1))), "-m", f"trainers.{view.trainer}", "--config", str(view.path / "options.toml")],
                # A session of its own: the run outlives the app, and a Ctrl-C in the app's terminal does not reach it.
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT, env=environment(),
            )
        self._processes[view.name] = process
        write_state(view.path, state="starting", pid=process.pid, process_start=process_start(process.pid), message="")

    def _watch(self) -> None:
        """Look again while something runs, so that the queue moves on even when nobody looks. Called under the lock."""
        if not self._watching:
            self._watching = True
            threading.Thread(target=self._keep_watching, name="run-queue", daemon=True).start()

    def _keep_watching(self) -> None:
        while True:
            time.sleep(WATCH_S)
            with self._lock:
                if not any(view.live for view in self._views()):
                    self._watching = False
                    return
            self.start_due()

    @contextlib.contextmanager
    def _dispatching(self) -> Iterator[None]:
        """One hand at a time, among the threads of this app and among apps that share the folder."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock, open(self.root / ".lock", "w") as file:
            with contextlib.suppress(ImportError):  # not on Windows, where one app has the folder to itself
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield
