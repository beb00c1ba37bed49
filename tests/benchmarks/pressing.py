"""A press of Generate in Chromium on the same machine: from the press to the first x0_hat and to Done, beside the bare loop.

The first press comes to a fresh studio whose page was opened SETTLED_S before; the others find everything ready.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from statistics import median

from tests.benchmarks.starting import _wait

PORT = 7944
PRESSES = 9
SETTLED_S = 15.0
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PROMPT = "a purple butterfly on a yellow background"

# From the press to the first live frame on the canvas, to the line that says Done, and to the film on the stage; in s.
PRESS = """async () => {
  const stage = document.querySelector("#t2i-stage .ds-stage"), status = document.querySelector("#t2i-status");
  const before = stage.dataset.run, start = performance.now(), since = () => (performance.now() - start) / 1000;
  let first = null, done = null, film = null, frames = 0;
  const look = () => {
    const fresh = stage.dataset.run !== before;
    if (fresh && first === null) first = since();
    if (fresh && stage.dataset.kind === "live") frames += 1;
    if (done === null && status.textContent.trim().startsWith("Done")) done = since();
    if (fresh && film === null && stage.dataset.kind === "film") film = since();
  };
  const watch = new MutationObserver(look);
  watch.observe(stage, { attributes: true });
  watch.observe(status, { childList: true, subtree: true, characterData: true });
  document.querySelector("#t2i-run").click();
  while ((done === null || film === null) && since() < 60) await new Promise((next) => setTimeout(next, 5));
  watch.disconnect();
  return { first, done: Math.max(done, film), frames, said: status.textContent.trim() };
}"""

BARE = """
import sys, time
from studio import SampleOptions, Studio
studio = Studio()
options = SampleOptions(model="toybox-sd", prompt=sys.argv[1], num_steps=25, guidance_scale=4.0, record_attention=True)
studio.make_ready(options)
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    for event in studio.sample(options): pass
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    app = subprocess.Popen([sys.executable, "app.py", "--port", str(PORT)], stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{PORT}/")
        fresh, presses = _pressed()
    finally:
        app.terminate()
        app.wait()
    bare = _bare()
    inside = [float(re.search(r"in ([\d.]+) s", press["said"])[1]) for press in presses]  # type: ignore[index]
    print(f"the bare loop, 25 steps with everything recorded: {bare:.2f} s")
    print(f"in the tab: {median(inside):.2f} s as it says itself, {median(inside) / bare:.2f} of the bare loop")
    for what, name in (("the first x0_hat", "first"), ("Done", "done")):
        print(f"from the press to {what}: {median(press[name] for press in presses):.2f} s (median of {PRESSES}), {fresh[name]:.2f} s in a fresh studio")
    print(f"live frames drawn: {median(press['frames'] for press in presses):.0f}")


def _pressed() -> tuple[dict, list[dict]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{PORT}/")
        page.get_by_role("tab", name="Text to image").click()
        page.wait_for_selector("#t2i-stage .ds-stage[data-kind=film]", timeout=120_000)
        time.sleep(SETTLED_S)
        fresh = page.evaluate(PRESS)
        presses = [page.evaluate(PRESS) for _ in range(PRESSES)]
        browser.close()
    return fresh, presses


def _bare() -> float:
    told = subprocess.run([sys.executable, "-c", BARE, PROMPT, str(PRESSES)], check=True, capture_output=True, text=True).stdout
    return median(json.loads(f"[{','.join(told.split())}]"))


if __name__ == "__main__":
    main()
