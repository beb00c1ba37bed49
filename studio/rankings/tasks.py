"""Making tasks: pictures of one prompt that are to be ranked, each set of pictures once, whatever their order."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from studio.checks import MAX_SEED, require_int, require_text
from studio.errors import InvalidOption
from studio.rankings.ranking import MAX_PICTURES, MIN_PICTURES, ranks_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from studio.rankings.database import Rankings
    from studio.rankings.schema import Picture, Task

__all__ = ["NewGeneration", "NewTask", "add_tasks", "collections"]

MAX_OVERLAP = 1000
MAX_NAME = 200
# A prompt of SDXL's users can be long.
MAX_PROMPT = 10_000


@dataclass(frozen=True, kw_only=True)
class NewGeneration:
    """A picture that was made of the task's prompt. picture: as studio.rankings.pictures keeps it. source_id: its name where it comes from."""

    picture: "Picture"
    model: str = ""
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    source_id: str = ""

    def __post_init__(self) -> None:
        require_text("model", self.model, MAX_NAME)
        require_text("source_id", self.source_id, MAX_NAME)
        if self.seed is not None:
            require_int("seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """2 to 9 different pictures of one prompt, to be ranked by `overlap` annotators.

    Args:
        collection: the name under which tasks are looked at together.
        gold: the ranks that are right, where they are known: annotators are told how theirs compare.
    Raises InvalidOption.
    """

    prompt: str
    generations: Sequence[NewGeneration]
    collection: str = "mine"
    overlap: int = 1
    gold: Sequence[int | None] | None = None
    source_id: str = ""

    def __post_init__(self) -> None:
        require_text("prompt", self.prompt, MAX_PROMPT)
        require_text("collection", self.collection, MAX_NAME)
        require_int("overlap", self.overlap, 1, MAX_OVERLAP)
        if not MIN_PICTURES <= len(self.generations) <= MAX_PICTURES:
            raise InvalidOption(f"A task has {MIN_PICTURES} to {MAX_PICTURES} pictures, but this one has {len(self.generations)}.")
        if len({one.picture.sha256 for one in self.generations}) < len(self.generations):
            raise InvalidOption(f"The task {self.prompt[:60]!r} has the same picture twice; each picture of a task must be another one.")
        if self.gold is not None and len(ranks_of(self.gold)) != len(self.generations):
            raise InvalidOption(f"gold must have a rank for each of the {len(self.generations)} pictures, but it has {len(self.gold)}.")

    @property
    def key(self) -> str:
        """Equal for the same prompt and pictures in whatever order."""
        names = sorted(one.picture.sha256 for one in self.generations)
        return sha256(json.dumps([self.prompt, self.collection, *names]).encode()).hexdigest()


def add_tasks(rankings: "Rankings", tasks: Iterable[NewTask]) -> int:
    """Add those tasks that are not there yet, all of them or none; gives how many were new. Raises as rankings.write does."""
    wanted = list(tasks)
    return rankings.write(lambda session: sum(added(session, task, rankings.clock()) is not None for task in wanted))


def added(session: "Session", new: NewTask, now: float) -> "Task | None":
    """The row of a task, None where the same pictures are a task already."""
    from sqlalchemy import select

    from studio.rankings.schema import Prompt, Task, TaskItem

    if session.scalar(select(Task.id).where(Task.key == new.key)) is not None:
        return None
    prompt_id = the_one(session, Prompt, text=new.prompt)
    task = Task(
        key=new.key, prompt_id=prompt_id, collection=new.collection, overlap=new.overlap, taken=0, gold=None if new.gold is None else list(new.gold),
        source_id=new.source_id, created=now,
    )
    session.add(task)
    session.flush()
    for position, one in enumerate(new.generations):
        session.add(TaskItem(task_id=task.id, position=position, generation_id=generation(session, prompt_id, one)))
    session.flush()
    return task


def generation(session: "Session", prompt_id: int, new: NewGeneration) -> int:
    """The id of the picture's row, made where there is none."""
    from studio.rankings.schema import Generation, Picture

    if session.get(Picture, new.picture.sha256) is None:
        columns = {name: getattr(new.picture, name) for name in ("sha256", "suffix", "width", "height", "size_bytes")}
        session.add(Picture(**columns))
        session.flush()
    return the_one(
        session, Generation, prompt_id=prompt_id, picture=new.picture.sha256, model=new.model, source_id=new.source_id,
        otherwise={"seed": new.seed, "options": dict(new.options)},
    )


def the_one(session: "Session", table: Any, otherwise: Mapping[str, Any] | None = None, **names: Any) -> int:
    """The id of the row with these values; one that is not there is made, with what it holds otherwise."""
    from sqlalchemy import select

    found = session.scalar(select(table.id).filter_by(**names))
    if found is None:
        row = table(**names, **(otherwise or {}))
        session.add(row)
        session.flush()
        found = row.id
    return int(found)


def collections(rankings: "Rankings") -> dict[str, int]:
    """How many tasks each collection has, by name."""
    from sqlalchemy import func, select

    from studio.rankings.schema import Task

    wanted = select(Task.collection, func.count()).group_by(Task.collection).order_by(Task.collection)
    with rankings.reading() as session:
        return dict(session.execute(wanted).tuples().all())
