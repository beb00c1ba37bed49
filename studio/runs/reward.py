"""Training a reward, from the person's side: the rankings as they are now are kept with the run, so that it can be repeated and resumed exactly."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import InvalidOption
from studio.rankings import Rankings, collections
from studio.rankings.formats import export_rankings, format_of
from studio.runs.costs import ask
from studio.runs.folder import RunView
from studio.runs.queue import Runs
from studio.runs.trainers import require_kinds
from studio.runs.trainers.dreambooth import RunCost
from studio.runs.trainers.places import kept_within
from studio.runs.trainers.reward import DATABASE, RewardOptions

__all__ = ["estimate", "start"]

STUDIO = "studio"
NOTHING = "There are no rankings to learn from: rank some pictures in the tab Rank first."


def start(
    runs: Runs, rankings: Rankings | None, name: str, options: Mapping[str, Any], *, collection: str = "", file: str | Path | None = None,
) -> RunView:
    """Check everything, keep the rankings in the run's folder, queue the run. Raises a StudioError, and nothing of it is left.

    Args:
        rankings: what is trained on, unless a file is given. collection: only tasks of this name.
        file: an export; its format is that of options["format"].
    """
    runs.require_free(name)
    format = str(options.get("format", STUDIO)) if file else STUDIO

    def save(folder: Path) -> None:
        if file:
            shutil.copy(file, folder / f"rankings{Path(file).suffix}")
        elif rankings is None or not export_rankings(rankings, STUDIO, folder / "rankings.zip", collection):
            raise InvalidOption(NOTHING)

    if file:
        format_of(format)
    return runs.start("reward", {**options, "format": format, "collection": "" if file is None else collection}, name=name, uploads={"data": save})


def estimate(
    runs: Runs, rankings: Rankings | None, options: Mapping[str, Any], *, collection: str = "", file: str | Path | None = None,
) -> RunCost:
    """What such a run among these will take; a process of its own times a step of it. The arguments are those of start.

    Raises InvalidOption or UnknownName where the options cannot work, RunFailed where the process ended without an answer.
    """
    kept = kept_within("reward", {name: value for name, value in options.items() if name not in ("data", "format", "collection")}, runs.folders)
    if file:
        format = str(options.get("format", STUDIO))
        format_of(format)
        source: dict[str, Any] = {"data": str(Path(file).resolve()), "format": format}
    elif rankings is not None and collections(rankings):
        source = {"data": str(Path(rankings.folder).resolve()), "format": DATABASE, "collection": collection}
    else:
        raise InvalidOption(NOTHING)
    require_kinds("reward", kept)
    return ask("reward", RewardOptions(**kept, **source))
