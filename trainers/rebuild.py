"""Train the embedded models again, judge them, and write their cards: what `make models` runs.

    python -m trainers.rebuild [NAME ...] [--judge-only]
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.models import MODELS
from studio.models.catalogue import ASSETS
from trainers.ddpm import DDPMOptions, train
from trainers.judge import JudgeOptions, judge
from trainers.run_folder import RunFolder

__all__ = ["RECIPES", "rebuild", "write_card"]

TOYBOX = DDPMOptions(
    data="toybox", output="runs/toybox-ddpm", resolution=32, widths="32,64,96,128", attention_from=2, mean_type="v_prediction",
    schedule="cosine", steps=2800, batch_size=48, lr=1e-3, sample_every=500, checkpoint_every=50,
)

# The stages of a model; each after the first goes on from the last checkpoint of the one before.
RECIPES: dict[str, tuple[DDPMOptions, ...]] = {
    "digits-ddpm": (DDPMOptions(
        data="digits", output="runs/digits-ddpm", resolution=16, widths="32,64,64", attention_from=2, mean_type="v_prediction",
        schedule="cosine", steps=2400, batch_size=64, lr=1e-3, sample_every=1000, checkpoint_every=100,
    ),),
    "toybox-ddpm": (TOYBOX, replace(TOYBOX, data="toybox-large", output="runs/toybox-large", min_snr_gamma=5.0, steps=3850)),
}
JUDGED_WITH = {"digits-ddpm": JudgeOptions(model="digits-ddpm", data="digits"), "toybox-ddpm": JudgeOptions(model="toybox-ddpm", data="toybox-large")}
DATA = {
    "digits": "scikit-learn's handwritten digits (1,437 of 1,797; 360 are held out), enlarged from 8x8 to 16x16 by bicubic interpolation",
    "toybox": "40,000 scenes of the studio's own Toybox, drawn at 32x32; a tenth of the (object, colour, background) combinations is never shown",
    "toybox-large": "the same scenes with every object large and in the middle",
}
# What the recipe alone does not say of the weights that are shipped.
NOTES = {
    "digits-ddpm": "The first 1,000 steps followed a learning-rate plan laid out for 3,000 steps.",
    "toybox-ddpm": (
        "The plan of the learning rate was laid out for 4,000 steps in the first stage and shortened on the way, and for 4,300 in the second, "
        "which was ended early. Longer training would make the outlines firmer; that of the digits is long enough, this one's is not."
    ),
}


def rebuild(name: str, *, judge_only: bool = False) -> None:
    """Train (unless told not to), put the model into assets/, judge it and write its card."""
    stages, folder = RECIPES[name], ASSETS / MODELS[name].source
    if not judge_only:
        for before, options in zip((None, *stages), stages):
            _hand_over(before, options)
            for _ in train(options):
                pass
    run = Path(stages[-1].output)
    if (run / "model").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run / "model", folder)
        shutil.copy(sorted((run / "samples").glob("*.png"))[-1], folder / "samples.png")
    quality = judge(JUDGED_WITH[name])
    (folder / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    write_card(folder, name, quality)


def _hand_over(before: DDPMOptions | None, options: DDPMOptions) -> None:
    """Give a stage that has not begun the last checkpoint of the stage before."""
    checkpoints = RunFolder(options.output).checkpoints
    if before is not None and not any(checkpoints.iterdir()):
        last = RunFolder(before.output).list_checkpoints()[-1]
        shutil.copytree(last, checkpoints / last.name)


def command(options: DDPMOptions) -> str:
    """The command line that repeats a recipe: what differs from the defaults."""
    default = DDPMOptions()
    changed = {field: value for field, value in vars(options).items() if value != getattr(default, field)}
    return "python -m trainers.ddpm " + " ".join(f"--{field.replace('_', '-')} {value}" for field, value in changed.items())


def write_card(folder: Path, name: str, quality: dict[str, Any]) -> None:
    """README.md of a model: data, recipe, measured quality."""
    stages, near = RECIPES[name], quality["nearest_training_picture"]
    options = stages[-1]

    def distances(which: str) -> str:
        return f"{near[which]['smallest']:.1f}, {near[which]['median']:.1f}"

    parameters = sum(size for size in (file.stat().st_size for file in folder.rglob("*.safetensors"))) / 2e6
    (folder / "README.md").write_text(f"""# {name}

A class-conditional pixel DDPM, {options.resolution}x{options.resolution}, {parameters:.2f} million parameters in fp16,
{len(MODELS[name].class_names)} classes and "no class".
`DDPMPipeline.from_pretrained` of plain diffusers loads this folder; `studio.json` adds the class names.

![samples](samples.png)

| | |
|---|---|
| data | {"; then ".join(DATA[stage.data] for stage in stages)} |
| recipe | {", then ".join(f"`{command(stage)}`" for stage in stages)} |
| process | {options.schedule} schedule, T = {options.num_timesteps}, the network predicts {options.mean_type} |
| training | {options.steps} steps of {options.batch_size} on two shared CPU cores; the averaged weights are kept. {NOTES[name]} |
| licence | MIT |

## Measured

{quality["generated"]} pictures from fresh seeds ({quality["sampler"]}), named by a support vector machine that was trained on real pictures only.

| figure | value |
|---|---|
| generated pictures recognised as the class asked for | **{quality["recognised_as_asked"]:.1%}** |
| the same, worst class | {min(quality["recognised_per_class"]):.1%} |
| the judge's own accuracy on held-out real pictures | {quality["classifier_accuracy_on_held_out"]:.1%} |
| distance of generated pictures to the nearest training picture (RMS grey levels): smallest, median | {distances("generated")} |
| the same for held-out real pictures | {distances("held_out_real")} |

Measured by `python -m trainers.judge --model {name} --data {JUDGED_WITH[name].data}`.
""")


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
