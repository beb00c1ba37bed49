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
from typing import Any

from studio.models.catalogue import ASSETS
from studio.runs.folder import write_config
from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.ddpm import DDPMOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.vae import VaeOptions
from trainers import cards
from trainers.attributes import AttributeOptions
from trainers.subject import RUNS

__all__ = ["RECIPES", "rebuild"]

CLIP = ClipOptions(output="runs/toybox-clip", near_captions=0, steps=760, checkpoint_every=100, sample_every=0)
WORDS = ClipOptions(
    output="runs/toybox-clip-text", start="runs/toybox-clip-pictures/model", towers="text", near_captions=3, batch_size=64, steps=600, lr=5e-4, seed=3,
    checkpoint_every=200, sample_every=0,
)
VAE = VaeOptions(output="runs/toybox-vae", widths="16,48,96", steps=1750, batch_size=16, checkpoint_every=200, sample_every=1000)


def latent_stage(steps: int, **changes: Any) -> Callable[[], LatentOptions]:
    """A stage of the one run of toybox-sd; each goes on where the one before ended."""
    common = {"output": "runs/toybox-sd", "decoder": "runs/toybox-vae-decoder/model", "widths": "64,96,96", "checkpoint_every": 250, "sample_every": 500}
    return lambda: LatentOptions(steps=steps, **{**common, **changes})


def words_stage(steps: int, **changes: Any) -> Callable[[], LatentOptions]:
    """A stage of the run that learned every word."""
    return latent_stage(steps, output="runs/toybox-sd-words", start="runs/toybox-sd-pooled/model", clip=f"{WORDS.output}/model", **changes)


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
    "toybox-clip": (
        lambda: CLIP,
        lambda: replace(CLIP, output="runs/toybox-clip-pictures", start="runs/toybox-clip/model", towers="picture", steps=300, lr=5e-4, seed=1),
        # Colours alone had solved the first two. From here near captions ask for every word: the text tower first, from words alone.
        lambda: WORDS,
        lambda: replace(WORDS, output="runs/toybox-clip-near", start=f"{WORDS.output}/model", towers="picture", steps=1800, batch_size=96, lr=1e-3, seed=4),
    ),
    "toybox-sd": (
        lambda: VAE,
        lambda: replace(VAE, output="runs/toybox-vae-decoder", start="runs/toybox-vae/model", decoder_only=True, steps=1200, seed=1),
        latent_stage(2500, lr_plan="constant", text_in_time=False, min_snr_offset=0.0),
        latent_stage(2950, lr_plan="constant", text_in_time=False),
        latent_stage(3950, lr_plan="constant", text_in_time=False, only="large"),
        # From here the pooled caption reaches every block: a new run from the weights of the one before.
        latent_stage(930, output="runs/toybox-sd-pooled", start="runs/toybox-sd/model"),
        # From here the text encoder tells every word apart.
        words_stage(1003, lr_plan="constant", only="large"),
        words_stage(6000),
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
    """Run a stage to its end as its own program, as the studio does; one that is cut off goes on at the next call."""
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, options)
    subprocess.run([sys.executable, "-m", f"trainers.{cards.PROGRAMS[type(options)]}", "--config", str(folder / "options.toml")], check=True)


def _put_into_assets(stages: list[LoopOptions], folder: Path) -> None:
    """The last stage's model; a decoder that was trained apart takes the place of the autoencoder it began from."""
    run = Path(stages[-1].output)
    if not (run / "model").is_dir():
        return
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "model", folder)
    for stage in stages[:-1]:
        if isinstance(stage, VaeOptions) and stage.decoder_only and (Path(stage.output) / "model").is_dir():
            shutil.copytree(Path(stage.output) / "model", folder / "vae", dirs_exist_ok=True)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes for the owner alone
    sheets = sorted((run / "samples").glob("*.png"))
    if sheets:
        shutil.copy(sheets[-1], folder / "samples.png")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m trainers.rebuild", description="Train the embedded models again, judge them, write their cards.")
    parser.add_argument("names", nargs="*", default=list(RECIPES), help="which models (default: all)")
    parser.add_argument("--judge-only", action="store_true", help="take what is in the run folder, or else in assets/, as it is")
    args = parser.parse_args()
    for name in args.names:
        rebuild(name, judge_only=args.judge_only)


if __name__ == "__main__":
    main()
