"""Who may sign in: a file of name:hash lines, the hashes by argon2 (RFC 9106), and guesses at passwords slowed down.

Made by `python app.py --add-user NAME`. A line may also hold the password itself, as older files do; that is warned of.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cachetools import LRUCache

from studio.checks import require_float, require_int
from studio.errors import InvalidOption
from studio.files import written_aside

if TYPE_CHECKING:
    from argon2 import PasswordHasher

__all__ = ["read_users", "add_user", "password_fits", "Guesses", "Pace", "PACES"]

logger = logging.getLogger(__name__)

HASHED = "$argon2"
MIN_PASSWORD, MAX_PASSWORD, MAX_NAME = 8, 1024, 100
PRIVATE = 0o600
HOW_TO = "python app.py --add-user NAME --auth-file"


# --- the file ------------------------------------------------------------------------------------------------

def read_users(path: str | Path) -> dict[str, str]:
    """Hashes of passwords by name. Passwords that the file holds as they are, or that others may read, are warned of, once.

    Raises InvalidOption: the file is missing, empty, or a line is none of the form name:hash.
    """
    path = Path(path)
    users = _lines_of(path)
    if not users:
        raise InvalidOption(f"{path} names nobody who may sign in: add somebody with `{HOW_TO} {path}`.")
    plain = sorted(name for name, word in users.items() if not word.startswith(HASHED))
    if plain:
        logger.warning("%s holds passwords that anybody who reads it knows (%s): replace them with `%s %s`.", path, ", ".join(plain), HOW_TO, path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        logger.warning("%s can be read by others on this machine: `chmod 600 %s`.", path, path)
    # Hashed here as well, so that every sign-in costs the same.
    return {name: _hasher().hash(word) if name in plain else word for name, word in users.items()}


def add_user(path: str | Path, name: str, password: str) -> bool:
    """Write somebody, with a hash of the password, into the file, for nobody else to read; whether the name is new.

    A name that is there gets the new password; the other lines stay as they are. Raises InvalidOption.
    """
    path = Path(path)
    _check_name(name)
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidOption(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters, but this one has {len(password)}.")
    users = _lines_of(path) if path.exists() else {}
    is_new = name not in users
    users[name] = _hasher().hash(password)
    try:
        _write_private(path, "".join(f"{one}:{word}\n" for one, word in users.items()))
    except OSError as error:
        raise InvalidOption(f"{path} cannot be written ({error.strerror}); give another --auth-file.") from error
    return is_new


def _lines_of(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} cannot be read as a file of users: make one with `{HOW_TO} {path}`.") from error
    users = {}
    for number, line in enumerate(lines, start=1):
        name, colon, word = (part.strip() for part in line.partition(":"))
        if not line.strip():
            continue
        if not (name and colon and word):
            raise InvalidOption(f"Line {number} of {path} is none of the form name:hash; `{HOW_TO} {path}` writes them.")
        users[name] = word
    return users


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME or ":" in name or name != name.strip() or not name.isprintable():
        raise InvalidOption(f"A name has 1 to {MAX_NAME} printable characters, no colon, and no blank at its ends, but it is {name[:MAX_NAME]!r}.")


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, and never readable by others, not for a moment."""
    with written_aside(path) as aside, os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


# --- a password ----------------------------------------------------------------------------------------------

def password_fits(users: Mapping[str, str], name: str, password: str) -> bool:
    """Whether it is the password of that name. A name that is not there takes as long as a wrong password."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    known = name in users
    try:
        # Longer ones only cost time.
        fits = _hasher().verify(users[name] if known else _nobodys_hash(), password[:MAX_PASSWORD])
    except (Argon2Error, InvalidHashError):
        return False
    return known and fits and len(password) <= MAX_PASSWORD


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobodys_hash() -> str:
    """Of a password that nobody knows."""
    return _hasher().hash(os.urandom(32))


# --- guesses -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Pace:
    """How guesses are slowed down: `free` wrong ones at once; after each further one a wait, 1 s and then twice the last, at most `longest_s`."""

    free: int
    longest_s: float

    def __post_init__(self) -> None:
        require_int("free", self.free, 1, 10_000)
        require_float("longest_s", self.longest_s, 1.0, 1e6)

    def wait_s(self, wrong: int) -> float:
        """Seconds between the last of `wrong` guesses and the next one."""
        return 0.0 if wrong < self.free else min(self.longest_s, 2.0 ** min(wrong - self.free, 60))


# At a name from one address, from one address at any name, and at one name from anywhere: the last keeps nobody out for long
# who knows the password.
PACES: dict[str, Pace] = {
    "name and address": Pace(free=5, longest_s=900.0), "address": Pace(free=20, longest_s=900.0), "name": Pace(free=50, longest_s=60.0),
}
MAX_COUNTED = 10_000
# Wrong guesses so long ago count no more.
FORGOTTEN_S = 3600.0


class Guesses:
    """Counts wrong guesses by name and by address. Every method may be called from any thread."""

    def __init__(self, paces: Mapping[str, Pace] = PACES, clock: Callable[[], float] = time.monotonic) -> None:
        self._paces, self._clock, self._lock = paces, clock, threading.Lock()
        # (wrong guesses, when the last one was)
        self._counted: LRUCache[tuple[str, ...], tuple[int, float]] = LRUCache(MAX_COUNTED)

    @contextmanager
    def guess(self, name: str, address: str) -> Iterator[Callable[[], None]]:
        """Within it one guess may be made; call what is given if it was right. Raises InvalidOption with the seconds to wait."""
        keys = {"name and address": ("both", name, address), "address": ("address", address), "name": ("name", name)}
        with self._lock:
            wait = max(self._wait_s(pace, keys[kind]) for kind, pace in self._paces.items())
            if wait > 0:
                raise InvalidOption(f"Too many wrong passwords: wait {math.ceil(wait)} s before the next try.")
            # Counted before it is judged: guesses made at once are as many.
            for key in keys.values():
                self._count(key, 1)
        yield lambda: self._right(*keys.values())

    def _wait_s(self, pace: Pace, key: tuple[str, ...]) -> float:
        wrong, last = self._known(key)
        return last + pace.wait_s(wrong) - self._clock()

    def _known(self, key: tuple[str, ...]) -> tuple[int, float]:
        wrong, last = self._counted.get(key, (0, 0.0))
        return (0, 0.0) if self._clock() - last > FORGOTTEN_S else (wrong, last)

    def _count(self, key: tuple[str, ...], by: int) -> None:
        self._counted[key] = self._known(key)[0] + by, self._clock()

    def _right(self, both: tuple[str, ...], *others: tuple[str, ...]) -> None:
        """Who knows one password has not guessed better at others': only the count of both together begins anew."""
        with self._lock:
            self._counted.pop(both, None)
            for key in others:
                self._count(key, -1)
