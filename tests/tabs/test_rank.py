"""The Rank tab without a browser: what the board is told, and what programs get from its endpoints."""

import json
import tempfile

import gradio as gr
import pytest

from studio import Studio
from studio.errors import InvalidOption
from studio.rankings.making import TaskOptions, make_tasks, toybox_prompts
from studio.rankings.schema import Generation, Task
from tabs.endpoints import create_rank_endpoints
from tabs.parts.blocks import StudioBlocks
from tabs.rank import acted, agreement_value, board_value, require_own, task_options
from tests.tabs.fakes import FakeStudio


class Event:
    """What the page says with an event."""

    def __init__(self, **said):
        self._data = {"assignment": None, "collection": "", **said}


@pytest.fixture
def studio(tmp_path, example_rankings):
    example_rankings(tmp_path / "rankings")
    made = Studio(rankings_root=tmp_path / "rankings", runs_root=tmp_path / "runs")
    yield made
    made.rankings.close()


def board(studio, **more):
    return json.loads(board_value(studio, lambda name, suffix: f"/{name}.{suffix}", "me", "", **more))


def test_the_board_is_told_the_next_tasks_and_how_far_it_is(studio):
    shown = board(studio)
    assert len(shown["tasks"]) == 3 and all(len(task["pictures"]) == 4 for task in shown["tasks"])
    assert shown["progress"]["submitted"] == 0 and shown["progress"]["left"] == 57
    assert not any(kind in json.dumps(shown["tasks"]) for kind in ("as it says", "another scene")), "the annotator must not see which model it was"


def test_what_is_submitted_is_acknowledged_and_the_next_task_comes(studio):
    first, second, *_ = board(studio)["tasks"]
    said = {"ratings": [], "flags": [], "seconds": 3}
    answer = acted(studio, "me", Event(do="submit", assignment=first["assignment"], request="r", ranks=[1, 2, 2, None], **said))
    assert answer["acknowledged"] == first["assignment"] and board(studio)["tasks"][0] == second
    assert acted(studio, "me", Event(do="undo"))["reopened"] == first["assignment"]
    assert board(studio)["tasks"][0]["draft"]["ranks"] == [1, 2, 2, None]


def test_a_draft_is_acknowledged_by_the_request_that_brought_it(studio):
    first = board(studio)["tasks"][0]
    ranks = [None, 1, None, None]
    assert acted(studio, "me", Event(do="draft", assignment=first["assignment"], draft={"ranks": ranks}, request="a"))["kept"] == "a"
    assert board(studio)["tasks"][0]["draft"]["ranks"] == ranks
    assert "kept" not in acted(studio, "me", Event(do="draft", assignment=first["assignment"], draft={"ranks": 3}, request="b"))


def test_what_is_refused_is_told_with_the_task_it_belongs_to(studio):
    first = board(studio)["tasks"][0]
    answer = acted(studio, "me", Event(do="submit", assignment=first["assignment"], request="r", ranks=[1], ratings=[], flags=[], seconds=0.5))
    assert answer["failed"] == first["assignment"] and "rank" in answer["error"]


@pytest.mark.parametrize("said", [{"do": "dance"}, {"do": 3}, {}, {"do": "submit", "assignment": "x"}])
def test_an_event_that_is_none_of_the_page_is_refused_in_a_sentence(studio, said):
    with pytest.raises(InvalidOption):
        acted(studio, "me", Event(**said))


def test_agreement_says_only_what_json_can_hold(studio):
    value = json.loads(agreement_value(studio, ""))
    assert value["rankings"] == 198 and len(value["strengths"]) == 4 and value["matrix"]["rates"][0][0] is None


def test_tasks_are_made_from_the_models_in_turn_and_made_again_are_the_same(tmp_path):
    from studio.options import SampleOptions
    from studio.rankings import open_rankings

    rankings, fake = open_rankings(tmp_path), FakeStudio()
    sampling = SampleOptions(model="disc", num_steps=2)
    options = TaskOptions(prompts=["one", "two"], models=["disc", "ring"], sampling=sampling, pictures=3, seed=5)
    assert [(made.index, made.new) for made in make_tasks(rankings, fake.sample, options)] == [(0, True), (1, True)]
    assert [(made.index, made.new) for made in make_tasks(rankings, fake.sample, options)] == [(0, False), (1, False)]
    with rankings.reading() as session:
        rows = session.query(Generation).order_by(Generation.id).all()
        assert [(row.model, row.seed) for row in rows] == [("disc", 5), ("disc", 6), ("ring", 7), ("disc", 8), ("disc", 9), ("ring", 10)]
        assert session.query(Task).count() == 2
    rankings.close()


@pytest.mark.parametrize("changes", [
    {"prompts": ""}, {"models": []}, {"pictures": 1}, {"pictures": 10}, {"overlap": 0}, {"seed": -1}, {"steps": 0}, {"prompts": "x" * 20_000},
])
def test_tasks_that_make_no_sense_are_refused_before_anything_is_drawn(changes):
    form = {"prompts": "a\nb", "models": ["disc"], "pictures": 4, "steps": 5, "guidance": 1.0, "seed": 0, "overlap": 1, "collection": "mine"}
    with pytest.raises(InvalidOption):
        task_options(**{**form, **changes})


def test_prompts_of_the_toy_world_are_sentences_of_it():
    from studio.toybox import unknown_words

    prompts = toybox_prompts(10, 3)
    assert len(set(prompts)) == 10 and not any(unknown_words(prompt) for prompt in prompts)


def test_files_of_everybodys_rankings_are_not_for_strangers(tmp_path):
    public = Studio(public=True, rankings_root=tmp_path)
    with pytest.raises(InvalidOption, match="signed in"):
        require_own(public, None)
    require_own(Studio(rankings_root=tmp_path), None)


def test_a_program_ranks_by_the_endpoints(studio, tmp_path, monkeypatch):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    # Rankings lie in no temporary folder, as a user's own do.
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with StudioBlocks() as demo:
        create_rank_endpoints(studio)
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(address, verbose=False)
        task = client.predict("Ada", api_name="/rank_next")[0]
        assert len(task["pictures"]) == 4
        done = client.predict(annotator="Ada", assignment=task["assignment"], ranks=[1, 2, 2, None], sent_as="one", api_name="/rank_submit")
        assert done["revision"] == 1
        assert client.predict("Ada", api_name="/rank_next")[0]["assignment"] != task["assignment"]
        assert str(client.predict(format="imagereward", api_name="/rank_export")).endswith(".zip")
        with pytest.raises(AppError, match="given no task"):
            client.predict(annotator="Bob", assignment=task["assignment"], ranks=[1, 2, 3, 4], api_name="/rank_submit")
        with pytest.raises(AppError, match="format of rankings"):
            client.predict(format="pickle", api_name="/rank_export")
    finally:
        demo.close()
        gr.close_all()


def test_what_was_just_drawn_becomes_a_task_once(studio):
    from studio import SampleOptions
    from studio.rankings.making import add_drawn

    options = SampleOptions(model="disc", num_steps=2, num_images=3, prompt="a disc", seed=5)
    *_, finished = FakeStudio().sample(options)
    assert add_drawn(studio.rankings, options, finished.images, "drawn") and not add_drawn(studio.rankings, options, finished.images, "drawn")
    with pytest.raises(InvalidOption, match="2 to 9 pictures, but the run drew 1"):
        add_drawn(studio.rankings, options, finished.images[:1], "drawn")
