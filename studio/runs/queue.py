"""Starting, queueing, stopping and resuming runs. One device: one run at a time, the others wait in the order asked.

The queue is the folders themselves, so it outlives the app: whoever looks next starts what is due. A run appears under its
name with all that it needs, or not at all: it is made in a folder of another name, `.new-<process>-XXXX`, and renamed.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studio.errors import DamagedFile, InvalidOption, NotWritable, UnknownName
from studio.files import remove
from studio.runs.examples import EXAMPLES, example_named
from studio.runs.folder import RunView, read_run, run_folders, write_config, write_state
from studio.runs.processes import ROOT, environment, is_alive, launcher, process_start
from studio.runs.trainers import require_kinds, resolve_options
from studio.runs.trainers.places import kept_within

__all__ = ["Runs"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Folders that are being made or removed, with the number of the process that does it.
PASSING = re.compile(r"\.(?:new|gone)-(\d{1,9})-[0-9a-f]+")
WATCH_S = 2.0
LOCK_WAIT_S = 20.0
UPLOADS = "uploads"
RESERVED = (UPLOADS, "class-images")


class Runs:
    """All runs under one folder. Every method may be called from any thread, and from several apps at once.

    What only reads works as long as anything can be read; what acts raises NotWritable where nothing can be written.

    Args:
        root: of the runs. folders: further ones that the options of a run may lead to.
    """

    def __init__(self, root: str | Path = "runs", folders: Iterable[str | Path] = ()):
        self.root = Path(root).resolve()
        self.folders = (self.root, *(Path(folder).resolve() for folder in folders))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._watching = False
        self._lock = threading.Lock()
        self._lock_of_apps = FileLock(self.root / ".lock")

    # --- looking

    def list(self) -> Sequence[RunView]:
        """Every run, the newest first; starts what is due, where that can be."""
        with contextlib.suppress(NotWritable):
            self.start_due()
        return sorted(self._views(), key=lambda view: -view.created)

    def read(self, name: str) -> RunView:
        """One run, one that cannot be read as "damaged"; also a recorded example. Raises UnknownName, or InvalidOption for what is no name."""
        if isinstance(name, str) and name in EXAMPLES:
            return example_named(name)
        if not isinstance(name, str) or not name.isprintable() or "/" in name or "\\" in name or name.startswith("."):
            self._path(name)
        path = self.root / name
        if path not in run_folders(self.root):
            raise UnknownName.of("run", name, [folder.name for folder in run_folders(self.root)])
        return read_run(path)

    def waiting(self) -> Sequence[RunView]:
        """The queue: the next one first."""
        return [view for view in _by_age(self._views()) if view.state == "waiting"]

    def position(self, name: str) -> tuple[int, float | None]:
        """(place in the queue, 1 = next; seconds until it begins, or None where nothing is known)."""
        if self.read(name).state != "waiting":
            return 0, None
        views = self._views()
        names = [view.name for view in _by_age(views) if view.state == "waiting"]
        running = [view.left_s for view in views if view.state in ("starting", "running")]
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
        """The folder of a run for what a person gave for it."""
        return self._path(name) / UPLOADS

    # --- acting

    def start(self, trainer: str, options: Mapping[str, Any], *, name: str, uploads: Mapping[str, Callable[[Path], None]] | None = None) -> RunView:
        """Check everything, make the folder, queue the run. Of several that ask for one name at once exactly one gets it.

        Args:
            uploads: by the name of the option that is to name it, what fills a folder of the run's own.
        Raises:
            InvalidOption, UnknownName, NotWritable: and nothing of it is left.
        """
        path = self.require_free(name)
        options = kept_within(trainer, options, self.folders)
        with self._said_when_unwritable():
            self.root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            draft = self.root / f".new-{_passing()}"
            draft.mkdir()
            try:
                self._fill(draft, path, trainer, options, uploads or {})
                with self._alone():
                    self.require_free(name)
                    draft.rename(path)
            finally:
                remove(draft)
        self.start_due()
        return self.read(name)

    def resume(self, name: str) -> RunView:
        """Queue a run again that was stopped, interrupted or has failed; it goes on from its last good checkpoint."""
        with self._alone():
            view = self._whole(name)
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
        with self._alone():
            view = self._whole(name)
            if view.state == "waiting":
                write_state(view.path, state="stopped", message="Taken out of the queue before it began.")
            elif view.live:
                (view.path / "stop").touch()
        self.start_due()
        return self.read(name)

    def delete(self, name: str) -> None:
        """Remove a run and all that it made, a damaged one too. Refuses while it runs."""
        with self._alone():
            view = self._own(name)
            if view.live or view.busy:
                raise InvalidOption(f"The run {name!r} is {view.state}; stop it before deleting it.")
            # Under another name at once: half a run is never seen.
            gone = self.root / f".gone-{_passing()}"
            view.path.rename(gone)
        remove(gone)
        # Where an earlier version kept what was given for a run.
        remove(self.root / UPLOADS / name)

    def start_due(self) -> None:
        """Start the run that waits longest, if none runs. Raises NotWritable."""
        with self._alone():
            views = self._views()
            if any(view.busy for view in views):
                return self._watch()
            for view in _by_age(views):
                if view.state == "waiting" and self._launched(view):
                    return self._watch()

    # --- inside

    def _views(self) -> Sequence[RunView]:
        for process in list(self._processes.values()):
            process.poll()  # collect those that have ended
        return [read_run(path) for path in run_folders(self.root)]

    def _path(self, name: str) -> Path:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidOption(f"A run's name has letters, digits, - and _ only, 64 at most, and begins with a letter or digit; it is {name!r}.")
        return self.root / name

    def _own(self, name: str) -> RunView:
        """One run that may be acted on. Raises UnknownName, InvalidOption."""
        view = self.read(name)
        if view.example:
            raise InvalidOption(f"{name!r} is a recorded example of the studio's: it can be looked at, but not stopped, resumed or deleted.")
        return view

    def _whole(self, name: str) -> RunView:
        """One run that may be acted on and can be read. Raises UnknownName, InvalidOption, DamagedFile."""
        view = self._own(name)
        if view.state == "damaged":
            raise DamagedFile(view.message)
        return view

    def _fill(self, draft: Path, path: Path, trainer: str, options: Mapping[str, Any], uploads: Mapping[str, Callable[[Path], None]]) -> None:
        """Write into `draft` what the run at `path` will have. Raises InvalidOption, UnknownName, OSError."""
        for option, write in uploads.items():
            (draft / UPLOADS / option).mkdir(parents=True)
            write(draft / UPLOADS / option)
        # What was given is checked where it lies now, and named by where it will lie.
        now, then = ({option: str(home / UPLOADS / option) for option in uploads} for home in (draft, path))
        resolved = resolve_options(trainer, {**options, **now, "output": str(path)})
        write_config(draft, dataclasses.replace(resolved, **then))
        write_state(draft, trainer=trainer, state="waiting", created=time.time(), message="")

    def _launched(self, view: RunView) -> bool:
        """Start the process of a waiting run; where that cannot be, the run has failed, and says why."""
        try:
            _require_config(view)
            self._launch(view)
            return True
        except (OSError, DamagedFile) as error:
            with contextlib.suppress(OSError):
                write_state(view.path, state="failed", message=f"The run could not be started: {error}")
            return False

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
            self._wait_for_an_end()
            with self._lock:
                if not any(view.live or view.busy for view in self._views()):
                    self._watching = False
                    return
            with contextlib.suppress(NotWritable):
                self.start_due()

    def _wait_for_an_end(self) -> None:
        """Until the process that was started last has ended, or WATCH_S: other apps have processes of their own."""
        process = next((process for process in reversed(list(self._processes.values())) if process.poll() is None), None)
        if process is None:
            return time.sleep(WATCH_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WATCH_S)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One hand at a time, among the threads of this app and among apps that share the folder. Raises NotWritable."""
        with self._lock, self._said_when_unwritable():
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock_of_apps.acquire(timeout=LOCK_WAIT_S):
                yield

    @contextlib.contextmanager
    def _said_when_unwritable(self) -> Iterator[None]:
        try:
            yield
        except Timeout as error:
            raise NotWritable(f"Another program has held {self.root / '.lock'} for {LOCK_WAIT_S:.0f} s; end it, then try again.") from error
        except OSError as error:
            why = "it is a file, not a folder" if self.root.is_file() else error.strerror or error
            raise NotWritable(
                f"{error.filename or self.root} cannot be written ({why}). Make the runs folder {self.root} writable and give it "
                "room, or start the studio with DIFFUSION_STUDIO_RUNS naming another folder."
            ) from error

    def _sweep(self) -> None:
        """Remove what processes that are gone were making or removing."""
        for path in self.root.iterdir():
            match = PASSING.fullmatch(path.name)
            if match and not is_alive(int(match[1])):
                remove(path)


def _by_age(views: Sequence[RunView]) -> Sequence[RunView]:
    return sorted(views, key=lambda view: view.created)


def _passing() -> str:
    """A name that no other thread or process gives."""

    return f"{os.getpid()}-{secrets.token_hex(8)}"


def _require_config(view: RunView) -> None:
    """Refuse an options.toml that the trainer could not read. Raises DamagedFile."""
    try:
        options = tomllib.loads((view.path / "options.toml").read_text("utf-8"))
        require_kinds(view.trainer, options)
    except (OSError, ValueError, RecursionError, UnknownName) as error:
        raise DamagedFile(f"options.toml cannot be used: {error}") from error
