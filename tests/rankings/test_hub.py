"""Rankings in a data set of the Hub, which is a folder here."""

import shutil
import threading
from types import SimpleNamespace

import pytest

from studio.errors import InvalidOption
from studio.rankings import Ranking, collections, open_rankings, open_tasks, submit
from studio.rankings import hub as subject
from studio.rankings.hub import KEPT_IN, keep_on_hub, pull_rankings, push_rankings


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """What was asked of the Hub; its data sets are folders."""
    root = tmp_path / "hub"
    seen = SimpleNamespace(tokens=[], commits=[], bytes=None, written=threading.Event())

    class Api:
        def __init__(self, token=None):
            seen.tokens.append(token)

        def create_repo(self, name, **options):
            assert options == {"repo_type": "dataset", "private": True, "exist_ok": True}

        def upload_folder(self, *, repo_id, folder_path, commit_message, **_):
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)
            seen.commits.append(commit_message)
            seen.written.set()

        def dataset_info(self, name, files_metadata):
            if not (root / name).is_dir():
                raise OSError("404")
            sizes = [path.stat().st_size for path in (root / name).rglob("*") if path.is_file()]
            return SimpleNamespace(siblings=[SimpleNamespace(size=seen.bytes or size) for size in sizes])

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, *, local_dir, **_: shutil.copytree(root / name, local_dir))
    return seen


@pytest.fixture
def other(tmp_path):
    rankings = open_rankings(tmp_path / "other", "")
    yield rankings
    rankings.close()


def ranked(with_tasks):
    rankings = with_tasks(3, size=3)
    for task in open_tasks(rankings, "Ada", 3):
        submit(rankings, "Ada", task.assignment, Ranking(ranks=[1, 1, 2]))
    return rankings


@pytest.mark.parametrize("format", ["parquet", "studio"])
def test_what_is_written_is_read_back_whole(with_tasks, hub, other, format):
    rankings = ranked(with_tasks)
    assert push_rankings(rankings, "ada/ranked", "secret", format) == 3 and hub.tokens == ["secret"]
    found = pull_rankings(other, "ada/ranked", "", format)
    assert (found.tasks, found.rankings) == (3, 3) and sum(collections(other).values()) == 3
    again = pull_rankings(other, "ada/ranked", "", format)
    assert (again.tasks, again.rankings) == (0, 0)


@pytest.mark.parametrize("name", ["", "ranked", "a/b/c", "../x", "https://huggingface.co/a/b"])
def test_a_name_that_is_none_is_refused(with_tasks, hub, name):
    with pytest.raises(InvalidOption, match="owner/name"):
        push_rankings(with_tasks(1), name, "")
    assert not hub.tokens


def test_what_the_hub_refuses_and_what_is_too_large_is_a_sentence(with_tasks, hub, other):
    with pytest.raises(InvalidOption, match="could not be read"):
        pull_rankings(other, "ada/none", "")
    push_rankings(ranked(with_tasks), "ada/ranked", "")
    hub.bytes = 2**40
    with pytest.raises(InvalidOption, match="read at most"):
        pull_rankings(other, "ada/ranked", "")
    assert not collections(other)


def test_a_space_keeps_what_was_ranked_and_only_what_is_new(with_tasks, hub, monkeypatch):
    rankings, stop = ranked(with_tasks), threading.Event()
    assert keep_on_hub(rankings) is None
    monkeypatch.setenv(KEPT_IN, "ada/kept")
    monkeypatch.setenv("HF_TOKEN", "of the Space")
    rounds = []
    monkeypatch.setattr(subject, "newest", lambda _: rounds.append(None) or (stop.set() if len(rounds) == 4 else None) or 1 + (len(rounds) > 2))
    thread = keep_on_hub(rankings, stop, every_s=0.01)
    thread.join(60)
    # Four looks: something new at the first and at the third.
    assert not thread.is_alive() and len(rounds) == 4 and hub.commits == ["3 ranked tasks"] * 2 and set(hub.tokens) == {"of the Space"}
