"""The addresses that Gradio brings along: files, uploads, proxies, listening, and calls whose envelope is nonsense."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product
from pathlib import Path

import httpx
import pytest

from tests.hostile.conftest import EITHER, EITHER_OWN
from tests.hostile.files import reference
from tests.hostile.judging import LEAKS, quiet
from tests.hostile.served import ATTACK, ROOT

SECRET = "what nobody may read"
ESCAPES = [
    "{secret}", "/{secret}", "..{secret}", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{secret}", "....//....//....//{secret}", "file://{secret}", "//{secret}",
    "{secret}%00.png", "{uploads}/../../../../../../../../{secret}", "{uploads}/..%2f..%2f..%2f..%2f..%2f..%2f{secret}", "/proc/self/root{secret}",
    "/proc/self/cwd/../../../../../../{secret}", "\\\\localhost\\c$\\x", "{root}/app.py", "{root}/README.md", "{root}/.git/config", "{root}/requirements.txt",
    "{log}", "/etc/passwd", "/proc/self/environ", "{runs}", "{runs}/../../log.txt", "~/.bashrc", ".", "",
]
DOORS = [
    "/gradio_api/file={}", "/gradio_api/file/{}", "/file={}", "/static/{}", "/assets/{}", "/svelte/{}", "/gradio_api/studio-ui/{}",
    "/gradio_api/custom_component/{}",
]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "hostile-canary.txt"
    path.write_text(SECRET)
    return path


def test_no_address_leads_to_a_file_of_the_server(app, secret):
    known = {"secret": secret, "root": ROOT, "runs": app.runs, "log": app.log_path, "uploads": app.temp}
    with quiet(app):
        for door, escape, method in product(DOORS, ESCAPES, ("GET", "HEAD")):
                asked = escape.format(**known)
                answer = app.client.request(method, door.format(asked))
                assert answer.status_code != 500, f"{door} {escape}: {answer.text[:200]}"
                assert SECRET not in answer.text and "root:x:0" not in answer.text and "import argparse" not in answer.text, f"{door} {escape}"
                assert answer.status_code == 200 or not LEAKS.search(answer.text.replace(asked or " ", "")), f"{door} {escape}: {answer.text[:300]}"


@pytest.fixture
def trap():
    """A server that is not for the world: (its address, what was asked of it)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", listening


def was_asked(listening: socket.socket) -> bool:
    try:
        connection, _ = listening.accept()
    except TimeoutError:
        return False
    connection.close()
    return True


def test_the_app_fetches_no_address_that_a_client_names(app, trap):
    address, listening = trap
    hosts, takers = ("127.0.0.1", "localhost", "0x7f000001", "127.1"), [handler for handler in app.handlers() if handler.takes_file]
    for number, host in enumerate(address.replace("127.0.0.1", host) for host in hosts):
        app.client.get(f"/gradio_api/file={host}/x.png")
        app.client.get(f"/gradio_api/proxy={host}/x.png")
        # In CI a handler is told one of the addresses.
        for handler in takers if ATTACK else takers[number :: len(hosts)]:
            app.queued(handler, handler.values(file=reference(f"{host}/x.png", url=f"{host}/x.png")))
    assert not was_asked(listening)
    assert not [line for line in app.report() if "connected" in line or "looked up" in line]


NAMES = [
    "../../escaped.png", "/etc/escaped.png", "a/b/c.png", "..\\..\\escaped.png", "x" * 3000 + ".png", "\0.png", ".png", "", "con.png", "<script>.png",
    "\u202egnp.exe", "%2e%2e%2fx", "/", "..", ".", "../", " ", "a" * 255, "\xff\xfe.png",
]


def test_names_of_uploads_lead_nowhere(app):
    wrong = []
    for name in NAMES:
        try:
            with quiet(app):
                answer = app.client.post("/gradio_api/upload", files={"files": (name, b"x")})
            assert answer.status_code < 500, answer.text[:200]
            for path in answer.json() if answer.status_code == 200 else []:
                assert Path(path).is_relative_to(app.temp) and ".." not in Path(path).parts
        except AssertionError as error:
            wrong.append(f"{name[:40]!r}: {str(error)[-300:]}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)


def test_an_upload_beyond_the_limit_is_refused_and_leaves_nothing(app):
    before = {path for path in app.temp.rglob("*") if path.is_file()}
    with quiet(app):
        answer = app.client.post("/gradio_api/upload", files={"files": ("big.png", b"\0" * (40 * 2**20))})
    assert answer.status_code == 413
    assert sum(path.stat().st_size for path in app.temp.rglob("*") if path.is_file() and path not in before) < 2**20


BODIES = [
    b"", b"{", b"[]", b"null", b'"x"', b"7", b"\xff\xfe", b"{}", b'{"data": {}}', b'{"data": null}', b'{"data": "x"}', b'{"data": [NaN]}',
    b'{"data": [], "fn_index": "x"}', b'{"data": [], "fn_index": -1}', b'{"data": [], "fn_index": 1e9}', b'{"data": [], "fn_index": 99999}',
    b'{"data": [], "fn_index": true}', b'{"data": [], "fn_index": ' + b"9" * 5000 + b"}", b'{"data": [], "session_hash": 7}', b'{"session_hash": "x"}',
    b'{"data": [], "session_hash": ["x"]}', b'{"data": [], "session_hash": ""}', b'{"data": ["\\ud800"], "fn_index": 1, "session_hash": "\\ud800"}',
    b'{"data": [], "batched": true}', b'{"data": [[]], "batched": true, "fn_index": 1}', b'{"data": [], "event_id": "x"}', b'{"data": [], "trigger_id": "x"}',
    b'{"data": [], "simple_format": "x"}', b"[" * 100_000, b'{"data": ' * 50_000, b'{"data": ["' + b"x" * 10**7 + b'"]}',
    b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b', "fn_index": 1}',
]
CALLS = [
    "/gradio_api/run/schedule", "/gradio_api/run/no-such", "/gradio_api/api/schedule", "/gradio_api/call/schedule", "/gradio_api/call/v2/schedule",
    "/gradio_api/call/no-such", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/component_server", "/gradio_api/stream/x",
    "/gradio_api/stream/x/close", "/gradio_api/upload", "/gradio_api/process_recording", "/gradio_api/run-history/connect", "/gradio_api/vibe-edit", "/login",
    "/gradio_api/vibe-code", "/gradio_api/undo-vibe-edit", "/gradio_api/vibe-starter-queries",
]


KINDS = ["application/json", "multipart/form-data; boundary=x", "text/plain", "multipart/form-data"]


@EITHER
@pytest.mark.parametrize("kind", KINDS)
def test_an_envelope_that_is_nonsense_is_refused_as_the_clients_mistake(app, kind):
    wrong = []
    for path in CALLS:
        try:
            with quiet(app):
                for body in BODIES:
                    answer = app.client.post(path, content=body, headers={"Content-Type": kind}, follow_redirects=False)
                    assert answer.status_code < 500 and not LEAKS.search(answer.text), f"{body[:60]!r}: {answer.status_code} {answer.text[:200]}"
        except (AssertionError, httpx.TransportError) as error:
            wrong.append(f"{path} {str(error)[-400:] or repr(error)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)
    assert app.alive()


QUERIES = [
    "/gradio_api/queue/data", "/gradio_api/queue/data?session_hash=nobody", "/gradio_api/call/schedule/nothing", "/gradio_api/call/x/y",
    "/gradio_api/queue/status",
    "/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio_api/stream/a/b/1/2.ts", "/gradio_api/stream/a/b/c/playlist-file", "/gradio_api/deep_link?session_hash=x",
    "/gradio_api/info?serialize=x", "/config?deep_link=../../x", "/?deep_link=../../../etc", "/?deep_link=%00", "/gradio_api/theme.css", "/monitoring",
    "/monitoring/summary", "/monitoring/x", "/gradio_api/runs", "/gradio_api/run-history/buckets", "/gradio_api/run-history/records", "/gradio_api/dev/reload",
    "/gradio_api/openapi.json", "/pwa_icon/99999999", "/manifest.json", "/gradio_api/startup-events", "/gradio_api/token", "/gradio_api/app_id",
    "/gradio_api/user",
    "/gradio_api/upload_progress?upload_id=x", "/gradio_api/vibe-code", "/gradio_api/profiling/traces", "/no/such/page", "/" + "x" * 20_000, "/%00",
    "/%ff%fe", "/..%2f..",
    "/gradio_api/mcp/sse", "/gradio_api/mcp/",
]


MONITORING = ["/monitoring", "/monitoring/", "/monitoring/summary", "/monitoring/x", "/monitoring/x/dashboard", "/gradio_api/profiling/summary"]


@pytest.mark.parametrize("path", MONITORING)
def test_how_much_is_asked_of_the_app_is_told_to_nobody(app, path):
    answer = app.client.get(path, follow_redirects=True)
    assert answer.status_code in (403, 404) and "dashboard" not in answer.text and "mean" not in answer.text


@EITHER_OWN
def test_addresses_for_nobody_are_answered_and_tell_nothing(app):
    wrong = []
    for path in QUERIES:
        try:
            with quiet(app), app.client.stream("GET", path) as answer:
                endless = "event-stream" in answer.headers.get("content-type", "")
                text = "" if endless else answer.read().decode("utf-8", errors="replace")
            assert answer.status_code < 500 and not LEAKS.search(text), f"{answer.status_code} {text[:300]}"
        except (AssertionError, httpx.TransportError) as error:
            wrong.append(f"{path[:60]}: {str(error)[-300:] or repr(error)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)


HEADERS = [
    {"Host": "evil.invalid"}, {"Host": ""}, {"Host": "a" * 5000}, {"X-Forwarded-Host": "evil.invalid\\..\\x"}, {"X-Forwarded-Proto": "javascript"},
    {"X-Forwarded-For": "' OR 1=1"}, {"X-Gradio-Server": "http://127.0.0.1:9"}, {"Cookie": "access-token=x; " * 200}, {"Cookie": "\x7f\xff=;;;="},
    {"Authorization": "Bearer x"}, {"Origin": "null"}, {"Referer": "file:///etc/passwd"}, {"Range": "bytes=99999999999-"},
    {"Accept-Language": "x" * 20_000}, {"Accept-Encoding": "br;q=nan"}, {"User-Agent": "() { :;}; touch hostile-canary"}, {"If-None-Match": "*" * 9000},
]


@EITHER_OWN
def test_headers_that_are_nonsense_do_no_harm(app):
    wrong = []
    paths = ("/", "/config", "/gradio_api/info")
    # In CI each goes to one of them, which are large.
    for headers, path in product(HEADERS, paths) if ATTACK else zip(HEADERS, cycle(paths)):
        try:
            with quiet(app):
                answer = app.client.get(path, headers={key: value.encode("latin-1") for key, value in headers.items()})
            assert answer.status_code < 500 and not LEAKS.search(answer.text), f"{answer.status_code} {answer.text[:300]}"
        except httpx.LocalProtocolError:
            continue
        except (AssertionError, httpx.TransportError) as error:
            wrong.append(f"{path} {str(headers)[:60]}: {str(error)[-300:] or repr(error)}")
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong)
    assert app.alive()


@EITHER
def test_a_hundred_listeners_left_hanging_hold_up_nobody(app):
    """Connections that are opened and left: half a request, streams that nobody reads, sockets that say nothing."""
    upload = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n--x"
    websocket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    heads = [
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Half:", upload, b"GET /gradio_api/heartbeat/%d HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /gradio_api/queue/data?session_hash=%d HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n" + websocket, b"",
    ]
    left = []
    with quiet(app):
        for i in range(120):
            connection = socket.create_connection(("127.0.0.1", app.port))
            head = heads[i % len(heads)]
            connection.sendall(head % i if b"%d" in head else head)
            left.append(connection)
        with ThreadPoolExecutor(8) as together:
            assert all(together.map(lambda _: app.alive(), range(16)))
        for connection in left:
            connection.close()
        assert app.alive()


@EITHER
def test_pages_of_endless_session_names_do_not_fill_the_memory(app):
    import threading

    before = app.memory_mib
    for i in range(300):
        app.client.post("/gradio_api/run/schedule", json={"data": ["flow", 10, False, ""], "session_hash": f"invented-{i}"})
    assert app.memory_mib - before < 150 and threading.active_count() < 50


def test_what_the_configuration_tells_is_not_of_the_server(app):
    told = json.dumps([app.client.get(path).json() for path in ("/config", "/gradio_api/info", "/gradio_api/openapi.json")])
    assert not LEAKS.search(told) and str(app.data) not in told.replace(str(app.temp), "")
