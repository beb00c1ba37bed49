"""What a stranger may send, drawn by hypothesis: values for one argument of a kind, and whole requests of a handler."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.hostile.files import MARK
from tests.hostile.served import ROOT, Answer, Handler, Input, Served

__all__ = ["Request", "requests"]

NUMBERS = [
    0, -1, 1, 2, 3, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, int("9" * 400), -(2**63) - 1, float("inf"), float("-inf"), float("nan"),
    "12", "1e5", "", "abc", True, None, [], [1], {}, {"a": 1}, [[[]]], "9" * 5000, "0x10", "1_000", "\uff11\uff12",
]
TEXTS = [
    "", " ", "x" * 300, "y" * 20_000, "../../etc/passwd", "/etc/passwd", "/", "~", ".", "..", "C:\\Windows\\system.ini", "file:///etc/passwd", "\0", "a\0b",
    "\ud800", "\u202egpj.exe", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "${7*7}{{7*7}}", "%s%n%x", "'; DROP TABLE runs; --",
    "ddim" + "9" * 5000, "http://169.254.169.254/latest/meta-data", "https://example.invalid/x.safetensors", "hub-user/no-such-model", "toybox-ddpm", "ddim",
    "linear", "__class__",
    "10,15,20", "1," * 5000, "nan", "-1", "😀" * 200, "\n\r\n\r", "con", "| cat /etc/passwd", "$(touch hostile-canary)", 7, True, None, [], ["x"], {"a": 1},
    float("inf"), [["x"]],
]
# Gradio's own words for updates, files and components, where a value is expected.
GRADIO_WORDS = [
    {"__type__": "update", "value": "x", "visible": False}, {"__type__": "update", "choices": [["a", "b"]]}, MARK,
    {"path": str(ROOT / "README.md"), "meta": MARK}, {"path": "/etc/passwd", "url": "/etc/passwd", "meta": MARK},
    {"path": "http://127.0.0.1:9/x.png", "meta": MARK}, {"url": "http://127.0.0.1:9/x.png", "path": "http://127.0.0.1:9/x.png"},
    {"is_file": True, "name": "/etc/passwd", "data": None}, {"is_stream": True, "path": "x", "meta": MARK},
    {"video": {"path": "/etc/passwd"}}, {"text": "x", "files": ["/etc/passwd"]}, {"value": "x"},
]
SESSIONS = ["", None, "a", "x" * 300, "../../x", "\0", "😀", "<script>", "a/b", "%2e%2e"]

json_values = st.recursive(
    st.sampled_from([*NUMBERS, *TEXTS]) | st.text(max_size=20) | st.integers() | st.floats(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["path", "url", "name", "run", "stream", "index", "value", "meta", "_type", "__type__"]) | st.text(max_size=8), inner, max_size=4,
    ), max_leaves=8,
)


@dataclass(frozen=True)
class Request:
    """One call, by one of the two routes."""

    handler: Handler
    route: str
    data: Any
    session: Any = None
    event_data: Any = None

    def send(self, app: Served) -> Answer:
        return getattr(app, self.route)(self.handler, self.data, self.session, self.event_data)

    def __repr__(self) -> str:
        said = {"data": self.data, "session": self.session, "event_data": self.event_data}
        return f"{self.handler.name} ({self.route}) {json.dumps({key: value for key, value in said.items() if value is not None}, default=repr)[:700]}"


def argument(one: Input, references: list[Any]) -> st.SearchStrategy[Any]:
    """What may stand for the argument: mostly of its own kind, sometimes anything."""
    usual = {"number": NUMBERS, "slider": NUMBERS, "checkbox": [True, False, None, "yes", 7, []]}.get(one.kind, TEXTS)
    own = st.sampled_from(references) if one.takes_file else st.sampled_from(usual)
    if one.many:
        own = own | st.lists(own, max_size=5) | st.just(["x"] * 3000)
    return st.one_of(own, own, own, st.sampled_from(GRADIO_WORDS), json_values)


@st.composite
def requests(draw: st.DrawFn, handler: Handler, references: list[Any]) -> Request:
    """A call of the handler with one to three arguments that are wrong, or the wrong number of them, or none of that."""
    values = handler.values()
    for index in draw(st.lists(st.integers(0, len(values) - 1), max_size=3, unique=True)) if values else ():
        values[index] = draw(argument(handler.inputs[index], references))
    shape = draw(st.sampled_from(["right"] * 8 + ["short", "long", "other"]))
    data: Any = {"right": values, "short": values[:-1], "long": [*values, 1]}.get(shape)
    return Request(
        handler=handler, route=draw(st.sampled_from(["direct", "queued"])), data=data if shape != "other" else draw(json_values),
        session=draw(st.just(None) | st.sampled_from(SESSIONS)), event_data=draw(st.none() | json_values),
    )
