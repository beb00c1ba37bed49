"""A run that is watched while it goes on: what is dropped, what never is, and how it ends."""

import threading
import time
from collections.abc import Iterator
from threading import Event

import pytest

from studio.errors import StudioError
from studio.options import SampleOptions
from studio.sampling.events import Finished, StepDone
from studio.sampling.live import freshest
from tests.tabs.fakes import FakeStudio


def test_stale_steps_are_dropped_and_the_end_is_not():
    studio = FakeStudio(step_s=0.001)
    events = list(freshest(studio.sample(SampleOptions(model="disc", num_steps=100)), Event()))
    indices = [event.index for event in events[:-1]]
    assert isinstance(events[-1], Finished) and len(events[-1].trajectory.steps) == 100
    assert indices == sorted(set(indices)) and 1 <= len(indices) < 50


def test_every_step_is_shown_when_steps_are_slower_than_the_page():
    taken = threading.Semaphore(0)

    def patient() -> Iterator[StepDone | Finished]:
        for event in FakeStudio().sample(SampleOptions(model="disc", num_steps=8)):
            yield event
            assert taken.acquire(timeout=10)

    indices = []
    for event in freshest(patient(), Event(), every_s=0.0):
        indices.append(getattr(event, "index", None))
        taken.release()
        if indices[-1] == 7:
            taken.release()
    assert indices == [*range(8), None]


def test_a_slow_consumer_does_not_hold_up_the_run():
    taken: list[int] = []

    def steps() -> Iterator[StepDone]:
        for step in FakeStudio().sample(SampleOptions(model="disc", num_steps=50)):
            taken.append(1)
            yield step

    frames = freshest(steps(), Event())
    next(frames)
    deadline = time.monotonic() + 60
    while len(taken) < 51 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(taken) == 51
    assert isinstance(next(frames), Finished)


def test_closing_stops_the_run_and_errors_come_through():
    stop = Event()
    frames = freshest(FakeStudio(step_s=0.01).sample(SampleOptions(model="disc", num_steps=1000), stop=stop), stop)
    next(frames)
    frames.close()
    assert stop.is_set() and not any(thread.name == "sampling" for thread in threading.enumerate())
    broken = FakeStudio()
    broken.fail_at = 3
    with pytest.raises(StudioError, match="memory"):
        list(freshest(broken.sample(SampleOptions(model="disc")), Event()))


