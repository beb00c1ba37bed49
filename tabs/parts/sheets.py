"""Sheets of pictures that set models beside each other, as the page shows them while they are drawn."""

from collections.abc import Iterator
from itertools import repeat

import gradio as gr

from studio.media.data_uris import data_uri
from studio.models.device import Waiting
from studio.runs.probes import Sheet
from tabs.parts.panel import Change
from tabs.parts.stage import drawn_by, to_stage
from tabs.parts.turns import waiting_line

__all__ = ["create_sheet", "sheet_value", "sheets_shown"]


def create_sheet(elem_id: str, value: str = "") -> gr.HTML:
    """Pictures beside each other. value: what it shows first."""
    return drawn_by("sheet", '<div class="ds-stage ds-sheet"></div>', elem_id=elem_id, value=value)


def sheet_value(sheet: Sheet) -> str:
    """JSON text for Studio.sheet."""
    over = sheet.done == sheet.total or sheet.note
    return to_stage({
        "title": sheet.title, "share": None if over else sheet.done / sheet.total, "columns": sheet.columns, "note": sheet.note,
        "rows": [
            {"name": name, **({"heading": heading} if heading else {}), "cells": [cell and data_uri(cell) for cell in cells]}
            for (name, cells), heading in zip(sheet.rows, sheet.headings or repeat(""))
        ],
    })


def sheets_shown(drawing: Iterator[Sheet | Waiting]) -> Iterator[Change]:
    """The sheets as the page shows them, each once."""
    shown: tuple[int, str] | None = None
    for sheet in drawing:
        if isinstance(sheet, Waiting):
            yield {"status": waiting_line(sheet)}
            continue
        if shown == (shown := (sheet.done, sheet.note)):
            continue
        yield {"sheet": sheet_value(sheet), "status": "" if sheet.done == sheet.total or sheet.note else f"Drawing: {sheet.done} of {sheet.total}."}
