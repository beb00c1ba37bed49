"""A run that is watched while it goes on: it has a thread of its own, and whoever watches gets its newest step.

    run      step 0  step 1  step 2  step 3  ...  Finished      never held up by a watcher
    watcher  step 0          step 2          ...  Finished      what comes too soon or too late is dropped
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from time import monotonic
from typing import Any, Protocol

from studio.sampling.events import Finished, StepDone

__all__ = ["freshest", "under_way", "Steps", "Switch", "LIVE_EVERY_S"]

# Gradio hands a client at most about 20 updates a second; more would only queue up.
LIVE_EVERY_S = 0.05


class Switch(Protocol):
    """Anything like threading.Event that ends a run."""

    def set(self) -> None: ...


class Steps:
    """Room for one step, where a newer one replaces it, and for how the run ended."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.step: StepDone | None = None
        self.end: Finished | BaseException | None = None
        self.closed = False

    def put(self, **parts: Any) -> None:
        """From the run's thread: a step, or the end."""
        with self.changed:
            vars(self).update(parts)
            self.changed.notify()

    def fresh(self, every_s: float = LIVE_EVERY_S) -> Iterator[StepDone | Finished]:
        """The first step, then the newest at most once every `every_s` seconds, then Finished. What the run raises is raised here."""
        due = 0.0
        while True:
            item = self._take(due - monotonic())
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                yield item
            if not isinstance(item, StepDone):
                return
            due = monotonic() + every_s

    def _take(self, wait_s: float) -> StepDone | Finished | BaseException | None:
        """After `wait_s`, the newest step, waiting for one if need be; at once, the end when there is one."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed, timeout=max(0.0, wait_s))
            self.changed.wait_for(lambda: self.closed or self.step)
            step, self.step = self.step, None
            return self.end if self.closed else step


@contextmanager
def under_way(events: Iterator[StepDone | Finished], stop: Switch, see: Callable[[StepDone], None] = lambda step: None) -> Iterator[Steps]:
    """The run begins at once, in a thread of its own, so whatever is done with an event never holds up a step.

    Leaving sets `stop` and waits for the run to end. see: is told every step by the run's thread, which waits for it.
    """
    steps = Steps()
    thread = Thread(target=_deliver, args=(events, steps, see), name="sampling", daemon=True)
    thread.start()
    try:
        yield steps
    finally:
        stop.set()
        thread.join()


def freshest(events: Iterator[StepDone | Finished], stop: Switch, every_s: float = LIVE_EVERY_S) -> Iterator[StepDone | Finished]:
    """The run `under_way`, as its fresh steps. Closing this iterator ends the run."""
    with under_way(events, stop) as steps:
        yield from steps.fresh(every_s)


def _deliver(events: Iterator[StepDone | Finished], steps: Steps, see: Callable[[StepDone], None]) -> None:
    end: Finished | BaseException | None = None
    try:
        for event in events:
            if isinstance(event, Finished):
                end = event
            else:
                see(event)
                steps.put(step=event)
    except BaseException as error:
        end = error
    steps.put(end=end, closed=True)
