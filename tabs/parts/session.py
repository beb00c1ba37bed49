"""What one browser session holds of its sampling runs."""

from tempfile import TemporaryDirectory
from threading import Event
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from studio.sampling.trajectory import Trajectory

__all__ = ["Session"]


class Session:
    """The runs that a session asked for, and what the last one left. Gradio copies the first value for each session."""

    def __init__(self) -> None:
        self.running: list[Event] = []
        self.waiting: list[Event] = []
        self.trajectory: Trajectory | None = None
        # The name under which the stage knows it.
        self.run = ""
        self.folder = TemporaryDirectory(prefix="studio-", ignore_cleanup_errors=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Session":
        return Session()

    def ask(self) -> None:
        """A run is asked for: it replaces what runs or waits."""
        self.stop()
        self.waiting.append(Event())

    def begin(self) -> Event:
        """The stop switch of the run that begins now."""
        switch = self.waiting.pop(0) if self.waiting else Event()
        self.running.append(switch)
        return switch

    def stop(self) -> bool:
        """Stop what runs and what waits; whether there was anything."""
        switches = [*self.running, *self.waiting]
        for switch in switches:
            switch.set()
        return bool(switches)
