"""The real app as a process of its own, watched, and a client that calls it by every route and judges what comes back."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
START_WITHIN_S = 180
PATIENCE_S = 120
# How many requests a handler gets in `make attack`; not set, the share of CI.
ATTACK = int(os.environ.get("ATTACK", "0"))
# What the whole process may ever take: the libraries and the embedded models are about 1 GiB of it.
MAX_MIB = 3000
FILE_KINDS = {"image", "file", "uploadbutton", "gallery", "imageeditor", "video", "audio", "annotatedimage", "model3d", "multimodaltextbox"}
# Defaults that a person waits for, made small: by the names and the labels that the components have.
CHEAP = {
    "num_steps": 2, "Steps": 2, "steps": 1, "num_images": 1, "Images": 1, "Seconds of training": 2, "Times DDPM is asked": 2, "Seeds": "0",
    "Guidance scales": "1", "T": 100, "num_class_images": 1, "Options (TOML)": 'data = "digits"\nresolution = 8\nsteps = 1',
}
SENTENCE = re.compile(r"^\S+( \S+){2,}.*[.?!]$", re.DOTALL)


@dataclass
class Answer:
    """What came back. body: decoded JSON, or the text where it is none."""

    status: int
    body: Any

    @property
    def text(self) -> str:
        return self.body if isinstance(self.body, str) else json.dumps(self.body)

    @property
    def error(self) -> str | None:
        """The words of a refusal; None where there are none."""
        said = self.body.get("error", self.body.get("detail")) if isinstance(self.body, dict) else None
        return said if isinstance(said, str) else json.dumps(said) if said else None

    @property
    def ok(self) -> bool:
        """Whether it is a result."""
        return self.status == 200 and isinstance(self.body, dict) and "error" not in self.body and "data" in self.body

    @property
    def sentence(self) -> bool:
        """Whether it is a refusal that says something."""
        return not self.ok and bool(self.error) and bool(SENTENCE.match(self.error or ""))


@dataclass(frozen=True)
class Input:
    """One argument of a handler. kind: the component's type. name: its name for programs, or else its label. takes: as /info describes it."""

    kind: str
    name: str
    props: dict[str, Any]
    default: Any
    takes: str

    @property
    def takes_file(self) -> bool:
        return self.kind in FILE_KINDS or "FileData" in self.takes

    @property
    def many(self) -> bool:
        """Whether it takes a list."""
        return self.props.get("file_count") == "multiple" or bool(self.props.get("multiselect")) or self.kind == "checkboxgroup" or "array" in self.takes


@dataclass(frozen=True)
class Handler:
    """One entry of the app's own list of handlers."""

    index: int
    name: str
    public: bool
    queue: bool
    inputs: list[Input]

    @property
    def takes_file(self) -> bool:
        return any(one.takes_file for one in self.inputs)

    def values(self, **changes: Any) -> list[Any]:
        """Sensible arguments that cost little; changes by name, or `file` for all that take one (for those that take many, twice)."""
        return [self._value(one, changes) for one in self.inputs]

    def _value(self, one: Input, changes: dict[str, Any]) -> Any:
        if one.takes_file and "file" in changes:
            return [changes["file"]] * 2 if one.many else changes["file"]
        return {**CHEAP, **changes}.get(one.name, one.default)


class Served:
    """The app as it was started: its address, its log, what the watcher reports, and how much memory it has taken."""

    program: tuple[str, ...] = ("-m", "tests.hostile.watched")

    def __init__(self, folder: Path, *options: str, max_mib: int = MAX_MIB, environment: dict[str, str] | None = None) -> None:
        self.folder, self.options, self.max_mib, self.environment = folder, options, max_mib, environment or {}
        self.data = folder / "data"
        self.runs, self.temp = self.data / "runs", self.data / "tmp"
        for made in (self.runs, self.temp, self.data / "home"):
            made.mkdir(parents=True, exist_ok=True)
        self.log_path, self.report_path = folder / "log.txt", folder / "report.jsonl"
        self.log_path.touch()
        self.report_path.touch()
        self._handlers: list[Handler] | None = None
        self.peak_mib = 0.0
        self.start()

    @property
    def public(self) -> bool:
        """Whether it was started for strangers."""
        return "--public" in self.options

    # --- the process

    def start(self) -> None:
        self.killed_for_memory = False
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        own = {
            "HOME": self.data / "home", "TMPDIR": self.temp, "DIFFUSION_STUDIO_RUNS": self.runs, "DIFFUSION_STUDIO_RANKINGS": self.data / "rankings",
            # torch names this folder to its own environment, and so to whatever the tests start.
            "TORCHINDUCTOR_CACHE_DIR": self.temp / "torchinductor",
            "DIFFUSION_STUDIO_CACHE": self.data / "cache", "HF_HOME": self.data / "hf", "MPLCONFIGDIR": self.data / "mpl", "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "HOSTILE_DATA": self.data, "HOSTILE_REPORT": self.report_path,
        }
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "--port", str(self.port), *self.options], cwd=ROOT, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, env={**os.environ, **{key: str(value) for key, value in own.items()}, **self.environment},
            )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S, limits=httpx.Limits(max_keepalive_connections=0))
        self._await_answer()
        threading.Thread(target=self._keep_watch, args=(self.process,), daemon=True).start()

    def _await_answer(self) -> None:
        """Until launch() is through: it ends by naming how to share the page."""
        deadline, said = time.monotonic() + START_WITHIN_S, self.log_path.stat().st_size
        while time.monotonic() < deadline and self.process.poll() is None:
            if "public link" in (log := self.log(said)) or "public URL" in log:
                return
            time.sleep(0.1)
        raise AssertionError(f"The app did not start:\n{self.log()[-3000:]}")

    def _keep_watch(self, process: subprocess.Popen) -> None:
        """End the app before it takes the machine with it."""
        seen = psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.poll() is None:
                now = seen.memory_info().rss / MIB
                self.peak_mib = max(self.peak_mib, now)
                if now > self.max_mib:
                    self.killed_for_memory = True
                    process.kill()
                time.sleep(0.02)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def memory_mib(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / MIB

    def log(self, since: int = 0) -> str:
        """What it said, from a place in its log on."""
        return _tail(self.log_path, since)

    def report(self, since: int = 0) -> list[str]:
        """What the watcher found, in words, from a place in its report on."""
        return [f"{line['event']}: {line['what']}" for line in map(json.loads, _tail(self.report_path, since).splitlines())]

    def places(self) -> tuple[int, int]:
        """Where log and report end now."""
        return self.log_path.stat().st_size, self.report_path.stat().st_size

    # --- calling

    def handlers(self) -> list[Handler]:
        """Every handler of the app, as its own configuration lists them."""
        if self._handlers is None:
            config = self.client.get("/config").json()
            parts = {part["id"]: part for part in config["components"]}
            named = self.client.get("/gradio_api/info").json()["named_endpoints"]
            self._handlers = [_handler(entry, parts, named) for entry in config["dependencies"] if entry["backend_fn"]]
        return self._handlers

    def named(self, name: str) -> Handler:
        return next(handler for handler in self.handlers() if handler.name == name)

    def openers(self) -> list[Handler]:
        """Those that open a run file."""
        return [handler for handler in self.handlers() if any(".safetensors" in (one.props.get("file_types") or ()) for one in handler.inputs)]

    def post(self, path: str, **options: Any) -> Answer:
        return _answer(self.client.post(path, **options))

    def direct(self, handler: Handler, data: Any, session: Any = None, event_data: Any = None) -> Answer:
        """By the route without a queue."""
        return self.post(f"/gradio_api/run/{handler.name}", content=_body(handler, data, session, event_data), headers=JSON)

    def queued(self, handler: Handler, data: Any, session: Any = None, event_data: Any = None) -> Answer:
        """By the queue, as the page does it: join, then listen until it is over."""
        session = uuid4().hex if session is None else session
        joined = self.post("/gradio_api/queue/join", content=_body(handler, data, session, event_data), headers=JSON)
        return joined if joined.status != 200 else self.listen(session)

    def listen(self, session: str) -> Answer:
        """The end of what the session asked for."""
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for message in _messages(stream):
                if message["msg"] == "process_completed":
                    return Answer(200 if message["success"] else 500, message["output"])
                if message["msg"] in ("unexpected_error", "server_stopped"):
                    return Answer(500, {"error": message.get("message")})
        return Answer(500, {"error": None})

    def upload(self, name: str, content: bytes) -> str:
        """The path under which the app keeps an upload."""
        return self.client.post("/gradio_api/upload", files={"files": (name, content)}).json()[0]

    def end_runs(self) -> None:
        """End every training that was started, and remove it. What processes there are is asked of the system, not of files that tests have spoilt."""
        if not any(self.runs.iterdir()):
            return
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.runs) in word for word in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        for folder in self.runs.iterdir():
            shutil.rmtree(folder, ignore_errors=True)

    def alive(self) -> bool:
        """Whether it still answers."""
        try:
            answer = self.client.post("/gradio_api/run/schedule", json={"data": ["flow", 10, False, ""]})
            return answer.status_code == 200
        except httpx.TransportError:
            return False


JSON = {"Content-Type": "application/json"}


def _body(handler: Handler, data: Any, session: Any, event_data: Any) -> bytes:
    return json.dumps({"data": data, "fn_index": handler.index, "session_hash": session, "event_data": event_data}).encode()


def _handler(entry: dict[str, Any], parts: dict[int, dict[str, Any]], named: dict[str, Any]) -> Handler:
    known = iter(named.get(f"/{entry['api_name']}", {}).get("parameters", ()))
    inputs = []
    for index in entry["inputs"]:
        part = parts[index]
        # A session's state is not told to programs.
        said = {} if part["type"] == "state" else next(known, {})
        default = said["parameter_default"] if said.get("parameter_has_default") else part["props"].get("value")
        inputs.append(Input(part["type"], said.get("parameter_name") or str(part["props"].get("label")), part["props"], default, str(said.get("type"))))
    name, public = entry["api_name"] or str(entry["id"]), entry["api_visibility"] == "public"
    return Handler(index=entry["id"], name=name, public=public, queue=entry["queue"], inputs=inputs)


def _answer(response: httpx.Response) -> Answer:
    try:
        return Answer(response.status_code, response.json())
    except ValueError:
        return Answer(response.status_code, response.text)


def _tail(path: Path, since: int) -> str:
    with open(path, "rb") as file:
        file.seek(since)
        return file.read().decode("utf-8", errors="replace")


def _messages(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in stream.iter_lines():
        if line.startswith("data:"):
            yield json.loads(line[5:])


@contextlib.contextmanager
def served(folder: Path, *options: str, **more: Any) -> Iterator[Served]:
    """The app while it is needed."""
    app = Served(folder, *options, **more)
    try:
        yield app
    finally:
        app.stop()
