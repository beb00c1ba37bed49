"""Ranking in a real browser: by keyboard alone, by mouse, and back and forth between two databases' files."""

import re

import pytest

from studio import Studio
from tests.browser.conftest import served_panels

BOARD = "#rank-board .ds-rank"
CARD = f"{BOARD} .ds-rank-card"
ANOTHER = "([board, before]) => { const now = document.querySelector(board).dataset.assignment; return now && now !== before; }"
COUNTED = "([line, words]) => document.querySelector(line).textContent.startsWith(words)"


@pytest.fixture(scope="module")
def app_url(tmp_path_factory):
    """The tab alone, with the example's tasks."""
    with served_panels(Studio(rankings_root=tmp_path_factory.mktemp("rankings")), "Rank") as address:
        yield address


def opened(page, app_url, name):
    """The board of an annotator, with a task on it."""
    page.goto(app_url)
    page.get_by_role("tab", name="Rank", exact=True).click()
    page.wait_for_selector(CARD)
    before = page.get_attribute(BOARD, "data-assignment")
    box = page.locator("#rank-name textarea, #rank-name input")
    # A page that was loaded again knows who ranked.
    if box.input_value() != name:
        box.fill(name)
        box.press("Tab")
        page.wait_for_function(ANOTHER, arg=[BOARD, before])
    page.locator(CARD).first.focus()
    return page


def shown(page):
    return page.get_attribute(BOARD, "data-assignment")


def wait_for_another(page, before):
    page.wait_for_function(ANOTHER, arg=[BOARD, before])
    return shown(page)


def wait_until_counted(page, number):
    page.wait_for_function(COUNTED, arg=[f"{BOARD} .ds-rank-progress", f"{number} ranked by you"])


def badges(page):
    return [page.locator(CARD).nth(i).locator(".ds-rank-badge").all_inner_texts() for i in range(page.locator(CARD).count())]


@pytest.fixture
def board(page, app_url):
    return lambda name: opened(page, app_url, name)


def test_tasks_are_ranked_undone_and_skipped_by_keyboard_alone(board, page):
    board("keys")
    first = shown(page)
    for key in "1224":
        page.keyboard.press(key)
    assert badges(page) == [["1"], ["2"], ["2"], ["4"]]
    page.keyboard.press("Enter")
    second = wait_for_another(page, first)
    wait_until_counted(page, 1)
    page.keyboard.press("z")
    assert wait_for_another(page, second) == first and badges(page) == [["1"], ["2"], ["2"], ["4"]]
    wait_until_counted(page, 0)
    page.keyboard.press("Backspace")
    assert badges(page) == [[], [], [], []]
    page.keyboard.press("2")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    wait_for_another(page, first)
    wait_until_counted(page, 1)
    page.keyboard.press("s")
    page.keyboard.press("2")
    wait_for_another(page, second)
    assert "Skipped" in page.inner_text(f"{BOARD} .ds-rank-said")


def test_a_draft_is_kept_by_the_studio_and_shown_in_another_browser(board, page, browser, app_url):
    board("elsewhere")
    before = shown(page)
    page.keyboard.press("3")
    page.wait_for_selector(f"{BOARD}[data-draft=studio]")
    assert page.evaluate("localStorage.getItem('ds-rank-drafts')") == "{}"
    another = browser.new_context()
    try:
        there = opened(another.new_page(), app_url, "elsewhere")
        assert shown(there) == before and badges(there) == [["3"], [], [], []]
    finally:
        another.close()


def test_a_draft_survives_a_reload_at_any_moment(board, page):
    board("hasty")
    before = shown(page)
    page.keyboard.press("3")
    page.keyboard.press("1")
    board("hasty")
    assert shown(page) == before and badges(page) == [["3"], ["1"], [], []]
    # The studio gets what the page before this one could not send any more.
    page.wait_for_selector(f"{BOARD}[data-draft=studio]")


def test_who_loads_the_page_again_goes_on_as_who_they_were(board, page):
    board("back again")
    page.locator("#rank-collection input").click()
    page.locator("ul[role=listbox] >> text=/tasks/").first.click()
    page.keyboard.press("Escape")
    # What is on the board until then is not of the collection.
    page.wait_for_function("board => JSON.parse(document.querySelector(board).dataset.of)[1]", arg=BOARD)
    page.locator(CARD).nth(1).focus()
    page.keyboard.press("2")
    page.wait_for_selector(f"{BOARD}[data-draft=studio]")
    before, collection = shown(page), page.input_value("#rank-collection input")
    page.reload()
    page.get_by_role("tab", name="Rank", exact=True).click()
    page.wait_for_selector(CARD)
    page.wait_for_function(ANOTHER, arg=[BOARD, None])
    page.wait_for_function("([field, value]) => document.querySelector(field).value === value", arg=["#rank-collection input", collection])
    assert page.input_value("#rank-name textarea, #rank-name input") == "back again"
    assert shown(page) == before and badges(page)[1] == ["2"]


def test_what_was_submitted_and_never_reached_the_studio_is_on_the_board_after_a_reload(board, page):
    board("cut off")
    before = shown(page)
    page.route("**/gradio_api/queue/join*", lambda route: route.abort())
    for key in "1243":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    wait_for_another(page, before)
    page.unroute("**/gradio_api/queue/join*")
    board("cut off")
    assert shown(page) == before and badges(page) == [["1"], ["2"], ["4"], ["3"]]


def test_pictures_are_dragged_to_ranks_and_chips_out_of_them(board, page):
    board("mouse")
    card, slot = page.locator(CARD).nth(1), page.locator(f"{BOARD} .ds-rank-slot").nth(2)
    drag(page, card, slot)
    assert badges(page)[1] == ["3"] and slot.locator(".ds-rank-chip").count() == 1
    drag(page, slot.locator(".ds-rank-chip"), page.locator(f"{BOARD} .ds-rank-slot").first)
    assert badges(page)[1] == ["1"]
    page.locator(f"{BOARD} .ds-rank-chip").click()
    assert badges(page) == [[], [], [], []]
    # For fingers: the picture, then its rank.
    page.locator(CARD).nth(2).focus()
    slot.click()
    assert badges(page)[2] == ["3"] and page.locator(f"{BOARD} .ds-rank-submit").is_disabled()


def drag(page, source, target):
    start, end = source.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=5)
    page.mouse.up()


def test_a_picture_is_looked_at_closely_and_two_side_by_side(board, page):
    board("eyes")
    page.keyboard.press("Space")
    assert page.locator(".ds-rank-zoom img").count() == 1
    page.keyboard.press("c")
    assert page.locator(".ds-rank-zoom img").count() == 2
    page.keyboard.press("Escape")
    page.wait_for_selector(".ds-rank-zoom", state="hidden")
    assert page.evaluate("document.activeElement.classList.contains('ds-rank-card')")


def test_too_few_ranks_are_told_of_and_nothing_is_sent(board, page):
    board("few")
    before = shown(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert "at least two" in page.inner_text(f"{BOARD} .ds-rank-said") and shown(page) == before


def test_agreement_is_read_and_rankings_are_exported(board, page):
    board("reader")
    page.locator("#rank-agreement > button").click()
    page.wait_for_selector("#rank-agreed .ds-agreement-people tbody tr")
    assert "careful (made up)" in page.inner_text("#rank-agreed") and page.locator("#rank-agreed .ds-interval").count() >= 4
    page.locator("#rank-move > button").click()
    with page.expect_download() as download:
        page.locator("#rank-export").click()
    assert re.match(r"rankings-studio.*\.zip", download.value.suggested_filename)


def test_tasks_are_made_from_a_model_and_ranked_in_pairs(board, page):
    board("maker")
    page.locator("#rank-make > button").click()
    page.locator("#rank-prompts textarea").fill("a red heart on a white background\na blue star on a black background")
    page.locator("#rank-pictures input[type=number]").fill("2")
    page.locator("#rank-steps input").fill("2")
    page.locator("#rank-into textarea, #rank-into input").fill("pairs")
    page.locator("#rank-make-run").click()
    page.wait_for_function("document.querySelector('#rank-status').textContent.includes('2 tasks are in the collection pairs')")
    page.wait_for_function("board => document.querySelectorAll(board).length === 2", arg=CARD)
    assert page.inner_text(f"{BOARD} .ds-rank-prompt") == "a red heart on a white background"
    before = shown(page)
    page.get_by_role("button", name="Right is better").click()
    wait_for_another(page, before)
    wait_until_counted(page, 1)
