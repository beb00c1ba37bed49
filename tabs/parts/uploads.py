"""Which files of the server a request may name: those in this app's own folder of uploads, and no others.

Gradio looks a file up in that folder only where the reference carries a mark of its own, which a program may leave out;
it fetches whatever address a reference gives, and serves addresses of the web through /file=. Here every reference in
any value of a call, and every file that is asked for, is judged by studio.media.uploads.require_upload.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from studio.errors import InvalidOption, NotUploaded
from studio.media.uploads import require_upload
from tabs.parts.stage import said_in_a_sentence

__all__ = ["OwnUploads", "OwnFiles", "own_files", "takes_files", "FILE_INFO"]

MAX_DEPTH = 16
# What of a reference is of use here: an address to fetch is not, and the mark is put on whether or not it was there.
KEPT = ("path", "size", "orig_name", "mime_type")
MARK = {"_type": "gradio.FileData"}
TAKE_FILES = (gr.Image, gr.File, gr.UploadButton)
# What an endpoint says of an argument that is a file.
FILE_INFO = {"type": "object", "title": "FileData", "properties": {"path": {"type": "string"}}, "additional_description": "as /gradio_api/upload gives it"}

API = "/gradio_api/"
# The routes of Gradio's that its page and its clients have a use for here. The others read, write, fetch or keep something for
# anybody who asks, and a new version may bring more of them.
OPEN = frozenset({
    "api", "app_id", "call", "cancel", "component_server", "config", "heartbeat", "info", "login_check", "openapi.json", "queue", "reset", "run",
    "startup-events", "studio-live", "studio-openings", "studio-ui", "theme.css", "upload", "upload_progress", "user",
})
NAMES_FILE = ("file=", "file/")


class OwnUploads(gr.Blocks):
    """gr.Blocks whose handlers are given no file but what was uploaded here."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **more: Any) -> list[Any]:
        with said_in_a_sentence():
            inputs = [own_files(value, takes_file=takes_files(block)) for block, value in zip(block_fn.inputs, inputs)]
        return await super().preprocess_data(block_fn, inputs, *args, **more)


def takes_files(block: Any) -> bool:
    """Whether what it is sent is a file or a list of them: a part of the page, or an argument of an endpoint."""
    info = getattr(block, "_api_info", None) or {}
    return isinstance(block, TAKE_FILES) or FILE_INFO in (info, info.get("items"))


def upload_folder() -> Path:
    """Where Gradio keeps what was uploaded to this app, and the files that it hands out."""
    return Path(get_upload_folder())


def own_files(value: Any, *, takes_file: bool = False, depth: int = 0) -> Any:
    """The value, every reference to a file in it judged and brought down to what is of use.

    Args:
        takes_file: of a component that takes files, so that anything but references is none of its values.
    Raises:
        NotUploaded: a reference to anything but an upload. InvalidOption: nested more than MAX_DEPTH deep.
    """
    if depth > MAX_DEPTH:
        raise InvalidOption(f"A value is nested more than {MAX_DEPTH} levels deep; nothing here takes anything like it.")
    if isinstance(value, list):
        return [own_files(item, takes_file=takes_file, depth=depth + 1) for item in value]
    if isinstance(value, dict) and (takes_file or is_reference(value)):
        require_upload(value.get("path"), [upload_folder()])
        return {**{name: value.get(name) for name in KEPT}, "meta": MARK}
    if isinstance(value, dict):
        return {name: own_files(item, depth=depth + 1) for name, item in value.items()}
    if takes_file and value is not None:
        require_upload(None, ())
    return value


def is_reference(value: dict[str, Any]) -> bool:
    """Whether Gradio might take it for a file."""
    return isinstance(value.get("path"), str) or isinstance(value.get("url"), str) or value.get("meta") == MARK


class OwnFiles:
    """ASGI middleware: of the server's files only uploads, and what this app handed out, are served; of Gradio's routes only those in use."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            wanted = scope["path"].partition(API)[2]
            if wanted and not is_open(wanted):
                return await JSONResponse({"detail": "There is nothing here that is served."}, 403)(scope, receive, send)
        await self.app(scope, receive, send)


def is_open(wanted: str) -> bool:
    """Whether the rest of an address below Gradio's own leads to something that is served."""
    if wanted.startswith(NAMES_FILE):
        return is_served(wanted[len(NAMES_FILE[0]) :])
    return wanted.partition("/")[0] in OPEN


def is_served(path: str) -> bool:
    """Whether the file is an upload, or was handed out by this app."""
    try:
        require_upload(path, [upload_folder()])
        return True
    except NotUploaded:
        return False
