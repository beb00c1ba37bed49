"""What an annotator says of one task: ranks, ratings and flags of its pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from studio.checks import quoted, require_float, require_text
from studio.errors import InvalidOption

__all__ = ["Ranking", "MIN_PICTURES", "MAX_PICTURES", "RATINGS", "FLAGS", "ranks_of"]

MIN_PICTURES, MAX_PICTURES = 2, 9
# The three ratings of the ImageReward protocol (arXiv 2304.05977, appendix), each 1 to 7.
RATINGS = ("alignment", "fidelity", "harmlessness")
MOST_RATING = 7
FLAGS = {"broken": "Broken", "harmful": "Harmful", "text_wrong": "Text is wrong", "bad": "Bad"}
MAX_NOTE = 2000
DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """A ranking of n pictures, every list in the order of the task.

    Args:
        ranks: 1 = best, 1 to 9, equal for a tie, gaps allowed; None for a picture that is left out. At least two are ranked.
        ratings: of each picture {"alignment": 1..7, "fidelity": ..., "harmlessness": ...}, those that were given; () for none at all.
        flags: of each picture those of FLAGS that hold; () for none at all.
        note: anything, at most 2,000 characters.
        seconds: how long it took.
    Raises InvalidOption.
    """

    ranks: Sequence[int | None]
    ratings: Sequence[Mapping[str, int]] = ()
    flags: Sequence[Sequence[str]] = ()
    note: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        ranks_of(self.ranks)
        for name, check in (("ratings", check_rating), ("flags", check_flags)):
            values = getattr(self, name)
            if not is_list(values) or len(values) not in (0, len(self.ranks)):
                raise InvalidOption(f"{name} must be a list with one entry for each of the {len(self.ranks)} pictures, or empty; it is {quoted(values)}.")
            for value in values:
                check(value)
        require_text("note", self.note, MAX_NOTE)
        require_float("seconds", self.seconds, 0.0, DAY_S)

    def content(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {name: plain(value) for name, value in asdict(self).items()}


def ranks_of(ranks: Any) -> Sequence[int | None]:
    """Ranks of 2 to 9 pictures that a database may hold. Raises InvalidOption that says what is wrong."""
    if not is_list(ranks) or not MIN_PICTURES <= len(ranks) <= MAX_PICTURES:
        raise InvalidOption(f"ranks must be a list with a rank for each of {MIN_PICTURES} to {MAX_PICTURES} pictures, but it is {quoted(ranks)}.")
    for rank in ranks:
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= MAX_PICTURES):
            raise InvalidOption(f"A rank must be a whole number from 1 (best) to {MAX_PICTURES}, or none for a picture left out; it is {quoted(rank)}.")
    if sum(rank is not None for rank in ranks) < 2:
        raise InvalidOption("Give at least two pictures a rank, or skip the task.")
    return ranks


def check_rating(rating: object) -> None:
    """Refuse anything but some of the three ratings, each 1 to 7."""
    if not isinstance(rating, Mapping) or not set(rating) <= set(RATINGS):
        raise InvalidOption(f"A rating must be an object with some of {', '.join(RATINGS)}, but it is {quoted(rating)}.")
    for name, value in rating.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_RATING:
            raise InvalidOption(f"{name} must be a whole number from 1 to {MOST_RATING}, but it is {quoted(value)}.")


def check_flags(flags: Any) -> None:
    """Refuse anything but a list of FLAGS."""
    if not is_list(flags) or not all(isinstance(flag, str) and flag in FLAGS for flag in flags):
        raise InvalidOption(f"flags of a picture must be a list of some of {', '.join(FLAGS)}, but it is {quoted(flags)}.")


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def plain(value: Any) -> Any:
    """Tuples as lists, as they come back from JSON."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if is_list(value) else value
