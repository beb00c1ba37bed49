"""A press of Run and of Generate in Chromium on the same machine: from the press to the first x0_hat and to Done, beside the bare loop.

The first press of each tab comes to a fresh studio whose page was opened SETTLED_S before; the others find everything ready.
Each press is followed by a run of the bare loop, in a process that waits for its turn, so that a drift of the machine's
speed hits both alike.
"""

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks.browsing import studio_page

PORT = 7944
PRESSES = 7
SETTLED_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Tab:
    """name: on the page; prefix: of its elem_ids; asked: what its first press asks for, as Python."""

    name: str
    prefix: str
    asked: str


TABS = (
    Tab(
        name="Text to image", prefix="t2i",
        asked='model="toybox-sd", prompt="a purple butterfly on a yellow background", num_steps=25, guidance_scale=4.0, record_attention=True',
    ),
    Tab(name="Denoising", prefix="denoise", asked='model="toybox-ddpm", num_steps=studio.models["toybox-ddpm"].default_steps, num_images=4'),
)

# From the press to the first live frame on the canvas, to the line that says Done, and to the film on the stage; in s.
PRESS = """async (prefix) => {
  const stage = document.querySelector(`#${prefix}-stage .ds-stage`), status = document.querySelector(`#${prefix}-status`);
  const before = stage.dataset.run, start = performance.now(), since = () => (performance.now() - start) / 1000;
  let first = null, done = null, film = null, frames = 0, busy = false;
  const look = () => {
    const said = status.textContent.trim(), fresh = stage.dataset.run !== before;
    busy = busy || !said.startsWith("Done");
    if (fresh && first === null) first = since();
    if (fresh && stage.dataset.kind === "live") frames += 1;
    if (busy && done === null && said.startsWith("Done")) done = since();
    if (fresh && film === null && stage.dataset.kind === "film") film = since();
  };
  const watch = new MutationObserver(look);
  watch.observe(stage, { attributes: true });
  watch.observe(status, { childList: true, subtree: true, characterData: true });
  document.querySelector(`#${prefix}-run`).click();
  while ((done === null || film === null) && since() < 60) await new Promise((next) => setTimeout(next, 5));
  watch.disconnect();
  return { first, done: Math.max(done, film), frames, said: status.textContent.trim() };
}"""

# Runs once for each line that it is sent, and says how long that took.
BARE = """
import sys, time
from studio import SampleOptions, Studio
studio = Studio()
options = SampleOptions({asked})
studio.make_ready(options)
for event in studio.sample(options): pass
print(flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    for event in studio.sample(options): pass
    print(time.perf_counter() - start, flush=True)
"""


def main() -> None:
    with studio_page(PORT) as page:
        time.sleep(SETTLED_S)
        fresh = {tab.name: _pressed(page, tab) for tab in TABS}
        for tab in TABS:
            _report(tab, fresh[tab.name], *_in_turn(page, tab))


def _pressed(page: Any, tab: Tab) -> dict[str, Any]:
    page.get_by_role("tab", name=tab.name).click()
    page.wait_for_selector(f"#{tab.prefix}-stage .ds-stage[data-kind=film]", timeout=120_000)
    return page.evaluate(PRESS, tab.prefix)


def _in_turn(page: Any, tab: Tab) -> tuple[list[dict[str, Any]], list[float]]:
    """Presses, and the bare loop's seconds, one after the other."""
    command = [sys.executable, "-c", BARE.format(asked=tab.asked)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bare:
        assert bare.stdin and bare.stdout
        bare.stdout.readline()
        presses, seconds = [], []
        for _ in range(PRESSES):
            presses.append(_pressed(page, tab))
            print(file=bare.stdin, flush=True)
            seconds.append(float(bare.stdout.readline()))
        bare.stdin.close()
    return presses, seconds


def _report(tab: Tab, fresh: dict[str, Any], presses: list[dict[str, Any]], bare: list[float]) -> None:
    inside = [float(re.search(r"in ([\d.]+) s", press["said"])[1]) for press in presses]  # type: ignore[index]
    print(f"{tab.name}: {presses[0]['said']}")
    print(f"  the bare loop {median(bare):.2f} s, in the tab {median(inside):.2f} s as it says, ratio {median(a / b for a, b in zip(inside, bare)):.2f}")
    for what, name in (("the first x0_hat", "first"), ("Done", "done")):
        ready = median(press[name] for press in presses)
        print(f"  from the press to {what}: {ready:.2f} s (median of {PRESSES}), the first in a fresh studio {fresh[name]:.2f} s")
    print(f"  live frames drawn: {median(press['frames'] for press in presses):.0f}", flush=True)


if __name__ == "__main__":
    main()
