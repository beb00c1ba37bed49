"""The example run of ReFL judged from fresh seeds: do the pictures get better, or only the number that is followed?

    python -m trainers.rebuild tuned

The preset "toybox" three times, each with its own seed, and the presets "toybox-free" (nothing holds the model) and "toybox-hacked" (a bad
reward) are judged beside their base. Prompts are of combinations of object, colour and background that no model has seen;
rewards are those of toybox-reward, whatever was followed, and what is right is read by toybox-examiner, which is followed by none.
Diversity is that of pictures of one prompt: of prompts as people write them, half of which leave things open, and of those that say everything, where
what differs is place, tilt and error alone.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from studio.models.catalogue import ASSETS
from studio.models.examiner import Examiner, examine, load_examiner
from studio.models.loading import resolve
from studio.rewards import load_reward
from studio.rewards.signs import diversity
from studio.runs.refl import alarm_of, base_facts
from studio.runs.trainers.refl import REFL_PRESETS, ReFLOptions
from studio.toybox import AnyScene, caption, render_batch
from trainers.attributes import generate
from trainers.captions import toybox_scenes, word

__all__ = ["ALARM", "BASE", "FIRST", "RUNS", "judge_tuned", "tuned_card"]

ALARM, EXACT = "alarm", "exact_deviations"
BASE = "toybox-sd-early"


def _preset(name: str, output: str, **changes: Any) -> ReFLOptions:
    return replace(ReFLOptions(output=output, **REFL_PRESETS[name].options), **changes)


RUNS = {
    **{f"seed {seed}": _preset("toybox", f"runs/tuned-{seed}", seed=seed) for seed in range(3)},
    "free": _preset("toybox-free", "runs/tuned-free"), "hacked": _preset("toybox-hacked", "runs/tuned-hacked"),
}
# The one that the tab opens with.
FIRST = "seed 0"
HELD = [name for name in RUNS if name.startswith("seed")]
SAMPLER = {"guidance_scale": 4.0, "num_steps": 25}
PROMPTS, SAMPLES, SEED = 30, 4, 920_000
CHUNK = 25


def judge_tuned(folder: Path) -> dict[str, Any]:
    """Reward, what is right, diversity and the alarm of the base and of each of RUNS; writes samples.png into `folder`."""
    examiner, pictures = load_examiner(), {name: drawn(model, prompts()) for name, model in models().items()}
    sheet(pictures).save(folder / "samples.png")
    found = {name: measured(pixels, examiner) | {"diversity": _diversity(models()[name])} for name, pixels in pictures.items()}
    base = found["base"]
    exact = measured(renders(), examiner)
    base[EXACT] = (exact["reward"] - base["reward"]) / base["reward_deviation"]
    for name, figures in found.items():
        figures["deviations"] = (figures["reward"] - base["reward"]) / base["reward_deviation"]
        figures |= {f"{kind}_change": figures[kind] / base[kind] - 1 for kind in ("diversity", "diversity_complete")}
        if name in RUNS:
            figures |= {"minutes": minutes(Path(RUNS[name].output)), ALARM: first_alarm(Path(RUNS[name].output))}
    return found


def models() -> dict[str, str]:
    """The base and the result of each run."""
    return {"base": str(ASSETS / "models" / BASE), **{name: f"{run.output}/model" for name, run in RUNS.items()}}


def scenes() -> list[AnyScene]:
    """PROMPTS x SAMPLES of them, each as often as it is drawn."""
    return [scene for scene in toybox_scenes(SEED, PROMPTS, "held_out") for _ in range(SAMPLES)]


def prompts() -> list[str]:
    """Of each of the scenes, all that it shows."""
    return [caption(scene) for scene in scenes()]


def open_prompts() -> list[str]:
    """The same scenes as people write of them: half leave things open, and take other words."""
    rng = np.random.default_rng(SEED)
    return [prompt for scene in toybox_scenes(SEED, PROMPTS, "held_out") for prompt in [word(scene, rng)] * SAMPLES]


def drawn(model: str, words: list[str]) -> torch.Tensor:
    """(N, 3, 64, 64) uint8, a fresh seed each."""
    return torch.from_numpy(generate(resolve(model), words, seed=SEED, **SAMPLER)).movedim(-1, 1).contiguous()


def renders() -> torch.Tensor:
    """(N, 3, 64, 64) uint8, what the prompts ask for as the toy world draws it: nothing a model draws of them is more right."""
    return torch.from_numpy(render_batch(scenes(), 64)).movedim(-1, 1).contiguous()


def _diversity(model: str) -> float:
    return diversity(drawn(model, open_prompts()).float() / 127.5 - 1, open_prompts())


@torch.inference_mode()
def measured(pixels: torch.Tensor, examiner: Examiner) -> dict[str, Any]:
    """Mean and deviation of the reward, the share of pictures where everything is right, and the diversity of prompts that say everything."""
    words, reward = prompts(), load_reward("toybox-reward")
    images = pixels.float() / 127.5 - 1
    scores = torch.cat([reward(images[i : i + CHUNK], words[i : i + CHUNK]).cpu() for i in range(0, len(words), CHUNK)])
    right = np.logical_and.reduce(list(examine(examiner, pixels, scenes()).values()))
    return {
        "reward": float(scores.mean()), "reward_deviation": float(scores.std(correction=0)), "right": float(right.mean()),
        "diversity_complete": diversity(images, words),
    }


def first_alarm(run: Path) -> dict[str, Any] | None:
    """{"step", "said"} of the first look at which the alarm rang; None where it never did."""
    facts = base_facts(run)
    assert facts is not None
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if "measured" in event and (said := alarm_of(facts.measured, event["measured"])):
            return {"step": event["step"] + 1, "said": said}
    return None


def minutes(run: Path) -> float:
    """From the start of the run's process to its end."""
    state = json.loads((run / "state.json").read_text())
    return (state["ended"] - state["started"]) / 60


def sheet(pictures: dict[str, torch.Tensor], columns: int = 8) -> Any:
    """A row for each model: the first seed of the first prompts, none chosen."""
    from studio.media.images import grid, to_image

    rows = [pixels[: columns * SAMPLES : SAMPLES] for pixels in pictures.values()]
    return to_image(grid(torch.cat(rows).movedim(1, -1).numpy(), columns, gap=2))


# --- the card ------------------------------------------------------------------------------------------------

SAID = {"free": "nothing holds it", "hacked": "a bad reward: bits of a JPEG"}


def tuned_card(quality: dict[str, Any], commands: dict[str, str]) -> str:
    """The card of the example run. commands: what repeats each of RUNS."""
    base, held = quality["base"], [quality[name] for name in HELD]
    names = {"base": "the base", **{name: f"preset toybox, {name}" for name in HELD}, **SAID}
    recipes = "\n".join(f"| {names[name]}, {quality[name]['minutes']:.1f} min | `{command}` |" for name, command in commands.items())
    rows = "\n".join(_row(words, quality[name]) for name, words in names.items())
    rang = "\n".join(f"- {words}: {_rang(quality[name][ALARM])}" for name, words in names.items() if name in RUNS)
    return f"""# tuned

The example run of the ReFL tab: `{BASE}`, a model that was stopped early, follows toybox-reward, held to captioned pictures of the toy world
by the pre-training loss (arXiv:2304.05977). Beside it the same from two further seeds, the same with nothing that holds it, and a bad reward that is followed.

![samples](samples.png)

Rows: {"; ".join(names.values())}. Prompts of combinations that no model has seen; the first seeds, none chosen.

| | |
|---|---|
| base | {BASE} |
{recipes}
| minutes | by the clock, on two cores that other work may have shared |
| sampler | DDIM, {SAMPLER["num_steps"]} steps, guidance {SAMPLER["guidance_scale"]:g} |

## Measured

{PROMPTS} unseen prompts, {SAMPLES} fresh seeds each. The reward is toybox-reward's, whatever was followed; its deviation among the base's pictures is
{base["reward_deviation"]:.2f}. Right: object, colour, background, size and place, all of them, as toybox-examiner reads them.
What the toy world itself draws of these prompts lies {base[EXACT]:+.2f} deviations from the base.
Diversity: of prompts of which half leave things open, and of prompts that say everything, where what differs is tilt, a little of the place, and what is wrong.

| | reward | in deviations of the base's | all right | diversity | of complete prompts |
|---|---|---|---|---|---|
{rows}

The preset from {len(HELD)} seeds, mean and spread: reward {_spread([one["deviations"] for one in held], "+.2f")} deviations,
all right {_spread([100 * (one["right"] - base["right"]) for one in held], "+.1f")} points,
diversity {_spread([100 * one["diversity_change"] for one in held], "+.1f")} %
(of complete prompts {_spread([100 * one["diversity_complete_change"] for one in held], "+.1f")} %).

The alarm:

{rang}

Measured by `python -m trainers.rebuild tuned --judge-only`.
"""


def _row(words: str, figures: dict[str, Any]) -> str:
    kinds = (f"{figures[kind]:.3f}{_change(figures[f'{kind}_change'])}" for kind in ("diversity", "diversity_complete"))
    return f"| {words} | {figures['reward']:+.2f} | {figures['deviations']:+.2f} | {figures['right']:.1%} | {' | '.join(kinds)} |"


def _change(share: float) -> str:
    return f" ({share:+.1%})" if share else ""


def _spread(values: list[float], form: str) -> str:
    return f"{fmean(values):{form}} ({stdev(values):.2f})"


def _rang(alarm: dict[str, Any] | None) -> str:
    return f"rang at update {alarm['step']}: {alarm['said']}" if alarm else "silent."
