"""Uploads as they come in: files alone, within bounds; nothing is left of what was refused or broken off."""

import asyncio
import socket
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio import route_utils
from gradio.utils import get_upload_folder
from PIL import Image

from app import create_app
from studio import Studio
from studio.disk_room import DiskRoom
from studio.errors import StudioBusy
from tabs.parts.blocks import bytes_of
from tabs.parts.page import PAGE
from tabs.parts.receiving import OwnParser

MIB = 2**20


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    patch.setattr(route_utils, "GradioMultiPartParser", route_utils.GradioMultiPartParser)
    blocks = create_app(Studio(public=True, runs_root=tmp_path_factory.mktemp("runs")))
    blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", max_file_size="30mb", **PAGE)
    yield blocks
    blocks.close()
    patch.undo()


@pytest.fixture
def http(app):
    with httpx.Client(base_url=app.local_url, timeout=60) as client:
        yield client


@pytest.fixture
def small_room(app, monkeypatch):
    """Room for 64 MiB, 8 of which a request may bring."""
    room = DiskRoom(get_upload_folder(), 64 * MIB)
    monkeypatch.setattr(OwnParser, "room", room)
    return room


def left() -> set[Path]:
    return {path for path in Path(get_upload_folder()).rglob("*") if path.is_file()}


def test_uploads_are_taken_and_room_for_public_visitors_is_bounded(app, http):
    assert OwnParser.room is not None and OwnParser.room.most == 2 * 2**30
    answer = http.post("/gradio_api/upload", files=[("files", ("a.png", b"a")), ("files", ("b.png", b"b"))])
    assert answer.status_code == 200 and all(Path(path).is_file() for path in answer.json())


@pytest.mark.parametrize(("content", "kind"), [
    (b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\nno file\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    (b"--x\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\n" + b"a" * 10**6 + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    (b"--x\r\n\xff\xfe: \xff\r\n\r\nx\r\n--x--\r\n", "multipart/form-data; boundary=x"),
    (b"--x\r\n" + b"A" * 100_000, "multipart/form-data; boundary=x"),
    (b"x", "multipart/form-data"), (b"x", "multipart/form-data; boundary=" + "b" * 300), (b"{}", "application/json"), (b"\xff", "text/plain"), (b"", ""),
])
@pytest.mark.parametrize("query", ["", "?upload_id=one"])
def test_what_is_no_file_is_refused_and_leaves_nothing(http, content, kind, query, capfd):
    before = left()
    answer = http.post(f"/gradio_api/upload{query}", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (400, 413) and len(answer.text.split()) >= 3
    assert left() == before and "Traceback" not in "".join(capfd.readouterr())


def test_a_request_of_too_much_is_refused_and_leaves_nothing(http, small_room):
    before = left()
    answer = http.post("/gradio_api/upload", files=[("files", (f"{i}.png", bytes([i]) * 3 * MIB)) for i in range(3)])
    assert answer.status_code == 413 and "8 MiB in all" in answer.text and left() == before


def test_what_finds_no_room_is_told_so_and_leaves_nothing(http, small_room):
    full = Path(get_upload_folder()) / "in-use.bin"
    full.write_bytes(b"\0" * 62 * MIB)
    before = left()
    answer = http.post("/gradio_api/upload", files={"files": ("a.png", b"\1" * MIB)})
    assert answer.status_code == 400 and "try again" in answer.text and left() == before
    full.unlink()


def test_an_upload_that_is_broken_off_leaves_nothing_and_no_fault(app, http, capfd):
    before = left()
    head = b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", app.local_url and int(app.local_url.rsplit(":", 1)[1].strip("/")))) as connection:
        connection.sendall(head + b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + b"a" * 1000)
        while left() == before:
            assert http.get("/gradio_api/app_id").status_code == 200
    while left() != before:
        assert http.get("/gradio_api/app_id").status_code == 200
    assert "Traceback" not in "".join(capfd.readouterr())


def test_files_that_are_handed_out_find_room_first(app, http, monkeypatch, tmp_path):
    picture = tmp_path / "a.png"
    Image.new("RGB", (9, 9)).save(picture)
    [path] = http.post("/gradio_api/upload", files={"files": ("a.png", picture.read_bytes())}).json()
    monkeypatch.setattr(OwnParser, "room", DiskRoom(tmp_path, 1))
    answer = http.post("/gradio_api/run/noise_image", json={"data": [{"path": path}, "linear", 1000, 0, 0]})
    assert answer.status_code == 422 and "at most 0 MiB of files" in answer.text
    download = next(fn for fn in app.fns.values() if any(isinstance(block, gr.DownloadButton) for block in fn.outputs))
    with pytest.raises(StudioBusy):
        asyncio.run(app.postprocess_data(download, [None] * len(download.outputs), None))


def test_the_size_of_what_is_handed_out_is_that_of_its_files(monkeypatch, tmp_path):
    monkeypatch.setattr("tabs.parts.blocks.scratch_folder", lambda: tmp_path)
    (tmp_path / "film.gif").write_bytes(b"\0" * 77)
    path = str(tmp_path / "film.gif")
    assert bytes_of([path, {"value": tmp_path / "film.gif"}, None, "x" * 10**5, "/etc/passwd", 5]) == 154
