"""Options that are paths stay in the studio's folders when a run is started from the page; in a terminal they are the user's own."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from studio import Studio
from studio.errors import InvalidOption, StudioError
from studio.models.catalogue import ASSETS
from studio.runs import Runs
from studio.runs.dreambooth import EXAMPLE
from studio.runs.trainers import TRAINERS
from studio.runs.trainers.places import kept_within

PATHS = [
    (trainer, field.name, field.metadata["path"]) for trainer, info in TRAINERS.items() for field in dataclasses.fields(info.options) if field.metadata["path"]
]
NAMED = [f"{trainer}-{name}" for trainer, name, _ in PATHS]
OUTSIDE = ("/etc", "/somewhere/new", "..", "../..", "./../x", "~/.ssh", "~root", "a/../../b", "runs/../../x", "/proc/self/root", "link", "link/deeper")


class QuietRuns(Runs):
    """Runs that are queued and never begin."""

    def start_due(self) -> None:
        """Nothing is ever due."""


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Runs:
    """Beside them lies a link that leads out of them, which paths without a root begin at."""
    made = QuietRuns(tmp_path / "runs")
    made.root.mkdir()
    (made.root / "link").symlink_to(tmp_path)
    monkeypatch.chdir(made.root)
    return made


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_every_option_that_names_a_folder_is_known_as_one():
    named = {name for _, name, _ in PATHS}
    assert {"output", "data", "base", "instances", "class_images", "start", "vae", "clip", "decoder", "perceptual_model", "pretrain_data"} == named
    said = {field.name for info in TRAINERS.values() for field in dataclasses.fields(info.options) if "folder" in field.metadata["help"]}
    assert said <= named | {"channels"}


@pytest.mark.parametrize(("trainer", "name", "use"), PATHS, ids=NAMED)
def test_what_leads_out_of_the_folder_of_runs_is_refused_and_nothing_is_made(runs, tmp_path, trainer, name, use):
    before = everything(tmp_path)
    for value in OUTSIDE:
        with pytest.raises(InvalidOption, match=f"{name} must lie in the folder of runs, {runs.root}"):
            runs.start(trainer, {name: value}, name="new")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("trainer", "name", "use"), PATHS, ids=NAMED)
def test_what_lies_within_is_taken_in_full(runs, tmp_path, trainer, name, use):
    mine = tmp_path / "mine"
    folders = [runs.root, mine]
    for value in ("./before/model", str(runs.root / "before"), str(mine / "pictures")):
        assert kept_within(trainer, {name: value}, folders) == {name: str((runs.root / value).resolve())}
    with pytest.raises(InvalidOption):
        kept_within(trainer, {name: str(mine)}, [runs.root])
    if use == "write":
        with pytest.raises(InvalidOption):
            kept_within(trainer, {name: str(ASSETS)}, folders)
    else:
        assert kept_within(trainer, {name: str(EXAMPLE)}, folders) == {name: str(EXAMPLE)}


@pytest.mark.parametrize(("trainer", "options"), [
    ("dreambooth", {"base": "toybox-sd"}), ("dreambooth", {"base": "stable-diffusion-v1-5/stable-diffusion-v1-5"}), ("ddpm", {"data": "toybox-large"}),
    ("ddpm", {"data": "somebody/pictures"}), ("dreambooth", {"class_images": ""}), ("vae", {"start": ""}), ("latent", {"steps": 5, "only": "/etc"}),
])
def test_names_and_what_is_no_path_stay_as_they_are(runs, trainer, options):
    assert kept_within(trainer, options, [runs.root]) == options


def test_what_has_the_form_of_a_name_is_a_path_where_something_lies_there(runs, tmp_path):
    (tmp_path / "owner" / "pictures").mkdir(parents=True)
    (runs.root / "owner").symlink_to(tmp_path / "owner")
    with pytest.raises(InvalidOption, match="data must lie in"):
        kept_within("ddpm", {"data": "owner/pictures"}, [runs.root])


def test_defaults_are_the_studio_s_own(runs):
    for trainer, info in TRAINERS.items():
        options = {field.name: field.default for field in dataclasses.fields(info.options)}
        assert kept_within(trainer, options, [runs.root]) == options


def test_an_estimate_keeps_within_as_well(tmp_path):
    studio = Studio(runs_root=tmp_path / "runs")
    with pytest.raises(InvalidOption, match="base must lie in"):
        studio.estimate_subject({"base": "/etc", "instance_prompt": "a sks cat", "class_prompt": "a cat"})
    with pytest.raises(InvalidOption, match="Training is off"):
        Studio(public=True).estimate_subject({"base": "toybox-sd"})


def test_the_owner_may_name_further_folders(tmp_path):
    pictures = tmp_path / "mine"
    pictures.mkdir()
    for i in range(2):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(pictures / f"{i}.png")
    options = {"base": "toybox-sd", "instances": str(pictures)}
    with pytest.raises(InvalidOption, match="instances must lie in"):
        QuietRuns(tmp_path / "runs").start("dreambooth", options, name="mine")
    view = QuietRuns(tmp_path / "runs", [pictures]).start("dreambooth", options, name="mine")
    assert view.options["instances"] == str(pictures)


@pytest.mark.parametrize(("options", "words"), [
    ({"base": "toybox-sdd"}, "did you mean 'toybox-sd'"), ({"base": "digits-ddpm"}, "no text-to-image model"), ({"base": ""}, "Choose the model"),
    ({"method": "lora", "targets": "to_q,to_w"}, "added to 'to_w': no layer has such a name"), ({"method": "lora", "targets": "norm1"}, "neither linear"),
    ({"method": "lora", "targets": "to_out"}, "'to_out'"),
])
def test_a_base_or_a_layer_that_is_not_there_is_refused_before_the_start(runs, options, words):
    with pytest.raises(StudioError, match=words):
        runs.start("dreambooth", {"instances": str(EXAMPLE), **options}, name="new")
    assert not (runs.root / "new").exists()


def test_layers_that_are_there_are_taken(runs):
    given = {"instances": str(EXAMPLE), "method": "lora", "targets": "to_q,to_out.0,conv1,ff.net.2"}
    assert runs.start("dreambooth", given, name="new").options["targets"] == given["targets"]
