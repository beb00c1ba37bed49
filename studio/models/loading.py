"""Loading of diffusion models in diffusers' format: an embedded one, a folder, a .safetensors file, or a Hub id."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from studio.conditions import NOTHING_ADDED, Added
from studio.errors import ModelUnavailable, StudioError, UnknownName
from studio.importing import one_at_a_time
from studio.models.catalogue import ASSETS, MODELS, ModelInfo
from studio.models.families import FAMILIES, Family, family_in, family_of_pipeline
from studio.models.originals import ORIGINALS, read_header, recognised
from studio.models.sources import READING_FAILS, Source, is_single_file
from studio.models.taught import base_of

if TYPE_CHECKING:
    import torch

    from studio.models.contract import DiffusionModel

__all__ = ["known_family", "load_model", "load_text_model", "resolve", "is_hub_id", "estimated_gib"]

# Characters that file systems take, in all and between two slashes.
MAX_PATH, MAX_PART = 1_000, 255


class Entry(Protocol):
    """Of a menu: where it lies."""

    @property
    def source(self) -> str: ...
    @property
    def embedded(self) -> bool: ...


def pick_device() -> "torch.device":
    """CUDA, else MPS, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(device: "torch.device") -> "torch.dtype":
    """Of a latent model's weights: half precision where it is fast and safe (CUDA), else float32."""
    import torch

    return torch.float16 if device.type == "cuda" else torch.float32


def resolve(name: str, menu: "Mapping[str, Entry]" = MODELS, kind: str = "model") -> str:
    """What to load for the name of a model, or of another kind that has a menu: the embedded folder, the folder or file as given, or a Hub id.

    Raises UnknownName.
    """
    if name in menu:
        source = menu[name].source
        return str(ASSETS / source) if menu[name].embedded else source
    if not name or len(name.encode()) > MAX_PATH or any(len(part.encode()) > MAX_PART for part in name.split("/")):
        raise UnknownName.of(kind, name, menu)
    if Path(name).is_dir() or is_single_file(name) or name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    raise UnknownName.of(kind, name, menu)


def is_hub_id(name: str) -> bool:
    """Whether loading this name may have to fetch it. Raises UnknownName."""
    source = resolve(name)
    return not Path(source).exists()


def estimated_gib(name: str) -> float:
    """GiB that a model will take on the device, before it is loaded. Raises UnknownName."""
    from studio.models.memory import estimate_gib

    if base := base_of(resolve(name)):
        return estimated_gib(base)
    known = MODELS[name].memory_gib if name in MODELS and not MODELS[name].embedded else None
    half = known is not None and MODELS[name].family != "pixel" and pick_device().type == "cuda"
    return estimate_gib(resolve(name), known, half or known is not None and MODELS[name].family == "pixel")


@one_at_a_time
def load_model(
    name: str, device: "torch.device | None" = None, *, offload: str = "", dtype: "torch.dtype | None" = None,
    added: Added = NOTHING_ADDED,
) -> "DiffusionModel":
    """Load a model by menu name, folder, file or Hub id. Raises UnknownName, or ModelUnavailable with what to do.

    device: where it is put; None = the best there is. offload: the name of a Holding of
    studio.models.memory: how a latent model is held where the device is too small for it. dtype: of a latent model's weights; None =
    half precision on CUDA, else float32. added: what is put into it; its files are named in full.
    """
    place = resolve(name)
    device = device or pick_device()
    source = Source(name=name, place=place, device=device, dtype=dtype or pick_dtype(device), offload=offload, added=added)
    return _family(name, place).load(source)


def load_text_model(name: str, device: "torch.device | None" = None, *, dtype: "torch.dtype | None" = None) -> "DiffusionModel":
    """As `load_model`, of a model that makes pictures of words alone, as trainers want it. Raises ModelUnavailable also for others."""
    model = load_model(name, device, dtype=dtype)
    family = FAMILIES[model.info.family]
    if not family.words_alone:
        why = "which is told pictures too" if family.text else "which reads no prompt"
        raise ModelUnavailable(f"{name!r} is {family.label}, {why}; take a model for text alone.")
    return model


def known_family(name: str, menu: Mapping[str, ModelInfo] = MODELS) -> Family | None:
    """The family that would read a model, from the menu or from the configs of a folder or the cache; None where nothing is known of it yet."""
    if name in menu:
        return FAMILIES.get(menu[name].family)
    if not name or len(name) > MAX_PATH:
        return None
    # What is foreign or damaged is said when it is loaded.
    with suppress(StudioError):
        if is_single_file(name):
            return family_of_pipeline(ORIGINALS[recognised(read_header(name), name)].pipeline)
        folder = Path(name) if Path(name).is_dir() else _cached(name)
        found = family_in(folder) if folder else None
        return FAMILIES[found] if found else None
    return None


def _cached(name: str) -> Path | None:
    """Where a Hub id lies in the cache; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "model_index.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _family(name: str, place: str) -> Family:
    """The family that reads it. Raises ModelUnavailable where none does."""
    if base := base_of(place):
        return _family(base, resolve(base))
    kind = ORIGINALS[recognised(read_header(place), name)].pipeline if is_single_file(place) else pipeline_class(place)
    # The oldest pixel checkpoints have no model_index.json.
    family = FAMILIES["pixel"] if kind is None else family_of_pipeline(kind)
    if family is None:
        able = ", ".join(f"{one.label} ({one.pipelines[0]})" for one in FAMILIES.values())
        raise ModelUnavailable(f"{name!r} is a {kind}; the studio takes {able}.")
    return family


def pipeline_class(source: str) -> str | None:
    """The class that model_index.json names; None where there is none, as in the oldest pixel checkpoints."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.load_config(source).get("_class_name")
    except READING_FAILS:
        return None
