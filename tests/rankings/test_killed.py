"""What was acknowledged is there once, whenever the process that acknowledged it was killed."""

import subprocess
import sys
from pathlib import Path

from sqlalchemy import func, select

from studio.rankings.schema import Annotator, Assignment, History, RankingRow

ROOT = Path(__file__).parents[2]
KILLS = 2

ANNOTATOR = """
import sys
from studio.rankings import Ranking, open_rankings, open_tasks, submit
folder, url, name = sys.argv[1:]
rankings = open_rankings(folder, url)
print("ready", flush=True)
while tasks := open_tasks(rankings, name, 1):
    submit(rankings, name, tasks[0].assignment, Ranking(ranks=[1, 2, 3, 4]), f"{name}-{tasks[0].assignment}")
    print(tasks[0].assignment, flush=True)
"""


def started(folder, url, name):
    return subprocess.Popen([sys.executable, "-c", ANNOTATOR, str(folder), url, name], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def heard(process, number):
    """So many lines of the process; fewer where it has ended."""
    return [line.strip() for line in (process.stdout.readline() for _ in range(number)) if line.strip()]


def test_what_was_acknowledged_is_there_once_however_often_the_process_is_killed(with_tasks, url):
    rankings = with_tasks(400, size=4, overlap=2, alike=True)
    acknowledged = set()
    for kill in range(KILLS):
        pair = [started(rankings.folder, url, name) for name in ("Ada", "Bob")]
        for process in pair:
            assert heard(process, 1) == ["ready"]
        for process in pair:
            acknowledged |= set(heard(process, 3 + 4 * kill))
        for process in pair:
            process.kill()
            # What it said before it was killed counts as well; its last line may be cut short.
            acknowledged |= {line for line in process.stdout.read().split("\n")[:-1] if line}
            process.wait()
    with rankings.reading() as session:
        kept = [str(one) for one in session.scalars(select(RankingRow.assignment_id))]
        assert len(acknowledged) >= 2 * KILLS * 3 and acknowledged <= set(kept) and len(set(kept)) == len(kept)
        # Killed between the disk and the answer: at most one for each process.
        assert len(kept) - len(acknowledged) <= 2 * KILLS
        assert session.scalar(select(func.count()).select_from(History)) == len(kept)
        # A task that comes again takes no slot.
        slots = session.execute(select(Assignment.task_id, Assignment.slot).where(Assignment.slot.is_not(None))).all()
        assert len(slots) == len(set(slots)) and session.scalar(select(func.count()).select_from(Annotator)) == 2
