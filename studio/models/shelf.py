"""The .safetensors files in the folders that the studio may use: what each is by its keys, and what a LoRA says of its own training.

A file is named by its path, or by its name where it lies in one of the folders; no other file is opened.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from studio.additions import called
from studio.checks import quoted
from studio.errors import InvalidOption, ModelUnavailable
from studio.files import lies_within
from studio.models.originals import Header, read_header, recognised

__all__ = ["KINDS", "ShelfFile", "find_file", "shelf", "trigger_words"]

END = ".safetensors"
KINDS = ("model", "lora", "embedding", "vae")
# So many files are looked at, and so deep: a folder may be that of all a user's files.
MAX_FILES, MAX_DEPTH, MAX_ENTRIES = 400, 4, 20_000
MAX_WORDS = 8
# What a run keeps for itself.
OWN = ("checkpoints", "samples")


@dataclass(frozen=True, kw_only=True)
class ShelfFile:
    """A file. path: in full; kind: one of KINDS; about: what it says of itself, in words; words: what a LoRA is called by."""

    path: str
    kind: str
    about: str = ""
    words: tuple[str, ...] = ()


def find_file(name: str, folders: Sequence[Path], what: str, *, or_folder: bool = False) -> str:
    """The full path of a file that an option names: a path in one of the folders, or a file's name there, with its end or without.

    what: in words, for the sentences. or_folder: a folder will do.
    Raises InvalidOption for what is not there or lies elsewhere, in one sentence: whether it is there is nobody's business.
    """
    path = Path(name)
    if path.parent != Path() or or_folder and path.is_dir():
        candidates: Iterable[Path] = [path]
    else:
        candidates = (file for file in _files(folders) if name in (file.name, file.stem, called(str(file))))
    for candidate in candidates:
        if lies_within(candidate, folders) and (candidate.is_file() and candidate.suffix == END or or_folder and candidate.is_dir()):
            return str(candidate.resolve())
    told = ", ".join(str(folder) for folder in folders[:3])
    raise InvalidOption(
        f"The {what} {quoted(name)} is no {END} file in the folders that the studio may use ({told}): put it there, or start the studio with --folder PATH."
    )


def shelf(folders: Sequence[Path], kind: str) -> list[ShelfFile]:
    """The files of a kind (one of KINDS), by path. Those that cannot be read are left out: whoever names one is told why."""
    found = (_looked_at(str(path), path.stat().st_mtime_ns) for path in _files(folders))
    return [file for file in found if file is not None and file.kind == kind]


def _files(folders: Sequence[Path]) -> list[Path]:
    return sorted(islice(_walk(folders), MAX_FILES))


def _walk(folders: Sequence[Path]) -> Iterator[Path]:
    entries, seen = 0, set[str]()
    for folder in folders:
        for place, inner, names in os.walk(folder):
            # A folder may lie in another one of them.
            if os.path.realpath(place) in seen:
                inner[:] = []
                continue
            seen.add(os.path.realpath(place))
            depth = len(Path(place).relative_to(folder).parts)
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in OWN) if depth < MAX_DEPTH else []
            entries += len(names)
            if entries > MAX_ENTRIES:
                return
            yield from (path for name in sorted(names) if name.endswith(END) and (path := Path(place) / name).is_file())


@lru_cache(maxsize=2 * MAX_FILES)
def _looked_at(path: str, changed_ns: int) -> ShelfFile | None:
    try:
        header = read_header(path)
    except ModelUnavailable:
        return None
    kind = _kind(header, path)
    if kind is None:
        return None
    words = trigger_words(header) if kind == "lora" else (Path(path).stem,) if kind == "embedding" else ()
    return ShelfFile(path=path, kind=kind, about=header.said("modelspec.title") or header.said("ss_output_name"), words=words)


def _kind(header: Header, path: str) -> str | None:
    keys = tuple(header.shapes)
    if any("lora" in key for key in keys):
        return "lora"
    if "emb_params" in keys or set(keys) <= {"clip_l", "clip_g"} or len(keys) == 1 and len(header.shapes[keys[0]]) <= 2:
        return "embedding"
    if any(key.startswith("decoder.") for key in keys) and any(key.startswith("encoder.") for key in keys):
        return "vae"
    try:
        return "model" if recognised(header, path) else None
    except ModelUnavailable:
        return None


def trigger_words(header: Header) -> tuple[str, ...]:
    """What a LoRA is called by: the phrase that its metadata names, then the tags that it was taught most often (kohya's ss_tag_frequency)."""
    phrase = header.said("modelspec.trigger_phrase")
    found = [phrase[:200]] if phrase else []
    try:
        by_folder = json.loads(header.said("ss_tag_frequency") or "{}")
        counted: Counter[str] = Counter()
        for tags in by_folder.values() if isinstance(by_folder, dict) else ():
            counted.update({str(tag).strip(): int(count) for tag, count in tags.items()})
        found += [tag[:200] for tag, _ in counted.most_common(MAX_WORDS)]
    except (ValueError, AttributeError, TypeError, RecursionError):
        # The metadata is a stranger's and not needed for anything but this line.
        return tuple(found)
    return tuple(dict.fromkeys(tag for tag in found if tag))[:MAX_WORDS]
