"""A run that is watched while it goes on: it has a thread of its own, and whoever watches gets its newest step.

    run      step 0  step 1  step 2  step 3  ...  Finished      never held up by a watcher
    watcher  step 0          step 2          ...  Finished      what comes too soon or too late is dropped
"""

from collections.abc import Iterator
from threading import Condition, Thread
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from studio.sampling.events import Finished

__all__ = ["freshest", "Switch", "LIVE_EVERY_S"]

# Gradio hands a client at most about 20 updates a second; more would only queue up.
LIVE_EVERY_S = 0.05


Item = TypeVar("Item")


class Switch(Protocol):
    """Anything like threading.Event that ends a run."""

    def set(self) -> None:
        """End the run."""
        ...


def freshest(events: Iterator[Item | Finished], stop: Switch, every_s: float = LIVE_EVERY_S) -> Iterator[Item | Finished]:
    """The first step, then the newest at most once every `every_s` seconds, then Finished; stale steps are dropped.

    Whatever else the run tells before Finished is treated as a step.

    The run has a thread of its own, so whatever the consumer does with an event never holds up a step. Closing this
    iterator sets `stop` and waits for the run to end. What the run raises is raised here.
    """
    mailbox = _Mailbox[Item]()
    thread = Thread(target=_deliver, args=(events, mailbox), name="sampling", daemon=True)
    thread.start()
    try:
        yield from _newest(mailbox, every_s)
    finally:
        stop.set()
        thread.join()


class _Mailbox(Generic[Item]):
    """Room for one step, where a newer one replaces it, and for how the run ended."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.step: Item | None = None
        self.end: Finished | BaseException | None = None
        self.closed = False

    def put(self, **parts: Any) -> None:
        with self.changed:
            vars(self).update(parts)
            self.changed.notify()

    def take(self, wait_s: float) -> Item | Finished | BaseException | None:
        """After `wait_s`, the newest step, waiting for one if need be; at once, the end when there is one."""
        with self.changed:
            self.changed.wait_for(lambda: self.closed, timeout=max(0.0, wait_s))
            self.changed.wait_for(lambda: self.closed or self.step)
            step, self.step = self.step, None
            return self.end if self.closed else step


def _deliver(events: Iterator[Item | Finished], mailbox: _Mailbox[Item]) -> None:
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


def _newest(mailbox: _Mailbox[Item], every_s: float) -> Iterator[Item | Finished]:
    due = 0.0
    while True:
        item = mailbox.take(due - monotonic())
        if isinstance(item, BaseException):
            raise item
        if item is not None:
            yield item
        if item is None or isinstance(item, Finished):
            return
        due = monotonic() + every_s
