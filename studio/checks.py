"""Values from outside, checked: each refusal is a sentence with the value in it."""

from studio.errors import InvalidOption

__all__ = ["MAX_SEED", "require_float", "require_int"]

MAX_SEED = 2**63 - 1


def require_int(name: str, value: object, low: int, high: int) -> None:
    """Refuse anything but a whole number from low to high, in a sentence."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a whole number from {low} to {high}, but it is {value!r}.")


def require_float(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number from low to high, in a sentence; NaN is refused too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InvalidOption(f"{name} must be a number from {low:g} to {high:g}, but it is {value!r}.")
