"""Options of trainings have bounds, each said in a sentence; whoever asks, and by whichever trainer."""

import dataclasses
import math

import pytest

from studio.errors import InvalidOption
from studio.runs.trainers import TRAINERS, options_table, resolve_options
from studio.runs.trainers.dreambooth import DreamBoothOptions
from studio.runs.trainers.options import MOST_TEXT
from studio.runs.trainers.presets import PRESETS

NUMBERS = [
    (trainer, field) for trainer, info in TRAINERS.items() for field in dataclasses.fields(info.options)
    if isinstance(field.default, int | float) and not isinstance(field.default, bool)
]
NAMED = [f"{trainer}-{field.name}" for trainer, field in NUMBERS]
# A lower end that is left out of the range.
OPEN = ("lr", "grad_clip", "alpha")


def refused(trainer: str, name: str, value: object) -> str:
    with pytest.raises(InvalidOption) as caught:
        TRAINERS[trainer].options(**{name: value})
    return str(caught.value)


@pytest.mark.parametrize(("trainer", "field"), NUMBERS, ids=NAMED)
def test_every_number_has_a_range_and_its_default_lies_in_it(trainer, field):
    low, high = field.metadata["low"], field.metadata["high"]
    assert -math.inf < low <= field.default <= high < math.inf


@pytest.mark.parametrize(("trainer", "field"), NUMBERS, ids=NAMED)
def test_what_lies_outside_is_refused_by_name(trainer, field):
    low, high = field.metadata["low"], field.metadata["high"]
    for value in (low - 1, high + 1, 10**30, math.inf, -math.inf, math.nan, *([low] if field.name in OPEN else [])):
        assert field.name in refused(trainer, field.name, value)
    if isinstance(field.default, int):
        assert "a whole number" in refused(trainer, field.name, high - 0.5)


@pytest.mark.parametrize(("options", "words"), [
    ({"rank": 10**12}, "rank must be a whole number from 1 to 1024"), ({"steps": 10**30}, "steps must be a whole number"),
    ({"class_prompt": "a " + "cat " * 2000}, f"class_prompt may have {MOST_TEXT} characters"),
    ({"validation_prompts": "|".join("abcdefgh" * 10)}, "At most 64 prompts"),
    ({"class_variations": "|".join("abcdefgh" * 10)}, "At most 64 prompts"), ({"method": "lora", "targets": " , "}, "LoRA needs layers"),
])
def test_what_used_to_start_is_refused(options, words):
    with pytest.raises(InvalidOption, match=words):
        DreamBoothOptions(**options)


@pytest.mark.parametrize(("trainer", "options", "words"), [
    ("ddpm", {"data_limit": 1_000_000, "resolution": 512}, "1,000,000 pictures of 512 x 512 pixels take 732 GiB of memory, and at most 32 GiB"),
    ("latent", {"widths": ",".join(["64"] * 9)}, "widths may be 8 numbers up to 2048 at most"), ("vae", {"widths": "8,1000000000"}, "up to 2048 at most"),
    ("latent", {"widths": "64,7"}, "multiples of 16"), ("ddpm", {"channels": 2}, "3 .colour. or 1 .grey."),
    ("ddpm", {"steps": math.inf}, "steps must be a whole number"),
])
def test_what_is_out_of_all_proportion_is_refused(trainer, options, words):
    with pytest.raises(InvalidOption, match=words):
        resolve_options(trainer, options)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_lie_within(preset):
    assert DreamBoothOptions(**PRESETS[preset].options)


def test_the_table_says_the_ranges():
    rows = {row.name: row for row in options_table("dreambooth")}
    assert rows["rank"].choices == ". From 1 to 1,024." and "lora" in rows["method"].choices and rows["base"].choices == ""
