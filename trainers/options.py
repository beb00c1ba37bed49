"""Command-line options from a dataclass: the field is the option, its metadata says what it means and where from."""

import argparse
import dataclasses
import types
import typing
from typing import Any, TypeVar

__all__ = ["option", "parse_options"]

Options = TypeVar("Options")


def option(default: Any, help: str, choices: typing.Iterable[str] | None = None) -> Any:
    """A dataclass field with its one-sentence help."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices and list(choices)})


def parse_options(kind: type[Options], argv: list[str] | None = None, *, prog: str, description: str) -> Options:
    """The options on the command line as an instance of the dataclass `kind`."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    types_of = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        _add(parser, field, types_of[field.name])
    return kind(**vars(parser.parse_args(argv)))


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any) -> None:
    flag = "--" + field.name.replace("_", "-")
    if isinstance(hint, types.UnionType):  # "int | None": None is only ever the default
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=field.metadata["help"])
    else:
        parser.add_argument(flag, type=hint, default=field.default, choices=field.metadata["choices"], help=field.metadata["help"])
