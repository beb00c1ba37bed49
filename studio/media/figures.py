"""Figures of schedules for print, and their numbers: matplotlib in the studio's style, CSV in full precision.

Signal is warm and noise is cool grey, as in the page; schedules have the page's series colours.
"""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from studio.errors import InvalidOption, UnknownName
from studio.process.schedules import CURVES, curves, respace_betas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_schedules", "save_figure", "schedule_csv", "Entry", "AXES", "LOG_CURVES", "SIGNAL", "NOISE"]

# (label, betas of the whole process, the timesteps that respacing keeps)
Entry = tuple[str, np.ndarray, Sequence[int]]

STYLE = Path(__file__).parents[2] / "assets" / "ui" / "studio.mplstyle"
# matplotlib's style is global, so only one figure at a time is drawn under it.
STYLE_LOCK = Lock()
SIGNAL, NOISE = "#b04d12", "#5b7083"
HUES = {"sqrt_alpha_bar": SIGNAL, "sqrt_one_minus_alpha_bar": NOISE}
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1)), (0, (9, 3)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
SYMBOLS = {
    "beta": r"$\beta_t$", "alpha_bar": r"$\bar\alpha_t$", "sqrt_alpha_bar": r"$\sqrt{\bar\alpha_t}$",
    "sqrt_one_minus_alpha_bar": r"$\sqrt{1-\bar\alpha_t}$", "snr": r"$\bar\alpha_t/(1-\bar\alpha_t)$", "log_snr": "",
    "sigma": r"$\sigma_t$", "posterior_variance": r"$\tilde\beta_t$", "posterior_mean_coef1": "", "posterior_mean_coef2": "",
}
# Curves that span decades.
LOG_CURVES = ("snr", "sigma", "beta", "posterior_variance")
AXES = {"t": "timestep t", "log_snr": "log-SNR (less noise on the left)"}
# Marks more than this many would hide the curve.
MAX_MARKS = 200


def plot_schedules(entries: Sequence[Entry], names: Sequence[str] = tuple(HUES), axis: str = "t") -> "Figure":
    """One panel a curve, all schedules in each; the two scales share a panel. Steps kept by respacing are marked.

    Args:
        entries: (label, betas (T,), kept timesteps) of each schedule.
        names: keys of CURVES.
        axis: "t", or "log_snr" to compare schedules at the same noise.
    Raises:
        InvalidOption: nothing to draw, or another axis. UnknownName: a name that is no curve.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    _check(entries, names, axis)
    panels = _panels(names)
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with STYLE_LOCK, matplotlib.style.context(STYLE):
        figure = Figure(figsize=(3.6 * columns + 0.4 if columns > 1 else 5.6, 2.5 * rows + 0.6), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for ax, panel in zip(axes, panels, strict=False):
            _draw_panel(ax, entries, panel, axis)
        for ax in axes[len(panels):]:
            ax.remove()
        _legend(figure, entries, has_own_colours=any(panel[0] not in HUES for panel in panels))
        # Fonts are looked up when drawn; laying out now keeps that inside the style.
        figure.draw_without_rendering()
    return figure


def _check(entries: Sequence[Entry], names: Sequence[str], axis: str) -> None:
    if not entries:
        raise InvalidOption("There is no schedule to draw; choose at least one.")
    if not names:
        raise InvalidOption("There is no curve to draw; choose at least one.")
    for name in names:
        if name not in CURVES:
            raise UnknownName.of("curve", name, CURVES)
    if axis not in AXES:
        raise InvalidOption(f"The axis is 't' or 'log_snr', but {axis=}.")


def _panels(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Which curves share a panel: the two scales do, every other curve has its own."""
    scales = tuple(name for name in HUES if name in names)
    return ([scales] if scales else []) + [(name,) for name in names if name not in HUES]


def _draw_panel(ax: "Axes", entries: Sequence[Entry], panel: tuple[str, ...], axis: str) -> None:
    for index, (label, betas, kept) in enumerate(entries):
        table = curves(betas)
        x = np.arange(len(betas)) if axis == "t" else table["log_snr"]
        for name in panel:
            _draw_line(ax, x, table[name], kept, HUES.get(name, f"C{index % 8}"), DASHES[index % len(DASHES)], label)
    if panel[0] in LOG_CURVES:
        ax.set_yscale("log")
    if axis == "log_snr":
        ax.invert_xaxis()
    ax.set_xlabel(AXES[axis])
    ax.set_title(f"{CURVES[panel[0]].split('  ')[0]}  {SYMBOLS[panel[0]]}", color=HUES.get(panel[0], "#26241f"))
    if len(panel) > 1:
        ax.set_title(f"{CURVES[panel[1]].split('  ')[0]}  {SYMBOLS[panel[1]]}", color=HUES[panel[1]], loc="right")


def _draw_line(ax: "Axes", x: np.ndarray, y: np.ndarray, kept: Sequence[int], color: str, dash: Dash, label: str) -> None:
    """A line, and a dot at each kept timestep where some are left out. A log axis cannot show 0, nor any axis infinity."""
    seen = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (y.min() < 0))
    ax.plot(np.where(seen, x, np.nan), np.where(seen, y, np.nan), color=color, linestyle=dash, label=label)
    if len(kept) < len(y):
        dots = np.asarray(kept)[:: -(-len(kept) // MAX_MARKS)]
        dots = dots[seen[dots]]
        ax.plot(x[dots], y[dots], linestyle="none", marker="o", color=color)


def _legend(figure: "Figure", entries: Sequence[Entry], has_own_colours: bool) -> None:
    """The schedules above all panels, by dash, and by colour where a panel shows it."""
    from matplotlib.lines import Line2D

    if len(entries) < 2:
        figure.suptitle(entries[0][0], x=0.01, ha="left", fontsize=10)
        return
    lines = [
        Line2D([], [], color=f"C{i % 8}" if has_own_colours else "#26241f", linestyle=DASHES[i % len(DASHES)], label=label)  # type: ignore[arg-type]
        for i, (label, _, _) in enumerate(entries)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=min(4, len(lines)), handlelength=3)


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as .png (200 dpi), .svg or .pdf (vectors, text as text); no date inside, so equal figures are equal files.

    Raises:
        InvalidOption: another ending.
    """
    import matplotlib.style

    path = Path(path)
    metadata: dict[str, dict[str, object]] = {".png": {"Software": "Diffusion Studio"}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    if path.suffix not in metadata:
        raise InvalidOption(f"A figure is saved as .png, .svg or .pdf, not {path.suffix!r}.")
    with STYLE_LOCK, matplotlib.style.context(STYLE):
        figure.savefig(path, metadata=metadata[path.suffix])
    return path


def schedule_csv(entries: Sequence[Entry]) -> str:
    """Every curve of every schedule, one line a timestep, in full float64 precision (each number reads back exactly).

    Columns: schedule, t, kept (1 or 0), the keys of CURVES, and respaced_beta: the beta of the shorter process at the
    timesteps it keeps, empty elsewhere. Infinite values are written inf and -inf.
    """
    _check(entries, ("beta",), "t")
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["schedule", "t", "kept", *CURVES, "respaced_beta"])
    for label, betas, kept in entries:
        table = curves(betas)
        respaced = dict(zip(kept, respace_betas(betas, kept), strict=True))
        for t in range(len(betas)):
            row = [repr(float(table[name][t])) for name in CURVES]
            beta = repr(float(respaced[t])) if t in respaced else ""
            writer.writerow([label, t, int(t in respaced), *row, beta])
    return text.getvalue()
