"""What annotators do with their tasks: submit, correct, skip, take back. Each is kept in the history, and nothing is ever changed there.

What was acknowledged is on the disk. What is sent twice under one request name (a page that did not hear the answer) counts once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.checks import require_text
from studio.errors import InvalidOption
from studio.rankings.assigning import OpenTask, own_assignment, require_name, shown, take_slot
from studio.rankings.ranking import Ranking

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from studio.rankings.database import Rankings
    from studio.rankings.schema import Assignment

__all__ = ["Submitted", "submit", "skip", "undo"]

MAX_REASON = 500
MAX_REQUEST = 100


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """An acknowledged ranking. revision: 1 the first time; gold: whether every pair is as it is known to be, None where it is not known."""

    assignment: int
    revision: int
    gold: bool | None = None


def submit(rankings: "Rankings", annotator: str, assignment: int, ranking: Ranking, request: str = "") -> Submitted:
    """Submit the ranking of a task, or correct one that was submitted.

    Args:
        assignment: of the open task, as open_tasks gives it.
        request: a name that the sender makes up for this submission; the same name again changes nothing.
    Raises InvalidOption, UnknownName, and as rankings.write does.
    """
    name = require_name(annotator)
    require_text("request", request, MAX_REQUEST)
    return rankings.write(lambda session: submitted(session, name, assignment, ranking, request, rankings.clock()))


def submitted(session: "Session", name: str, assignment: int, ranking: Ranking, request: str, now: float) -> Submitted:
    from studio.rankings.schema import SKIPPED, SUBMITTED, RankingRow, Task

    mine = own_assignment(session, name, assignment)
    row = session.get(RankingRow, mine.id)
    task = session.get_one(Task, mine.task_id)
    if heard(session, request):
        return Submitted(assignment=mine.id, revision=row.revision if row else 0, gold=agrees(ranking.ranks, task.gold))
    if len(ranking.ranks) != len(mine.shown):
        raise InvalidOption(f"This task has {len(mine.shown)} pictures, but {len(ranking.ranks)} ranks came; send a rank, or none, for each.")
    if mine.state == SKIPPED:
        raise InvalidOption("This task was skipped; take the skip back first.")
    content = ranking.content()
    if row is None:
        row = RankingRow(assignment_id=mine.id, revision=last_revision(session, mine.id), **content, submitted=now)
        session.add(row)
    for column, value in content.items():
        setattr(row, column, value)
    row.revision += 1
    mine.state, mine.draft, mine.closed = SUBMITTED, None, mine.closed or now
    note(session, mine, "submit" if row.revision == 1 else "correct", content, request, now)
    return Submitted(assignment=mine.id, revision=row.revision, gold=agrees(ranking.ranks, task.gold))


def skip(rankings: "Rankings", annotator: str, assignment: int, reason: str = "", request: str = "") -> None:
    """Leave a task to another annotator, saying why. Raises InvalidOption, UnknownName, and as rankings.write does."""
    name = require_name(annotator)
    require_text("reason", reason, MAX_REASON)
    require_text("request", request, MAX_REQUEST)

    def change(session: "Session") -> None:
        from studio.rankings.schema import SKIPPED, Task

        if heard(session, request):
            return
        mine, now = own_assignment(session, name, assignment, open_only=True), rankings.clock()
        if mine.slot is not None:
            session.get_one(Task, mine.task_id, with_for_update=True).taken -= 1
        mine.slot, mine.state, mine.closed = None, SKIPPED, now
        note(session, mine, "skip", {"reason": reason}, request, now)

    rankings.write(change)


def undo(rankings: "Rankings", annotator: str, collection: str = "") -> OpenTask | None:
    """Open again what the annotator submitted or skipped last, as it was submitted; None where there is nothing.

    Raises InvalidOption, and as rankings.write does.
    """
    name = require_name(annotator)
    return rankings.write(lambda session: undone(session, name, collection, rankings.clock()))


def undone(session: "Session", name: str, collection: str, now: float) -> OpenTask | None:
    from sqlalchemy import select

    from studio.rankings.schema import OPEN, SKIPPED, Annotator, Assignment, RankingRow, Task

    wanted = select(Assignment).join(Annotator, Annotator.id == Assignment.annotator_id).join(Task, Task.id == Assignment.task_id)
    wanted = wanted.where(Annotator.name == name, Assignment.state != OPEN)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    mine = session.scalar(wanted.order_by(Assignment.closed.desc(), Assignment.id.desc()).limit(1))
    if mine is None:
        return None
    if mine.state == SKIPPED:
        take_slot_again(session, mine)
    if (row := session.get(RankingRow, mine.id)) is not None:
        mine.draft = {"ranks": row.ranks, "ratings": row.ratings, "flags": row.flags}
        session.delete(row)
    # The oldest open task is the one on the screen.
    first = session.scalar(select(Assignment.opened).where(Assignment.annotator_id == mine.annotator_id, Assignment.state == OPEN).order_by(Assignment.opened))
    mine.state, mine.closed, mine.opened = OPEN, None, min(now, (first or now) - 1e-3)
    note(session, mine, "undo", {}, "", now)
    return shown(session, mine)


def take_slot_again(session: "Session", mine: "Assignment") -> None:
    """A task whose skip is taken back has a slot again, where one is still free; without one it counts beside the others."""
    from studio.rankings.schema import Task

    task = session.get_one(Task, mine.task_id, with_for_update=True)
    if mine.repeat == 0 and task.taken < task.overlap:
        mine.slot = take_slot(session, task)


# --- shared --------------------------------------------------------------------------------------------------

def heard(session: "Session", request: str) -> bool:
    """Whether this request was acted on already."""
    from sqlalchemy import select

    from studio.rankings.schema import History

    return bool(request) and session.scalar(select(History.id).where(History.request == request)) is not None


def last_revision(session: "Session", assignment: int) -> int:
    """How many submissions there have been, those that were taken back too."""
    from sqlalchemy import func, select

    from studio.rankings.schema import History

    return session.scalar(select(func.count()).where(History.assignment_id == assignment, History.action.in_(("submit", "correct")))) or 0


def note(session: "Session", mine: "Assignment", action: str, content: Mapping[str, Any], request: str, now: float) -> None:
    """Append to the history."""
    from studio.rankings.schema import History

    session.add(History(assignment_id=mine.id, action=action, content=dict(content), request=request or None, at=now))
    session.flush()


def agrees(ranks: Sequence[int | None], gold: Sequence[int | None] | None) -> bool | None:
    """Whether the ranks have every pair as gold has it; None where nothing is known, a picture left out is no contradiction."""
    if gold is None:
        return None
    both = [(mine, right) for mine, right in zip(ranks, gold) if mine is not None and right is not None]
    return all((a - b) * (c - d) > 0 or c == d for i, (a, c) in enumerate(both) for b, d in both[:i])
