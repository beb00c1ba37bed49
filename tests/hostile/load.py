"""Thirty clients at once, against the app as it is served: what comes back is right, quick things stay quick, memory stays.

    python -m tests.hostile.load                 everything, about three minutes; prints a table a part
    python -m tests.hostile.load --public        as strangers meet it

    rightness   every film is compared with that of the same options asked for alone, to the byte
    speed       seconds from a call to its whole answer, by handler, while all sampling clients ask again at once
    turns       a short run alone, and beside somebody's long one
    memory      resident memory over starts that are left after their first step
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.hostile.files import png, reference
from tests.hostile.served import Answer, Handler, Served

CLIENTS, QUICK_CLIENTS, SECONDS, ROUNDS, WARM_UP = 30, 6, 40.0, 100, 30
# What resident memory may grow by over the starts and cancels, as a share.
MOST_GROWTH = 0.01
# Between two quick calls of a client, as of a hand that drags.
PAUSE_S = 0.1
PROMPTS = ("a red star on a white background", "a small green boat on the left on a blue background", "an orange cat", "a large purple fish")
SCHEDULERS = ("ddim", "euler", "dpm++_2m", "heun", "ddpm")
LONG = {"model": "toybox-sd", "prompt": PROMPTS[0], "num_steps": 400, "guidance_scale": 4.0, "num_images": 4}
SHORT = {"model": "toybox-ddpm", "num_steps": 10, "num_images": 1}

Values = dict[str, Any]


class Plain(Served):
    """The app without a watcher, which would be timed as well."""

    program = ("app.py",)


# --- what is asked -------------------------------------------------------------------------------------------

def runs_of_all_kinds(seed: int, count: int) -> list[Values]:
    """Options of runs, the same for the same seed: pixels, classes, latents, guidance, attention, schedulers."""
    draw = random.Random(seed)
    return [[pixels, digits, latents][i % 3](draw, i) for i in range(count)]


def pixels(draw: random.Random, i: int) -> Values:
    return {"model": "toybox-ddpm", "num_steps": draw.randint(5, 25), "num_images": draw.randint(1, 4), "scheduler": draw.choice(SCHEDULERS), "seed": i}


def digits(draw: random.Random, i: int) -> Values:
    return {**pixels(draw, i), "model": "digits-ddpm", "class_label": str(draw.randrange(10)), "eta": draw.choice((0.0, 1.0)), "scheduler": "ddim"}


def latents(draw: random.Random, i: int) -> Values:
    return {
        **pixels(draw, i), "model": "toybox-sd", "prompt": draw.choice(PROMPTS), "guidance_scale": draw.choice((1.0, 4.0)),
        "record_attention": draw.random() < 0.5,
    }


def film_of(answer: Answer) -> str | None:
    """The whole film but its name, which is another one every time; None where it is no whole run."""
    if not answer.ok or not answer.body["data"][0]:
        return None
    film = json.loads(answer.body["data"][0])
    film.pop("run", None)
    return json.dumps(film, sort_keys=True) if film.get("complete") else None


def sampled(app: Served, values: Values) -> Answer:
    sample = app.named("sample")
    return app.queued(sample, sample.values(**values))


def quick_calls(app: Served) -> dict[str, Callable[[], Answer]]:
    """What is answered beside the queue, by its name: endpoints by both routes, and what the page asks at once."""
    noise, schedule = app.named("noise_image"), app.named("schedule")
    picture = reference(app.upload("picture.png", png(256, 256)))
    calls: dict[str, Callable[[], Answer]] = {
        "/noise_image": lambda: app.direct(noise, [picture, "cosine", 1000, 500, 1]),
        "/schedule": lambda: app.direct(schedule, ["linear", 1000, False, ""]),
        "/schedule, queued": lambda: app.queued(schedule, ["cosine", 1000, False, ""]),
    }
    if status := next((handler for handler in app.handlers() if handler.name == "run_status"), None):
        calls["/run_status"] = lambda: app.direct(status, ["nothing-of-this-name"])
    return calls


# --- under load ----------------------------------------------------------------------------------------------

class Clients:
    """Clients that ask until the time is over; what they saw, by the name of what they asked."""

    def __init__(self) -> None:
        self.took: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []
        self.refused: Counter[str] = Counter()
        self._threads: list[threading.Thread] = []

    def start(self, asks: Iterator[tuple[str, Callable[[], Answer], Callable[[Answer], str | None]]], until: Callable[[], bool], pause_s: float = 0.0) -> None:
        """One client: (name, call, what is wrong with its answer) after another."""
        def ask() -> None:
            for name, call, judge in asks:
                if until():
                    break
                since = time.monotonic()
                answer = call()
                self.took[name].append(time.monotonic() - since)
                if wrong := judge(answer):
                    (self.wrong.append(f"{name}: {wrong}") if not answer.sentence else self.refused.update([str(answer.error)]))
                time.sleep(pause_s)

        self._threads.append(threading.Thread(target=ask, daemon=True))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(300)


def asked_in_turn(app: Served, runs: list[Values], alone: dict[str, str | None], draw: random.Random) -> Iterator[Any]:
    """A sampling client: runs drawn at random, each judged by what came of it alone."""
    while True:
        values = draw.choice(runs)

        def judge(answer: Answer, values: Values = values) -> str | None:
            return None if film_of(answer) == alone[str(values)] else f"{values} gave something else than alone: {answer.text[:200]}"

        yield values["model"], lambda values=values: sampled(app, values), judge


def asked_quickly(calls: dict[str, Callable[[], Answer]], draw: random.Random) -> Iterator[Any]:
    while True:
        name = draw.choice(list(calls))
        yield name, calls[name], lambda answer, name=name: None if answer.ok or (name == "/run_status" and answer.sentence) else answer.text[:200]


def alone_of(app: Served, runs: list[Values]) -> dict[str, str | None]:
    """What comes of each when nobody else asks for anything. Raises AssertionError where it is no whole run."""
    films = {str(values): film_of(sampled(app, values)) for values in runs}
    assert all(films.values()), [values for values, film in films.items() if film is None]
    return films


def under_load(
    app: Served, *, runs: list[Values], clients: int, quick: int, seconds: float = math.inf, rounds: int | None = None, seed: int = 0,
) -> Clients:
    """`clients` at once, `quick` of them with quick calls, for so many seconds or calls of each; then what has begun ends."""
    alone, calls, crowd = alone_of(app, runs), quick_calls(app), Clients()
    ends = time.monotonic() + seconds
    for i in range(clients):
        draw = random.Random(1000 * seed + i)
        asks = asked_quickly(calls, draw) if i < quick else asked_in_turn(app, runs, alone, draw)
        crowd.start(islice(asks, rounds), lambda: time.monotonic() > ends, PAUSE_S if i < quick else 0.0)
    crowd.join()
    return crowd


# --- turns and memory ----------------------------------------------------------------------------------------

def beside_a_long_run(app: Served, short: Values = SHORT, long: Values = LONG, times: int = 5) -> tuple[float, float, bool]:
    """(seconds of a short run alone, beside a long one of another visitor, whether the long one still went on then)."""
    sample = app.named("sample")
    alone = median_s(lambda: sampled(app, short), times)
    with Left(app, sample, sample.values(**long)) as left:
        left.until_begun()
        beside = median_s(lambda: sampled(app, short), times)
        return alone, beside, left.goes_on()


def median_s(call: Callable[[], Any], times: int) -> float:
    def once() -> float:
        since = time.monotonic()
        call()
        return time.monotonic() - since

    return statistics.median(once() for _ in range(times))


class Left:
    """A run that is left when the block is: its client hangs up."""

    def __init__(self, app: Served, handler: Handler, data: list[Any]) -> None:
        self.app, self.session = app, uuid4().hex
        body = {"data": data, "fn_index": handler.index, "session_hash": self.session}
        joined = app.post("/gradio_api/queue/join", json=body)
        assert joined.status == 200, joined.text
        self.stream = app.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session})

    def __enter__(self) -> "Left":
        self.lines = (line for line in self.stream.__enter__().iter_lines() if line.startswith("data:"))
        self.heard: list[str] = []
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.__exit__(None, None, None)

    def until_begun(self) -> None:
        """Until its first step is shown."""
        for line in self.lines:
            if "process_completed" in line:
                raise AssertionError(f"It was over before it was left: {line[:300]}")
            if is_frame(line):
                break
        self._listen()

    def _listen(self) -> None:
        """On, so that nothing is dammed up."""
        def on() -> None:
            with suppress(Exception):
                for line in self.lines:
                    if "process_completed" in line:
                        self.heard.append(line)

        threading.Thread(target=on, daemon=True).start()

    def goes_on(self) -> bool:
        return not self.heard


def started_and_left(app: Served, rounds: int, values: Values = LONG) -> None:
    """So many runs, each left after its first step."""
    sample = app.named("sample")
    for _ in range(rounds):
        with Left(app, sample, sample.values(**values)) as left:
            for line in left.lines:
                if is_frame(line):
                    break


def is_frame(line: str) -> bool:
    """Whether a message shows a step, and not how far the model or the line is."""
    return "process_generating" in line and "x0_hat" in line


def growth(app: Served, rounds: int, warm_up: int) -> tuple[float, float]:
    """MiB resident after the warm-up, and after so many rounds more."""
    def settled() -> float:
        sampled(app, SHORT)  # comes when what was left is over
        return app.memory_mib

    started_and_left(app, warm_up)
    before = settled()
    started_and_left(app, rounds)
    return before, settled()


# --- told ----------------------------------------------------------------------------------------------------

def table(crowd: Clients, seconds: float) -> str:
    rows = [f"{'':24}{'calls':>7}{'median':>9}{'p95':>9}{'most':>9}"]
    for name, took in sorted(crowd.took.items()):
        p95 = sorted(took)[min(len(took) - 1, int(0.95 * len(took)))]
        rows.append(f"{name:24}{len(took):7d}{statistics.median(took):8.2f}s{p95:8.2f}s{max(took):8.2f}s")
    total = sum(map(len, crowd.took.values()))
    drawn = sum(len(took) for name, took in crowd.took.items() if not name.startswith("/"))
    rows.append(f"{total / seconds:.1f} calls a second, {drawn / seconds:.1f} of them runs; {len(crowd.wrong)} wrong, {sum(crowd.refused.values())} refused")
    return "\n".join([*rows, *crowd.wrong[:5], *(f"{count} x {said}" for said, count in crowd.refused.most_common(3))])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load the app with many clients at once; it is started, asked on 127.0.0.1 and ended.")
    parser.add_argument("--public", action="store_true", help="as strangers meet it")
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"of all kinds (default: {CLIENTS}, {QUICK_CLIENTS} of them with quick calls)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of load (default: {SECONDS:g})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"starts and cancels (default: {ROUNDS})")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked")
    parser.add_argument("--parts", default="load,turns,memory", help="which of these (default: all)")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    parts, fine = args.parts.split(","), True
    with tempfile.TemporaryDirectory() as folder:
        app = Plain(Path(folder), *(["--public"] if args.public else []))
        try:
            if "load" in parts:
                since = time.monotonic()
                crowd = under_load(
                    app, runs=runs_of_all_kinds(args.seed, 12), clients=args.clients, quick=min(QUICK_CLIENTS, args.clients), seconds=args.seconds,
                    seed=args.seed,
                )
                print(f"{args.clients} clients for {args.seconds:g} s ({time.monotonic() - since:.0f} s with what each run gives alone)")
                print(table(crowd, args.seconds), flush=True)
                fine = fine and not crowd.wrong
            if "turns" in parts:
                alone, beside, goes_on = beside_a_long_run(app)
                print(f"A short run: {alone:.2f} s alone, {beside:.2f} s beside a long one, which {'went on' if goes_on else 'was over'}", flush=True)
            if "memory" in parts:
                before, after = growth(app, args.rounds, WARM_UP)
                print(f"{args.rounds} starts and cancels: {before:.1f} MiB before, {after:.1f} MiB after, {100 * (after / before - 1):+.2f} %", flush=True)
                fine = fine and after <= (1 + MOST_GROWTH) * before
            if "Traceback" in app.log():
                print(app.log()[-3000:], file=sys.stderr)
                fine = False
        finally:
            app.stop()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
