"""Class labels: names and indices of the classes that a model was trained on, and what it cannot be told instead."""

from typing import TYPE_CHECKING

from studio.checks import quoted
from studio.conditions import is_taken
from studio.errors import InvalidOption, UnknownName
from studio.options import option_info

if TYPE_CHECKING:
    from studio.models.catalogue import ModelInfo
    from studio.options import SampleOptions

__all__ = ["class_index", "refuse_words", "refuse_class", "refuse_untold", "check_class_guidance"]


def class_index(info: "ModelInfo", class_label: str | int | None, null_class: int | None) -> int | None:
    """The index of a class by name or index; the null class for None. Raises InvalidOption, UnknownName."""
    names = info.class_names
    if class_label is None or class_label == "":
        return null_class
    if not names:
        raise InvalidOption(f"{info.label} was trained without classes; leave the class empty, it is {class_label!r}.")
    if isinstance(class_label, int) and not isinstance(class_label, bool):
        if not 0 <= class_label < len(names):
            raise InvalidOption(f"{info.label} has the classes 0 to {len(names) - 1}, but {class_label=}.")
        return class_label
    if class_label not in names:
        raise UnknownName.of("class", class_label, names)
    return names.index(class_label)


def refuse_words(info: "ModelInfo", options: "SampleOptions", attends: bool = False) -> None:
    """Of a model that reads no text. attends: it has attention of another kind to record. Raises InvalidOption."""
    for name in ("prompt", "negative_prompt"):
        if getattr(options, name):
            raise InvalidOption(f"{info.label} reads no text; leave {name} empty and choose a class where it has some.")
    records = options.record_attention and not attends
    if records or options.clip_guidance_scale:
        wanted = "attention to words" if records else "CLIP guidance"
        raise InvalidOption(f"{info.label} reads no text, so it has no {wanted}; choose a text-to-image model.")


def refuse_class(info: "ModelInfo", options: "SampleOptions") -> None:
    """Of a model that is told by its prompt. Raises InvalidOption."""
    if options.class_label not in (None, ""):
        raise InvalidOption(f"{info.label} is told what to draw by its prompt; leave the class empty, it is {options.class_label!r}.")


def refuse_untold(info: "ModelInfo", options: "SampleOptions") -> None:
    """Of a model that cannot be told something of studio.conditions that the options tell it. Raises InvalidOption."""
    from studio.models.families import FAMILIES

    family = FAMILIES[info.family]
    for name, value in options.conditions.items():
        if not is_taken(name, family.takes):
            raise InvalidOption(f"{info.label} cannot be told {option_info(name).label!r} ({name}): leave it as it was, it is {quoted(value)}.")


def check_class_guidance(info: "ModelInfo", options: "SampleOptions", index: int | None, null_class: int | None) -> None:
    """Guidance needs a class to lead to and one to lead away from. Raises InvalidOption."""
    if options.guidance_scale != 1 and (null_class is None or index == null_class):
        missing = "it was trained without classes" if null_class is None else "no class is chosen"
        raise InvalidOption(f"Guidance leads from no class to a class, but {missing}; set guidance_scale to 1, it is {options.guidance_scale:g}.")
