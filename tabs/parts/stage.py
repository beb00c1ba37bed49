"""What several tabs share: the stage, the picture input, and how a refusal is told."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import gradio as gr

from studio.errors import StudioError

__all__ = [
    "create_stage", "drawn_by", "to_stage", "picture_input", "unchecked", "models_of", "menu_of", "keep_fresh", "said_in_a_sentence", "full", "PRIVATE",
    "CHEAP",
]

# For handlers of the page alone. Gradio shows an error only of what went through its queue, so only those that cannot
# fail and take no time are CHEAP.
PRIVATE: Mapping[str, Any] = MappingProxyType({"api_visibility": "private", "show_progress": "hidden"})
CHEAP: Mapping[str, Any] = MappingProxyType({**PRIVATE, "queue": False})

Control = TypeVar("Control", bound=gr.components.Component)

# The page's scripts may come after its first components, one by one.
ON_LOAD = """
const start = () => {
  const { Studio = {} } = window;
  if (!["chart", "transport", "recorded", "PART"].every((part) => Studio[part])) return setTimeout(start, 20);
  Studio.PART(element, ...Studio.recorded(props, watch), trigger);
};
start();
"""


def drawn_by(part: str, template: str, **options: Any) -> gr.HTML:
    """gr.HTML that Studio.<part>(element, props, watch, trigger) of assets/ui draws.

    The template never changes with the value: Gradio must not draw over what the script draws.
    """
    return gr.HTML(html_template=template, js_on_load=ON_LOAD.replace("PART", part), apply_default_css=False, **options)


def create_stage(elem_id: str, drop_to: str = "", invitation: str = "", value: str = "") -> gr.HTML:
    """A stage; its value is JSON text of tabs.parts.filmstrip's payloads.

    A step of a latent run that is opened in full is asked for by the event `select` with {run, stream, index}; the
    answer is JSON text for the prop `decoded`: that with what tabs.parts.filmstrip.decoded gives, or with a sentence as `error`.

    Args:
        drop_to: CSS selector of what holds the file input that files dropped on the stage go to.
        invitation: what an empty stage says.
        value: what it shows first.
    """
    data = f'data-drop-to="{escape(drop_to)}" data-invitation="{escape(invitation)}"'
    return drawn_by("stage", f'<div class="ds-stage" {data}></div>', elem_id=elem_id, decoded="", value=value)


def to_stage(payload: dict[str, Any]) -> str:
    """The payload as the stage takes it."""
    return json.dumps(payload, separators=(",", ":"), allow_nan=False)


def picture_input(**options: Any) -> gr.Image:
    """gr.Image whose handlers get the path of the file as it was uploaded, so that the studio judges the bytes itself.

    gr.Image alone decodes uploads, whatever memory that takes, and fails on a broken one before the studio can say what to do.
    """
    # Without a mode it does not decode even where Gradio builds it anew, and so without what is set below.
    image = gr.Image(type="filepath", image_mode=None, **options)
    decoded = image.preprocess
    # On the instance, because a subclass makes Gradio write a stub file beside this module.
    image.preprocess = lambda payload: payload.path if payload and payload.path else decoded(payload)  # type: ignore[method-assign]
    return image


def unchecked(control: Control) -> Control:
    """A dropdown or slider whose value reaches the handler as it was sent: the page only offers what is valid, and
    what a program sends is judged by the studio, in its own words. What is typed as the menu has it stands for the menu's entry."""
    control.preprocess = lambda payload: _chosen(control, payload)  # type: ignore[method-assign]
    return control


def _chosen(control: gr.Component, payload: Any) -> Any:
    if isinstance(control, gr.Dropdown) and control.allow_custom_value:
        names = {label: name for label, name in control.choices if isinstance(label, str)}
        if isinstance(payload, list):
            return [names.get(one, one) if isinstance(one, str) else one for one in payload]
        return names.get(payload, payload) if isinstance(payload, str) else payload
    return payload


def models_of(studio: Any, text: bool) -> dict[str, Any]:
    """The studio's models that read a prompt, or those that read none, as they are now."""
    return {name: entry for name, entry in studio.models.items() if entry.text == text}


def menu_of(studio: Any, text: bool) -> list[tuple[str, str]]:
    """Labels and names of those models, for a dropdown; those that read a prompt with the checkpoints in one file of the studio's folders."""
    files = studio.shelf("model") if text else ()
    return [*((entry.label, name) for name, entry in models_of(studio, text).items()), *((f"{Path(file.path).stem} (file)", file.path) for file in files)]


def keep_fresh(menu: gr.Dropdown, studio: Any, text: bool) -> None:
    """Whoever opens this menu of models finds what has come since the page was made, such as a training's result."""
    menu.focus(lambda: gr.update(choices=menu_of(studio, text)), None, menu, **CHEAP)


@contextmanager
def said_in_a_sentence() -> Iterator[None]:
    """What the studio refuses becomes a message of the page, without a traceback; the stage keeps its picture.

    Gradio shows the message only of a handler that went through its queue.
    """
    try:
        yield
    except StudioError as error:
        raise gr.Error(str(error), print_exception=False) from None


def full(outputs: Iterable[Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """A value for every output: one that is left out of a dict is drawn anew by Gradio."""
    return {output: changes.get(output, gr.skip()) for output in outputs}
