"""What training did, in pictures: the examiner on renders, the figure of forgetting, before and after from the same seeds."""

from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import InvalidOption
from studio.models.examiner import examine, load_examiner, own_accuracy, read_attributes
from studio.runs import RunView
from studio.runs.probes import STEP_COUNTS, before_and_after, checkpoint_matrix, forgotten
from studio.sampling.events import Finished
from studio.toybox import ATTRIBUTES, render, render_batch, scene_stream


@pytest.fixture
def view(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    options = {
        "base": "toybox-sd", "instance_prompt": "a sks cat", "class_prompt": "a cat", "validation_steps": 20, "validation_guidance": 4.0, "resolution": 64,
        "prior_weight": 1.0,
    }
    return RunView(name="run", path=tmp_path / "run", trainer="dreambooth", state="finished", options=options)


class Painter:
    """A studio whose models draw what they are told: pictures of the toy world, each noted with its options."""

    def __init__(self, **objects):
        self.objects, self.asked = objects, []

    def sample(self, options, stop):
        self.asked.append(options)
        name = self.objects[options.model.rsplit("/", 2)[-2] if "/" in options.model else options.model]
        scenes = [replace(scene, object=name) for scene in islice(scene_stream(options.seed), options.num_images)]
        yield Finished(images=[Image.fromarray(render(scene, 64)) for scene in scenes], trajectory=SimpleNamespace(complete=True))


def test_the_examiner_reads_renders_as_well_as_its_card_says():
    scenes = list(islice(scene_stream(123, split="all"), 500))
    right = examine(load_examiner(), torch.from_numpy(render_batch(scenes, 64)).movedim(-1, 1), scenes)
    for name in ATTRIBUTES:
        assert np.mean(right[name]) >= 0.98 and abs(np.mean(right[name]) - own_accuracy()[name]) < 0.02


def test_what_was_forgotten_is_counted_by_the_examiner_row_by_row(view):
    painter = Painter(**{"toybox-sd": "cat", "run": "house"})
    *_, last = forgotten(painter, view)
    assert last.note.startswith("Taken for a cat by the examiner, of 16: 16 (before), 0 (run, prior weight 1).") and "Root mean square" in last.note
    assert [options.prompt for options in painter.asked] == ["a cat", "a cat"] and {options.seed for options in painter.asked} == {1000}
    read = read_attributes(load_examiner(), torch.stack([torch.from_numpy(np.array(cell)).movedim(-1, 0) for cell in last.rows[1][1]]))
    assert read["object"] == ["house"] * 16


def test_a_class_that_the_toy_world_does_not_know_is_shown_without_a_count(view):
    painter = Painter(**{"toybox-sd": "cat", "run": "cat"})
    *_, last = forgotten(painter, replace(view, options={**view.options, "class_prompt": "a violin"}))
    assert "examiner" not in last.note and "Root mean square change from before, at the same seeds: 0.00" in last.note and len(last.columns) == 4


def test_before_and_after_begin_alike_and_differ_in_the_model_alone(view):
    painter = Painter(**{"toybox-sd": "cat", "run": "star"})
    sheets = list(before_and_after(painter, view, "a sks cat"))
    assert [sheet.done for sheet in sheets] == [0, 1, 2] and [name for name, _ in sheets[-1].rows] == ["before", "run, prior weight 1"]
    first, second = painter.asked
    assert replace(second, model=first.model) == first and second.model == str(view.path / "model")
    with pytest.raises(InvalidOption, match="not finished"):
        list(before_and_after(painter, replace(view, state="stopped"), "a sks cat"))


def test_the_matrix_is_checkpoints_by_denoising_steps(view):
    for step in (99, 199):
        (view.path / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    painter = Painter(**{"toybox-sd": "cat", "checkpoints": "star"})
    *_, last = checkpoint_matrix(painter, view, "a sks cat")
    assert [name for name, _ in last.rows] == ["before", "step 100", "step 200"] and last.done == last.total == 3 * len(STEP_COUNTS)
    assert [options.num_steps for options in painter.asked[: len(STEP_COUNTS)]] == list(STEP_COUNTS)
    assert all(cell is not None for _, row in last.rows for cell in row)


@pytest.mark.parametrize(("probe", "asked", "sentence"), [
    (before_and_after, ("a sks cat",), "has not finished"), (forgotten, (), "has not finished"), (checkpoint_matrix, ("a sks cat",), "has no checkpoint yet"),
])
def test_what_cannot_be_drawn_yet_is_said_before_anything_is_asked_for(view, probe, asked, sentence):
    with pytest.raises(InvalidOption, match=sentence):
        probe(Painter(), replace(view, state="running"), *asked)
