"""The Noise schedules tab in a real Chromium: one's own picture, scrubbing, curves, the strip, exports, the chain."""

import base64
import csv
import re
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from studio import Studio
from studio.media.pictures import load_picture
from studio.media.uploads import open_picture
from studio.process.noising import NoiseOptions, noise_image, working_copy
from tests.browser.conftest import served_panels

STAGE = "#schedules-stage .ds-noiser"
CANVAS = f"{STAGE} [data-stream=x_t] canvas"
IS_ANOTHER = "([selector, key, before]) => document.querySelector(selector).dataset[key] !== before"


@pytest.fixture(scope="module")
def app_url(tmp_path_factory):
    """The tab beside one other."""
    with served_panels(Studio(runs_root=tmp_path_factory.mktemp("runs")), "Noise schedules", "Denoising") as address:
        yield address


def open_tab(page, app_url):
    """The tab with its first picture and schedules drawn."""
    page.goto(app_url)
    page.get_by_role("tab", name="Noise schedules").click()
    page.wait_for_selector(f"{STAGE}[data-t][data-picture][data-schedules][data-view]")


def state(page, key):
    return page.get_attribute(STAGE, f"data-{key}")


def wait_until(page, key, value):
    page.wait_for_function("([selector, key, value]) => document.querySelector(selector).dataset[key] === value", arg=[STAGE, key, str(value)])


def after(page, key, act):
    """Do `act` and wait until data-`key` is another."""
    before = state(page, key)
    act()
    page.wait_for_function(IS_ANOTHER, arg=[STAGE, key, before])


def pixels(page, selector=CANVAS):
    """(H, W, 3) of a canvas as it is drawn now."""
    # As a PNG, which loses nothing: a list of a million numbers takes seconds.
    data = page.eval_on_selector(selector, "(canvas) => canvas.toDataURL('image/png').split(',')[1]")
    with Image.open(BytesIO(base64.b64decode(data))) as image:
        assert image.mode == "RGB" or image.getextrema()[3] == (255, 255)
        return np.asarray(image.convert("RGB"), dtype=int)


def upload(page, path):
    page.set_input_files("#schedules-upload input[type=file]", str(path))


@pytest.fixture
def photograph(tmp_path):
    """A JPEG from a camera held sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "holiday.jpg"
    load_picture("rocket").save(path, quality=92, exif=exif)
    return path


def test_the_tab_opens_on_a_photograph_at_a_middling_timestep(page, app_url):
    open_tab(page, app_url)
    assert state(page, "t") == "250"
    expected = noise_image(working_copy(load_picture("cat")), NoiseOptions(t=250))
    assert np.abs(pixels(page) - np.asarray(expected)).max() <= 1


def test_ones_own_photograph_scrubbed_is_pythons_noise_image(page, app_url, photograph):
    open_tab(page, app_url)
    after(page, "picture", lambda: upload(page, photograph))
    picture = working_copy(open_picture(photograph))
    page.click(CANVAS)
    assert picture.height > picture.width
    slider = page.locator(f"{STAGE} .ds-transport input[type=range]")
    for act, t in [
        (lambda: page.keyboard.press("ArrowRight"), 251), (lambda: page.keyboard.press("Home"), 0), (lambda: page.keyboard.press("End"), 999),
        (lambda: page.keyboard.press("ArrowLeft"), 998), (lambda: slider.fill("123"), 123),
    ]:
        act()
        wait_until(page, "t", t)
        assert np.abs(pixels(page) - np.asarray(noise_image(picture, NoiseOptions(t=t)))).max() <= 1
    assert np.array_equal(pixels(page, f"{STAGE} [data-stream=x0] canvas"), np.asarray(picture))
    assert page.locator("#schedules-example input:checked").count() == 0


def test_scrubbing_asks_nothing_of_the_server(page, app_url):
    open_tab(page, app_url)
    page.click(CANVAS)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/gradio_api/run" in request.url or "/queue/join" in request.url else None)
    for t in range(251, 271):
        page.keyboard.press("ArrowRight")
        wait_until(page, "t", t)
    assert asked == []


def test_the_stage_is_whole_when_its_tab_is_opened_late_and_after_coming_back(page, app_url):
    """The page loads behind another tab; what it was sent then must all be there when the tab is opened."""
    with page.expect_response(lambda response: "/gradio_api/run/predict" in response.url):
        page.goto(app_url)
    open_now = page.get_by_role("tab", name="Noise schedules")
    page.wait_for_function("Boolean(window.Studio && Studio.noiser)")
    open_now.click()
    page.wait_for_selector(f"{STAGE}[data-t][data-picture][data-schedules]")
    before = pixels(page)
    page.get_by_role("tab").last.click()
    page.wait_for_selector(STAGE, state="hidden")
    open_now.click()
    page.wait_for_selector(STAGE)
    assert np.array_equal(pixels(page), before)
    page.click(CANVAS)
    page.keyboard.press("ArrowRight")
    wait_until(page, "t", 251)


def test_keys_reach_the_stage_right_after_a_click_on_its_tab(page, app_url):
    open_tab(page, app_url)
    for key, t in (("ArrowRight", 251), ("ArrowLeft", 250), ("Home", 0), ("End", 999)):
        page.keyboard.press(key)
        wait_until(page, "t", t)
    page.keyboard.press(" ")
    page.wait_for_selector(f"{STAGE} .ds-transport[data-playing=true]")


def test_the_tabs_keep_their_keys_for_those_who_came_by_keyboard(page, app_url):
    open_tab(page, app_url)
    page.keyboard.press("Tab")
    page.wait_for_selector("[role=tab]:focus-visible:text('Denoising')")
    for key in ("ArrowLeft", "ArrowRight", "Home", "End"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.innerText") == "Denoising" and state(page, "t") == "250"
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=tab][aria-selected=true]:text('Denoising')")
    page.wait_for_selector(STAGE, state="hidden")


KEYS_USED = {
    "#schedules-seed input": ["ArrowUp", "ArrowLeft", "Home", "End", " "], "#schedules-chain-t input[type=range]": ["ArrowRight", "End", "Home"],
    "#schedules-example input[type=radio]": ["ArrowLeft", " "], "#schedules-curves input": ["ArrowLeft", " ", "Home"], "#schedules-more button": [" "],
}


def test_controls_keep_the_keys_that_they_use(page, app_url):
    open_tab(page, app_url)
    for selector, keys in KEYS_USED.items():
        page.locator(selector).first.focus()
        for key in keys:
            page.keyboard.press(key)
        assert state(page, "t") == "250" and page.get_attribute(f"{STAGE} .ds-transport", "data-playing") == "false", selector
    # A checkbox has no use for arrows.
    page.locator("#schedules-zero-snr input").focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, "t", 251)


def test_seed_and_schedule_change_the_picture_as_in_python(page, app_url):
    open_tab(page, app_url)
    after(page, "picture", lambda: page.fill("#schedules-seed input", "5"))
    page.get_by_role("button", name="Cosine").first.click()
    wait_until(page, "schedule", "cosine")
    expected = noise_image(working_copy(load_picture("cat")), NoiseOptions(schedule="cosine", t=250, seed=5))
    assert np.abs(pixels(page) - np.asarray(expected)).max() <= 1


def test_the_numbers_beside_the_picture_are_those_of_the_schedule(page, app_url):
    open_tab(page, app_url)
    at = NoiseOptions(t=250).coefficients()

    def shown(name):
        return float(page.inner_text(f"{STAGE} [data-n={name}]").replace("−", "-"))

    assert shown("signal") == pytest.approx(at.sqrt_alpha_bar, abs=1e-4) and shown("noise") == pytest.approx(at.sqrt_one_minus_alpha_bar, abs=1e-4)
    assert shown("snr") == pytest.approx(at.snr, rel=1e-3) and shown("beta") == pytest.approx(at.beta, rel=1e-3)
    assert shown("log_snr") == pytest.approx(at.log_snr, abs=0.01) and shown("sigma") == pytest.approx(at.sigma, rel=1e-3)
    assert f"{100 * at.alpha_bar:.1f} % signal" in page.inner_text(STAGE)


def test_examples_are_one_click_away(page, app_url):
    open_tab(page, app_url)
    for label, name in (("Digit", "digit"), ("Toybox scene", "toybox"), ("Coffee", "coffee")):
        after(page, "picture", page.locator("#schedules-example").get_by_label(label).check)
        assert np.array_equal(pixels(page, f"{STAGE} [data-stream=x0] canvas"), np.asarray(working_copy(load_picture(name))))


def test_clicking_a_curve_goes_to_its_timestep_and_the_point_follows(page, app_url):
    open_tab(page, app_url)
    plot = page.locator(f"{STAGE} [data-curve=log_snr] svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    after(page, "t", lambda: page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.4 * box["height"]))
    assert 600 < int(state(page, "t")) < 850
    point = page.locator(f"{STAGE} [data-curve=log_snr] .ds-now").bounding_box()
    assert abs(point["x"] - (box["x"] + 0.75 * box["width"])) < 4
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.4 * box["height"])
    page.wait_for_selector(f"{STAGE} [data-curve=log_snr] .ds-chart-tip:visible")
    assert "Cosine" in page.inner_text(f"{STAGE} [data-curve=log_snr] .ds-chart-tip")


def test_the_strip_shows_every_schedule_at_the_same_timesteps_and_goes_there(page, app_url):
    open_tab(page, app_url)
    assert page.locator(f"{STAGE} .ds-strip canvas").count() == 18
    page.get_by_role("button", name="Cosine, timestep 749", exact=False).click()
    wait_until(page, "t", 749)
    assert state(page, "schedule") == "cosine"
    expected = noise_image(working_copy(load_picture("cat")), NoiseOptions(schedule="cosine", t=749))
    assert np.abs(pixels(page) - np.asarray(expected)).max() <= 1


def test_schedules_axis_curves_and_respacing_redraw_the_curves(page, app_url):
    open_tab(page, app_url)
    after(page, "schedules", lambda: page.locator("#schedules-names").get_by_label("Flow matching").check())
    assert page.locator(f"{STAGE} .ds-strip canvas").count() == 27
    after(page, "schedules", lambda: page.fill("#schedules-respacing input, #schedules-respacing textarea", "ddim10"))
    assert page.locator(f"{STAGE} [data-curve=log_snr] svg circle:not(.ds-dot), {STAGE} [data-curve=log_snr] svg rect").count() == 30
    after(page, "view", lambda: page.locator("#schedules-axis").get_by_label("log-SNR").check())
    assert "more noise to the right" in page.text_content(f"{STAGE} .ds-curves")
    after(page, "schedules", lambda: page.fill("#schedules-timesteps input", "200"))
    assert 45 <= int(state(page, "t")) <= 55  # the same share of T as before


def test_a_setting_that_makes_no_sense_is_said_on_the_stage_and_changes_nothing_else(page, app_url):
    open_tab(page, app_url)
    before, schedules = pixels(page), state(page, "schedules")
    page.fill("#schedules-respacing input, #schedules-respacing textarea", "ddim600")
    page.wait_for_selector(f"{STAGE} .ds-complaint:visible")
    assert "ddim500" in page.inner_text(f"{STAGE} .ds-complaint")
    assert np.array_equal(pixels(page), before) and state(page, "schedules") == schedules
    page.fill("#schedules-respacing input, #schedules-respacing textarea", "")
    page.wait_for_selector(f"{STAGE} .ds-complaint", state="hidden")


def test_a_picture_from_the_camera_is_noised_as_any_other(page, app_url):
    open_tab(page, app_url)
    picker = page.locator("#schedules-upload")
    picker.get_by_label("Capture from camera").click()
    picker.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#schedules-upload video').videoWidth > 0")
    after(page, "picture", picker.get_by_label("capture photo").click)
    photograph = pixels(page, f"{STAGE} [data-stream=x0] canvas")
    assert photograph.shape == (192, 256, 3)
    assert (photograph[..., 1] > 100).mean() > 0.9 and (photograph[..., 0] < 100).mean() > 0.9
    expected = noise_image(Image.fromarray(photograph.astype(np.uint8)), NoiseOptions(t=250))
    assert np.abs(pixels(page) - np.asarray(expected)).max() <= 1


def test_a_picture_from_the_clipboard_is_noised_as_any_other(page, app_url):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_tab(page, app_url)
    page.evaluate("""async () => {
      const canvas = new OffscreenCanvas(90, 60), context = canvas.getContext("2d");
      context.fillStyle = "teal";
      context.fillRect(0, 0, 90, 60);
      await navigator.clipboard.write([new ClipboardItem({ "image/png": await canvas.convertToBlob({ type: "image/png" }) })]);
    }""")
    picker = page.locator("#schedules-upload")
    # The way back from the camera, whose invitation must not lie over it.
    picker.get_by_label("Capture from camera").click()
    # The studio answers nothing before the picture is there: the field is emptied by the press, and that must not take the picture away.
    asked = []
    page.route("**/gradio_api/queue/join*", lambda route: route.continue_() if asked is None else asked.append(route))
    with page.expect_response(lambda response: "/gradio_api/upload" in response.url), page.expect_request(lambda request: "/queue/join" in request.url):
        picker.get_by_label("Paste from clipboard").click()
    # The route stays: taking it back would let go of what it holds, now and then before it is told to.
    held, asked = asked, None
    after(page, "picture", lambda: [route.continue_() for route in held])
    pasted = pixels(page, f"{STAGE} [data-stream=x0] canvas")
    assert pasted.shape == (60, 90, 3) and (pasted == (0, 128, 128)).all()


@pytest.mark.parametrize(("content", "sentence"), [(b"just words", "This file is not a picture"), (b"", "empty")])
def test_a_bad_upload_is_said_in_a_sentence_and_the_stage_stays(page, app_url, tmp_path, content, sentence):
    open_tab(page, app_url)
    # An upload that went well first: the next one must still reach the studio undecoded.
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "good.png")
    after(page, "picture", lambda: upload(page, tmp_path / "good.png"))
    page.locator("#schedules-upload").get_by_label("Remove Image").click()
    before = pixels(page)
    (tmp_path / "holiday.png").write_bytes(content)
    upload(page, tmp_path / "holiday.png")
    page.get_by_text(re.compile(sentence)).first.wait_for()
    assert np.array_equal(pixels(page), before)
    page.keyboard.press("Home")
    wait_until(page, "t", 0)


def test_exports_are_valid_files(page, app_url, tmp_path):
    open_tab(page, app_url)
    page.locator("#schedules-keep").get_by_text("Keep it").click()
    paths = {}
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as download:
            page.click(f"#schedules-keep-{kind}")
        assert download.value.suggested_filename == f"noise-schedules.{kind}"
        paths[kind] = tmp_path / f"curves.{kind}"
        download.value.save_as(paths[kind])
    with Image.open(paths["png"]) as image:
        image.load()
        assert image.format == "PNG" and image.width > 800
    assert ElementTree.parse(paths["svg"]).getroot().tag.endswith("svg")
    with paths["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2000 and float(rows[250]["alpha_bar"]) == NoiseOptions(t=250).coefficients().alpha_bar


def test_the_chain_runs_with_progress_and_ends_with_a_verdict(page, app_url):
    open_tab(page, app_url)
    page.click("#schedules-run")
    page.wait_for_selector(".ds-chain[data-state=done]")
    verdict = page.inner_text(".ds-chain .ds-verdict")
    assert verdict.startswith("Yes: 251 single steps and one jump") and "standard errors" in verdict
    assert page.locator(".ds-chain .ds-moments tbody tr").count() == 6
    assert page.locator(".ds-chain .ds-histogram .ds-line").count() == 3
    sizes = page.eval_on_selector_all(".ds-chain .ds-pane img", "images => images.map((image) => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[256, 170], [256, 170]]


def test_the_chain_stops_and_keeps_what_it_has(page, app_url):
    open_tab(page, app_url)
    after(page, "schedules", lambda: page.fill("#schedules-timesteps input", "10000"))
    page.wait_for_function("document.querySelector('#schedules-chain-t input[type=range]').max === '9999'")
    page.fill("#schedules-chain-t input[type=number]", "9999")
    page.keyboard.press("Tab")
    page.click("#schedules-run")
    page.wait_for_selector(".ds-chain[data-state=running] img:visible")
    page.click("#schedules-stop")
    page.wait_for_selector(".ds-chain[data-state=stopped]")
    assert re.search(r"Stopped at step \d+ of 10000", page.inner_text(".ds-chain .ds-caption"))
    assert page.locator(".ds-chain [data-way=chain] img").is_visible()


def test_a_progress_that_comes_after_stop_does_not_set_the_chain_going_again(page, app_url):
    open_tab(page, app_url)
    states = page.evaluate("""() => {
      const element = document.createElement("div"), props = {}, states = [];
      element.innerHTML = '<div class="ds-chain"></div>';
      let receive;
      Studio.chain(element, props, (name, changed) => { receive = changed; });
      for (const [run, state] of [["a", "running"], ["a", "stopped"], ["a", "running"], ["b", "running"]]) {
        props.result = { run, state, index: 1, num_steps: 9, words: `${state} ${run}` };
        receive();
        states.push(element.querySelector(".ds-caption").textContent);
      }
      return states;
    }""")
    assert states == ["running a", "stopped a", "stopped a", "running b"]


def test_a_narrow_window_stacks_with_the_stage_first_and_never_scrolls_sideways(page, app_url):
    page.set_viewport_size({"width": 390, "height": 800})
    open_tab(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    stage, controls, chain = (page.locator(selector).bounding_box()["y"] for selector in (STAGE, "#schedules-names", "#schedules-run"))
    assert stage < controls < chain
    boxes = [page.locator(f"{STAGE} [data-stream={name}] canvas").bounding_box() for name in ("x0", "x_t")]
    assert abs(boxes[0]["y"] - boxes[1]["y"]) < 2 and boxes[0]["width"] > 140 and boxes[1]["x"] + boxes[1]["width"] <= 390
