"""Libraries in the hands of several threads at once: packages that replace themselves, and networks made while weights are read."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from studio.importing import ReplacedModules, one_at_a_time, safe_to_import

PACKAGE = """
import sys, time, types
BEGUN.set()
time.sleep(0.3)  # the other thread has the module by then that is about to be replaced
put = types.ModuleType(__name__)
put.wanted = "found"
put.__path__, put.__spec__ = __path__, __spec__
sys.modules[__name__] = put
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package that puts another module in its place and then takes its time, and the event it sets by then."""
    name = "replaces_itself"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"from begun_of_test import BEGUN\n{PACKAGE}")
    (tmp_path / "begun_of_test.py").write_text("from threading import Event\nBEGUN = Event()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for module in (name, "begun_of_test"):
        sys.modules.pop(module, None)


def imported_by_two(name: str) -> list[str]:
    """What two threads find in the package, the second of which asks while the first is still at it."""
    import begun_of_test  # type: ignore[import-not-found]

    source = f"from {name} import wanted"

    def ask(wait: bool) -> str:
        if wait:
            begun_of_test.BEGUN.wait()
        found: dict[str, str] = {}
        exec(source, found)
        return found["wanted"]

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(ask, (False, True)))


@pytest.mark.parametrize("inner", [False, True])
def test_two_threads_find_what_the_module_in_its_place_has(package, monkeypatch, tmp_path, inner):
    if inner:
        # A package of the library, as diffusers.models is.
        (tmp_path / "library").mkdir()
        (tmp_path / "library" / "__init__.py").touch()
        (tmp_path / package).rename(tmp_path / "library" / package)
        package = f"library.{package}"
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    safe_to_import(package.partition(".")[0])
    try:
        assert imported_by_two(package) == ["found", "found"]
    finally:
        for name in ("library", package):
            sys.modules.pop(name, None)


def test_a_network_that_is_made_while_another_thread_reads_weights_has_its_own():
    from accelerate import init_empty_weights

    from trainers.contrast import make_network

    make_network(8, 0)  # whatever it imports is there
    reading, made_meanwhile = Event(), Event()

    @one_at_a_time
    def read() -> None:
        with init_empty_weights():
            reading.set()
            made_meanwhile.wait(1)

    def make() -> bool:
        reading.wait()
        network = make_network(8, 0)
        made_meanwhile.set()
        return any(parameter.is_meta for parameter in network.parameters())

    with ThreadPoolExecutor(2) as threads:
        reader, made = threads.submit(read), threads.submit(make)
        reader.result()
        assert not made.result()


def test_other_packages_are_found_as_ever():
    assert ReplacedModules({"some_package"}).find_spec("json", None) is None


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_the_studio_guards_the_libraries_that_replace_themselves(name):
    import studio  # noqa: F401

    assert any(isinstance(finder, ReplacedModules) and name in finder.names for finder in sys.meta_path)
