"""What a hand waits for in Chromium on the same machine: from Enter to the next task drawn, and from a threshold's move to the new edges.

Edges are Canny's of a photograph of a megapixel, at the size that the model draws; medians.
"""

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from studio.media.pictures import load_picture
from tests.benchmarks.browsing import studio_page

PORT = 7947
TASKS, MOVES = 20, 20
PHOTOGRAPH = (1224, 817)

# From the key to the next task with all of its pictures, as it is drawn; in ms.
ENTER = """async () => {
  const board = document.querySelector("#rank-board .ds-rank"), before = board.dataset.assignment;
  const drawn = () => board.dataset.assignment && board.dataset.assignment !== before
    && [...board.querySelectorAll(".ds-rank-card img")].every((image) => image.complete && image.naturalWidth);
  board.querySelector(".ds-rank-card").focus();
  for (const key of "1234") document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const start = performance.now();
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
  while (!drawn()) await new Promise((next) => setTimeout(next, 1));
  await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""
# From the move to the new map on its canvas; in ms.
MOVE = """async (value) => {
  const paint = document.querySelector("#ctl-1-map .ds-paint"), slider = document.querySelector("#ctl-1-first input[type=range]");
  const before = paint.dataset.shown, start = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  while (paint.dataset.shown === before && performance.now() - start < 5000) await new Promise((next) => setTimeout(next, 1));
  return performance.now() - start;
}"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIFFUSION_STUDIO_RANKINGS"] = folder
        with studio_page(PORT) as page:
            print(f"Enter to the next task drawn: {median(entered(page)):.0f} ms (median of {TASKS})")
            print(f"a threshold of Canny moved to the new edges: {median(moved(page, Path(folder))):.0f} ms (median of {MOVES})")


def entered(page: Any) -> list[float]:
    page.get_by_role("tab", name="Rank", exact=True).click()
    page.wait_for_selector("#rank-board .ds-rank-card img", timeout=60_000)
    return [page.evaluate(ENTER) for _ in range(TASKS)]


def moved(page: Any, folder: Path) -> list[float]:
    file = folder / "photograph.jpg"
    load_picture("rocket").resize(PHOTOGRAPH, Image.Resampling.LANCZOS).save(file, quality=92)
    page.get_by_role("tab", name="ControlNet", exact=True).click()
    page.wait_for_selector("#ctl-1-map .ds-paint[data-shown]", timeout=60_000)
    page.click("#ctl-1-annotator input")
    page.locator("ul[role=listbox] >> text=Canny").first.click()
    page.set_input_files("#ctl-1-picture input[type=file]", str(file))
    page.wait_for_timeout(3000)
    return [page.evaluate(MOVE, str(10 + 12 * i)) for i in range(MOVES)]


if __name__ == "__main__":
    main()
