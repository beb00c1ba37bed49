"""Files of the studio's own, each read into a frozen dataclass that refuses what makes no sense.

A record may hold names that the dataclass does not know: a later version may have written it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import DamagedFile, InvalidOption
from studio.files import read_object

__all__ = ["read_record", "record_of"]

Record = TypeVar("Record")


def read_record(kind: type[Record], path: Path) -> Record | None:
    """The dataclass `kind` from a JSON file, None where there is no such file. Raises DamagedFile that says what is wrong."""
    values = read_object(path)
    return None if values is None else record_of(kind, values, path.name)


def record_of(kind: type[Record], values: Mapping[str, Any], where: str) -> Record:
    """The dataclass from an object that was read from `where`. Raises DamagedFile that says what is wrong."""
    fields: dict[str, dataclasses.Field] = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing = [name for name, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING and name not in values]
    if missing:
        raise DamagedFile(f"{where}: {missing[0]} is missing.")
    try:
        return kind(**{name: value for name, value in values.items() if name in fields})
    except InvalidOption as error:
        raise DamagedFile(f"{where}: {error}") from error
