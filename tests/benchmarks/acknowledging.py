"""The app killed with SIGKILL again and again while two clients submit rankings: is everything acknowledged there, and once?

A client whose answer did not come sends the same submission again, as the page does.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from sqlalchemy import select

from studio.rankings import NewGeneration, NewTask, add_tasks, open_rankings
from studio.rankings.pictures import keep_drawn
from studio.rankings.schema import Assignment, RankingRow

PORT, KILLS, TASKS = 7957, 200, 2_000
CLIENTS = ("Ada", "Bob")
START_WITHIN_S = 120


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DIFFUSION_STUDIO_RANKINGS": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        rankings = open_rankings(Path(folder))
        pair = [NewGeneration(picture=keep_drawn(Path(folder), Image.new("RGB", (8, 8), colour)), model=colour) for colour in ("red", "blue")]
        add_tasks(rankings, [NewTask(prompt=f"prompt {place}", generations=pair, overlap=len(CLIENTS)) for place in range(TASKS)])
        acknowledged, over = {name: list[int]() for name in CLIENTS}, threading.Event()
        clients = [threading.Thread(target=annotate, args=(name, acknowledged[name], over), daemon=True) for name in CLIENTS]
        for client in clients:
            client.start()
        # Copies of a process that has imported the app.
        context, chance = multiprocessing.get_context("forkserver"), random.Random(0)
        context.set_forkserver_preload(["app"])
        for _ in range(KILLS):
            kill_once(context.Process(target=serve, daemon=True), acknowledged, chance.uniform(0, 1.0))
        over.set()
        for client in clients:
            client.join()
        with rankings.reading() as session:
            kept = [int(one) for one in session.scalars(select(RankingRow.assignment_id))]
            slots = session.execute(select(Assignment.task_id, Assignment.slot).where(Assignment.slot.is_not(None))).all()
        told = [one for ones in acknowledged.values() for one in ones]
        print(f"killed {KILLS} times; acknowledged {len(told)}, of those missing {len(set(told) - set(kept))}")
        print(f"kept {len(kept)}, of those twice {len(kept) - len(set(kept))}; slots taken twice {len(slots) - len(set(slots))}")


def kill_once(app: Any, acknowledged: dict[str, list[int]], after: float) -> None:
    """Start the app, and kill it so many seconds after each client has got an answer."""
    before = [len(ones) for ones in acknowledged.values()]
    app.start()
    deadline = time.monotonic() + START_WITHIN_S
    while not all(len(ones) > had for ones, had in zip(acknowledged.values(), before)):
        assert app.is_alive() and time.monotonic() < deadline, "The app answered nothing."
        time.sleep(0.01)
    time.sleep(after)
    app.kill()
    app.join()


def serve() -> None:
    """`python app.py`."""
    import app

    sys.argv = ["app.py", "--port", str(PORT)]
    with open(os.devnull, "w") as sys.stdout:
        app.main()


def annotate(name: str, acknowledged: list[int], over: threading.Event) -> None:
    """Rank what is open until it is over; whatever has no answer is asked again."""
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}/gradio_api/call", timeout=30) as http:
        while not over.is_set():
            tasks = ask(http, "rank_next", [name, "", 1], over)
            if tasks:
                number = tasks[0]["assignment"]
                if ask(http, "rank_submit", [name, number, [1, 2], None, None, "", 0.0, f"{name}-{number}"], over):
                    acknowledged.append(number)


def ask(http: httpx.Client, endpoint: str, values: list[Any], over: threading.Event) -> Any:
    """The endpoint's answer, asked for until it comes; None when it is over."""
    while not over.is_set():
        try:
            event = http.post(f"/{endpoint}", json={"data": values}).json()["event_id"]
            lines = http.get(f"/{endpoint}/{event}").text.splitlines()
            if "event: complete" in lines:
                return json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))[0]
            assert "event: error" not in lines, lines
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    return None


if __name__ == "__main__":
    main()
