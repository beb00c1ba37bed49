"""The tab "One step or many?" in a real browser, with the real training."""

import re

import pytest

from studio import Studio
from tests.browser.conftest import served_panels

STAGE = "#contrast-stage .ds-contrast"
PATIENCE_MS = 240_000  # the first press loads torch and diffusers


@pytest.fixture(scope="module")
def app_url():
    """The tab alone."""
    with served_panels(Studio(), "One step or many") as address:
        yield address


@pytest.fixture
def tab(page, app_url):
    """The tab, with the shortest budget set."""
    page.set_default_timeout(PATIENCE_MS)
    page.goto(app_url)
    page.get_by_role("tab", name=re.compile("One step or many")).click()
    page.wait_for_selector(f"{STAGE}[data-state=recorded]")
    set_seconds(page, 2)
    return page


def set_seconds(page, seconds):
    number = page.locator("#contrast-seconds input[type=number]")
    number.fill(str(seconds))
    number.press("Tab")


def ink(page, pane):
    """Whether the pane's canvas holds a picture, and how large it is."""
    return page.eval_on_selector(
        f"{STAGE} figure[data-pane={pane}] canvas",
        """(canvas) => [canvas.width, new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size > 8]""",
    )


def update(page):
    return int(page.get_attribute(STAGE, "data-update"))


def test_the_tab_opens_with_a_recorded_training_that_plays_when_it_is_seen(tab):
    tab.wait_for_function(f"Number(document.querySelector('{STAGE}').dataset.update) > 100")
    assert "A recorded training" in tab.inner_text(f"{STAGE} .ds-title-text")
    tab.wait_for_selector("#contrast-why .katex")
    assert tab.locator(f"{STAGE} tbody tr").count() == 4 and ink(tab, "real") == [67, True]


def test_the_training_is_walked_through_by_keys_and_by_its_curve(tab):
    tab.keyboard.press("End")
    tab.wait_for_selector(f"{STAGE} figure[data-pane=repeated] canvas:not(.ds-unmade)")
    last = update(tab)
    tab.keyboard.press("Home")
    tab.wait_for_selector(f"{STAGE}[data-update='1']")
    assert tab.inner_text(f"{STAGE} .ds-caption") == "No pictures yet"
    assert tab.locator(f"{STAGE} figure:visible canvas.ds-unmade").count() == 3
    plot = tab.locator(f"{STAGE} .ds-contrast-chart svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tab.mouse.click(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    tab.wait_for_selector(f"{STAGE} figure[data-pane=ddpm] canvas:not(.ds-unmade)")
    assert 0.4 * last < update(tab) < 0.7 * last


def test_a_visitor_who_wants_no_motion_gets_the_end_of_the_recording(page, app_url):
    page.emulate_media(reduced_motion="reduce")
    page.goto(app_url)
    page.get_by_role("tab", name=re.compile("One step or many")).click()
    page.wait_for_selector(f"{STAGE}[data-state=recorded]")
    assert update(page) > 100 and page.get_attribute(f"{STAGE} .ds-transport", "data-playing") == "false"


def test_training_draws_losses_and_pictures_and_ends_with_figures_and_the_formula(tab):
    tab.click("#contrast-run")
    tab.wait_for_selector(f"{STAGE}[data-state=done]")
    for pane in ("one_step", "ddpm", "repeated", "real"):
        assert ink(tab, pane) == [67, True]  # 4 x 4 digits of 16 pixels with gaps of 1
    lines = tab.eval_on_selector_all(f"{STAGE} .ds-line", "(paths) => paths.map((path) => path.getAttribute('d').length)")
    assert len(lines) == 2 and min(lines) > 0
    assert tab.locator(f"{STAGE} tbody tr").count() == 4
    assert re.match(r"Done: \d+ updates of each network", tab.inner_text(f"{STAGE} .ds-title-text"))
    tab.wait_for_selector("#contrast-why .katex")
    tab.wait_for_selector("#contrast-stop:disabled")
    tab.click(f"{STAGE} .ds-title-text")
    tab.keyboard.press("Home")
    tab.wait_for_selector(f"{STAGE}[data-update='1']")


def test_stop_says_at_which_update_and_keeps_the_curves(tab):
    set_seconds(tab, 120)
    tab.click("#contrast-run")
    tab.wait_for_selector(f"{STAGE}[data-state=training] .ds-line[d*=L]", state="attached")
    tab.click("#contrast-stop")
    tab.wait_for_selector(f"{STAGE}[data-state=stopped]")
    assert re.match(r"Stopped after update \d+ of about \d+; the curves and its pictures stay\.", tab.inner_text(f"{STAGE} .ds-title-text"))
    assert tab.locator(f"{STAGE} .ds-line[d*=L]").count() == 2
    tab.wait_for_selector("#contrast-stop:disabled")
    assert tab.is_disabled("#contrast-stop")
