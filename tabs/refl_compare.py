"""The area of the ReFL tab for what a tuning made: two checkpoints side by side, one put into the menus, two ranked blind."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from threading import Event
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.models.device import Work
from studio.rankings.agreement import read_table
from studio.rankings.duel import Duel, duel
from studio.runs import RunView
from studio.runs.tuned import BASE, RESULT, blind_tasks, collection_of, compared, model_of, models_of, promote
from tabs.parts.api import TuningApi
from tabs.parts.following import POLL_S, found, required
from tabs.parts.openings import Opening, recorded
from tabs.parts.panel import Change, Changes, RunPanel, Values
from tabs.parts.scorers import menu_of_scorers
from tabs.parts.sheets import create_sheet, sheet_value, sheets_shown
from tabs.parts.showing import tick_while_shown
from tabs.parts.stage import CHEAP, PRIVATE, full, said_in_a_sentence, unchecked
from tabs.parts.turns import shared
from tabs.parts.visitors import asker_of

__all__ = ["create_compare", "duel_line", "record"]

ABOUT = "Same prompts, same seeds, two sets of weights. The prompts are those that were held out, unless others are written."
BLIND = (
    "Neither the names nor the order say which picture is whose. The comparisons go into the ranking database as a collection; rank them in the tab Rank."
)


RECORDED_SCORERS = ("toybox-reward", "toybox-examiner")


def record(studio: TuningApi, view: RunView) -> Opening:
    """What the area opens with: the base and the result of a run at the same seeds, with scores."""
    *_, last = compared(studio, view, BASE, RESULT, RECORDED_SCORERS)
    sheet = replace(last, title=f"A recorded example: {last.title}")
    return Opening(made_with={"base": view.options["base"], "rewards": view.options["rewards"]}, places={"sheet": sheet_value(sheet)})


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two that are compared, keys of studio.runs.tuned.models_of."""

    run: gr.Dropdown
    first: gr.Dropdown
    second: gr.Dropdown

    @property
    def chosen(self) -> list[Any]:
        return [self.run, self.first, self.second]


def create_compare(studio: TuningApi, run: gr.Dropdown) -> None:
    """The components, handlers and wiring of the area.

    Args:
        studio: draws, scores and ranks.
        run: the menu of tunings, whose chosen one is compared.
    """
    with gr.Accordion("Compare, promote, rank blind", open=True, elem_id="refl-compare"):
        gr.Markdown(ABOUT, elem_classes="ds-about")
        with gr.Row():
            first = unchecked(gr.Dropdown([], label="This", elem_id="refl-first", scale=1))
            second = unchecked(gr.Dropdown([], label="Against", elem_id="refl-second", scale=1))
        pair = Pair(run=run, first=first, second=second)
        create_side_by_side(studio, pair)
        create_promotion(studio, pair)
        create_blind(studio, pair)
    wire_menus(studio, pair)


def create_side_by_side(studio: TuningApi, pair: Pair) -> None:
    """Both drawn from the same seeds, with scores."""
    panel = RunPanel(studio, "refl-draw", "Draw both")
    scorers = unchecked(gr.Dropdown(menu_of_scorers(studio), value=[], multiselect=True, label="Scored by", allow_custom_value=True, elem_id="refl-scorers"))
    with gr.Row():
        prompts = gr.Textbox("", label="Prompts, one a line", lines=2, placeholder="the first held-out prompts of the run", elem_id="refl-prompts", scale=2)
        seeds = unchecked(gr.Slider(1, 8, 4, step=1, label="Seeds", elem_id="refl-seeds", scale=1))
    panel.create_press()
    panel.places["sheet"] = create_sheet("refl-sheet", recorded("tuned", "sheet"))

    def changes(values: Values, switch: Event) -> Iterator[Change]:
        view = studio.runs.read(required(values[pair.run]))
        words = [line.strip() for line in (values[prompts] or "").splitlines() if line.strip()]
        drawing = compared(
            studio, view, values[pair.first] or "", values[pair.second] or "", values[scorers] or [], prompts=words, seeds=values[seeds], stop=switch,
        )
        return sheets_shown(shared(studio.device, values[panel.session].asker, Work(name="compare checkpoints"), drawing, switch))

    as_changes: Changes = changes
    panel.wire_run(as_changes, [*pair.chosen, scorers, prompts, seeds])


def create_promotion(studio: TuningApi, pair: Pair) -> None:
    """What puts a checkpoint into the menus."""
    with gr.Row(elem_classes="ds-press"):
        button = gr.Button("Put “Against” into the menus of models", size="sm", elem_id="refl-promote")
    said = gr.HTML(elem_id="refl-promoted", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)

    def on_promote(run: str, key: str) -> str:
        with said_in_a_sentence():
            view = studio.runs.read(required(run))
            promote(view, key or "")
            return f"{escape(models_of(view)[key][0])} of {escape(view.name)} is in the menus of models now."

    button.click(on_promote, [pair.run, pair.second], said, **PRIVATE, concurrency_id="runs")


def create_blind(studio: TuningApi, pair: Pair) -> None:
    """What makes comparisons that are ranked blind, and how they stand."""
    gr.Markdown(BLIND, elem_classes="ds-about")
    with gr.Row(elem_classes="ds-press"):
        count = gr.Number(20, precision=0, label="Comparisons", elem_id="refl-count", min_width=90, scale=0)
        make = gr.Button("Make blind comparisons", size="sm", elem_id="refl-blind", scale=0)
    status = gr.HTML(elem_id="refl-blind-status", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    line = gr.HTML(elem_id="refl-duel", elem_classes="ds-status", padding=False, apply_default_css=False, js_on_load=None)
    before = gr.State("")

    def on_make(run: str, first: str, second: str, wanted: int, request: gr.Request) -> Iterator[Any]:
        with said_in_a_sentence():
            options = blind_tasks(studio.runs.read(required(run)), first or "", second or "", wanted)
            making = studio.makings.start(asker_of(request).visitor, options)
            yield "Drawing the first pair; it goes on when this page is closed."
            for event in making.followed():
                index = getattr(event, "index", None)
                yield gr.skip() if index is None else f"{index + 1} of {len(options.prompts)} pairs are drawn."
        yield f"{len(options.prompts)} comparisons are in the collection “{escape(options.collection)}”: rank them in the tab Rank."

    def on_tick(run: str, first: str, second: str, last: str) -> dict[Any, Any]:
        view = found(studio, run)
        said = "" if view is None or not first or not second else standing(studio, view, first, second)
        return full([line, before], {} if said == last else {line: said, before: said})

    make.click(on_make, [*pair.chosen, count], status, **PRIVATE, concurrency_id="rank")
    tick_while_shown(2 * POLL_S, on_tick, [*pair.chosen, before], [line, before])


def standing(studio: TuningApi, view: RunView, first: str, second: str) -> str:
    """How the two stand by what was ranked; "" where that cannot be read."""
    try:
        (label, one), (other_label, other) = model_of(view, first), model_of(view, second)
        return escape(duel_line(duel(read_table(studio.rankings, collection_of(view, first, second)), other, one), other_label, label))
    except StudioError:
        return ""


def duel_line(now: Duel, name: str, other: str) -> str:
    """The win rate with its interval, and what is needed to be sure."""
    if now.rate is None:
        return f"{name} against {other}: nothing was ranked yet."
    counted = f"{now.comparisons} comparison{'s' * (now.comparisons > 1)}"
    said = f"{name} wins {now.rate:.0%} of {counted} against {other} (95 %: {now.low:.0%} to {now.high:.0%})"
    if now.sure:
        return f"{said}: {'better' if now.rate > 0.5 else 'worse'}, beyond chance."
    if now.still_needed is None:
        return f"{said}: as far as this goes, they are equal."
    return f"{said}: not sure yet; at this rate about {now.still_needed} more are needed."


def wire_menus(studio: TuningApi, pair: Pair) -> None:
    """The two menus have what the run has made by now."""
    def menus(run: str, first: str, second: str) -> dict[Any, Any]:
        view = found(studio, run)
        try:
            models = models_of(view) if view is not None else {}
        except StudioError:
            models = {}
        choices = [(label, key) for key, (label, _) in models.items()]
        last = next(reversed(models), None)
        first, second = (key if isinstance(key, str) else "" for key in (first, second))
        return {
            pair.first: gr.update(choices=choices, value=first if first in models else BASE if models else None),
            pair.second: gr.update(choices=choices, value=second if second in models and second != BASE else last),
        }

    gr.on([pair.run.change, pair.first.focus, pair.second.focus], menus, pair.chosen, [pair.first, pair.second], **CHEAP)
