"""What one browser session holds of its sampling runs."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import gradio as gr

from studio.errors import InvalidOption
from studio.files import digest
from studio.kept import Kept, own_limits
from tabs.parts.api import SamplingApi
from tabs.parts.visitors import Asker, asker_of

if TYPE_CHECKING:
    from studio.sampling.trajectory import Trajectory

__all__ = ["Session", "Asked"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that was asked for: the changes of the page that it will bring, its stop switch, what the page said when it was asked."""

    changes: Iterator[dict[str, Any]]
    switch: Event
    values: Mapping[Any, Any]


class Session:
    """The runs that a session asked for, and what the last one left. Gradio copies the first value for each session.

    kept: where what it leaves is kept, within bounds for all sessions. place: of the tab in what a session keeps.
    """

    def __init__(self, kept: Kept | None = None, place: str = "run") -> None:
        self.kept, self.place = kept or Kept(own_limits()), place
        self.running: list[Event] = []
        self.waiting: Asked | None = None
        # Whether what waits has come through the queue, and so will begin.
        self.came = False
        # Of the browser session, once a request has told it.
        self.visitor = uuid4().hex
        self.asker = Asker(visitor=self.visitor, page=self.visitor)
        # Held by the run that goes on: another one begins when it has ended and shown what came of it.
        self.turn = Lock()
        # The name under which the stage knows the run that is kept.
        self.run = ""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        return Session(self.kept, self.place)

    def of(self, request: gr.Request | None) -> "Session":
        """This session, as that of the visitor who asks."""
        if getattr(request, "session_hash", None):
            self.asker = asker_of(request)
            self.visitor = self.asker.page
        return self

    @property
    def trajectory(self) -> "Trajectory | None":
        """The run made or opened last, or None where there is none or it had to go."""
        return self.kept.get(self.visitor, self.place)

    def keep(self, trajectory: "Trajectory", run: str, content: str = "") -> None:
        """The run that was made or opened last; `run`: its name on the stage, content: of its file."""
        self.run = run
        self.kept.keep(self.visitor, self.place, trajectory, trajectory.nbytes, content)

    def open(self, studio: SamplingApi, path: str) -> "Trajectory":
        """The run of a file, read once for all who open it, and kept. Raises BadRunFile."""
        try:
            content = digest(path)
        except OSError:
            content = ""  # the studio says what is wrong with it
        trajectory = self.kept.known(content) or studio.load_run(path)
        self.keep(trajectory, uuid4().hex, content)
        return trajectory

    def required(self, otherwise: str) -> "Trajectory":
        """The run made or opened last. Raises InvalidOption: `otherwise` where there was none, or that it had to go."""
        if trajectory := self.trajectory:
            return trajectory
        raise InvalidOption(f"This run is no longer held here ({self.kept.limits}): make it again, or open its file." if self.run else otherwise)

    def ask(self, begun: Callable[[Event], Iterator[dict[str, Any]]], values: Mapping[Any, Any] = MappingProxyType({})) -> None:
        """A run is asked for: it replaces what runs or waits. One that is refused leaves both as they are.

        begun: makes the changes of the page from the stop switch; what it raises at once is raised here.
        """
        switch = Event()
        asked = Asked(changes=begun(switch), switch=switch, values=values)
        self.stop()
        self.waiting, self.came = asked, False

    def withdraw(self) -> bool:
        """What was asked for, and never came through the queue, will not begin; whether there was any."""
        withdrawn = self.waiting is not None and not self.came
        if withdrawn:
            self.waiting = None
        return withdrawn

    @contextmanager
    def begun(self) -> Iterator[Asked | None]:
        """What was asked for last, which runs from now on; None where another turn has taken it already."""
        asked, self.waiting = self.waiting, None
        running = [asked.switch] if asked else []
        self.running += running
        try:
            yield asked
        finally:
            # What the run holds is freed now, whether it came to its end or not.
            if asked and isinstance(asked.changes, Generator):
                asked.changes.close()
            for switch in running:
                self.running.remove(switch)

    def stop(self) -> bool:
        """Stop what runs and what waits; whether there was anything."""
        switches = [*self.running, *([self.waiting.switch] if self.waiting else [])]
        for switch in switches:
            switch.set()
        return bool(switches)
