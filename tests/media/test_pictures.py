"""The example pictures: real, offline, and quick."""

import socket
import subprocess
import sys

import numpy as np
import pytest

from studio.errors import UnknownName
from studio.media.pictures import PICTURES, load_picture


@pytest.mark.parametrize("name", PICTURES)
def test_every_example_loads_offline_as_rgb_with_something_to_see(name, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))
    picture = load_picture(name)
    assert picture.mode == "RGB" and min(picture.size) >= 64
    assert np.asarray(picture).std() > 10
    assert PICTURES[name].label and PICTURES[name].about.endswith(".")


@pytest.mark.parametrize("name", PICTURES)
def test_the_seed_chooses_where_the_menu_says_so(name):
    first, again, other = (np.asarray(load_picture(name, seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) != PICTURES[name].varies


def test_photographs_and_digits_are_those_of_the_packages():
    from skimage import data
    from sklearn.datasets import load_digits

    from studio.media.pictures import handwritten_digits

    published = load_digits()
    assert np.array_equal(np.asarray(load_picture("cat")), data.chelsea())
    assert np.array_equal(np.asarray(load_picture("coffee")), data.coffee())
    digits, labels = handwritten_digits()
    assert np.array_equal(digits, np.rint(published.images * (255 / 16))) and np.array_equal(labels, published.target)


def test_a_seed_beyond_the_last_digit_wraps_around():
    assert load_picture("digit", 1797 + 5) == load_picture("digit", 5)


def test_unknown_name_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'coffee'"):
        load_picture("cofee")


def test_import_brings_nothing_heavy():
    code = """import sys, studio.media.pictures, studio.media.uploads, studio.media.figures, studio.process.noising
print(sorted({'torch', 'skimage', 'sklearn', 'matplotlib', 'scipy', 'gradio'} & set(sys.modules)))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
