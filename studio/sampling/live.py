"""A run that is watched while it goes on: it has a thread of its own, and whoever watches gets its newest step.

    run      step 0  step 1  step 2  step 3  ...  Finished      never held up by a watcher
    watcher  step 0          step 2          ...  Finished      what comes too soon or too late is dropped
"""

from collections.abc import Iterator
from threading import Condition, Thread
from time import monotonic
from typing import Any, Protocol

from studio.sampling.events import Finished, StepDone

__all__ = ["freshest", "Switch", "LIVE_EVERY_S"]

# Gradio hands a client at most about 20 updates a second; more would only queue up.
LIVE_EVERY_S = 0.05


class Switch(Protocol):
    """Anything like threading.Event that ends a run."""

    def set(self) -> None: ...


def freshest(events: Iterator[StepDone | Finished], stop: Switch, every_s: float = LIVE_EVERY_S) -> Iterator[StepDone | Finished]:
    """The first step, then the newest at most once every `every_s` seconds, then Finished; stale steps are dropped.

    The run has a thread of its own, so whatever the consumer does with an event never holds up a step. Closing this
    iterator sets `stop` and waits for the run to end. What the run raises is raised here.
    """
    mailbox = _Mailbox()
    thread = Thread(target=_deliver, args=(events, mailbox), name="sampling", daemon=True)
    thread.start()
    try:
        yield from _newest(mailbox, every_s)
    finally:
        stop.set()
        thread.join()


class _Mailbox:
    """Room for one step, where a newer one replaces it, and for how the run ended."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.step: StepDone | None = None
        self.end: Finished | BaseException | None = None
        self.closed = False

    def put(self, **parts: Any) -> None:
        with self.changed:
            vars(self).update(parts)
            self.changed.notify()

    def take(self, wait_s: float) -> StepDone | Finished | BaseException | None:
        """After `wait_s`, the newest step, waiting for one if need be; at once, the end when there is one."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed, timeout=max(0.0, wait_s))
            self.changed.wait_for(lambda: self.closed or self.step)
            step, self.step = self.step, None
            return self.end if self.closed else step


def _deliver(events: Iterator[StepDone | Finished], mailbox: _Mailbox) -> None:
    end: Finished | BaseException | None = None
    try:
        for event in events:
            if isinstance(event, Finished):
                end = event
            else:
                mailbox.put(step=event)
    except BaseException as error:
        end = error
    mailbox.put(end=end, closed=True)


def _newest(mailbox: _Mailbox, every_s: float) -> Iterator[StepDone | Finished]:
    due = 0.0
    while True:
        item = mailbox.take(due - monotonic())
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            yield item
        if not isinstance(item, StepDone):
            return
        due = monotonic() + every_s
