"""The one device, lent to visitors in turns: sampling, decoding, probes and what else it does stand in one line.

    ask -> wait -> work, giving way between steps -> end

Of the visitors who wait, the one for whom the device has worked least comes first. Long work hands the device over
after a slice, between two of its steps. Who comes new starts level with those who wait, so neither one long run nor
many short ones keep the others from theirs (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Event, Lock
from time import monotonic
from typing import Protocol, TypeVar

__all__ = ["Device", "Stop", "Turn", "Waiting", "Work", "SLICE_S"]

SLICE_S = 1.0
# How often a turn that waits looks whether it was stopped, and says where it stands.
LOOK_EVERY_S = 0.25
NEWS_EVERY_S = 1.0
# And all who wait together are told at most ten times a second: news take time as well.
NEWS_EACH_S = 0.1
# Nobody is told of a wait longer than this: it would be a guess.
FORETOLD_AT_MOST_S = 600.0
LEARNING_RATE = 0.3

Item = TypeVar("Item")


class Stop(Protocol):
    """Anything like threading.Event: a run ends after the step in which it is set."""

    def is_set(self) -> bool:
        """Whether it is to end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """Where a turn stands. place: 1 is next; begins_s: seconds until it will have the device, None where that cannot be said."""

    place: int
    begins_s: float | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a turn is for.

    Args:
        name: of what takes the same time for the same amount, such as "sample toybox-sd"; what it took is remembered.
        amount: in any unit, such as calls of a network.
        whole: it cannot give way once it has begun.
        beside: it may begin while another turn's work lies half done; False where both do not fit into memory.
    """

    name: str = ""
    amount: float = 1.0
    whole: bool = False
    beside: bool = True


class Device:
    """The line. One instance serves all threads.

    Args:
        slice_s: seconds of work after which a turn gives way to a visitor who had less.
        clock: gives seconds.
    """

    def __init__(self, slice_s: float = SLICE_S, clock: Callable[[], float] = monotonic) -> None:
        self.slice_s, self._clock = slice_s, clock
        self._lock = Lock()
        self._line: list[Turn] = []
        self._holder: Turn | None = None
        self._since = 0.0
        self._asked = 0
        self._used: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._forecast: tuple[float, dict[Turn, Waiting]] = (-NEWS_EVERY_S, {})

    def __len__(self) -> int:
        """How many turns there are, with the one that has the device."""
        return len(self._line)

    def ask(self, visitor: str = "", work: Work = Work(), page: str | None = None) -> "Turn":
        """A place in the line for a visitor. End it, or use it as a context manager: the device is never taken away.

        page: of those that the visitor has open, the one that asks; by default they have only one.
        """
        with self._lock:
            self._charge()
            in_line = {turn.visitor for turn in self._line}
            # Whoever had no more than those in the line owes them nothing, and where nobody is in it all are quits.
            level = min((self._used[name] for name in in_line), default=0.0)
            self._used = {name: used for name, used in self._used.items() if name in in_line or in_line and used > level}
            self._used[visitor] = max(level, self._used.get(visitor, level))
            self._asked += 1
            turn = Turn(self, visitor, visitor if page is None else page, work, self._asked)
            self._line.append(turn)
            self._changed()
            return turn

    def forget(self, page: str) -> None:
        """The page is closed: what waits for it leaves the line, what works for it ends at its next step."""
        with self._lock:
            turns = [turn for turn in self._line if turn.page == page]
        for turn in turns:
            turn.leave()

    # --- within the lock

    def _changed(self, chosen: "Turn | None" = None) -> None:
        """Lend the device to the chosen one, or who is next, if nobody has it."""
        self._forecast = (-NEWS_EVERY_S, {})
        if self._holder is None and (turn := chosen or self._next()):
            self._holder, self._since, turn.begun = turn, self._clock(), True
            turn._granted.set()

    def _next(self, but: str | None = None) -> "Turn | None":
        """Who would have it next; but: not this visitor."""
        waiting = sorted((turn for turn in self._line if turn is not self._holder and turn.visitor != but), key=self._rank)
        begun = [turn for turn in self._line if turn.begun]
        if not waiting or waiting[0].begun or waiting[0].work.beside or not begun:
            return waiting[0] if waiting else None
        # It wants the memory for itself: what is half done is finished first, and nothing new is begun before it.
        return next((turn for turn in waiting if turn.begun), None)

    def _rank(self, turn: "Turn") -> tuple[float, int]:
        return self._used[turn.visitor], turn.number

    def _charge(self) -> None:
        """Count what the holder has had so far."""
        if self._holder:
            now = self._clock()
            self._used[self._holder.visitor] += now - self._since
            self._holder.held_s += now - self._since
            self._holder.stint_s += now - self._since
            self._since = now

    def _release(self, turn: "Turn") -> None:
        if turn is self._holder:
            self._charge()
            self._holder, turn.stint_s = None, 0.0
            turn._granted.clear()

    def _learn(self, turn: "Turn") -> None:
        rate = turn.held_s / turn.work.amount
        self._rates[turn.work.name] = rate + (1 - LEARNING_RATE) * (self._rates.get(turn.work.name, rate) - rate)

    # --- the forecast

    def _foretold(self, turn: "Turn") -> Waiting:
        at, known = self._forecast
        if self._clock() - at >= NEWS_EVERY_S or turn not in known:
            self._charge()
            known = {turn: Waiting(place=place, begins_s=begins_s) for place, (turn, begins_s) in enumerate(self._played_out(), 1)}
            self._forecast = (self._clock(), known)
        return known[turn]

    def _played_out(self) -> "Iterator[tuple[Turn, float | None]]":
        """The turns that wait in the order in which they will have the device, and in how many seconds, if all goes as it went before."""
        used, left = dict(self._used), {turn: turn.left_s for turn in self._line}
        unseen = {turn for turn in self._line if turn is not self._holder}
        begins_s, turn = 0.0, self._holder
        room = max(0.0, self.slice_s - turn.stint_s) if turn else self.slice_s
        while unseen:
            turn = turn or min(left, key=lambda turn: (used[turn.visitor], turn.number))
            if turn in unseen:
                unseen.discard(turn)
                yield turn, begins_s if begins_s <= FORETOLD_AT_MOST_S else None
            stint = left[turn] if turn.work.whole and left[turn] < float("inf") else min(left[turn], room)
            begins_s, used[turn.visitor], left[turn] = begins_s + stint, used[turn.visitor] + stint, left[turn] - stint
            # A turn waits for those that its own visitor asked for before it, which may never end by themselves.
            if left[turn] <= 0 or begins_s > FORETOLD_AT_MOST_S:
                del left[turn]
            turn, room = None, self.slice_s


class Turn:
    """One place in the line, and the device while it has it. `begun`: it has had it; `left`: it is not waited for any more."""

    def __init__(self, device: Device, visitor: str, page: str, work: Work, number: int) -> None:
        self.device, self.visitor, self.page, self.work, self.number = device, visitor, page, work, number
        self.begun = self.left = False
        self.held_s = self.stint_s = 0.0
        self._granted = Event()

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.end(done=kind is None and self.begun)

    @property
    def left_s(self) -> float:
        """Seconds of work that are left, as far as is known: infinite where nothing is."""
        rate = self.device._rates.get(self.work.name)
        return float("inf") if rate is None else max(0.05, rate * self.work.amount - self.held_s)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether the device is this turn's now, after waiting for it at most so long."""
        return self._granted.wait(timeout_s) and not self.left

    def waiting(self) -> Waiting | None:
        """Where it stands; None while it has the device or when it has left."""
        with self.device._lock:
            return None if self is self.device._holder or self not in self.device._line else self.device._foretold(self)

    def give_way(self) -> None:
        """Between two steps: hand the device over if the slice is over and it is another visitor's turn; then `wait` for it again."""
        device = self.device
        with device._lock:
            if self is not device._holder or len(device._line) == 1:
                return
            device._charge()
            if self.stint_s >= device.slice_s and (rival := device._next(self.visitor)) and device._used[rival.visitor] <= device._used[self.visitor]:
                device._release(self)
                device._changed(rival)

    def leave(self) -> None:
        """From any thread: give the turn up. Work that goes on ends at its next step."""
        with self.device._lock:
            self.left = True
            if self is not self.device._holder and self in self.device._line:
                self.device._line.remove(self)
                self.device._changed()
            self._granted.set()

    def end(self, done: bool = False) -> None:
        """The work is over, or will never be done. done: all of it was, so that its time tells something of the next."""
        with self.device._lock:
            self.device._release(self)
            if self in self.device._line:
                self.device._line.remove(self)
            if done and not self.left:
                self.device._learn(self)
            self.device._changed()

    def shared(self, events: Iterable[Item], stop: Stop | None = None) -> Iterator[Item | Waiting]:
        """The events, each made while the turn has the device; while it has not, how it stands, about once a second, and more seldom where many wait.

        The turn ends with them, or when this is closed. Setting `stop` before the first event leaves the line; after it,
        the events are to end by themselves.
        """
        source = iter(events)
        done = False
        try:
            while True:
                yield from self._waited(stop)
                if self.left or (not self.begun and stop is not None and stop.is_set()):
                    return
                try:
                    event = next(source)
                except StopIteration:
                    done = stop is None or not stop.is_set()
                    return
                self.give_way()
                yield event
        finally:
            if close := getattr(source, "close", None):
                close()
            self.end(done=done)

    def _waited(self, stop: Stop | None) -> Iterator[Waiting]:
        told = float("-inf")
        while not self.wait(LOOK_EVERY_S) and not self.left:
            if not self.begun and stop is not None and stop.is_set():
                return
            if monotonic() - told >= max(NEWS_EVERY_S, NEWS_EACH_S * len(self.device)) and (news := self.waiting()):
                told = monotonic()
                yield news
