"""The reader of the toy world: what its cells should say, that perfect cells are read as the scene, that it learns."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from studio.models import scene_reader
from studio.models.scene_reader import CELLS, PARTS, examine_scenes, load_reader, read_scenes
from studio.toybox import COLOURS, OBJECTS, SIZES, PairScene, Scene, Thing
from trainers import reader
from trainers.captions import draw_scenes, toybox_scenes

SMALL = {"data_limit": 64, "batch_size": 16, "warmup": 5, "sample_every": 0, "checkpoint_every": 1000, "tensorboard": False}
HEART = Thing(object="heart", colour="red", centre=(0.25, 0.5))
STAR = Thing(object="star", colour="blue", size="small", centre=(0.75, 0.5))
PAIR = PairScene(first=HEART, second=STAR, relation="left of", background="yellow")


class Knowing(torch.nn.Module):
    """A reader that says of the scenes it was made for exactly what its targets ask."""

    def __init__(self, scenes):
        super().__init__()
        self.scenes, self.wanted = scenes, reader.targets(scenes)

    def forward(self, x):
        cells = {name: torch.zeros(len(x), numbers, CELLS, CELLS) for name, numbers in PARTS.items()}
        wanted = self.wanted
        cells["middle"][:, 0] = torch.logit(wanted["middle"].clamp(1e-4, 1 - 1e-4))
        where = wanted["picture"], slice(None), wanted["row"], wanted["column"]
        cells["offset"][where] = torch.logit(wanted["offset"].clamp(1e-4, 1 - 1e-4))
        for name, menu in (("object", OBJECTS), ("colour", COLOURS), ("size", SIZES)):
            cells[name][where] = 9 * torch.nn.functional.one_hot(wanted[name], len(menu)).float()
        return torch.cat(list(cells.values()), 1), torch.nn.functional.one_hot(wanted["background"], 12).float()


@pytest.mark.parametrize("world", ["toybox", "toybox-pairs"])
def test_cells_that_say_what_they_should_are_read_as_the_scene(world):
    scenes = toybox_scenes(2, 120, "all", world)
    right = examine_scenes(Knowing(scenes), torch.zeros(120, 3, 64, 64, dtype=torch.uint8), scenes)
    assert all(answers.all() for answers in right.values()), {name: answers.mean() for name, answers in right.items()}
    assert ("relation" in right) == (world == "toybox-pairs") and ("position" in right) == (world == "toybox")


def seen(scene, asked):
    return {name: bool(answers[0]) for name, answers in examine_scenes(Knowing([scene]), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [asked]).items()}


def test_what_is_wrong_is_told_apart():
    swapped = replace(PAIR, first=replace(HEART, colour="blue"), second=replace(STAR, colour="red"))
    wrong = [name for name, right in seen(swapped, PAIR).items() if not right]
    assert wrong == ["first colour", "second colour", "all"]
    turned = PairScene(first=replace(HEART, centre=(0.75, 0.5)), second=replace(STAR, centre=(0.25, 0.5)), relation="right of", background="yellow")
    assert [name for name, right in seen(turned, PAIR).items() if not right] == ["relation", "all"]
    assert seen(turned, replace(PAIR, relation="and"))["all"]


def test_one_object_where_two_were_asked_for_is_counted():
    alone = Scene(object="heart", colour="red", background="yellow")
    told = seen(alone, PAIR)
    assert told["first object"] and told["background"] and not (told["count"] or told["second object"] or told["relation"] or told["all"])


def test_the_loss_falls_when_the_cells_say_what_they_should():
    scenes = toybox_scenes(3, 16, "all", "toybox-world")
    knowing, fresh = Knowing(scenes), scene_reader.SceneReader()
    x = torch.zeros(16, 3, 64, 64)
    (good, right), (bad, _) = (reader.reading_loss(*network(x), knowing.wanted) for network in (knowing, fresh))
    assert right.item() == 1 and (good < bad).all()
    assert good.shape == (16,)


def test_the_reader_learns_from_renders_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "examine_fresh", partial(reader.examine_fresh, count=40))
    logs = list(reader.train(reader.ReaderOptions(output=str(tmp_path), steps=20, lr=6e-3, **SMALL), progress=False))
    assert np.mean([log.loss for log in logs[-5:]]) < 0.8 * np.mean([log.loss for log in logs[:5]])
    kept = load_reader(tmp_path / "model")
    scenes = toybox_scenes(5, 12, "all", "toybox-world")
    readings = read_scenes(kept, draw_scenes(scenes, 64))
    assert len(readings) == 12 and all(reading.background in COLOURS and len(reading.things) <= 3 for reading in readings)
    figures = json.loads((tmp_path / "model/accuracy.json").read_text())
    assert set(figures) == {"one", "two"} and {"each object", "its own colour", "relation"} <= set(figures["two"])
