"""The naive contrast: one network asked once, beside its twin asked many times, trained on the same digits.

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps          the same x_t and t for both
    one step:  minimise |f(x_t, t) - x_0|^2,   picture = f(x_T, T)   whose best answer is E[x_0 | x_T]
    DDPM:      minimise |v(x_t, t) - v|^2,     picture = 50 small DDIM steps from the same x_T

x_T is pure noise and says nothing of x_0, so E[x_0 | x_T] is the average of all digits: the one-step denoiser draws the
same blur whatever noise it is given. Both start from the same weights and make the same updates in the same data
order. In the end the one-step network is asked 50 times too: what fails is the single question, not the network.
(Ho et al. 2020, arXiv:2006.11239; v of Salimans & Ho 2022, arXiv:2202.00512.)

    python -m trainers.contrast --seconds 75 --output contrast.png

prints what was measured, and writes one picture.
"""

import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Barrier
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from studio.checks import MAX_SEED
from studio.importing import one_at_a_time
from studio.media.images import grid, to_pixels
from studio.media.pictures import handwritten_digits
from studio.runs.trainers.contrast import NUM_TIMESTEPS, ContrastEvent, ContrastFinished, ContrastOptions, ContrastSamples, ContrastStep, Figures
from studio.runs.trainers.options import option
from trainers.command_line import parse_options

if TYPE_CHECKING:
    from torch import Tensor, device
    from torch.nn import Module

    from studio.models.device import Stop
    from studio.process.diffusion import GaussianDiffusion

__all__ = ["ContrastRun", "comparison", "load_digits", "measure", "train", "train_contrast"]

SIZE = 16
HELD_OUT = 297
MEASURED = 64
WARMUP = 30
# Pictures are drawn when this share of the budget is spent: often at first, when they change most.
PREVIEWS_AT = (0.04, 0.1, 0.2, 0.35, 0.5, 0.75)


# --- the loop ------------------------------------------------------------------------------------------------

def train_contrast(options: ContrastOptions, stop: "Stop | None" = None) -> Generator[ContrastEvent, None, None]:
    """Train both networks, an update each, and show what they make of the same noise.

    A ContrastStep for every update, ContrastSamples now and then, and one ContrastFinished. Setting `stop` ends the
    training after the current update, with ContrastSamples of what was learned by then in place of ContrastFinished.
    Closing the iterator ends it at once and frees both networks.
    """
    device = _device()
    training, real = (part.to(device) for part in load_digits())
    learners = [_make_learner(options, mean_type, device) for mean_type in ("sample", "v_prediction")]
    batches, clock, previews = _batches(training, options), _Clock(options), list(PREVIEWS_AT)

    with _workers(len(learners)) as workers:
        while not (clock.done or stop and stop.is_set()):
            with clock:
                update = partial(_update, *next(batches), clock.steps, options.learning_rate)
                losses = list(workers.map(update, learners))
            yield _step_event(clock, losses, options)

            if previews and clock.share >= previews[0] and not clock.done:
                previews = [share for share in previews if share > clock.share]
                yield ContrastSamples(step=clock.steps, **_draw(learners, options, options.num_samples, workers))

        if clock.done:
            yield _finish(learners, options, clock, training, real, workers)
        elif clock.steps:
            yield ContrastSamples(step=clock.steps, **_draw(learners, options, options.num_samples, workers))


def _workers(count: int) -> ThreadPoolExecutor:
    """A thread for each network, on one core each: so small a network loses more by sharing its work over cores than
    it gains, and on a busy machine it would come to a standstill."""
    import torch

    before, together = torch.get_num_threads(), Barrier(count)
    workers = ThreadPoolExecutor(count, thread_name_prefix="contrast")

    # The barrier hands one task to each thread. The setting is the thread's own, and the default of threads to come,
    # which is therefore put back.
    def settle(_: int) -> None:
        torch.set_num_threads(1)
        together.wait()

    list(workers.map(settle, range(count)))
    torch.set_num_threads(before)
    return workers


class _Clock:
    """Counts updates and the seconds spent inside `with clock`, so that neither sampling nor a slow reader counts."""

    def __init__(self, options: ContrastOptions):
        self.num_steps, self.budget_s = options.num_steps, options.seconds
        self.steps, self.spent_s, self._since = 0, 0.0, 0.0

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.spent_s += time.perf_counter() - self._since
        self.steps += 1

    @property
    def share(self) -> float:
        """How much of the budget is spent, 0 to 1."""
        return min(1.0, self.steps / self.num_steps if self.num_steps else self.spent_s / self.budget_s)

    @property
    def done(self) -> bool:
        return self.share >= 1


def _step_event(clock: _Clock, losses: list[float], options: ContrastOptions) -> ContrastStep:
    total = clock.num_steps or max(clock.steps, round(clock.steps / clock.share))
    return ContrastStep(
        index=clock.steps - 1, num_steps=total, loss_one_step=losses[0], loss_ddpm=losses[1],
        samples_per_s=2 * options.batch_size * clock.steps / clock.spent_s,
        seconds_left=(total - clock.steps) * clock.spent_s / clock.steps,
    )


def _finish(learners: "list[_Learner]", options: ContrastOptions, clock: _Clock, training: "Tensor", real: "Tensor", workers: Executor) -> ContrastFinished:
    count = max(MEASURED, options.num_samples)
    drawn = _draw(learners, options, count, workers, repeat=True) | {"real": real[:count].cpu()}
    figures = {name: measure(pictures, training.cpu()) for name, pictures in drawn.items()}
    shown = {name: pictures[: options.num_samples] for name, pictures in drawn.items()}
    return ContrastFinished(step=clock.steps, seconds=clock.spent_s, figures=MappingProxyType(figures), **shown)


# --- learning ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Learner:
    """A network in training, the running average of its weights that pictures are drawn with, and what it predicts."""

    network: "Module"
    average: "Module"
    optimiser: Any
    diffusion: "GaussianDiffusion"


def _device() -> "device":
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else found


def _make_learner(options: ContrastOptions, mean_type: str, device: "device") -> _Learner:
    import torch

    from studio.process.diffusion import GaussianDiffusion
    from studio.process.schedules import make_betas

    network, average = (make_network(options.width, options.seed).to(device) for _ in range(2))
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    return _Learner(network, average.requires_grad_(False), optimiser, GaussianDiffusion(make_betas("cosine", NUM_TIMESTEPS), mean_type=mean_type))


@one_at_a_time
def make_network(width: int, seed: int) -> "Module":
    """The U-Net that both use, called as network(x_t (B, 1, 16, 16), timesteps (B,)).sample; a seed gives its weights."""
    import torch
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: Any = UNet2DModel(
            sample_size=SIZE, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8, attention_head_dim=16,
            block_out_channels=(width, 2 * width, 4 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
    return network


def _batches(training: "Tensor", options: ContrastOptions) -> "Iterator[tuple[Tensor, Tensor, Tensor]]":
    """Endless (x0, t, noise), drawn on the CPU: the same for both networks, and on every device."""
    import torch

    generator = torch.Generator().manual_seed(options.seed)
    size = options.batch_size
    while True:
        chosen = torch.randint(len(training), (size,), generator=generator)
        # One draw, spread evenly over all noise levels: the loss of a batch varies less than with `size` draws.
        t = ((torch.rand(1, generator=generator) + torch.arange(size) / size) % 1 * NUM_TIMESTEPS).long()
        noise = torch.randn(size, *training.shape[1:], generator=generator)
        yield training[chosen.to(training.device)], t.to(training.device), noise.to(training.device)


def _update(x0: "Tensor", t: "Tensor", noise: "Tensor", index: int, learning_rate: float, learner: _Learner) -> float:
    """One update of the network and its average; returns the loss."""
    import torch

    for group in learner.optimiser.param_groups:
        group["lr"] = learning_rate * min(1.0, (index + 1) / WARMUP)
    loss = learner.diffusion.training_losses(_called(learner.network), x0, t, noise)["loss"].mean()
    learner.optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(learner.network.parameters(), 1.0)
    learner.optimiser.step()
    _average(learner, index)
    return float(loss.detach())


def _average(learner: _Learner, index: int) -> None:
    """A running average over about the last eighth of the training so far, whatever its length."""
    import torch

    with torch.no_grad():
        weight = min(1.0, 8 / (index + 8))
        for mean, parameter in zip(learner.average.parameters(), learner.network.parameters()):
            mean.lerp_(parameter, weight)


def _called(network: "Module") -> Any:
    return lambda x_t, timesteps: network(x_t, timesteps).sample


# --- drawing -------------------------------------------------------------------------------------------------

def _draw(learners: "list[_Learner]", options: ContrastOptions, count: int, workers: Executor, repeat: bool = False) -> "dict[str, Tensor]":
    """What both make of the same noise; with `repeat` also what the one-step network makes of it when asked often."""
    one_step, ddpm = learners
    asked = {"one_step": workers.submit(_ask_once, one_step, options, count), "ddpm": workers.submit(_ask_often, ddpm, options, count)}
    if repeat:
        asked["repeated"] = workers.submit(_ask_often, one_step, options, count)
    return {name: answer.result() for name, answer in asked.items()}


def _start(learner: _Learner, options: ContrastOptions, count: int) -> "Tensor":
    """Pure noise (count, 1, 16, 16), one seed a picture, the same at every preview."""
    import torch

    noise = [torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed((options.seed + i) % MAX_SEED)) for i in range(count)]
    return torch.stack(noise).to(next(learner.average.parameters()).device)


def _ask_once(learner: _Learner, options: ContrastOptions, count: int) -> "Tensor":
    """x0_hat of pure noise."""
    import torch

    with torch.no_grad():
        x_T = _start(learner, options, count)
        return learner.diffusion.p_mean_variance(_called(learner.average), x_T, NUM_TIMESTEPS - 1).x0_hat.cpu()


def _ask_often(learner: _Learner, options: ContrastOptions, count: int) -> "Tensor":
    """`sample_steps` DDIM steps from pure noise."""
    import torch

    from studio.process.schedules import space_timesteps

    process = learner.diffusion.respaced(space_timesteps(NUM_TIMESTEPS, [options.sample_steps]))
    with torch.no_grad():
        x_t = _start(learner, options, count)
        for t in reversed(range(process.num_timesteps)):
            x_t = process.ddim_sample(_called(learner.average), x_t, t, noise=torch.zeros_like(x_t)).x_prev
        return x_t.clamp(-1, 1).cpu()


# --- data and figures ----------------------------------------------------------------------------------------

@cache
def load_digits() -> "tuple[Tensor, Tensor]":
    """scikit-learn's handwritten digits, enlarged from 8x8, as (training, held-out): (1500 and 297, 1, 16, 16) in [-1, 1].

    They are kept for the next call: do not write into them.
    """
    import torch

    pixels = np.stack([np.asarray(Image.fromarray(digit).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for digit in handwritten_digits()[0]])
    digits = torch.from_numpy(pixels)[:, None].float() / 127.5 - 1
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(digits)))
    return digits[order[HELD_OUT:]], digits[order[:HELD_OUT]]


def measure(pictures: "Tensor", training: "Tensor") -> Figures:
    """The figures of (n, 1, 16, 16) pictures against (m, 1, 16, 16) training digits; both in [-1, 1]."""
    import torch

    down, right = pictures.diff(dim=-2).abs().mean(), pictures.diff(dim=-1).abs().mean()
    nearest = torch.cdist(pictures.flatten(1), training.flatten(1)).min(dim=1).values / pictures[0].numel() ** 0.5
    variety = pictures.std(dim=0, correction=0).mean()
    return Figures(variety=float(variety), sharpness=float((down + right) / 2), distance=float(nearest.mean()))


# --- the program ---------------------------------------------------------------------------------------------

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
        """What train_contrast takes."""
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
