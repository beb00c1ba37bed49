"""Values from outside, checked: each refusal is a sentence with the value in it."""

import reprlib
from collections.abc import Iterable, Sequence
from typing import TypeGuard

from studio.errors import InvalidOption

__all__ = ["MAX_SEED", "is_number", "quoted", "require_choice", "require_float", "require_int", "require_text", "require_texts"]

MAX_SEED = 2**63 - 1
MOST_CHARACTERS = 10_000


def quoted(value: object) -> str:
    """A value as a message shows it: short, whatever it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a whole number or one with parts; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number from low to high, in a sentence. Raises InvalidOption."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a whole number from {low} to {high}, but it is {quoted(value)}.")


def require_float(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number from low to high, in a sentence; NaN is refused too. Raises InvalidOption."""
    if not is_number(value) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a number from {low:g} to {high:g}, but it is {quoted(value)}.")


def require_text(name: str, value: object, most: int = MOST_CHARACTERS) -> None:
    """Refuse anything but a text of at most `most` characters that can be written, in a sentence. Raises InvalidOption."""
    # Half of a surrogate pair is a character for Python, and cannot be sent to anybody.
    if not isinstance(value, str) or len(value) > most or any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidOption(f"{name} must be a text of at most {most} characters, but it is {quoted(value)}.")


def require_texts(name: str, value: object, most: int = 10_000) -> None:
    """Refuse anything but a list of at most `most` texts, in a sentence. Raises InvalidOption."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > most:
        raise InvalidOption(f"{name} must be a list of texts, but it is {quoted(value)}.")
    for text in value:
        require_text(name, text)


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse anything but one of the choices, in a sentence. Raises InvalidOption."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise InvalidOption(f"{name} must be one of {', '.join(filter(None, known))}, but it is {quoted(value)}.")
