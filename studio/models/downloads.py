"""Fetching a model from the Hub, with its progress told byte by byte."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from time import monotonic
from typing import Any

from studio.errors import ModelUnavailable

__all__ = ["download", "Fetch", "LoadProgress"]

# What the studio reads of a repository: configs, tokenizer, and the full-precision safetensors; no pickles, no variants.
ENCODERS = ("depth_estimator", "image_encoder", "image_normalizer")
PATTERNS = (
    "model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model*.safetensors", "scheduler/*.json", "tokenizer*/*",
    *(f"{part}/{file}" for part in ("unet", "transformer", "vae") for file in ("config.json", "diffusion_pytorch_model*.safetensors*")),
    "*scheduler/*.json", "feature_extractor/*", *(f"{part}/config.json" for part in ENCODERS), *(f"{part}/*model*.safetensors*" for part in ENCODERS),
    *(f"text_encoder{number}/{file}" for number in ("", "_2", "_3") for file in ("config.json", "model*.safetensors*")),
)
IGNORED = ("*.fp16.*", "*.non_ema.*", "*.fp16-*")
TELL_EVERY_S = 0.2

# (repository, tell(done_bytes, total_bytes)) -> None; it may raise what huggingface_hub raises.
Fetch = Callable[[str, Callable[[int, int], None]], None]


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """A model is on its way: bytes that are here, of how many; total_bytes is 0 while it is not known."""

    name: str
    done_bytes: int
    total_bytes: int


def download(name: str, fetch: Fetch | None = None) -> Iterator[LoadProgress]:
    """Fetch a repository into the cache; gives LoadProgress at most five times a second, and once at the end.

    Closing the iterator ends the download within a chunk; what has come is kept and taken up again next time.
    Raises ModelUnavailable, in a sentence, for what is missing, gated, or out of reach.
    """
    told: Queue[tuple[int, int] | BaseException | None] = Queue()
    closed = Event()

    def tell(done: int, total: int) -> None:
        if closed.is_set():
            raise _Closed
        told.put((done, total))

    def work() -> None:
        try:
            (fetch or fetch_snapshot)(name, tell)
            told.put(None)
        except BaseException as error:
            told.put(error)

    thread = Thread(target=work, name="download", daemon=True)
    thread.start()
    try:
        yield from _progress(name, told)
    finally:
        closed.set()


class _Closed(Exception):
    """Nobody waits for this download any more."""


def _progress(name: str, told: "Queue[tuple[int, int] | BaseException | None]") -> Iterator[LoadProgress]:
    done = total = 0
    yield LoadProgress(name=name, done_bytes=0, total_bytes=0)
    due, item = monotonic(), told.get()
    while isinstance(item, tuple):
        done, total = item
        if monotonic() >= due:
            yield LoadProgress(name=name, done_bytes=min(done, total), total_bytes=total)
            due = monotonic() + TELL_EVERY_S
        item = told.get()
    if isinstance(item, ModelUnavailable):
        raise item
    if item is not None:
        raise ModelUnavailable(said_of(name, item)) from item
    yield LoadProgress(name=name, done_bytes=total, total_bytes=total)


def said_of(name: str, error: BaseException) -> str:
    """What a failed download means, and what to do, in a sentence."""
    kind = type(error).__name__
    if kind == "GatedRepoError" or "gated" in str(error):
        return f"{name!r} is gated: accept its licence on its page on the Hub and log in with `hf auth login`."
    if kind == "RepositoryNotFoundError":
        return f"There is no {name!r} on the Hub, or it is private; check the spelling, or log in with `hf auth login`."
    if isinstance(error, OSError) and getattr(error, "errno", None) == 28:
        return f"There is no room on the disk for {name!r}; free some and try again, what has come is kept."
    return f"{name!r} could not be fetched ({kind}): the Hub cannot be reached. Check the network and try again, what has come is kept."


def fetch_snapshot(name: str, tell: Callable[[int, int], None]) -> None:
    """What the studio needs of a repository, by huggingface_hub."""
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    wanted: dict[str, Any] = {"allow_patterns": list(PATTERNS), "ignore_patterns": list(IGNORED)}
    plan = snapshot_download(name, dry_run=True, **wanted)
    if not any(file.filename.endswith(".safetensors") for file in plan):
        raise ModelUnavailable(f"{name!r} holds no safetensors weights in diffusers' format; the studio reads no pickles.")
    total = sum(file.file_size for file in plan)
    cached = sum(file.file_size for file in plan if not file.will_download)
    tell(cached, total)

    class Bar(tqdm):
        """The Hub's own bars count bytes and files; only the bytes are told."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Silent()})

        def update(self, n: float | None = 1) -> None:
            super().update(n)
            if self.unit == "B":
                tell(int(cached + self.n), total)

    snapshot_download(name, tqdm_class=Bar, **wanted)


class _Silent:
    def write(self, text: str) -> None: ...

    def flush(self) -> None: ...
