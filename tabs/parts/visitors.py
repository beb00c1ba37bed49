"""Who a visitor is, and what the server keeps of each beside what the tabs keep: as little as it can."""

from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio import state_holder

__all__ = ["keep_little", "visitor_of", "MAX_VISITORS"]

# Sessions that Gradio remembers at once; the one used longest ago is forgotten first. Anybody may invent names for sessions.
MAX_VISITORS = 1000


def visitor_of(session: str, username: str | None) -> str:
    """Who has places in the queue and turns on the device: the user where one signed in, with all their pages, else the session."""
    return f"user {username}" if username else session


class LeanState(state_holder.SessionState):
    """A session's state without the description of every component and the last value that each was sent.

    Gradio keeps those for deep links, which this page has none of: 0.75 MB and 0.2 s a session, and then whole films.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        # No blocks: nothing to describe.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Nothing is kept of a component."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Nothing is kept of a value."""


def keep_little(app: gr.Blocks, studio: Any) -> None:
    """Sessions of the page cost little, and what one keeps is freed as soon as its page is closed."""
    state_holder.SessionState = LeanState  # type: ignore[misc]

    def on_close(request: gr.Request) -> None:
        studio.kept.close(request.session_hash)

    app.unload(on_close)
