"""Who gets which task: every slot of a task to another annotator, the order of the pictures shuffled for each.

A slot is a row that the database holds once (unique on task and slot), so two annotators can never get the same.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.checks import require_choice, require_int, require_text
from studio.errors import InvalidOption, UnknownName
from studio.rankings.ranking import FLAGS
from studio.rankings.sureness import Posterior, information, posterior_of, saved_share

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from studio.rankings.database import Rankings
    from studio.rankings.schema import Assignment, Task

__all__ = ["CHOICES", "OpenTask", "ShownPicture", "Sureness", "open_tasks", "save_draft", "Progress", "progress", "require_name", "sureness"]

# Which task comes next: in the order of their making, or that which says most of its models.
CHOICES = {"order": "In order", "least_sure": "Where it is least sure"}
# So many free tasks are weighed against each other.
CANDIDATES = 64
MAX_NAME = 80
MAX_ID = 2**62
MAX_AHEAD = 5
# Whoever leaves a task lie so long has left; its slot is given to another when no other is free.
ABANDONED_S = 3600.0
# One task in so many is one that the annotator has ranked before, at least so many submissions ago.
REPEAT_EVERY, REPEAT_AFTER = 10, 5


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """A picture as an annotator sees it. position: its place in the task, which every list of a ranking follows."""

    position: int
    sha256: str
    suffix: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class OpenTask:
    """A task that an annotator has before them. pictures: in the order of the screen; draft: what was said so far."""

    assignment: int
    prompt: str
    collection: str
    pictures: Sequence[ShownPicture]
    draft: Mapping[str, Any] | None = None
    repeat: bool = field(default=False)


def require_name(name: object) -> str:
    """An annotator's name, without what stands around it. Raises InvalidOption."""
    require_text("annotator", name, MAX_NAME)
    if not (stripped := str(name).strip()):
        raise InvalidOption("Say who ranks: write a name first.")
    return stripped


def open_tasks(rankings: "Rankings", annotator: str, count: int = 2, collection: str = "", choose: str = "order") -> list[OpenTask]:
    """The tasks that the annotator has open, the oldest first, new ones given out until there are `count`; fewer where there are no more.

    Args:
        count: 1 to 5; the second can be fetched while the first is ranked.
        collection: only tasks of this name; "" for all.
        choose: of CHOICES, which of the free tasks is given out.
    Raises InvalidOption, and as rankings.write does.
    """
    require_int("count", count, 1, MAX_AHEAD)
    require_text("collection", collection)
    require_choice("choose", choose, CHOICES)
    name = require_name(annotator)
    known = posterior_of(rankings, collection) if choose == "least_sure" else None
    return rankings.write(lambda session: opened(session, name, count, collection, rankings.clock(), known))


def opened(session: "Session", name: str, count: int, collection: str, now: float, known: Posterior | None = None) -> list[OpenTask]:
    """known: what is known of the models, where the tasks that say most of them are to be given out first."""
    from sqlalchemy import select

    from studio.rankings.schema import OPEN, Annotator, Assignment, Task
    from studio.rankings.tasks import the_one

    annotator = the_one(session, Annotator, name=name, otherwise={"created": now})
    wanted = select(Assignment).join(Task, Task.id == Assignment.task_id).where(Assignment.annotator_id == annotator, Assignment.state == OPEN)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    mine = list(session.scalars(wanted.order_by(Assignment.opened, Assignment.id).limit(count)))
    while len(mine) < count and (given := next_assignment(session, annotator, collection, now, known)) is not None:
        mine.append(given)
    return [shown(session, assignment) for assignment in mine]


def next_assignment(session: "Session", annotator: int, collection: str, now: float, known: Posterior | None = None) -> "Assignment | None":
    """A task that the annotator has not seen, or now and then one that they have; None where there are no more."""
    if (task := task_to_repeat(session, annotator, collection)) is not None:
        return assign(session, task, annotator, None, now, repeat=1)
    task = free_task(session, annotator, collection, known)
    if task is None and give_back(session, collection, now):
        task = free_task(session, annotator, collection, known)
    return None if task is None else assign(session, task, annotator, take_slot(session, task), now)


def assign(session: "Session", task: "Task", annotator: int, slot: int | None, now: float, repeat: int = 0) -> "Assignment":
    from sqlalchemy import func, select

    from studio.rankings.schema import OPEN, Assignment, TaskItem

    size = session.scalar(select(func.count()).where(TaskItem.task_id == task.id)) or 0
    order = list(range(size))
    # The same annotator sees the same order again after a reload, another one another.
    random.Random(f"{task.id}/{annotator}/{repeat}").shuffle(order)
    row = Assignment(task_id=task.id, annotator_id=annotator, slot=slot, repeat=repeat, state=OPEN, shown=order, draft=None, opened=now, closed=None)
    session.add(row)
    session.flush()
    return row


def free_task(session: "Session", annotator: int, collection: str, known: Posterior | None = None) -> "Task | None":
    """The first task with a free slot that the annotator was never given; after the last one that they were given, else from the start.

    known: take that of the next CANDIDATES which says most of its models instead.
    """
    from sqlalchemy import exists, func, select

    from studio.rankings.schema import Assignment, Task

    last = session.scalar(select(func.max(Assignment.task_id)).where(Assignment.annotator_id == annotator)) or 0
    given = exists().where(Assignment.task_id == Task.id, Assignment.annotator_id == annotator)
    wanted = select(Task).where(Task.taken < Task.overlap, ~given).order_by(Task.id).limit(1).with_for_update(skip_locked=True)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    if known is not None:
        return most_telling(session, known, list(session.scalars(wanted.limit(CANDIDATES))))
    return session.scalar(wanted.where(Task.id > last)) or session.scalar(wanted)


def most_telling(session: "Session", known: Posterior, tasks: "Sequence[Task]") -> "Task | None":
    """The task that is expected to say most of its models; the first of several alike."""
    models = models_of(session, [task.id for task in tasks])
    return max(tasks, key=lambda task: information(known, models[task.id]), default=None)


@dataclass(frozen=True, kw_only=True)
class Sureness:
    """deviation: of the difference of two models' strengths, on the average. saves: how much more the task is expected to say than one at random, 0.5 is
    half as much again; None where nothing can be said."""

    deviation: float
    saves: float | None


def sureness(rankings: "Rankings", assignment: int, collection: str = "") -> Sureness:
    """How sure the ranking of the models is, and what an open task saves. Raises as rankings.reading does."""
    from sqlalchemy import select

    from studio.rankings.schema import Assignment, Task

    known = posterior_of(rankings, collection)
    with rankings.reading() as session:
        task = session.scalar(select(Assignment.task_id).where(Assignment.id == assignment))
        wanted = select(Task.id).where(Task.taken < Task.overlap).order_by(Task.id).limit(CANDIDATES)
        others = session.scalars(wanted.where(Task.collection == collection) if collection else wanted).all()
        models = models_of(session, [*others, *([] if task is None else [task])])
    saves = None if task is None else saved_share(known, models[task], [models[other] for other in others])
    return Sureness(deviation=known.uncertainty**0.5, saves=saves)


def models_of(session: "Session", tasks: Sequence[int]) -> dict[int, list[str]]:
    """The models of the pictures of each task."""
    from sqlalchemy import select

    from studio.rankings.schema import Generation, TaskItem

    found: dict[int, list[str]] = {task: [] for task in tasks}
    wanted = select(TaskItem.task_id, Generation.model).join(Generation, Generation.id == TaskItem.generation_id).where(TaskItem.task_id.in_(tasks))
    for task, model in session.execute(wanted.order_by(TaskItem.task_id, TaskItem.position)):
        found[task].append(model)
    return found


def take_slot(session: "Session", task: "Task") -> int:
    """The lowest free slot, which is taken from now on."""
    from sqlalchemy import select

    from studio.rankings.schema import Assignment

    held = set(session.scalars(select(Assignment.slot).where(Assignment.task_id == task.id, Assignment.slot.is_not(None))))
    task.taken = len(held) + 1
    return next(slot for slot in range(task.overlap) if slot not in held)


def give_back(session: "Session", collection: str, now: float) -> int:
    """Free the slots of tasks that were left lying for an hour; their drafts stay. Gives how many."""
    from sqlalchemy import select

    from studio.rankings.schema import OPEN, Assignment, Task

    wanted = select(Assignment, Task).join(Task, Task.id == Assignment.task_id)
    wanted = wanted.where(Assignment.state == OPEN, Assignment.slot.is_not(None), Assignment.opened < now - ABANDONED_S)
    left = session.execute(wanted.where(Task.collection == collection) if collection else wanted).all()
    for assignment, task in left:
        assignment.slot = None
        task.taken -= 1
    session.flush()
    return len(left)


def task_to_repeat(session: "Session", annotator: int, collection: str) -> "Task | None":
    """Now and then a task that the annotator ranked a while ago: how well they agree with themselves is told from it."""
    from sqlalchemy import exists, func, select
    from sqlalchemy.orm import aliased

    from studio.rankings.schema import SUBMITTED, Assignment, Task

    mine = select(func.count()).where(Assignment.annotator_id == annotator)
    firsts = session.scalar(mine.where(Assignment.repeat == 0)) or 0
    repeats = session.scalar(mine.where(Assignment.repeat == 1)) or 0
    if repeats >= firsts // REPEAT_EVERY:
        return None
    other = aliased(Assignment)
    again = exists().where(other.task_id == Assignment.task_id, other.annotator_id == annotator, other.repeat == 1)
    wanted = select(Task).join(Assignment, Assignment.task_id == Task.id)
    wanted = wanted.where(Assignment.annotator_id == annotator, Assignment.repeat == 0, Assignment.state == SUBMITTED, ~again)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    # The last few are still in mind.
    return session.scalar(wanted.order_by(Assignment.closed.desc()).offset(REPEAT_AFTER).limit(1))


def shown(session: "Session", assignment: "Assignment") -> OpenTask:
    """The task as its annotator sees it."""
    from sqlalchemy import select

    from studio.rankings.schema import Generation, Picture, Prompt, Task, TaskItem

    prompt, collection = session.execute(
        select(Prompt.text, Task.collection).join(Task, Task.prompt_id == Prompt.id).where(Task.id == assignment.task_id),
    ).one()
    rows = session.execute(
        select(TaskItem.position, Picture.sha256, Picture.suffix, Picture.width, Picture.height)
        .join(Generation, Generation.id == TaskItem.generation_id).join(Picture, Picture.sha256 == Generation.picture)
        .where(TaskItem.task_id == assignment.task_id),
    ).all()
    pictures = {row.position: ShownPicture(**row._mapping) for row in rows}
    return OpenTask(
        assignment=assignment.id, prompt=prompt, collection=collection, pictures=tuple(pictures[position] for position in assignment.shown),
        draft=assignment.draft, repeat=assignment.repeat > 0,
    )


def own_assignment(session: "Session", name: str, assignment: object, *, open_only: bool = False) -> "Assignment":
    """The annotator's own task of this number. Raises InvalidOption, UnknownName: that of another is as unknown as one that is not there."""
    from sqlalchemy import select

    from studio.rankings.schema import OPEN, Annotator, Assignment

    require_int("assignment", assignment, 0, MAX_ID)
    wanted = select(Assignment).join(Annotator, Annotator.id == Assignment.annotator_id).where(Assignment.id == assignment, Annotator.name == name)
    mine = session.scalar(wanted.with_for_update(of=Assignment))
    if mine is None:
        raise UnknownName(f"{name!r} was given no task {assignment}; fetch the next one first.")
    if open_only and mine.state != OPEN:
        raise InvalidOption(f"This task was {mine.state} already; take that back first.")
    return mine


def save_draft(rankings: "Rankings", annotator: str, assignment: int, draft: Mapping[str, Any]) -> None:
    """Keep what was said so far of an open task, so that it survives a reload. Raises InvalidOption, and as rankings.write does."""
    name, kept = require_name(annotator), checked_draft(draft)

    def change(session: "Session") -> None:
        own_assignment(session, name, assignment, open_only=True).draft = kept

    rankings.write(change)


def checked_draft(draft: Mapping[str, Any]) -> dict[str, Any]:
    """What of a draft a page may keep: lists of the sizes that a ranking has. Raises InvalidOption."""
    from studio.rankings.ranking import MAX_PICTURES

    known = ("ranks", "ratings", "flags")
    if not isinstance(draft, Mapping) or not all(isinstance(draft.get(name, []), list) and len(draft.get(name, [])) <= MAX_PICTURES for name in known):
        raise InvalidOption(f"A draft must be an object with the lists {', '.join(known)}, one entry a picture.")
    ranks = [rank if isinstance(rank, int) and 1 <= rank <= MAX_PICTURES else None for rank in draft.get("ranks", [])]
    flags = [[flag for flag in of if flag in FLAGS] if isinstance(of, list) else [] for of in draft.get("flags", [])]
    ratings = [{str(key)[:20]: value for key, value in of.items() if isinstance(value, int)} if isinstance(of, dict) else {} for of in draft.get("ratings", [])]
    return {"ranks": ranks, "ratings": [dict(list(of.items())[:3]) for of in ratings], "flags": flags}


# --- how far it is -------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Progress:
    """submitted: by this annotator; left: tasks that can still be given to them; total: rankings wanted in all; done: of them there are."""

    submitted: int
    left: int
    total: int
    done: int
    seconds_each: float | None


def progress(rankings: "Rankings", annotator: str, collection: str = "") -> Progress:
    """How far the annotator, and all together, are. seconds_each: the median of their last 50 rankings. Raises as rankings.reading does."""
    from sqlalchemy import func, select

    from studio.rankings.schema import SUBMITTED, Annotator, Assignment, RankingRow, Task

    name = require_name(annotator)
    of = (lambda query: query.where(Task.collection == collection)) if collection else (lambda query: query)
    with rankings.reading() as session:
        who = session.scalar(select(Annotator.id).where(Annotator.name == name)) or 0
        mine = of(select(func.count()).select_from(Assignment).join(Task, Task.id == Assignment.task_id).where(Assignment.annotator_id == who))
        submitted = session.scalar(mine.where(Assignment.state == SUBMITTED)) or 0
        given = session.scalar(mine.where(Assignment.repeat == 0, Assignment.state != "open")) or 0
        tasks, total, taken = session.execute(of(select(func.count(), func.coalesce(func.sum(Task.overlap), 0), func.coalesce(func.sum(Task.taken), 0)))).one()
        free = session.scalar(of(select(func.count()).select_from(Task).where(Task.taken >= Task.overlap))) or 0
        times = session.scalars(
            select(RankingRow.seconds).join(Assignment, Assignment.id == RankingRow.assignment_id)
            .where(Assignment.annotator_id == who, RankingRow.seconds > 0).order_by(RankingRow.submitted.desc()).limit(50),
        ).all()
    each = sorted(times)[len(times) // 2] if times else None
    return Progress(submitted=submitted, left=max(0, min(tasks - given, tasks - free)), total=int(total), done=int(taken), seconds_each=each)
