"""What groups of options share: each option says what a form needs to know of it, and a group checks its ranges."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from studio.checks import require_float, require_int

__all__ = ["Group", "OptionInfo", "option", "picture_option"]


@dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """What a form needs to know of an option: its label, what happens when it goes up, its range and its step.

    kind: how it is written where its type does not say it: "pair" (two whole numbers), "numbers" (whole numbers), "many" (of
    `choices`, which are (label, value)), "model" (a name of the menu of models), "picture"; "" = as its type says.
    """

    label: str
    info: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    kind: str = ""
    choices: tuple[tuple[str, str], ...] = ()


def option(
    default: Any, label: str, info: str = "", low: float | None = None, high: float | None = None, step: float | None = None, **more: Any,
) -> Any:
    """A field of a group with its OptionInfo."""
    return dataclasses.field(default=default, metadata={"option": OptionInfo(label=label, info=info, low=low, high=high, step=step, **more)})


def picture_option(label: str, info: str = "") -> Any:
    """A field of a group that is a picture, none at first."""
    return option(None, label, info, kind="picture")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Options that are checked together: whole numbers and numbers by their range, and `_check` for the rest."""

    def _check(self) -> None:
        """Refuse what the ranges do not. Raises InvalidOption, UnknownName."""

    def _check_ranges(self, group: type) -> None:
        for field in dataclasses.fields(group):
            info, value = field.metadata["option"], getattr(self, field.name)
            # None stands for the model's own wherever it is the default; what is written in its own way is checked in its own way.
            if info.low is None or info.kind or value is None and field.default is None:
                continue
            # A range of whole numbers is of whole numbers.
            require = require_int if isinstance(info.low, int) else require_float
            require(field.name, value, info.low, info.high)
