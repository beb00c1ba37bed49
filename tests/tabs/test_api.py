"""What the tabs ask of the studio, against the studio itself and against the fakes that stand in for it."""

import inspect
import re
from pathlib import Path

import pytest

from studio import Studio
from studio.runs import Runs
from tabs.parts.api import SamplingApi, StudioApi, TextApi
from tests.tabs.fake_text import FakeTextStudio
from tests.tabs.fakes import FakeStudio


def members_of(protocol: type) -> dict[str, object]:
    """Its methods and properties, its bases' among them."""
    bases = [base for base in reversed(protocol.__mro__) if base.__module__ == protocol.__module__]
    return {name: value for base in bases for name, value in vars(base).items() if not name.startswith("_")}


def shape_of(method: object) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of what it takes."""
    return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]


@pytest.mark.parametrize(("protocol", "made"), [(StudioApi, Studio), (SamplingApi, FakeStudio), (TextApi, FakeTextStudio)])
def test_whoever_stands_behind_the_tabs_takes_what_the_protocol_says(protocol, made, tmp_path):
    backend = made(runs_root=tmp_path) if made is Studio else made()
    for name, member in members_of(protocol).items():
        assert hasattr(backend, name), f"{made.__name__} has no {name}"
        if inspect.isfunction(member):
            assert shape_of(getattr(made, name)) == shape_of(member), f"{made.__name__}.{name}"


def test_the_fakes_answer_with_the_studio_s_own_records(tmp_path):
    studio, fake = Studio(runs_root=tmp_path), FakeTextStudio()
    assert isinstance(studio.runs, Runs)
    assert {type(entry) for entry in studio.models.values()} == {type(entry) for entry in fake.models.values()}
    fake.loaded.append("words")
    assert {type(one).__module__ for one in (*fake.residents(), *fake.anatomy("words"), fake.tokens("words", "a"))} <= {
        "studio.models.memory", "studio.models.anatomy", "studio.models.prompts",
    }


def test_every_word_that_a_tab_says_to_the_studio_is_in_the_protocol():
    said = {name for path in (Path(__file__).parents[2] / "tabs").rglob("*.py") for name in re.findall(r"\bstudio\.([a-z_]+)\(", path.read_text("utf-8"))}
    assert said and said <= set(members_of(StudioApi))
