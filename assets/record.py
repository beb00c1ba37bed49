"""Records what the tabs open with, from the embedded models as they are: python -m assets.record [NAME ...]"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from studio import Studio
from studio.runs import RunView, read_run
from studio.runs.examples import DOMINO, EXAMPLES, TUNED
from studio.runs.folder import read_state, write_config, write_state
from studio.runs.refl import BASE_FILE
from studio.runs.trainers.options import LoopOptions
from tabs import anatomy, compare, contrast, controlnet, denoise, dreambooth, refl_compare, reward, reward_runs, text_to_image
from tabs.parts.openings import OPENINGS, Opening, write_opening
from tabs.text_to_image import OPENS_WITH
from trainers import subject, tuned
from trainers.contrast import train_contrast
from trainers.rebuild import bring_to_end

__all__ = ["RECORDERS"]

MODEL, PROMPT = OPENS_WITH.model, OPENS_WITH.prompt
# Of an example run: a third of a MiB each.
MOST_SHEETS = 4


def kept_run(name: str, options: LoopOptions) -> RunView:
    """A run of these options, trained where it was not yet, and kept as the example of this name: as it was left but for its weights."""
    bring_to_end(options)
    run, kept = read_run(Path(options.output)), EXAMPLES[name]
    shutil.rmtree(kept, ignore_errors=True)
    (kept / "samples").mkdir(parents=True)
    for sample in spread(run.samples, MOST_SHEETS):
        Image.open(sample).save(kept / "samples" / sample.name, optimize=True)
    for file in ("events.jsonl", BASE_FILE):
        if (run.path / file).is_file():
            shutil.copy(run.path / file, kept)
    write_config(kept, options)
    state = read_state(run.path)
    write_state(kept, trainer=run.trainer, state=state.state, created=state.created, started=state.started, ended=state.ended, message=state.message)
    return run


def spread(found: Sequence[Path], count: int) -> list[Path]:
    """So many of them at most, evenly, with the first and the last."""
    return list(found) if len(found) <= count else [found[round(i * (len(found) - 1) / (count - 1))] for i in range(count)]


def record_domino(studio: Studio) -> Opening:
    """The example run of DreamBooth, and what it draws before and after."""
    return dreambooth.record(studio, kept_run(DOMINO, subject.RUNS["after"]))


def record_tuned(studio: Studio) -> Opening:
    """The example run of ReFL, and what it draws before and after."""
    return refl_compare.record(studio, kept_run(TUNED, tuned.RUNS[tuned.FIRST]))


RECORDERS: dict[str, Callable[[Studio], Opening]] = {
    "denoise": denoise.record,
    "text": text_to_image.record,
    "compare": lambda studio: compare.record_pair(studio, MODEL, PROMPT),
    "grid": lambda studio: compare.record_grid(studio, MODEL, PROMPT),
    "anatomy": lambda studio: anatomy.record(studio, MODEL, PROMPT),
    "control": controlnet.record,
    "domino": record_domino,
    "tuned": record_tuned,
    "score": reward.record,
    "along": reward_runs.record_along,
    "contrast": lambda studio: contrast.record(train_contrast),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m assets.record", description="Record what the tabs open with, from the embedded models as they are.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECORDERS)} (default: all)")
    names = parser.parse_args().names or list(RECORDERS)
    if unknown := set(names) - set(RECORDERS):
        parser.error(f"no opening is named {', '.join(sorted(unknown))}")
    studio = Studio()
    for name in names:
        print(f"{name}: {write_opening(name, RECORDERS[name](studio))}")
    total = sum(path.stat().st_size for path in OPENINGS.rglob("*") if path.is_file())
    print(f"In all {total / 2**20:.2f} MiB.")


if __name__ == "__main__":
    main()
