"""The file of users and the pace of guesses."""

import logging
import os
import stat

import pytest
from argon2 import PasswordHasher

from studio import users
from studio.errors import InvalidOption
from studio.users import PACES, Guesses, add_user, password_fits, read_users

PASSWORD = "correct horse battery"


pytestmark = pytest.mark.usefixtures("quick_hashes")


# --- the file ------------------------------------------------------------------------------------------------

def test_a_password_is_kept_as_a_hash_in_a_file_for_nobody_else(tmp_path, caplog):
    path = tmp_path / "users.txt"
    assert add_user(path, "ada", PASSWORD)
    assert PASSWORD not in path.read_text() and path.read_text().startswith("ada:$argon2id$")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    known = read_users(path)
    assert password_fits(known, "ada", PASSWORD) and not caplog.records
    assert not any(password_fits(known, name, word) for name, word in (("ada", PASSWORD + " "), ("ada", ""), ("bob", PASSWORD), ("", "")))


def test_a_name_that_is_there_gets_the_new_password_and_the_others_stay(tmp_path):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD), add_user(path, "bob", "another password")
    path.chmod(0o644)
    assert not add_user(path, "ada", "a new password")
    known = read_users(path)
    assert password_fits(known, "ada", "a new password") and not password_fits(known, "ada", PASSWORD)
    assert password_fits(known, "bob", "another password") and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    before = path.read_text()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InvalidOption, match="No space left"):
        add_user(path, "bob", PASSWORD)
    assert path.read_text() == before and [one.name for one in tmp_path.iterdir()] == ["users.txt"]


def test_plain_passwords_of_older_files_work_and_are_warned_of_once(tmp_path, caplog):
    path = tmp_path / "users.txt"
    path.write_text("ada:secret\n\nbob: with:colon \n")
    path.chmod(0o600)
    with caplog.at_level(logging.WARNING):
        known = read_users(path)
        assert password_fits(known, "ada", "secret") and password_fits(known, "bob", "with:colon") and not password_fits(known, "ada", "Secret")
    assert len(caplog.records) == 1 and "ada, bob" in caplog.text and "--add-user" in caplog.text
    assert all(word.startswith("$argon2") for word in known.values())


@pytest.mark.skipif(os.name != "posix", reason="files have no modes here")
def test_a_file_that_others_may_read_is_warned_of(tmp_path, caplog):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    path.chmod(0o640)
    read_users(path)
    assert f"chmod 600 {path}" in caplog.text


@pytest.mark.parametrize(("text", "sentence"), [
    ("", "names nobody"), ("ada\n", "Line 1"), ("ada:x\n:y\n", "Line 2"), ("ada:\n", "Line 1"), (None, "cannot be read"),
])
def test_a_file_that_makes_no_sense_is_refused_in_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "users.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidOption, match=sentence):
        read_users(path)


@pytest.mark.parametrize(("name", "password", "sentence"), [
    ("a:b", PASSWORD, "no colon"), ("", PASSWORD, "1 to 100"), (" ada", PASSWORD, "blank"), ("a\nb", PASSWORD, "printable"), ("ada", "short", "8 to 1024"),
    ("ada", "x" * 1025, "8 to 1024"),
])
def test_names_and_passwords_that_make_no_sense_are_refused(tmp_path, name, password, sentence):
    with pytest.raises(InvalidOption, match=sentence):
        add_user(tmp_path / "users.txt", name, password)
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_costs_what_a_known_one_does(tmp_path, monkeypatch):
    path = tmp_path / "users.txt"
    add_user(path, "ada", PASSWORD)
    known, judged = read_users(path), []
    verify = PasswordHasher.verify
    monkeypatch.setattr(PasswordHasher, "verify", lambda self, word, given: judged.append(word) or verify(self, word, given))
    for name in ("ada", "nobody"):
        assert not password_fits(known, name, "wrong password")
    # The same work: two hashes of the same cost, one each.
    assert len(judged) == 2 and judged[0].split("$")[1:4] == judged[1].split("$")[1:4] and judged[0] != judged[1]


# --- guesses -------------------------------------------------------------------------------------------------

class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def guess(guesses: Guesses, name: str, address: str, right: bool = False) -> bool:
    """Whether the guess was judged at all."""
    try:
        with guesses.guess(name, address) as was_right:
            if right:
                was_right()
    except InvalidOption as error:
        assert "wait" in str(error)
        return False
    return True


def test_three_hundred_guesses_at_once_are_not_judged_and_neither_is_the_right_one_that_follows():
    clock = Clock()
    guesses = Guesses(clock=clock)
    assert sum(guess(guesses, "ada", "1.2.3.4") for _ in range(300)) == PACES["name and address"].free
    assert not guess(guesses, "ada", "1.2.3.4", right=True)
    clock.now += 1
    assert guess(guesses, "ada", "1.2.3.4", right=True) and guess(guesses, "ada", "1.2.3.4")


def test_each_further_wrong_guess_waits_twice_as_long_up_to_a_quarter_of_an_hour():
    clock, judged = Clock(), 0
    guesses = Guesses(clock=clock)
    for _ in range(24 * 3600):
        judged += guess(guesses, "ada", "1.2.3.4")
        clock.now += 1
    # 5 at once, then after 1, 2, 4 .. 512 s, then one every 900 s.
    assert 95 <= judged <= 5 + 10 + 24 * 4 + 2
    assert guess(guesses, "ada", "5.6.7.8", right=True)  # whoever knows the password comes in from elsewhere


def test_many_names_from_one_address_and_one_name_from_many_addresses_are_slowed_down():
    clock = Clock()
    guesses = Guesses(clock=clock)
    assert sum(guess(guesses, f"name {i}", "1.2.3.4") for i in range(300)) == PACES["address"].free
    assert guess(guesses, "ada", "5.6.7.8")
    guesses = Guesses(clock=clock)
    assert sum(guess(guesses, "ada", f"10.0.0.{i}") for i in range(200)) == PACES["name"].free
    clock.now += PACES["name"].longest_s
    assert guess(guesses, "ada", "5.6.7.8", right=True)  # kept out for a minute at most


def test_an_account_of_ones_own_gives_no_further_guesses_at_others():
    guesses = Guesses(clock=Clock())
    judged = 0
    for i in range(300):
        guess(guesses, "mallory", "1.2.3.4", right=True)
        judged += guess(guesses, f"name {i}", "1.2.3.4")
    assert judged == PACES["address"].free


def test_mistakes_are_forgotten():
    clock = Clock()
    guesses = Guesses(clock=clock)
    assert sum(guess(guesses, "ada", "1.2.3.4") for _ in range(9)) == 5
    clock.now += users.FORGOTTEN_S + 1
    assert sum(guess(guesses, "ada", "1.2.3.4") for _ in range(9)) == 5


def test_invented_names_do_not_fill_the_memory():
    guesses = Guesses(clock=Clock())
    for i in range(2 * users.MAX_COUNTED):
        guess(guesses, f"name {i}", f"address {i}")
    assert len(guesses._counted) <= users.MAX_COUNTED
