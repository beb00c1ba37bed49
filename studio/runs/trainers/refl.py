"""The knobs of tuning by a reward (ReFL and its relatives), their presets, and what can be known to go wrong with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.checks import quoted
from studio.errors import InvalidOption
from studio.models.families import FAMILIES
from studio.models.loading import known_family
from studio.rankings.formats import FORMATS
from studio.rewards import REWARDS, RewardInfo, reward_info
from studio.runs.trainers.dreambooth import USUAL_TARGETS, require_layers, require_whole
from studio.runs.trainers.options import MOST_STEPS, LoopOptions, option
from studio.runs.trainers.presets import PRESETS, Preset
from studio.runs.trainers.reward import DATABASE
from studio.toybox import WORLDS

__all__ = ["ALGORITHMS", "REFL_PRESETS", "ReFLOptions", "TUNABLE", "check", "check_tunable", "parse_rewards"]

# By name, with what each is called.
ALGORITHMS = {"refl": "ReFL", "draft_k": "DRaFT-K", "draft_lv": "DRaFT-LV", "dpo": "Diffusion-DPO"}
METHODS = ("full", "lora")
# The families whose models draw what words alone say.
TUNABLE = tuple(key for key, family in FAMILIES.items() if family.words_alone)
TYPED, BASE = "typed", "base"
MOST_REWARDS = 8
# The embedded reward, once it is there.
SCORER = "toybox-reward" if "toybox-reward" in REWARDS else "toybox-clip"


@dataclass(frozen=True, kw_only=True)
class ReFLOptions(LoopOptions):
    """The knobs of a run; `python -m trainers.refl --help` prints them. The defaults are those of ReFL as published, for real checkpoints."""

    base: str = option("toybox-sd", "the model that is tuned: a name of the catalogue, a folder or a Hub id", path="name")
    output: str = option("runs/refl", "the run folder; an unfinished run in it is resumed", path="write")
    # what is followed
    algorithm: str = option(
        "refl", "refl: gradient through one late step (arXiv:2304.05977); draft_k: through the last steps, draft_lv: through the last one at several noises "
        "(arXiv:2309.17400); dpo: from rankings, without a reward (arXiv:2311.12908)", ALGORITHMS,
    )
    rewards: str = option(SCORER, "the scorers that are followed, with a weight after * where there are several: toybox-clip*1 + sharpness*0.2")
    reward_units: str = option(
        "own", "own: rewards as the scorers say them, as ReFL takes ImageReward's; base: less the mean, by the deviation of the base's pictures, so that "
        "the cap means the same for every scorer", ("own", "base"),
    )
    judge: str = option("toybox-examiner", "a scorer that is not followed, and says whether it helps; empty = none")
    # the prompts
    data: str = option(
        "toybox", "the prompts: typed, one of toybox, toybox-pairs and toybox-world, a text file of one a line; of dpo, rankings: a database or an export",
        path="name",
    )
    format: str = option("studio", "of rankings: the studio's database, or the format of an export", (DATABASE, *FORMATS))
    collection: str = option("", "of rankings: only tasks of this name; empty = all")
    prompts: str = option("", "the prompts where data is typed, separated by |")
    prompt_limit: int = option(2_000, "the most prompts taken; for toybox, how many are made", low=2, high=1_000_000)
    held_out: float = option(0.2, "share of prompts that are never trained on and watched, 0.05 to 0.9", low=0.05, high=0.9)
    # drawing while training
    resolution: int = option(64, "pixels a side, a multiple of 8", low=16, high=2048)
    num_steps: int = option(40, "denoising steps of a picture in training", low=2, high=1000)
    stop_low: int = option(30, "refl: the earliest step that the reward is asked at, counted from 0; earlier ones are too blurred to judge", low=0, high=999)
    stop_high: int = option(39, "refl: the latest one", low=0, high=999)
    last_steps: int = option(1, "draft_k: how many of the last steps the gradient goes through; each costs the memory of one", low=1, high=1000)
    noises: int = option(2, "draft_lv: how many noises the last step is taken at", low=1, high=64)
    eta: float = option(1.0, "noise that the steps add: 1 as DDPM, 0 none", low=0, high=1)
    guidance_scale: float = option(1.0, "guidance of the steps in training; 1 = none, as published, and half the time", low=0, high=100)
    late_guidance: bool = option(False, "guide the step that the gradient goes through as well; without it, it is told the prompt alone")
    # the loss
    reward_weight: float = option(1e-3, "what the reward's loss is multiplied by", low=0, high=1e6)
    cap: float = option(2.0, "refl: no gradient above this reward, loss = relu(cap - reward)", low=-1e6, high=1e6)
    pretrain_weight: float = option(1.0, "weight of the pre-training loss, which keeps the model what it was; 0 = off, as the released code", low=0, high=1e6)
    pretrain_data: str = option(
        BASE, "what that loss is of: base = pictures that the base draws of the training prompts first; toybox and its like; a folder of captioned pictures",
        path="name",
    )
    pretrain_pictures: int = option(64, "how many of those there are", low=1, high=100_000)
    pretrain_batch: int = option(8, "of those, in a batch", low=1, high=4096)
    caption_drop: float = option(0.0, "share of pre-training captions replaced by the empty one, which guidance leads away from", low=0, high=1)
    kl_weight: float = option(0.0, "weight of the KL divergence from the frozen model over the steps that the gradient goes through; 0 = off", low=0, high=1e6)
    beta: float = option(2000.0, "dpo: how strongly the model is held to the base; 2000 to 5000 as published", low=0, high=1e9)
    # what is trained
    method: str = option("full", "what learns: all of the UNet or transformer, or LoRA, by a hundredth of the weights", METHODS)
    rank: int = option(8, "rank of LoRA's additions", low=1, high=1024)
    alpha: float = option(8.0, "LoRA's scale: additions are multiplied by alpha / rank", low=0, high=10_000)
    targets: str = option("to_q,to_k,to_v,to_out.0", "layers that LoRA adds to, comma-separated ends of module names")
    gradient_checkpointing: bool = option(False, "compute activations twice instead of keeping them: less memory, more time")
    # the optimiser
    steps: int = option(100, "updates in all", low=1, high=MOST_STEPS)
    batch_size: int = option(64, "pictures an update", low=1, high=4096)
    lr: float = option(1e-5, "peak learning rate of AdamW", low=0, high=1)
    lr_plan: str = option("constant", "see --help of trainers.ddpm", ("cosine", "trapezoid", "constant"))
    warmup: int = option(0, "updates over which the learning rate rises", low=0, high=MOST_STEPS)
    ema_decay: float = option(0.99, "decay of the averaged weights, which are the ones kept, 0 to 1", low=0, high=1)
    # looking on
    validation_prompts: int = option(8, "held-out prompts that are watched, and as many of those trained on", low=1, high=200)
    validation_samples: int = option(4, "pictures a prompt, each from its own seed; diversity needs two", low=2, high=64)
    validation_steps: int = option(20, "sampling steps of those", low=1, high=1000)
    validation_guidance: float = option(4.0, "guidance scale of those, as people sample", low=0, high=100)
    sample_every: int = option(10, "updates between looks, 0 = none", low=0, high=MOST_STEPS)
    checkpoint_every: int = option(10, "updates between checkpoints; one is saved at each look besides", low=1, high=MOST_STEPS)
    keep_checkpoints: int = option(20, "newest checkpoints kept; the one that the held-out scorer likes best is kept besides", low=1, high=1000)
    stop_on_alarm: bool = option(False, "end the run when the reward rises while the held-out scorer or the diversity falls")
    result: str = option("last", "the weights that the run gives: the last, or those of the look that the held-out scorer likes best", ("last", "best"))

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_pictures(self)
        if self.alpha <= 0:
            raise InvalidOption(f"alpha must be above 0, but it is {self.alpha}.")
        if self.method == "lora" and not self.target_layers:
            raise InvalidOption(f"LoRA needs layers to add to; {USUAL_TARGETS}")
        if self.algorithm != "dpo":
            parse_rewards(self.rewards)
        if self.algorithm == "refl" and not self.stop_low <= self.stop_high < self.num_steps:
            raise InvalidOption(
                f"The stop range {self.stop_low} to {self.stop_high} does not lie in the steps 0 to {self.num_steps - 1}; "
                "choose 0 <= stop_low <= stop_high < num_steps."
            )
        if self.algorithm == "draft_k" and self.last_steps > self.num_steps:
            raise InvalidOption(f"The gradient cannot go through the last {self.last_steps} of {self.num_steps} steps; lower last_steps.")
        if self.result == "best" and not (self.judge and self.sample_every):
            raise InvalidOption("The best weights are those that the held-out scorer likes best: name one as judge and set sample_every, or keep the last.")

    @property
    def target_layers(self) -> list[str]:
        """The ends of the names of the layers that LoRA adds to, one by one."""
        return [end.strip() for end in self.targets.split(",") if end.strip()]

    @property
    def typed_prompts(self) -> list[str]:
        """The typed prompts, each once."""
        return list(dict.fromkeys(prompt.strip() for prompt in self.prompts.split("|") if prompt.strip()))

    @property
    def weights(self) -> dict[str, float]:
        """The scorers that are followed, with their weights."""
        return parse_rewards(self.rewards)


def _require_pictures(options: ReFLOptions) -> None:
    if options.resolution % 8:
        raise InvalidOption(f"resolution must be a multiple of 8, 16 or more, but it is {options.resolution}.")
    if options.data == TYPED and len(options.typed_prompts) < 2:
        raise InvalidOption(f"Write at least 2 prompts, separated by |, one to train on and one to hold out; there are {len(options.typed_prompts)}.")


def parse_rewards(text: str) -> dict[str, float]:
    """{"toybox-clip": 1.0, "sharpness": 0.2} of "toybox-clip + sharpness*0.2". Raises InvalidOption."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(" + "))):
        name, star, weight = part.rpartition("*")
        try:
            found[name.strip() if star else part] = float(weight) if star else 1.0
        except ValueError:
            raise InvalidOption(f"The weight of a scorer is a number, as in toybox-clip*0.5, but it is {quoted(part)}.") from None
    if not 1 <= len(found) <= MOST_REWARDS:
        raise InvalidOption(f"Name 1 to {MOST_REWARDS} scorers to follow, joined by ' + '; there are {len(found)}.")
    if not all(0 < abs(weight) < 1e6 for weight in found.values()):
        raise InvalidOption(f"The weights of scorers must not be 0, nor beyond a million, but they are {quoted(text)}.")
    return found


def check(options: ReFLOptions) -> None:
    """What else can be known to go wrong before a run begins. Raises InvalidOption or UnknownName with what to do."""
    check_tunable(options.base)
    if options.method == "lora":
        require_layers(options.base, options.target_layers)
    if options.algorithm == "dpo":
        if not Path(options.data).exists():
            raise InvalidOption(f"Diffusion-DPO learns from rankings, and there are none at {quoted(options.data)}: rank some pictures in the tab Rank first.")
    else:
        for name in options.weights:
            require_gradient(reward_info(name))
        if options.data != TYPED and options.data not in WORLDS and not Path(options.data).exists():
            raise InvalidOption(f"data must be typed, one of {', '.join(WORLDS)}, or a text file of prompts, but it is {quoted(options.data)}.")
    if options.judge:
        reward_info(options.judge)
        if options.algorithm != "dpo" and options.judge in options.weights:
            raise InvalidOption(f"{options.judge} is followed, so it cannot judge as well; choose another scorer as judge, or none.")
    if options.pretrain_weight and options.pretrain_data != BASE and options.pretrain_data not in WORLDS and not Path(options.pretrain_data).is_dir():
        raise InvalidOption(f"pretrain_data must be base, one of {', '.join(WORLDS)}, or a folder of captioned pictures, not {quoted(options.pretrain_data)}.")


def check_tunable(name: str) -> None:
    """Whether a model draws what it is told in words alone, as tuning wants it. Raises UnknownName, or InvalidOption with what to do."""
    source, family = require_whole(name), known_family(name)
    if family is None and not Path(source).is_dir():
        return  # not fetched yet: what it is, is said when it is loaded
    if family is None or not family.words_alone:
        what = "no model that the studio knows" if family is None else family.label
        able = ", ".join(FAMILIES[key].label for key in TUNABLE)
        raise InvalidOption(f"{quoted(name)} is {what}: it does not draw from words alone. Tune a model of {able}, such as toybox-sd.")


def require_gradient(info: RewardInfo) -> None:
    """Refuse a scorer that gives no gradient. Raises InvalidOption."""
    if not info.differentiable:
        raise InvalidOption(
            f"{info.label} has no gradient that a model could follow. Rank pictures by it and take Diffusion-DPO, which needs none, or choose another scorer."
        )


# Two that err in different ways are harder to serve by what is no picture.
BOTH = f"{SCORER} + toybox-clip" if SCORER != "toybox-clip" else SCORER
# What all presets for the embedded model have, which is one that was stopped early: it has most to gain. Pictures are drawn as they are looked at,
# guided, in few steps; the late step is guided too: what is learned of one part alone is amplified by the guidance, and overshoots.
TOYBOX: dict[str, Any] = {
    "base": "toybox-sd-early", "rewards": BOTH, "judge": "toybox-examiner", "data": "toybox", "resolution": 64, "steps": 120, "batch_size": 16,
    "lr": 4e-4, "lr_plan": "cosine", "warmup": 10, "num_steps": 10, "stop_low": 5, "stop_high": 9, "guidance_scale": 4.0, "late_guidance": True,
    "reward_weight": 1.0, "reward_units": "base", "pretrain_data": "toybox", "pretrain_pictures": 4000, "pretrain_batch": 16, "ema_decay": 0.95,
    "sample_every": 20, "checkpoint_every": 20, "validation_steps": 12, "validation_prompts": 12,
}
# Of ReFL: no noise is added, as none is where pictures are looked at, and the reward is asked from the fourth step on, since which object it becomes
# is decided before the last ones. What is looked at and kept is averaged over some fifty updates, since single ones wander; at a rate of 4e-4 what
# is right fell in one of two runs, half-way, by four standard errors.
TOYBOX_REFL: dict[str, Any] = {
    **TOYBOX, "rewards": SCORER, "steps": 340, "warmup": 50, "stop_low": 3, "eta": 0.0, "reward_weight": 2.0, "pretrain_batch": 24, "caption_drop": 0.1,
    "lr": 3e-4, "ema_decay": 0.98, "sample_every": 34, "checkpoint_every": 34, "validation_prompts": 16,
}
SD15: dict[str, Any] = {
    "base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "resolution": 512, "rewards": "zai-org/ImageReward", "judge": "yuvalkirstain/PickScore_v1",
    "mixed_precision": "bf16", "gradient_checkpointing": True, "validation_guidance": 7.5, "validation_prompts": 4, "validation_samples": 2,
    "pretrain_batch": 1, "batch_size": 4, "accumulation": 16,
}

REFL_PRESETS: dict[str, Preset] = {
    "toybox": Preset(
        label="Toybox, CPU", about="All of the small embedded model follows a reward, held to captioned pictures, and ends where it no longer helps.",
        options={**TOYBOX_REFL, "pretrain_weight": 10.0, "stop_on_alarm": True},
    ),
    "toybox-free": Preset(
        label="Toybox, nothing holds it", about="The same without the pre-training loss, as the released code: watch what is lost.",
        options={**TOYBOX_REFL, "pretrain_weight": 0.0, "cap": 1000.0},
    ),
    "toybox-hacked": Preset(
        label="Toybox, a bad reward", about="The size of a JPEG as the reward: the number rises, the pictures go, and the alarm rings.",
        options={**TOYBOX_REFL, "rewards": "jpeg_bits", "pretrain_weight": 0.0, "cap": 1000.0, "steps": 100, "sample_every": 20, "checkpoint_every": 20},
    ),
    "toybox-draft": Preset(
        label="Toybox, DRaFT-LV", about="Gradient through the last step alone, at two noises, on low-rank additions.",
        options={
            **TOYBOX, "algorithm": "draft_lv", "method": "lora", "rank": 16, "alpha": 16.0, "lr": 3e-4, "pretrain_weight": 1.0,
            "targets": PRESETS["toybox-lora"].options["targets"],
        },
    ),
    "toybox-dpo": Preset(
        label="Toybox, Diffusion-DPO", about="From the rankings themselves, without a reward: choose Those that were ranked as prompts.",
        options={**TOYBOX, "algorithm": "dpo", "pretrain_weight": 0.0, "lr": 2e-5, "beta": 500.0},
    ),
    "sd15": Preset(
        label="SD 1.5, 24 GB", about="ReFL as published, all of the UNet, with the pre-training loss that the released code leaves out.",
        options={**SD15, "lr": 1e-5},
    ),
    "sd15-lora": Preset(
        label="SD 1.5 LoRA, 16 GB", about="The same on low-rank additions.", options={**SD15, "method": "lora", "rank": 16, "alpha": 16.0, "lr": 1e-4},
    ),
}
