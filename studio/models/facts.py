"""What the studio writes beside a model: of its own making, and of what was taught. Each file is read through one record."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.checks import quoted, require_choice, require_float, require_int, require_text, require_texts
from studio.errors import DamagedFile, InvalidOption
from studio.files import read_object
from studio.process.kinds import MEAN_TYPES, VAR_TYPES
from studio.process.schedules import SCHEDULES
from studio.records import read_record, record_of

__all__ = ["STUDIO_FACTS", "NetworkShape", "TaughtOptions", "model_facts", "network_shape", "taught_options", "weight_shapes"]

STUDIO_FACTS = "studio.json"
MOST_SIDE = 2**16


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """studio.json of a model. kind, base, prompt: of what was taught to another model; annotators, before: of a ControlNet, what makes
    its maps, and the folder of the one that its second stage went on from; the others: of a pixel model's process."""

    kind: str = ""
    base: str = ""
    prompt: str = ""
    schedule: str = ""
    num_timesteps: int = 1000
    mean_type: str = ""
    var_type: str = ""
    class_names: Sequence[str] = ()
    annotators: Sequence[str] = ()
    before: str = ""

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, ("", "lora", "pipeline", "controlnet"))
        require_text("base", self.base)
        require_text("prompt", self.prompt)
        require_choice("schedule", self.schedule, ("", *SCHEDULES))
        require_int("num_timesteps", self.num_timesteps, 1, 10_000)
        require_choice("mean_type", self.mean_type, ("", *MEAN_TYPES))
        require_choice("var_type", self.var_type, ("", *VAR_TYPES))
        require_texts("class_names", self.class_names)
        require_texts("annotators", self.annotators, 20)
        require_text("before", self.before)
        if self.kind == "lora" and not self.base:
            raise InvalidOption("base must name the model that the LoRA adds to, but it is empty.")


def model_facts(folder: Path) -> dict[str, Any]:
    """What studio.json in the folder says; empty where there is none. Raises DamagedFile."""
    values = read_object(folder / STUDIO_FACTS) or {}
    facts = record_of(ModelFacts, values, STUDIO_FACTS)
    return {name: value for name, value in vars(facts).items() if name in values or name == "num_timesteps" and facts.schedule}


@dataclass(frozen=True, kw_only=True)
class TaughtOptions:
    """What config.json of a DreamBooth run says of how its checkpoints are to be put into their base model."""

    base: str
    method: str
    rank: int = 8
    alpha: float = 8.0
    targets: str = ""

    def __post_init__(self) -> None:
        require_text("base", self.base)
        require_text("method", self.method, 100)
        require_int("rank", self.rank, 1, 2**20)
        require_float("alpha", self.alpha, 0, 1e9)
        require_text("targets", self.targets)


def taught_options(run: Path) -> TaughtOptions | None:
    """How the checkpoints of the run in the folder `run` were made; None for a run that teaches nothing. Raises DamagedFile."""
    values = read_object(run / "config.json") or {}
    return record_of(TaughtOptions, values, "config.json") if {"base", "method"} <= set(values) else None


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """What config.json of a network in diffusers' format says of the pictures or latents that it takes."""

    sample_size: int | Sequence[int] = 0
    in_channels: int = 3
    block_out_channels: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        require_int("in_channels", self.in_channels, 1, 2**16)
        for name, value, most in (("sample_size", self.sides, 2), ("block_out_channels", self.block_out_channels, 16)):
            if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= most:
                raise InvalidOption(f"{name} must be a list of 1 to {most} numbers, but it is {quoted(value)}.")
            for number in value:
                require_int(name, number, 0, MOST_SIDE)

    @property
    def sides(self) -> Sequence[int]:
        """sample_size as (height, width)."""
        return (self.sample_size, self.sample_size) if isinstance(self.sample_size, int) else self.sample_size


def network_shape(folder: Path) -> NetworkShape | None:
    """The shape of the network in the folder; None where there is none. Raises DamagedFile."""
    return read_record(NetworkShape, folder / "config.json")


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The layers of the network in the folder and the shapes of their weights, by the headers of its files alone; empty where there are none.

    Raises DamagedFile.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {name.removesuffix(".weight"): tuple(file.get_slice(name).get_shape()) for name in file.keys() if name.endswith(".weight")}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DamagedFile(f"{path.name} in {str(folder)!r} cannot be read: {error}; fetch the model again.") from error
    return shapes
