"""Weights of scorers from a folder, a file or the Hub. Only tensors are read: safetensors, or torch's files with weights_only."""

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from studio.errors import ModelUnavailable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["file_of", "read_weights"]


def file_of(place: str, name: str) -> Path:
    """The file of weights: `place` where that is a file, else the file `name` of the folder or of the Hub id.

    "owner/repository/file" names another file of a repository. Raises ModelUnavailable with what to do.
    """
    path = Path(place)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / name).is_file():
            return path / name
        raise ModelUnavailable(f"There is no {name} in the folder {place!r}; put the weights there under this name, or name their file.")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository or place.startswith((".", "/", "~")):
        raise ModelUnavailable(f"{place!r} is no folder, no file, and no Hub id like owner/name.")
    return _fetched(f"{owner}/{repository}", file or name)


def _fetched(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # the Hub's client raises many kinds; all mean that the file cannot be had
        raise ModelUnavailable(
            f"{file} of {repository} is in no cache and cannot be fetched; see that there is a network, or name the file on this machine instead."
        ) from error


def read_weights(path: Path) -> "dict[str, Tensor]":
    """{name: tensor} of a file, one level of {"state_dict": ...} taken off. Raises ModelUnavailable."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelUnavailable(f"{path.name} holds more than weights: code in it would be run, so it is not read. Convert it to safetensors first.") from error
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelUnavailable(f"{path.name} cannot be read as weights: it is cut short, or of another kind.") from error
    tensors = tensors.get("state_dict", tensors) if isinstance(tensors, dict) else tensors
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ModelUnavailable(f"{path.name} holds no table of weights; name the file of a network's weights.")
    return tensors
