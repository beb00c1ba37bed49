"""Scenes of two objects: places, the split, captions both ways, pictures and their ground truth."""

import json
import re
from dataclasses import replace
from itertools import islice, pairwise, product

import numpy as np
import pytest

from studio.errors import StudioError
from studio.toybox import (
    COLOURS,
    OBJECTS,
    RELATIONS,
    SIZES,
    PairScene,
    Scene,
    Thing,
    arrange,
    caption,
    depth,
    edges,
    imagine,
    in_reading_order,
    instances,
    is_held_out,
    is_pair_held_out,
    is_scene_held_out,
    pair_stream,
    parse_pair,
    render,
    render_batch,
    scene_from_json,
    scene_stream,
    scene_to_json,
    seen_relation,
    segmentation,
    unknown_words,
    world_stream,
)
from studio.toybox.pairs import MAX_OVERLAP, overlap

HEART = Thing(object="heart", colour="red", centre=(0.25, 0.5))
STAR = Thing(object="star", colour="blue", size="small", centre=(0.75, 0.5))
PAIR = PairScene(first=HEART, second=STAR, relation="left of", background="yellow")


def pairs(count, seed=0, split="all"):
    return list(islice(pair_stream(seed, split), count))


def alone(scene, thing):
    """Where a thing would be seen without the other: the instances of a scene that has the other far away."""
    x, y = (0.13 if middle > 0.5 else 0.87 for middle in thing.centre)
    other = replace(thing, colour=COLOURS[COLOURS.index(thing.colour) - 1], size="small", centre=(x, y))
    return instances(PairScene(first=thing, second=other, relation="and", background=scene.background)) == 1


# ---- places ------------------------------------------------------------------------------------------


def test_the_relation_is_the_one_that_the_picture_shows():
    for scene in pairs(2000):
        if scene.relation != "and":
            assert seen_relation(scene) == scene.relation
    assert {scene.relation for scene in pairs(200)} == set(RELATIONS)


def test_and_says_nothing_of_the_places():
    seen = [seen_relation(scene) for scene in pairs(3000, seed=2) if scene.relation == "and"]
    shares = [seen.count(relation) / len(seen) for relation in RELATIONS[:-1]]
    assert min(shares) > 0.15


def test_names_sizes_and_relations_are_even():
    scenes = pairs(4000, seed=1)
    for field, names in (("object", OBJECTS), ("colour", COLOURS), ("size", SIZES)):
        for which in ("first", "second"):
            spoken = [getattr(getattr(scene, which), field) for scene in scenes]
            expected = len(scenes) / len(names)
            assert all(abs(spoken.count(name) - expected) < 5 * expected**0.5 for name in names), (which, field)


def test_objects_touch_now_and_then_and_never_hide_more_than_a_fifth():
    hidden = []
    for scene in pairs(400, seed=5):
        both = alone(scene, scene.first) & alone(scene, scene.second)
        hidden.append(both.sum() / min(alone(scene, scene.first).sum(), alone(scene, scene.second).sum()))
    assert 0 < max(hidden) <= 0.2


def test_the_tightest_places_of_any_two_objects_hide_no_more_than_a_fifth():
    for name, other, relation in product(OBJECTS, ("umbrella", "car", "square", "house"), ("left of", "above")):
        first, second = Thing(object=name, colour="red"), Thing(object=other, colour="blue")
        scene = arrange(first, second, relation=relation, background="white", rng=Tight())
        assert overlap(scene.first, scene.second) == pytest.approx(MAX_OVERLAP)
        one, two = alone(scene, scene.first), alone(scene, scene.second)
        assert (one & two).sum() <= 0.2 * min(one.sum(), two.sum()), caption(scene)


class Tight:
    """Chance that always puts two things as near as they may be, side by side."""

    def random(self, count):
        return np.array([0.0, 0.5, 0.5, 0.5, 0.0, 0.0])[:count]


def test_every_relation_can_be_asked_of_every_pair_of_sizes():
    rng = np.random.default_rng(0)
    for one, other, relation in product(SIZES, SIZES, RELATIONS):
        for _ in range(20):
            scene = arrange(replace(HEART, size=one, centre=(0.5, 0.5)), replace(STAR, size=other), relation=relation, background="red", rng=rng)
            assert (scene.first.size, scene.second.size, scene.relation) == (one, other, relation)


# ---- the split ---------------------------------------------------------------------------------------


def test_training_shows_no_held_out_combination_and_no_held_out_order():
    for scene in pairs(1500, split="train"):
        before, after = in_reading_order(scene)
        assert not is_pair_held_out(before.object, after.object)
        assert not any(is_held_out(thing.object, thing.colour, scene.background) for thing in (before, after))
    assert all(is_scene_held_out(scene) for scene in pairs(300, split="held_out"))


def test_a_mirrored_relation_is_the_same_ordered_pair():
    turned = PairScene(first=STAR, second=HEART, relation="right of", background="yellow")
    assert in_reading_order(PAIR) == in_reading_order(turned) == (HEART, STAR)


def test_about_a_tenth_of_the_ordered_pairs_is_held_out_and_never_changes():
    held_out = [pair for pair in product(OBJECTS, OBJECTS) if is_pair_held_out(*pair)]
    assert len(held_out) == 43 and held_out[:3] == FIRST_HELD_OUT
    for side in (0, 1):
        for name in OBJECTS:
            assert sum(pair[side] == name for pair in held_out) < 10


FIRST_HELD_OUT = [("circle", "circle"), ("circle", "star"), ("circle", "cross")]


def test_half_of_the_world_is_one_object_and_those_are_the_scenes_of_old():
    scenes = list(islice(world_stream(3), 2000))
    ones = [scene for scene in scenes if isinstance(scene, Scene)]
    assert 880 < len(ones) < 1120
    assert ones == list(islice(scene_stream(3), len(ones)))
    assert scenes == list(islice(world_stream(3), 2000)) != list(islice(world_stream(4), 2000))


# ---- captions ----------------------------------------------------------------------------------------


def test_full_captions_of_two_read_as_designed():
    assert caption(PAIR) == "a red heart to the left of a small blue star on a yellow background"
    words = {relation: caption(arrange(HEART, STAR, relation=relation, background="orange", rng=np.random.default_rng(0))) for relation in RELATIONS}
    assert words["below"] == "a red heart below a small blue star on an orange background"
    assert words["and"] == "a red heart and a small blue star on an orange background"


def said(thing):
    return {"object": thing.object, "colour": thing.colour, "size": thing.size}


def test_full_captions_of_two_parse_back():
    for scene in pairs(3000, seed=6):
        first, relation, second, background = parse_pair(caption(scene))
        assert ({"size": "medium"} | first, {"size": "medium"} | second) == (said(scene.first), said(scene.second))
        assert (relation, background) == (scene.relation, scene.background)


def test_varied_captions_of_two_say_nothing_false():
    rng, told = np.random.default_rng(0), set()
    for scene in pairs(3000, seed=7):
        first, relation, second, background = parse_pair(caption(scene, rng))
        straight = first.items() <= said(scene.first).items() and second.items() <= said(scene.second).items()
        turned = first.items() <= said(scene.second).items() and second.items() <= said(scene.first).items()
        inverse = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "and": "and"}
        assert (straight and relation in (scene.relation, "and")) or (turned and relation in (inverse[scene.relation], "and"))
        assert background in (scene.background, None)
        told |= {(len(first), len(second), relation == scene.relation, background is None)}
    assert len(told) > 20


def test_every_word_of_a_caption_is_a_word_of_the_world():
    rng = np.random.default_rng(1)
    assert not any(unknown_words(caption(scene, rng)) for scene in islice(world_stream(8), 2000))


@pytest.mark.parametrize(
    "text, unknown",
    [
        ("An astronaut riding a red cat", ("astronaut", "riding")),
        ("a red heart, a red HEART and two 2 hearts", ("two", "2", "hearts")),
        ("ein roter Löwe", ("ein", "roter", "löwe")),
        ("a tiny violet sailing boat in the upper right corner against a grey background", ()),
        ("", ()),
    ],
)
def test_unknown_words_are_told(text, unknown):
    assert unknown_words(text) == unknown


# ---- pictures ----------------------------------------------------------------------------------------


def test_one_picture_is_painted_of_both_and_batches_agree():
    scenes = list(islice(world_stream(1), 30))
    assert (render_batch(scenes) == np.stack([render(scene) for scene in scenes])).all()


@pytest.mark.parametrize("size", [32, 64])
def test_anti_aliasing_of_two_agrees_with_averaging_a_large_picture(size):
    block = 512 // size
    for scene in pairs(40, seed=2):
        averaged = render(scene, 512).reshape(size, block, size, block, 3).mean((1, 3))
        assert np.abs(render(scene, size) - averaged).mean() < 0.6, caption(scene)


def overlapping():
    """A large house whose foot stands before a large umbrella."""
    house = Thing(object="house", colour="red", size="large", centre=(0.5, 0.3))
    return PairScene(first=house, second=replace(house, object="umbrella", colour="blue", centre=(0.5, 0.684)), relation="above", background="white")


def test_the_first_stands_in_front_in_picture_segmentation_and_depth():
    scene = overlapping()
    both = alone(scene, scene.first) & alone(scene, scene.second)
    assert both.sum() > 20
    assert (instances(scene)[both] == 1).all()
    assert (segmentation(scene)[both] == 1 + OBJECTS.index("house")).all()
    pixels = render(scene)[both].astype(int)
    assert (pixels[:, 0] > pixels[:, 2]).mean() > 0.8  # red, not blue
    near = depth(scene)
    assert near[instances(scene) == 1].min() > near[instances(scene) == 2].max() > near[instances(scene) == 0].max()


def test_instances_and_segmentation_tell_two_hearts_apart_or_not():
    scene = PairScene(first=HEART, second=replace(STAR, object="heart"), relation="left of", background="white")
    assert set(np.unique(instances(scene))) == {0, 1, 2}
    assert set(np.unique(segmentation(scene))) == {0, 1 + OBJECTS.index("heart")}


def test_instances_lie_where_the_centres_say():
    for scene in pairs(100, seed=3):
        for label, thing in enumerate((scene.first, scene.second), 1):
            rows, columns = np.where(instances(scene) == label)
            x, y = thing.centre
            assert abs(columns.mean() / 64 - x) < 0.1 and abs(rows.mean() / 64 - y) < 0.1


def test_edges_are_where_something_nearer_ends():
    for scene in [overlapping(), *pairs(60, seed=4)]:
        # the first thing is 1, so that the nearest has the highest rank
        rank = np.pad(np.array([0, 2, 1])[instances(scene)], 1)
        neighbours = [rank[:-2, 1:-1], rank[2:, 1:-1], rank[1:-1, :-2], rank[1:-1, 2:]]
        assert ((edges(scene) > 0) == (np.min(neighbours, axis=0) < rank[1:-1, 1:-1])).all()


# ---- what the world cannot hold ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, shown",
    [
        ({"relation": "inside"}, "relation='inside'"),
        ({"relation": "right of"}, "not right of"),
        ({"relation": "above"}, "not above"),
        ({"background": "plaid"}, "background='plaid'"),
        ({"second": replace(HEART, size="small", centre=(0.75, 0.5))}, "Both things are a red heart"),
        ({"second": replace(STAR, centre=(0.3, 0.5))}, "hides"),
        ({"second": None}, "Thing"),
    ],
)
def test_a_pair_refuses_nonsense_and_shows_it(wrong, shown):
    with pytest.raises(StudioError, match=re.escape(shown)):
        replace(PAIR, **wrong)


@pytest.mark.parametrize("centre", [(0.05, 0.5), (0.5, 0.99), (float("nan"), 0.5), (0.5,), 0.5, ("a", 0.5)])
def test_a_thing_that_would_be_cut_off_is_refused(centre):
    with pytest.raises(StudioError, match="centre="):
        replace(HEART, centre=centre)


@pytest.mark.parametrize("split, seed", [("test", 0), ("train", -1), ("all", 0.5)])
def test_streams_of_two_refuse_nonsense_before_the_first_scene(split, seed):
    for stream in (pair_stream, world_stream):
        with pytest.raises(StudioError):
            stream(seed, split)


@pytest.mark.parametrize(
    "text, told",
    [
        ("a red heart, a blue star and a cat", "3 objects"),
        ("a lighthouse", "no objects"),
        ("a red heart inside a blue star", "relation"),
        ("a cat behind a car on a blue background", "relation"),
    ],
)
def test_a_caption_that_the_world_cannot_hold_is_a_sentence(text, told):
    with pytest.raises(StudioError, match=told):
        imagine(text, np.random.default_rng(0))


def test_a_caption_is_imagined_as_it_says():
    for scene in islice(world_stream(9), 300):
        again = imagine(caption(scene), np.random.default_rng(1))
        assert caption(again) == caption(scene)
    loose = imagine("a heart above a heart", np.random.default_rng(0))
    assert loose.relation == "above" and loose.first.colour != loose.second.colour


# ---- files -------------------------------------------------------------------------------------------


def test_scenes_come_back_from_their_files():
    for scene in islice(world_stream(10), 200):
        assert scene_from_json(scene_to_json(scene)) == scene


THINGS = [{"object": "heart", "colour": "red", "centre": [0.25, 0.5]}, {"object": "star", "colour": "blue", "centre": [0.75, 0.5]}]


@pytest.mark.parametrize(
    "data, told",
    [
        ({"background": "white", "relation": "and", "things": [*THINGS, THINGS[0]]}, "3 objects"),
        ({"background": "white", "relation": "inside", "things": THINGS}, "relation='inside'"),
        ({"background": "white", "things": []}, "0 objects"),
        ({"background": "white", "things": "a heart"}, "things"),
        ({"background": "white", "things": [{"object": "heart"}]}, "colour"),
        ({"background": "white", "things": [{"object": "heart", "colour": "red", "texture": "wool"}]}, "texture"),
        ({"background": "white", "sky": 1, "things": THINGS[:1]}, "sky"),
        ({"things": [{"object": "heart", "colour": "red"}]}, "background=None"),
        ({"background": ["white"], "relation": "and", "things": THINGS}, "background="),
        ({"background": "white", "relation": "and", "things": [THINGS[0] | {"centre": "middle"}, THINGS[1]]}, "centre="),
        ([], "JSON object"),
    ],
)
def test_a_scene_file_that_the_world_cannot_hold_is_a_sentence(data, told):
    with pytest.raises(StudioError, match=told):
        scene_from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_what_is_no_json_is_a_sentence(text):
    with pytest.raises(StudioError, match="not JSON"):
        scene_from_json(text)


def test_streams_do_not_repeat_themselves():
    assert all(one != other for one, other in pairwise(pairs(50)))


def test_the_program_draws_a_caption_and_a_file_and_refuses_the_rest_in_a_sentence(tmp_path):
    from studio.toybox.__main__ import main

    picture, file = tmp_path / "scene.png", tmp_path / "scene.json"
    main([str(picture), "--caption", caption(PAIR)])
    drawn = picture.read_bytes()
    file.write_text(scene_to_json(imagine(caption(PAIR), np.random.default_rng(0))))
    main([str(picture), "--scene", str(file)])
    assert picture.read_bytes() == drawn
    with pytest.raises(SystemExit, match="3 objects"):
        main([str(picture), "--caption", "a cat, a cup and a car"])
