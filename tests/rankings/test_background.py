"""Tasks are made on when nobody looks, and taken up again by the next studio."""

import json
from threading import Event

import pytest
from PIL import Image

from studio import SampleOptions
from studio.errors import InvalidOption, StudioBusy
from studio.models.device import Device
from studio.rankings import NewGeneration, NewTask, add_tasks, collections
from studio.rankings.background import Makings
from studio.rankings.making import TaskMade, TaskOptions
from studio.rankings.pictures import keep_drawn

OPTIONS = TaskOptions(prompts=["a", "b", "c"], models=["disc"], sampling=SampleOptions(model="disc", num_steps=2), pictures=2)
PATIENCE_S = 60


@pytest.fixture
def makings(rankings):
    """Makings whose tasks after the first wait until `go` is set."""
    go = Event()

    def make(options):
        for index, prompt in enumerate(options.prompts):
            if index and not go.wait(PATIENCE_S):
                raise InvalidOption("Nobody let it go on.")
            if prompt == "broken":
                raise InvalidOption("The prompt is broken.")
            pictures = [keep_drawn(rankings.folder, Image.new("RGB", (8, 8), (ord(prompt[0]), place, 0))) for place in range(2)]
            new = add_tasks(rankings, [NewTask(prompt=prompt, generations=[NewGeneration(picture=one) for one in pictures], collection="made")])
            yield TaskMade(index, len(options.prompts), new > 0)

    made = Makings(make, lambda: rankings, Device())
    made.go = go
    yield made
    go.set()
    for making in made.running():
        assert making.over.wait(PATIENCE_S)


def records(rankings):
    return list((rankings.folder / "making").glob("*.json"))


def test_it_goes_on_when_nobody_follows_and_leaves_nothing_behind(makings, rankings):
    making = makings.start("me", OPTIONS)
    assert next(making.followed()).index == 0
    assert makings.running() == [making] and len(records(rankings)) == 1
    makings.go.set()
    assert making.over.wait(PATIENCE_S) and collections(rankings) == {"made": 3}
    assert records(rankings) == [] and makings.running() == []
    assert [event.index for event in making.followed()] == [2]


def test_one_visitor_makes_one_thing_at_a_time_and_stop_ends_it_after_its_task(makings, rankings):
    making = makings.start("me", OPTIONS)
    next(making.followed())
    with pytest.raises(StudioBusy, match="made already"):
        makings.start("me", OPTIONS)
    other = makings.start("you", OPTIONS)
    assert makings.stop("me") and not makings.stop("nobody")
    makings.go.set()
    assert making.over.wait(PATIENCE_S) and other.over.wait(PATIENCE_S)
    assert other.last.index == 2 and making.stop.is_set() and not other.stop.is_set()


def test_what_was_cut_off_is_taken_up_again(makings, rankings):
    making = makings.start("me", OPTIONS)
    next(making.followed())
    (file,) = records(rankings)
    said = json.loads(file.read_text())
    makings.go.set()
    assert making.over.wait(PATIENCE_S)
    # As a kill would have left it, and one that nobody can read.
    file.write_text(json.dumps(said))
    (file.parent / "damaged.json").write_text("{")
    assert makings.resume() == 1
    (again,) = makings.running() or [None]
    assert again is None or again.over.wait(PATIENCE_S)
    assert collections(rankings) == {"made": 3} and records(rankings) == []


def test_what_fails_is_said_to_who_follows(makings):
    making = makings.start("me", TaskOptions(prompts=["broken"], models=["disc"], sampling=OPTIONS.sampling, pictures=2))
    with pytest.raises(InvalidOption, match="broken"):
        list(making.followed())
