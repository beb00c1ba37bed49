"""Pictures of scenes, and whether the ground truth is the truth."""

from dataclasses import replace
from itertools import combinations, islice, product

import numpy as np
import pytest

from studio.errors import StudioError
from studio.toybox import (
    COLOURS,
    OBJECTS,
    POSITIONS,
    SIZES,
    Scene,
    depth,
    edges,
    render,
    render_batch,
    scene_sheet,
    scene_stream,
    segmentation,
)
from studio.toybox.render import BACKGROUND_RGB, OBJECT_RGB
from studio.toybox.world import MAX_ANGLE, MAX_JITTER

RED_ON_BLUE = {"colour": "red", "background": "blue"}


def scenes(count, seed=0):
    return list(islice(scene_stream(seed, "all"), count))


def mask(scene, size=64):
    return segmentation(scene, size) > 0


def contrast(scene, size=64):
    """Largest channel difference from the background, 0 to 255: (size, size)."""
    return np.abs(render(scene, size).astype(int) - BACKGROUND_RGB[scene.background]).max(-1)


def centroid(inside):
    return np.argwhere(inside).mean(0)


# ---- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_pictures_have_the_size_asked_for_and_repeat_byte_for_byte(size):
    batch = render_batch(scenes(20), size)
    assert batch.shape == (20, size, size, 3) and batch.dtype == np.uint8
    assert batch.tobytes() == render_batch(scenes(20), size).tobytes()
    assert all((one == render(scene, size)).all() for one, scene in zip(batch, scenes(20), strict=True))


def test_a_batch_takes_any_iterable_even_an_empty_one():
    assert render_batch(iter(scenes(3))).shape == (3, 64, 64, 3)
    assert render_batch([]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_every_object_size_and_position_is_drawn(size):
    for name, extent, position in product(OBJECTS, SIZES, POSITIONS):
        scene = Scene(object=name, size=extent, position=position, **RED_ON_BLUE)
        assert (contrast(scene, size) > 60).mean() > 0.01


def test_small_medium_and_large_follow_in_area():
    for name in OBJECTS:
        areas = [mask(Scene(object=name, size=size, **RED_ON_BLUE)).sum() for size in SIZES]
        assert 1.8 * areas[0] < areas[1] and 1.8 * areas[1] < areas[2]


def test_positions_move_the_object_the_way_they_say():
    for name, size in product(OBJECTS, SIZES):
        middle = centroid(mask(Scene(object=name, size=size, **RED_ON_BLUE)))
        for position in POSITIONS[1:]:
            moved = centroid(mask(Scene(object=name, size=size, position=position, **RED_ON_BLUE))) - middle
            down = ("bottom" in position) - ("top" in position)
            across = ("right" in position) - ("left" in position)
            assert np.array_equal(np.sign(np.round(moved / 4)), (down, across))


def test_jitter_and_angle_move_the_picture_by_what_they_say():
    still = Scene(object="heart", **RED_ON_BLUE)
    shift = centroid(mask(replace(still, jitter=(0.02, -0.01)), 512)) - centroid(mask(still, 512))
    assert shift == pytest.approx((-0.01 * 512, 0.02 * 512), abs=0.3)
    turned = mask(replace(Scene(object="moon", **RED_ON_BLUE), angle=8.0), 512)
    assert (turned != mask(Scene(object="moon", **RED_ON_BLUE), 512)).mean() > 0.002


def test_every_object_stays_inside_the_picture():
    extremes = product(OBJECTS, POSITIONS[1:], (-MAX_JITTER, MAX_JITTER), (-MAX_ANGLE, 0.0, MAX_ANGLE))
    for name, position, shift, angle in extremes:
        scene = Scene(object=name, size="large", position=position, jitter=(shift, shift), angle=angle, **RED_ON_BLUE)
        seen = contrast(scene) > 0
        assert not (seen[0].any() or seen[-1].any() or seen[:, 0].any() or seen[:, -1].any()), scene


@pytest.mark.parametrize("size", [32, 64])
def test_anti_aliasing_agrees_with_averaging_a_large_picture(size):
    block = 512 // size
    for scene in scenes(60, seed=2):
        averaged = render(scene, 512).reshape(size, block, size, block, 3).mean((1, 3))
        assert np.abs(render(scene, size) - averaged).mean() < 0.6, scene


# ---- colours -----------------------------------------------------------------------------------------


def test_every_object_is_visible_in_every_colour_on_every_background():
    for name, colour, background in product(OBJECTS, COLOURS, COLOURS):
        scene = Scene(object=name, colour=colour, background=background, size="small")
        seen = contrast(scene)[mask(scene)]
        assert seen.mean() > 25 and seen.max() > 40, scene


def test_white_on_white_is_lighter_inside_and_outlined():
    scene = Scene(object="square", colour="white", background="white", size="large")
    assert (render(scene)[32, 32] == 255).all()
    assert contrast(scene)[32, 32] > 20
    assert contrast(scene)[edges(scene) > 0].min() > 45


def test_the_named_colour_covers_most_of_every_object():
    for name in OBJECTS:
        scene = Scene(object=name, size="large", colour="green", background="pink")
        inside = render(scene, 128)[mask(scene, 128)].astype(int)
        named = np.abs(inside - OBJECT_RGB["green"]).max(-1) < 12
        assert named.mean() > 0.5, name


def test_no_two_colours_are_near_each_other():
    palettes = list(OBJECT_RGB.values()), list(BACKGROUND_RGB.values())
    for palette, apart in zip(palettes, (60, 25), strict=True):
        assert min(np.linalg.norm(np.subtract(a, b)) for a, b in combinations(palette, 2)) > apart
    assert min(np.linalg.norm(np.subtract(a, b)) for a, b in product(*palettes)) > 35


def test_backgrounds_are_paler_than_the_objects_of_the_same_name():
    assert list(OBJECT_RGB) == list(BACKGROUND_RGB) == list(COLOURS)
    for name in set(COLOURS) - {"white"}:
        assert sum(BACKGROUND_RGB[name]) > sum(OBJECT_RGB[name]) + 50


# ---- ground truth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64, 128])
def test_segmentation_is_what_the_picture_shows(size):
    for scene in scenes(200, seed=3):
        inside, changed = mask(scene, size), contrast(scene, size) > 0
        border = edges(scene, size) > 0
        assert not (inside & ~changed & ~border).any(), scene
        # Anti-aliasing changes at most the pixels that touch the object, diagonally too.
        padded = np.pad(inside, 1)
        touched = np.any([padded[r : r + size, c : c + size] for r in range(3) for c in range(3)], axis=0)
        assert (changed & ~touched).sum() <= 0.1 * changed.sum() + 2, scene


def test_segmentation_labels_name_the_object():
    for k, name in enumerate(OBJECTS):
        labels = segmentation(Scene(object=name, **RED_ON_BLUE))
        assert labels.dtype == np.uint8 and labels.shape == (64, 64)
        assert set(np.unique(labels)) == {0, k + 1}


def test_holes_are_background():
    for name, row, column in (("ring", 32, 32), ("cup", 31, 46)):
        scene = Scene(object=name, size="large", **RED_ON_BLUE)
        assert segmentation(scene)[row, column] == 0
        assert contrast(scene)[row, column] == 0


@pytest.mark.parametrize("size", [32, 64, 128])
def test_edges_are_the_inner_border_of_the_segmentation(size):
    for scene in scenes(100, seed=4):
        inside, edge = mask(scene, size), edges(scene, size)
        assert edge.dtype == np.uint8 and set(np.unique(edge)) == {0, 255}
        for row, column in np.argwhere(inside):
            around = inside[row - 1, column], inside[row + 1, column], inside[row, column - 1], inside[row, column + 1]
            assert (edge[row, column] == 255) == (not all(around))
        assert not (edge[~inside]).any()


def test_depth_puts_the_object_before_a_plane_that_recedes_upwards():
    for scene in scenes(100, seed=5):
        near, inside = depth(scene), mask(scene)
        assert near.dtype == np.float32 and near.shape == (64, 64)
        assert near.min() >= 0 and near.max() <= 1
        assert near[inside].min() > near[~inside].max() + 0.2
        rows = [near[row][~inside[row]] for row in range(64)]
        assert all(np.ptp(row) == 0 for row in rows)
        assert (np.diff([row[0] for row in rows]) > 0).all()


def test_depth_bulges_towards_the_middle():
    near = depth(Scene(object="circle", size="large", **RED_ON_BLUE))
    assert near[32, 32] > near[32, 20] > near[32, 16] > near[32, 2]


# ---- recognisable ------------------------------------------------------------------------------------


def overlap(a, b):
    """Best intersection over union of two masks over small shifts of their aligned centroids."""
    shifts = product(range(-2, 3), repeat=2)
    return max((a & moved).sum() / (a | moved).sum() for s in shifts for moved in [np.roll(b, s, (0, 1))])


def test_no_two_objects_look_the_same_in_32_pixels():
    masks = {}
    for name in OBJECTS:
        inside = mask(Scene(object=name, size="large", **RED_ON_BLUE), 32)
        shift = np.round(15.5 - centroid(inside)).astype(int)
        masks[name] = np.roll(inside, shift, (0, 1))
    overlaps = {(a, b): overlap(masks[a], masks[b]) for a, b in combinations(OBJECTS, 2)}
    assert max(overlaps.values()) < 0.9, max(overlaps, key=overlaps.get)


# ---- sheets and nonsense -----------------------------------------------------------------------------


def test_contact_sheet_draws_its_scenes_row_by_row():
    sheet = scene_sheet(scenes(5), columns=3, truth=scenes(1)[0])
    alone = scene_sheet(scenes(5), columns=3)
    assert sheet.mode == "RGB" and sheet.width == alone.width and sheet.height > alone.height
    assert (np.asarray(sheet)[: alone.height - 18] == np.asarray(alone)[:-18]).all()
    assert (np.asarray(alone)[18 : 18 + 128, 18 : 18 + 128] == render(scenes(1)[0], 128)).all()


@pytest.mark.parametrize("draw", [render, edges, segmentation, depth, lambda scene, size: render_batch([scene], size)])
@pytest.mark.parametrize("size", [0, -64, 8, 4096, 64.0, "64", None, True])
def test_a_size_that_makes_no_sense_is_refused_and_shown(draw, size):
    with pytest.raises(StudioError, match="size=") as error:
        draw(Scene(object="cat", **RED_ON_BLUE), size)
    assert isinstance(error.value, ValueError) and repr(size) in str(error.value)


@pytest.mark.parametrize("arguments", [{"scenes": []}, {"columns": 0}])
def test_an_empty_sheet_is_refused(arguments):
    with pytest.raises(StudioError, match="sheet"):
        scene_sheet(**arguments)
