"""What visitors' sessions keep between two presses of a button, bounded in bytes: for each session and for all together.

Where there is no room, what was used longest ago goes first. One content that many sessions hold is kept once. A session
that is closed lets go at once; one that nobody has used for a while counts as closed.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from cachetools import LRUCache

from studio.checks import require_float, require_int
from studio.machine import total_ram

__all__ = ["Kept", "Limits", "PUBLIC_LIMITS", "own_limits"]

MIB = 2**20
# A session is found to be idle at most this share of the time late.
LATENESS = 0.1


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be kept: session_bytes for one session, total_bytes for all, idle_s seconds after a session's last use."""

    session_bytes: int
    total_bytes: int
    idle_s: float

    def __post_init__(self) -> None:
        require_int("total_bytes", self.total_bytes, 1, 2**50)
        require_int("session_bytes", self.session_bytes, 1, self.total_bytes)
        require_float("idle_s", self.idle_s, 0.001, 1e6)

    def __str__(self) -> str:
        return f"at most {self.session_bytes / MIB:.0f} MiB for a session, until {self.idle_s / 60:.0f} minutes after its last use"


# The largest run that a public studio makes fits into a session's share (studio.sampling.estimate.PUBLIC_WORK).
PUBLIC_LIMITS = Limits(session_bytes=192 * MIB, total_bytes=1024 * MIB, idle_s=15 * 60)


def own_limits() -> Limits:
    """On one's own machine: a quarter of its memory, for as long as a page may lie open over lunch."""
    quarter = total_ram() // 4
    return Limits(session_bytes=quarter, total_bytes=quarter, idle_s=4 * 3600)


@dataclass(kw_only=True)
class _Session:
    """used: the clock at its last use; places: names and sizes of contents by place, used longest ago first."""

    used: float = 0.0
    places: OrderedDict[str, tuple[str, int]] = field(default_factory=OrderedDict)


class Kept:
    """Values by session and by place in it (one value a place). Every method may be called from any thread.

    Args:
        limits: in bytes and seconds.
        clock: seconds, rising.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock = limits, clock
        self._lock = threading.RLock()
        # Used longest ago first. They hold names of contents alone, so that letting go of a content frees it.
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        self._contents: LRUCache[str, tuple[Any, int]] = LRUCache(limits.total_bytes, getsizeof=lambda content: content[1])
        self._timer: threading.Timer | None = None

    @property
    def nbytes(self) -> int:
        """What is kept in all."""
        with self._lock:
            return int(self._contents.currsize)

    def keep(self, session: str, place: str, value: Any, nbytes: int, content: str = "") -> bool:
        """Keep a value of `nbytes` in a session's place, instead of what was there; whether it is small enough to be kept.

        content: a name for what the value is, the same for equal ones; "" for one that nobody else has.
        """
        name, size = content or uuid4().hex, max(1, nbytes)
        with self._lock:
            places = self._used(session).places
            places.pop(place, None)
            fits = size <= self.limits.session_bytes
            if fits:
                places[place] = name, size
                while sum(other for _, other in places.values()) > self.limits.session_bytes:
                    places.popitem(last=False)
                if name not in self._contents:
                    self._contents[name] = value, size
            self._let_go()
            return fits

    def get(self, session: str, place: str) -> Any | None:
        """What is kept there, or None where it had to go."""
        with self._lock:
            self._let_go()
            places = self._sessions[session].places if session in self._sessions else {}
            if place not in places:
                return None
            self._used(session).places.move_to_end(place)
            return self.known(places[place][0])

    def known(self, content: str) -> Any | None:
        """The value of that name, if any session holds it."""
        with self._lock:
            self._let_go()
            kept = self._contents.get(content)
            return kept[0] if kept else None

    def close(self, session: str) -> None:
        """The session is over: what it alone holds is freed."""
        with self._lock:
            self._sessions.pop(session, None)
            self._let_go()

    def _used(self, session: str) -> _Session:
        held = self._sessions.setdefault(session, _Session())
        held.used = self._clock()
        self._sessions.move_to_end(session)
        return held

    def _let_go(self) -> None:
        """Free what no session holds any more; idle sessions hold nothing."""
        for session, held in [*self._sessions.items()]:
            # What gave way to others' is no longer this session's either.
            for place in [place for place, (name, _) in held.places.items() if name not in self._contents]:
                del held.places[place]
            if not held.places or self._clock() - held.used >= self.limits.idle_s:
                del self._sessions[session]
        wanted = {name for held in self._sessions.values() for name, _ in held.places.values()}
        for name in self._contents.keys() - wanted:
            del self._contents[name]
        self._look_again()

    def _look_again(self) -> None:
        """While something is kept, idle sessions are looked for now and then, also when nobody asks for anything."""
        if self._sessions and self._timer is None:
            self._timer = threading.Timer(self.limits.idle_s * LATENESS, self._on_time)
            self._timer.daemon = True
            self._timer.start()

    def _on_time(self) -> None:
        with self._lock:
            self._timer = None
            self._let_go()
