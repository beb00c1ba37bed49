"""A runs folder that cannot be written: what only reads works, all else says in a sentence what is not writable."""

import json
import os

import pytest
from PIL import Image

from studio import Studio
from studio.errors import NotWritable, StudioError
from studio.runs import Runs
from studio.runs.folder import write_state
from tabs import runs as tab
from tabs.dreambooth import defaults, subject_runs, teachable, trainer_options
from tabs.parts.following import follow_value, newest

FINISHED = {"trainer": "ddpm", "state": "stopped", "created": 1.0, "message": "Stopped."}


def a_file(tmp_path):
    (tmp_path / "runs").write_text("")
    return tmp_path / "runs"


def below_a_file(tmp_path):
    return a_file(tmp_path) / "deeper"


def in_proc(tmp_path):
    return "/proc/studio-runs"


def locked(tmp_path):
    """Runs are there and can be read; the lock cannot be taken."""
    run = tmp_path / "runs" / "old"
    run.mkdir(parents=True)
    (run / "config.json").write_text('{"steps": 5, "batch_size": 4}')
    write_state(run, **FINISHED)
    (tmp_path / "runs" / ".lock").mkdir()
    return tmp_path / "runs"


PLACES = (a_file, below_a_file, in_proc, locked)


@pytest.fixture(params=PLACES, ids=lambda place: place.__name__)
def studio(request, tmp_path):
    return Studio(runs_root=request.param(tmp_path))


def test_what_only_reads_works(studio):
    names = [view.name for view in studio.runs.list()]
    assert names == (["old"] if studio.runs.root.is_dir() else []) and newest(studio) == "".join(names)
    assert [row["name"] for row in json.loads(tab.list_value(studio, ""))["runs"] if row["state"] != "example"] == names
    assert ("invitation" in json.loads(follow_value(studio, newest(studio), str))) == (not names)
    assert "toybox-sd" in studio.models and teachable(studio) and subject_runs(studio) == [] and studio.runs.waiting() == []
    with pytest.raises(StudioError, match="nothing"):
        studio.runs.read("nothing")


def test_what_acts_says_what_is_not_writable(studio, tmp_path):
    pictures = [tmp_path / f"{i}.png" for i in range(2)]
    for path in pictures:
        Image.new("RGB", (16, 16)).save(path)
    asked = trainer_options({**defaults(), "prior": False})
    acts = {
        "start": lambda: studio.runs.start("ddpm", {"steps": 5}, name="new"), "train": lambda: studio.train_subject("new", pictures, asked),
        "start_due": studio.runs.start_due, "stop": lambda: studio.runs.stop("old"), "resume": lambda: studio.runs.resume("old"),
        "delete": lambda: studio.delete_run("old"),
    }
    for name, act in acts.items():
        if not studio.runs.root.is_dir() and name == "delete":
            continue  # it has nothing to delete, and says so
        with pytest.raises(NotWritable, match="cannot be written") as refusal:
            act()
        assert str(studio.runs.root) in str(refusal.value) and "DIFFUSION_STUDIO_RUNS" in str(refusal.value), name
    assert not studio.runs.root.is_dir() or sorted(os.listdir(studio.runs.root)) == [".lock", "old"]


def test_a_file_in_place_of_the_folder_is_called_one(tmp_path):
    with pytest.raises(NotWritable, match="it is a file, not a folder"):
        Runs(a_file(tmp_path)).start("ddpm", {"steps": 5}, name="new")


def test_a_run_that_cannot_be_started_has_failed_and_holds_up_no_other(tmp_path, monkeypatch):
    runs, launched = Runs(tmp_path / "runs"), []
    monkeypatch.setattr("studio.runs.queue.subprocess.Popen", lambda command, **options: launched.append(command[-1]) or Dead())
    for i, name in enumerate(("no-log", "no-options", "good")):
        run = runs.root / name
        run.mkdir(parents=True)
        (run / "options.toml").write_text("steps = 5\n")
        write_state(run, trainer="ddpm", state="waiting", created=float(i + 1))
    (runs.root / "no-log" / "log.txt").mkdir()
    (runs.root / "no-options" / "options.toml").write_text('steps = "many"\n')
    runs.start_due()
    assert launched == [str(runs.root / "good" / "options.toml")]
    said = {name: runs.read(name) for name in ("no-log", "no-options")}
    assert {view.state for view in said.values()} == {"failed"}
    assert "log.txt" in said["no-log"].message and "steps must be a whole number" in said["no-options"].message


class Dead:
    """A process that has ended at once."""

    pid = 2**22 + 1

    def poll(self):
        return 0
