"""Turns on the device: what a tab asks of it stands in the studio's one line, by visitor, and says where it stands.

    sampled(...)    a run, watched: its newest step, and how it stands while others have their turn
    shared(...)     any other work in pieces, each made while the device is lent
    given(...)      the same of a generator, with what it returns
    alone(...)      one piece of work

A page that is closed, and whoever closes the iterator, leaves the line at once (studio.models.device).
"""

from collections.abc import Callable, Generator, Iterator
from threading import Event
from typing import Any, Protocol, TypeVar

from studio.errors import InvalidOption
from studio.models.device import Device, Stop, Turn, Waiting, Work
from studio.options import SampleOptions
from studio.sampling.compare import network_calls
from studio.sampling.events import Finished, StepDone
from studio.sampling.live import LIVE_EVERY_S, Switch, freshest
from tabs.parts.api import SamplingApi
from tabs.parts.visitors import Asker

__all__ = ["Either", "sampled", "shared", "given", "alone", "work_of", "waiting_line"]

# A model that takes more than this may not lie half done in memory beside another one.
BESIDE_GIB = 0.5
# Turns in the line up to which a run is shown as often as a page can take it; drawing frames holds up the others' steps.
ALL_FRAMES_FOR = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class StopSwitch(Stop, Switch, Protocol):
    """Anything like threading.Event, as a run and whoever ends it need it."""


class Either:
    """Set when the press of Stop is, or when this run alone is to end: its last frame sets that."""

    def __init__(self, switch: Event) -> None:
        self.switch, self.own = switch, Event()

    def is_set(self) -> bool:
        """Whether either is."""
        return self.switch.is_set() or self.own.is_set()

    def set(self) -> None:
        """End this run alone."""
        self.own.set()


class Ending:
    """Nobody looks any more: the run is to end, and waits for nothing."""

    def __init__(self, stop: StopSwitch, turn: Turn) -> None:
        self.stop, self.turn = stop, turn

    def set(self) -> None:
        self.stop.set()
        self.turn.leave()


def sampled(
    studio: SamplingApi, options: SampleOptions, stop: StopSwitch, asker: Asker, see: Callable[[StepDone], None] = lambda step: None,
    every_s: float = LIVE_EVERY_S,
) -> Iterator[StepDone | Finished | Waiting]:
    """The run in a thread of its own: its newest step, how it stands while it waits, and at last Finished.

    see: is told every step by the run's thread, which waits for it. every_s: how often a newest step is given.
    Setting `stop` before the first step leaves the line, so that nothing comes; after it, the run ends with Finished.
    Closing sets it. Raises StudioError.
    """
    turn = studio.device.ask(asker.visitor, work_of(studio, options), asker.page)
    events: Iterator[StepDone | Finished | Waiting] = turn.shared(studio.sample(options, stop=stop), stop)
    every_s *= max(1.0, len(studio.device) / ALL_FRAMES_FOR)
    newest: Iterator[StepDone | Finished | Waiting] = freshest(_seen(events, see), Ending(stop, turn), every_s)
    yield from newest


def _seen(events: Iterator[StepDone | Finished | Waiting], see: Callable[[StepDone], None]) -> Iterator[StepDone | Finished | Waiting]:
    for event in events:
        if isinstance(event, StepDone):
            see(event)
        yield event


def shared(device: Device, asker: Asker, work: Work, items: Iterator[Item], stop: Event | None = None) -> Generator[Item | Waiting, None, None]:
    """The items, each made while the device is lent, and how it stands while it is not."""
    yield from device.ask(asker.visitor, work, asker.page).shared(items, stop)


def given(device: Device, asker: Asker, work: Work, items: Generator[Item, None, Result]) -> Generator[Item | Waiting, None, Result]:
    """The same of a generator, and what it returns. Raises InvalidOption where the page was closed before its end."""
    results: list[Result] = []

    def noted() -> Generator[Item, None, None]:
        results.append((yield from items))

    yield from shared(device, asker, work, noted())
    if not results:
        raise InvalidOption("Nobody waits for this any more, so it was not done; ask for it again.")
    return results[0]


def alone(device: Device, asker: Asker, name: str, work: Callable[[], Result], place: Any) -> Generator[dict[Any, Any], None, Result]:
    """What the work gives, done in one turn; yielded is {place: how it stands} while others have theirs. name: of what takes the same time.

    Raises InvalidOption where the page was closed meanwhile, and what the work raises.
    """
    def done() -> Generator[Waiting, None, Result]:
        yield from ()
        return work()

    events = given(device, asker, Work(name=name, whole=True), done())
    while True:
        try:
            yield {place: waiting_line(next(events))}
        except StopIteration as end:
            return end.value


def work_of(studio: SamplingApi, options: SampleOptions) -> Work:
    """What the run is to the line: its model is what takes the same time for as many calls of it."""
    info = studio.models.get(options.model)
    guide = " by CLIP" if options.clip_guidance_scale else ""
    side = (options.width or info.width) * (options.height or info.height) / (info.width * info.height) if info else 1.0
    return Work(
        name=f"sample {options.model}{guide}", amount=max(1.0, network_calls(options) * side),
        beside=info is not None and info.memory_gib <= BESIDE_GIB,
    )


def waiting_line(waiting: Waiting) -> str:
    """What the page says to whoever waits."""
    when = "" if waiting.begins_s is None else f", about {max(1, round(waiting.begins_s))} s"
    return f"Others have the device: you are next{when}." if waiting.place == 1 else f"Waiting for the device: place {waiting.place} in line{when}."
