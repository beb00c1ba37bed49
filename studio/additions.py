"""A LoRA that is put into a model before it draws, and how many additions there may be. Data only.

studio.conditions.Added is all that a run asks for; studio.models.added puts it in; studio.models.shelf says which files there are.
"""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from studio.checks import quoted, require_float, require_text
from studio.errors import InvalidOption

__all__ = ["MAX_EMBEDDINGS", "MAX_LORAS", "Lora", "called"]

MAX_LORAS, MAX_EMBEDDINGS = 8, 16
MAX_WEIGHT = 4.0
MAX_NAME = 1_000
# Names that say nothing: those above them do.
GENERIC = ("pytorch_lora_weights", "diffusion_pytorch_model", "model", "vae", "learned_embeds")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA of a run.

    Args:
        file: a .safetensors file in diffusers' or in kohya's layout, in a folder that the studio may use; its path, or its name there.
        weight: how much of it is added, -4 to 4; 1 is as it was taught.
    Raises:
        InvalidOption.
    """

    file: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        require_text("the file of a LoRA", self.file, MAX_NAME)
        require_float("the weight of a LoRA", self.weight, -MAX_WEIGHT, MAX_WEIGHT)
        if not self.file:
            raise InvalidOption("A LoRA must name its file, but it is empty; name one, or leave the LoRA out.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"file": self.file, "weight": self.weight}

    @classmethod
    def from_dict(cls, values: object) -> "Lora":
        """The inverse of `to_dict`. Raises InvalidOption."""
        if not isinstance(values, dict) or "file" not in values or set(values) - {"file", "weight"}:
            raise InvalidOption(f"A LoRA must say its file and weight, but it is {quoted(values)}.")
        return cls(**values)


def called(file: str) -> str:
    """What a file or folder is called: its name without its end, or that of the first folder above it whose name says something."""
    path = PurePath(file)
    names = [path.name.removesuffix(".safetensors"), *(folder.name for folder in path.parents)]
    return next((name for name in names if name and name not in GENERIC), names[0])
