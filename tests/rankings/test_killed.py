"""What was acknowledged is there once, whenever the process that acknowledged it was killed."""

import os

from sqlalchemy import func, select

from studio.rankings import Ranking, open_rankings, open_tasks, submit
from studio.rankings.schema import Annotator, Assignment, History, RankingRow
from tests.copies import copies

KILLS = 2


def annotate(folder, url, name, pipe):
    """The program of an annotator: ranks everything, and says what was acknowledged."""
    with os.fdopen(os.dup(pipe.fileno()), "w") as out:
        rankings = open_rankings(folder, url)
        print("ready", file=out, flush=True)
        while tasks := open_tasks(rankings, name, 1):
            submit(rankings, name, tasks[0].assignment, Ranking(ranks=[1, 2]), f"{name}-{tasks[0].assignment}")
            print(tasks[0].assignment, file=out, flush=True)


def started(folder, url, name):
    """(the process, what it says)."""
    context = copies()
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=annotate, args=(folder, url, name, said))
    process.start()
    said.close()
    return process, os.fdopen(os.dup(heard.fileno()))


def lines_of(said, number):
    """So many lines of the process; fewer where it has ended."""
    return [line.strip() for line in (said.readline() for _ in range(number)) if line.strip()]


def test_what_was_acknowledged_is_there_once_however_often_the_process_is_killed(with_tasks, url):
    rankings = with_tasks(400, size=2, overlap=2, alike=True)
    acknowledged = set()
    for kill in range(KILLS):
        pair = [started(rankings.folder, url, name) for name in ("Ada", "Bob")]
        for _, said in pair:
            assert lines_of(said, 1) == ["ready"]
        for _, said in pair:
            acknowledged |= set(lines_of(said, 3 + 4 * kill))
        for process, said in pair:
            process.kill()
            # What it said before it was killed counts as well; its last line may be cut short.
            acknowledged |= {line for line in said.read().split("\n")[:-1] if line}
            process.join()
    with rankings.reading() as session:
        kept = [str(one) for one in session.scalars(select(RankingRow.assignment_id))]
        assert len(acknowledged) >= 2 * KILLS * 3 and acknowledged <= set(kept) and len(set(kept)) == len(kept)
        # Killed between the disk and the answer: at most one for each process.
        assert len(kept) - len(acknowledged) <= 2 * KILLS
        assert session.scalar(select(func.count()).select_from(History)) == len(kept)
        # A task that comes again takes no slot.
        slots = session.execute(select(Assignment.task_id, Assignment.slot).where(Assignment.slot.is_not(None))).all()
        assert len(slots) == len(set(slots)) and session.scalar(select(func.count()).select_from(Annotator)) == 2
