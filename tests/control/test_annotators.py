"""Annotators: one registry, exact sizes, what is said of a map; and how obedience is measured."""

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from studio.control.annotators import ANNOTATORS, MapRequest, fits_net, make_map
from studio.control.drawn import PALETTE, map_of_scene
from studio.control.obedience import edge_f1, iou, obedience, outline, silhouette
from studio.errors import InvalidOption, ModelUnavailable, StudioError
from studio.models.controlnet_menu import _EVERY
from studio.toybox import depth, edges, render, scene_stream, segmentation

OFFLINE = [name for name, annotator in ANNOTATORS.items() if not annotator.needs]


def photo(width: int = 120, height: int = 90) -> Image.Image:
    """A house on grass, shaded."""
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    ImageDraw.Draw(picture).rectangle([width // 3, height // 3, 2 * width // 3, height - 10], fill=(180, 40, 30))
    return picture


@pytest.mark.parametrize("name", OFFLINE)
def test_every_annotator_without_weights_gives_a_map_of_exactly_the_size_asked_for(name):
    for width, height in ((64, 64), (56, 40), (200, 120)):
        made = make_map(MapRequest(annotator=name, picture=photo(), scene="a red heart", width=width, height=height))
        assert made.map.size == (width, height) and made.map.mode == "RGB" and not made.notes


@pytest.mark.parametrize("name", [name for name, annotator in ANNOTATORS.items() if annotator.needs])
def test_an_annotator_whose_weights_cannot_be_had_says_so_in_a_sentence(name):
    with pytest.raises(ModelUnavailable, match="needs none"):
        make_map(MapRequest(annotator=name, picture=photo(), width=64, height=64))


def test_cannys_map_is_binary_and_follows_its_thresholds():
    # Upright edges of ever more contrast.
    steps, counts = Image.fromarray(np.repeat([0, 20, 60, 140, 255], 26)[None, :128].repeat(96, axis=0).astype(np.uint8)), []
    for high in (60.0, 200.0, 450.0):
        pixels = np.asarray(make_map(MapRequest(picture=steps, width=128, height=96, settings={"low": 20.0, "high": high})).map)
        assert set(np.unique(pixels)) <= {0, 255}
        counts.append(int((pixels > 0).sum()))
    assert counts[0] > counts[1] > counts[2] > 0


def test_the_maps_of_scenes_are_the_toyboxs_own():
    scene = next(scene_stream(seed=3))
    assert np.array_equal(map_of_scene("toybox-edges", scene, 64)[..., 0], edges(scene))
    assert np.array_equal(map_of_scene("toybox-segmentation", scene, 64), PALETTE[segmentation(scene)])
    assert np.abs(map_of_scene("toybox-depth", scene, 64)[..., 0] / 255 - depth(scene)).max() < 0.5 / 255 + 1e-6
    apart = [int(np.abs(one.astype(int) - other).max()) for one, other in itertools.combinations(PALETTE, 2)]
    assert min(apart) > 10


def test_a_map_is_made_again_only_when_what_it_depends_on_has_changed(monkeypatch):
    from studio.control import annotators

    calls = []
    monkeypatch.setattr(annotators, "_work", lambda request, work=annotators._work: calls.append(request.key) or work(request))
    request = MapRequest(annotator="shuffle", picture=photo(), width=72, height=72, settings={"seed": 5.0})
    assert make_map(request) is make_map(MapRequest(**{**vars(request), "settings": {"seed": 5.0}}))
    make_map(MapRequest(**{**vars(request), "settings": {"seed": 6.0}}))
    assert len(calls) == 2


def test_what_is_to_be_said_of_a_map_is_said():
    def notes(**changes) -> str:
        return " ".join(make_map(MapRequest(**{"annotator": "map", "width": 64, "height": 64, **changes})).notes)

    lines = Image.fromarray(np.eye(64, dtype=np.uint8) * 255).convert("RGB")
    assert notes(picture=lines) == ""
    assert "black lines on white" in notes(picture=ImageOps.invert(lines)) and notes(picture=ImageOps.invert(lines), invert=True) == ""
    assert "all black" in notes(picture=Image.new("RGB", (9, 9))) and "all white" in notes(picture=Image.new("RGB", (9, 9), "white"))
    assert "nothing to follow" in notes(annotator="canny", picture=Image.new("RGB", (50, 50), "red"))


@pytest.mark.parametrize(("values", "words"), [
    ({"annotator": "eyes"}, "no annotator named"), ({"settings": {"low": -3.0}}, "low must be a number"), ({"width": 1}, "width must be"),
    ({"resize": "tile"}, "resize must be one of"), ({"picture": None}, "no picture to make a map of"), ({"invert": 3}, "invert must be"),
    ({"annotator": "toybox-edges", "scene": 3}, "scene must be a text"),
])
def test_nonsense_is_refused_in_a_sentence(values, words):
    with pytest.raises(StudioError, match=words):
        make_map(MapRequest(**{"picture": photo(), "width": 64, "height": 64, **values}))


def test_a_map_of_another_kind_than_a_net_learned_is_warned_of():
    assert "will hardly be followed" in fits_net("toybox-depth", ("canny",), "Edges")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert "looks like a photograph" in fits_net("map", ("canny",), "Edges", Image.fromarray(pixels))
    assert not fits_net("map", ("toybox-depth",), "Depth", Image.fromarray(pixels))
    assert not fits_net("map", ("canny",), "Edges", Image.fromarray(pixels).convert("L").convert("RGB"))
    assert not fits_net("toybox-edges", ("canny",), "Edges") and not fits_net("map", ("canny",), "Edges") and not fits_net("canny", (), "Mine")


def test_every_net_of_the_menu_names_annotators_that_there_are():
    assert all(name in ANNOTATORS for info in _EVERY.values() for name in info.annotators)
    assert all(info.annotators for info in _EVERY.values())


# --- obedience -----------------------------------------------------------------------------------------------

def test_exact_renders_obey_their_maps_and_other_scenes_do_not():
    scenes = list(itertools.islice(scene_stream(seed=1), 30))
    for kind, least in (("toybox-edges", 0.9), ("toybox-segmentation", 0.9), ("toybox-depth", 0.75)):
        own = np.mean([obedience(kind, render(scene), map_of_scene(kind, scene, 64)) for scene in scenes])
        others = np.mean([obedience(kind, render(scene), map_of_scene(kind, other, 64)) for scene, other in zip(scenes, scenes[1:])])
        assert own > least > 0.5 > others, kind


def test_the_measures_by_hand():
    square, moved = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    square[2:6, 2:6] = moved[2:6, 4:8] = True
    assert iou(square, moved) == pytest.approx(8 / 24) and iou(square, square) == 1
    assert outline(square).sum() == 12 and edge_f1(outline(square), outline(square)) == 1
    # Precision and recall 0: nothing is nearer than two pixels.
    far = np.zeros((10, 10), bool)
    far[9, 9] = True
    assert edge_f1(far, outline(square)) == 0 and edge_f1(far, far) == 1 and edge_f1(far & False, far & False) == 1
    picture = np.full((10, 10, 3), 200, np.uint8)
    picture[square] = (200, 20, 200)
    assert np.array_equal(silhouette(picture), square)


def test_a_picture_of_no_kind_that_is_drawn_here_is_annotated_again():
    pixels = np.asarray(photo(64, 64))
    wanted = np.asarray(make_map(MapRequest(picture=photo(64, 64), width=64, height=64)).map)
    assert obedience("canny", pixels, wanted) == 1 and np.isnan(obedience("map", pixels, wanted))
    with pytest.raises(InvalidOption):
        make_map(MapRequest(picture=None, width=64, height=64))
