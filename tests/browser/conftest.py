"""A real Chromium on the real app. In CI a browser that cannot run is a failure; elsewhere it is a skip that says why."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_WITHIN_S = 180
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# A camera that shows a green test picture, and says yes when a page asks for it.
CHROMIUM_ARGS += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
# Two busy cores can take their time; what is tested is what happens, never how soon.
PATIENCE_MS = 60_000


SETTLED = """() => new Promise((done) => {
  let changed = false, quiet = 0;
  const watch = new MutationObserver(() => { changed = true; });
  watch.observe(document.body, { subtree: true, childList: true, attributes: true });
  const look = () => {
    quiet = changed ? 0 : quiet + 1;
    changed = false;
    if (quiet < 3) return requestAnimationFrame(() => requestIdleCallback(look));
    watch.disconnect();
    done();
  };
  requestIdleCallback(look);
})"""


def until_settled(page) -> None:
    """Until the page has had nothing to do for three frames in a row.

    Gradio sets what it has just mounted once more, and what is written within the same blink is lost. No hand is that fast.
    """
    page.evaluate(SETTLED)


# Of the package, not of the session: the tests after these have the cores, the memory and the event loop to themselves.
@pytest.fixture(scope="package")
def runs_root(tmp_path_factory):
    """Where that studio keeps its training runs: not among the user's."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="package")
def app_url(tmp_path_factory, runs_root):
    """The address of the studio as `python app.py` starts it."""
    with started(tmp_path_factory, DIFFUSION_STUDIO_RUNS=str(runs_root)) as address:
        yield address


@pytest.fixture
def no_run_left(runs_root):
    """Whatever a test leaves running ends with it."""
    yield
    for path in runs_root.glob("*/state.json"):
        state = json.loads(path.read_text())
        if state.get("state") in ("starting", "running") and state.get("pid"):
            try:
                os.killpg(state["pid"], signal.SIGKILL)
            except OSError:
                continue


@contextmanager
def started(tmp_path_factory, **environment):
    """The address of a studio of its own, which has ended when the context is left."""
    with open(tmp_path_factory.mktemp("app") / "log.txt", "w+") as log:
        # Models and pictures of the tests lie beside the folder of runs.
        command = [sys.executable, "-u", "app.py", "--folder", str(tmp_path_factory.getbasetemp())]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **environment})
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def served_panels(studio, *names):
    """The address of a page with these panels of the app alone, served by this process: it is open in half the time of the whole one."""
    from gradio import Tab, Tabs

    from app import TABS
    from tabs.parts.blocks import StudioBlocks
    from tabs.parts.page import PAGE
    from tabs.parts.showing import run_timers_of

    with StudioBlocks(analytics_enabled=False) as demo:
        with Tabs() as tabs:
            for name in names:
                with Tab(name, id=name):
                    TABS[name](studio)
        run_timers_of(tabs)
    _, address, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[], **PAGE)
    yield address
    demo.close()


def _address(process: subprocess.Popen, log) -> str:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        if select.select([process.stdout], [], [], 1.0)[0] and (match := re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())):
            return match[0]
    log.seek(0)
    pytest.fail(f"The app did not start:\n{log.read()[-2000:]}")


@pytest.fixture(scope="package")
def browser():
    """One Chromium for all tests: the system's, or Playwright's own."""
    from playwright.sync_api import Error, expect, sync_playwright

    # Its own patience is five seconds.
    expect.set_options(timeout=PATIENCE_MS)
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        except Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"No Chromium could be started (install one, or run `playwright install chromium`): {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page, 1280 x 900, with nothing remembered; console errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors, f"The page threw: {errors}"
