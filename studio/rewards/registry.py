"""The menu of scorers, put together from the files of studio.rewards.scorers, and how one is found by its name and loaded."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from studio.checks import require_text
from studio.errors import UnknownName
from studio.importing import one_at_a_time
from studio.models.catalogue import ASSETS
from studio.models.loading import pick_device, pick_dtype
from studio.rewards.contract import Reward, RewardInfo, RewardSource
from studio.rewards.scorers import modules

if TYPE_CHECKING:
    import torch

__all__ = ["KINDS", "REWARDS", "load_reward", "reward_info", "trained_rewards"]

# In a folder with this file lies a reward that was trained here.
FACTS = "reward.json"
TRAINED = "blip"
MAX_NAME = 1000


_MODULES = modules()
# What stands before the colon of "KIND:PLACE": the entry that others of the kind are like.
KINDS: Mapping[str, RewardInfo] = MappingProxyType({name: module.OTHERS for name, module in _MODULES.items() if module.OTHERS is not None})


def _menu() -> dict[str, RewardInfo]:
    """Every entry, what needs no download first; an embedded one that is still to be trained is in no menu."""
    entries = [entry for module in _MODULES.values() for entry in module.REWARDS.items()]
    here = [(name, info) for name, info in entries if not info.source.startswith("models/") or (ASSETS / info.source).is_dir()]
    return dict(sorted(here, key=lambda entry: entry[1].size_mib))


REWARDS: Mapping[str, RewardInfo] = MappingProxyType(_menu())


def reward_info(name: str) -> RewardInfo:
    """The entry of a scorer by its name in the menu, as "KIND:PLACE", or as the folder of one that was trained here. Raises UnknownName, InvalidOption."""
    require_text("A scorer", name, MAX_NAME)
    if name in REWARDS:
        return REWARDS[name]
    kind, colon, place = name.partition(":")
    if colon and kind in KINDS and place:
        return replace(KINDS[kind], label=f"{KINDS[kind].label}: {Path(place).name}", source=place)
    if _is_trained(Path(name)):
        return replace(KINDS[TRAINED], label=_label_of(Path(name)), source=name)
    raise UnknownName.of("scorer", name, [*REWARDS, *(f"{kind}:PLACE" for kind in KINDS)])


def _is_trained(folder: Path) -> bool:
    try:
        return (folder / FACTS).is_file()
    except (OSError, ValueError):  # too long, or a NUL in it
        return False


def _label_of(folder: Path) -> str:
    return f"{folder.parent.name} (reward run)"


def trained_rewards(root: Path) -> dict[str, RewardInfo]:
    """Entries of the finished training runs under a folder of runs, by the folders of their results, the newest first."""
    folders = [path.parent for path in root.glob(f"*/model/{FACTS}")]
    newest = sorted(folders, key=lambda folder: -folder.stat().st_mtime)
    return {str(folder): reward_info(str(folder)) for folder in newest}


def load_reward(name: str, device: "torch.device | None" = None, dtype: "torch.dtype | None" = None) -> Reward:
    """The scorer, loaded; those used last are kept.

    Args:
        name: see reward_info.
        device: where it is put; None = the best there is.
        dtype: of its weights; None = half precision on CUDA, else float32.
    Raises UnknownName, ModelUnavailable with what to do.
    """
    info = reward_info(name)
    device = device or pick_device()
    place = str(ASSETS / info.source) if info.source.startswith("models/") else info.source
    return _loaded(name, info, RewardSource(name=name, place=place, device=device, dtype=dtype or pick_dtype(device)), _written(place))


def _written(place: str) -> int:
    """When a folder or file was written, so that another one under its name is read anew."""
    try:
        return Path(place).stat().st_mtime_ns if place else 0
    except (OSError, ValueError):
        return 0


@lru_cache(maxsize=4)
@one_at_a_time
def _loaded(name: str, info: RewardInfo, source: RewardSource, written: int) -> Reward:
    return Reward(name=name, info=info, device=source.device, score=info.load(source))
