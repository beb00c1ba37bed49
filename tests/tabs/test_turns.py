"""Turns on the device from the tabs: a long run holds up nobody, who waits is told, who is gone leaves nothing behind."""

import contextlib
import json
import threading
import time
import uuid
from threading import Event

import httpx
import pytest

from studio import Studio
from studio.errors import InvalidOption, StudioError
from studio.models.device import Device, Waiting
from studio.options import SampleOptions
from studio.sampling.live import LIVE_EVERY_S
from tabs.endpoints import create_sample_endpoint
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tabs.parts.panel import RunPanel
from tabs.parts.running import run_shown
from tabs.parts.session import Session
from tabs.parts.turns import alone, given, sampled, waiting_line, work_of
from tabs.parts.visitors import Asker, keep_little
from tests.tabs.fakes import FakeStudio

ADA, BOB = Asker(visitor="ada", page="ada's page"), Asker(visitor="bob", page="bob's page")
LONG, SHORT = SampleOptions(model="disc", num_steps=900), SampleOptions(model="disc", num_steps=3)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "It did not come to pass."
        time.sleep(0.005)


@pytest.fixture
def studio():
    studio = FakeStudio(step_s=0.01)
    studio.device.slice_s = 0.05
    return studio


class Running(threading.Thread):
    """A run that is watched to its end or until `leave`; `changes` are what the page was told."""

    def __init__(self, studio, options, asker):
        super().__init__(daemon=True)
        self.session, self.switch, self.changes, self.over = Session(), Event(), [], Event()
        self.session.asker = asker
        self.events, self.gone = run_shown(studio, options, self.switch, self.session), Event()
        self.start()

    def run(self):
        with contextlib.closing(self.events):
            for change in self.events:
                self.changes.append(change)
                if self.gone.is_set():
                    break
        self.over.set()

    @property
    def told(self):
        return [change["status"] for change in self.changes if change.get("status")]


def test_a_short_run_ends_while_another_visitor_s_long_one_goes_on(studio):
    long = Running(studio, LONG, ADA)
    until(lambda: any("stage" in change for change in long.changes))
    short = Running(studio, SHORT, BOB)
    until(short.over.is_set)
    assert short.told[-1].startswith("Done: 3 steps") and not long.over.is_set()
    long.switch.set()
    until(long.over.is_set)
    assert len(studio.device) == 0


def test_two_runs_that_take_turns_give_what_each_gives_alone(studio):
    asked = [SampleOptions(model="disc", num_steps=40, seed=seed) for seed in (1, 2)]
    runs = [Running(studio, options, asker) for options, asker in zip(asked, (ADA, BOB))]
    until(lambda: all(run.over.is_set() for run in runs))
    for run, options in zip(runs, asked):
        [*_, alone] = FakeStudio().sample(options)
        assert (run.session.trajectory.x_final == alone.trajectory.x_final).all() and len(run.session.trajectory.steps) == 40


def test_who_waits_sees_place_and_time(studio):
    studio.device.slice_s = 100.0
    with studio.device.ask("ada"):
        runs = [Running(studio, SHORT, Asker(visitor=name, page=name)) for name in ("bob", "eve")]
        until(lambda: all(any("Others have" in line or "Waiting for" in line for line in run.told) for run in runs))
    until(lambda: all(run.over.is_set() for run in runs))
    first = sorted(next(line for line in run.told if "device" in line) for run in runs)
    assert first[0].startswith("Others have the device: you are next, about 100 s") and first[1].startswith("Waiting for the device: place 2 in line")
    assert waiting_line(Waiting(place=3, begins_s=4.2)) == "Waiting for the device: place 3 in line, about 4 s."
    assert waiting_line(Waiting(place=1, begins_s=None)) == "Others have the device: you are next."


def test_the_more_wait_the_fewer_frames_are_drawn_and_the_end_comes_all_the_same(studio, monkeypatch):
    asked = []
    monkeypatch.setattr("tabs.parts.turns.freshest", lambda events, stop, every_s: asked.append(every_s) or events)
    list(sampled(studio, SHORT, Event(), ADA))
    held = [studio.device.ask("ada") for _ in range(15)]
    sampled_last = sampled(studio, SHORT, Event(), ADA)
    next(sampled_last)
    assert asked == [LIVE_EVERY_S, 4 * LIVE_EVERY_S]
    sampled_last.close()
    [turn.end() for turn in held]


@pytest.mark.parametrize("begun", [False, True])
def test_whoever_goes_while_the_run_waits_leaves_the_line_at_once(studio, begun):
    events = sampled(studio, LONG, Event(), ADA)
    if begun:
        next(events)
        rival = studio.device.ask("bob")
        until(lambda: rival.wait(0))  # the run gave way
    else:
        rival = studio.device.ask("bob")
        assert isinstance(next(events), Waiting)
    events.close()  # does not wait for the rival
    assert len(studio.device) == 1 and not any(thread.name == "sampling" for thread in threading.enumerate())
    rival.end()


def test_a_run_that_is_never_begun_takes_no_place(studio):
    sampled(studio, LONG, Event(), ADA).close()
    assert len(studio.device) == 0


def test_a_run_that_fails_gives_the_device_back(studio):
    studio.fail_at = 2
    with pytest.raises(StudioError, match="memory"):
        list(sampled(studio, LONG, Event(), ADA))
    assert len(studio.device) == 0


def value_of(work):
    """What a generator returns, and what it told before."""
    told = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            return end.value, told


def test_a_piece_of_work_gives_its_value_and_says_where_it_stands():
    device = Device()
    assert value_of(alone(device, ADA, "think", lambda: None, "note")) == (None, [])
    rival = device.ask("bob")
    waiting = alone(device, ADA, "think", lambda: 42, "note")
    assert next(waiting) == {"note": "Others have the device: you are next, about 1 s."}
    rival.end()
    assert value_of(waiting)[0] == 42 and len(device) == 0


def test_what_nobody_waits_for_any_more_is_refused_in_a_sentence():
    device = Device()
    with device.ask("bob"):
        work = alone(device, ADA, "think", lambda: 42, "note")
        next(work)
        device.forget(ADA.page)
        with pytest.raises(InvalidOption, match="Nobody waits for this"):
            next(work)
    assert value_of(given(device, ADA, work_of(FakeStudio(), SHORT), iter_of([1, 2], "end"))) == ("end", [1, 2])


def iter_of(items, result):
    yield from items
    return result


def test_a_run_is_to_the_line_what_its_model_is_asked(studio):
    one, four = work_of(studio, SHORT), work_of(studio, SampleOptions(model="disc", num_steps=6, num_images=4))
    assert one.name == four.name and four.amount == 8 * one.amount and one.beside
    assert not work_of(studio, SampleOptions(model="/somewhere/large")).beside


def test_a_second_press_begins_when_the_first_run_has_shown_its_end(studio):
    studio.step_s = 0.0
    with StudioBlocks():
        panel = RunPanel(studio, "x", "Run")
        panel.create_press()
    session, order = Session(), []

    def changes(name, steps):
        def begun(switch):
            def made():
                for step in range(steps):
                    order.append((name, step))
                    yield {"status": name}
                    if switch.is_set():
                        break
                order.append((name, "end"))
            return made()
        return begun

    session.ask(changes("first", 1000))
    first = panel._running(session, lambda values: {})
    next(first)
    session.ask(changes("second", 1))
    second = panel._running(session, lambda values: {})
    assert [*next(second)] == [panel.status] and ("second", 0) not in order
    list(first)
    list(second)
    assert order == [("first", 0), ("first", "end"), ("second", 0), ("second", "end")]


# --- over the wire -------------------------------------------------------------------------------------------

@pytest.fixture
def served(studio):
    with StudioBlocks() as blocks:
        create_sample_endpoint(studio)
        keep_little(blocks, studio)
    blocks.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", app_kwargs={"middleware": PAGE["app_kwargs"]["middleware"]})
    with httpx.Client(base_url=blocks.local_url, timeout=60) as http:
        yield blocks, http
    blocks.close()


def called(blocks, http, num_steps):
    """A session that asked for so many steps, and its messages."""
    [fn] = [fn for fn in blocks.fns.values() if fn.api_name == "sample"]
    session = uuid.uuid4().hex
    data = ["disc", "", num_steps, *[None] * (len(fn.inputs) - 3)]
    assert http.post("/gradio_api/queue/join", json={"data": data, "fn_index": fn._id, "session_hash": session}).status_code == 200
    return session, http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session})


def messages(stream):
    return (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))


def test_a_visitor_who_leaves_frees_the_device_and_one_who_stays_is_served_meanwhile(studio, served):
    blocks, http = served
    _, leaving = called(blocks, http, 900)
    with leaving as stream:
        told = messages(stream)
        assert any(message["msg"] == "process_generating" for message in told)
        _, staying = called(blocks, http, 3)
        with staying as other:
            [end] = [message for message in messages(other) if message["msg"] == "process_completed"]
        assert end["success"] and "Done: 3 steps" in json.dumps(end["output"]) and len(studio.device) == 1
    until(lambda: len(studio.device) == 0)
    assert len(studio.asked) == 2


def test_whatever_uses_the_device_can_say_that_it_waits(tmp_path):
    from app import create_app

    app = create_app(Studio(runs_root=tmp_path))
    on_device = [fn for fn in app.fns.values() if fn.concurrency_id == "gpu"]
    # A handler that is no generator would begin at once when it is called directly, past the queue.
    assert len(on_device) > 8 and all(fn.types_generator and fn.queue and fn.concurrency_limit is None for fn in on_device)


def test_a_press_that_the_queue_refused_is_withdrawn_and_one_that_came_through_is_not():
    session = Session()
    assert not session.withdraw()
    session.ask(lambda switch: iter(()))
    assert session.withdraw() and not session.stop()
    session.ask(lambda switch: iter(()))
    session.came = True
    assert not session.withdraw() and session.stop()
