"""The Score tab without a browser: what is scored, what the page is told, and what programs get from /score."""

import json
from threading import Event

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio import SampleOptions, Studio
from studio.errors import BadImage, InvalidOption
from studio.models.device import Waiting
from studio.rewards.along import Along, BestSoFar, best_of, expected_best, rewards_along
from studio.rewards.explaining import Explanation, alternatives_for, explain, word_scores
from studio.rewards.registry import load_reward
from studio.sampling.export import save_png
from tabs.endpoints import create_score_endpoint
from tabs.parts.blocks import StudioBlocks
from tabs.parts.scorers import last_run
from tabs.parts.stage import unchecked
from tabs.reward import given_pictures, prompts_for, require_scorable, shown
from tabs.reward_runs import along_value, best_step, best_value
from tabs.reward_training import measured_value, training_options
from tabs.reward_why import SHOWN, Asked
from tests.tabs.fakes import FakeStudio

OPTIONS = SampleOptions(model="disc", num_steps=6, num_images=2, prompt="a red heart")


@pytest.fixture
def studio(tmp_path):
    return Studio(runs_root=tmp_path / "runs", rankings_root=tmp_path / "rankings")


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in ("red", "blue", "grey")]
    for path in paths:
        Image.new("RGB", (32, 32), path.stem).save(path)
    return [str(path) for path in paths]


# --- pictures ------------------------------------------------------------------------------------------------

def test_prompts_are_one_for_all_one_each_or_those_that_pictures_carry(files, tmp_path):
    given = given_pictures(files)
    assert prompts_for(given, " a cat \n") == ["a cat"] * 3
    assert prompts_for(given, "a\nb\nc") == ["a", "b", "c"]
    with pytest.raises(InvalidOption, match="2 lines"):
        prompts_for(given, "a\nb")
    saved = save_png(Image.new("RGB", (8, 8)), tmp_path / "saved.png", OPTIONS)
    assert prompts_for(given_pictures([*files, str(saved)]), "") == ["", "", "", "a red heart"]


def test_what_cannot_be_scored_is_refused_in_a_sentence(studio, files, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BadImage, match="text.png"):
        given_pictures([*files, str(tmp_path / "text.png")])
    with pytest.raises(InvalidOption, match="no pictures"):
        given_pictures(None)
    with pytest.raises(InvalidOption, match="more than the 100"):
        given_pictures(files * 100)
    given = given_pictures(files)
    with pytest.raises(InvalidOption, match="judges a picture by its prompt"):
        require_scorable(studio, given, "", ["toybox-clip"])
    with pytest.raises(InvalidOption, match="Choose 1 to"):
        require_scorable(studio, given, "", [])
    assert require_scorable(studio, given, "", ["redness"]) == [""] * 3


def test_scores_are_told_batch_by_batch_and_at_last_how_scorers_agree(studio, files):
    given, names = given_pictures(files), ["redness", "jpeg_size"]
    changes = list(shown(studio, given, [""] * 3, studio.score([one.picture for one in given], [""] * 3, names), Event()))
    first, last = (json.loads(changes[i]["stage"]) for i in (1, -1))
    assert first["share"] == 0.5 and first["scores"]["jpeg_size"] == [None] * 3 and first["agreement"] is None
    assert last["share"] is None and last["scores"]["redness"] == [255, -127.5, 0]
    assert last["agreement"][0][0] == 1 and [one["label"] for one in last["scorers"]] == ["Redness", "JPEG size"]


def test_stop_leaves_what_was_scored(studio, files):
    given, switch = given_pictures(files), Event()
    switch.set()
    changes = list(shown(studio, given, [""] * 3, studio.score([one.picture for one in given], [""] * 3, ["redness", "jpeg_size"]), switch))
    assert "Stopped: 3 of 6" in changes[-1]["status"]


def test_who_waits_is_told_where_they_stand(studio, files):
    waiting = iter([Waiting(place=2, begins_s=3.0)])
    assert "place 2" in [*shown(studio, given_pictures(files), [""] * 3, waiting, Event())][1]["status"]


def test_the_last_run_of_the_page_is_found():
    studio = FakeStudio()
    with pytest.raises(InvalidOption, match="Nothing was drawn"):
        last_run(studio, "page")
    *_, finished = studio.sample(OPTIONS)
    studio.kept.keep("page", "t2i", finished.trajectory, 10)
    assert last_run(studio, "page") is finished.trajectory


# --- along a run, best of N ----------------------------------------------------------------------------------

def test_the_reward_of_every_step_is_that_of_what_the_model_believed(studio):
    fake = FakeStudio()
    *_, finished = fake.sample(OPTIONS)
    reward = load_reward("redness")
    *_, along = rewards_along([reward], finished.trajectory, studio.decode)
    assert along.done == along.total == 6
    values = np.array(along.rewards["redness"])
    with_images = reward(finished.trajectory.stream("x0_hat")[-1].float(), [""] * 2).numpy()
    assert values.shape == (6, 2) and values[-1] == pytest.approx(with_images, abs=1)
    told = json.loads(along_value(studio, finished.trajectory, along))
    assert told["rewards"][0]["values"] == pytest.approx(values.mean(1), rel=1e-4) and told["frames"] == list(range(6)) and told["decodes"] == []


def test_when_it_became_good_is_said():
    rising = Along(rewards={"a": [[0.0], [0.1], [0.95], [0.9], [1.0]]}, done=5, total=5)
    assert "from step 3 of 5" in best_step(rising)
    assert "does not rise" in best_step(Along(rewards={"a": [[1.0], [0.5]]}, done=2, total=2))


def test_the_expected_best_is_the_mean_over_all_choices():
    from itertools import combinations

    scores = [3.0, 1.0, 4.0, 1.5]
    by_hand = [np.mean([max(chosen) for chosen in combinations(scores, n)]) for n in range(1, 5)]
    assert expected_best(scores) == pytest.approx(by_hand)


def test_best_of_n_draws_each_seed_once_and_the_best_is_the_highest():
    fake = FakeStudio()
    events = [event for event in best_of(load_reward("redness"), OPTIONS, 6, fake.sample) if event is not None]
    last = events[-1]
    assert [len(event.scores) for event in events] == [4, 6] and last.seeds == list(range(6))
    assert [asked.seed for asked in fake.asked] == [0, 4] and last.scores[last.best] == max(last.scores)
    told = json.loads(best_value(Studio(public=True), "redness", "x", last))
    assert told["share"] is None and told["curve"]["x"] == [1, 2, 3, 4, 5, 6] and told["curve"]["y"] == sorted(told["curve"]["y"])
    assert isinstance(last, BestSoFar)
    with pytest.raises(InvalidOption, match="count"):
        next(best_of(load_reward("redness"), OPTIONS, 1, fake.sample))


# --- a closer look -------------------------------------------------------------------------------------------

def test_both_maps_find_where_the_score_comes_from():
    picture = Image.new("RGB", (64, 64), "grey")
    picture.paste("white", (8, 8, 24, 24))
    *shares, found = explain(load_reward("sharpness"), picture, "")
    assert shares[-1] == 1.0 and isinstance(found, Explanation)
    assert found.saliency is not None and found.saliency.shape == (64, 64)
    row, column = np.unravel_index(found.occlusion.argmax(), found.occlusion.shape)
    size = len(found.occlusion)
    assert row < size / 2 and column < size / 2
    assert found.saliency[4:28, 4:28].sum() > 0.95 * found.saliency.sum()
    assert found.agreement is not None and found.agreement > 0.3


def test_a_scorer_without_a_gradient_has_occlusion_alone():
    *_, found = explain(load_reward("jpeg_size"), Image.new("RGB", (64, 64), "grey"), "")
    assert found.saliency is None and found.agreement is None


def test_words_are_left_out_and_exchanged_for_others_of_their_kind(studio):
    from studio.toybox import caption, render, scene_stream

    scene = next(scene_stream(4))
    picture, prompt = Image.fromarray(render(scene)), caption(scene)
    base, *rows = word_scores(load_reward("toybox-examiner"), picture, prompt, ["zebra"])
    assert [row.word for row in rows] == prompt.split()
    colour = next(row for row in rows if row.word == scene.colour)
    assert all(colour.scores[other] < base for other in alternatives_for(scene.colour) if other)
    assert "zebra" in colour.scores
    asked = Asked(picture=picture, prompt=prompt, scorer="toybox-examiner", more=[])
    for kind, show in SHOWN.items():
        *_, last = show(studio, asked)
        assert json.loads(last["stage"])["maps" if kind == "pixels" else "words"]


# --- training, programs --------------------------------------------------------------------------------------

def test_the_form_s_values_are_the_trainer_s_options(studio):
    assert training_options({"lr": 1, "steps": 20, "start": " x ", "seed": None}) == {"lr": 1.0, "steps": 20, "start": "x"}
    assert json.loads(measured_value(None)) == {}


def test_what_was_measured_is_told_and_nonsense_in_its_file_is_not(tmp_path):
    from studio.runs import RunView

    model = tmp_path / "model"
    model.mkdir()
    view = RunView(name="x", path=tmp_path, trainer="reward", state="finished")
    said = {"accuracy": 0.75, "low": float("nan"), "pairs": 200, "human": "many", "calibration": [{"sure": 0.6, "right": 0.5, "pairs": 9}, {"sure": 1}, 3]}
    (model / "reward.json").write_text(json.dumps({"measured": said}))
    told = json.loads(measured_value(view))
    assert (told["accuracy"], told["low"], told["pairs"], told["human"]) == (0.75, None, 200, None) and len(told["calibration"]) == 1
    for damaged in ("{", '{"measured": 3}'):
        (model / "reward.json").write_text(damaged)
        assert json.loads(measured_value(view))["note"]


def test_a_run_keeps_a_copy_of_the_rankings_and_says_when_there_are_none(studio, monkeypatch):
    from studio.rankings.example import EXAMPLE, add_example

    monkeypatch.setattr(studio.runs, "start_due", lambda: None)
    with pytest.raises(InvalidOption, match="no rankings"):
        studio.train_reward("empty", {"steps": 5})
    assert list(studio.runs.list()) == []
    monkeypatch.setattr("studio.rankings.example.NUM_TASKS", 4)
    add_example(studio.rankings)
    view = studio.train_reward("one", {"steps": 5}, EXAMPLE)
    assert view.trainer == "reward" and view.state == "waiting" and view.options["format"] == "studio"
    assert (view.path / "uploads" / "data" / "rankings.zip").is_file()


def test_what_a_training_will_take_is_asked_of_the_rankings_here(studio, monkeypatch):
    from studio.rankings.example import EXAMPLE, add_example

    asked = []
    monkeypatch.setattr("studio.runs.reward.ask", lambda program, options: asked.append((program, options)))
    with pytest.raises(InvalidOption, match="no rankings"):
        studio.estimate_reward({"steps": 5})
    monkeypatch.setattr("studio.rankings.example.NUM_TASKS", 4)
    add_example(studio.rankings)
    studio.estimate_reward({"steps": 5, "format": "studio"}, EXAMPLE)
    (program, options), = asked
    assert program == "reward" and (options.data, options.format) == (str(studio.rankings.folder.resolve()), "database")
    assert (options.collection, options.steps) == (EXAMPLE, 5)
    with pytest.raises(InvalidOption, match="start must lie"):
        studio.estimate_reward({"start": "/etc"}, EXAMPLE)


def test_programs_score_pictures(studio, files):
    from gradio_client import Client, handle_file

    with StudioBlocks() as app:
        create_score_endpoint(studio)
    app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(app.local_url, verbose=False)
        answer = client.predict([handle_file(path) for path in files], "", ["redness", "jpeg_size"], api_name="/score")
        assert answer["scores"]["redness"] == [255, -127.5, 0] and answer["agreement"]["rewards"] == ["redness", "jpeg_size"]
        with pytest.raises(Exception, match="judges a picture by its prompt"):
            client.predict([handle_file(files[0])], "", ["toybox-clip"], api_name="/score")
        with pytest.raises(Exception, match="rewards must be a list of texts|must be a text"):
            client.predict([handle_file(files[0])], "x", [{"a": 1}], api_name="/score")
        with pytest.raises(Exception, match="beauty"):
            client.predict([handle_file(files[0])], "x", ["beauty"], api_name="/score")
    finally:
        app.close()
    assert isinstance(app, gr.Blocks)


def test_what_is_typed_as_the_menu_has_it_is_the_entry_of_the_menu():
    one, many = (unchecked(gr.Dropdown([("A label", "name"), "plain"], allow_custom_value=True, multiselect=several)) for several in (False, True))
    assert [one.preprocess(said) for said in ("A label", "name", "other", 7, None)] == ["name", "name", "other", 7, None]
    assert many.preprocess(["A label", "plain", "other", 7]) == ["name", "plain", "other", 7]
    closed = unchecked(gr.Dropdown([("A label", "name")]))
    assert closed.preprocess("A label") == "A label"
