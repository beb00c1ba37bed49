"""What a panel does only while it is looked at: a page is up sooner the less the panels behind the first one ask for."""

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.context import Context

from tabs.parts.arguments import event_value
from tabs.parts.stage import CHEAP

__all__ = ["run_timers_of", "tick_while_shown", "when_first_shown"]


def when_first_shown(function: Callable[..., Any], inputs: set[Any] | None, outputs: Iterable[Any] | Any, **options: Any) -> Any:
    """Call the function once for each page: when the panel that is being written is first selected.

    A panel that is in no tab is shown with the page.

    Args:
        function: takes nothing, or the values of `inputs` by component; gives a value, or a dict of them by component.
        inputs: as of an event listener; None for none.
        outputs: a component, or several of which each is a key of the dict.
        options: more of the event listener.

    Returns:
        The event.
    """
    tab = outermost_tab(Context.block)
    if tab is None:
        return gr.on(None, function, inputs, outputs, **options)
    seen = gr.State(False)
    single = isinstance(outputs, Block)
    targets = [outputs] if isinstance(outputs, Block) else list(outputs)

    def once(values: dict[Any, Any]) -> Any:
        if values[seen]:
            return gr.skip()
        changes = function() if inputs is None else function(values)
        return {**({targets[0]: changes} if single else changes), seen: True}

    once.__name__ = getattr(function, "__name__", once.__name__)
    return tab.select(once, {seen, *(inputs or ())}, [*targets, seen], **options)


def tick_while_shown(seconds: float, function: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Call the function every so many seconds, while the panel that is being written is the selected one (`run_timers_of` its tabs)."""
    gr.Timer(seconds, active=outermost_tab(Context.block) is None).tick(function, inputs, outputs, **CHEAP)


def run_timers_of(tabs: gr.Tabs) -> None:
    """Of the timers in the panels of a page, those of the selected panel run. To be called when all panels are written."""
    assert Context.root_block is not None
    panels = {timer: tab.label for timer in Context.root_block.blocks.values() if isinstance(timer, gr.Timer) and (tab := outermost_tab(timer.parent))}

    def on_select(selected: gr.EventData) -> dict[Any, Any]:
        shown = event_value(selected, value=str)["value"]
        return {timer: gr.Timer(active=label == shown) for timer, label in panels.items()}

    if panels:
        tabs.select(on_select, None, list(panels), **CHEAP)


def outermost_tab(block: Any) -> gr.Tab | None:
    """The tab of the page that a block lies in; None where it lies in none."""
    found = None
    while block is not None:
        found = block if isinstance(block, gr.Tab) else found
        block = block.parent
    return found
