"""What a reward learns from: pictures of prompts that annotators ranked, as pairs, split by prompt.

    item   a picture of a prompt          pair   two items of one task: (better, worse, who said so)

All pairs of one ranking with different ranks count, ties aside. A prompt is held out with all its pictures, so that nothing that is judged
was seen in training; which prompts those are depends on their words and the seed alone.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from studio.errors import InvalidOption
from studio.media.images import fit
from studio.media.uploads import open_picture
from studio.rankings.archive import opened_archive
from studio.rankings.exchange import TaskRecord, read_records
from studio.rankings.formats import content_of, format_of, read_all
from studio.rankings.pictures import path_of
from studio.runs.trainers.reward import DATABASE

__all__ = ["FEWEST", "Ceiling", "Pair", "Ranked", "human_ceiling", "load_ranked"]

FEWEST = 10  # rankings that a training can begin with


@dataclass(frozen=True)
class Pair:
    """Items: the better and the worse, or two that tie. task: which task they are of; annotator: who said so; repeat: 1 for the second time."""

    better: int
    worse: int
    task: int
    annotator: str
    tie: bool = False
    repeat: int = 0


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """pixels (N, 3, side, side) uint8 of each item; prompts: of each item; pairs: of those that are trained on, and of the held-out prompts."""

    pixels: Tensor
    prompts: Sequence[str]
    train: Sequence[Pair]
    held_out: Sequence[Pair]
    rankings: int

    def batch(self, items: Tensor) -> Tensor:
        """(B, 3, side, side) float32 in [-1, 1]."""
        return self.pixels[items].float() / 127.5 - 1


def load_ranked(data: str, format: str, collection: str, side: int, *, limit: int, held_out: float, seed: int) -> Ranked:
    """The rankings of a database or an export (see studio.runs.trainers.reward).

    Raises InvalidOption where there are too few, and as imports do for what cannot be read.
    """
    pixels: list[np.ndarray] = []
    prompts: list[str] = []
    pairs: list[Pair] = []
    count = 0
    for task, (record, pictures) in enumerate(records(data, format, collection)):
        if len(pixels) + len(pictures) > limit:
            break
        first = len(pixels)
        pixels += [np.asarray(fit(open_picture(content), side, side)) for content in pictures]
        prompts += [record.prompt] * len(pictures)
        pairs += pairs_of(record, first, task)
        count += len(record.rankings)
    require_enough(count, pairs)
    is_out = {prompt: is_held_out(prompt, held_out, seed) for prompt in set(prompts)}
    train = [pair for pair in pairs if not is_out[prompts[pair.better]]]
    out = [pair for pair in pairs if is_out[prompts[pair.better]]]
    if not any(not pair.tie for pair in train):
        raise InvalidOption(f"All {len(is_out)} prompts with pairs are held out, so that nothing is left to learn from; rank more, or lower held_out.")
    return Ranked(pixels=torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous(), prompts=prompts, train=train, held_out=out, rankings=count)


def require_enough(count: int, pairs: Sequence[Pair]) -> None:
    """Refuse fewer than FEWEST rankings, and rankings that say nothing. Raises InvalidOption."""
    if count < FEWEST:
        raise InvalidOption(f"There are {count} rankings, and a reward needs {FEWEST} at least; rank some more, a hundred are a beginning.")
    if all(pair.tie for pair in pairs):
        raise InvalidOption("The rankings say nothing but ties, so there is no better and no worse to learn from.")


def is_held_out(prompt: str, share: float, seed: int) -> bool:
    """Whether a prompt is judged by and never trained on."""
    digest = hashlib.sha256(f"{seed}/{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def pairs_of(record: TaskRecord, first: int, task: int) -> Iterator[Pair]:
    """Every pair of every ranking of a task whose items begin at `first`."""
    for said in record.rankings:
        ranked = [(first + place, rank) for place, rank in enumerate(said.ranking.ranks) if rank is not None]
        for (one, a), (other, b) in combinations(ranked, 2):
            better, worse = (one, other) if a <= b else (other, one)
            yield Pair(better, worse, task, said.annotator, a == b, said.repeat)


# --- read ----------------------------------------------------------------------------------------------------

def records(data: str, format: str, collection: str) -> Iterator[tuple[TaskRecord, list[bytes]]]:
    """Each task with the bytes of its pictures; one that nobody ranked is passed over."""
    found = of_database(Path(data), collection) if format == DATABASE else of_export(Path(data), format, collection)
    yield from ((record, pictures()) for record, pictures in found if record.rankings)


Read = Iterable[tuple[TaskRecord, Callable[[], list[bytes]]]]


def of_database(folder: Path, collection: str) -> Read:
    """The studio's own rankings: those of DATABASE_URL where that is set."""
    import os

    from studio.rankings import open_rankings

    rankings = open_rankings(folder, os.environ.get("DATABASE_URL", ""))
    try:
        for record in read_records(rankings, collection):
            yield record, lambda record=record: [path_of(folder, *one.file.rsplit(".", 1)).read_bytes() for one in record.pictures]
    finally:
        rankings.close()


def of_export(path: Path, format: str, collection: str) -> Read:
    """A zip file, a folder or a file of a format; a folder with nothing but a zip file in it stands for that."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    if len(inside) == 1 and inside[0].suffix == ".zip":
        path = inside[0]
    chosen = format_of(format)
    with opened_archive(path) as archive:
        for record in read_all(chosen, archive, archive.find(*chosen.suffixes)):
            if not collection or record.collection in ("", collection):
                yield record, lambda record=record: [content_of(archive, one) for one in record.pictures]


# --- how far people agree ------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What a person reaches: the share of strict pairs on which an annotator agrees with another who ranked the same two. pairs: compared."""

    accuracy: float | None
    pairs: int


def human_ceiling(pairs: Sequence[Pair]) -> Ceiling:
    """Every two annotators of every two pictures; what one says of them a second time is left out."""
    said: dict[tuple[int, int, int], dict[str, bool]] = defaultdict(dict)
    for pair in pairs:
        if not pair.tie and not pair.repeat:
            low, high = sorted((pair.better, pair.worse))
            said[pair.task, low, high][pair.annotator] = pair.better == low
    same = total = 0
    for voices in said.values():
        for a, b in combinations(voices.values(), 2):
            same, total = same + (a == b), total + 1
    return Ceiling(accuracy=same / total if total else None, pairs=total)
