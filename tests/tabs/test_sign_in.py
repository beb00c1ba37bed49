"""Signing in over the wire: guesses are slowed down, cookies are for this site alone, users are added from the terminal."""

import html
import io
import re
import stat
import subprocess
import sys
from http.cookies import SimpleCookie
from pathlib import Path

import gradio as gr
import httpx
import pytest

import app
from studio import users
from studio.errors import InvalidOption
from studio.users import add_user, password_fits, read_users
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tabs.parts.sign_in import over_tls, scope_address, signed_in

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse battery"

pytestmark = pytest.mark.usefixtures("quick_hashes")


@pytest.fixture
def users_file(tmp_path) -> Path:
    add_user(tmp_path / "users.txt", "ada", PASSWORD)
    return tmp_path / "users.txt"


@pytest.fixture
def site(users_file):
    """A page that ada may enter; gives its address."""
    with StudioBlocks(title="Studio", analytics_enabled=False) as demo:
        gr.api(hello)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **signed_in(PAGE, users_file))
    yield url
    demo.close()


def hello() -> str:
    return "hello"


def sign_in(client: httpx.Client, name: str = "ada", password: str = PASSWORD, **headers: str) -> httpx.Response:
    return client.post("/login", data={"username": name, "password": password}, headers=headers)


def test_who_knows_the_password_comes_in_and_nobody_else(site):
    with httpx.Client(base_url=site) as client:
        assert client.get("/gradio_api/info").status_code == 401
        refused = sign_in(client, password="wrong password")
        assert refused.status_code == 400 and "set-cookie" not in refused.headers
        assert sign_in(client, name="bob").status_code == 400
        assert sign_in(client).status_code == 200 and client.get("/gradio_api/info").status_code == 200


def test_the_page_for_signing_in_fetches_its_colours_before_anybody_has_signed_in(site):
    with httpx.Client(base_url=site) as client:
        (sheet,) = re.findall(r'rel=\\?"stylesheet\\?" href=\\?"([^"\\]*studio\.css[^"\\]*)', html.unescape(client.get("/").text))
        assert "--ds-card:" in client.get(f"/{sheet}").text


def test_a_program_signs_in(site):
    from gradio_client import Client

    assert Client(site, auth=("ada", PASSWORD), verbose=False).predict(api_name="/hello") == "hello"


@pytest.mark.parametrize("tls", [False, True])
def test_there_is_one_cookie_which_scripts_and_other_sites_do_not_get_and_tls_keeps(site, tls):
    with httpx.Client(base_url=site) as client:
        answer = sign_in(client, **({"X-Forwarded-Proto": "https"} if tls else {}))
    [header] = answer.headers.get_list("set-cookie")
    [(name, cookie)] = SimpleCookie(header).items()
    assert cookie["httponly"] and cookie["samesite"] == "Lax" and bool(cookie["secure"]) is tls and cookie["path"] == "/"
    assert name.startswith("access-token-") and ("unsecure" in name) is not tls
    assert httpx.get(f"{site}gradio_api/info", headers={"Cookie": f"{name}={cookie.value}"}).status_code == 200


def test_guesses_one_after_the_other_are_slowed_down_and_the_right_one_has_to_wait_as_well(site, monkeypatch):
    judged = []
    fits = users.password_fits
    monkeypatch.setattr("tabs.parts.sign_in.password_fits", lambda *given: judged.append(given[2]) or fits(*given))
    with httpx.Client(base_url=site) as client:
        answers = [sign_in(client, password=f"guess number {i}") for i in range(60)]
        late = sign_in(client)
    assert all(answer.status_code == 400 for answer in [*answers, late]) and "wait" in late.json()["detail"]
    # Five at once, and as many more as seconds pass: 1, 2, 4 ..
    assert len(judged) < 12 and PASSWORD not in judged


def test_another_address_in_a_header_is_not_believed_of_a_stranger():
    scope = {"type": "http", "client": ("203.0.113.5", 4711), "headers": [(b"x-forwarded-for", b"10.0.0.1")]}
    assert scope_address(scope) == "203.0.113.5"
    household = {scope_address({"client": (f"2001:db8:1:2:{i}::1", 1)}) for i in range(5)}
    assert household == {"2001:db8:1:2::/64"} and scope_address({"client": None}) == ""


@pytest.mark.parametrize(("scope", "tls"), [
    ({"scheme": "http"}, False), ({"scheme": "https"}, True), ({"scheme": "http", "root_path": "https://studio.example/a"}, True),
    ({"scheme": "http", "headers": [(b"x-forwarded-proto", b"https, http")]}, True), ({"scheme": "http", "headers": [(b"x-forwarded-proto", b"http")]}, False),
])
def test_tls_is_known_from_the_connection_the_proxy_or_the_root(scope, tls):
    assert over_tls({"type": "http", "headers": [], **scope}) is tls


def test_without_a_file_the_page_is_for_everybody():
    assert signed_in(PAGE, None) is PAGE
    with pytest.raises(InvalidOption, match="--add-user"):
        signed_in(PAGE, Path("/nowhere/users.txt"))


# --- from the terminal ---------------------------------------------------------------------------------------

def add(path: Path, name: str, typed: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "app.py", "--add-user", name, "--auth-file", str(path)]
    return subprocess.run(command, cwd=ROOT, input=typed, capture_output=True, text=True, timeout=120)


def test_users_are_added_from_the_terminal(tmp_path, monkeypatch):
    path = tmp_path / "users.txt"
    done = add(path, "ada", f"{PASSWORD}\nmore\n")
    assert done.returncode == 0 and "ada may sign in now" in done.stdout and PASSWORD not in done.stdout + done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and password_fits(read_users(path), "ada", PASSWORD)
    monkeypatch.setattr(sys, "argv", ["app.py", "--add-user", "bob", "--auth-file", str(path)])
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    with pytest.raises(SystemExit, match="^A password has 8 to 1024 characters"):
        app.main()
    assert "bob" not in path.read_text()
