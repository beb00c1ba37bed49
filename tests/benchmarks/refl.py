"""An update of ReFL: the studio's against the released loop written out plainly, same base, scorer, batch and stop; time and memory.

The plain loop tokenises and encodes its prompts each time, steps with diffusers' scheduler, and keeps decoder and scorer in one graph with the
network. The pre-training loss is off in both, as in the released code. Memory: what a process of its own takes on top of the loaded models.
"""

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from studio.rewards import load_reward
from studio.runs.trainers.refl import ReFLOptions
from tests.benchmarks.paired import time_paired
from trainers.captions import token_ids
from trainers.refl import ReFLTask

ROUNDS, BATCH, STOP = 3, 8, 34
SCORER = "toybox-clip"


def main() -> None:
    """Print a table of ratios."""
    print("| gradient checkpointing | ours, s | plain, s | ratio | processor's time | ours, MiB | plain, MiB | ratio |\n|---|---|---|---|---|---|---|---|")
    for checkpointing in (False, True):
        ours, plain = (update_of(which, checkpointing) for which in ("ours", "plain"))
        timing = time_paired(ours, plain, ROUNDS)
        peaks = [peak_of(which, checkpointing) for which in ("ours", "plain")]
        print(
            f"| {'on' if checkpointing else 'off'} | {timing.ours_s:.2f} | {timing.theirs_s:.2f} | {timing.ratio:.2f} | {timing.cpu_ratio:.2f} | "
            f"{peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[0] / peaks[1]:.2f} |",
        )


def task_of(checkpointing: bool) -> ReFLTask:
    with tempfile.TemporaryDirectory() as folder:
        task = ReFLTask(ReFLOptions(
            output=folder, rewards=SCORER, reward_weight=1.0, cap=100.0, pretrain_weight=0.0, batch_size=BATCH, stop_low=STOP, stop_high=STOP, eta=0.0,
            gradient_checkpointing=checkpointing, prompt_limit=2 * BATCH, validation_prompts=1, validation_samples=2, validation_steps=1,
        ))
    task.network.to(memory_format=task.memory_format).train()
    return task


def update_of(which: str, checkpointing: bool) -> Callable[[], object]:
    """An update, ready to be called."""
    task = task_of(checkpointing)
    optimizer = task.make_optimizer(list(task.network.parameters()))
    return partial({"ours": ours_update, "plain": plain_update}[which], task, optimizer)


def ours_update(task: ReFLTask, optimizer: torch.optim.Optimizer) -> float:
    losses = task.losses(task.network, torch.arange(BATCH), torch.Generator().manual_seed(0), torch.device("cpu"))
    losses.descend.backward()
    return stepped(task, optimizer)


def plain_update(task: ReFLTask, optimizer: torch.optim.Optimizer) -> float:
    from diffusers import DDIMScheduler

    pipeline, prompts = task.model.pipeline, task.trained[:BATCH]
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(task.options.num_steps)
    x = torch.randn((BATCH, 4, 16, 16))
    with torch.no_grad():
        text = pipeline.text_encoder(token_ids(pipeline.tokenizer, prompts))[0]
        for t in scheduler.timesteps[:STOP]:
            x = scheduler.step(pipeline.unet(x, t, text).sample, t, x).prev_sample
    t = scheduler.timesteps[STOP]
    x0_hat = scheduler.step(pipeline.unet(x, t, text).sample, t, x).pred_original_sample
    pictures = pipeline.vae.decode(x0_hat / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    rewards = load_reward(SCORER, torch.device("cpu"), torch.float32)(pictures, prompts)
    torch.relu(task.options.cap - rewards).mean().backward()
    return stepped(task, optimizer)


def stepped(task: ReFLTask, optimizer: torch.optim.Optimizer) -> float:
    norm = torch.nn.utils.clip_grad_norm_(task.network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


# --- memory --------------------------------------------------------------------------------------------------

def peak_of(which: str, checkpointing: bool) -> float:
    """MiB that updates take at their peak, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.refl", which, json.dumps(checkpointing)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def own_peak(which: str, checkpointing: bool) -> float:
    """Of this process: the second update, when the optimiser's state is there."""
    update = update_of(which, checkpointing)
    update()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = held("VmRSS")
    update()
    return (held("VmHWM") - before) / 2**20


def held(key: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))


if __name__ == "__main__":
    print(own_peak(sys.argv[1], json.loads(sys.argv[2])))
