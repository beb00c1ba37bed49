"""What a panel asks for when it is first shown, and while it is."""

import gradio as gr
import pytest

from studio.errors import InvalidOption
from tabs.parts.blocks import StudioBlocks
from tabs.parts.showing import run_timers_of, tick_while_shown, when_first_shown


def page_of_two():
    """A page of two panels, the second with an area of its own; both ask for something when they are first shown, and tick."""
    with StudioBlocks(analytics_enabled=False) as demo:
        with gr.Tabs() as tabs:
            with gr.Tab("First"):
                first = gr.Textbox("before", elem_id="first")
                when_first_shown(lambda: "asked", None, first)
                tick_while_shown(1.0, lambda text: text, [first], [first])
            with gr.Tab("Second"), gr.Tabs(), gr.Tab("Area"):
                number, text = gr.Number(3), gr.Textbox()
                when_first_shown(lambda values: {text: f"{values[number]:g} asked"}, {number}, [text])
                tick_while_shown(1.0, lambda text: text, [text], [text])
        run_timers_of(tabs)
    return demo, first, number, text


def say(word: str = "") -> str:
    """An endpoint."""
    return word


def of_event(demo, kind, name):
    """The handlers of an event of the parts of that kind."""
    return [fn for fn in demo.fns.values() for part, event in fn.targets if event == name and isinstance(demo.blocks.get(part), kind)]


def test_a_panel_asks_once_when_its_own_tab_of_the_page_is_selected():
    demo, first, number, text = page_of_two()
    asked = of_event(demo, gr.Tab, "select")
    assert [demo.blocks[fn.targets[0][0]].label for fn in asked] == ["First", "Second"]
    assert not [fn for fn in demo.fns.values() for _, event in fn.targets if event == "load"]
    of_first, of_second = (fn.fn for fn in asked)
    seen = next(part for part in asked[0].inputs if isinstance(part, gr.State))
    assert of_first({seen: False}) == {first: "asked", seen: True}
    assert of_first({seen: True}) == gr.skip()
    seen = next(part for part in asked[1].inputs if isinstance(part, gr.State))
    assert of_second({seen: False, number: 5.0}) == {text: "5 asked", seen: True}


def test_timers_run_for_the_selected_panel_alone():
    demo, *_ = page_of_two()
    timers = [block for block in demo.blocks.values() if isinstance(block, gr.Timer)]
    assert [timer.active for timer in timers] == [False, False]
    [select] = of_event(demo, gr.Tabs, "select")
    for label, expected in (("First", [True, False]), ("Second", [False, True]), ("Elsewhere", [False, False])):
        selected = gr.EventData(None, {"index": 0, "value": label})
        changes = select.fn(selected)
        assert [changes[timer].active for timer in timers] == expected
    with pytest.raises(InvalidOption, match="must say value"):
        select.fn(gr.EventData(None, None))
    assert select.outputs == timers


def test_what_is_in_no_tab_is_shown_with_its_page():
    with StudioBlocks(analytics_enabled=False) as demo:
        text = gr.Textbox()
        when_first_shown(lambda: "asked", None, text)
        tick_while_shown(1.0, lambda said: said, [text], [text])
    assert [fn.fn() for fn in demo.fns.values() if any(event == "load" for _, event in fn.targets)] == ["asked"]
    assert all(block.active for block in demo.blocks.values() if isinstance(block, gr.Timer))


def test_the_page_is_spared_what_it_has_no_use_for_and_programs_are_not():
    with StudioBlocks(analytics_enabled=False) as demo:
        text = gr.Textbox()
        text.change(lambda said: said, text, text, show_progress="hidden", api_visibility="private")
        text.submit(lambda said: said, text, text, show_progress="minimal", show_progress_on=text, api_visibility="private")
        gr.api(say)
    config = demo.get_config_file()
    described = {part["id"]: part["type"] for part in config["components"]}
    assert "api" in described.values() and "api" not in {described[part] for part in config["page"][""]["components"]}
    assert [described[part["id"]] for part in config["page"][""]["layout"]["children"]] == ["form"]
    assert config["page"][""]["dependencies"] == [event["id"] for event in config["dependencies"]]
    assert [event["show_progress_on"] for event in config["dependencies"]][:2] == [[], [text._id]]
    assert list(demo.get_api_info()["named_endpoints"]) == ["/say"]
