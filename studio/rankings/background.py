"""Making of tasks that goes on when nobody looks: each in a thread of its own, taken up again when the studio is started again.

    <folder of the rankings>/making/NAME.json     what is being made; gone when it is done, was stopped or has failed

Every prompt is kept once its pictures are drawn, so that what is taken up again goes on where it ended.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from studio.errors import DamagedFile, StudioBusy, StudioError
from studio.files import read_object, remove, write_text
from studio.models.device import Device, Waiting, Work
from studio.options import SampleOptions
from studio.rankings.making import TaskMade, TaskOptions

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["Making", "Makings"]

logger = logging.getLogger(__name__)
FOLDER = "making"
FOLLOW_EVERY_S = 0.25


class Making:
    """One making. last: its last task or where it waits; error: why it ended before its end, in a sentence."""

    def __init__(self, options: TaskOptions) -> None:
        self.options = options
        self.last: TaskMade | Waiting | None = None
        self.error: StudioError | None = None
        self.stop, self.over = Event(), Event()

    def followed(self) -> Iterator[TaskMade | Waiting]:
        """What it tells from now on, until it is over. Raises what ended it early."""
        told: TaskMade | Waiting | None = None
        while True:
            over = self.over.wait(FOLLOW_EVERY_S)
            if self.last is not None and self.last is not told:
                told = self.last
                yield told
            if over:
                break
        if self.error is not None:
            raise self.error


class Makings:
    """The makings of a studio, one for each visitor at a time.

    Args:
        make: as Studio.make_tasks.
        rankings: gives the database, once it is needed.
    """

    def __init__(self, make: "Callable[[TaskOptions], Generator[TaskMade, None, None]]", rankings: "Callable[[], Rankings]", device: Device) -> None:
        self._make, self._rankings, self._device = make, rankings, device
        self._running: dict[str, Making] = {}
        self._lock = Lock()

    def start(self, visitor: str, options: TaskOptions) -> Making:
        """Begin; it goes on whoever looks. Raises StudioBusy while another one of the visitor goes on, and as the database does."""
        file = self._file(visitor)
        with self._lock:
            if visitor in self._running:
                raise StudioBusy("Tasks are being made already; wait for their end, or stop them first.")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({"visitor": visitor, "options": as_json(options)}))
            making = self._running[visitor] = Making(options)
        Thread(target=self._work, args=(visitor, making, file), name="making", daemon=True).start()
        return making

    def stop(self, visitor: str = "") -> bool:
        """End a visitor's making, or all of them, after the task that is drawn now; whether there was any."""
        with self._lock:
            own = [making for name, making in self._running.items() if visitor in ("", name)]
        for making in own:
            making.stop.set()
        return bool(own)

    def running(self) -> list[Making]:
        """Those that go on."""
        with self._lock:
            return list(self._running.values())

    def resume(self) -> int:
        """Take up what was cut off when the studio ended; gives how many. What cannot be read is forgotten."""
        begun = 0
        for file in sorted((self._rankings().folder / FOLDER).glob("*.json")):
            with suppress(StudioError, KeyError, TypeError, OSError):
                said = read_object(file) or {}
                if said["visitor"] not in self._running:
                    self.start(said["visitor"], from_json(said["options"]))
                    begun += 1
                continue
            remove(file)
        return begun

    def _file(self, visitor: str) -> Path:
        return self._rankings().folder / FOLDER / f"{sha256(visitor.encode()).hexdigest()[:32]}.json"

    def _work(self, visitor: str, making: Making, file: Path) -> None:
        work = Work(name="make a task", amount=float(len(making.options.prompts)))
        try:
            turn = self._device.ask(visitor, work)
            with closing(self._make(making.options)) as tasks, closing(turn.shared(tasks, making.stop)) as events:  # type: ignore[type-var]
                for making.last in events:
                    if making.stop.is_set():
                        break
        except StudioError as error:
            making.error = error
        except Exception:
            logger.exception("Making tasks failed")
            making.error = StudioError("Making tasks failed; the log of the studio says why.")
        finally:
            remove(file)
            with self._lock:
                self._running.pop(visitor, None)
            making.over.set()


def as_json(options: TaskOptions) -> dict[str, Any]:
    """The options as JSON holds them."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {**values, "prompts": list(options.prompts), "models": list(options.models), "sampling": options.sampling.to_dict()}


def from_json(values: Any) -> TaskOptions:
    """The inverse. Raises InvalidOption, DamagedFile, TypeError."""
    if not isinstance(values, dict):
        raise DamagedFile("What was being made cannot be read.")
    return TaskOptions(**{**values, "sampling": SampleOptions.from_dict(values["sampling"])})
