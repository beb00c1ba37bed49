"""Command-line options from a dataclass: the field is the option, its metadata says what it means and where from.

Options come from the command line, or from a TOML file named by --config; the command line has the last word.
"""

import argparse
import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from studio.errors import InvalidOption, UnknownName

__all__ = ["LoopOptions", "option", "parse_options", "parse_widths", "read_toml"]

Options = TypeVar("Options")
LR_PLANS = ("cosine", "trapezoid", "constant")


def option(default: Any, help: str, choices: typing.Iterable[str] | None = None) -> Any:
    """A dataclass field with its one-sentence help."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices and list(choices)})


@dataclass(frozen=True, kw_only=True)
class LoopOptions:
    """The knobs that every trainer has."""

    output: str = option("runs/run", "the run folder; an unfinished run in it is resumed")
    steps: int = option(4000, "optimiser steps in all")
    batch_size: int = option(64, "examples a batch, over all devices")
    accumulation: int = option(1, "batches whose gradients are summed up before each optimiser step")
    lr: float = option(1e-3, "peak learning rate of AdamW, between 0 and 1")
    lr_plan: str = option("cosine", "after the warm-up: cosine to 5 %%, trapezoid (flat, then down over the last fifth), or constant", LR_PLANS)
    warmup: int = option(100, "steps over which the learning rate rises")
    weight_decay: float = option(0.01, "AdamW's weight decay")
    grad_clip: float = option(1.0, "largest gradient norm")
    ema_decay: float = option(0.999, "decay of the averaged weights, which are the ones kept, 0 to 1")
    mixed_precision: str = option("no", "bf16 or fp16 on a GPU that has it", ("no", "bf16", "fp16"))
    seed: int = option(0, "of weights, order, timesteps and noise")
    sample_every: int = option(500, "steps between sample grids, 0 = none")
    checkpoint_every: int = option(500, "steps between checkpoints")
    keep_checkpoints: int = option(2, "newest checkpoints kept; the one with the lowest loss is kept besides")
    tensorboard: bool = option(True, "write TensorBoard logs to <output>/tensorboard")

    def __post_init__(self) -> None:
        self.require_at_least(1, "steps", "batch_size", "accumulation", "checkpoint_every", "keep_checkpoints")
        self.require_at_least(0, "warmup", "sample_every", "weight_decay")
        self.require_share("ema_decay")
        if not 0 < self.lr < 1:
            raise InvalidOption(f"lr must lie between 0 and 1, but it is {self.lr}.")
        if self.grad_clip <= 0:
            raise InvalidOption(f"grad_clip must be above 0, but it is {self.grad_clip}.")

    def require_at_least(self, least: float, *names: str) -> None:
        """Refuse values below `least`, in a sentence."""
        for name in names:
            if not getattr(self, name) >= least:
                raise InvalidOption(f"{name} must be at least {least}, but it is {getattr(self, name)}.")

    def require_share(self, *names: str) -> None:
        """Refuse values outside 0..1, in a sentence."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOption(f"{name} must lie in 0..1, but it is {getattr(self, name)}.")


def parse_widths(text: str, multiple: int) -> tuple[int, ...]:
    """Channels a level from "32,64,96". Raises InvalidOption for what is no number, or no multiple of `multiple`."""
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        raise InvalidOption(f"widths is written like '32,64,96', but it is {text!r}.") from None
    if any(width < multiple or width % multiple for width in widths):
        raise InvalidOption(f"widths must be multiples of {multiple}, but they are {text!r}.")
    return widths


def parse_options(kind: type[Options], argv: list[str] | None = None, *, prog: str, description: str) -> Options:
    """The options on the command line, over those of --config, as an instance of the dataclass `kind`."""
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", metavar="FILE.toml", help="options from a TOML file; what is given on the command line wins")
    types_of = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        _add(parser, field, types_of[field.name])
    config = parser.parse_known_args(argv)[0].config
    if config:
        parser.set_defaults(**read_toml(kind, Path(config)))
    values = vars(parser.parse_args(argv))
    values.pop("config")
    return kind(**values)


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
