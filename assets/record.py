"""Records what the tabs open with, from the embedded models as they are: python -m assets.record [NAME ...]"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from studio import Studio
from studio.runs import read_run
from studio.runs.examples import DOMINO, EXAMPLES
from studio.runs.folder import read_state, write_config, write_state
from tabs import anatomy, compare, contrast, controlnet, denoise, dreambooth, reward, reward_runs, text_to_image
from tabs.parts.openings import OPENINGS, Opening, write_opening
from tabs.text_to_image import OPENS_WITH
from trainers.contrast import train_contrast
from trainers.subject import RUNS

__all__ = ["RECORDERS"]

MODEL, PROMPT = OPENS_WITH.model, OPENS_WITH.prompt



def record_domino(studio: Studio) -> Opening:
    """The example run of DreamBooth, trained anew: the run as it was left but for its weights, and what it draws before and after."""
    options = RUNS["after"]
    with TemporaryDirectory() as folder:
        run = Path(folder) / "domino"
        run.mkdir()
        write_config(run, replace(options, output=str(run)))
        subprocess.run([sys.executable, "-m", "trainers.dreambooth", "--config", str(run / "options.toml")], check=True)
        recording = dreambooth.record(studio, read_run(run))
        kept = EXAMPLES[DOMINO]
        shutil.rmtree(kept, ignore_errors=True)
        (kept / "samples").mkdir(parents=True)
        for sample in read_run(run).samples:
            Image.open(sample).save(kept / "samples" / sample.name, optimize=True)
        shutil.copy(run / "events.jsonl", kept)
        write_config(kept, options)
        state = read_state(run)
        write_state(kept, trainer="dreambooth", state=state.state, created=state.created, started=state.started, ended=state.ended)
    return recording


RECORDERS: dict[str, Callable[[Studio], Opening]] = {
    "denoise": denoise.record,
    "text": text_to_image.record,
    "compare": lambda studio: compare.record_pair(studio, MODEL, PROMPT),
    "grid": lambda studio: compare.record_grid(studio, MODEL, PROMPT),
    "anatomy": lambda studio: anatomy.record(studio, MODEL, PROMPT),
    "control": controlnet.record,
    "domino": record_domino,
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
