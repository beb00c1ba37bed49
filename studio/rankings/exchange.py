"""Tasks and rankings as records without a database: what every file format is written from and read into.

A file is read whole before anything of it is added, and all of it is added in one transaction: nothing is ever half imported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.rankings.assigning import require_name
from studio.rankings.ranking import Ranking
from studio.rankings.tasks import NewTask

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from studio.rankings.database import Rankings
    from studio.rankings.schema import Task

__all__ = ["PictureRecord", "RankingRecord", "TaskRecord", "Imported", "read_records", "add_records"]

# Tasks that are read from the database at once.
AT_ONCE = 500


@dataclass(frozen=True, kw_only=True)
class PictureRecord:
    """A picture of a task. file: its name among the files of an export, or where it lies in an import, unless its content is here already."""

    file: str
    model: str = ""
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    source_id: str = ""
    content: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class RankingRecord:
    """Who ranked it how, and when (seconds since 1970). repeat: 1 for the same annotator a second time."""

    annotator: str
    ranking: Ranking
    repeat: int = 0
    submitted: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """A task with its pictures and all that was said of it."""

    prompt: str
    pictures: Sequence[PictureRecord]
    rankings: Sequence[RankingRecord] = ()
    collection: str = ""
    overlap: int = 1
    gold: Sequence[int | None] | None = None
    source_id: str = ""


@dataclass(frozen=True)
class Imported:
    """How many tasks and rankings were new; the others were there already."""

    tasks: int
    rankings: int


# --- out of the database -------------------------------------------------------------------------------------

def read_records(rankings: "Rankings", collection: str = "") -> Iterator[TaskRecord]:
    """The tasks of a collection ("" for all) in the order of their making, a few hundred in memory at a time. Raises as rankings.reading does."""
    from sqlalchemy import select

    from studio.rankings.schema import Prompt, Task

    wanted = select(Task, Prompt.text).join(Prompt, Prompt.id == Task.prompt_id).order_by(Task.id).limit(AT_ONCE)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    last = 0
    while True:
        with rankings.reading() as session:
            rows = session.execute(wanted.where(Task.id > last)).all()
            found = records_of(session, rows)
        if not rows:
            return
        last = rows[-1][0].id
        yield from found


def records_of(session: "Session", rows: Sequence[Any]) -> list[TaskRecord]:
    """Records of tasks that lie next to one another."""
    if not rows:
        return []
    first, last = rows[0][0].id, rows[-1][0].id
    pictures, said = pictures_of(session, first, last), rankings_of(session, first, last)
    return [
        TaskRecord(
            prompt=prompt, pictures=pictures[task.id], rankings=said.get(task.id, ()), collection=task.collection, overlap=task.overlap, gold=task.gold,
            source_id=task.source_id,
        )
        for task, prompt in rows
    ]


def pictures_of(session: "Session", first: int, last: int) -> dict[int, list[PictureRecord]]:
    from sqlalchemy import select

    from studio.rankings.schema import Generation, Picture, TaskItem

    wanted = select(TaskItem.task_id, Generation, Picture.suffix).join(Generation, Generation.id == TaskItem.generation_id)
    wanted = wanted.join(Picture, Picture.sha256 == Generation.picture).where(TaskItem.task_id.between(first, last))
    found: dict[int, list[PictureRecord]] = {}
    for task, one, suffix in session.execute(wanted.order_by(TaskItem.task_id, TaskItem.position)):
        record = PictureRecord(file=f"{one.picture}.{suffix}", model=one.model, seed=one.seed, options=one.options, source_id=one.source_id)
        found.setdefault(task, []).append(record)
    return found


def rankings_of(session: "Session", first: int, last: int) -> dict[int, list[RankingRecord]]:
    from sqlalchemy import select

    from studio.rankings.schema import Annotator, Assignment, RankingRow

    wanted = select(Assignment.task_id, Assignment.repeat, Annotator.name, RankingRow).join(Assignment, Assignment.id == RankingRow.assignment_id)
    wanted = wanted.join(Annotator, Annotator.id == Assignment.annotator_id).where(Assignment.task_id.between(first, last))
    found: dict[int, list[RankingRecord]] = {}
    for task, repeat, name, row in session.execute(wanted.order_by(Assignment.task_id, RankingRow.submitted)):
        ranking = Ranking(ranks=row.ranks, ratings=row.ratings, flags=row.flags, note=row.note, seconds=row.seconds)
        found.setdefault(task, []).append(RankingRecord(annotator=name, ranking=ranking, repeat=repeat, submitted=row.submitted))
    return found


# --- into the database ---------------------------------------------------------------------------------------

def add_records(rankings: "Rankings", records: Iterable[tuple[NewTask, Sequence[RankingRecord]]]) -> Imported:
    """Add tasks with what was said of them, all or nothing; what is there already is left as it is. Raises as rankings.write does."""
    wanted = list(records)

    def change(session: "Session") -> Imported:
        tasks = said = 0
        for new, answers in wanted:
            task, is_new = task_of(session, new, rankings.clock())
            tasks += is_new
            said += sum(answered(session, task, new, answer, rankings.clock()) for answer in answers)
        return Imported(tasks, said)

    return rankings.write(change)


def task_of(session: "Session", new: NewTask, now: float) -> tuple["Task", bool]:
    """The task's row, and whether it is new."""
    from sqlalchemy import select

    from studio.rankings.schema import Task
    from studio.rankings.tasks import added

    made = added(session, new, now)
    return (made, True) if made is not None else (session.scalars(select(Task).where(Task.key == new.key)).one(), False)


def answered(session: "Session", task: "Task", new: NewTask, answer: RankingRecord, now: float) -> bool:
    """Add a ranking, unless the annotator has ranked the task already. Its own slot is made where none is free."""
    from sqlalchemy import select

    from studio.rankings.assigning import take_slot
    from studio.rankings.schema import SUBMITTED, Annotator, Assignment, RankingRow
    from studio.rankings.submitting import note
    from studio.rankings.tasks import the_one

    annotator = the_one(session, Annotator, name=require_name(answer.annotator), otherwise={"created": now})
    mine = select(Assignment.id).where(Assignment.task_id == task.id, Assignment.annotator_id == annotator, Assignment.repeat == answer.repeat)
    if session.scalar(mine) is not None:
        return False
    slot = None
    if answer.repeat == 0:
        task.overlap = max(task.overlap, task.taken + 1)
        slot = take_slot(session, task)
    at = answer.submitted or now
    row = Assignment(
        task_id=task.id, annotator_id=annotator, slot=slot, repeat=answer.repeat, state=SUBMITTED, shown=list(range(len(new.generations))), draft=None,
        opened=at, closed=at,
    )
    session.add(row)
    session.flush()
    content = in_order_of(session, task, new, answer.ranking).content()
    session.add(RankingRow(assignment_id=row.id, revision=1, submitted=at, **content))
    note(session, row, "import", content, "", now)
    return True


def in_order_of(session: "Session", task: "Task", new: NewTask, ranking: Ranking) -> Ranking:
    """The ranking in the order that the task has in the database, which may be another than that of the file."""
    from sqlalchemy import select

    from studio.rankings.schema import Generation, TaskItem

    wanted = select(Generation.picture).join(TaskItem, TaskItem.generation_id == Generation.id).where(TaskItem.task_id == task.id)
    own = [one.picture.sha256 for one in new.generations]
    order = [own.index(picture) for picture in session.scalars(wanted.order_by(TaskItem.position))]

    def placed(values: Sequence[Any]) -> list[Any]:
        return [values[place] for place in order] if values else []

    return Ranking(
        ranks=placed(ranking.ranks), ratings=placed(ranking.ratings), flags=placed(ranking.flags), note=ranking.note, seconds=ranking.seconds,
    )
