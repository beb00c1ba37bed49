"""The ControlNet tab in a real browser, over a backend without a model: live maps, drawing, masks, units moved about, runs kept and recalled."""

import numpy as np
import pytest
from PIL import Image

from tabs import controlnet
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tests.browser.conftest import until_settled
from tests.tabs.fake_control import FakeControlStudio

STAGE = "#ctl-stage .ds-stage"
FILM = f"{STAGE}[data-kind=film]"
BOARD = "#ctl-1-map .ds-paint-board"
# White pixels of the map as it is shown, of how many.
WHITE = """(unit) => {
  const canvas = document.querySelector(`#ctl-${unit}-map .ds-paint-map`);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let white = 0;
  for (let i = 0; i < data.length; i += 4) white += data[i] > 127;
  return white;
}"""


@pytest.fixture(scope="module")
def served():
    studio = FakeControlStudio()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tabs.controlnet.recorded", lambda *_: "")
        with StudioBlocks(analytics_enabled=False) as demo:
            controlnet.create_tab(studio)
        _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[], **PAGE)
        yield studio, url
    demo.close()


@pytest.fixture
def tab(page, served):
    """The tab with its first map drawn."""
    page.goto(served[1])
    page.wait_for_selector("#ctl-1-map .ds-paint[data-shown]")
    return page


@pytest.fixture
def photo(tmp_path) -> str:
    pixels = np.repeat([0, 20, 60, 140, 255], 40)[None].repeat(160, axis=0).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def choose(page, elem_id: str, label: str) -> None:
    page.click(f"#{elem_id} input")
    page.locator(f"ul[role=listbox] >> text={label}").first.click()


def white(page, unit: int = 1) -> int:
    return page.evaluate(WHITE, unit)


def drag(page, start: tuple[float, float], end: tuple[float, float], board: str = BOARD) -> None:
    """A stroke on a board, that of unit 1 unless told, in shares of it."""
    page.locator(board).scroll_into_view_if_needed()
    box = page.locator(board).bounding_box()
    page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=6)
    page.mouse.up()


def run(page) -> None:
    page.click("#ctl-run")
    page.wait_for_selector("#ctl-status >> text=Done")
    page.wait_for_selector(FILM)


def test_edges_follow_the_thresholds_of_an_uploaded_photograph(tab, photo):
    choose(tab, "ctl-1-annotator", "Canny edges")
    tab.set_input_files("#ctl-1-picture input[type=file]", photo)
    tab.wait_for_selector("#ctl-1-line >> text=200 x 160, cropped to 64 x 64")
    few = white(tab)
    tab.locator("#ctl-1-second input[type=number]").fill("40")
    tab.locator("#ctl-1-first input[type=number]").fill("20")
    tab.wait_for_function(f"(few) => ({WHITE})(1) > few", arg=few)


def test_a_drawing_is_the_map_of_the_run_and_a_mask_says_where_it_acts(tab, served):
    studio, _ = served
    tab.click("#ctl-1-map [data-mode=draw]")
    tab.click("#ctl-1-map [data-clear]")
    drag(tab, (0.2, 0.5), (0.8, 0.5))
    tab.wait_for_function("document.querySelector('#ctl-1-annotator input').value.startsWith('Already')")
    tab.click("#ctl-1-map [data-mode=mask]")
    drag(tab, (0.5, 0.1), (0.5, 0.9))
    choose(tab, "ctl-1-net", "Edges")
    run(tab)
    unit = studio.asked[-1].control[0]
    pixels, mask = np.asarray(unit.map.convert("L")), np.asarray(unit.mask.convert("L"))
    assert set(np.unique(pixels)) == {0, 255} and pixels[32, 16:48].min() == 255 and pixels[:20].max() == 0
    assert mask[8:56, 32].min() == 255 and mask[:, :20].max() == 0


def test_units_are_added_and_moved_and_a_kept_run_brings_them_back(tab, served):
    studio, _ = served
    choose(tab, "ctl-1-net", "Edges")
    tab.locator("#ctl-1-end").locator("input").fill("0.5")
    tab.wait_for_selector("#ctl-1-window >> text=Acts in steps 1 to 10 of 20.")
    tab.click("#ctl-add")
    tab.wait_for_selector("#ctl-2-map .ds-paint[data-map]")
    choose(tab, "ctl-2-annotator", "Toybox: exact depth")
    choose(tab, "ctl-2-net", "Depth")
    tab.wait_for_function(f"() => ({WHITE})(2) > 0")
    tab.click("#ctl-2-up")
    tab.wait_for_function("document.querySelector('#ctl-1-net input').value === 'Depth'")
    run(tab)
    first, second = studio.asked[-1].control
    assert (first.net, second.net, second.end, first.annotator) == ("depth", "edges", 0.5, "toybox-depth")
    # What it is made of is seen on the stage: the map over the belief, and how much each block adds.
    tab.get_by_label("Opacity of the map over the belief").fill("60")
    tab.wait_for_selector(".ds-control-overlay:not([hidden])")
    assert "at most" in tab.locator(".ds-control-now").inner_text() and tab.locator(".ds-control-unit button").count() == 2
    with tab.expect_download() as kept:
        tab.click("#ctl-keep >> text=Keep it")
        tab.click("#ctl-keep-run")
    tab.reload()
    tab.wait_for_selector("#ctl-1-map .ds-paint[data-shown]")
    tab.set_input_files("#ctl-open input[type=file]", _named(kept.value))
    tab.wait_for_selector("#ctl-status >> text=Opened a run of 20 steps")
    tab.wait_for_function("document.querySelector('#ctl-2-net input')?.value === 'Edges'")
    run(tab)
    assert [unit.map.tobytes() for unit in studio.asked[-1].control] == [first.map.tobytes(), second.map.tobytes()]
    tab.click("#ctl-1-take")
    tab.wait_for_function("document.querySelector('#ctl-1-annotator input').value.startsWith('Canny')")
    tab.wait_for_selector("#ctl-1-picture img")
    tab.click("#ctl-2-remove")
    tab.wait_for_selector("#ctl-2", state="detached")


def _named(download) -> str:
    """The downloaded file under its own name."""
    path = download.path().with_name(download.suggested_filename)
    download.save_as(path)
    return str(path)


def test_what_is_drawn_anew_is_painted_on_the_picture_to_start_from_and_a_kept_run_brings_it_back(tab, served, photo):
    studio, _ = served
    choose(tab, "ctl-1-net", "Edges")
    tab.click("#ctl-sampling >> text=How to sample")
    tab.set_input_files("#ctl-init input[type=file]", photo)
    tab.wait_for_selector("#ctl-anew .ds-paint[data-shown]")
    assert tab.locator("#ctl-anew [data-mode]").all_inner_texts() == ["Look", "Draw anew"]
    tab.click("#ctl-anew [data-mode=mask]")
    drag(tab, (0.5, 0.1), (0.5, 0.9), "#ctl-anew .ds-paint-board")
    tab.wait_for_selector("#ctl-anew-line >> text=What is not veiled is drawn anew.")
    run(tab)
    asked = studio.asked[-1]
    mask = np.asarray(asked.init_mask.convert("L"))
    assert asked.init_image.size == (200, 160) and mask[8:56, 32].min() == 255 and mask[:, :20].max() == 0
    with tab.expect_download() as kept:
        tab.click("#ctl-keep >> text=Keep it")
        tab.click("#ctl-keep-run")
    tab.reload()
    tab.wait_for_selector("#ctl-1-map .ds-paint[data-shown]")
    tab.set_input_files("#ctl-open input[type=file]", _named(kept.value))
    tab.wait_for_selector("#ctl-status >> text=Opened a run")
    run(tab)
    again = studio.asked[-1]
    assert again.init_mask.tobytes() == asked.init_mask.tobytes() and again.init_image.tobytes() == asked.init_image.tobytes()
    tab.click("#ctl-sampling >> text=How to sample")
    tab.click("#ctl-anew [data-clear]")
    tab.wait_for_function("document.querySelector('#ctl-anew-line').innerText.includes('choose Draw anew')")
    run(tab)
    assert studio.asked[-1].init_mask is None and studio.asked[-1].init_image is not None


def test_with_and_without_and_a_strip_over_scales(tab):
    choose(tab, "ctl-1-net", "Edges")
    tab.get_by_role("tab", name="With and without").click()
    tab.click("#ctl-pair-run")
    tab.wait_for_selector("#ctl-pair-status >> text=Compared 20 with 20 steps")
    tab.get_by_role("tab", name="Strip over scales").click()
    until_settled(tab)
    tab.locator("#ctl-scales input, #ctl-scales textarea").first.fill("0, 1, 2")
    tab.click("#ctl-strip-run")
    tab.wait_for_selector("#ctl-strip-status >> text=Done: 3 pictures")
    assert tab.locator("#ctl-strip-stage .ds-grid-curve svg").count() == 1


