"""Live frames over the wire: the newest step and no other, only for who was told the address, until the run is over."""

import base64
import json
import threading
import time

import gradio as gr
import httpx
import numpy as np
import pytest

from studio.media.images import to_pixels
from studio.options import SampleOptions
from studio.sampling.events import StepDone
from tabs.parts import live
from tabs.parts.blocks import StudioBlocks
from tabs.parts.filmstrip import live_frame
from tabs.parts.page import PAGE
from tests.tabs.fake_text import SIDE, FakeTextStudio
from tests.tabs.fakes import FakeStudio


def steps_of(model: str = "disc", **options) -> list[StepDone]:
    studio = FakeTextStudio() if model == "words" else FakeStudio()
    return [event for event in studio.sample(SampleOptions(model=model, **options)) if isinstance(event, StepDone)]


@pytest.fixture(scope="module")
def served():
    with StudioBlocks(analytics_enabled=False) as demo:
        gr.Markdown("hello")
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **PAGE)
    with httpx.Client(base_url=url, timeout=120) as client:
        yield client
    demo.close()


def listened(client: httpx.Client, run: str, until=lambda frames: None) -> list[dict]:
    """The frames of a run until it is over; `until` is told those that have come after each."""
    frames: list[dict] = []
    with client.stream("GET", live.live_address(run)) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line == "event: over":
                return frames
            if line.startswith("data: "):
                frames.append(json.loads(line[len("data: "):]))
                until(frames)
    raise AssertionError("The frames ended, but the run was not said to be over.")


@pytest.mark.parametrize(("model", "channels"), [("disc", 3), ("ring", 1), ("words", 3)])
def test_a_frame_holds_the_very_pixels_of_its_step(model, channels):
    [step] = steps_of(model, num_steps=1, num_images=3)
    frame = live_frame(step)
    (width, height), columns = frame["tile"], frame["columns"]
    assert (frame["images"], columns, frame["channels"]) == (3, 2, channels) and (model != "words" or width == SIDE)
    for name in ("x_t", "x0_hat"):
        sheet = np.frombuffer(base64.b64decode(frame["pictures"][name]), np.uint8).reshape(2 * height, 2 * width, channels)
        for image, pixels in enumerate(to_pixels(step.pictures(name))):
            y, x = image // columns * height, image % columns * width
            assert np.array_equal(sheet[y : y + height, x : x + width], pixels)


def test_a_listener_gets_the_newest_step_again_and_again_and_is_told_the_end(served):
    steps = steps_of(num_steps=40)
    with live.live_run("run") as running:
        def go_on(frames: list[dict]) -> None:
            if len(frames) == 1:
                # Three are taken before anybody looks again: two of them are never made into frames.
                for step in steps[10:13]:
                    running.see(step)
            elif len(frames) == 2:
                running.see(steps[39])
            else:
                running.over = True

        running.see(steps[0])
        frames = listened(served, "run", go_on)
    assert [frame["step"]["index"] for frame in frames][0::2] == [0, 39] and frames[1]["step"]["index"] in (10, 11, 12) and len(frames) == 3


def test_nothing_is_made_that_nobody_listens_to(served, monkeypatch):
    made = []
    monkeypatch.setattr(live, "encoded", lambda event: made.append(event.index) or "{}")
    steps = steps_of(num_steps=5)
    with live.live_run("run") as running:
        for step in steps:
            running.see(step)
        assert made == []
        listened(served, "run", lambda frames: setattr(running, "over", True))
    assert made == [4]


def test_only_a_run_that_is_known_can_be_listened_to_and_one_that_has_ended_says_so(served):
    assert served.get(live.live_address("unknown")).status_code == 404
    with live.live_run("run"):
        assert "run" in live.RUNS
    answer = served.get(live.live_address("run"))
    assert answer.status_code == 200 and answer.text == "event: over\ndata:\n\n" and not live.RUNS


def test_a_run_has_no_crowd_of_listeners(served):
    [step] = steps_of(num_steps=1)
    with live.live_run("run") as running:
        running.see(step)
        seen = threading.Semaphore(0)
        threads = [threading.Thread(target=listened, args=(served, "run", lambda frames: seen.release())) for _ in range(live.MAX_LISTENERS)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert seen.acquire(timeout=60)
        assert served.get(live.live_address("run")).status_code == 429
        running.over = True
        for thread in threads:
            thread.join(timeout=60)
    deadline = time.monotonic() + 60
    while running.listeners and time.monotonic() < deadline:
        time.sleep(0.005)
    assert running.listeners == 0
