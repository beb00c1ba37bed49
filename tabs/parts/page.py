"""How the page reaches the browser: launch(**PAGE).

Styles and scripts of assets/ui are files of their own, under addresses that change with their content, so a browser
fetches each once; so are the recorded openings. They are relative to the page, and so work behind any root path. The page itself is written once.
"""

import dataclasses
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.sampling.streams import STREAMS
from tabs.parts.calls import Calls
from tabs.parts.live import ROUTE
from tabs.parts.openings import ADDRESS as OPENINGS_ADDRESS
from tabs.parts.openings import OPENINGS
from tabs.parts.theme import CSS, THEME
from tabs.parts.uploads import OwnFiles

__all__ = ["PAGE", "link"]

UI = Path(__file__).parents[2] / "assets" / "ui"
# Below gradio_api, which every proxy that serves Gradio passes on.
ADDRESS = "gradio_api/studio-ui"


class HashedFiles(StaticFiles):
    """Files whose addresses change with their content: they may be kept for good."""

    def file_response(self, *args: Any, **options: Any) -> Any:
        response = super().file_response(*args, **options)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


class WrittenOnce:
    """ASGI middleware that keeps the page as it was first written, for each address it is asked under.

    For every visitor Gradio copies and renders what describes the components, which takes longer with every tab and
    comes out the same. Where visitors sign in the page is theirs, and a query may ask for another: neither is kept.
    """

    # All that Gradio reads to find its own address.
    HEADERS = (b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")
    MAX_PAGES = 16

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.pages = app, dict[Any, list[Message]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _for_everyone(scope):
            return await self.app(scope, receive, send)
        key = (scope["scheme"], scope.get("root_path"), *((name, value) for name, value in scope["headers"] if name in self.HEADERS))
        if key in self.pages:
            for message in self.pages[key]:
                await send(message)
            return
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)
            await send(message)

        await self.app(scope, receive, keep)
        if any(message.get("status") == 200 for message in messages) and len(self.pages) < self.MAX_PAGES:
            self.pages[key] = messages


def _for_everyone(scope: Scope) -> bool:
    if scope["type"] != "http" or (scope["method"], scope["path"], scope["query_string"]) != ("GET", "/", b""):
        return False
    return scope["app"].auth is None and scope["app"].auth_dependency is None


def _head() -> str:
    """What the scripts know of streams, every style sheet, then every script, in the order of their names. Gradio runs them in this order."""
    streams = {name: dataclasses.asdict(info) for name, info in STREAMS.items() if info.view is not None}
    return "\n".join([
        f"<script>window.Studio = Object.assign(window.Studio || {{}}, {{ streams: {json.dumps(streams)} }});</script>",
        *(link(path.name) for path in sorted(UI.glob("*.css"))),
        *(f'<script src="{_address(path)}"></script>' for path in sorted(UI.glob("*.js"))),
    ])


def link(name: str) -> str:
    """The element that fetches a style sheet of assets/ui."""
    return f'<link rel="stylesheet" href="{_address(UI / name)}">'


def _address(path: Path) -> str:
    return f"{ADDRESS}/{path.name}?v={sha256(path.read_bytes()).hexdigest()[:12]}"


PAGE: dict[str, Any] = {
    "theme": THEME, "css": CSS, "head": _head(),
    # Gradio's own record of every call stays off: it would put a second "Runs" beside the tab of that name, keep whole films
    # in the browser, and serve addresses that take tokens. What is to be kept, "Keep it" writes as a file.
    "run_history": False,
    # Its count of calls, and a panel of them, would be there for anybody who asks.
    "enable_monitoring": False,
    "app_kwargs": {
        "routes": [Mount(f"/{ADDRESS}", HashedFiles(directory=UI)), Mount(f"/{OPENINGS_ADDRESS}", HashedFiles(directory=OPENINGS)), ROUTE],
        "middleware": [Middleware(OwnFiles), Middleware(Calls), Middleware(WrittenOnce)],
    },
}
