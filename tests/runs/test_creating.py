"""Runs that several ask for at once: one name is one run, and nobody touches what is another's."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from studio.errors import InvalidOption, StudioError
from studio.runs import Runs
from studio.runs.folder import write_state

COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (250, 0, 250))


class QuietRuns(Runs):
    """Runs that are queued and never begin."""

    def start_due(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)


def plain(colour, count=3):
    """What fills a folder with pictures of one colour."""
    def write(folder):
        for i in range(count):
            Image.new("RGB", (16, 16), colour).save(folder / f"{i:02d}.png")
    return write


def start(runs, name, fill):
    return runs.start("dreambooth", {"steps": 5}, name=name, uploads={"instances": fill})


def in_threads(calls):
    """What each call gives, or the StudioError that it raises."""
    def outcome(call):
        try:
            return call()
        except StudioError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as workers:
        return list(workers.map(outcome, calls))


def test_of_six_that_start_a_run_of_one_name_at_once_one_wins_and_keeps_its_own_pictures(tmp_path):
    together = threading.Barrier(len(COLOURS), timeout=60)

    def contend(colour):
        def fill(folder):
            together.wait()  # by now every one of them has found the name free
            plain(colour)(folder)
            together.wait()
        # An app of its own each: they share nothing but the folder.
        return start(QuietRuns(tmp_path / "runs"), "same", fill)

    outcomes = in_threads([lambda colour=colour: contend(colour) for colour in COLOURS])
    (winner,) = [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(losers) == 5 and all(isinstance(error, InvalidOption) and str(error).startswith("There is a run named 'same' already;") for error in losers)

    view = outcomes[winner]
    files = sorted(os.listdir(view.options["instances"]))
    assert files == ["00.png", "01.png", "02.png"] and view.state == "waiting" and view.options["instances"].startswith(str(view.path))
    assert {Image.open(os.path.join(view.options["instances"], file)).getpixel((0, 0)) for file in files} == {COLOURS[winner]}
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".lock", "class-images", "same"]


def test_a_start_that_is_refused_leaves_nothing_and_takes_nothing_from_the_run_that_has_the_name(tmp_path):
    runs = QuietRuns(tmp_path / "runs")
    start(runs, "first", plain(COLOURS[0]))
    before = sorted(str(path) for path in runs.root.rglob("*"))
    with pytest.raises(InvalidOption, match="already"):
        start(runs, "first", plain(COLOURS[1]))
    with pytest.raises(InvalidOption, match="One picture"):
        start(runs, "second", plain(COLOURS[1], count=1))
    assert sorted(str(path) for path in runs.root.rglob("*")) == before


def test_of_several_that_resume_a_run_at_once_one_starts_it(tmp_path, monkeypatch):
    launched = []

    def launch(self, view):
        launched.append(view.name)
        write_state(view.path, state="starting", pid=os.getpid(), process_start=None)

    monkeypatch.setattr(Runs, "_launch", launch)
    runs = QuietRuns(tmp_path / "runs")
    start(runs, "one", plain(COLOURS[0]))
    runs.stop("one")
    outcomes = in_threads([lambda: Runs(runs.root).resume("one") for _ in range(6)])
    refused = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert launched == ["one"] and len(refused) == 5 and all("there is nothing to resume" in str(error) for error in refused)


def test_what_a_process_that_was_killed_was_making_goes_with_the_next_start(tmp_path):
    runs = QuietRuns(tmp_path / "runs")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, going_on = (runs.root / f".new-{pid}-0123456789abcdef" for pid in (gone.pid, os.getpid()))
    for folder in (left, going_on):
        (folder / "uploads").mkdir(parents=True)
        write_state(folder, state="waiting", trainer="ddpm")
    assert list(runs.list()) == [], "what is being made is no run yet"
    start(runs, "one", plain(COLOURS[0]))
    assert not left.exists() and going_on.exists() and [view.name for view in runs.list()] == ["one"]
