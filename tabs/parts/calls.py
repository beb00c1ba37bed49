"""Calls of programs as they arrive: what cannot be read, or asks for what is not there, is answered in a sentence.

ASGI middleware before Gradio's own routes, which answer such calls with a 500 and a traceback. Whether the values of a
call are right is for tabs.parts.arguments to say, by whichever route they come.
"""

import json
from collections.abc import Callable
from typing import Any

import orjson
from gradio.block_function import BlockFunction
from gradio.data_classes import CancelBody, PredictBody, ResetBody, SimplePredictBody
from pydantic import BaseModel, ValidationError
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.errors import UnknownName
from tabs.parts.arguments import parameters_of, shown

__all__ = ["Calls", "mark_refused"]

API = "/gradio_api/"
MAX_BYTES = 4 * 2**20
MAX_DEPTH = 16
MAX_NAME = 200
REFUSED = 422
NOBODY = "Nothing is under way for this session: join the queue first."
# What each field of a call must be.
FIELDS = {
    "data": "a list of values", "session_hash": "a text", "fn_index": "a whole number", "trigger_id": "a whole number", "event_id": "a text",
    "simple_format": "true or false", "batched": "true or false", "oauth_token": "a text",
}


class Refusal(Exception):
    """A call that goes no further. status: of HTTP."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def mark_refused(request: Any) -> None:
    """The call that this request made was the caller's mistake: its answer is no failure of the server."""
    for one in request if isinstance(request, list) else [request]:
        if (inner := getattr(one, "request", None)) is not None:
            inner.state.refused = True


class Calls:
    """ASGI middleware: calls are read and judged before Gradio sees them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or API not in scope["path"]:
            return await self.app(scope, receive, send)
        where = scope["path"].partition(API)[2].strip("/").split("/")
        try:
            if scope["method"] == "GET" and (nothing := nothing_to_hear(scope, where)):
                return await nothing(scope, receive, send)
            if scope["method"] == "POST" and where[0] in ROUTES:
                body = await read(receive)
                ROUTES[where[0]](scope["app"].get_blocks(), where, parsed(body))
                receive = replayed(body, receive)
        except Refusal as refusal:
            return await said(refusal)(scope, receive, send)
        await self.app(scope, receive, as_refused(scope, send))


def said(refusal: Refusal) -> Response:
    """The sentence under both names that clients look for it."""
    return JSONResponse({"detail": str(refusal), "error": str(refusal)}, refusal.status)


def as_refused(scope: Scope, send: Send) -> Send:
    """Gradio answers every error by 500; what was marked as the caller's mistake is none of the server."""
    state = scope.setdefault("state", {})

    async def answered(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 500 and state.get("refused"):
            message = {**message, "status": REFUSED}
        await send(message)

    return answered


# --- reading -------------------------------------------------------------------------------------------------

async def read(receive: Receive) -> bytes:
    """The whole body, as long as it is short enough for a call: files are uploaded by a route of their own."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BYTES:
            raise Refusal(413, f"A call may have at most {MAX_BYTES // 2**20} MiB; upload files first, and send their paths.")
    return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """The body that was read already, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def parsed(body: bytes) -> dict[str, Any]:
    try:
        call = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The call is not JSON that can be read ({error}); numbers must be finite, and nothing nested deeply.") from None
    if not isinstance(call, dict):
        raise Refusal(400, f'The call must be an object such as {{"data": [...]}}, but it is {shown(call)}.')
    if depth_of(call) > MAX_DEPTH:
        raise Refusal(400, f"The call is nested more than {MAX_DEPTH} levels deep; no endpoint takes anything like it.")
    return call


def depth_of(value: Any) -> int:
    """How many lists and objects lie in one another, up to one more than is allowed."""
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        level = [inner for one in level if isinstance(one, list | dict) for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1
    return depth - 1 if depth <= MAX_DEPTH else depth


def as_model(model: type[BaseModel], call: dict[str, Any]) -> Any:
    try:
        return model.model_validate(call)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "missing":
            raise Refusal(REFUSED, f"The call must say {name}: {FIELDS.get(name, 'a value')}.") from None
        raise Refusal(REFUSED, f"{name} of a call must be {FIELDS.get(name, 'of another kind')}, but it is {shown(first['input'])}.") from None


# --- what is asked for ---------------------------------------------------------------------------------------

def check_direct(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/run/NAME, /api/NAME"""
    body = as_model(PredictBody, call)
    check_session(body.session_hash)
    handler_of(blocks, "/".join(where[1:]) if body.fn_index is None else None, body.fn_index)


def check_named(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/call/NAME with a list of values, /call/v2/NAME with values by name"""
    if where[1:2] == ["v2"] and len(where) > 2:
        return check_by_name(handler_of(blocks, "/".join(where[2:])), call)
    check_session(as_model(SimplePredictBody, call).session_hash)
    handler_of(blocks, "/".join(where[1:]))


def check_by_name(fn: BlockFunction, call: dict[str, Any]) -> None:
    names, _ = parameters_of(fn)
    if unknown := sorted(set(call) - {*names, "oauth_token"}):
        raise Refusal(REFUSED, str(UnknownName.of(f"argument of /{fn.api_name}", unknown[0][:MAX_NAME], names)))
    required = [name for name, block in zip(names, fn.inputs) if getattr(block, "value", None) is None and not takes_none(fn, name)]
    if missing := [name for name in required if name not in call]:
        raise Refusal(REFUSED, f"/{fn.api_name} needs {', '.join(missing)} as well.")


def takes_none(fn: BlockFunction, name: str) -> bool:
    from inspect import signature

    parameter = signature(fn.fn).parameters.get(name) if fn.fn else None
    return parameter is not None and parameter.default is None


def check_queue(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/queue/join"""
    if where[1:] != ["join"]:
        return
    body = as_model(PredictBody, call)
    check_session(body.session_hash)
    if not body.session_hash:
        raise Refusal(400, "The call must say session_hash: any text of your own, under which you listen at /gradio_api/queue/data.")
    if body.fn_index is None:
        raise Refusal(400, "The call must say fn_index, as /config lists it; by name call /gradio_api/call/NAME.")
    handler_of(blocks, None, body.fn_index)


def check_cancel(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/cancel"""
    as_model(CancelBody, call)


def check_reset(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/reset, which old clients send beside /cancel"""
    as_model(ResetBody, call)


def check_part(blocks: Any, where: list[str], call: dict[str, Any]) -> None:
    """/component_server, which calls functions of components: there are none here."""
    raise Refusal(404, "No part of this page has functions of its own to call.")


ROUTES: dict[str, Callable[[Any, list[str], dict[str, Any]], None]] = {
    "run": check_direct, "api": check_direct, "call": check_named, "queue": check_queue, "cancel": check_cancel, "reset": check_reset,
    "component_server": check_part,
}


def check_session(name: str | None) -> None:
    if name is not None and not 1 <= len(name) <= MAX_NAME:
        raise Refusal(REFUSED, f"session_hash must be a text of 1 to {MAX_NAME} characters, but it has {len(name)}.")


def handler_of(blocks: Any, name: str | None, index: int | None = None) -> BlockFunction:
    """The handler by its name, or else by its index in /config. Raises Refusal where there is none."""
    if name is None:
        # Some handlers are JavaScript alone: there is nothing of them to call.
        if index in blocks.fns and blocks.fns[index].fn is not None:
            return blocks.fns[index]
        raise Refusal(404, f"There is no handler {shown(index)} here; if the page is an old one, load it again.")
    for fn in blocks.fns.values():
        if fn.api_name == name and fn.fn is not None:
            return fn
    public = [f"/{fn.api_name}" for fn in blocks.fns.values() if fn.api_visibility == "public" and fn.api_name]
    raise Refusal(404, str(UnknownName.of("endpoint", f"/{name[:MAX_NAME]}", public)))


def nothing_to_hear(scope: Scope, where: list[str]) -> Response | None:
    """The answer to whoever listens for a session or an event that is not known; None for all others."""
    queue = scope["app"].get_blocks()._queue
    if where == ["queue", "data"]:
        session = QueryParams(scope["query_string"]).get("session_hash")
        if session is None or session in queue.pending_messages_per_session:
            return None
        message = {"msg": "unexpected_error", "message": NOBODY, "success": False, "session_not_found": True}
        return Response(f"data: {json.dumps(message)}\n\n", media_type="text/event-stream")
    if where[0] == "call" and len(where) > 2 and not is_known(queue, where[-1]):
        return Response(f"event: error\ndata: {json.dumps(NOBODY)}\n\n", media_type="text/event-stream")
    return None


def is_known(queue: Any, event: str) -> bool:
    """Whether an event waits, works, or has an answer that nobody fetched yet."""
    if event in queue.event_ids_to_events or event in queue.pending_messages_per_session:
        return True
    return any(event in ids for ids in queue.pending_event_ids_session.values())
