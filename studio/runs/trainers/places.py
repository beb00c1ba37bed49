"""Where the options of a training may lead when they come from the page or from a program that calls.

To the folder of runs, and to folders that the owner of the studio named when starting it; for what is only read, to the
studio's own assets too. From a terminal an option leads wherever its writer wants.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studio.checks import quoted
from studio.errors import InvalidOption
from studio.files import lies_within
from studio.models.catalogue import ASSETS
from studio.runs.trainers.registry import trainer_info

__all__ = ["kept_within"]


def kept_within(trainer: str, options: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, Any]:
    """The options, with every path in full.

    Args:
        folders: where paths may lead; the first is the folder of runs.
    Raises:
        UnknownName: no such trainer. InvalidOption: a path leads elsewhere.
    """
    kept = dict(options)
    for field in dataclasses.fields(trainer_info(trainer).options):
        use, value = field.metadata["path"], options.get(field.name)
        # What stands there unasked is the studio's own choice.
        if not use or not isinstance(value, str) or value in ("", field.default) or use == "name" and not leads(value):
            continue
        # Nobody calls a folder ~: what begins so means a home.
        if value.startswith("~") or not lies_within(value, folders if use == "write" else [*folders, ASSETS]):
            raise InvalidOption(
                f"{field.name} must lie in the folder of runs, {folders[0]}, or in a folder that the studio was started with (--folder), "
                f"but it is {quoted(value)}; a run that is started in a terminal may name any."
            )
        # The trainer's process looks from a folder of its own.
        kept[field.name] = str(Path(value).resolve())
    return kept


def leads(value: str) -> bool:
    """Whether what may be a name or a path is a path: a name has one slash at most, and what stands before it is no folder here."""
    parts = Path(value).parts
    return value.startswith(("~", ".", "/")) or "\\" in value or len(parts) > 2 or ".." in parts or os.path.lexists(parts[0])
