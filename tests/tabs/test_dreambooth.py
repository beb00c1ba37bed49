"""The DreamBooth tab without a browser: its form, what it refuses, what it starts; then over the wire."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio_client.exceptions import AppError
from PIL import Image

from studio import Studio
from studio.errors import BadImage, InvalidOption, RunFailed, StudioError
from studio.media.images import to_square
from studio.runs.dreambooth import EXAMPLE, fields, open_pictures, options_from, presets, seen
from studio.runs.queue import Runs
from studio.runs.trainers.dreambooth import DreamBoothOptions
from tabs import dreambooth as tab
from tabs.endpoints import create_run_endpoints
from tabs.parts.blocks import StudioBlocks
from tabs.runs import create_tab as create_runs_tab

PICTURES = sorted(str(path) for path in EXAMPLE.glob("*.png"))


class QuietRuns(Runs):
    """Runs that are queued and never begin."""

    def start_due(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    made = Studio(runs_root=tmp_path_factory.mktemp("runs"))
    # The base models of these tests lie beside the runs.
    made._runs = QuietRuns(made.runs.root, [tmp_path_factory.getbasetemp()])
    return made


@pytest.fixture(scope="module")
def client(studio):
    from gradio_client import Client

    with StudioBlocks() as demo:
        tab.create_tab(studio)
        create_runs_tab(studio)
        create_run_endpoints(studio)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield Client(url, verbose=False)
    demo.close()


def given(paths):
    from gradio_client import handle_file

    return [handle_file(path) for path in paths]


def asked(folder, **changes):
    """Options as the form gives them, small."""
    return tab.trainer_options({**tab.defaults(), "base": str(folder), "resolution": 32, "validation_prompts": "", **changes})


def left(studio):
    """What lies under the runs' folder, but for the lock."""
    return sorted(str(path.relative_to(studio.runs.root)) for path in studio.runs.root.rglob("*") if path.name != ".lock" and path.is_file())


# --- the form ------------------------------------------------------------------------------------------------

def test_every_option_has_a_control_but_those_that_the_studio_sets():
    assert set(fields()) - set(tab.defaults()) == {"output", "instances", "tensorboard"}
    assert len({*tab.WORDS, *tab.MAIN, *tab.MORE}) == len(tab.WORDS) + len(tab.MAIN) + len(tab.MORE)


@pytest.mark.parametrize("name", presets())
def test_every_preset_fills_the_form_with_options_that_the_trainer_takes(name):
    values = tab.values_of(presets()[name].options)
    options = DreamBoothOptions(**options_from(tab.trainer_options(values)))
    assert all(getattr(options, key) == value for key, value in presets()[name].options.items())


def test_without_prior_preservation_its_weight_is_nought_and_its_controls_go():
    values = {**tab.defaults(), "prior": False}
    assert tab.trainer_options(values)["prior_weight"] == 0.0
    assert not tab.needed("prior_weight", values) and not tab.needed("rank", values) and tab.needed("rank", {**values, "method": "lora"})


def test_prompts_to_look_at_are_made_up_from_the_prompts():
    options = options_from({"instance_prompt": " a zwx dog ", "class_prompt": "a dog", "validation_prompts": ""})
    assert options["instance_prompt"] == "a zwx dog" and options["validation_prompts"] == "a zwx dog|a zwx dog on a yellow background|a dog"


def test_the_crop_that_is_shown_is_the_one_that_training_sees():
    wide = Image.open(PICTURES[0]).convert("RGB").resize((90, 60))
    assert seen(wide, 32, "center").tobytes() == to_square(wide, 32, "center", None).tobytes()
    assert seen(wide, 32, "random").size == (32, 32)


def test_pictures_that_cannot_be_read_are_named_and_the_others_shown(tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    shown, said = tab.crops([PICTURES[0], str(tmp_path / "note.png")], 32, "center")
    assert [name for _, name in shown] == [Path(PICTURES[0]).name] and shown[0][0].size == (32, 32)
    assert said.startswith("note.png: This file is not a picture")
    assert tab.crops(None, 32, "center") == ([], "")
    assert tab.crops(PICTURES, 32, "center")[1] == "5 pictures, shown as training will see them."


@pytest.mark.parametrize("crop", ["center", "random"])
@pytest.mark.parametrize("resolution", [10**6, 15, -64])
def test_a_size_that_training_refuses_is_not_drawn_for_a_look_either(resolution, crop):
    shown, said = tab.crops(PICTURES, resolution, crop)
    assert not shown and said == f"resolution must be a whole number from 16 to 2048, but it is {resolution}."


def test_no_more_pictures_are_looked_at_than_can_be_given():
    assert len(tab.crops(PICTURES * 5, 32, "center")[0]) == 20


# --- what is refused before anything is started --------------------------------------------------------------

@pytest.mark.parametrize(("changes", "words"), [
    ({"instance_prompt": "a cat"}, "token"), ({"rank": 0}, "rank"), ({"lr": 1e3}, "lr"), ({"steps": 0}, "steps"), ({"base": ""}, "Choose the model"),
    ({"base": "no-such-model"}, "no-such-model"), ({"method": "everything"}, "everything"), ({"steps": None}, "steps is empty"),
    ({"class_images": "/proc/nothing"}, "class_images must lie in"), ({"base": "/etc"}, "base must lie in"),
    ({"class_prompt": "a sks cat"}, "class prompt"),
])
def test_options_that_cannot_work_are_refused_and_nothing_is_left(studio, tiny_sd, changes, words):
    before = left(studio)
    with pytest.raises(StudioError, match=words):
        studio.train_subject("refused", PICTURES, asked(tiny_sd, **changes))
    assert left(studio) == before


@pytest.mark.parametrize("name", ["", "a/b", "..", "a.b", "uploads", "class-images"])
def test_bad_names_are_refused(studio, tiny_sd, name):
    with pytest.raises(InvalidOption):
        studio.train_subject(name, PICTURES, asked(tiny_sd))


def test_too_few_and_broken_pictures_are_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(Path(PICTURES[0]).read_bytes()[:200])
    for paths, words in (([], "no pictures"), (PICTURES[:1], "One picture"), (PICTURES * 5, "more than the 20")):
        with pytest.raises(InvalidOption, match=words):
            open_pictures(paths)
    with pytest.raises(BadImage, match=r"text.png: .*cut.png: .*damaged"):
        open_pictures([tmp_path / "text.png", PICTURES[0], tmp_path / "cut.png"])


def test_only_a_whole_text_to_image_model_can_be_taught(studio, tiny_model, tmp_path):
    with pytest.raises(InvalidOption, match="no text-to-image model"):
        studio.train_subject("pixel", PICTURES, asked(tiny_model))
    lora = tmp_path / "model"
    lora.mkdir()
    (lora / "studio.json").write_text(json.dumps({"kind": "lora", "base": "toybox-sd"}))
    with pytest.raises(InvalidOption, match="LoRA"):
        studio.train_subject("lora", PICTURES, asked(lora))


def test_the_estimate_comes_from_a_process_and_is_that_of_the_trainer(studio, tiny_sd):
    from trainers.estimate import estimate as in_this_process

    options = asked(tiny_sd, method="lora", rank=4)
    answer = studio.estimate_subject(options)
    assert answer.trained_parameters == in_this_process(DreamBoothOptions(**options_from(options))).trained_parameters > 0
    assert answer.seconds > 0 and answer.memory_gib > 0


def test_an_estimate_that_cannot_be_made_is_refused_in_the_trainer_s_own_words(studio, tiny_sd, monkeypatch, capsys):
    from trainers.estimate import main

    def here(command, **_):
        """The program without a process of its own, which the test above has."""
        assert command[1:3] == ["-m", "trainers.estimate"]
        with pytest.raises(SystemExit) as end:
            main(command[3:])
        return subprocess.CompletedProcess(command, end.value.code, *capsys.readouterr())

    monkeypatch.setattr("studio.runs.costs.subprocess.run", here)
    with pytest.raises(InvalidOption, match="the usual targets are to_q"):
        studio.estimate_subject(asked(tiny_sd, method="lora", targets="nothing"))


@pytest.mark.parametrize("printed", ["", "no json", "[1]"])
def test_an_estimate_that_ended_without_an_answer_is_told_in_a_sentence(studio, tiny_sd, monkeypatch, printed):
    ended = subprocess.CompletedProcess([], -9, stdout=printed, stderr="Killed")
    monkeypatch.setattr("studio.runs.costs.subprocess.run", lambda *args, **options: ended)
    with pytest.raises(RunFailed, match="memory is not enough"):
        studio.estimate_subject(asked(tiny_sd))


def test_a_public_studio_trains_nothing():
    with pytest.raises(InvalidOption, match="Training is off"):
        Studio(public=True).train_subject("x", PICTURES, {})
    with gr.Blocks() as demo:
        tab.create_tab(Studio(public=True))
        create_runs_tab(Studio(public=True))
    # All that is asked of it is the recorded example, when the page opens.
    assert {(fn.name, len(fn.inputs)) for fn in demo.fns.values()} == {("on_open_page", 0)}
    assert any("Training is off" in str(block.value) for block in demo.blocks.values() if isinstance(block, gr.Markdown))


# --- over the wire -------------------------------------------------------------------------------------------

def test_train_and_the_endpoints_of_runs_are_public_and_their_arguments_have_names(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/train", "/run_status", "/run_stop", "/run_resume"}
    names = [parameter["parameter_name"] for parameter in endpoints["/train"]["parameters"]]
    assert names == ["pictures", "name", *tab.WORDS, "base", *tab.MAIN, *tab.MORE]
    assert [parameter["parameter_name"] for parameter in endpoints["/run_status"]["parameters"]] == ["name"]


def test_a_run_is_started_followed_stopped_and_resumed_over_the_wire(client, studio, tiny_sd):
    said, *_ = client.predict(pictures=given(PICTURES[:3]), name="wired", base=tiny_sd, resolution=32, steps=7, api_name="/train")
    assert said == "The run wired was started; it goes on when this page is closed."
    view = studio.runs.read("wired")
    assert view.options["steps"] == 7 and view.options["instances"] == str(studio.runs.uploads("wired") / "instances")
    assert len(list((studio.runs.uploads("wired") / "instances").iterdir())) == 3
    status = client.predict(name="wired", api_name="/run_status")
    assert status["state"] == "waiting" and status["title"] == "Waiting, next in the queue" and status["model"] is None
    assert client.predict(name="wired", api_name="/run_stop")["state"] == "stopped"
    assert client.predict(name="wired", api_name="/run_resume")["state"] == "waiting"
    studio.runs.stop("wired")
    studio.delete_run("wired")
    assert not [path for path in left(studio) if "wired" in path]


def test_of_six_visitors_who_start_a_run_of_one_name_at_once_one_gets_it_and_the_others_a_sentence(client, studio, tiny_sd, tmp_path):
    def press(i):
        paths = [str(tmp_path / f"{i}-{k}.png") for k in range(2)]
        for path in paths:
            Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(path)
        try:
            return client.predict(pictures=given(paths), name="wanted", base=tiny_sd, resolution=32, api_name="/train")[0]
        except AppError as error:
            return str(error)

    with ThreadPoolExecutor(6) as visitors:
        said = list(visitors.map(press, range(6)))
    (winner,) = [i for i, words in enumerate(said) if words.startswith("The run wanted was started")]
    assert sum("There is a run named 'wanted' already; choose another name" in words for words in said) == 5, said
    kept = sorted((studio.runs.uploads("wanted") / "instances").iterdir())
    assert [Image.open(path).getpixel((0, 0)) for path in kept] == [(40 * winner, 0, 0)] * 2
    studio.runs.stop("wanted")
    studio.delete_run("wanted")


@pytest.mark.parametrize(("changes", "words"), [
    ({"pictures": []}, "no pictures"), ({"name": "a/b"}, "letters, digits"), ({"instance_prompt": "a cat"}, "token"), ({"lr": 1e3}, "lr must be"),
    ({"method": "lora", "rank": 0}, "rank must be"), ({"base": "toybox-sdd"}, "toybox-sdd"),
    ({"class_images": "/somewhere"}, "class_images must lie in the folder of runs"),
])
def test_the_endpoint_refuses_in_a_sentence(client, tiny_sd, changes, words):
    values = {"pictures": given(PICTURES[:2]), "name": "wired-bad", "base": tiny_sd, "resolution": 32, **changes}
    with pytest.raises(Exception, match=words):
        client.predict(**values, api_name="/train")


def test_unknown_runs_are_refused_in_a_sentence(client):
    with pytest.raises(Exception, match="no-such-run"):
        client.predict(name="no-such-run", api_name="/run_status")


def test_the_example_is_handed_out_from_a_copy():
    files = tab.example_files()
    assert len(files) == 5 and not any(Path(file).is_relative_to(EXAMPLE) for file in files)
    assert Path(shutil.copy(files[0], files[0] + ".copy")).is_file()
