"""Pictures that annotators flagged: broken, harmful, with wrong text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from studio.checks import require_choice, require_int, require_text
from studio.rankings.ranking import FLAGS

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["Flagged", "flagged"]

MOST = 500


@dataclass(frozen=True, kw_only=True)
class Flagged:
    """A picture of a prompt, what was said of it, and by whom."""

    prompt: str
    sha256: str
    suffix: str
    flags: Sequence[str]
    annotators: Sequence[str]


def flagged(rankings: "Rankings", flag: str = "", collection: str = "", limit: int = 60) -> list[Flagged]:
    """The flagged pictures, the last ranked first.

    Args:
        flag: only those with this one of FLAGS; "" for any.
        collection: only of tasks of this name; "" for all.
    Raises InvalidOption, and as rankings.reading does.
    """
    from sqlalchemy import Text, cast, select

    from studio.rankings.schema import Annotator, Assignment, RankingRow, Task

    require_choice("flag", flag, ("", *FLAGS))
    require_text("collection", collection)
    require_int("limit", limit, 1, MOST)
    wanted = select(Task.id, Annotator.name, RankingRow.flags).join(Assignment, Assignment.id == RankingRow.assignment_id)
    wanted = wanted.join(Annotator, Annotator.id == Assignment.annotator_id).join(Task, Task.id == Assignment.task_id)
    # A flag stands in quotes in the list's JSON.
    wanted = wanted.where(cast(RankingRow.flags, Text).contains(f'"{flag}"' if flag else '"')).order_by(RankingRow.submitted.desc()).limit(limit)
    if collection:
        wanted = wanted.where(Task.collection == collection)
    found: dict[tuple[int, int], tuple[set[str], list[str]]] = {}
    with rankings.reading() as session:
        for task, name, flags in session.execute(wanted):
            for position, own in enumerate(flags):
                if own and (not flag or flag in own):
                    said, names = found.setdefault((task, position), (set(), []))
                    said.update(own)
                    names.append(name)
    pictures = pictures_of(rankings, sorted({task for task, _ in found}))
    return [
        Flagged(**pictures[place], flags=[one for one in FLAGS if one in said], annotators=sorted(set(names)))
        for place, (said, names) in list(found.items())[:limit]
    ]


def pictures_of(rankings: "Rankings", tasks: Sequence[int]) -> dict[tuple[int, int], dict[str, str]]:
    """{(task, position): prompt, sha256, suffix}."""
    from sqlalchemy import select

    from studio.rankings.schema import Generation, Picture, Prompt, Task, TaskItem

    wanted = select(TaskItem.task_id, TaskItem.position, Prompt.text, Picture.sha256, Picture.suffix).join(Task, Task.id == TaskItem.task_id)
    wanted = wanted.join(Prompt, Prompt.id == Task.prompt_id).join(Generation, Generation.id == TaskItem.generation_id)
    wanted = wanted.join(Picture, Picture.sha256 == Generation.picture).where(TaskItem.task_id.in_(tasks))
    with rankings.reading() as session:
        return {(task, position): {"prompt": prompt, "sha256": name, "suffix": suffix} for task, position, prompt, name, suffix in session.execute(wanted)}
