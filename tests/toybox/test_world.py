"""Scenes, their captions, and the combinations kept out of training."""

import math
import subprocess
import sys
from itertools import islice, product

import numpy as np
import pytest

import studio.toybox as toybox
from studio.errors import StudioError
from studio.toybox import (
    COLOURS,
    OBJECTS,
    POSITIONS,
    SIZES,
    Scene,
    caption,
    is_held_out,
    parse_caption,
    sample_scene,
    scene_stream,
)

TRIPLES = list(product(OBJECTS, COLOURS, COLOURS))


def combination(scene):
    return scene.object, scene.colour, scene.background


def test_public_names_exist_and_are_sorted():
    assert list(toybox.__all__) == sorted(toybox.__all__)
    assert all(hasattr(toybox, name) for name in toybox.__all__)


def test_import_needs_neither_torch_nor_gradio_nor_pillow():
    # the package's own modules only: what `import studio` loads is studio's matter
    code = (
        "import sys, types; parent = types.ModuleType('studio'); parent.__path__ = sys.argv[1:];"
        "sys.modules['studio'] = parent; import studio.toybox;"
        "print([m for m in ('torch', 'gradio', 'PIL', 'diffusers') if m in sys.modules])"
    )
    package = str(toybox.__path__[0]).removesuffix("/toybox")
    out = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_world_has_the_sizes_of_its_design():
    assert (len(OBJECTS), len(COLOURS), len(SIZES), len(POSITIONS)) == (20, 12, 3, 9)


# ---- streams -----------------------------------------------------------------------------------------


def test_same_seed_gives_the_same_scenes_and_another_seed_others():
    first, again, other = (list(islice(scene_stream(seed), 50)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_sampled_scenes_cover_every_name_evenly():
    scenes = list(islice(scene_stream(0, "all"), 6000))
    for field, names in (("object", OBJECTS), ("colour", COLOURS), ("background", COLOURS), ("size", SIZES)):
        counts = np.array([sum(getattr(scene, field) == name for scene in scenes) for name in names])
        expected = len(scenes) / len(names)
        assert np.all(np.abs(counts - expected) < 5 * math.sqrt(expected)), (field, counts)
    centred = sum(scene.position == "center" for scene in scenes)
    assert abs(centred - 2000) < 5 * math.sqrt(2000)
    assert {scene.position for scene in scenes} == set(POSITIONS)


@pytest.mark.parametrize("split, wanted", [("train", {False}), ("held_out", {True}), ("all", {False, True})])
def test_each_split_holds_only_its_own_combinations(split, wanted):
    scenes = islice(scene_stream(1, split), 400)
    assert {is_held_out(*combination(scene)) for scene in scenes} == wanted


def test_sample_scene_continues_its_generator():
    rng = np.random.default_rng(0)
    assert sample_scene(rng) != sample_scene(rng)


# ---- held-out combinations ---------------------------------------------------------------------------


def test_about_a_tenth_of_the_combinations_is_held_out():
    share = np.mean([is_held_out(*triple) for triple in TRIPLES])
    assert 0.085 < share < 0.115


def test_every_pair_of_names_still_occurs_in_training():
    training = [triple for triple in TRIPLES if not is_held_out(*triple)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(t[i], t[j]) for t in training} == {(t[i], t[j]) for t in TRIPLES}


def test_every_object_and_colour_also_occurs_among_the_held_out():
    held_out = [triple for triple in TRIPLES if is_held_out(*triple)]
    assert [len({triple[i] for triple in held_out}) for i in range(3)] == [20, 12, 12]


def test_held_out_combinations_never_change():
    # Models are trained against this very list: another list would spoil their measured numbers.
    first = [triple for triple in TRIPLES if is_held_out(*triple)][:4]
    assert [" ".join(triple) for triple in first] == [
        "circle red red",
        "circle red pink",
        "circle yellow teal",
        "circle yellow blue",
    ]
    assert sum(is_held_out(*triple) for triple in TRIPLES) == 303


# ---- captions ----------------------------------------------------------------------------------------


def test_full_captions_read_as_designed():
    star = Scene(object="star", colour="red", background="blue", size="small", position="left")
    heart = Scene(object="heart", colour="red", background="white")
    umbrella = Scene(object="umbrella", colour="orange", background="orange", size="large", position="top right")
    assert caption(star) == "a small red star on the left on a blue background"
    assert caption(heart) == "a red heart on a white background"
    assert caption(umbrella) == "a large orange umbrella in the top right corner on an orange background"
    assert caption(Scene(object="cat", colour="orange", background="teal")) == "an orange cat on a teal background"


def test_full_captions_parse_back_to_their_scenes():
    for scene in islice(scene_stream(5, "all"), 5000):
        found = {"size": "medium", "position": "center"} | parse_caption(caption(scene))
        assert found == {field: getattr(scene, field) for field in found} and len(found) == 5


def test_varied_captions_say_nothing_false_and_always_name_the_object():
    rng = np.random.default_rng(0)
    for scene in islice(scene_stream(6, "all"), 5000):
        found = parse_caption(caption(scene, rng))
        assert "object" in found
        assert found == {field: getattr(scene, field) for field in found}


def test_varied_captions_vary_and_repeat_with_the_seed():
    scene = Scene(object="cup", colour="gray", background="purple", size="small", position="bottom left")
    spoken = [[caption(scene, rng) for _ in range(200)] for rng in map(np.random.default_rng, (0, 0))]
    assert spoken[0] == spoken[1]
    assert len(set(spoken[0])) > 40
    text = " ".join(spoken[0])
    for word in ("grey", "violet", "tiny", "lower left", "mug", "against"):
        assert word in text


def test_varied_captions_leave_every_attribute_unsaid_now_and_then():
    rng = np.random.default_rng(1)
    scene = Scene(object="cup", colour="gray", background="purple", size="small", position="left")
    found = [parse_caption(caption(scene, rng)) for _ in range(300)]
    for field in ("colour", "background", "size", "position"):
        assert 0 < sum(field not in one for one in found) < 150


@pytest.mark.parametrize(
    "text, found",
    [
        ("", {}),
        ("An oil painting of a lighthouse", {}),
        ("A BIG grey Fish, please!", {"object": "fish", "colour": "gray", "size": "large"}),
        ("white background, black moon", {"object": "moon", "colour": "black", "background": "white"}),
        ("a plus sign in the upper right corner", {"object": "cross", "position": "top right"}),
        ("an umbrella in the middle", {"object": "umbrella", "position": "center"}),
    ],
)
def test_free_text_is_parsed_for_what_it_names(text, found):
    assert parse_caption(text) == found


# ---- nonsense ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, shown",
    [
        ({"object": "dog"}, "object='dog'"),
        ({"object": None}, "object=None"),
        ({"colour": "grey"}, "colour='grey'"),
        ({"background": ""}, "background=''"),
        ({"size": "huge"}, "size='huge'"),
        ({"position": "left top"}, "position='left top'"),
        ({"jitter": (0.5, 0.0)}, "jitter=(0.5, 0.0)"),
        ({"jitter": 0.0}, "jitter=0.0"),
        ({"jitter": (0.0, float("nan"))}, "nan"),
        ({"angle": 45.0}, "angle=45.0"),
        ({"angle": "8"}, "angle='8'"),
        ({"angle": float("nan")}, "nan"),
    ],
)
def test_a_scene_refuses_nonsense_and_shows_it(wrong, shown):
    with pytest.raises(StudioError) as error:
        Scene(**{"object": "cat", "colour": "red", "background": "blue"} | wrong)
    assert isinstance(error.value, ValueError)
    assert shown in str(error.value)


def test_a_scene_is_frozen_and_takes_keywords_only():
    scene = Scene(object="cat", colour="red", background="blue")
    with pytest.raises(AttributeError):
        scene.colour = "green"
    with pytest.raises(TypeError):
        Scene("cat", "red", "blue")
    assert len({scene, Scene(object="cat", colour="red", background="blue")}) == 1


@pytest.mark.parametrize("seed, split", [(0, "test"), (-1, "train"), (0.5, "train"), (True, "train"), (None, "all")])
def test_a_stream_refuses_nonsense_before_the_first_scene(seed, split):
    with pytest.raises(StudioError, match=repr(split) if split == "test" else repr(seed)):
        scene_stream(seed, split)


def test_held_out_refuses_unknown_names():
    with pytest.raises(StudioError, match="'dog'"):
        is_held_out("dog", "red", "blue")
