"""How soon the studio is there: `import studio`, and its page against a page with one line of text."""

import subprocess
import sys
import time
import urllib.request
from statistics import median

IMPORTS = 7
REQUESTS = 30

BARE = """
import gradio as gr
with gr.Blocks() as app:
    gr.Markdown("hello")
app.launch(server_name="127.0.0.1", server_port={port}, quiet=True)
"""


def main() -> None:
    seconds = [_timed([sys.executable, "-c", "import studio"]) - _timed([sys.executable, "-c", "pass"]) for _ in range(IMPORTS)]
    print(f"import studio: {median(seconds):.3f} s over a bare interpreter (median of {IMPORTS})")
    ours = subprocess.Popen([sys.executable, "app.py", "--port", "7941"], stdout=subprocess.DEVNULL)
    bare = subprocess.Popen([sys.executable, "-c", BARE.format(port=7942)], stdout=subprocess.DEVNULL)
    try:
        pages = ("http://127.0.0.1:7941/", "http://127.0.0.1:7942/")
        for page in pages:
            _wait(page)
        times = [[_get(page) for page in pages] for _ in range(REQUESTS)]
    finally:
        for process in (ours, bare):
            process.terminate()
            process.wait()
    ratio = median(a / b for a, b in times)
    print(f"page served: ours {1e3 * median(a for a, _ in times):.1f} ms, bare Gradio {1e3 * median(b for _, b in times):.1f} ms, ratio {ratio:.2f}")


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
            time.sleep(0.5)
    raise SystemExit(f"{url} did not answer.")


if __name__ == "__main__":
    main()
