"""Where rankings are kept: SQLite in a folder, or PostgreSQL by an address; pictures lie as files beside it.

    <folder>/rankings.sqlite      journal in WAL mode; what is acknowledged was synced to the disk (synchronous FULL)
    <folder>/pictures/ab/abcd.png by the SHA-256 of the file

The tables are brought to today's form when the database is opened; one of a newer studio is left alone.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from studio.errors import DamagedFile, InvalidOption, NotWritable, StudioBusy

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

__all__ = ["Rankings", "open_rankings", "rankings_folder"]

FILE = "rankings.sqlite"
MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_S = 10.0
ATTEMPTS = 8

Result = TypeVar("Result")


def rankings_folder() -> Path:
    """Where rankings are kept by default: DIFFUSION_STUDIO_RANKINGS, else "rankings"."""
    return Path(os.environ.get("DIFFUSION_STUDIO_RANKINGS") or "rankings")


@dataclass(frozen=True)
class Rankings:
    """An open database of rankings, and the folder of its pictures. clock: seconds since 1970."""

    engine: "Engine"
    folder: Path
    clock: Callable[[], float] = time.time

    @contextmanager
    def reading(self) -> Iterator["Session"]:
        """A session that reads. Raises StudioBusy, NotWritable, DamagedFile."""
        from sqlalchemy.orm import Session

        with said(self.engine), Session(self.engine) as session:
            yield session

    def write(self, change: "Callable[[Session], Result]") -> Result:
        """What change(session) gives, once its changes are on the disk; where it raises, nothing was changed. Raises as reading does.

        Where another has just written the same row, it is called again and finds that row.
        """
        from sqlalchemy.exc import IntegrityError
        from sqlalchemy.orm import Session

        with said(self.engine):
            for last in (*[False] * (ATTEMPTS - 1), True):
                try:
                    with Session(self.engine.execution_options(writes=True)) as session, session.begin():
                        return change(session)
                except IntegrityError:
                    if last:
                        raise
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()


def open_rankings(folder: str | Path, url: str = "") -> Rankings:
    """Open the rankings of a folder, made where there are none.

    Args:
        folder: of the pictures, and of the database where no url says otherwise.
        url: of a PostgreSQL database (postgresql://user:password@host/name).
    Raises:
        NotWritable, StudioBusy, DamagedFile, InvalidOption: what is wrong with it, in a sentence.
    """
    folder = Path(folder).resolve()
    try:
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotWritable(f"Rankings are kept in {folder.name}, and nothing can be written there ({error.strerror}).") from error
    engine = engine_of(url) if url else sqlite_engine(folder / FILE)
    with said(engine):
        migrate(engine, folder)
    return Rankings(engine, folder)


def engine_of(url: str) -> "Engine":
    """PostgreSQL by its address, whichever of the usual spellings it has."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(url)
    except ArgumentError:
        raise InvalidOption("DATABASE_URL is no address of a database: write postgresql://user:password@host/name.") from None
    if address.get_backend_name() not in ("postgresql", "postgres"):
        raise InvalidOption(f"DATABASE_URL must be of PostgreSQL (postgresql://...), but it begins with {address.drivername}; without one SQLite is used.")
    return create_engine(address.set(drivername="postgresql+psycopg"), pool_pre_ping=True)


def sqlite_engine(path: Path) -> "Engine":
    """SQLite whose writers queue from their first statement on, so that two never find out at the end that they collide."""
    from sqlalchemy import create_engine, event

    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: Any) -> None:
        # Transactions are begun by the line below, and not by the driver in its own way.
        connection.isolation_level = None
        for pragma in ("foreign_keys = ON", "journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {BUSY_S * 1000:.0f}"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def migrate(engine: "Engine", folder: Path) -> None:
    """Bring the tables to today's form. Raises InvalidOption where a newer studio has made them."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from filelock import FileLock

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    known = {one.revision for one in script.walk_revisions()}
    with FileLock(folder / "opening.lock"), engine.execution_options(writes=True).begin() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise InvalidOption(f"These rankings were written by a newer studio (their tables are of form {current}): update the studio, then open them again.")
        if current != script.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


@contextmanager
def said(engine: "Engine") -> Iterator[None]:
    """What the database refuses, in a sentence that says what to do."""
    from sqlalchemy.exc import DatabaseError, OperationalError

    try:
        yield
    except DatabaseError as error:
        # A constraint or a statement that is wrong is a defect of the studio.
        found = next((sentence for words, sentence in REFUSALS.items() if words in str(error.orig).lower()), None)
        if found is None and not isinstance(error, OperationalError):
            raise
        kind, sentence = found or (NotWritable, "The database of the rankings cannot be reached; see that it runs, and what DATABASE_URL says.")
        raise kind(sentence) from error


REFUSALS: dict[str, tuple[type[Exception], str]] = {
    "locked": (StudioBusy, f"Something else has held the database of the rankings for more than {BUSY_S:.0f} s; nothing was written, try again."),
    "readonly": (NotWritable, "The database of the rankings cannot be written: see who owns its file and folder. Nothing was changed."),
    "unable to open": (NotWritable, "The database of the rankings cannot be opened: see that its folder is there and may be written."),
    "disk is full": (NotWritable, "The disk is full, so nothing was written: free some space, then send it again."),
    "disk i/o": (NotWritable, "The disk failed while the database of the rankings was written; nothing was acknowledged."),
    "not a database": (DamagedFile, f"{FILE} is no database of rankings, or it is damaged: put a copy of it in its place, or move it away."),
    "malformed": (DamagedFile, f"{FILE} is damaged: put a copy of it in its place, or move it away."),
}
