"""Places in the queue by visitor, over raw HTTP: who only calls fills nothing, who has enough is told so, quick calls go past all."""

import json
import threading
import time
import uuid
from contextlib import ExitStack

import httpx
import pytest
from gradio.queueing import Event
from gradio.server_messages import ProcessStartsMessage

from tabs.endpoints import endpoint
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tabs.parts.queue import HALF_OPEN, ON_DEVICE, REFUSALS, UNREAD, Mailbox, Ticket, caller_address


class Held:
    """A handler on the device that goes on until the test lets it: `begun` and `ended` list the words it was called with."""

    def __init__(self):
        self.gate, self.begun, self.ended = threading.Event(), [], []

    def hold(self, words: str) -> str:
        self.begun.append(words)
        try:
            assert self.gate.wait(60)
            return words
        finally:
            self.ended.append(words)


@pytest.fixture
def served():
    held = Held()
    with StudioBlocks() as blocks:
        endpoint(held.hold, "hold", concurrency_id="gpu", concurrency_limit=1)
        endpoint(quick, "quick")
    blocks.queue().launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", max_threads=100, app_kwargs={"middleware": PAGE["app_kwargs"]["middleware"]},
    )
    with httpx.Client(base_url=blocks.local_url, timeout=60) as http:
        yield held, blocks, http
    held.gate.set()
    blocks.close()


def quick() -> str:
    return "quick"


def join(blocks, http, name, *data, session=None):
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == name)
    session = session or uuid.uuid4().hex
    return session, http.post("/gradio_api/queue/join", json={"data": data, "fn_index": fn._id, "session_hash": session})


def listen(http, session):
    """The outcome of each event of the session, in the order in which they end: (value, None) or (None, sentence)."""
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line[5:]) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                yield (message["output"]["data"][0], None) if message["success"] else (None, message["output"]["error"])


class Listener(threading.Thread):
    """Somebody who listens; `heard` holds what came."""

    def __init__(self, http, session):
        super().__init__(daemon=True)
        self.http, self.session, self.heard = http, session, []
        self.start()

    def run(self):
        self.heard += listen(self.http, self.session)


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "It did not come to pass."
        time.sleep(0.01)


def test_calls_that_nobody_listens_for_are_not_begun_and_hold_up_nobody(served):
    held, blocks, http = served
    held.gate.set()
    for i in range(HALF_OPEN + 49):
        assert join(blocks, http, "hold", f"abandoned {i}")[1].status_code == 200
    session, _ = join(blocks, http, "hold", "heard")
    assert [*listen(http, session)] == [("heard", None)]
    assert held.begun == ["heard"]
    assert len(blocks._queue) <= HALF_OPEN and len(blocks._queue.tickets) <= HALF_OPEN


def test_who_listens_late_is_served_or_told_that_it_was_too_late(served):
    held, blocks, http = served
    held.gate.set()
    sessions = [join(blocks, http, "hold", str(i))[0] for i in range(HALF_OPEN + 1)]
    assert [*listen(http, sessions[-1])] == [(str(HALF_OPEN), None)]
    [(value, sentence)] = listen(http, sessions[0])
    assert value is None and "Nobody listened" in sentence


def test_what_nobody_listens_for_is_dropped_after_a_while(served, monkeypatch):
    held, blocks, http = served
    monkeypatch.setattr("tabs.parts.queue.HALF_OPEN_S", 0.0)
    session, _ = join(blocks, http, "hold", "never")
    until(lambda: len(blocks._queue) == 0)
    assert not held.begun and not blocks._queue.tickets and not blocks._queue.event_ids_to_events
    assert "Nobody listened" in [*listen(http, session)][0][1]


def test_a_visitor_holds_only_a_few_places(served):
    held, blocks, http = served
    session = uuid.uuid4().hex
    for i in range(ON_DEVICE.visitor + 1):
        join(blocks, http, "hold", str(i), session=session)
    listener = Listener(http, session)
    until(lambda: listener.heard)
    assert listener.heard[0][1] == f"You have {ON_DEVICE.visitor} waiting or under way already: wait until one of them is over, or stop it."
    held.gate.set()
    listener.join(60)
    assert sorted(value for value, _ in listener.heard[1:]) == [str(i) for i in range(ON_DEVICE.visitor)]
    until(lambda: not blocks._queue.tickets)


def test_all_sessions_of_a_user_who_signed_in_are_one_visitor(served):
    held, blocks, http = served
    blocks.app.auth, blocks.app.tokens = lambda name, password: True, {}
    for token in ("one", "two"):
        blocks.app.tokens[token] = "ada"
    cookie = f"access-token-unsecure-{blocks.app.cookie_id}"
    listeners = []
    for i in range(ON_DEVICE.visitor):
        http.cookies.set(cookie, ("one", "two")[i % 2])
        listeners.append(Listener(http, join(blocks, http, "hold", str(i))[0]))
    [(_, sentence)] = listen(http, join(blocks, http, "hold", "one more")[0])
    assert sentence.startswith(f"You have {ON_DEVICE.visitor} waiting")
    held.gate.set()
    for listener in listeners:
        listener.join(60)
    assert len(held.begun) == ON_DEVICE.visitor


@pytest.fixture
def full(served, monkeypatch):
    """A queue in which every place on the device is taken by somebody who listens."""
    held, blocks, http = served
    monkeypatch.setattr("tabs.parts.queue.ON_DEVICE", type(ON_DEVICE)(visitor=4, address=6, all=6))
    listeners = [Listener(http, join(blocks, http, "hold", str(i))[0]) for i in range(6)]
    until(lambda: sum(ticket.is_heard() for ticket in blocks._queue.tickets.values()) == 6)
    yield held, blocks, http, listeners
    held.gate.set()
    for listener in listeners:
        listener.join(60)
    assert sorted(value for listener in listeners for value, _ in listener.heard) == [str(i) for i in range(6)]


def test_when_it_is_full_a_sentence_says_how_many_wait(full):
    _, blocks, http, _ = full
    session, joined = join(blocks, http, "hold", "one more")
    assert joined.status_code == 200
    assert [*listen(http, session)] == [(None, "The queue is full: 6 are waiting. Try again in a little while.")]


def test_quick_endpoints_answer_while_it_is_full(full):
    _, blocks, http, _ = full
    for _ in range(3):
        assert [*listen(http, join(blocks, http, "quick")[0])] == [("quick", None)]


def test_many_sessions_from_one_address_leave_places_to_others(served, monkeypatch):
    held, blocks, http = served
    monkeypatch.setattr("tabs.parts.queue.ON_DEVICE", type(ON_DEVICE)(visitor=4, address=3, all=6))
    monkeypatch.setattr("tabs.parts.queue.caller_address", lambda request: request.headers.get("x-test-address", "here"))
    listeners = [Listener(http, join(blocks, http, "hold", str(i))[0]) for i in range(3)]
    until(lambda: sum(ticket.is_heard() for ticket in blocks._queue.tickets.values()) == 3)
    [(_, sentence)] = listen(http, join(blocks, http, "hold", "a fourth")[0])
    assert "no more places for your network: 3 from it" in sentence
    http.headers["x-test-address"] = "elsewhere"
    other = Listener(http, join(blocks, http, "hold", "from elsewhere")[0])
    held.gate.set()
    for listener in [*listeners, other]:
        listener.join(60)
    assert other.heard == [("from elsewhere", None)]


def test_refusals_that_nobody_hears_are_not_piled_up(full):
    _, blocks, http, _ = full
    session = uuid.uuid4().hex
    answers = [join(blocks, http, "hold", "x", session=session)[1] for _ in range(REFUSALS + 5)]
    assert [answer.status_code for answer in answers[REFUSALS:]] == [429] * 5
    assert answers[-1].json()["detail"].startswith("The queue is full: 6 are waiting")
    assert blocks._queue.pending_messages_per_session[session].qsize() <= REFUSALS


def test_whoever_is_gone_leaves_no_place_taken(served):
    held, blocks, http = served
    gone = []
    blocks._queue.on_gone = gone.append
    first = Listener(http, join(blocks, http, "hold", "first")[0])
    until(lambda: held.begun)
    session, _ = join(blocks, http, "hold", "second")
    with ExitStack() as stack:
        stack.enter_context(http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}))
        until(lambda: all(ticket.is_heard() for ticket in blocks._queue.tickets.values()) and len(blocks._queue.tickets) == 2)
    until(lambda: len(blocks._queue) == 0)
    assert gone == [session] and len(blocks._queue.tickets) == 1
    held.gate.set()
    first.join(60)
    assert held.begun == ["first"]


def test_of_those_who_wait_the_visitor_served_longest_ago_comes_first(served):
    held, blocks, http = served
    greedy = uuid.uuid4().hex
    join(blocks, http, "hold", "greedy 1", session=greedy)
    listener = Listener(http, greedy)
    until(lambda: held.begun)
    for i in (2, 3):
        join(blocks, http, "hold", f"greedy {i}", session=greedy)
    modest = Listener(http, join(blocks, http, "hold", "modest")[0])
    until(lambda: sum(ticket.is_heard() for ticket in blocks._queue.tickets.values()) == 4)
    held.gate.set()
    listener.join(60)
    modest.join(60)
    assert held.begun == ["greedy 1", "modest", "greedy 2", "greedy 3"]


def test_a_listener_who_takes_nothing_is_gone(served):
    _, blocks, _ = served
    queue, mailbox = blocks._queue, Mailbox()
    fn = next(iter(blocks.fns.values()))
    event = Event("silent", fn, None, None)
    queue.pending_messages_per_session["silent"] = mailbox
    queue.tickets[event._id] = Ticket(event=event, address="", mailbox=mailbox, reads=0, since=0.0, heard=True)
    gone = []
    queue.on_gone = gone.append
    for _ in range(UNREAD + 10):
        queue.send_message(event, ProcessStartsMessage())
    assert not event.alive and gone and mailbox.qsize() <= UNREAD + 1


@pytest.mark.parametrize(("host", "address"), [("192.0.2.7", "192.0.2.7"), ("2001:db8::1:2:3", "2001:db8::/64"), ("testclient", "testclient")])
def test_an_ipv6_network_is_one_address(host, address):
    class Call:
        client = type("Client", (), {"host": host})

    assert caller_address(Call()) == address
