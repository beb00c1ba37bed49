"""The tables of the rankings, SQLAlchemy 2; how they came to be is in migrations/.

    prompts -< generations (one picture of a prompt) -< task_items >- tasks -< assignments -- rankings
    assignments -< history      every submission, correction, skip and undo, appended and never changed

Times are seconds since 1970, UTC. Ranks, ratings and flags are lists in the order of the task's items.
"""

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["Base", "Prompt", "Picture", "Generation", "Task", "TaskItem", "Annotator", "Assignment", "RankingRow", "History", "OPEN", "SUBMITTED", "SKIPPED"]

# States of an assignment.
OPEN, SUBMITTED, SKIPPED = "open", "submitted", "skipped"
# SQLite counts rows itself only in a column of exactly this type.
Key = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """What all tables are declared on."""

    type_annotation_map = {int: Key, str: Text, list[Any]: JSON, dict[str, Any]: JSON}


class Prompt(Base):
    """A prompt, once."""

    __tablename__ = "prompts"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(unique=True)


class Picture(Base):
    """A picture by what its file holds; the file lies in the folder of pictures under this name."""

    __tablename__ = "pictures"
    sha256: Mapped[str] = mapped_column(primary_key=True)
    suffix: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    size_bytes: Mapped[int]


class Generation(Base):
    """A picture that was made of a prompt: by which model, from which seed, with which options. source_id: its name where it was imported from."""

    __tablename__ = "generations"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    picture: Mapped[str] = mapped_column(ForeignKey("pictures.sha256"), index=True)
    model: Mapped[str]
    seed: Mapped[int | None]
    options: Mapped[dict[str, Any]]
    source_id: Mapped[str]
    __table_args__ = (UniqueConstraint("prompt_id", "picture", "model", "source_id"),)


class Task(Base):
    """Pictures of one prompt that are to be ranked by `overlap` annotators.

    key: equal for the same pictures in whatever order. taken: slots that are given out. gold: the ranks that are right, where they are known.
    """

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(unique=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"), index=True)
    collection: Mapped[str] = mapped_column(index=True)
    overlap: Mapped[int]
    taken: Mapped[int]
    gold: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    source_id: Mapped[str]
    created: Mapped[float]


Index("tasks_with_slots", Task.id, sqlite_where=Task.taken < Task.overlap, postgresql_where=Task.taken < Task.overlap)


class TaskItem(Base):
    """One picture of a task."""

    __tablename__ = "task_items"
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    generation_id: Mapped[int] = mapped_column(ForeignKey("generations.id"), index=True)
    __table_args__ = (UniqueConstraint("task_id", "generation_id"),)


class Annotator(Base):
    """Who ranks."""

    __tablename__ = "annotators"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created: Mapped[float]


class Assignment(Base):
    """A task given to an annotator.

    slot: 0 to overlap - 1, which no other holds; None for a repeat, and once it was given back. repeat: 0, or 1 for the same task a second time.
    shown: the positions in the order of the screen. draft: what was said so far, not yet submitted.
    """

    __tablename__ = "assignments"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    slot: Mapped[int | None]
    repeat: Mapped[int]
    state: Mapped[str]
    shown: Mapped[list[Any]]
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    opened: Mapped[float]
    closed: Mapped[float | None]
    __table_args__ = (
        UniqueConstraint("task_id", "slot"), UniqueConstraint("task_id", "annotator_id", "repeat"),
        Index("assignments_of_annotator", "annotator_id", "state", "closed"),
    )


class RankingRow(Base):
    """What an annotator says of a task, as it stands. revision: 1 for the first submission."""

    __tablename__ = "rankings"
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), primary_key=True)
    ranks: Mapped[list[Any]]
    ratings: Mapped[list[Any]]
    flags: Mapped[list[Any]]
    note: Mapped[str]
    seconds: Mapped[float]
    revision: Mapped[int]
    submitted: Mapped[float]


class History(Base):
    """One thing that an annotator did. request: the name that the sender gave it, so that what is sent twice counts once."""

    __tablename__ = "history"
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignments.id"), index=True)
    action: Mapped[str]
    content: Mapped[dict[str, Any]]
    request: Mapped[str | None] = mapped_column(unique=True)
    at: Mapped[float]
