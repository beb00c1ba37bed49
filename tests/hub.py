"""A Hub on this machine for huggingface_hub's own code: repositories that are folders, served as the Hub serves them."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0" * 39 + "1"
# What published repositories hold beside, and the studio never asks for: in other formats and precisions, and not in parts.
LEFT_ALONE = ("v1-5-pruned.safetensors", "model.ckpt", "teaser.png")
BESIDE = (".bin", ".fp16.safetensors", ".non_ema.safetensors", ".msgpack", ".safetensors.index.fp16.json")


class Served:
    """folders: by the ids of repositories. asked: paths of files that were fetched, by repository."""

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.asked: dict[str, list[str]] = {}
        self.url = ""

    def hold(self, name: str, folder: str | Path) -> None:
        """Publish a folder under an id."""
        self.folders[name] = Path(folder)

    def asked_in_vain(self, name: str) -> set[str]:
        """What was fetched of a repository though nobody needs it."""
        return set(self.asked[name]) - {path.relative_to(self.folders[name]).as_posix() for path in self.folders[name].rglob("*")}

    def files(self, name: str) -> Mapping[str, bytes]:
        """All that a repository holds, by path."""
        folder = self.folders[name]
        own = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        weights = [path.removesuffix(".safetensors") for path in own if path.endswith("model.safetensors")]
        beside = [path + end for path in weights for end in BESIDE]
        return {**own, **dict.fromkeys([*LEFT_ALONE, *beside], b"not for the studio")}

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str], tuple[str, str] | None]:
        """Status, body, headers, and the repository and path where it is a file of one."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        of_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if of_api else parts[:2])
        if name not in self.folders:
            return 404, b"", {"X-Error-Code": "RepoNotFound"}, None
        files = self.files(name)
        if of_api and parts[4:5] == ["tree"]:
            listed = [{"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()} for file, body in files.items()]
            return 200, json.dumps(listed).encode(), {}, None
        if of_api:
            about = {"id": name, "modelId": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "private": False, "tags": []}
            return 200, json.dumps(about).encode(), {}, None
        file = "/".join(parts[4:])
        if parts[2:3] != ["resolve"] or file not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, None
        return 200, files[file], {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(files[file]).hexdigest()}"'}, (name, file)


@contextmanager
def serving() -> Iterator[Served]:
    """A Hub at 127.0.0.1 while it is open."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body, headers, file = served.answer(self.path)
            if file and self.command == "GET":
                served.asked.setdefault(file[0], []).append(file[1])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
