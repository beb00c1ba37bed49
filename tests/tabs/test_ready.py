"""What a first press needs is loaded in the background: not before a page is up, once for the process, and never at the page's expense."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

import gradio as gr
import httpx
import pytest

import app
from studio import SampleOptions, Studio
from studio.errors import ModelUnavailable
from tabs import denoise, text_to_image
from tabs.parts.blocks import StudioBlocks
from tabs.parts.ready import FirstPress, make_ready_once_up
from tests.tabs.fake_text import FakeTextStudio


def until(true: Callable[[], object], what: str, within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what}; {where_it_stands()}"
        time.sleep(0.02)


def threads_making_ready() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "making ready"]


def nothing_is_made_ready() -> bool:
    return not threads_making_ready()


def where_it_stands() -> str:
    """The lines that the threads are at: what never ends is found by them."""
    frames = sys._current_frames()
    stacks = ["".join(traceback.format_stack(frames[thread.ident])) for thread in threads_making_ready() if thread.ident in frames]
    return "\n".join(stacks) or "nothing is made ready"


def page_up(demo: gr.Blocks, url: str) -> None:
    """What a browser sends when the page has shown its recorded runs: the calls that follow those of the page's load."""
    loads = {fn._id for fn in demo.fns.values() if any(event == "load" for _, event in fn.targets)}
    for fn in demo.fns.values():
        if fn.trigger_after in loads:
            answer = httpx.post(f"{url}gradio_api/run/predict", json={"fn_index": fn._id, "data": [], "session_hash": "visitor"})
            assert answer.status_code == 200, answer.text


@pytest.fixture
def served():
    """Serves a page; gives it and its address."""
    pages: list[gr.Blocks] = []

    def serve(page: gr.Blocks) -> tuple[gr.Blocks, str]:
        pages.append(page)
        return page, page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")[1]

    yield serve
    for page in pages:
        page.close()


def tabs_of(studio: FakeTextStudio) -> gr.Blocks:
    with StudioBlocks(analytics_enabled=False) as page:
        make_ready_once_up(studio, [press for press in (denoise.create_tab(studio), text_to_image.create_tab(studio)) if press])
    return page


def test_models_are_ready_without_a_press_as_soon_as_the_page_is_up(served, tmp_path):
    studio = Studio(runs_root=tmp_path)
    page, url = served(app.create_app(studio))
    assert httpx.get(url).status_code == 200
    assert nothing_is_made_ready() and not studio.residents()
    page_up(page, url)
    ready = {"toybox-ddpm", "toybox-sd", "toybox-controlnet-canny"}
    until(lambda: {one.name for one in studio.residents()} == ready and nothing_is_made_ready(), "the models were not made ready")
    for name in ("toybox-ddpm", "toybox-sd"):
        assert studio.model(name).traced._graphs, f"{name} has no graphs"
    # What was practised is nobody's run.
    assert studio.kept.nbytes == 0


def test_the_opened_tab_comes_first_and_no_visitor_asks_again(served):
    studio = FakeTextStudio()
    page, url = served(tabs_of(studio))
    for _ in range(3):
        page_up(page, url)
    until(nothing_is_made_ready, "it did not end")
    assert [options.model for options in studio.readied] == ["disc", "words"]
    readied, practised = studio.readied[1], studio.asked[1]
    assert readied.record_attention and readied.num_steps > 1 and practised.num_steps == 1


def test_what_cannot_be_made_ready_is_said_once_and_the_rest_goes_on(served, monkeypatch, caplog):
    studio, own = FakeTextStudio(), FakeTextStudio.make_ready

    def make_ready(self, options: SampleOptions) -> None:
        own(self, options)
        if options.model == "disc":
            raise ModelUnavailable("The file of the discs is damaged.")

    monkeypatch.setattr(FakeTextStudio, "make_ready", make_ready)
    page, url = served(tabs_of(studio))
    with caplog.at_level(logging.WARNING):
        page_up(page, url)
        page_up(page, url)
        until(nothing_is_made_ready, "it did not end")
    assert [options.model for options in studio.readied] == ["disc", "words"]
    assert [record.getMessage() for record in caplog.records if record.name == "tabs.parts.ready"] == [
        "disc could not be made ready before its first run: The file of the discs is damaged."
    ]
    assert httpx.get(url).status_code == 200


def test_networks_are_made_ready_in_a_turn_of_the_device_and_never_beside_a_run(served):
    studio = FakeTextStudio()
    with studio.device.ask("somebody") as run:
        assert run.wait(1)
        page, url = served(tabs_of(studio))
        page_up(page, url)
        until(lambda: len(studio.device) == 2, "it does not stand in the line")
        assert studio.weighed and not studio.readied
    until(nothing_is_made_ready, "it did not end")
    assert [options.model for options in studio.readied] == ["disc", "words"]


def test_a_defect_is_a_sentence_in_the_log_too(served, caplog):
    studio = FakeTextStudio()

    def changes(*asked):
        raise ZeroDivisionError("of the run")

    with StudioBlocks(analytics_enabled=False) as page:
        opened = gr.on(None, lambda: None)
        make_ready_once_up(studio, [FirstPress(options=SampleOptions(model="disc"), changes=changes, opened=opened)])
    _, url = served(page)
    with caplog.at_level(logging.WARNING):
        page_up(page, url)
        until(nothing_is_made_ready, "it did not end")
    assert "disc could not be made ready before its first run (ZeroDivisionError: of the run)." in [record.getMessage() for record in caplog.records]
