"""The example pictures: photographs that ship with scikit-image, a handwritten digit, a toybox scene. All offline."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from studio.errors import ModelUnavailable, UnknownName

__all__ = ["PICTURES", "ExamplePicture", "handwritten_digits", "load_picture"]

DIGIT_SIDE = 64
SCENE_SIDE = 128


@dataclass(frozen=True, kw_only=True)
class ExamplePicture:
    """A menu entry. `load(seed)` gives an RGB picture; `varies` says whether the seed chooses among several."""

    label: str
    about: str
    load: Callable[[int], Image.Image]
    varies: bool = False


def _package_file(package: str, *parts: str) -> Path:
    """A data file of an installed package. Importing these packages takes seconds; reading the file takes none."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelUnavailable(f"The package {package!r} is missing; install the requirements again.")
    return Path(spec.origin).parent.joinpath(*parts)


def _photograph(file: str, seed: int) -> Image.Image:
    """One of the photographs inside scikit-image; the seed has no say."""
    with Image.open(_package_file("skimage", "data", file)) as image:
        return image.convert("RGB")


@cache
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: pictures (1797, 8, 8) uint8, 0..255 (17 grey levels in the file), and labels (1797,) int64.

    They are kept for the next call: do not write into them.
    """
    table = np.loadtxt(_package_file("sklearn", "datasets", "data", "digits.csv.gz"), delimiter=",")
    return np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), table[:, 64].astype(np.int64)


def _digit(seed: int) -> Image.Image:
    """A handwritten digit enlarged smoothly to 64x64, light on dark."""
    digits, _ = handwritten_digits()
    image = Image.fromarray(digits[seed % len(digits)])
    return image.resize((DIGIT_SIDE, DIGIT_SIDE), Image.Resampling.BICUBIC).convert("RGB")


def _scene(seed: int) -> Image.Image:
    """The first toybox scene of the seed's stream, 128x128."""
    from studio.toybox import render, scene_stream

    return Image.fromarray(render(next(scene_stream(seed)), SCENE_SIDE))


PICTURES: dict[str, ExamplePicture] = {
    "cat": ExamplePicture(label="Cat", about="Chelsea, a photograph of 451 x 300 pixels.", load=partial(_photograph, "chelsea.png")),
    "coffee": ExamplePicture(label="Coffee", about="A photograph of 600 x 400 pixels.", load=partial(_photograph, "coffee.png")),
    "astronaut": ExamplePicture(label="Astronaut", about="Eileen Collins, a photograph of 512 x 512 pixels.", load=partial(_photograph, "astronaut.png")),
    "rocket": ExamplePicture(label="Rocket", about="A photograph of 640 x 427 pixels.", load=partial(_photograph, "rocket.jpg")),
    "digit": ExamplePicture(label="Digit", about="A handwritten digit of 8 x 8 pixels, enlarged.", load=_digit, varies=True),
    "toybox": ExamplePicture(label="Toybox scene", about="A drawn scene of 128 x 128 pixels.", load=_scene, varies=True),
}


def load_picture(name: str, seed: int = 0) -> Image.Image:
    """The example picture `name` (a key of PICTURES), RGB; `seed` (0 or more) chooses the digit or the scene.

    Raises:
        UnknownName: no such picture.
    """
    if name not in PICTURES:
        raise UnknownName.of("picture", name, PICTURES)
    return PICTURES[name].load(seed)
