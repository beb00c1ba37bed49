"""A step change of the stage in Chromium: from the key press to the pixels on the canvas, and to the next frame."""

import shutil
import subprocess
import sys
from statistics import median

from tests.benchmarks.starting import _wait

STEPS = 100
PORT = 7943
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# From dispatching the key to the change of the shown step, then to the frame that the browser paints.
PRESS = """async (key) => {
  const stage = document.querySelector("#denoise-stage .ds-stage");
  const before = stage.dataset.step, start = performance.now();
  stage.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  while (stage.dataset.step === before && performance.now() - start < 1000) await new Promise(requestAnimationFrame);
  const drawn = performance.now() - start;
  await new Promise(requestAnimationFrame);
  return { total: performance.now() - start, changed: drawn, draw: window.Studio.lastDrawMs };
}"""


def main() -> None:
    from playwright.sync_api import sync_playwright

    app = subprocess.Popen([sys.executable, "app.py", "--port", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{PORT}/")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"http://127.0.0.1:{PORT}/")
            page.wait_for_selector("#denoise-stage .ds-stage[data-kind=film]", timeout=120_000)
            page.keyboard.press("Home")
            keys = ["ArrowRight"] * 10 + ["ArrowLeft"] * 10
            times = [page.evaluate(PRESS, keys[i % len(keys)]) for i in range(STEPS)]
            browser.close()
    finally:
        app.terminate()
        app.wait()
    drawing, changed = (median(time[name] for time in times) for name in ("draw", "changed"))
    print(f"medians over {STEPS} step changes: drawing {drawing:.2f} ms, key press to changed canvas {changed:.1f} ms")


if __name__ == "__main__":
    main()
