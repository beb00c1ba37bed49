"""The line for the device: who has it when, what those who wait are told, and that nothing is left behind."""

import threading

import pytest

from studio.models.device import Device, Work


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def device(clock):
    return Device(slice_s=1.0, clock=clock)


def worked_off(device, clock, turns, step_s=0.25, lengths=None):
    """Let the turns work in steps until all are done; gives who had each step."""
    left, had = dict(lengths), []
    while left:
        turn = next(turn for turn in turns if turn in left and turn.wait(0))
        clock.pass_s(step_s)
        had.append(turn.visitor)
        left[turn] -= 1
        if left[turn]:
            turn.give_way()
        else:
            del left[turn]
            turn.end(done=True)
    return had


# --- whose turn ----------------------------------------------------------------------------------------------

def test_a_free_device_is_lent_at_once_and_the_next_gets_it_when_it_is_given_back(device):
    first, second = device.ask("a"), device.ask("b")
    assert first.wait(0) and not second.wait(0)
    first.end()
    assert second.wait(0) and len(device) == 1
    second.end()
    assert len(device) == 0


def test_a_long_run_does_not_hold_up_a_short_one(device, clock):
    long = device.ask("a")
    clock.pass_s(100)
    short = device.ask("b")
    long.give_way()
    assert short.wait(0) and not long.wait(0)
    clock.pass_s(0.5)
    short.end()
    assert long.wait(0)


def test_within_its_slice_nobody_is_interrupted(device, clock):
    first, second = device.ask("a"), device.ask("b")
    clock.pass_s(0.9)
    first.give_way()
    assert first.wait(0)
    clock.pass_s(0.2)
    first.give_way()
    assert second.wait(0)


def test_two_long_runs_have_the_device_for_as_long(device, clock):
    a, b = device.ask("a"), device.ask("b")
    had = worked_off(device, clock, [a, b], lengths={a: 40, b: 40})
    assert had[:40].count("a") == had[:40].count("b") == 20


def test_many_turns_of_one_visitor_count_as_one_visitor(device, clock):
    greedy = [device.ask("greedy") for _ in range(10)]
    modest = device.ask("modest")
    had = worked_off(device, clock, [*greedy, modest], lengths={**dict.fromkeys(greedy, 4), modest: 4})
    assert had.index("modest") == 4  # after one slice, not after ten runs


def test_one_visitor_s_own_turns_come_in_the_order_in_which_they_were_asked_for(device, clock):
    first, second = device.ask("a"), device.ask("a")
    clock.pass_s(5)
    first.give_way()
    assert first.wait(0) and not second.wait(0)


def test_who_comes_back_at_once_pays_for_what_it_just_had(device, clock):
    a, b = device.ask("a"), device.ask("b")
    clock.pass_s(3)
    a.end()
    again = device.ask("a")
    clock.pass_s(2)
    b.give_way()
    assert b.wait(0) and not again.wait(0)  # b has had 2 of a's 3 seconds
    clock.pass_s(2)
    b.give_way()
    assert again.wait(0)


def test_what_lies_long_ago_is_forgotten(device, clock):
    a = device.ask("a")
    clock.pass_s(1000)
    a.end()
    one, other = device.ask("b"), device.ask("a")
    clock.pass_s(2)
    one.give_way()
    assert other.wait(0)


def test_what_needs_the_memory_for_itself_waits_for_what_is_half_done_and_no_longer(device, clock):
    long = device.ask("a")
    clock.pass_s(2)
    big, small = device.ask("b", Work(beside=False)), device.ask("c")
    long.give_way()
    assert long.wait(0) and not big.wait(0) and not small.wait(0)
    clock.pass_s(2)
    long.end()
    assert big.wait(0)


# --- what is told --------------------------------------------------------------------------------------------

def test_who_waits_is_told_place_and_time(device, clock):
    for visitor in "ab":
        with device.ask(visitor, Work(name="draw", amount=10)):
            clock.pass_s(0.5)
    device.ask("a", Work(name="draw", amount=10))
    second, third = device.ask("b", Work(name="draw", amount=10)), device.ask("c", Work(name="draw", amount=20))
    fourth = device.ask("d", Work(name="draw", amount=1))
    assert [turn.waiting().place for turn in (second, third, fourth)] == [1, 2, 3]
    assert [turn.waiting().begins_s for turn in (second, third, fourth)] == pytest.approx([0.5, 1.0, 2.0])


def test_behind_an_endless_run_of_another_one_s_time_is_a_slice_behind_one_s_own_nobody_can_say(device):
    device.ask("a")
    other, own = device.ask("b"), device.ask("a")
    assert other.waiting().begins_s == 1.0
    assert own.waiting().begins_s is None and own.waiting().place == 2


def test_a_stopped_run_teaches_nothing_of_how_long_one_takes(device, clock):
    stop = threading.Event()
    turn = device.ask("a", Work(name="draw"))
    for _ in turn.shared(iter([1, 2, 3]), stop):
        clock.pass_s(1)
        stop.set()
    device.ask("b")
    assert device.ask("c", Work(name="draw")).left_s == float("inf")


def test_many_who_wait_are_foretold_quickly(device):
    turns = [device.ask(f"visitor {i // 2}") for i in range(64)]
    assert sorted(turn.waiting().place for turn in turns[1:]) == list(range(1, 64))


# --- nothing is left behind ----------------------------------------------------------------------------------

def test_a_turn_that_is_given_up_lets_the_others_through(device):
    first, second, third = (device.ask(visitor) for visitor in "abc")
    second.leave()
    first.end()
    assert third.wait(0) and not second.wait(0) and second.left


def test_a_failing_work_gives_the_device_back(device):
    with pytest.raises(ZeroDivisionError), device.ask("a"):
        raise ZeroDivisionError
    assert device.ask("b").wait(0)


def test_a_visitor_who_is_gone_leaves_nothing_in_the_line(device):
    turns = [device.ask("a"), device.ask("a"), device.ask("b")]
    device.forget("a")
    assert turns[0].left and turns[1].left and not turns[2].left
    turns[0].end()
    assert turns[2].wait(0)


def test_of_a_visitor_with_two_pages_only_the_closed_one_s_turns_end(device):
    closed, open_one = device.ask("ada", page="first"), device.ask("ada", page="second")
    device.forget("first")
    assert closed.left and not open_one.left
    closed.end()
    assert open_one.wait(0)


def test_events_are_made_only_while_the_device_is_lent():
    device, made = Device(), []

    def work():
        for i in range(3):
            made.append(i)
            yield i

    other = device.ask("a")
    events = device.ask("b").shared(work())
    waiting = next(events)
    assert waiting.place == 1 and not made
    other.end()
    assert [*events] == [0, 1, 2] and len(device) == 0


def test_where_many_wait_each_is_told_more_seldom(monkeypatch):
    now = iter(range(10**6))
    monkeypatch.setattr("studio.models.device.monotonic", lambda: float(next(now)))
    monkeypatch.setattr("studio.models.device.LOOK_EVERY_S", 0.0)

    def looks_between_news(others):
        device = Device()
        for _ in range(others):
            device.ask("others")
        events = device.ask("b").shared(iter([1]))
        next(events)
        since = next(now)
        next(events)
        return next(now) - since

    assert looks_between_news(others=200) > 2 * looks_between_news(others=1)


def test_closing_the_events_closes_the_work_and_ends_the_turn(device):
    closed = []

    def work():
        try:
            yield from range(3)
        finally:
            closed.append(True)

    events = device.ask("a").shared(work())
    assert next(events) == 0
    events.close()
    assert closed == [True] and len(device) == 0


def test_a_turn_stopped_while_it_waits_never_begins():
    device, stop = Device(), threading.Event()
    device.ask("a")
    events = device.ask("b").shared(iter([1]), stop)
    next(events)
    stop.set()
    assert [*events] == [] and len(device) == 1


def test_threads_that_take_turns_never_work_at_once():
    device, at_work, most, done = Device(slice_s=0.0), [], [], []

    def work(visitor):
        for step in range(20):
            at_work.append(visitor)
            most.append(len(at_work))
            at_work.remove(visitor)
            yield step

    def run(visitor):
        done.append([event for event in device.ask(visitor).shared(work(visitor)) if isinstance(event, int)])

    threads = [threading.Thread(target=run, args=(f"visitor {i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) == 1 and done == [list(range(20))] * 8 and len(device) == 0
