"""A step change of the stage in Chromium: from the key press to the pixels on the canvas, and to the next frame."""

from statistics import median

from tests.benchmarks.browsing import studio_page

STEPS = 100
PORT = 7943

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
    with studio_page(PORT) as page:
        page.keyboard.press("Home")
        keys = ["ArrowRight"] * 10 + ["ArrowLeft"] * 10
        times = [page.evaluate(PRESS, keys[i % len(keys)]) for i in range(STEPS)]
    drawing, changed = (median(time[name] for time in times) for name in ("draw", "changed"))
    print(f"medians over {STEPS} step changes: drawing {drawing:.2f} ms, key press to changed canvas {changed:.1f} ms")


if __name__ == "__main__":
    main()
