"""Figures and tables of schedules."""

import csv
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from studio.errors import InvalidOption, UnknownName
from studio.media.figures import NOISE, SIGNAL, STYLE, plot_schedules, save_figure, schedule_csv
from studio.process.schedules import CURVES, SCHEDULES, alphas_cumprod, curves, make_betas, space_timesteps


def entry(name, count=100, respacing=None, **options):
    return SCHEDULES[name].label, make_betas(name, count, **options), space_timesteps(count, respacing or [count])


def test_the_two_scales_share_a_panel_in_the_two_hues():
    figure = plot_schedules([entry("linear")])
    (ax,) = figure.axes
    assert [line.get_color() for line in ax.lines] == [SIGNAL, NOISE]
    table = curves(make_betas("linear", 100))
    assert np.allclose(ax.lines[0].get_ydata(), table["sqrt_alpha_bar"]) and np.allclose(ax.lines[1].get_ydata(), table["sqrt_one_minus_alpha_bar"])
    assert ax.get_xlabel() == "timestep t"


def test_the_hues_and_series_are_those_of_the_page():
    css = (STYLE.parent / "studio.css").read_text().split("}")[0]
    assert f"--ds-signal: {SIGNAL};" in css and f"--ds-noise: {NOISE};" in css
    series = re.findall(r"--ds-series-\d: #(\w+);", css)
    assert f"{series}" in STYLE.read_text()


def test_every_curve_of_every_schedule_can_be_drawn_on_both_axes(tmp_path):
    entries = [entry(name, zero_terminal_snr=name == "linear") for name in SCHEDULES]
    for axis in ("t", "log_snr"):
        figure = plot_schedules(entries, list(CURVES), axis)
        assert len(figure.axes) == len(CURVES) - 1
        assert all(len(ax.lines) == len(entries) * (2 if ax is figure.axes[0] else 1) for ax in figure.axes)
        with Image.open(save_figure(figure, tmp_path / f"{axis}.png")) as image:
            image.load()
            assert min(image.size) > 600


def test_respaced_steps_are_marked_where_they_are():
    (ax,) = plot_schedules([entry("cosine", respacing="ddim10")], ["alpha_bar"]).axes
    line, dots = ax.lines
    assert dots.get_xdata().tolist() == list(range(0, 100, 10))
    assert np.allclose(dots.get_ydata(), alphas_cumprod(make_betas("cosine", 100))[::10])
    assert line.get_color() == dots.get_color()


def test_the_log_snr_axis_runs_from_little_noise_to_much():
    (ax,) = plot_schedules([entry("cosine")], ["beta"], "log_snr").axes
    left, right = ax.get_xlim()
    assert left > right and ax.get_yscale() == "log"


def test_svg_holds_vectors_and_text_and_repeats_exactly(tmp_path):
    for name in ("a.svg", "b.svg"):
        save_figure(plot_schedules([entry("linear"), entry("cosine")], ["log_snr"]), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg") and "<image" not in text
    words = "".join(root.itertext())
    assert "Linear" in words and "Cosine" in words and "timestep t" in words
    assert text == (tmp_path / "b.svg").read_text()


def test_figures_can_be_drawn_from_several_threads_without_touching_pyplot(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)

    def draw(index):
        return save_figure(plot_schedules([entry("linear")], ["alpha_bar"]), tmp_path / f"{index}.png").read_bytes()

    with ThreadPoolExecutor(4) as pool:
        pictures = list(pool.map(draw, range(8)))
    assert len(set(pictures)) == 1
    assert dict(matplotlib.rcParams) == before


def test_nonsense_is_refused(tmp_path):
    with pytest.raises(InvalidOption, match="no schedule"):
        plot_schedules([])
    with pytest.raises(InvalidOption, match="no curve"):
        plot_schedules([entry("linear")], [])
    with pytest.raises(UnknownName, match="did you mean 'sigma'"):
        plot_schedules([entry("linear")], ["sigm"])
    with pytest.raises(InvalidOption, match="axis='x'"):
        plot_schedules([entry("linear")], ["beta"], "x")
    with pytest.raises(InvalidOption, match="'.bmp'"):
        save_figure(plot_schedules([entry("linear")]), tmp_path / "a.bmp")
    with pytest.raises(InvalidOption, match="no schedule"):
        schedule_csv([])


def test_csv_reads_back_exactly_to_the_last_bit():
    entries = [entry("cosine", respacing="10,5"), entry("linear", zero_terminal_snr=True)]
    rows = list(csv.DictReader(io.StringIO(schedule_csv(entries))))
    assert list(rows[0]) == ["schedule", "t", "kept", *CURVES, "respaced_beta"]
    assert len(rows) == 200
    for label, betas, kept in entries:
        mine = [row for row in rows if row["schedule"] == label]
        assert [int(row["t"]) for row in mine] == list(range(100))
        assert [int(row["t"]) for row in mine if row["kept"] == "1"] == list(kept)
        for name, values in curves(betas).items():
            assert np.array_equal([float(row[name]) for row in mine], values)


def test_the_respaced_betas_of_the_csv_give_the_same_alpha_bar():
    rows = list(csv.DictReader(io.StringIO(schedule_csv([entry("cosine", respacing="10,5")]))))
    kept = [row for row in rows if row["respaced_beta"]]
    assert len(kept) == 15
    product = math.prod(1 - float(row["respaced_beta"]) for row in kept)
    assert product == pytest.approx(float(kept[-1]["alpha_bar"]))
