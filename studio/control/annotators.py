"""Annotators: what makes a control map of a picture. One registry, ANNOTATORS; each entry says what it needs and what it can be told.

    map = make_map(MapRequest(annotator="canny", picture=photo, width=512, height=512))

The picture is brought to the size of the run first, and worked on in that size: the map is never resampled afterwards.
Those that need weights load them from the Hub when they are first asked, by controlnet_aux or by transformers.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from studio.checks import quoted, require_choice, require_float, require_int, require_text
from studio.control import detectors, drawn, offline
from studio.errors import InvalidOption, UnknownName
from studio.media.maps import RESIZES, aligned, is_blank, kind_of_map, looks_inverted

__all__ = ["ANNOTATORS", "Annotator", "MapMade", "MapRequest", "Setting", "fits_net", "make_map"]

MAX_SIDE = 4096


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A number that an annotator can be told."""

    name: str
    label: str
    info: str
    default: float
    low: float
    high: float
    step: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """An entry of ANNOTATORS.

    kind: what its maps show; a ControlNet that learned one kind understands no other. needs: what it loads from the Hub; "" = nothing.
    of: "picture", or "scene" where it draws the exact map of a Toybox scene. work: (picture (H, W, 3) uint8, settings) -> map (H, W) or
    (H, W, 3) uint8; of a scene: (words, seed, side) -> the same.
    """

    label: str
    about: str
    kind: str
    work: Callable[..., np.ndarray]
    settings: tuple[Setting, ...] = ()
    needs: str = ""
    of: str = "picture"

    @property
    def cheap(self) -> bool:
        """Whether a preview may follow a moving slider."""
        return not self.needs


def _threshold(name: str, label: str, info: str, default: float, high: float = 255.0) -> Setting:
    return Setting(name=name, label=label, info=info, default=default, low=1.0, high=high)


_SEED = Setting(name="seed", label="Seed", info="Another number: shuffled otherwise.", default=0.0, low=0.0, high=1000.0)
_CANNY = (
    _threshold("low", "Low threshold", "Lower: weak edges that touch strong ones join them.", 100.0, 500.0),
    _threshold("high", "High threshold", "Lower: more edges are strong ones.", 200.0, 500.0),
)


def _loaded(label: str, kind: str, about: str, needs: str = "lllyasviel/Annotators") -> Callable[[str], Annotator]:
    """An entry whose weights are fetched; given its name in studio.control.detectors."""
    return lambda name: Annotator(label=label, about=about, kind=kind, needs=needs, work=detectors.work_of(name))


_FETCHED: Mapping[str, Callable[[str], Annotator]] = {
    "depth-anything": _loaded("Depth Anything", "depth", "How near everything is, by Depth Anything 2.", detectors.DEPTH["depth-anything"]),
    "dpt": _loaded("DPT depth", "depth", "How near everything is, by DPT.", detectors.DEPTH["dpt"]),
    "zoe-depth": _loaded("ZoeDepth", "depth", "Metric depth, by ZoeDepth.", detectors.DEPTH["zoe-depth"]),
    "midas": _loaded("MiDaS depth", "depth", "How near everything is, by MiDaS."),
    "normal-bae": _loaded("Normals", "normal", "Which way each surface faces."),
    "softedge-hed": _loaded("Soft edges (HED)", "softedge", "Edges by their strength."),
    "softedge-pidi": _loaded("Soft edges (PiDi)", "softedge", "Edges by their strength, finer."),
    "teed": _loaded("Soft edges (TEED)", "softedge", "Edges by a very small network.", "fal-ai/teed"),
    "lineart": _loaded("Line art", "lineart", "As drawn by hand."),
    "lineart-anime": _loaded("Line art, anime", "lineart", "As drawn by hand, in anime's way."),
    "mlsd": _loaded("Straight lines", "mlsd", "Straight lines alone: rooms, houses."),
    "openpose": _loaded("Pose", "pose", "Bodies as sticks and joints."),
    "leres": _loaded("LeReS depth", "depth", "How near everything is, by LeReS."),
}

ANNOTATORS: Mapping[str, Annotator] = MappingProxyType({
    "canny": Annotator(
        label="Canny edges", about="Thin white edges on black, where brightness changes.", kind="edges", work=offline.canny, settings=_CANNY,
    ),
    "scribble": Annotator(
        label="Scribble", about="Thick strokes along what stands out.", kind="edges", work=offline.scribble,
        settings=(_threshold("threshold", "Threshold", "Lower: more strokes.", 32.0),),
    ),
    "lineart-standard": Annotator(
        label="Line art, standard", about="Dark lines of the picture, white on black, by their strength.", kind="lineart", work=offline.lineart,
        settings=(Setting(name="sigma", label="Width", info="Higher: wider lines count too.", default=6.0, low=0.5, high=20.0, step=0.5),
                  Setting(name="threshold", label="Threshold", info="Higher: weak lines count less.", default=8.0, low=0.0, high=64.0)),
    ),
    "shuffle": Annotator(label="Shuffled content", about="The picture's colours and textures without its places.", kind="shuffle", work=offline.shuffle,
                         settings=(_SEED,)),
    "map": Annotator(
        label="Already a control map", about="The picture or the drawing as it is.", kind="", work=offline.as_it_is,
    ),
    "toybox-edges": Annotator(
        label="Toybox: exact edges", about="The outlines of a drawn scene, from its own data.", kind="edges", of="scene", work=drawn.edge_map,
    ),
    "toybox-segmentation": Annotator(
        label="Toybox: exact segmentation", about="Which object is where in a drawn scene; a colour each.", kind="segmentation", of="scene",
        work=drawn.segmentation_map,
    ),
    "toybox-depth": Annotator(
        label="Toybox: exact depth", about="How near everything in a drawn scene is; white is nearest.", kind="depth", of="scene", work=drawn.depth_map,
    ),
    **{name: made(name) for name, made in _FETCHED.items()},
})


@dataclass(frozen=True, kw_only=True)
class MapRequest:
    """A map that is asked for.

    Args:
        annotator: a key of ANNOTATORS. picture: RGB; None for those of a scene. scene: words of a Toybox scene; seed: what they
            leave open. settings: numbers by name; what is left out is as by default.
        width, height: of the map, in pixels. resize: how the picture is brought to that size, a key of RESIZES.
        invert: black for white, at the end.
    Raises:
        InvalidOption, UnknownName.
    """

    annotator: str = "canny"
    picture: Image.Image | None = None
    scene: str = ""
    seed: int = 0
    settings: Mapping[str, float] = field(default_factory=dict)
    width: int = 512
    height: int = 512
    resize: str = "crop"
    invert: bool = False

    def __post_init__(self) -> None:
        if self.annotator not in ANNOTATORS:
            raise UnknownName.of("annotator", self.annotator, ANNOTATORS)
        require_text("scene", self.scene, 1_000)
        require_int("seed", self.seed, 0, 2**32 - 1)
        require_int("width", self.width, 8, MAX_SIDE)
        require_int("height", self.height, 8, MAX_SIDE)
        require_choice("resize", self.resize, RESIZES)
        if not isinstance(self.invert, bool):
            raise InvalidOption(f"invert must be true or false, but it is {quoted(self.invert)}.")
        for setting in ANNOTATORS[self.annotator].settings:
            require_float(setting.name, self.settings.get(setting.name, setting.default), setting.low, setting.high)

    def numbers(self) -> dict[str, float]:
        """Every setting of the annotator, as asked or as by default."""
        return {setting.name: float(self.settings.get(setting.name, setting.default)) for setting in ANNOTATORS[self.annotator].settings}

    @property
    def key(self) -> str:
        """What the map depends on, as one name."""
        told = repr((self.annotator, self.scene, self.seed, sorted(self.numbers().items()), self.width, self.height, self.resize, self.invert))
        picture = b"" if self.picture is None else self.picture.tobytes() + repr((self.picture.size, self.picture.mode)).encode()
        return sha256(told.encode() + picture).hexdigest()


@dataclass(frozen=True, kw_only=True)
class MapMade:
    """A map, RGB in the size that was asked for, and what is to be said of it, in sentences."""

    map: Image.Image
    notes: tuple[str, ...] = ()


_made: "OrderedDict[str, MapMade]" = OrderedDict()
_lock = Lock()
MAX_MADE = 12


def make_map(request: MapRequest) -> MapMade:
    """The map; one that was made of the same a moment ago is not made again. Raises InvalidOption, BadImage, ModelUnavailable."""
    key = request.key
    with _lock:
        if key in _made:
            _made.move_to_end(key)
            return _made[key]
    made = _work(request)
    with _lock:
        _made[key] = made
        while len(_made) > MAX_MADE:
            _made.popitem(last=False)
    return made


def _work(request: MapRequest) -> MapMade:
    annotator = ANNOTATORS[request.annotator]
    if annotator.of == "scene":
        side = max(request.width, request.height)
        pixels = annotator.work(request.scene, request.seed, side)
        picture = aligned(_rgb(pixels), request.width, request.height, request.resize)
    else:
        if request.picture is None:
            raise InvalidOption("There is no picture to make a map of: drop one, draw one, or choose a Toybox scene.")
        sized = aligned(request.picture, request.width, request.height, request.resize)
        picture = _rgb(annotator.work(np.asarray(sized), **request.numbers()))
    if request.invert:
        picture = ImageOps.invert(picture)
    return MapMade(map=picture, notes=tuple(_notes(picture, request)))


def _rgb(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB")


def _notes(picture: Image.Image, request: MapRequest) -> list[str]:
    if is_blank(picture):
        extrema: Any = picture.getextrema()
        blank = "black" if extrema[0][1] == 0 else "white" if extrema[0][0] == 255 else "of one colour"
        return [f"The map is all {blank}, so there is nothing to follow: lower the thresholds, or take another picture."]
    if request.annotator != "map":
        return []
    if kind_of_map(picture) == "binary" and looks_inverted(picture):
        return ["These look like black lines on white; nets of lines want white on black: press Invert."]
    return []


# Kinds of maps that are lines on black.
LINES = frozenset({"edges", "lineart", "mlsd", "softedge"})


def fits_net(annotator: str, net_annotators: tuple[str, ...], label: str, made: Image.Image | None = None) -> str:
    """A warning where a ControlNet learned another kind of map than the annotator makes; "" where it fits or is not known.

    made: the map, for one that was taken as it is: a photograph is no map of lines.
    """
    if annotator not in ANNOTATORS or not net_annotators:
        return ""
    kinds = {ANNOTATORS[name].kind for name in net_annotators if name in ANNOTATORS}
    kind = ANNOTATORS[annotator].kind
    if annotator == "map" and made is not None and kinds <= LINES and _is_colourful(made):
        return f"This looks like a photograph, and {label} learned maps of lines: choose what is to make a map of it, such as Canny edges."
    if not kind or not kinds or kind in kinds or "" in kinds:
        return ""
    return f"{label} learned {' or '.join(sorted(kinds))}, and this map shows {kind}: it will hardly be followed."


def _is_colourful(picture: Image.Image) -> bool:
    """Whether it has more than greys and a few colours."""
    return kind_of_map(picture) == "smooth" and float(np.ptp(np.asarray(picture.convert("RGB"), np.int16), axis=2).mean()) > 4
