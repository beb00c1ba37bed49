"""Mistakes of programs that call: a sentence by every route, nothing in the log; a defect of the studio keeps its traceback."""

import json
import uuid
from itertools import islice
from pathlib import Path

import gradio as gr
import httpx
import pytest
from PIL import Image

from app import create_app
from studio import Studio
from studio.errors import InvalidOption
from tabs.endpoints import endpoint
from tabs.parts.arguments import Upload, conformed, event_value, shown
from tabs.parts.blocks import FAILED, StudioBlocks
from tabs.parts.page import PAGE

JSON = {"Content-Type": "application/json"}
WRONG = {
    "a text": "abc", "a list": ["x"], "an object": {"a": 1}, "300 characters": "x" * 300, "5,000 digits": "ddim" + "9" * 5000, "a number": 7,
    "null": None, "true": True, "infinite": float("inf"), "not a number": float("nan"), "huge": 10**300, "with a fraction": 1.5,
    "a file nobody uploaded": {"path": "/etc/passwd"},
}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    app = create_app(Studio(runs_root=tmp_path_factory.mktemp("runs")))
    app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **PAGE)
    yield app
    app.close()


@pytest.fixture(scope="module")
def http(blocks):
    with httpx.Client(base_url=blocks.local_url, timeout=120) as client:
        yield client


def body(fn, data, **more):
    return json.dumps({"data": data, "fn_index": fn._id, "session_hash": uuid.uuid4().hex, **more}).encode("utf-8", "surrogatepass")


def directly(http, fn, data):
    """(status, words) by the route without a queue; words is None for a result."""
    answer = http.post(f"/gradio_api/run/{fn.api_name}", content=body(fn, data), headers=JSON)
    return answer.status_code, None if answer.status_code == 200 else answer.json()["error"]


def by_the_queue(http, fn, data):
    session = uuid.uuid4().hex
    joined = http.post("/gradio_api/queue/join", content=body(fn, data, session_hash=session), headers=JSON)
    if joined.status_code != 200:
        return joined.status_code, joined.json()["detail"]
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        messages = (json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:"))
        last = next(message for message in messages if message["msg"] == "process_completed")
    return 200, None if last["success"] else last["output"]["error"]


def mistakes(fn):
    names = [block.label for block in fn.inputs]
    good = [block.value for block in fn.inputs]
    yield "none", []
    yield "too few", good[:-1] or [1, 2]
    yield "too many", [*good, 1, 2]
    for i, name in enumerate(names):
        for words, value in WRONG.items():
            yield f"{name}: {words}", [*good[:i], value, *good[i + 1 :]]


def is_sentence(words) -> bool:
    return isinstance(words, str) and " " in words and words.rstrip()[-1] in ".?!)" and "Traceback" not in words


NAMES = ("schedule", "noise_image", "sample", "train", "run_status", "run_stop", "run_resume")
# What the studio takes although it stands in the list: a text that may be any, and null, which is the default.
TAKEN = ("null", "a text", "300 characters", "true", "a number")


@pytest.mark.parametrize("route", [directly, by_the_queue])
@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_gets_a_sentence_and_leaves_nothing_in_the_log(blocks, http, route, name, capfd):
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == name)
    # Past the queue every mistake; by the queue, which takes longer, every third, another one for each argument.
    for words, data in islice(mistakes(fn), 0, None, 3 if route is by_the_queue else 1):
        if name == "sample" and words.endswith((*TAKEN, "with a fraction")):
            continue  # drawing takes time, and what is drawn is tested elsewhere
        status, said = route(http, fn, data)
        assert said is not None or words.endswith(TAKEN), f"{words} was taken"
        assert said is None or is_sentence(said), f"{words}: {said}"
        assert status < 500, f"{words}: {status} {said}"
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out


def test_private_handlers_refuse_values_of_another_kind_quietly(blocks, http, capfd):
    for fn in [fn for fn in blocks.fns.values() if fn.api_visibility == "private" and fn.fn and fn.inputs and not fn.is_cancel_function]:
        for value in ({"a": 1}, [["x"]], 10**300, "x" * 100_001):
            status, said = directly(http, fn, [value] * len(fn.inputs))
            # Where all that is asked for lies in the session, nothing that is sent is looked at.
            assert status == 200 or status < 500 and is_sentence(said), f"{fn.name}: {status} {said}"
        assert directly(http, fn, [])[0] == 422
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize(("path", "content", "words"), [
    ("run/schedule", b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ("run/schedule", b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}", "nested"),
    ("call/schedule", b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ("queue/join", b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    ("run/schedule", b"not json", "not JSON"),
    ("run/schedule", b"[1, 2]", "must be an object"),
    ("run/schedule", b"{}", "must say data: a list of values"),
    ("run/schedule", b'{"data": "linear"}', "data of a call must be a list of values, but it is 'linear'"),
    ("run/schedule", b'{"data": [NaN, 1, false, ""]}', "finite"),
    ("run/schedule", b'{"data": [' + b"9" * 5000 + b"]}", "finite"),
    ("run/scedule", b'{"data": []}', "did you mean '/schedule'"),
    ("run/schedule", b'{"data": [], "session_hash": 7}', "session_hash of a call must be a text"),
    ("run/schedule", b'{"data": [], "session_hash": "' + b"x" * 300 + b'"}', "1 to 200 characters"),
    ("run/schedule", b'{"data": [], "session_hash": ""}', "1 to 200 characters"),
    ("call/schedule", b'{"data": [], "session_hash": ""}', "1 to 200 characters"),
    ("run/schedule", b'{"data": ["\xff\xfe"]}', "not JSON"),
    ("reset", b"\xff\xfe", "not JSON"),
    ("reset", b'{"event_id": NaN}', "not JSON"),
    ("reset", b"{}", "must say event_id: a text"),
    ("run/schedule", b'{"data": [], "fn_index": 1}', "no handler 1 "),
    ("run/schedule", b'{"data": [], "fn_index": 99999}', "no handler 99999"),
    ("run/schedule", b'{"data": ["' + b"x" * 5_000_000 + b'"]}', "at most 4 MiB"),
    ("call/scedule", b'{"data": []}', "did you mean '/schedule'"),
    ("call/v2/scedule", b"{}", "did you mean '/schedule'"),
    ("call/v2/schedule", b'{"shedule": "linear"}', "did you mean 'schedule'"),
    ("call/v2/run_status", b"{}", "/run_status needs name as well"),
    ("queue/join", b'{"data": [], "fn_index": 99999, "session_hash": "a"}', "no handler 99999"),
    ("queue/join", b'{"data": [], "fn_index": 0}', "session_hash"),
    ("queue/join", b'{"data": [], "session_hash": "a"}', "fn_index"),
    ("cancel", b'{"session_hash": "a"}', "must say fn_index"),
    ("component_server", b'{"data": 1, "component_id": 1, "fn_name": "x", "session_hash": "a"}', "functions of its own"),
])
def test_calls_that_cannot_be_read_get_a_sentence(http, path, content, words, capfd):
    answer = http.post(f"/gradio_api/{path}", content=content, headers=JSON)
    assert 400 <= answer.status_code < 500 and words in answer.json()["detail"] and is_sentence(answer.json()["detail"])
    assert answer.json()["error"] == answer.json()["detail"]
    assert "Traceback" not in capfd.readouterr().err


def test_who_listens_for_what_is_not_known_is_told_so(http, capfd):
    heard = http.get("/gradio_api/queue/data", params={"session_hash": "nobody"}).text
    assert json.loads(heard.removeprefix("data: "))["session_not_found"] and "join the queue" in heard
    assert "join the queue" in http.get("/gradio_api/call/schedule/no-such-event").text
    assert "Traceback" not in capfd.readouterr().err


def test_by_name_a_call_may_leave_out_what_has_a_default(http):
    event = http.post("/gradio_api/call/v2/schedule", json={"schedule": "cosine", "num_timesteps": 8}).json()["event_id"]
    heard = http.get(f"/gradio_api/call/schedule/{event}").text
    assert "event: complete" in heard and '"num_timesteps": 8' in heard


def test_what_draws_in_steps_says_by_which_route_it_is_called(blocks, http):
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == "sample")
    status, said = directly(http, fn, [block.value for block in fn.inputs])
    assert status == 422 and "/gradio_api/call/sample" in said


def test_every_argument_is_named_and_has_its_kind_in_the_description(http):
    described = http.get("/gradio_api/info").json()["named_endpoints"]
    assert list(described) == [f"/{name}" for name in (*NAMES[:3], "annotate", "controlnet", "rank_next", "rank_submit", "rank_export", "score", *NAMES[3:])]
    for entry in described.values():
        assert all(parameter["label"] == parameter["parameter_name"] and parameter["type"] for parameter in entry["parameters"])
    kinds = {parameter["parameter_name"]: parameter["type"].get("type") for parameter in described["/train"]["parameters"]}
    assert (kinds["steps"], kinds["lr"], kinds["flip"], kinds["base"], kinds["pictures"]) == ("integer", "number", "boolean", "string", "array")


def test_no_part_of_the_page_is_there_for_programs_alone(blocks):
    hidden = [block for block in blocks.blocks.values() if isinstance(block, gr.Group) and block.visible is False]
    assert not hidden


# --- defects -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def broken():
    def divide(by: int) -> int:
        return 1 // by

    def refuse(by: int) -> int:
        raise InvalidOption(f"by must not be {by}.")

    def told(event: gr.EventData) -> str:
        return event_value(event, index=int)["index"]

    with StudioBlocks() as blocks:
        endpoint(divide, "divide", queue=False)
        endpoint(refuse, "refuse", queue=False)
        gr.Button().click(told, None, gr.Textbox(), api_visibility="private", queue=False)
    blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", app_kwargs={"middleware": PAGE["app_kwargs"]["middleware"]})
    with httpx.Client(base_url=blocks.local_url, timeout=60) as client:
        yield blocks, client
    blocks.close()


def test_a_defect_keeps_its_traceback_and_a_refusal_has_none(broken, capfd):
    blocks, http = broken
    by_name = {fn.api_name: fn for fn in blocks.fns.values()}
    assert directly(http, by_name["refuse"], [3]) == (422, "by must not be 3.")
    assert "Traceback" not in capfd.readouterr().err
    assert directly(http, by_name["divide"], [0]) == (500, FAILED)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert directly(http, by_name["divide"], [2.0]) == (200, None)


@pytest.mark.parametrize("said", [None, 7, [], {}, {"index": "x"}, {"index": None}])
def test_an_event_that_says_nonsense_is_refused(broken, said, capfd):
    blocks, http = broken
    fn = next(fn for fn in blocks.fns.values() if fn.name == "told")
    answer = http.post(f"/gradio_api/run/{fn.api_name}", content=body(fn, [], event_data=said), headers=JSON)
    assert answer.status_code == 422 and "index" in answer.json()["error"] and "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("value", "hint", "taken"), [
    (3, int, 3), (3.0, int, 3), (3, float, 3), (None, int | None, None), ("x", str, "x"), (["a"], list[str], ["a"]), ([1, None], list[int | None], [1, None]),
])
def test_values_of_the_kind_are_taken(value, hint, taken):
    assert conformed("x", value, hint) == taken


@pytest.mark.parametrize(("value", "hint", "words"), [
    (True, int, "a whole number, but it is True"), (1.5, int, "1.5"), (2**63, int, "a whole number"), (float("nan"), float, "nan"),
    ("3", float, "a number, but it is '3'"),
    (None, int, "None"), ([1], list[str], "a list, each of it a text"), ("x" * 100_001, str, "at most 100,000"),
    ("x", Upload, "uploaded"),
])
def test_values_of_another_kind_are_refused_with_the_value(value, hint, words):
    with pytest.raises(InvalidOption, match=f"^x must be .*{words}"):
        conformed("x", value, hint)


def test_what_is_shown_of_a_value_is_short():
    assert len(shown("x" * 10_000)) < 70 and len(shown(10**300)) < 70 and shown([1] * 1000) == "a list of 1000"


def test_a_picture_goes_there_and_back_as_an_upload(blocks, http, tmp_path):
    Image.new("RGB", (96, 64), "white").save(tmp_path / "white.png")
    path = http.post("/gradio_api/upload", files={"files": ("white.png", (tmp_path / "white.png").read_bytes())}).json()[0]
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == "noise_image")
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "linear", 100, 3, 0]
    picture, numbers = http.post("/gradio_api/run/noise_image", content=body(fn, data), headers=JSON).json()["data"]
    assert numbers["timestep"] == 3 and Image.open(Path(picture["path"])).size == (96, 64)


@pytest.mark.parametrize(("name", "values"), [("on_send", ["toybox-sd", "toybox", None, None, 0]), ("on_preset", [None]), ("on_preset", ["no such preset"])])
def test_parts_of_the_page_called_with_nothing_say_so_and_log_nothing(blocks, http, capsys, name, values):
    fn = next(fn for fn in blocks.fns.values() if fn.api_name == name)
    _, words = by_the_queue(http, fn, values)
    assert is_sentence(words) and words != FAILED
    assert "Traceback" not in capsys.readouterr().err
