"""The loop that every trainer shares: batches in a seeded order, descent, averaged weights, events, checkpoints, resume.

    a trainer = options (a LoopOptions) + a Task: the network, and the loss of a batch

The noise, timesteps and drops of a step are functions of (seed, step), so nothing but weights, averages and optimiser
state has to be saved for a resumed run to continue exactly.
"""

import contextlib
import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from studio.errors import InvalidOption, RunFailed
from studio.files import written_aside
from studio.models.folding import Fold, folded, learning_folds_of
from studio.runs.checkpoints import Choice, set_damaged_aside
from studio.runs.folder import write_config, write_state
from studio.runs.trainers.options import LoopOptions
from trainers.data import batch_indices
from trainers.run_folder import RunFolder, pack_optimizer, read_parts, save_whole, unpack_optimizer

__all__ = ["Losses", "StepLog", "StopAsked", "Task", "run_loop", "min_snr_weights", "snr_of"]


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a task says of a batch. descend: the scalar to minimise; each: (B,) the plain loss of each example;
    t_share: (B,) t / T in [0, 1) where the task has timesteps; extra: further figures for the log."""

    descend: Tensor
    each: Tensor
    t_share: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)


# A shorter memory than Adam's usual 0.999 suits runs of a few hundred steps.
BETAS = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class StepLog:
    """One step as it is written to events.jsonl.

    quartiles: mean loss where t lies in each quarter of 0..T, or None. grad_norm: before clipping; None where an overflow of
    fp16 left the step out.
    """

    step: int
    loss: float
    quartiles: tuple[float | None, ...]
    grad_norm: float | None
    lr: float
    samples: int
    samples_per_s: float
    memory_gib: float
    extra: dict[str, float]


class StopAsked(Exception):
    """Someone asks the run to stop while it still makes ready; a task raises it between two pieces of work."""


class Task(ABC):
    """What a trainer adds to the loop. A subclass sets the three attributes and says what the loss is.

    network: what is trained (its parameters that require gradients). size: how many examples there are. early: the steps
    after which the result so far is kept besides, in <output>/early; 0 = never. keeps_best: whether the result is the checkpoint of the best
    look, by `liked`, in place of the last weights.
    """

    options: Any
    network: torch.nn.Module
    size: int
    early: int = 0
    keeps_best: bool = False

    @property
    def memory_format(self) -> torch.memory_format:
        """How the weights lie in memory: channels last, which convolutions are fastest on."""
        return torch.channels_last

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW, unless a task knows better."""
        # Fused: one pass over the weights, a fifth of a small network's step on a CPU saved.
        return torch.optim.AdamW(parameters, lr=self.options.lr, weight_decay=self.options.weight_decay, betas=BETAS, fused=True)

    @abstractmethod
    def losses(self, network: Any, indices: Tensor, generator: torch.Generator, device: torch.device) -> Losses:
        """The losses of the examples `indices`. All chance comes from `generator` (or the global one, which is seeded alike)."""

    def sheet(self, network: Any) -> Any:
        """A PIL picture that shows what the network can do by now, from fixed seeds, or None."""
        return None

    def measured(self) -> dict[str, float]:
        """What was measured of the pictures of the last sheet, by names of studio.runs.following.MEASURED."""
        return {}

    def recall(self, measured: dict[str, float]) -> None:  # noqa: B027  # most tasks remember nothing
        """Take what was measured at the last sheet before the run was cut off for what `measured` gives."""

    @property
    def liked(self) -> float | None:
        """How good the pictures of the last sheet were, higher is better; None where a task does not judge. The best one's checkpoint is kept."""
        return None

    @property
    def ended(self) -> str:
        """Why the run ends now, before its last step, in a sentence; "" where it goes on."""
        return ""

    @abstractmethod
    def save(self, network: Any, path: Path) -> None:
        """Write the result of a finished run."""


def learning_rate(options: LoopOptions, step: int) -> float:
    """Linear warm-up, then the plan."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.lr_plan == "constant":
        return options.lr
    progress = min((step - options.warmup) / max(options.steps - options.warmup, 1), 1)
    if options.lr_plan == "trapezoid":
        return options.lr * min(1.0, max((1 - progress) / 0.2, 0.01))
    return options.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


class Averaged:
    """The running averages of a network's trained parameters, in the order of its parameters.

    They are kept beside the network, not in a second one: `applied` lends them to it, so that nothing is held twice.
    """

    def __init__(self, network: torch.nn.Module, decay: float):
        self.decay = decay
        # Without decay the average is the weights themselves, and nothing has to be kept.
        self.followed = {name: p for name, p in network.named_parameters() if p.requires_grad and decay}
        self.tensors = {name: p.detach().clone() for name, p in self.followed.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- decay * average + (1 - decay) * weights, with a smaller decay at first, when the weights still run away."""
        if not self.tensors:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), [p.detach() for p in self.followed.values()], 1 - decay)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take the averages of a checkpoint."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextlib.contextmanager
    def applied(self, network: torch.nn.Module) -> Iterator[torch.nn.Module]:
        """The network with the averages in place of its weights, in eval mode; both are put back afterwards."""
        parameters, training = dict(network.named_parameters()), network.training
        own = {name: parameters[name].detach().clone() for name in self.tensors}
        _put(parameters, self.tensors)
        try:
            yield network.eval()
        finally:
            _put(parameters, own)
            network.train(training)


@torch.no_grad()
def _put(parameters: dict[str, torch.nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        parameters[name].copy_(value)


def trained_state(network: torch.nn.Module) -> dict[str, Tensor]:
    """What a checkpoint needs of a network: its trained parameters and its buffers, not what is frozen."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in network.named_parameters()} - trained
    return {name: tensor for name, tensor in network.state_dict().items() if name not in frozen}


def snr_of(alphas_cumprod: Tensor, t: Tensor) -> Tensor:
    """(B,) SNR = alpha_bar / (1 - alpha_bar) at the timesteps t."""
    alpha_bar = alphas_cumprod.to(t.device)[t].float()
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(mean_type: str, snr: Tensor, gamma: float, offset: float = 0.0) -> Tensor:
    """(B,) weights min(SNR, gamma) + offset on the error of x0, in the units of the model's own target (arXiv:2303.09556).

    With an offset of 1, the noisiest steps keep the whole weight that plain v-prediction gives them.
    """
    weight = snr.clamp(max=gamma) + offset
    if mean_type == "epsilon":
        return weight / snr.clamp(min=1e-8)
    return weight / (snr + 1) if mean_type == "v_prediction" else weight


# --- the loop ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Training:
    """What a run works with. `network` and `optimizer` are as accelerate prepared them; `task.network` is the bare one."""

    task: Task
    options: LoopOptions
    accelerator: Any
    folder: RunFolder
    network: Any
    # Those that learn, listed once: to look for them at every step takes a small network's time.
    parameters: list[torch.nn.Parameter]
    averaged: Averaged
    optimizer: Any
    first: int
    writer: Any
    smooth: "SmoothLoss"


class SmoothLoss:
    """A running mean of the loss over about a hundred steps, by which the best checkpoint is chosen; it is saved with each."""

    def __init__(self, value: float | None = None):
        self.value = value

    def add(self, loss: float) -> None:
        self.value = loss if self.value is None else self.value + 0.01 * (loss - self.value)


def on_cpu() -> bool:
    """Whether there is nothing better. accelerate has to be told, or processes on a CPU do not find each other."""
    return not torch.accelerator.is_available()


def set_up(task: Task, folder: RunFolder, accelerator: Any) -> Training:
    """Move the task to its device, resume what the folder holds."""
    options, plain = task.options, task.network.to(accelerator.device, memory_format=task.memory_format)
    averaged = Averaged(plain, options.ema_decay)
    parameters = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    optimizer = task.make_optimizer(parameters)
    choice = folder.choose_checkpoint()
    first, smooth = _resume(choice, plain, averaged, optimizer, accelerator.scaler)
    network, prepared = accelerator.prepare(plain, optimizer)
    accelerator.wait_for_everyone()  # each process looks at the checkpoints before one of them changes any
    if accelerator.is_main_process:
        _say_damaged(folder, choice)
        write_config(folder.path, options)
        folder.forget_events_after(first - 1)
    return Training(
        task=task, options=options, accelerator=accelerator, folder=folder, network=network, parameters=parameters, averaged=averaged,
        optimizer=prepared, first=first, smooth=SmoothLoss(smooth),
        writer=_tensorboard(folder, first) if options.tensorboard and accelerator.is_main_process else None,
    )


def _tensorboard(folder: RunFolder, first: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder.path / "tensorboard", purge_step=first)


def require_even_share(batch_size: int, num_processes: int) -> None:
    """Raises InvalidOption where a batch cannot be divided among the processes of a run."""
    if batch_size % num_processes:
        raise InvalidOption(f"A batch of {batch_size} cannot be shared evenly by {num_processes} devices; change one of them.")


def run_loop(task: Task, *, progress: bool = True) -> Iterator[StepLog]:
    """Run (or resume) a training, one StepLog a step. Everything it keeps is in the folder `task.options.output`.

    A file `stop` in the folder ends it after the current step, saved. Closing the generator ends it at once; what is
    after the last checkpoint is then lost. Raises RunFailed when the loss is no longer a number.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=task.options.mixed_precision, cpu=on_cpu())
    require_even_share(task.options.batch_size, accelerator.num_processes)
    run = set_up(task, RunFolder(task.options.output), accelerator)
    with contextlib.closing(run.writer) if run.writer is not None else contextlib.nullcontext():
        if run.accelerator.is_main_process and _sheet_is_due(run, run.first):
            if _sheet_path(run, run.first).exists() and (measured := run.folder.measured_at(run.first - 1)):
                task.recall(measured)
            else:
                _draw_sheet(run, run.first)  # a kill came between the last checkpoint and its sheet
        with folded(_learning_folds(run)):
            stopped = yield from _take_steps(run, progress)
    if run.accelerator.is_main_process and not stopped:
        if task.ended:
            write_state(run.folder.path, message=task.ended)
        with _result(run) as network, written_aside(run.folder.path / "model") as aside:
            task.save(network, aside)


def _learning_folds(run: Training) -> list[Fold]:
    """The upsamplers that are quicker folded: on a processor, in the precision of their weights."""
    plain = run.accelerator.device.type == "cpu" and run.options.mixed_precision == "no"
    return learning_folds_of(run.task.network) if plain else []


@contextlib.contextmanager
def _result(run: Training) -> Iterator[torch.nn.Module]:
    """The network with the weights that the run gives: the averages, or those of the best look's checkpoint."""
    best = run.folder.best_checkpoint() if run.task.keeps_best else None
    if best is not None:
        parts = read_parts(best)
        run.task.network.load_state_dict(parts["network"], strict=False)
        run.averaged.load(parts["ema"])
    with run.averaged.applied(run.task.network) as network:
        yield network


def _take_steps(run: Training, progress: bool) -> Generator[StepLog, None, bool]:
    """The steps that are left; gives whether they ended early because someone asked for it."""
    task, options, accelerator, is_main = run.task, run.options, run.accelerator, run.accelerator.is_main_process
    batches = batch_indices(task.size, options.batch_size, options.seed, start=run.first * options.accumulation)
    examples = options.batch_size * options.accumulation
    seconds, started = 0.0, time.perf_counter()
    if _any(accelerator, bool(task.ended)):
        return False
    for step in tqdm(range(run.first, options.steps), initial=run.first, total=options.steps, disable=not (progress and is_main)):
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(options, step)
        mine = [next(batches)[accelerator.process_index :: accelerator.num_processes] for _ in range(options.accumulation)]
        losses, grad_norm = _step(run, mine, step)
        run.averaged.update(step)

        seconds += time.perf_counter() - started
        log = StepLog(
            step=step, loss=accelerator.gather(losses.each).mean().item(), quartiles=_by_quartile(accelerator, losses),
            grad_norm=grad_norm, lr=learning_rate(options, step), samples=(step + 1) * examples,
            samples_per_s=examples * (step - run.first + 1) / seconds, memory_gib=memory_gib(),
            extra={name: float(accelerator.gather(value.detach().reshape(1)).mean()) for name, value in losses.extra.items()},
        )
        _require_numbers(run, log)
        stopping = _any(accelerator, run.folder.stop_requested())
        sheet_due = _sheet_is_due(run, step + 1)
        if is_main:
            _keep(run, log, stopping)
        yield log
        if stopping:
            return True
        if sheet_due and _any(accelerator, bool(task.ended)):
            return False
        # The clock runs for the steps alone: what the caller does between them is not the training's time.
        started = time.perf_counter()
    return False


def _step(run: Training, batches: list[Tensor], step: int) -> tuple[Losses, float | None]:
    """One descent on the sum of the batches' gradients; gives the losses and the gradient's norm, None where it was left out."""
    accelerator = run.accelerator
    generator = torch.Generator().manual_seed((run.options.seed << 40) + (step << 8) + accelerator.process_index)
    # Dropout draws from the global generator, so that follows the step as well.
    torch.manual_seed(generator.initial_seed())
    parts = []
    for indices in batches:
        with accelerator.autocast():
            losses = run.task.losses(run.network, indices, generator, accelerator.device)
        accelerator.backward(losses.descend / len(batches))
        parts.append(losses)
    grad_norm = _clip(run)
    scale = accelerator.scaler.get_scale() if accelerator.scaler is not None else 0
    run.optimizer.step()
    run.optimizer.zero_grad()
    # In fp16 the scaled gradients may overflow; the step is then left out and the scale halved, until nothing is left to halve.
    left_out = accelerator.scaler is not None and 1 <= accelerator.scaler.get_scale() < scale
    return _joined(parts), None if left_out else float(grad_norm)


def _clip(run: Training) -> Tensor:
    """Bring the gradients' norm down to grad_clip; gives what it was. Small ones are not touched."""
    run.accelerator.unscale_gradients()
    norm = get_total_norm([parameter.grad for parameter in run.parameters if parameter.grad is not None])
    if not norm <= run.options.grad_clip:
        clip_grads_with_norm_(run.parameters, run.options.grad_clip, norm)
    return norm


def _joined(parts: list[Losses]) -> Losses:
    """The figures of several batches as those of one."""
    shares = [part.t_share for part in parts if part.t_share is not None]
    return Losses(
        descend=parts[-1].descend.detach(), each=torch.cat([part.each.detach() for part in parts]), t_share=torch.cat(shares) if shares else None,
        extra={name: torch.stack([part.extra[name].detach() for part in parts]).mean() for name in parts[0].extra},
    )


def _require_numbers(run: Training, log: StepLog) -> None:
    if not math.isfinite(log.loss) or not (log.grad_norm is None or math.isfinite(log.grad_norm)):
        raise RunFailed(f"The loss is no longer a number at step {log.step + 1}. Start again with a lower learning rate than {run.options.lr:g}.")


def memory_gib() -> float:
    """The most memory held so far: the device's where there is one, else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource
    import sys

    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _any(accelerator: Any, here: bool) -> bool:
    """Whether it is so in any process: all of them end after the same step, or none."""
    return bool(accelerator.gather(torch.tensor([here], device=accelerator.device)).any())


def _by_quartile(accelerator: Any, losses: Losses) -> tuple[float | None, ...]:
    if losses.t_share is None:
        return ()
    each, share = accelerator.gather(losses.each), accelerator.gather(losses.t_share)
    quarter = (4 * share).long().clamp(max=3)
    return tuple(each[quarter == q].mean().item() if (quarter == q).any() else None for q in range(4))


def _resume(
    choice: Choice, network: torch.nn.Module, averaged: Averaged, optimizer: torch.optim.Optimizer, scaler: Any,
) -> tuple[int, float | None]:
    """Load the chosen checkpoint, if any; gives the first step to take, and the smoothed loss so far."""
    if choice.good is None or choice.facts is None:
        return 0, None
    parts, facts = read_parts(choice.good), choice.facts
    network.load_state_dict(parts["network"], strict=False)
    averaged.load(parts["ema"])
    unpack_optimizer(optimizer, parts["optimizer"])
    if scaler is not None and facts.scaler is not None:
        scaler.load_state_dict(dict(facts.scaler))
    return facts.step + 1, facts.loss


def _say_damaged(folder: RunFolder, choice: Choice) -> None:
    """Where checkpoints are damaged: say so, and let nobody take them any more."""
    if choice.damaged:
        print(choice.said, flush=True)
        write_state(folder.path, message=choice.said)
        set_damaged_aside(choice)


def _keep(run: Training, log: StepLog, stopping: bool) -> None:
    """Write the step's event, and what is due: a checkpoint, a sample grid."""
    options, done = run.options, log.step + 1
    last = done == options.steps
    values = dataclasses.asdict(log)
    run.folder.event(**{key: value for key, value in values.items() if key != "extra"}, **values["extra"])
    run.smooth.add(log.loss)
    if run.writer is not None:
        write_scalars(run.writer, values)
    # What is judged at a sheet must be there to be kept.
    judged = run.task.keeps_best and _sheet_is_due(run, done)
    if last or stopping or judged or done % options.checkpoint_every == 0:
        optimizer = getattr(run.optimizer, "optimizer", run.optimizer)
        parts = {"network": trained_state(run.task.network), "ema": run.averaged.tensors, "optimizer": pack_optimizer(optimizer)}
        facts = {"samples": log.samples, "loss": run.smooth.value}
        if run.accelerator.scaler is not None:
            facts["scaler"] = run.accelerator.scaler.state_dict()
        run.folder.save_checkpoint(log.step, parts, facts, options.keep_checkpoints)
    if done == run.task.early:
        with run.averaged.applied(run.task.network) as network:
            run.task.save(network, run.folder.path / "early")
    if _sheet_is_due(run, done):
        _draw_sheet(run, done)


def _sheet_is_due(run: Training, done: int) -> bool:
    every = run.options.sample_every
    return bool(every and done and (done == run.options.steps or done % every == 0))


def _sheet_path(run: Training, done: int) -> Path:
    return run.folder.samples / f"step-{done:06d}.png"


def _draw_sheet(run: Training, done: int) -> None:
    """Keep the sample grid after `done` steps."""
    with run.averaged.applied(run.task.network) as network:
        sheet = run.task.sheet(network)
    if sheet is not None:
        save_whole(sheet, _sheet_path(run, done))
    if measured := run.task.measured():
        run.folder.event(step=done - 1, measured=measured)
    if run.task.liked is not None:
        run.folder.note_best(done - 1, run.task.liked)


def write_scalars(writer: Any, values: dict[str, Any]) -> None:
    """A step's figures for TensorBoard, in one record: its writer takes longer for each record than for what is in it."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    figures = {name: values[name] for name in ("loss", "grad_norm", "lr", "samples_per_s")}
    figures |= {f"loss_q{quarter}": loss for quarter, loss in enumerate(values["quartiles"])} | values["extra"]
    scalars = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items() if value is not None]
    writer.file_writer.add_summary(Summary(value=scalars), values["step"])
