"""The studio as `python app.py` starts it, in a Chromium of the system, for what is measured there."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.benchmarks.starting import _wait

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def studio_page(port: int) -> Iterator[Any]:
    """A page of 1280 x 900 whose Denoising tab shows its recorded run; the app and the browser end with the block."""
    from playwright.sync_api import sync_playwright

    app = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/")
            page.wait_for_selector("#denoise-stage .ds-stage[data-kind=film]", timeout=120_000)
            yield page
            browser.close()
    finally:
        app.terminate()
        app.wait()
