"""Signing in: launch(**signed_in(PAGE, file)). Guesses are slowed down, and the cookie is for this site alone, over TLS where there is TLS.

Gradio hands its `auth` function a name and a password, but not who asks; a middleware notes the address. Gradio sets two
cookies, one of which TLS does not protect: of the two the one that fits the connection is let through.
"""

import getpass
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import anyio
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.errors import InvalidOption, StudioError
from studio.users import Guesses, add_user, password_fits, read_users
from tabs.parts.page import link

__all__ = ["signed_in", "ask_for_user", "USERS_FILE"]

USERS_FILE = Path("users.txt")
# Gradio shows this page without the head of the others, and its words as HTML: the colours that the theme speaks of come with them.
PLAIN = "<style>:root, .dark { --panel-background-fill: transparent !important; } .form { background: transparent !important; border: 0 !important; }</style>"
ABOUT = f"{link('studio.css')}{PLAIN}After five wrong passwords the next try has to wait, twice as long after each."
TOKEN, TOKEN_WITHOUT_TLS = "access-token-", "access-token-unsecure-"
# Gradio's page shows this alone as a refusal.
REFUSED = 400
# One password is judged at a time: each takes 64 MiB and a core for the moment.
AT_ONCE = 1

_address: ContextVar[str] = ContextVar("address", default="")


def signed_in(page: dict[str, Any], users_file: Path | None) -> dict[str, Any]:
    """The arguments of launch, with the signing in of those whom the file names; without a file, the page for everybody.

    Raises InvalidOption.
    """
    if users_file is None:
        return page
    extra = page.get("app_kwargs", {})
    middleware = [Middleware(SignIn), *extra.get("middleware", [])]
    return {**page, "app_kwargs": {**extra, "middleware": middleware}, "auth": judge(read_users(users_file), Guesses()), "auth_message": ABOUT}


def judge(users: dict[str, str], guesses: Guesses) -> Callable[[str, str], Awaitable[bool]]:
    """What Gradio asks whether a name and a password go together."""
    one_at_a_time = anyio.Semaphore(AT_ONCE)

    async def fits(name: str, password: str) -> bool:
        try:
            with guesses.guess(name, _address.get()) as was_right:
                async with one_at_a_time:
                    # In a thread: everybody else's requests go on.
                    right = await anyio.to_thread.run_sync(password_fits, users, name, password)
                if right:
                    was_right()
                return right
        except InvalidOption as error:
            raise HTTPException(REFUSED, str(error)) from None

    return fits


# --- the connection ------------------------------------------------------------------------------------------

class SignIn:
    """ASGI middleware: notes who asks, and mends the cookies of an answer to a sign-in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].rstrip("/").rpartition("/")[2] != "login":
            return await self.app(scope, receive, send)
        _address.set(scope_address(scope))
        tls = over_tls(scope)

        async def mended(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": list(mended_cookies(message["headers"], tls))}
            await send(message)

        await self.app(scope, receive, mended)


def scope_address(scope: Scope) -> str:
    """Whom guesses are counted for; a household's IPv6 addresses are one. Behind a proxy on this machine it is who asked the proxy."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else host


def over_tls(scope: Scope) -> bool:
    """Whether the browser speaks TLS, with the studio or with a proxy before it."""
    said = Headers(scope=scope).get("x-forwarded-proto", "").split(",")[0].strip()
    root = str(getattr(scope.get("app"), "root_path", "") or scope.get("root_path", ""))
    return "https" in (scope.get("scheme"), said) or root.startswith("https://")


def mended_cookies(headers: Iterable[tuple[bytes, bytes]], tls: bool) -> Iterable[tuple[bytes, bytes]]:
    """The headers with the one cookie of a sign-in that fits the connection, kept from scripts and from other sites."""
    for name, value in headers:
        token = _token(value) if name.lower() == b"set-cookie" else None
        if token is None:
            yield name, value
        elif token[0].startswith(TOKEN_WITHOUT_TLS) is not tls:
            yield name, _cookie(*token, tls).encode("latin-1")


def _token(header: bytes) -> tuple[str, str] | None:
    """(name, value) of a cookie that stands for a visitor."""
    try:
        cookies = SimpleCookie(header.decode("latin-1"))
    except CookieError:
        return None
    return next(((name, morsel.value) for name, morsel in cookies.items() if name.startswith(TOKEN)), None)


def _cookie(name: str, value: str, tls: bool) -> str:
    # A Space is shown inside a frame of another site.
    same_site = "None" if tls and "SPACE_ID" in os.environ else "Lax"
    return f"{name}={value}; HttpOnly; Path=/; SameSite={same_site}{'; Secure' if tls else ''}"


# --- from the terminal ---------------------------------------------------------------------------------------

def ask_for_user(name: str, users_file: Path | None) -> None:
    """Ask for a password and write it into the file of users: at a terminal twice and unseen, else the first line that comes in."""
    path = users_file or USERS_FILE
    try:
        is_new = add_user(path, name, _asked(name))
    except StudioError as error:
        raise SystemExit(str(error)) from None
    print(f"{name} {'may sign in now' if is_new else 'has a new password'}: python app.py --auth-file {path}")


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"Password of {name}: ")
    if password != getpass.getpass("Once more: "):
        raise InvalidOption("The two passwords are not the same; nothing was changed.")
    return password
