"""Scenes as files: JSON with one object or two, and a sentence for what the world cannot hold.

    {"background": "blue", "things": [{"object": "star", "colour": "red", "size": "small", "position": "left"}]}
    {"background": "yellow", "relation": "left of", "things": [{"object": "heart", "colour": "red", "centre": [0.3, 0.5]},
                                                               {"object": "star", "colour": "blue", "centre": [0.7, 0.5]}]}
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from studio.errors import InvalidOption
from studio.toybox.pairs import AnyScene, PairScene, Thing
from studio.toybox.world import Scene

_PAIRS = ("jitter", "centre")  # JSON has lists where scenes have tuples


def scene_to_json(scene: AnyScene) -> str:
    """The scene as a file's text, to be read by scene_from_json."""
    if isinstance(scene, PairScene):
        data: dict[str, Any] = {"background": scene.background, "relation": scene.relation, "things": [asdict(scene.first), asdict(scene.second)]}
    else:
        thing = asdict(scene)
        data = {"background": thing.pop("background"), "things": [thing]}
    return json.dumps(data, indent=2) + "\n"


def scene_from_json(text: str) -> AnyScene:
    """The scene that a file describes. Raises InvalidOption for what is no scene, or none that the world can hold."""
    data = _read(text)
    things = data.get("things")
    if not isinstance(things, list) or not all(isinstance(thing, dict) for thing in things):
        raise InvalidOption("A scene file lists its objects under \"things\", each with its object and colour.")
    if len(things) == 1:
        _refuse_others(data, ("background", "things"))
        return _made(Scene, things[0] | {"background": data.get("background")})
    if len(things) == 2:
        _refuse_others(data, ("background", "relation", "things"))
        first, second = (_made(Thing, thing) for thing in things)
        return PairScene(first=first, second=second, relation=data.get("relation"), background=data.get("background"))  # type: ignore[arg-type]
    raise InvalidOption(f"This scene file names {len(things)} objects; a picture of the toy world holds one or two.")


def _read(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"This is no scene file: it is not JSON ({error}).") from error
    if not isinstance(data, dict):
        raise InvalidOption("A scene file is one JSON object with \"background\" and \"things\".")
    return data


def _made(kind: type, values: dict[str, Any]) -> Any:
    names = [field.name for field in fields(kind)]
    _refuse_others(values, names)
    missing = [name for name in ("object", "colour") if name not in values]
    if missing:
        raise InvalidOption(f"Each object of a scene file needs its {' and '.join(missing)}.")
    return kind(**{name: tuple(value) if name in _PAIRS and isinstance(value, list) else value for name, value in values.items()})


def _refuse_others(values: dict[str, Any], known: Any) -> None:
    others = [name for name in values if name not in known]
    if others:
        raise InvalidOption(f"A scene file has no {others[0]!r} here; what it may hold is {', '.join(known)}.")
