"""The Text to image tab in a real browser, over a backend without a model: words, guidance, attention, the decoder, areas."""

import pytest

from tabs import text_to_image
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tests.browser.conftest import until_settled
from tests.tabs.fake_text import FACTOR, SIDE, FakeTextStudio

STAGE = "#t2i-stage .ds-stage"
FILM = f"{STAGE}[data-kind=film]"


@pytest.fixture(scope="module")
def served():
    studio = FakeTextStudio()
    with pytest.MonkeyPatch.context() as patch:
        # What the areas open with is another test's.
        for area in ("text_to_image", "compare", "anatomy"):
            patch.setattr(f"tabs.{area}.recorded", lambda *_: "")
        with StudioBlocks(analytics_enabled=False) as demo:
            text_to_image.create_tab(studio)
        _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[], **PAGE)
        yield studio, url
    demo.close()


@pytest.fixture
def tab(page, served):
    """The tab with a run of eight steps on its stage."""
    studio, url = served
    studio.step_s, studio.fail_at = 0.0, None
    page.goto(url)
    page.wait_for_selector("#t2i-run")
    page.fill("#t2i-steps input", "8")
    page.click("#t2i-run")
    page.wait_for_selector(FILM)
    page.wait_for_selector("#t2i-status >> text=Done: 8 steps")
    return page


def to_area(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    until_settled(page)


def to_step(page, index: int) -> None:
    page.locator("#t2i-stage .ds-transport input[type=range]").fill(str(index))
    page.wait_for_selector(f"{STAGE}[data-step='{index}']")


def size_of(page, stream: str) -> int:
    return page.evaluate(f"document.querySelector('#t2i-stage .ds-pane[data-stream={stream}] canvas').width")


def write(page, text: str) -> None:
    page.click("#t2i-prompt textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


# --- words ---------------------------------------------------------------------------------------------------

def test_chips_follow_the_prompt_as_it_is_written(tab):
    write(tab, "a butterfly and a magnificent umbrella over everything else there was")
    tab.wait_for_selector(".ds-words[data-prompt$='there was']")
    joined = tab.locator(".ds-words .ds-chip-piece", has_text="butterfly")
    assert joined.locator(".ds-piece").all_inner_texts() == ["butter", "fly"]
    assert "there was" in tab.locator(".ds-cut s").inner_text() and "was not read" in tab.locator(".ds-cut").inner_text()
    write(tab, "a cat")
    tab.wait_for_selector(".ds-words[data-prompt='a cat']")
    assert tab.locator(".ds-words .ds-chip").all_inner_texts() == ["start of the text", "a", "cat", "end of the text", "filled up × 8"]
    assert tab.locator(".ds-cut").is_hidden()


def test_the_embedding_is_read_off_place_by_place(tab):
    tab.click(".ds-embedding summary")
    tab.hover(".ds-embedding canvas", position={"x": 30, "y": 30})
    assert "dimension" in tab.locator(".ds-embedding-read").inner_text()
    assert tab.evaluate("[document.querySelector('.ds-embedding canvas').width, document.querySelector('.ds-embedding canvas').height]") == [20, 12]


def test_an_example_is_one_click_away(tab, served):
    tab.click("#t2i-examples button >> nth=1")
    tab.wait_for_selector(".ds-words[data-prompt*='red heart']")
    tab.click("#t2i-run")
    tab.wait_for_selector("#t2i-stage >> text=a large red heart on a white background, seed 0")
    assert served[0].asked[-1].prompt == "a large red heart on a white background"


# --- the stage -----------------------------------------------------------------------------------------------

def test_steps_are_previews_the_end_is_decoded_and_any_step_can_be(tab, served):
    assert size_of(tab, "x0_hat") == SIDE * FACTOR and size_of(tab, "x_t") == SIDE
    to_step(tab, 3)
    assert size_of(tab, "x0_hat") == SIDE
    served[0].decodes.clear()
    tab.click("#t2i-stage .ds-pane[data-stream=x0_hat] .ds-open-full")
    tab.wait_for_selector(".ds-full-note:has-text('Decoded.')")
    assert served[0].decodes == [("x0_hat", 3)]
    tab.keyboard.press("Escape")
    assert size_of(tab, "x0_hat") == SIDE * FACTOR


def test_guidance_puts_both_beliefs_beside_the_guided_one(tab):
    assert tab.locator("#t2i-stage .ds-pane:visible").count() == 2
    tab.click("#t2i-stage .ds-guidance")
    streams = [pane.get_attribute("data-stream") for pane in tab.locator("#t2i-stage .ds-pane:visible").all()]
    assert streams == ["x_t", "x0_uncond", "x0_cond", "x0_hat"]
    assert "guided, ×4" in tab.locator("#t2i-stage .ds-pane[data-stream=x0_hat] figcaption").inner_text()
    assert tab.locator("#t2i-stage .ds-view.ds-clip").is_hidden()


def test_a_word_shows_where_it_was_looked_at_and_a_place_ranks_the_words(tab):
    tab.click("#t2i-stage .ds-extras .ds-chip:has-text('purple')")
    maps = tab.locator("#t2i-stage .ds-pane[data-stream=x0_hat] .ds-attention-map")
    assert maps.is_visible()
    # The fake looks with its k-th token at row k of eight: "purple" is the second word, token 2.
    rows = maps.evaluate("""c => [...Array(8).keys()].map((row) => {
      const d = c.getContext("2d").getImageData(c.width / 2, (row + 0.5) * c.height / 8, 1, 1).data; return d[0] + d[1]; })""")
    assert rows.index(max(rows)) == 2
    box = tab.locator("#t2i-stage .ds-pane[data-stream=x0_hat] canvas[role=img]").bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 2.5 * box["height"] / 8)
    assert tab.locator("#t2i-stage .ds-ranked li").first.inner_text().startswith("purple")
    to_step(tab, 2)
    assert maps.is_visible()


def test_an_error_is_a_sentence_and_the_stage_stays(tab):
    before = tab.get_attribute(STAGE, "data-run")
    tab.fill("#t2i-steps input", "0")
    tab.click("#t2i-run")
    tab.wait_for_selector("#t2i-status >> text=num_steps must be a whole number")
    assert tab.get_attribute(STAGE, "data-run") == before and tab.get_attribute(STAGE, "data-kind") == "film"


def test_stop_keeps_the_steps_that_were_taken(tab, served):
    served[0].step_s = 0.1
    tab.fill("#t2i-steps input", "400")
    tab.click("#t2i-run")
    tab.wait_for_selector(f"{STAGE}[data-kind=live]")
    tab.click("#t2i-stop")
    tab.wait_for_selector("#t2i-status >> text=Stopped at step")
    assert tab.get_attribute(STAGE, "data-complete") == "false"


# --- the other areas -----------------------------------------------------------------------------------------

def test_two_settings_meet_on_one_axis(tab, served):
    to_area(tab, "Compare")
    tab.fill("#pair-steps-a input", "4")
    tab.fill("#pair-steps-b input", "9")
    tab.fill("#pair-scale-b input", "8")
    tab.click("#pair-run")
    tab.wait_for_selector(".ds-compare[data-meetings]")
    a, b = served[0].asked[-2:]
    assert (a.num_steps, b.num_steps, b.guidance_scale, a.seed) == (4, 9, 8.0, b.seed)
    assert int(tab.get_attribute(".ds-compare", "data-meetings")) >= 9
    tab.locator(".ds-compare input[type=range]").fill("0")
    tab.wait_for_selector(".ds-compare[data-at='0']")
    assert "step 1 of 4" in tab.locator("[data-side=a] p").inner_text() and "step 1 of 9" in tab.locator("[data-side=b] p").inner_text()


def test_a_grid_tells_its_time_and_fills_cell_by_cell(tab):
    to_area(tab, "Grid")
    tab.fill("#grid-seeds input, #grid-seeds textarea", "1, 2")
    tab.fill("#grid-scales input, #grid-scales textarea", "1, 4, 8")
    tab.click("#grid-plan")
    tab.wait_for_selector("#grid-status >> text=6 pictures, about")
    assert tab.get_attribute(".ds-grid-stage", "data-done") == "0"
    tab.click("#grid-run")
    tab.wait_for_selector("#grid-status >> text=Done: 6 pictures")
    assert tab.get_attribute(".ds-grid-stage", "data-done") == "6" and tab.locator(".ds-grid-table img").count() == 6


def test_a_grid_too_large_gets_a_sentence(tab):
    to_area(tab, "Grid")
    tab.fill("#grid-seeds input, #grid-seeds textarea", ",".join(map(str, range(40))))
    tab.click("#grid-run")
    tab.wait_for_selector("#grid-status >> text=at most 64 pictures")


def test_the_parts_and_the_round_trip_are_shown(tab):
    to_area(tab, "Anatomy")
    tab.click("#anatomy-look")
    tab.wait_for_selector(".ds-anatomy[data-parts='3']")
    assert "1.50 M parameters" in tab.locator(".ds-parts").inner_text()
    tab.click("#anatomy-send")
    tab.wait_for_selector(".ds-trip >> text=PSNR 31.4 dB")
    assert tab.locator(".ds-channels img").count() == 4


def test_a_narrow_window_has_prompt_and_stage_first_and_does_not_scroll_sideways(tab):
    tab.set_viewport_size({"width": 420, "height": 860})
    tab.wait_for_function("document.querySelector('#t2i-stage').clientWidth < 420")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 420
    tops = [tab.locator(place).bounding_box()["y"] for place in ("#t2i-prompt", "#t2i-run", "#t2i-stage", "#t2i-negative")]
    assert tops == sorted(tops)
