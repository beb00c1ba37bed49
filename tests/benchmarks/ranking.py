"""A database of 100,000 rankings, on SQLite and on PostgreSQL: the next task, a submission, the agreement page, an export and its memory."""

import random
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from PIL import Image

from studio.rankings import Ranking, Rankings, open_rankings, open_tasks, submit
from studio.rankings.agreement import agreement, read_table, strengths
from studio.rankings.formats import export_rankings
from studio.rankings.pictures import keep_drawn
from studio.rankings.schema import SUBMITTED, Annotator, Assignment, Base, Generation, History, Picture, Prompt, RankingRow, Task, TaskItem
from tests.rankings.postgres import cluster, programs

TASKS, OVERLAP, SIZE, OPEN = 33_334, 3, 4, 1000
ROUNDS = 200


def main() -> None:
    measure("SQLite", "")
    if (found := programs()) is not None:
        with cluster(found) as server:
            measure("PostgreSQL", f"{server}/postgres")


def measure(name: str, url: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rankings = open_rankings(folder, url)
        fill(rankings)
        nexts, submits = zip(*(one_task(rankings) for _ in range(ROUNDS)))
        with timed() as reading:
            table = read_table(rankings)
            agreement(table)
            strengths(table)
        before = peak_mib()
        with timed() as exporting:
            export_rankings(rankings, "studio", Path(folder) / "all.zip")
        print(
            f"{name}: {len(table.task):,} rankings; next task {1000 * median(nexts):.1f} ms, submission {1000 * median(submits):.1f} ms (median of {ROUNDS}), "
            f"agreement page {reading[0]:.1f} s, export {exporting[0]:.0f} s and {peak_mib() - before:.0f} MiB beyond the peak before"
        )
        rankings.close()


def one_task(rankings: Rankings) -> tuple[float, float]:
    """Seconds for the next task, and for its submission."""
    with timed() as finding:
        task = open_tasks(rankings, "me", 1)[0]
    with timed() as submitting:
        submit(rankings, "me", task.assignment, Ranking(ranks=[1, 2, 3, 4]))
    return finding[0], submitting[0]


def fill(rankings: Rankings) -> None:
    """Three annotators have ranked all tasks but the last thousand, which are open to a fourth."""
    picture = [keep_drawn(rankings.folder, Image.new("RGB", (64, 64), (place, 0, 0))) for place in range(SIZE)]
    rows: dict[type[Base], list[dict]] = {
        Prompt: [{"id": i + 1, "text": f"prompt {i}"} for i in range(TASKS + OPEN)],
        Picture: [{name: getattr(one, name) for name in ("sha256", "suffix", "width", "height", "size_bytes")} for one in picture],
        Generation: [
            {"id": SIZE * i + j + 1, "prompt_id": i + 1, "picture": picture[j].sha256, "model": f"m{j}", "seed": j, "options": {}, "source_id": ""}
            for i in range(TASKS + OPEN) for j in range(SIZE)
        ],
        Task: [
            {"id": i + 1, "key": str(i), "prompt_id": i + 1, "collection": "all", "overlap": OVERLAP, "taken": OVERLAP if i < TASKS else 0, "gold": None,
             "source_id": "", "created": 0.0} for i in range(TASKS + OPEN)
        ],
        TaskItem: [{"task_id": i + 1, "position": j, "generation_id": SIZE * i + j + 1} for i in range(TASKS + OPEN) for j in range(SIZE)],
        Annotator: [{"id": a + 1, "name": f"annotator {a}", "created": 0.0} for a in range(OVERLAP)], Assignment: [], RankingRow: [], History: [],
    }
    generator = random.Random(0)
    for i in range(TASKS):
        for a in range(OVERLAP):
            number, ranks = OVERLAP * i + a + 1, generator.sample(range(1, SIZE + 1), SIZE)
            rows[Assignment].append({
                "id": number, "task_id": i + 1, "annotator_id": a + 1, "slot": a, "repeat": 0, "state": SUBMITTED, "shown": [0, 1, 2, 3], "draft": None,
                "opened": float(i), "closed": float(i),
            })
            content = {"ranks": ranks, "ratings": [], "flags": [], "note": "", "seconds": 5.0}
            rows[RankingRow].append({"assignment_id": number, **content, "revision": 1, "submitted": float(i)})
            rows[History].append({"assignment_id": number, "action": "submit", "content": content, "request": None, "at": float(i)})
    rankings.write(lambda session: [session.execute(table.__table__.insert(), some) for table, some in rows.items()])
    if rankings.engine.dialect.name == "postgresql":
        from sqlalchemy import text

        # Numbers were given by hand: the counters follow.
        names = ("prompts", "generations", "tasks", "annotators", "assignments", "history")
        rankings.write(lambda session: [session.execute(text(f"SELECT setval('{one}_id_seq', (SELECT max(id) FROM {one}))")) for one in names])


@contextmanager
def timed() -> Iterator[list[float]]:
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
