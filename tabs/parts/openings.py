"""The recorded openings: what a tab shows before anything is pressed. Real runs, kept as files that the page fetches when it comes to the tab.

    assets/openings/NAME.json   {"version", "made_with": {...}, "places": {place: what it shows}}
    assets/openings/media/      its larger pictures, named by their content

A component that assets/ui draws gets a reference (`recorded`) for its value, so that nothing of a recording stands in the
page itself and none is sent twice. `python -m assets.record` makes all of them again.
"""

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from tabs.parts.stage import to_stage

__all__ = [
    "ADDRESS", "OPENINGS", "UNTIL_SHOWN", "VERSION", "Opening", "asked_with", "has_opening", "read_opening", "recorded", "recorded_text", "write_opening",
]

OPENINGS = Path(__file__).parents[2] / "assets" / "openings"
# Below gradio_api, which every proxy that serves Gradio passes on.
ADDRESS = "gradio_api/studio-openings"
VERSION = 1
PICTURE = "data:image/"
# For an event of the page: it ends when a recording is shown, or after five seconds.
UNTIL_SHOWN = "async () => { for (let i = 0; i < 100 && !window.Studio?.opened; i++) await new Promise((go) => setTimeout(go, 50)); }"
# Characters of a data URI; smaller pictures stay where they are, as a request costs more than they do.
INLINE_BELOW = 4000


# --- on the page ---------------------------------------------------------------------------------------------

def recorded(name: str, place: str) -> str:
    """The value of a component that assets/ui draws: where the page finds what it shows, which assets/ui/recorded.js reads."""
    return to_stage({"recorded": f"{ADDRESS}/{name}.json?v={_digest(name)}", "place": place})


def recorded_text(name: str, place: str) -> str:
    """What was recorded for a place of plain text or Markdown."""
    return read_opening(name)["places"][place]


@cache
def _digest(name: str) -> str:
    return sha256(_file(name).read_bytes()).hexdigest()[:12]


def has_opening(name: str) -> bool:
    """Whether something was recorded under this name."""
    return _file(name).is_file()


def _file(name: str) -> Path:
    return OPENINGS / f"{name}.json"


def read_opening(name: str) -> dict[str, Any]:
    """The whole file of an opening."""
    return json.loads(_file(name).read_text("utf-8"))


# --- recorded ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a tab opens with. made_with: the options of what is shown. places: the values of its components by name."""

    made_with: Mapping[str, Any]
    places: Mapping[str, str]


def asked_with(options: Any) -> dict[str, Any]:
    """What an options dataclass says otherwise than by default."""
    return {one.name: value for one in fields(options) if (value := getattr(options, one.name)) != one.default}


def write_opening(name: str, opening: Opening, folder: Path = OPENINGS) -> Path:
    """Keep a recording: JSON texts, as components take them, as what they say, and larger pictures beside them."""
    places = {place: _with_media(name, value, folder / "media") for place, value in opening.places.items()}
    kept = {"version": VERSION, "made_with": dict(opening.made_with), "places": places}
    file = folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(kept, separators=(",", ":"), allow_nan=False) + "\n", "utf-8")
    _sweep(folder)
    return file


def _with_media(name: str, value: Any, media: Path) -> Any:
    """The value with its larger pictures as files of their own."""
    if isinstance(value, str) and value.startswith("{"):
        return _with_media(name, json.loads(value), media)
    if isinstance(value, str) and value.startswith(PICTURE) and len(value) >= INLINE_BELOW:
        return _as_file(name, value, media)
    if isinstance(value, dict):
        return {key: _with_media(name, part, media) for key, part in value.items()}
    return [_with_media(name, part, media) for part in value] if isinstance(value, list) else value


def _as_file(name: str, uri: str, media: Path) -> str:
    """The address of the picture, which is written as the smallest PNG of the same pixels."""
    from PIL import Image

    content, small = b64decode(uri.partition(",")[2]), BytesIO()
    Image.open(BytesIO(content)).save(small, "PNG", optimize=True)
    file = media / f"{name}-{sha256(small.getvalue()).hexdigest()[:12]}.png"
    media.mkdir(parents=True, exist_ok=True)
    file.write_bytes(small.getvalue())
    return f"{ADDRESS}/media/{file.name}"


def _sweep(folder: Path) -> None:
    """Remove the pictures that no opening shows any more."""
    shown = {text for file in folder.glob("*.json") for text in _texts(json.loads(file.read_text("utf-8")))}
    for file in (folder / "media").glob("*"):
        if f"{ADDRESS}/media/{file.name}" not in shown:
            file.unlink()


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
