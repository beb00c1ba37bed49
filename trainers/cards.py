"""The cards of the embedded models: how each is judged on fresh seeds, and the README.md that says so."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from studio.runs.trainers.clip import ClipOptions
from studio.runs.trainers.controlnet import ControlNetOptions
from studio.runs.trainers.ddpm import DDPMOptions
from studio.runs.trainers.dreambooth import DreamBoothOptions
from studio.runs.trainers.latent import LatentOptions
from studio.runs.trainers.options import LoopOptions
from studio.runs.trainers.refl import ReFLOptions
from studio.runs.trainers.reward import RewardOptions
from studio.runs.trainers.vae import VaeOptions
from trainers.attributes import AttributeOptions
from trainers.judge import JudgeOptions, judge
from trainers.matching import MatchingOptions
from trainers.reader import ReaderOptions

__all__ = ["JUDGES", "write_card", "poster", "command"]

DATA = {
    "digits": "scikit-learn's handwritten digits (1,437 of 1,797; 360 are held out), enlarged from 8x8 to 16x16 by bicubic interpolation",
    "toybox": "40,000 scenes of the studio's own Toybox; a tenth of the (object, colour, background) combinations is never shown",
    "toybox-world": (
        "40,000 scenes of the studio's own Toybox, half of them of one object, half of two in a relation; a tenth of the (object, colour, background) "
        "combinations and a tenth of the ordered pairs of objects are never shown"
    ),
    "toybox-large": (
        "40,000 scenes of the studio's own Toybox, every object large and in the middle; "
        "a tenth of the (object, colour, background) combinations is never shown"
    ),
}
# What the recipe alone does not say of the weights that are shipped.
NOTES = {
    "digits-ddpm": "The first 1,000 steps followed a learning-rate plan laid out for 3,000 steps.",
    "toybox-ddpm": "Undisturbed, one core took 1.6 steps a second, which makes 32 minutes.",
    "toybox-examiner": "Judged in fp16, as it is kept.",
    "toybox-reader": "Undisturbed, one core took 2.4 steps a second, which makes 28 minutes. Judged in fp16, as it is kept.",
    "toybox-clip": (
        "The text tower learns first, from words alone, to tell captions apart that differ in one respect; then the picture tower learns to follow it. "
        "Trained together, colours alone find the right caption for so long that the other words are never learned."
    ),
    "toybox-sd": "The first stage is the autoencoder; the text encoder is toybox-clip's.",
    "toybox-reward": (
        "The picture tower and the words begin as toybox-clip's; trainers/matching.py is its pre-training, what BLIP's is to ImageReward. "
        "The first stage ran before it had to say how clean a picture is. "
        "Judged in fp16, as it is kept."
    ),
    "toybox-sd-early": "A constant learning rate; the run was ended at this step.",
    **{f"toybox-controlnet-{kind}": "The base stays as it is." for kind in ("canny", "depth", "segmentation")},
}
PROGRAMS: dict[type, str] = {
    DDPMOptions: "ddpm", ClipOptions: "clip", VaeOptions: "vae", LatentOptions: "latent", AttributeOptions: "attributes", ReaderOptions: "reader",
    DreamBoothOptions: "dreambooth", ControlNetOptions: "controlnet", RewardOptions: "reward", MatchingOptions: "matching", ReFLOptions: "refl",
}

POSTER = (
    "a purple butterfly on a yellow background", "a red heart on a white background", "a large green tree on a blue background",
    "a pink flower on a teal background", "an orange fish on a blue background", "a black cat on a pink background",
    "a yellow star on a black background", "a large blue car on an orange background", "a small red umbrella at the top on a gray background",
    "a brown house on a green background", "a white boat on the left on a blue background", "a teal mushroom on a purple background",
    "a small gray cup in the bottom right corner on a red background", "a large orange moon on a purple background",
    "a green hexagon on the right on a yellow background", "a blue ring in the top left corner on a brown background",
)

MEASURED = "## Measured"  # from here on a card says what was measured

# How each kind of folder is used without the studio; tests/test_assets.py runs what stands in the cards.
PIXEL_USAGE = """import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained("FOLDER")
unet, scheduler = pipeline.unet, pipeline.scheduler
x_t = torch.randn(1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
scheduler.set_timesteps(50)
with torch.inference_mode():
    for t in scheduler.timesteps:  # calling the pipeline itself leaves no room for a class
        x_t = scheduler.step(unet(x_t, t, torch.tensor([3])).sample, t, x_t).prev_sample"""
CLIP_USAGE = """import torch
from transformers import CLIPModel, CLIPTokenizer

model, tokenizer = CLIPModel.from_pretrained("FOLDER"), CLIPTokenizer.from_pretrained("FOLDER")
with torch.inference_mode():
    tokens = tokenizer(["a red heart", "a blue car"], padding="max_length", return_tensors="pt")
    similarity = model(**tokens, pixel_values=torch.zeros(1, 3, 64, 64)).logits_per_image  # pictures in [-1, 1]"""
CONTROLNET_USAGE = """from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

net = ControlNetModel.from_pretrained("FOLDER")
pipeline = StableDiffusionControlNetPipeline.from_pretrained("assets/models/toybox-sd", controlnet=net)
hint = Image.open("FOLDER/map.png").convert("RGB")
picture = pipeline("", image=hint, num_inference_steps=20, guidance_scale=1).images[0]"""
LATENT_USAGE = """from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("FOLDER")
picture = pipeline("a red heart on a white background", num_inference_steps=25, guidance_scale=4).images[0]"""


# --- judging -------------------------------------------------------------------------------------------------

def judge_clip(folder: Path) -> dict[str, Any]:
    """Retrieval of the right caption among 64, on combinations that were never trained on and on fresh scenes of the others."""
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    from studio.toybox import ATTRIBUTES
    from trainers.clip import attribute_accuracy, pair_accuracy, retrieval_accuracy

    model, tokenizer = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval(), CLIPTokenizer.from_pretrained(folder)
    by_attribute = {attribute: attribute_accuracy(model, tokenizer, attribute) for attribute in ATTRIBUTES}
    found = {split: retrieval_accuracy(model, tokenizer, split=split) for split in ("held_out", "train")}
    return found | {"by_attribute": by_attribute, "two_objects": pair_accuracy(model, tokenizer)}


def judge_latent(folder: Path) -> dict[str, Any]:
    """Reconstruction of the autoencoder; what the examiner reads off pictures of fresh prompts; the examiner's own accuracy."""
    from studio.models.catalogue import ASSETS
    from studio.models.examiner import load_examiner, own_accuracy
    from studio.models.scene_reader import load_reader
    from trainers.attributes import judge_prompts
    from trainers.latent import load_vae
    from trainers.reader import judge_world
    from trainers.vae import preview_explained, reconstruction_psnr

    # Loaded first: without them nothing needs to be drawn.
    examiner, reader, vae = load_examiner(), load_reader(ASSETS / "models" / "toybox-reader"), load_vae(str(folder / "vae"))
    poster(folder).save(folder / "poster.png")
    return {
        "psnr_db": reconstruction_psnr(vae), "psnr_two_objects_db": reconstruction_psnr(vae, world="toybox-pairs"),
        "preview_explained": preview_explained(vae, world="toybox-world"),
        "two_objects": {split: judge_world(str(folder), reader, world="toybox-pairs", split=split) for split in ("train", "held_out")},
        "examiner_on_renders": own_accuracy(),
        "fresh_prompts": judge_prompts(str(folder), examiner, split="train"),
        "unseen_combinations": judge_prompts(str(folder), examiner, split="held_out"),
    }


def judge_reader(folder: Path) -> dict[str, Any]:
    """Its answers on 1,000 fresh renders of one object, and as many of two."""
    from studio.models.scene_reader import load_reader
    from trainers.reader import examine_fresh

    return examine_fresh(load_reader(folder))


def judge_examiner(folder: Path) -> dict[str, Any]:
    """Its answers on 2,000 fresh renders."""
    from trainers.attributes import write_accuracy

    return {"on_renders": write_accuracy(folder)}


def judge_domino(folder: Path) -> dict[str, Any]:
    """The example run of DreamBooth beside its base model."""
    from trainers.subject import judge_subject

    return judge_subject(folder)


def judge_tuned(folder: Path) -> dict[str, Any]:
    """The example run of ReFL beside its base model."""
    from trainers import tuned

    return tuned.judge_tuned(folder)


def judge_early(folder: Path) -> dict[str, Any]:
    """What the examiner reads off its pictures, and its poster."""
    from studio.models.examiner import load_examiner
    from trainers.attributes import judge_prompts

    poster(folder).save(folder / "poster.png")
    return {split: judge_prompts(str(folder), load_examiner(), split=split) for split in ("train", "held_out")}


def judge_reward(folder: Path) -> dict[str, Any]:
    """Its order of the pictures of fresh prompts, and that of the CLIP score, against the rule that its rankings follow."""
    from trainers.oracle import judge_rewards

    found = judge_rewards([str(folder), "toybox-clip"])
    return {"reward": found[str(folder)], "clip_score": found["toybox-clip"]}


def judge_steering(folder: Path) -> dict[str, Any]:
    """Obedience on held-out maps beside what could be reached, and whether prompts still count."""
    from trainers.steering import judge_controlnet

    return judge_controlnet(folder)


JUDGES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits-ddpm": lambda folder: judge(JudgeOptions(model="digits-ddpm", data="digits")),
    "toybox-ddpm": lambda folder: judge(JudgeOptions(model="toybox-ddpm", data="toybox-large")),
    "toybox-examiner": judge_examiner,
    "toybox-reader": judge_reader,
    "toybox-clip": judge_clip,
    "toybox-sd": judge_latent,
    "toybox-reward": judge_reward,
    **{f"toybox-controlnet-{kind}": judge_steering for kind in ("canny", "depth", "segmentation")},
    "toybox-sd-early": judge_early,
    "domino": judge_domino,
    "tuned": judge_tuned,
}


def poster(folder: Path, columns: int = 4, scale: int = 2) -> Any:
    """A contact sheet: a prompt under each picture, first seeds, nothing chosen."""
    from PIL import Image, ImageDraw, ImageFont

    from trainers.attributes import generate

    pictures = generate(str(folder), list(POSTER), guidance_scale=4.0, num_steps=25, seed=0)
    side, gap, text_height = 64 * scale, 14, 30
    cell_width, cell_height = side + 2 * gap, side + text_height + gap
    sheet = Image.new("RGB", (columns * cell_width, gap + -(-len(POSTER) // columns) * cell_height), "#faf8f4")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for i, (prompt, picture) in enumerate(zip(POSTER, pictures)):
        x, y = i % columns * cell_width + gap, i // columns * cell_height + gap
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC), (x, y))
        for line, words in enumerate(_two_lines(prompt)):
            draw.text((x + side / 2, y + side + 3 + 12 * line), words, fill="#44403a", font=font, anchor="mt")
    return sheet


def _two_lines(prompt: str, width: int = 24) -> list[str]:
    import textwrap

    return textwrap.wrap(prompt, width)[:3]


# --- cards ---------------------------------------------------------------------------------------------------

def command(options: LoopOptions) -> str:
    """The command line that repeats a recipe: what differs from the defaults."""
    default = {field.name: field.default for field in type(options).__dataclass_fields__.values()}
    changed = {field: value for field, value in vars(options).items() if value != default[field]}
    words = [_flag(field, value) for field, value in changed.items()]
    return f"python -m trainers.{PROGRAMS[type(options)]} " + " ".join(words)


def _flag(field: str, value: Any) -> str:
    name = field.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {shlex.quote(str(value))}"


def write_card(folder: Path, name: str, stages: Sequence[LoopOptions], quality: dict[str, Any], *, keep_description: bool = False) -> None:
    """README.md of a model: data, recipe, measured quality. With keep_description only what was measured is written anew:
    the weights are then not those of today's recipe, and what the card says of theirs stays."""
    cards = {
        "toybox-clip": clip_card, "toybox-sd": latent_card, "toybox-examiner": examiner_card, "toybox-reader": reader_card, "toybox-reward": reward_card,
        "domino": domino_card, "tuned": tuned_card, "toybox-sd-early": early_card,
        **{f"toybox-controlnet-{kind}": controlnet_card for kind in ("canny", "depth", "segmentation")},
    }
    kind, file = cards.get(name, pixel_card), folder / "README.md"
    text = kind(folder, name, stages, quality)
    if keep_description and file.is_file():
        text = file.read_text().partition(MEASURED)[0] + MEASURED + text.partition(MEASURED)[2]
    file.write_text(text)


def _millions(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2e6


def _recipe(stages: Sequence[LoopOptions]) -> str:
    return ", then ".join(f"`{command(stage)}`" for stage in stages)


def _training(name: str, stages: Sequence[LoopOptions]) -> str:
    # Stages with one run folder are one run, whose steps count on.
    runs = {stage.output: stage for stage in stages}.values()
    steps = ", then ".join(f"{stage.steps} steps of {stage.batch_size}" for stage in runs)
    return f"{steps} on two shared CPU cores; the averaged weights are kept. {NOTES[name]}"


def _usage(code: str, name: str) -> str:
    return f"```python\n{code.replace('FOLDER', f'assets/models/{name}')}\n```\n"


def pixel_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of a pixel model."""
    from studio.models import MODELS

    options, near = stages[-1], quality["nearest_training_picture"]

    def distances(which: str) -> str:
        return f"{near[which]['smallest']:.1f}, {near[which]['median']:.1f}"

    return f"""# {name}

A class-conditional pixel DDPM, {options.resolution}x{options.resolution}, {_millions(folder):.2f} million parameters in fp16,
{len(MODELS[name].class_names)} classes and "no class".
`DDPMPipeline.from_pretrained` of plain diffusers loads this folder; `studio.json` adds the class names.

![samples](samples.png)

{_usage(PIXEL_USAGE, name)}
| | |
|---|---|
| data | {"; then ".join(DATA[stage.data] for stage in stages)} |
| recipe | {_recipe(stages)} |
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

Measured by `python -m trainers.judge --model {name} --data {stages[-1].data}`.
"""


def examiner_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the examiner."""
    rows = "\n".join(f"| {attribute} | {share:.2%} |" for attribute, share in quality["on_renders"].items())
    return f"""# {name}

A convolutional network that reads object, colour, background, size and position off a 64x64 picture of the toy world;
{_millions(folder):.2f} million parameters in fp16. It judges the generators, and tells in the studio what a model has forgotten.
`studio.models.examiner.load_examiner` loads it.

| | |
|---|---|
| data | 40,000 renders of the Toybox, half of them softened; no generated picture |
| recipe | {_recipe(stages)} |
| training | {_training(name, stages)} |
| licence | MIT |

## Measured

2,000 fresh renders.

| attribute | right |
|---|---|
{rows}
"""


def reader_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the reader."""
    questions = list(dict.fromkeys([*quality["one"], *quality["two"]]))
    rows = "\n".join(f"| {question} | {_share(quality['one'], question)} | {_share(quality['two'], question)} |" for question in questions)
    return f"""# {name}

A convolutional network that finds every object of a 64x64 picture of the toy world, with its kind, colour, size and place, and reads
the background; {_millions(folder):.2f} million parameters in fp16. `studio.models.scene_reader.load_reader` loads it.

| | |
|---|---|
| data | 40,000 renders of one object and of two, of all combinations, half of them softened; no generated picture |
| recipe | {_recipe(stages)} |
| training | {_training(name, stages)} |
| licence | MIT |

## Measured

1,000 fresh renders of one object, and 1,000 of two.

| right | one object | two objects |
|---|---|---|
{rows}
"""


def reward_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the reward."""
    from trainers.oracle import ANNOTATORS, WEIGHTS

    reward, clip = quality["reward"], quality["clip_score"]
    names = {"oracle": "all pairs, against the rule", "noisy": "all pairs, against annotators with noise"}
    names |= {name: f"pairs that differ in {name}" for name in WEIGHTS}
    rows = "\n".join(f"| {words} | **{reward[name]:.1%}** | {clip[name]:.1%} |" for name, words in names.items() if name in reward)
    weights = ", ".join(f"{name} {weight:g}" for name, weight in WEIGHTS.items())
    tasks = ", then ".join(f"{stage.toybox_tasks:,}" for stage in stages if isinstance(stage, RewardOptions))
    pictures = (
        f"{tasks} prompts with five pictures each: renders right, wrong in one respect or several, blurred, noisy or in blocks, and "
        "pictures of toybox-sd in 2 to 25 steps; ranked by two made-up annotators"
    )
    noise = " and ".join(f"{deviation:g} ({annotator})" for annotator, deviation in ANNOTATORS.items())
    return f"""# {name}

How well a picture of the toy world fits its prompt, and how cleanly it is drawn: ImageReward's architecture (arXiv:2304.05977) in small,
{_millions(folder):.2f} million parameters in fp16. `studio.rewards.load_reward("{name}")` loads it; transformers reads `vision_model/` (BlipVisionModel) and
`text_encoder/` (BlipTextModel) with `from_pretrained`, the head is five linear layers in `head.safetensors`, the mean and deviation are in `reward.json`.

| | |
|---|---|
| data | {pictures} |
| rule | a picture is worth the sum of {weights} (clean from 0 to 1) over what is right; annotators see it with noise of a deviation of {noise} |
| recipe | {_recipe(stages)} |
| training | {_training(name, stages)} |
| licence | MIT |

## Measured

400 fresh prompts of combinations that were never trained on, five pictures each; the share of pairs in the right order.

| pairs | reward | CLIP score |
|---|---|---|
{rows}
"""


def domino_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the example run of DreamBooth."""
    from trainers.subject import RUNS, subject_card

    return subject_card(quality, dict(zip(RUNS, map(command, stages), strict=True)))


def tuned_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the example run of ReFL."""
    from trainers import tuned

    return tuned.tuned_card(quality, dict(zip(tuned.RUNS, map(command, stages), strict=True)))


def early_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the text-to-image model that was stopped early."""
    return f"""# {name}

toybox-sd made worse: its UNet once more from nothing, stopped long before it draws well. What a reward can improve is to be seen on it: the tab ReFL begins
with it. Every other part is toybox-sd's own, by a link. `StableDiffusionPipeline.from_pretrained` of plain diffusers loads this folder.

![poster](poster.png)

The pictures are those of the first seeds, none was chosen; DDIM, 25 steps, guidance 4.

{_usage(LATENT_USAGE, name)}
| | |
|---|---|
| data | {DATA[stages[-1].data].replace("40,000", f"{stages[-1].data_limit:,}")}; two captions each, one complete and one reworded |
| recipe | {_recipe(stages)} |
| training | {_training(name, stages)} |
| licence | MIT |

{MEASURED}

200 prompts that say everything, a fresh seed each (DDIM, 25 steps, guidance 4), read by a network that was trained on renders
alone; "unseen" are 200 prompts whose combination of object, colour and background was never trained on.

| right | fresh prompts | unseen combinations |
|---|---|---|
{_rows_of_shares([quality["train"], quality["held_out"]])}

Measured by `python -m trainers.rebuild {name} --judge-only`.
"""


def clip_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the CLIP."""
    from studio.toybox import ATTRIBUTES

    rows = "\n".join(f"| {attribute} | {len(ATTRIBUTES[attribute])} | {share:.1%} |" for attribute, share in quality["by_attribute"].items())
    choices = {"relation": 4, "swapped colours": 2}
    rows += "".join(f"\n| two objects: {what} | {choices[what]} | {share:.1%} |" for what, share in quality["two_objects"].items())
    return f"""# {name}

A small CLIP of the toy world: {_millions(folder):.2f} million parameters in fp16, pictures of 64x64 in patches of 8, texts of up to 32 tokens.
`CLIPModel.from_pretrained` and `CLIPTokenizer.from_pretrained` of transformers load this folder. Every word of the
Toybox is one token; any other word falls into pieces down to single bytes.

{_usage(CLIP_USAGE, name)}
| | |
|---|---|
| data | {DATA[stages[-1].data]}; half of the captions complete, half reworded with parts left out |
| recipe | {_recipe(stages)} |
| training | {_training(name, stages)} |
| licence | MIT |

## Measured

Each of 3,200 fresh pictures looks for its own full caption among 64 different ones.

| scenes | right at first choice |
|---|---|
| combinations that were never trained on | **{quality["held_out"]:.1%}** |
| fresh scenes of the other combinations | {quality["train"]:.1%} |

Each of 200 fresh pictures of unseen combinations looks for its caption among all those that differ in one attribute alone.

| attribute | choices | right at first choice |
|---|---|---|
{rows}
"""


def controlnet_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of a ControlNet."""
    options = stages[-1]
    return f"""# {name}

A ControlNet for toybox-sd that follows {quality["kind"].removeprefix("toybox-")} of drawn scenes, {_millions(folder):.2f} million parameters in fp16.
`ControlNetModel.from_pretrained` of plain diffusers loads this folder; `studio.json` says what its maps show.

![samples](samples.png)

Held-out maps, then what is drawn with their prompts, then with an empty one.

{_usage(CONTROLNET_USAGE, name)}
| | |
|---|---|
| data | {DATA.get(options.data, options.data).replace("40,000", f"{options.data_limit:,}")}; maps are exact |
| recipe | {_recipe(stages)} |
| loss | half of the captions empty; Min-SNR, gamma {options.min_snr_gamma:g}, offset {options.min_snr_offset:g} |
| training | {_training(name, stages)} |
| licence | MIT |

{_steering_measured(name, quality)}"""


def _steering_measured(name: str, quality: dict[str, Any]) -> str:
    """What was measured of a ControlNet."""
    from trainers.steering import CONTRADICTED, PAIRS

    prompts, against = quality["prompts"], quality["contradicted"]
    whose = ("empty_prompt", "full_prompt", "ceiling_autoencoder", "ceiling_render", "chance")
    obeyed = "\n".join(f"| {measure} | " + " | ".join(f"{values[who]:.1%}" for who in whose) + " |" for measure, values in quality["measured"].items())
    rows = "\n".join(f"| {kind} | {_share(prompts['with_control'], kind)} | {share:.1%} | {_share(prompts['empty_prompt'], kind)} |"
                     for kind, share in prompts["without"].items())
    return f"""{MEASURED}

{quality["maps"]} maps of scenes whose combination of object, colour and background was never trained on, a fresh seed each ({STEERED}). The ceiling is
what the scenes' own renders reach when they are measured in the same way, before and after the autoencoder; chance is the map of another scene.

| obeyed | empty prompt | full prompt | ceiling, after the autoencoder | ceiling, renders | chance |
|---|---|---|---|---|---|
{obeyed}

What a network that was trained on renders alone reads off the pictures:

| right in | full prompt, with control | toybox-sd without | empty prompt, with control |
|---|---|---|---|
{rows}

## When map and prompt contradict each other

![contradicted]({CONTRADICTED})

Top to bottom: the maps; what is drawn with their own prompts; with prompts that name another object in another size and place; what these
prompts give without control. On {against["maps"]} such maps the map is obeyed to {against["obedience"]:.1%}; the colour is the prompt's in
{against["colour"]:.1%}, the background in {against["background"]:.1%}; the object that is read off is that of the map in
{against["object_of_map"]:.1%}, that of the prompt in {against["object_of_prompt"]:.1%}.
{_second_stage_measured(quality) if "before" in quality else ""}{_two_units_measured(quality["two_units"], PAIRS) if "two_units" in quality else ""}
Measured by `python -m trainers.rebuild {name} --judge-only`.
"""


STEERED = "DDIM, 20 steps, guidance 4 with a prompt, none without"


def _second_stage_measured(quality: dict[str, Any]) -> str:
    """What a second stage gained."""
    pairs = {name: [(before[who], quality["measured"][name][who]) for who in ("empty_prompt", "full_prompt")] for name, before in quality["before"].items()}
    rows = "\n".join(f"| {name} | " + " | ".join(f"{before:.1%} | {after:.1%}" for before, after in values) + " |" for name, values in pairs.items())
    return f"""
## What the second stage gains

The stage in which the map is read off the picture again (arXiv:2404.07987), on the same maps and seeds.

| obeyed | empty prompt, before | after | full prompt, before | after |
|---|---|---|---|---|
{rows}
"""


def _two_units_measured(figures: dict[str, float], pairs: int) -> str:
    """What was measured of two ControlNets at once."""
    from trainers.steering import TWO_UNITS

    return f"""
## Two at once

![two units]({TWO_UNITS})

Top to bottom: edges of one scene, which toybox-controlnet-canny follows in the left half alone; segmentation of another, which
toybox-controlnet-segmentation follows in the right half; the picture under both, with an empty prompt. In {pairs} such pictures the outline in the left
half has an F1 of {figures["edges_left"]:.1%}, the right half agrees with its map to {figures["segmentation_right"]:.1%} (IoU).
"""


def latent_card(folder: Path, name: str, stages: Sequence[Any], quality: dict[str, Any]) -> str:
    """The card of the text-to-image model."""
    options = stages[-1]
    return f"""# {name}

Text to image at 64x64 with the whole anatomy of Stable Diffusion, {_millions(folder):.2f} million parameters in fp16: a CLIP text
encoder, a UNet with cross-attention on latents of 4x16x16, an autoencoder (f = 4).
`StableDiffusionPipeline.from_pretrained` of plain diffusers loads this folder.

![poster](poster.png)

The pictures are those of the first seeds, none was chosen; DDIM, 25 steps, guidance 4.

{_usage(LATENT_USAGE, name)}
| | |
|---|---|
| data | {DATA[options.data]}; two captions each, one complete and one reworded |
| recipe | {_recipe(stages)} |
| process | scaled_linear, T = 1000, the network predicts {options.prediction_type}; a tenth of captions empty |
| loss | Min-SNR, gamma {options.min_snr_gamma:g}, offset {options.min_snr_offset:g} |
| training | {_training(name, stages)} |
| licence | MIT |

{_latent_measured(quality)}"""


def _latent_measured(quality: dict[str, Any]) -> str:
    """What was measured of the text-to-image model."""
    rows = _rows_of_shares([quality[key] for key in ("fresh_prompts", "unseen_combinations", "examiner_on_renders")])
    rows_of_two = _rows_of_shares([quality["two_objects"][split] for split in ("train", "held_out")])
    return f"""## Measured

Reconstruction of 1,024 fresh scenes by the autoencoder: **{quality["psnr_db"]:.1f} dB** PSNR, of as many scenes of two objects
{quality["psnr_two_objects_db"]:.1f} dB. The linear preview explains {quality["preview_explained"]:.1%} of the colours' variance.

200 prompts that say everything, a fresh seed each (DDIM, 25 steps, guidance 4), read by a network that was trained on renders
alone; "unseen" are 200 prompts whose combination of object, colour and background was never trained on.

| right | fresh prompts | unseen combinations | the reader's own accuracy on renders |
|---|---|---|---|
{rows}

200 prompts of two objects that say everything, read by toybox-reader; "unseen" are prompts with a combination, or an order of two
objects, that was never trained on.

| right | fresh prompts | unseen |
|---|---|---|
{rows_of_two}

Measured by `python -m trainers.rebuild toybox-sd --judge-only`.
"""


def _rows_of_shares(columns: Sequence[dict[str, float]]) -> str:
    """A row for each name of the first column, a share in each column that has it."""
    return "\n".join(f"| {name} | " + " | ".join(_share(column, name) for column in columns) + " |" for name in columns[0])


def _share(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.1%}" if name in figures else ""
