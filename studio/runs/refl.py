"""Tuning by a reward, from the person's side: started with prompts or rankings, watched for signs that only the number gets better."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.checks import is_number, quoted, require_choice, require_int, require_text, require_texts
from studio.errors import InvalidOption
from studio.records import read_record
from studio.runs.costs import cost_of
from studio.runs.trainers.dreambooth import RunCost
from studio.runs.trainers.refl import REFL_PRESETS, TYPED, ReFLOptions, check_tunable
from studio.toybox import WORLDS

if TYPE_CHECKING:
    from studio.rankings import Rankings
    from studio.runs.folder import RunView
    from studio.runs.queue import Runs
    from studio.runs.trainers.presets import Preset

__all__ = ["BASE_FILE", "GAP", "MEASURED", "MOST_HELD_OUT", "SOURCES", "BaseFacts", "alarm_of", "base_facts", "estimate", "fields", "presets", "start"]

# Where prompts, or rankings, come from.
SOURCES = {**{name: "Made up of the toy world" if name == "toybox" else f"Made up: {name}" for name in WORLDS}, "ranked": "Those that were ranked",
           "file": "A file", TYPED: "Written here"}
STUDIO = "studio"

BASE_FILE = "base.json"
# What is measured at every look, by name, and in the base before it learns anything.
MEASURED = (
    "reward_trained", "reward_held_out", "reward_spread", "reward_capped", "reward_t", "judge", "judge_t", "diversity", "diversity_t", "distance", "edges",
    "colours", "dark", "output_norm",
)
# Between two parts of a sheet lies this part of a picture's side.
GAP = 12
# So many held-out prompts are written down.
MOST_HELD_OUT = 400
# A rise counts when it is larger than chance by so many standard errors of the paired differences; a fall by more, since it is looked for at every look:
# of ten looks at a run where nothing falls, two standard errors would ring in every fifth run.
SURE, SURE_OF_FALL = 2.0, 3.0
# Diversity may fall by this share of the base's; by more it may by chance, where prompts are few. Of one prompt, and in runs from before chance was
# measured, the share alone counts.
DIVERSITY_FALL = 0.15


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """base.json of a run: what was measured of the base, by the names of MEASURED; prompts: the rows of the run's sheets; held_out: prompts that are never
    trained on; samples: pictures a prompt; lens: the columns beside them; judge, follow: which
    scorers judged and were followed; units: (mean, deviation) of each that is followed."""

    measured: Mapping[str, float | None] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    held_out: Sequence[str] = ()
    samples: int = 1
    lens: Sequence[str] = ()
    judge: str = ""
    follow: str = ""
    units: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_texts("prompts", self.prompts, MOST_HELD_OUT)
        require_texts("held_out", self.held_out, MOST_HELD_OUT)
        require_texts("lens", self.lens, 20)
        require_int("samples", self.samples, 1, 1000)
        require_text("judge", self.judge)
        require_text("follow", self.follow)
        if not isinstance(self.measured, dict) or not all(value is None or is_number(value) and isfinite(value) for value in self.measured.values()):
            raise InvalidOption(f"measured must be an object of numbers, but it is {quoted(self.measured)}.")


def base_facts(run: Path) -> BaseFacts | None:
    """What was measured of the base of a run; None where it is not written yet. Raises DamagedFile."""
    return read_record(BaseFacts, run / BASE_FILE)


def alarm_of(base: Mapping[str, float | None], now: Mapping[str, float | None]) -> str:
    """Whether the reward rises while the held-out scorer or the diversity falls, in a sentence with the figures; "" where it does not."""
    rise, fall = now.get("reward_t"), now.get("judge_t")
    if rise is None or rise < SURE:
        return ""
    wrong = []
    if fall is not None and fall < -SURE_OF_FALL:
        wrong.append(f"the held-out scorer fell from {figure(base.get('judge'))} to {figure(now.get('judge'))}, {-fall:.1f} standard errors")
    before, after, sure = base.get("diversity"), now.get("diversity"), now.get("diversity_t")
    if before and after is not None and after < (1 - DIVERSITY_FALL) * before and (sure is None or sure < -SURE_OF_FALL):
        wrong.append(f"the diversity fell from {figure(before)} to {figure(after)}, by {1 - after / before:.0%}")
    if not wrong:
        return ""
    said = f"The reward on held-out prompts rose from {figure(base.get('reward_held_out'))} to {figure(now.get('reward_held_out'))}, but "
    return said + " and ".join(wrong) + ": the model serves the number, not the pictures."


def figure(value: float | None) -> str:
    """A number as a sentence has it."""
    return "?" if value is None else f"{value:.3g}"


# --- started -------------------------------------------------------------------------------------------------

def presets() -> "dict[str, Preset]":
    """Presets by name, with label, about and options."""
    return REFL_PRESETS


def fields() -> dict[str, dataclasses.Field]:
    """Every option with its default, and its help and choices as metadata; no torch is loaded."""
    return {one.name: one for one in dataclasses.fields(ReFLOptions)}


def start(
    runs: "Runs", rankings: "Rankings | None", name: str, options: Mapping[str, Any], *, source: str = "toybox", collection: str = "",
    file: str | Path | None = None,
) -> "RunView":
    """Check everything, keep prompts or rankings in the run's folder, queue the run. Raises a StudioError, and nothing of it is left.

    Args:
        rankings: those of the studio, for the source "ranked".
        source: a key of SOURCES. Diffusion-DPO takes rankings alone: those of the studio, or an exported file.
        collection: only tasks of this name. file: for the source "file".
    """
    require_choice("source", source, tuple(SOURCES))
    require_text("collection", collection, 200)
    runs.require_free(name)
    chosen = dict(options)
    if source not in ("ranked", "file"):
        return runs.start("refl", {**chosen, "data": source}, name=name)
    if source == "file" and not file:
        raise InvalidOption("No file was given: choose one, or take the prompts from somewhere else.")
    ranks = chosen.get("algorithm") == "dpo"

    def save(folder: Path) -> None:
        if source == "file":
            shutil.copy(str(file), folder / (f"rankings{Path(str(file)).suffix}" if ranks else "prompts.txt"))
        elif rankings is None or not kept_rankings(rankings, folder, collection, ranks):
            raise InvalidOption("Nothing was ranked yet: make tasks and rank some pictures in the tab Rank first, or take other prompts.")

    format = chosen.get("format", STUDIO) if source == "file" else STUDIO
    # The export holds the collection alone.
    return runs.start("refl", {**chosen, "format": format, "collection": ""}, name=name, uploads={"data": save})


def estimate(runs: "Runs", options: Mapping[str, Any]) -> RunCost:
    """What such a run among these will take; a process of its own loads base and scorers and times them.

    Raises InvalidOption or UnknownName where the options cannot work, RunFailed where the process ended without an answer.
    """
    # Where the prompts come from takes no time, and may not be here yet.
    return cost_of(runs, "refl", {**options, "data": "toybox"}, lambda checked: check_tunable(checked.base))


def kept_rankings(rankings: "Rankings", folder: Path, collection: str, ranks: bool) -> int:
    """Keep the rankings, or their prompts alone; gives how many there were."""
    from studio.rankings.exchange import read_records
    from studio.rankings.formats import export_rankings

    if ranks:
        return export_rankings(rankings, STUDIO, folder / "rankings.zip", collection)
    prompts = list(dict.fromkeys(record.prompt.replace("\n", " ") for record in read_records(rankings, collection)))
    (folder / "prompts.txt").write_text("\n".join(prompts), "utf-8")
    return len(prompts)
