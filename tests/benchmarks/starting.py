"""How soon the studio is there: `import studio`, and its page against a page with one line of text."""

import subprocess
import sys
import time
import urllib.request
from statistics import median

IMPORTS = 7
REQUESTS = 30
STARTS = 3

BARE = """
import gradio as gr
with gr.Blocks() as app:
    gr.Markdown("hello")
app.launch(server_name="127.0.0.1", server_port={port}, quiet=True)
"""


def main() -> None:
    seconds = [_timed([sys.executable, "-c", "import studio"]) - _timed([sys.executable, "-c", "pass"]) for _ in range(IMPORTS)]
    print(f"import studio: {median(seconds):.3f} s over a bare interpreter (median of {IMPORTS})")
    commands = [[sys.executable, "app.py", "--port", "7941"], [sys.executable, "-c", BARE.format(port=7942)]]
    pages = ("http://127.0.0.1:7941/", "http://127.0.0.1:7942/")
    # One after the other, so that neither start takes the other's cores.
    starts = [[_start_and_stop(*pair) for pair in zip(commands, pages)] for _ in range(STARTS)]
    _report("from the command to the page served", [[first for first, _ in pair] for pair in starts], "s", 1)
    _report("a further request of the page", [[again for _, again in pair] for pair in starts], "ms", 1e3)


def _start_and_stop(command: list[str], page: str) -> tuple[float, float]:
    """Seconds from starting the command to its page being served, and the median of further requests."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(page)
        first = time.perf_counter() - started
        return first, median(_get(page) for _ in range(REQUESTS))
    finally:
        process.terminate()
        process.wait()


def _report(what: str, pairs: list[list[float]], unit: str, scale: float) -> None:
    ours, bare = (scale * median(column) for column in zip(*pairs))
    print(f"{what}: ours {ours:.1f} {unit}, bare Gradio {bare:.1f} {unit}, ratio {median(a / b for a, b in pairs):.2f}")


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - started


def _get(url: str) -> float:
    started = time.perf_counter()
    with urllib.request.urlopen(url) as response:
        response.read()
    return time.perf_counter() - started


def _wait(url: str, patience_s: float = 180) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            _get(url)
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} did not answer.")


if __name__ == "__main__":
    main()
