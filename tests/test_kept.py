"""What sessions keep: bounded in bytes, least recent first, once a content, freed when a session is closed or idle."""

import gc
import threading
import weakref

import pytest

from studio.errors import InvalidOption
from studio.kept import PUBLIC_LIMITS, Kept, Limits, own_limits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """Stands for something large."""


def kept(session_bytes: int = 10, total_bytes: int = 25, idle_s: float = 60.0) -> tuple[Kept, Clock]:
    clock = Clock()
    return Kept(Limits(session_bytes=session_bytes, total_bytes=total_bytes, idle_s=idle_s), clock), clock


def test_a_session_holds_no_more_than_its_share_and_what_was_used_longest_ago_goes_first():
    store, _ = kept()
    store.keep("ada", "first", "one", 4)
    store.keep("ada", "second", "two", 4)
    assert store.get("ada", "first") == "one"  # used last now
    store.keep("ada", "third", "three", 4)
    assert [store.get("ada", place) for place in ("first", "second", "third")] == ["one", None, "three"] and store.nbytes == 8


def test_all_sessions_together_hold_no_more_than_there_is_room_for():
    store, _ = kept()
    for name in ("ada", "bob", "cleo"):
        store.keep(name, "run", name, 8)
    store.get("ada", "run")
    store.keep("dora", "run", "dora", 8)
    assert [store.get(name, "run") for name in ("ada", "bob", "cleo", "dora")] == ["ada", None, "cleo", "dora"] and store.nbytes == 24


def test_one_content_is_kept_once_however_many_sessions_hold_it():
    store, _ = kept()
    for i in range(40):
        held = store.known("file") or "read once"
        assert store.keep(f"session {i}", "run", held, 9, content="file")
    assert store.nbytes == 9 and all(store.get(f"session {i}", "run") == "read once" for i in range(40))
    for i in range(39):
        store.close(f"session {i}")
    assert store.nbytes == 9 and store.known("file")
    store.close("session 39")
    assert store.nbytes == 0 and store.known("file") is None


def test_what_is_larger_than_a_share_is_not_kept_and_costs_nobody_a_place():
    store, _ = kept()
    store.keep("ada", "run", "small", 5)
    store.keep("bob", "run", "other", 5)
    assert not store.keep("ada", "run", "huge", 11)
    assert store.get("ada", "run") is None  # the small one is no longer what the session has made last
    assert store.get("bob", "run") == "other"


@pytest.mark.parametrize("end", ["closed", "idle"])
def test_a_session_that_is_closed_or_idle_frees_what_it_held(end):
    store, clock = kept()
    run = Run()
    gone = weakref.ref(run)
    store.keep("ada", "run", run, 5)
    del run
    clock.now = 59
    assert store.get("ada", "run") is gone()  # a use: the time runs anew
    clock.now = 118
    assert store.get("ada", "run") is not None
    if end == "closed":
        store.close("ada")
    else:
        clock.now = 178
        store.get("somebody else", "run")
    gc.collect()
    assert gone() is None and store.nbytes == 0


def test_an_idle_session_is_freed_though_nobody_asks_for_anything():
    store = Kept(Limits(session_bytes=10, total_bytes=10, idle_s=0.05))
    run, freed = Run(), threading.Event()
    weakref.finalize(run, freed.set)
    store.keep("ada", "run", run, 5)
    del run
    assert freed.wait(10)


def test_a_new_value_of_a_place_frees_the_old_one():
    store, _ = kept()
    store.keep("ada", "run", "old", 9)
    store.keep("ada", "run", "new", 3)
    assert store.get("ada", "run") == "new" and store.nbytes == 3


@pytest.mark.parametrize("limits", [
    {"session_bytes": 5, "total_bytes": 4, "idle_s": 1.0}, {"session_bytes": 0, "total_bytes": 4, "idle_s": 1.0},
    {"session_bytes": 1, "total_bytes": 4, "idle_s": 0.0}, {"session_bytes": 1, "total_bytes": 4, "idle_s": float("nan")},
])
def test_nonsensical_limits_are_refused(limits):
    with pytest.raises(InvalidOption):
        Limits(**limits)


def test_the_limits_are_said_in_numbers():
    assert str(PUBLIC_LIMITS) == "at most 192 MiB for a session, until 15 minutes after its last use"
    assert own_limits().total_bytes > PUBLIC_LIMITS.session_bytes
