"""Sizes of pictures that a model can make."""

from typing import TYPE_CHECKING

from studio.errors import InvalidOption

if TYPE_CHECKING:
    from studio.models.catalogue import ModelInfo
    from studio.options import SampleOptions

__all__ = ["size_of"]


def size_of(info: "ModelInfo", options: "SampleOptions", multiple: int) -> tuple[int, int]:
    """(width, height) in pixels that the options ask for. Raises InvalidOption with the nearest size that can be made."""
    sides = []
    for name, own in (("width", info.width), ("height", info.height)):
        side = getattr(options, name) or own
        if side % multiple:
            below = side // multiple * multiple
            near = " or ".join(str(allowed) for allowed in (below, below + multiple) if allowed)
            raise InvalidOption(f"With {info.label} the {name} must be a multiple of {multiple}, but it is {side}; the nearest is {near}.")
        sides.append(side)
    return sides[0], sides[1]
