"""By what a model is held in memory: its name, or its name and what is put into it. One with other additions is another model there."""

from dataclasses import dataclass

from studio.conditions import NOTHING_ADDED, Added

__all__ = ["Wanted", "added_to", "name_of"]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model with what is put into it. name: of the model; stamps: when each of the files was changed last."""

    name: str
    added: Added
    stamps: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} with {self.added}"


def name_of(wanted: str | Wanted) -> str:
    """The name of a model by which it is held in memory."""
    return wanted if isinstance(wanted, str) else wanted.name


def added_to(wanted: str | Wanted) -> Added:
    """What is put into it."""
    return NOTHING_ADDED if isinstance(wanted, str) else wanted.added
