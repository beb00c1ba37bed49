"""Of the server's files a request may name uploads and nothing else: by every handler, every route, in public or not."""

import asyncio
import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio import state_holder
from gradio.data_classes import ImageData
from gradio.utils import get_upload_folder
from PIL import Image

from app import create_app
from studio import Studio
from studio.errors import InvalidOption, NotUploaded
from tabs.parts.page import PAGE
from tabs.parts.stage import picture_input
from tabs.parts.uploads import TAKE_FILES, own_files

REFUSED = "This is no file that was uploaded here, or it is no longer kept; upload it, then use what the upload gave."
MARK = {"_type": "gradio.FileData"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    """A picture that nobody uploaded."""
    path = tmp_path_factory.mktemp("home") / "secret.png"
    Image.new("RGB", (31, 17), "red").save(path)
    return path


@pytest.fixture(scope="module")
def foreign(secret) -> dict[str, object]:
    """What names no upload, by what it is."""
    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"link-{uuid.uuid4().hex}.png"
    link.symlink_to(secret)
    yield {
        "there": str(secret), "not there": str(secret.with_name("nothing.png")), "link": str(link), "folder": str(folder),
        "up and down": os.path.join(folder, "x", "..", os.path.relpath(secret, folder)), "up, and back": os.path.join(folder, "..", folder.name, link.name),
        "file address": secret.as_uri(), "web": "http://127.0.0.1:9/secret.png", "cloud": "http://169.254.169.254/latest/meta-data",
        "data": "data:image/png;base64,iVBORw0KGgo=", "NUL": f"{secret}\0", "long": "/" + "x" * 5000, "empty": "", "relative": "README.md", "home": "~/.netrc",
        "device": "/dev/zero", "process": "/proc/self/environ", "surrogate": "/\udcff", "number": 5, "none": None,
    }
    link.unlink()


@pytest.fixture(scope="module", params=[False, True], ids=["open", "public"])
def app(request, tmp_path_factory):
    blocks = create_app(Studio(public=request.param, runs_root=tmp_path_factory.mktemp("runs")))
    blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **PAGE)
    yield blocks
    blocks.close()


@pytest.fixture(scope="module")
def http(app):
    with httpx.Client(base_url=app.local_url, timeout=120) as client:
        yield client


def takes_file(block) -> bool:
    """Whether a part of the page, or an argument of an endpoint, is a file."""
    return isinstance(block, TAKE_FILES) or "FileData" in str(getattr(block, "_api_info", ""))


def references(path: object) -> list[object]:
    """The ways to write a file down."""
    plain = {"path": path}
    marked = {**plain, "meta": MARK}
    in_line = {**plain, "url": "data:image/png;base64,iVBORw0KGgo=", "is_stream": True}
    return [plain, marked, {**marked, "url": "http://127.0.0.1:9/x.png"}, in_line, [marked], {"a": [plain]}]


def test_whatever_names_no_upload_is_refused_in_one_and_the_same_sentence(foreign):
    for name, path in foreign.items():
        for form in references(path):
            with pytest.raises(NotUploaded) as caught:
                own_files(form, takes_file=True)
            assert str(caught.value) == REFUSED, name
            if isinstance(path, str):
                with pytest.raises(NotUploaded):
                    own_files({"value": [form]})


async def prepared(app, fn, values) -> list[object]:
    """What the handler would be called with."""
    return await app.preprocess_data(fn, values, state_holder.SessionState(app))


def apart(coroutine) -> object:
    # In a thread of its own: a browser's tests leave a running loop in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def test_no_handler_is_given_a_file_that_was_not_uploaded(app, foreign):
    tried = apart(given_what_was_not_uploaded(app, foreign["there"]))
    assert len(tried) >= 6


async def given_what_was_not_uploaded(app, path) -> set[tuple[int, int]]:
    """(handler, place of the input) of all that take files, after every input of every handler has refused it."""
    tried = set()
    for fn in app.fns.values():
        for i, block in enumerate(fn.inputs):
            if not block.stateful:
                of_files = takes_file(block)
                tried |= {(fn._id, i)} if of_files else set()
                for form in ({"path": path}, {"path": path, "meta": MARK}, *([path, [path]] if isinstance(block, TAKE_FILES) else [])):
                    with pytest.raises(gr.Error) as caught:
                        await prepared(app, fn, [form if j == i else None for j in range(len(fn.inputs))])
                    assert caught.value.message == REFUSED, (fn.api_name, block.label)
    return tried


def test_an_upload_comes_through_without_what_gradio_would_fetch(app, http, secret):
    [path] = http.post("/gradio_api/upload", files={"files": ("mine.png", secret.read_bytes())}).json()
    reference = {"path": path, "url": "http://127.0.0.1:9/x.png", "orig_name": "mine.png", "size": 5, "is_stream": True}
    assert own_files([reference], takes_file=True) == [{"path": path, "size": 5, "orig_name": "mine.png", "mime_type": None, "meta": MARK}]
    fn = next(fn for fn in app.fns.values() if fn.api_name == "noise_image")
    given = apart(prepared(app, fn, [reference, *[block.value for block in fn.inputs[1:]]]))[0]
    assert path == (given if isinstance(given, str) else given["path"]) and "127.0.0.1" not in str(given)


def test_what_is_nested_without_end_is_refused():
    value: object = {"path": "x"}
    for _ in range(2000):
        value = [value]
    with pytest.raises(InvalidOption, match="more than 16 levels"):
        own_files(value)


def test_what_names_no_file_stays_as_it_is():
    value = {"a": [1, "/etc/passwd", None, {"path": 5}]}
    assert own_files(value) == value


def test_a_picture_is_not_decoded_by_gradio_even_where_it_builds_the_component_anew(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGBA", (9, 9)).save(path)
    image = picture_input(label="Picture")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the pixels were decoded"))
    anew = type(image)(**image.constructor_args)
    assert anew.preprocess(ImageData(path=str(path))) == image.preprocess(ImageData(path=str(path))) == str(path)


# --- over the wire -------------------------------------------------------------------------------------------

def body(fn, reference, session: str) -> bytes:
    """A call with the reference in place of every file, and what the page shows for the rest."""
    values = [reference if takes_file(block) else None if block.stateful else block.value for block in fn.inputs]
    return json.dumps({"data": values, "fn_index": fn._id, "session_hash": session}).encode()


def directly(http, fn, reference) -> str:
    answer = http.post(f"/gradio_api/run/{fn.api_name}", content=body(fn, reference, uuid.uuid4().hex), headers=JSON)
    assert answer.status_code != 200
    return answer.json()["error"]


def by_the_queue(http, fn, reference) -> str:
    session = uuid.uuid4().hex
    http.post("/gradio_api/queue/join", content=body(fn, reference, session), headers=JSON).raise_for_status()
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        messages = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
        last = next(message for message in messages if message["msg"] == "process_completed")
    assert not last["success"]
    return last["output"]["error"]


def test_every_route_refuses_in_one_sentence_whether_the_file_is_there_or_not(app, http, foreign, secret, capfd):
    # What is JavaScript alone is called by nobody.
    of_files = [fn for fn in app.fns.values() if fn.fn is not None and any(takes_file(block) for block in fn.inputs)]
    assert {"noise_image", "sample"} <= {fn.api_name for fn in of_files}
    for number, fn in enumerate(of_files):
        # With and without Gradio's mark; by the queue, which takes longer, the one or the other.
        marks = ({}, {"meta": MARK})
        for ask, mark in (*product([directly], marks), (by_the_queue, marks[number % 2])):
            there, not_there = ({"path": foreign[name], **mark} for name in ("there", "not there"))
            answer = ask(http, fn, there)
            assert answer == ask(http, fn, not_there) and answer.endswith(".") and str(secret.parent) not in answer, fn.api_name
        # Both ways of asking fail where there is an answer instead.
        elsewhere = ({"path": foreign["web"], "meta": MARK}, {"url": foreign["data"]})
        assert all(directly(http, fn, reference) for reference in elsewhere) and by_the_queue(http, fn, elsewhere[number % 2])
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said and str(secret.parent) not in said


def test_an_upload_is_read(http, secret):
    [path] = http.post("/gradio_api/upload", files={"files": ("mine.png", secret.read_bytes())}).json()
    answer = http.post("/gradio_api/run/noise_image", json={"data": [{"path": path}, "linear", 1000, 0, 0]})
    assert answer.status_code == 200, answer.text
    assert http.get(f"/gradio_api/file={answer.json()['data'][0]['path']}").headers["content-type"] == "image/png"


def test_nothing_but_uploads_is_served(http, foreign):
    answers = set()
    for name, path in foreign.items():
        if isinstance(path, str) and name != "surrogate":
            for where in ("file=", "file/"):
                answer = http.get(f"/gradio_api/{where}{httpx.URL('http://x/').copy_with(params={'p': path}).query.decode()[2:]}")
                assert answer.status_code == 403, (name, where, answer.status_code)
                answers.add(answer.text)
    assert len(answers) == 1


@pytest.mark.parametrize("path", ["app.py", "/etc/hostname", "..%2f..%2fetc%2fpasswd", "%2Fetc%2Fpasswd", "https://example.com/x.png", "HTTP://127.0.0.1:9/"])
def test_no_other_file_and_no_address_of_the_web_is_served(http, path):
    assert http.get(f"/gradio_api/file={path}").status_code == 403
    assert http.head(f"/gradio_api/file={path}").status_code == 403


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "proxy=http://127.0.0.1:9/"), ("POST", "process_recording"), ("POST", "vibe-edit"), ("POST", "run-history/connect"),
])
def test_routes_that_read_or_fetch_for_anybody_are_closed(http, method, path):
    assert http.request(method, f"/gradio_api/{path}").status_code == 403
