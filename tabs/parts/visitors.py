"""Who a visitor is, and what the server keeps of each beside what the tabs keep: as little as it can."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import blocks, route_utils, state_holder

__all__ = ["keep_little", "visitor_of", "asker_of", "Asker", "NOBODY", "MAX_VISITORS"]

# Sessions that Gradio remembers at once; the one used longest ago is forgotten first. Anybody may invent names for sessions.
MAX_VISITORS = 1000


def visitor_of(session: str, username: str | None) -> str:
    """Who has places in the queue and turns on the device: the user where one signed in, with all their pages, else the session."""
    return f"user {username}" if username else session


@dataclass(frozen=True, kw_only=True)
class Asker:
    """Who asks for the device. visitor: among whom it is shared. page: the session, whose turns end when it is closed."""

    visitor: str = ""
    page: str = ""


# In particular.
NOBODY = Asker()


def asker_of(request: gr.Request | None) -> Asker:
    """Who made the request; nobody in particular where there is none."""
    page = getattr(request, "session_hash", None) or ""
    return Asker(visitor=visitor_of(page, getattr(request, "username", None)), page=page)


class LeanState(state_holder.SessionState):
    """A session's state without the description of every component and the last value that each was sent.

    Gradio keeps those for deep links, which this page has none of: 0.75 MB and 0.2 s a session, and then whole films.
    """

    def __init__(self, app: gr.Blocks) -> None:
        # No blocks: nothing to describe.
        super().__init__(SimpleNamespace(default_config=app.default_config, blocks={}))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Nothing is kept of a component."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing is kept of a value."""


def keep_little(app: Any, studio: Any) -> None:
    """Sessions of the page cost little; what one keeps is freed, and what the device does for it ends, as soon as its page is closed.

    app: a tabs.parts.blocks.StudioBlocks.
    """
    # Everywhere that one is made: a call without a session has one of its own.
    for module in (state_holder, route_utils, blocks):
        module.SessionState = LeanState  # type: ignore[attr-defined]

    def on_close(request: gr.Request) -> None:
        studio.kept.close(request.session_hash)
        studio.device.forget(request.session_hash)

    app.unload(on_close)
    app.on_gone = studio.device.forget
