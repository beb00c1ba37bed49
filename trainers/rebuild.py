"""Train the embedded models again, judge them, and write their cards: what `make models` runs.

    python -m trainers.rebuild [NAME ...] [--judge-only]

It can be cut off and called again at any time: what is finished stays, what was begun goes on from its last checkpoint.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from studio.errors import RunFailed, StudioError, UnknownName
from studio.files import read_object
from studio.models.catalogue import ASSETS
from studio.runs.folder import read_state, write_config
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.controlnet import ControlNetOptions
from studio.runs.trainers.ddpm import DDPMOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.reward import RewardOptions
from studio.runs.trainers.vae import VaeOptions
from trainers import cards, tuned
from trainers.attributes import AttributeOptions
from trainers.matching import MatchingOptions
from trainers.reader import ReaderOptions
from trainers.subject import RUNS

__all__ = ["RECIPES", "bring_to_end", "put_early", "rebuild"]

# Recipes of which the card alone is kept: example runs.
EXAMPLE_RUNS = ("domino", "tuned")
# What a model is called that shares all but its UNet with another.
EARLY = "-early"
# Longer, and a deviation of the reward is all that lies between it and the whole model: then nothing is left to be gained.
EARLY_STEPS = 3000
LEAST_FREE = 2**30  # bytes, for checkpoints and drawn scenes

WORDS = ClipOptions(
    data="toybox-world", output="runs/toybox-clip-text", towers="text", near_captions=3, batch_size=64, steps=2500, lr=1e-3,
    checkpoint_every=200, sample_every=0,
)
VAE = VaeOptions(
    data="toybox-world", output="runs/toybox-vae", widths="16,48,96", preview_weight=0.05, steps=6000, batch_size=16, checkpoint_every=200, sample_every=1000,
)

def _steering(name: str, map: str) -> Callable[[], ControlNetOptions]:
    """A copy of the encoder of toybox-sd learns to steer it; the base is the embedded model itself, so it is rebuilt before."""
    return partial(
        ControlNetOptions, data="toybox", map=map, output=f"runs/toybox-controlnet-{name}", data_limit=20_000, steps=3000, sample_every=250,
        checkpoint_every=250,
    )


MATCHING = MatchingOptions(
    clip="assets/models/toybox-clip", near="clip", batch_size=32, steps=2600, lr_plan="trapezoid", mixed_precision="bf16", checkpoint_every=200,
)

RANKED = RewardOptions(data="toybox", held_out=0.05, batch_size=8, lr_plan="trapezoid", warmup=50, ema_decay=0.99)

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
            steps=12_000, checkpoint_every=250, sample_every=1000,
        ),
    ),
    # Worse on purpose: what ReFL improves.
    "toybox-sd-early": (lambda: LatentOptions(
        data="toybox", output="runs/toybox-sd-early", vae="assets/models/toybox-sd/vae", clip="assets/models/toybox-clip", widths="64,96,96",
        data_limit=20_000, batch_size=24, steps=EARLY_STEPS, lr_plan="constant", checkpoint_every=250, sample_every=500,
    ),),
    # From ranked pairs alone it never left chance: one bit a pair teaches neither seeing nor reading, which ImageReward has from BLIP.
    "toybox-reward": (
        lambda: MATCHING,
        # What a CLIP finds hard first; then each attribute alike.
        lambda: replace(
            MATCHING, output="runs/toybox-matching-even", start=f"{MATCHING.output}/model", near="even", spoiled=0.4, steps=700, lr=4e-4, warmup=30, seed=1,
        ),
        lambda: replace(
            RANKED, output="runs/toybox-reward-first", start="runs/toybox-matching-even/model", toybox_tasks=1500, held_out=0.1, steps=500, lr=1.5e-4,
            mixed_precision="bf16", sample_every=100, checkpoint_every=100,
        ),
        # Of all pairs 84.8 % were right by then; what was missing was rankings, and time.
        lambda: replace(
            RANKED, output="runs/toybox-reward-more", start="runs/toybox-reward-first/model", toybox_tasks=6000, steps=2400, lr=2e-4, sample_every=400,
            checkpoint_every=200, seed=1,
        ),
        lambda: replace(
            RANKED, output="runs/toybox-reward", start="runs/toybox-reward-more/model", toybox_tasks=10_000, steps=4000, lr=3e-4, sample_every=500,
            checkpoint_every=250, seed=2,
        ),
    ),
    # Each a copy of toybox-sd's encoder; the base is the embedded model itself, so it is rebuilt before.
    # A second stage at a lower rate was tried for the segmentation: 89.3 % and 87.0 % became 88.6 % and 87.4 %, so there is none.
    **{
        f"toybox-controlnet-{name}": (_steering(name, f"toybox-{kind}"),)
        for name, kind in (("canny", "edges"), ("depth", "depth"), ("segmentation", "segmentation"))
    },
    "tuned": tuple(partial(tuned.RUNS.__getitem__, name) for name in tuned.RUNS),
    "domino": tuple(partial(RUNS.__getitem__, name) for name in RUNS),
}


def rebuild(name: str, *, judge_only: bool = False) -> None:
    """Train what is not yet trained (unless told not to), put the model into assets/, judge it and write its card.

    A card that only gets new figures keeps what it says of how the weights came about.
    """
    stages = [stage() for stage in RECIPES[name]]
    folder = ASSETS / ("runs" if name in EXAMPLE_RUNS else "models") / name
    trained = not judge_only and _train_stages(stages)
    if not judge_only and not trained and _is_judged(stages, folder):
        print(f"{name} is trained and judged already.", flush=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    # Of an example run only the card is kept.
    is_new = name in EXAMPLE_RUNS or _put_into_assets(stages, folder)
    quality = cards.JUDGES[name](folder)
    cards.write_card(folder, name, stages, quality, keep_description=not is_new)
    (folder / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")


def _train_stages(stages: Sequence[LoopOptions]) -> bool:
    """Bring every stage to its end; gives whether any was still to be trained."""
    trained = [bring_to_end(stage) for stage in stages]
    return any(trained)


def bring_to_end(options: LoopOptions) -> bool:
    """Train what is not yet trained; gives whether there was anything to do. Raises RunFailed."""
    due = not _is_finished(options)
    if due:
        _finish(options)
    return due


def _is_finished(options: LoopOptions) -> bool:
    """Whether the run has ended, with these options. Raises RunFailed where what it was built on is newer than it."""
    folder = Path(options.output)
    if not (folder / "model").is_dir() or read_object(folder / "config.json") != asdict(options):
        return False
    ended = _made(folder)
    for part in _parts(options):
        if part.is_dir() and part.stat().st_mtime > ended:
            raise RunFailed(f"{folder} was trained from an older {part}. Delete {folder} to train it again from the new one.")
    return True


def _made(folder: Path) -> float:
    """When the result of a run was made, in seconds since 1970."""
    return (folder / "model").stat().st_mtime


def _is_judged(stages: Sequence[LoopOptions], folder: Path) -> bool:
    quality = folder / "quality.json"
    return quality.is_file() and quality.stat().st_mtime >= max(_made(Path(stage.output)) for stage in stages)


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
    for part in _parts(options):
        if not part.is_dir():
            maker = next((model for model, stages in RECIPES.items() for stage in stages if Path(stage().output, "model") == part), None)
            first = f"run `python -m trainers.rebuild {maker}` first" if maker else "put it there first"
            raise RunFailed(f"{options.output} needs {part}, which is not there; {first}.")


def _parts(options: LoopOptions) -> list[Path]:
    """The models that a stage builds on."""
    return [Path(part) for part in (getattr(options, name, "") for name in ("start", "vae", "clip", "decoder")) if part]


def _put_into_assets(stages: Sequence[LoopOptions], folder: Path) -> bool:
    """The last stage's model, its last sheet of samples, and the early model beside it where one was kept; gives whether there was one to put."""
    run = Path(stages[-1].output)
    if not (run / "model").is_dir():
        return False
    if folder.name.endswith(EARLY):
        put_early(run / "model", folder.with_name(folder.name.removesuffix(EARLY)), folder)
    else:
        _take(run / "model", folder)
    if (run / "early").is_dir():
        put_early(run / "early", folder, folder.with_name(folder.name + EARLY))
    sheets = sorted((run / "samples").glob("*.png"))
    if sheets:
        shutil.copy(sheets[-1], folder / "samples.png")
    return True


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
