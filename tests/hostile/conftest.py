"""The app once for strangers (--public) and once for its owner, for all tests of this folder."""

import pytest

from tests.hostile.served import ATTACK, Served

MODES = {"public": ("--public",), "own": ()}
# For what goes the same way with and without --public: in CI in one of them, so that both apps have as much to do, in `make attack` in both.
EITHER = pytest.mark.parametrize("app", MODES if ATTACK else ["public"], indirect=True)
EITHER_OWN = pytest.mark.parametrize("app", MODES if ATTACK else ["own"], indirect=True)


@pytest.fixture(scope="session")
def apps(tmp_path_factory):
    """A function that gives the app of a mode; it is started when it is first asked for, and again when it was killed."""
    running: dict[str, Served] = {}

    def of(mode: str) -> Served:
        if mode not in running:
            running[mode] = Served(tmp_path_factory.mktemp(mode), *MODES[mode])
        elif running[mode].process.poll() is not None:
            running[mode].start()
        return running[mode]

    yield of
    for app in running.values():
        app.stop()


@pytest.fixture(params=MODES)
def app(request, apps):
    """The app, with and without --public."""
    yield apps(request.param)
    apps(request.param).end_runs()


@pytest.fixture
def own(apps):
    """The app without --public."""
    yield apps("own")
    apps("own").end_runs()
