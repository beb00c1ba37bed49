"""Every test of the rankings runs on SQLite and on PostgreSQL."""

import os

import pytest
from PIL import Image

from studio.rankings import NewGeneration, NewTask, add_tasks, open_rankings
from studio.rankings.pictures import keep_drawn
from tests.rankings.postgres import cluster, programs


@pytest.fixture(scope="session")
def server():
    """The address of a PostgreSQL server. In CI it is never missing."""
    found = programs()
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and in CI nothing is skipped: see .ci/run.")
        pytest.skip("PostgreSQL is not installed (Debian's package is called postgresql).")
    with cluster(found) as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """The address of an empty database, "" for SQLite in the folder."""
    if request.param == "sqlite":
        return ""
    import psycopg

    address = f"{request.getfixturevalue('server')}/postgres"
    with psycopg.connect(address, autocommit=True) as connection:
        # Whoever was killed may still hold a lock.
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
        # One database emptied, not one more for each test: a database is a thousand files.
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return address


class Clock:
    """Seconds that pass when the test says so; a millisecond at each look, so that what comes later is later."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rankings(url, tmp_path, clock):
    """An open, empty database of rankings."""
    opened = open_rankings(tmp_path / "rankings", url)
    yield type(opened)(opened.engine, opened.folder, clock)
    opened.close()


@pytest.fixture
def pictures(rankings):
    """A function that keeps pictures that are all different: (number, first) -> rows."""
    def make(number: int, first: int = 0):
        return [keep_drawn(rankings.folder, Image.new("RGB", (8, 8), (i % 256, i // 256, 7))) for i in range(first, first + number)]

    return make


@pytest.fixture
def with_tasks(rankings, pictures):
    """A function that adds tasks of four pictures each: (number, **changes) -> the rankings. alike: all of the same pictures."""
    def make(number: int, size: int = 4, *, alike: bool = False, **changes):
        models = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        rows = [pictures(size)] * number if alike else [pictures(size, size * place) for place in range(number)]
        add_tasks(rankings, [
            NewTask(prompt=f"prompt {place}", generations=[NewGeneration(picture=row, model=model) for row, model in zip(of, models)], **changes)
            for place, of in enumerate(rows)
        ])
        return rankings

    return make
