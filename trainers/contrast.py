"""The naive contrast in the terminal: one network asked once, beside its twin asked many times.

    python -m trainers.contrast --seconds 75 --output contrast.png

Trains both on scikit-learn's digits (see studio.contrast), prints what was measured, and writes one picture.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from studio.contrast import ContrastFinished, ContrastOptions, ContrastStep, Figures, train_contrast
from studio.media.images import grid, to_pixels
from studio.runs.trainers.options import option
from trainers.command_line import parse_options

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ContrastRun", "train", "comparison"]


@dataclass(frozen=True, kw_only=True)
class ContrastRun:
    """The knobs; `python -m trainers.contrast --help` prints them."""

    output: str = option("contrast.png", "where the comparison is written")
    seconds: float = option(75.0, "of training, both networks at the same time, 1 to 600")
    num_steps: int | None = option(None, "exactly so many updates of each in place of the time")
    batch_size: int = option(32, "digits an update")
    width: int = option(16, "channels at full resolution, a multiple of 8")
    learning_rate: float = option(3e-3, "of AdamW")
    sample_steps: int = option(50, "how often DDPM is asked for a picture")
    num_samples: int = option(36, "pictures of each kind in the comparison, 1 to 64")
    seed: int = option(0, "of the weights, the data order and the noise")

    def options(self) -> ContrastOptions:
        return ContrastOptions(**{name: value for name, value in vars(self).items() if name != "output"})


def train(run: ContrastRun) -> ContrastFinished:
    """Train with a bar in the terminal, write the comparison, and return how it ended."""
    with tqdm(unit=" updates", dynamic_ncols=True) as bar:
        for event in train_contrast(run.options()):
            if isinstance(event, ContrastStep):
                bar.total = event.num_steps
                bar.set_postfix(one_step=f"{event.loss_one_step:.4f}", ddpm=f"{event.loss_ddpm:.4f}", refresh=False)
                bar.update()
    assert isinstance(event, ContrastFinished)
    comparison(event, run.sample_steps).save(run.output)
    return event


def comparison(finished: ContrastFinished, sample_steps: int = 50) -> Image.Image:
    """Four labelled grids in a row: asked once, DDPM, the one-step network asked often, real digits."""
    labels = {
        "one_step": "One step: asked once", "ddpm": f"DDPM: asked {sample_steps} times",
        "repeated": f"One step: asked {sample_steps} times", "real": "Real digits",
    }
    panes = [_pane(getattr(finished, name), label, finished.figures[name]) for name, label in labels.items()]
    sheet = Image.new("RGB", (sum(pane.width for pane in panes), panes[0].height), (250, 249, 246))
    left = 0
    for pane in panes:
        sheet.paste(pane, (left, 0))
        left += pane.width
    return sheet


def _pane(pictures: "Tensor", label: str, figures: Figures, scale: int = 3) -> Image.Image:
    """One grid with its words: (n, 1, 16, 16) in [-1, 1]."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    sheet = grid(to_pixels(pictures), columns, gap=1, fill=250)[..., 0]
    enlarged = Image.fromarray(sheet).resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST)
    pane = Image.new("RGB", (max(enlarged.width, 240) + 24, enlarged.height + 60), (250, 249, 246))
    pane.paste(enlarged, (12, 46))
    draw = ImageDraw.Draw(pane)
    draw.text((12, 8), label, (38, 36, 33), ImageFont.load_default(15))
    draw.text((12, 27), f"variety {figures.variety:.3f}, sharpness {figures.sharpness:.3f}", (122, 117, 110), ImageFont.load_default(12))
    return pane


def _table(finished: ContrastFinished) -> str:
    rows = [f"{'':10}{'variety':>10}{'sharpness':>11}{'distance':>10}"]
    rows += [f"{name:10}{f.variety:10.3f}{f.sharpness:11.3f}{f.distance:10.3f}" for name, f in finished.figures.items()]
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> None:
    run = parse_options(ContrastRun, argv, prog="python -m trainers.contrast", description="One step or many? Two small networks on the same digits.")
    finished = train(run)
    print(f"{finished.step} updates of each network in {finished.seconds:.0f} s\n{_table(finished)}\n{Path(run.output)}")


if __name__ == "__main__":
    main()
