"""Training a reward, from the person's side: the rankings as they are now are kept with the run, so that it can be repeated and resumed exactly."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import InvalidOption
from studio.rankings import Rankings
from studio.rankings.formats import export_rankings, format_of
from studio.runs.folder import RunView
from studio.runs.queue import Runs

__all__ = ["start"]

STUDIO = "studio"


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
            raise InvalidOption("There are no rankings to learn from: rank some pictures in the tab Rank first.")

    if file:
        format_of(format)
    return runs.start("reward", {**options, "format": format, "collection": "" if file is None else collection}, name=name, uploads={"data": save})
