"""A trainer's options from the command line, or from a TOML file named by --config; the command line has the last word."""

import argparse
import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import InvalidOption, UnknownName

__all__ = ["config_folder", "parse_options", "read_toml"]

Options = TypeVar("Options")


def parse_options(
    kind: type[Options], argv: list[str] | None = None, *, prog: str, description: str, presets: Mapping[str, Mapping[str, Any]] | None = None,
) -> Options:
    """The options on the command line, over those of --config, over those of --preset, as an instance of the dataclass `kind`.

    presets: options by the name of a preset; without them there is no --preset.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", metavar="FILE.toml", help="options from a TOML file; what is given on the command line wins")
    if presets:
        parser.add_argument("--preset", choices=list(presets), help="a set of options for a purpose; --config and the command line win")
    types_of = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        _add(parser, field, types_of[field.name])
    given = parser.parse_known_args(argv)[0]
    if presets and given.preset:
        parser.set_defaults(**presets[given.preset])
    if given.config:
        parser.set_defaults(**read_toml(kind, Path(given.config)))
    values = vars(parser.parse_args(argv))
    values.pop("config")
    values.pop("preset", None)
    return kind(**values)


def config_folder(argv: list[str] | None = None) -> Path | None:
    """The folder of the file named by --config, None without one."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    config = parser.parse_known_args(argv)[0].config
    return None if config is None else config.parent


def read_toml(kind: type, path: Path) -> dict[str, Any]:
    """The options in a TOML file. Raises InvalidOption or UnknownName with what is wrong."""
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidOption(f"The options file {str(path)!r} cannot be read; check its path.") from error
    except tomllib.TOMLDecodeError as error:
        raise InvalidOption(f"The options file {str(path)!r} is not TOML: {error}.") from error
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise UnknownName.of(f"option in {path.name}", key, known)
    return values


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field, hint: Any) -> None:
    flag = "--" + field.name.replace("_", "-")
    if isinstance(hint, types.UnionType):  # "int | None": None is only ever the default
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=field.metadata["help"])
    else:
        parser.add_argument(flag, type=hint, default=field.default, choices=field.metadata["choices"], help=field.metadata["help"])
