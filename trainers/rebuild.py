"""Train the embedded models again, judge them, and write their cards: what `make models` runs.

    python -m trainers.rebuild [NAME ...] [--judge-only]
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from studio.errors import RunFailed, StudioError, UnknownName
from studio.models.catalogue import ASSETS
from studio.runs.folder import read_state, write_config
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.ddpm import DDPMOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.vae import VaeOptions
from trainers import cards
from trainers.attributes import AttributeOptions
from trainers.reader import ReaderOptions
from trainers.subject import RUNS

__all__ = ["RECIPES", "put_early", "rebuild"]

LEAST_FREE = 2**30  # bytes, for checkpoints and drawn scenes

WORDS = ClipOptions(
    data="toybox-world", output="runs/toybox-clip-text", towers="text", near_captions=3, batch_size=64, steps=2500, lr=1e-3,
    checkpoint_every=200, sample_every=0,
)
VAE = VaeOptions(
    data="toybox-world", output="runs/toybox-vae", widths="16,48,96", preview_weight=0.05, steps=6000, batch_size=16, checkpoint_every=200, sample_every=1000,
)

# The stages of a model, made when they are due.
RECIPES: dict[str, tuple[Callable[[], LoopOptions], ...]] = {
    "digits-ddpm": (lambda: DDPMOptions(
        data="digits", output="runs/digits-ddpm", resolution=16, widths="32,64,64", attention_from=2, mean_type="v_prediction",
        schedule="cosine", steps=2400, batch_size=64, lr=1e-3, sample_every=1000, checkpoint_every=100,
    ),),
    # The network names x0 itself: at equal cost its error at middle and high noise falls to half of v-prediction's within the first steps.
    "toybox-ddpm": (lambda: DDPMOptions(
        data="toybox-large", output="runs/toybox-ddpm", resolution=32, widths="32,48,80,80", attention_from=4, time_scales=True, mean_type="sample",
        schedule="cosine", min_snr_gamma=5.0, min_snr_offset=1.0, steps=3000, batch_size=32, lr=1e-3, lr_plan="trapezoid",
        sample_every=1000, checkpoint_every=100,
    ),),
    "toybox-examiner": (lambda: AttributeOptions(output="runs/attributes", steps=1500, sample_every=0),),
    "toybox-reader": (lambda: ReaderOptions(output="runs/toybox-reader", steps=4000, sample_every=0, checkpoint_every=200),),
    # The text tower first, from words alone: beside pictures, colours are enough for a long time, and the other words are never told apart.
    "toybox-clip": (
        lambda: WORDS,
        lambda: replace(WORDS, output="runs/toybox-clip", start=f"{WORDS.output}/model", towers="picture", batch_size=96, steps=4000, seed=1),
    ),
    "toybox-sd": (
        lambda: VAE,
        lambda: LatentOptions(
            data="toybox-world", output="runs/toybox-sd", vae=f"{VAE.output}/model", clip="runs/toybox-clip/model", widths="64,96,96",
            steps=12_000, early=4000, checkpoint_every=250, sample_every=1000,
        ),
    ),
    "domino": tuple(partial(RUNS.__getitem__, name) for name in RUNS),
}


def rebuild(name: str, *, judge_only: bool = False) -> None:
    """Train (unless told not to), put the model into assets/, judge it and write its card."""
    if not judge_only:
        _train_stages(name)
    stages, is_example = [stage() for stage in RECIPES[name]], name == "domino"
    folder = ASSETS / ("runs" if is_example else "models") / name
    folder.mkdir(parents=True, exist_ok=True)
    if not is_example:  # of an example run only the card is kept
        _put_into_assets(stages, folder)
    quality = cards.JUDGES[name](folder)
    (folder / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    cards.write_card(folder, name, stages, quality)


def _train_stages(name: str) -> None:
    for stage in RECIPES[name]:
        _finish(stage())


def _finish(options: LoopOptions) -> None:
    """Run a stage to its end as its own program, as the studio does; one that is cut off goes on at the next call.

    Raises RunFailed with what to do where it cannot begin or does not end.
    """
    folder = Path(options.output)
    _require_predecessors(options)
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < LEAST_FREE:
        raise RunFailed(f"Only {free / 2**20:.0f} MiB are free where {folder} lies; a recipe needs {LEAST_FREE / 2**30:g} GiB. Free some space, then go on.")
    write_config(folder, options)
    program = [sys.executable, "-m", f"trainers.{cards.PROGRAMS[type(options)]}", "--config", str(folder / "options.toml")]
    if subprocess.run(program).returncode or not (folder / "model").is_dir():
        raise RunFailed(f"{folder} did not end: {read_state(folder).message or 'its log says why.'}")


def _require_predecessors(options: LoopOptions) -> None:
    """Refuse a stage whose parts are still to be trained."""
    for name in ("start", "vae", "clip", "decoder"):
        part = getattr(options, name, "")
        if part and not Path(part).is_dir():
            maker = next((model for model, stages in RECIPES.items() for stage in stages if f"{stage().output}/model" == part), None)
            first = f"run `python -m trainers.rebuild {maker}` first" if maker else "put it there first"
            raise RunFailed(f"{options.output} needs {part}, which is not there; {first}.")


def _put_into_assets(stages: list[LoopOptions], folder: Path) -> None:
    """The last stage's model, its last sheet of samples, and the early model beside it where one was kept."""
    run = Path(stages[-1].output)
    if not (run / "model").is_dir():
        return
    _take(run / "model", folder)
    if (run / "early").is_dir():
        put_early(run / "early", folder, folder.with_name(f"{folder.name}-early"))
    sheets = sorted((run / "samples").glob("*.png"))
    if sheets:
        shutil.copy(sheets[-1], folder / "samples.png")


def put_early(early: Path, whole: Path, folder: Path) -> None:
    """The early UNet as a pipeline folder of its own, every other part of it a link to that of the whole model beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _take(early / "unet", folder / "unet")
    shutil.copy(early / "model_index.json", folder / "model_index.json")
    for part in sorted(path.name for path in early.iterdir() if path.is_dir() and path.name != "unet"):
        (folder / part).symlink_to(Path("..") / whole.name / part, target_is_directory=True)


def _take(source: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainers.rebuild", description="Train the embedded models again, judge them, write their cards.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="which models (default: all)")
    parser.add_argument("--judge-only", action="store_true", help="take what is in the run folder, or else in assets/, as it is")
    args = parser.parse_args()
    try:
        for name in args.names:
            if name not in RECIPES:
                raise UnknownName.of("recipe", name, RECIPES)
            rebuild(name, judge_only=args.judge_only)
    except StudioError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
