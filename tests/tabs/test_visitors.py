"""What visitors' sessions keep, over the wire: a file once, nothing after the page is closed, no folder that is empty."""

import sys
import threading
from pathlib import Path
from threading import Event

import gradio as gr
import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fakes import FakeStudio

from studio import scratch
from studio.kept import Kept, Limits
from studio.options import SampleOptions
from tabs.denoise import create_tab
from tabs.parts.blocks import StudioBlocks
from tabs.parts.running import run_for_programs, run_shown
from tabs.parts.session import Session
from tabs.parts.visitors import keep_little


@pytest.fixture
def served(tmp_path, monkeypatch):
    """(studio, demo, client): the Denoising tab as it is served, its uploads in a folder of the test's own."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    studio = FakeStudio()
    with StudioBlocks() as demo:
        create_tab(studio)
        keep_little(demo, studio)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    with httpx.Client(base_url=f"{url}gradio_api", timeout=120) as client:
        yield studio, demo, client
    demo.close()


@pytest.fixture
def run_file(tmp_path) -> Path:
    *_, finished = FakeStudio().sample(SampleOptions(model="disc", num_steps=12, num_images=4))
    return finished.trajectory.save(tmp_path / "run.safetensors")


def open_file(demo: gr.Blocks, client: httpx.Client, path: Path, session: str) -> str:
    """Open a run file as the page does; gives what the page is sent until it is done."""
    uploaded = client.post("/upload", files={"files": (path.name, path.read_bytes())}).json()[0]
    [handler] = [index for index, fn in demo.fns.items() if getattr(fn.fn, "__name__", "") == "on_file"]
    file = {"path": uploaded, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
    joined = client.post("/queue/join", json={"data": [file, None], "fn_index": handler, "session_hash": session})
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/queue/data", params={"session_hash": session}) as stream:
        return "".join(line for line in stream.iter_lines() if line.startswith("data:"))


@pytest.mark.parametrize("session", [None, "a-session"])
def test_a_call_does_not_describe_the_page_for_its_session(served, monkeypatch, session):
    _, demo, client = served
    monkeypatch.setattr("gradio.blocks.BlocksConfig.config_for_block", lambda *args, **more: pytest.fail("a component was described"))
    [handler] = [index for index, fn in demo.fns.items() if getattr(fn.fn, "__name__", "") == "on_stop"]
    answer = client.post("/run/predict", json={"data": [None], "fn_index": handler, "session_hash": session})
    assert answer.status_code == 200 and "Nothing is running" in answer.text


def test_a_run_file_that_many_sessions_open_is_kept_once(served, run_file):
    studio, demo, client = served
    for i in range(12):
        assert "Opened a run of 12 steps" in open_file(demo, client, run_file, f"invented{i}")
    once = studio.load_run(run_file).nbytes
    assert studio.kept.nbytes == once
    # What the page was sent, such as a whole film, is not kept either.
    sessions = demo.app.state_holder.session_data
    assert len(sessions) >= 12 and all(state.config_values == {} for state in sessions.values())


def test_a_page_that_is_closed_frees_its_run(served, run_file):
    studio, demo, client = served
    with client.stream("GET", "/heartbeat/mine") as heartbeat:
        lines = heartbeat.iter_lines()  # held, as it closes the connection when it goes
        assert next(lines) == "data: ALIVE"
        open_file(demo, client, run_file, "mine")
        open_file(demo, client, run_file, "other")
        assert studio.kept.nbytes
        freed = watched(studio.kept)
    assert freed.wait(20)
    assert studio.kept.get("mine", "denoise") is None and studio.kept.get("other", "denoise") is not None


def watched(kept: Kept) -> Event:
    """Set when a session is closed."""
    closed, close = threading.Event(), kept.close

    def closing(session: str) -> None:
        close(session)
        closed.set()

    kept.close = closing  # type: ignore[method-assign]
    return closed


def test_a_run_that_had_to_go_is_said_in_a_sentence():
    session = Session(Kept(Limits(session_bytes=10, total_bytes=10, idle_s=60.0)))
    with pytest.raises(ValueError, match="press Run first"):
        session.required("There is no run of yours to keep yet: press Run first.")
    list(run_shown(FakeStudio(), SampleOptions(model="disc", num_steps=2), Event(), session))
    with pytest.raises(ValueError, match=r"no longer held here \(at most 0 MiB"):
        session.required("There is no run of yours to keep yet: press Run first.")


def test_pictures_lie_in_a_folder_only_until_the_page_has_them():
    changes = run_for_programs(FakeStudio(), SampleOptions(model="disc", num_steps=2), Event(), Session())
    paths = next(change["pictures"] for change in changes if "pictures" in change)
    assert all(Path(path).is_file() for path in paths)
    assert list(changes) == [] and not Path(paths[0]).parent.exists()
    assert not [path for path in scratch.scratch_folder().iterdir() if path.is_dir()]
