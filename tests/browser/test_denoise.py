"""The Denoising tab in a real browser, over a backend without a model: frames, stop, scrubbing, files, both themes."""

import dataclasses
import re
import statistics
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from PIL import Image

from studio.models.device import Work
from studio.options import SampleOptions
from studio.sampling.export import frames, read_options
from tabs.denoise import create_tab, record
from tabs.parts.blocks import StudioBlocks
from tabs.parts.page import PAGE
from tabs.parts.running import finished
from tests.tabs.fakes import FakeStudio

FILM = ".ds-stage[data-kind=film]"
LIVE = ".ds-stage[data-kind=live]"
OPENING = SampleOptions(model="disc", num_steps=24, num_images=4, seed=7)
OWN_FILM = f"{FILM}:not([data-run=opening])"


@pytest.fixture(scope="module")
def served():
    studio = FakeStudio()
    with pytest.MonkeyPatch.context() as patch, StudioBlocks(analytics_enabled=False) as demo:
        # The recorded run of the real model is another test's.
        patch.setattr("tabs.denoise.recorded", lambda *_: record(FakeStudio(), OPENING).places["stage"])
        create_tab(studio)
    _, url, _ = demo.queue().launch(
        prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", footer_links=[], **PAGE,
    )
    yield studio, url
    demo.close()


@pytest.fixture
def tab(page, served):
    """The tab with its opening run at the last step, and a quick backend."""
    studio, url = served
    studio.step_s, studio.fail_at = 0.0, None
    page.goto(url)
    page.wait_for_selector(FILM)
    page.keyboard.press("End")
    page.wait_for_selector(".ds-stage[data-step='23']")
    return page


def step(page) -> int:
    return int(page.locator(".ds-stage").get_attribute("data-step"))


def at_step(page, index: int) -> None:
    page.wait_for_selector(f".ds-stage[data-step='{index}']")
    assert f"step {index + 1} of" in page.locator(".ds-title .ds-caption").inner_text()
    assert page.locator(".ds-count").inner_text().startswith(f"step {index + 1} of")


def canvas(page, stream: str) -> list[int]:
    """The pixels of a pane, RGBA row by row, as the page drew them."""
    return page.evaluate("""(name) => {
      const c = document.querySelector(`.ds-pane[data-stream=${name}] canvas`);
      return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data];
    }""", stream)


def run(page, **values) -> None:
    for name, value in values.items():
        page.fill(f"#denoise-{name} input", str(value))
    page.click("#denoise-run")


def ran(page, **values) -> None:
    run(page, **values)
    page.wait_for_selector(OWN_FILM)


# --- the first second ----------------------------------------------------------------------------------------

def test_the_page_opens_with_a_recorded_run_that_plays(page, served):
    page.goto(served[1])
    page.wait_for_selector(FILM)
    assert page.locator(".ds-stage").get_attribute("data-run") == "opening"
    page.wait_for_function("Number(document.querySelector('.ds-stage').dataset.step) > 2")
    assert served[0].asked == [] or served[0].asked[-1].seed != 7


def test_nothing_is_fetched_from_elsewhere(page, served):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served[1])
    page.wait_for_selector(FILM)
    assert [url for url in asked if not re.match(r"(https?://127\.0\.0\.1|data:|blob:)", url)] == []


def test_a_visitor_who_wants_no_motion_gets_the_last_step_at_rest(page, served):
    page.emulate_media(reduced_motion="reduce")
    page.goto(served[1])
    page.wait_for_selector(".ds-stage[data-step='23']")
    assert page.locator(".ds-transport").get_attribute("data-playing") == "false"


# --- running -------------------------------------------------------------------------------------------------

def test_a_run_shows_live_frames_and_then_its_film(tab, served):
    served[0].step_s = 0.06
    tab.evaluate("""() => { window.seen = []; new MutationObserver(() => {
      const stage = document.querySelector(".ds-stage");
      if (stage.dataset.kind === "live") window.seen.push(Number(stage.dataset.step));
    }).observe(document.querySelector(".ds-stage"), { attributes: true }); }""")
    ran(tab, steps=25, images=2)
    seen = tab.evaluate("window.seen")
    assert len(set(seen)) > 3 and seen == sorted(seen)
    at_step(tab, 24)
    tab.wait_for_selector("text=Done: 25 steps")
    tab.wait_for_selector("#denoise-stop:disabled")


def test_stop_says_where_and_keeps_the_steps(tab, served):
    served[0].step_s = 0.05
    run(tab, steps=400)
    tab.wait_for_function(f"document.querySelector('{LIVE}') && Number(document.querySelector('.ds-stage').dataset.step) >= 2")
    tab.click("#denoise-stop")
    tab.wait_for_selector(OWN_FILM)
    tab.wait_for_function("document.querySelector('#denoise-status').innerText.includes('Stopped at step')")
    done = int(re.search(r"Stopped at step (\d+) of 400", tab.locator("#denoise-status").inner_text())[1])
    assert 2 < done < 400 and tab.locator(".ds-stage").get_attribute("data-complete") == "false"
    tab.keyboard.press("Home")
    at_step(tab, 0)
    tab.keyboard.press("End")
    at_step(tab, done - 1)


def test_a_second_run_replaces_the_first(tab, served):
    served[0].step_s = 0.05
    run(tab, steps=400, seed=1)
    tab.wait_for_selector(LIVE)
    run(tab, steps=3, seed=2)
    tab.wait_for_selector(".ds-stage[data-complete=true]:not([data-run=opening])")
    assert "seed 2" in tab.locator(".ds-title-text").inner_text()


def test_two_visitors_stop_only_their_own_run(tab, served):
    served[0].step_s = 0.05
    other = tab.context.browser.new_page()
    other.set_default_timeout(60_000)
    try:
        other.goto(served[1])
        other.wait_for_selector(FILM)
        run(tab, steps=1000, seed=5)
        tab.wait_for_selector(LIVE)
        # While a third has the device, nobody gets on: the second waits however slow its page is.
        with served[0].device.ask("a third", Work(name="something else", whole=True)) as turn:
            turn.wait()
            run(other, steps=3, seed=6)
            other.click("#denoise-stop:enabled")
            other.wait_for_selector("text=Stopped before the first step.")
        before = step(tab)
        tab.wait_for_function(f"Number(document.querySelector('{LIVE}').dataset.step) > {before + 3}")
        tab.click("#denoise-stop")
        tab.wait_for_selector("text=Stopped at step")
        assert other.locator("#denoise-status").inner_text() == "Stopped before the first step."
        assert other.locator(".ds-stage").get_attribute("data-run") == "opening"
    finally:
        other.close()


def test_a_stop_that_is_answered_after_the_end_leaves_what_is_said_of_the_end(tab, served):
    served[0].step_s = 0.05
    run(tab, steps=400)
    tab.wait_for_selector(LIVE)
    answers = []
    # The studio gets the press, and the page its answer only later.
    tab.route("**/gradio_api/run/predict*", lambda route: answers.append((route, route.fetch())))
    tab.click("#denoise-stop")
    tab.wait_for_selector("#denoise-status:has-text('Stopped at step')")
    [(route, answer)] = answers
    with tab.expect_response(lambda response: response.request == route.request):
        route.fulfill(response=answer)
    # Two frames: what the answer changes is drawn.
    tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert tab.locator("#denoise-status").inner_text().startswith("Stopped at step")


def test_an_option_that_makes_no_sense_keeps_the_stage_and_says_what_to_do(tab):
    before = canvas(tab, "x0_hat")
    run(tab, steps=0)
    tab.wait_for_selector("text=num_steps must be a whole number")
    assert canvas(tab, "x0_hat") == before and step(tab) == 23


def test_a_run_that_fails_midway_keeps_its_last_frame(tab, served):
    served[0].fail_at, served[0].step_s = 4, 0.5
    run(tab, steps=9, images=1)
    tab.wait_for_selector(LIVE)
    tab.wait_for_selector("text=The run failed")
    assert "choose fewer images" in tab.locator("#denoise-status").inner_text()
    assert tab.evaluate("document.querySelector('.ds-pane canvas').width") == 32 and max(canvas(tab, "x0_hat")[:3]) > 0
    assert not tab.locator(".ds-progress").is_visible()
    tab.wait_for_selector("#denoise-stop:disabled")


# --- scrubbing -----------------------------------------------------------------------------------------------

def test_keys_slider_buttons_and_curve_go_to_the_same_steps(tab):
    tab.keyboard.press("Home")
    at_step(tab, 0)
    tab.keyboard.press("ArrowRight")
    at_step(tab, 1)
    tab.click(".ds-forward")
    at_step(tab, 2)
    tab.keyboard.press("ArrowLeft")
    at_step(tab, 1)
    tab.locator(".ds-transport input[type=range]").fill("11")
    at_step(tab, 11)
    box = tab.locator(".ds-curve-chart svg").bounding_box()
    tab.mouse.click(box["x"] + box["width"] - 12, box["y"] + 60)
    at_step(tab, 23)


def test_space_plays_and_pauses_and_typing_does_not_scrub(tab):
    tab.keyboard.press("Home")
    tab.keyboard.press(" ")
    tab.wait_for_function("Number(document.querySelector('.ds-stage').dataset.step) >= 2")
    tab.keyboard.press(" ")
    assert tab.locator(".ds-transport").get_attribute("data-playing") == "false"
    rested = step(tab)
    tab.click("#denoise-seed input")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Home")
    assert step(tab) == rested


def test_scrubbing_asks_nothing_of_the_server_and_draws_the_very_pixels(tab):
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.click(".ds-pane[data-stream=x0_hat] canvas", position={"x": 20, "y": 20})
    trajectory = finished(FakeStudio(), OPENING)
    from studio.media.images import to_pixels

    for index in (0, 9, 23):
        tab.locator(".ds-transport input[type=range]").fill(str(index))
        at_step(tab, index)
        for stream in ("x_t", "x0_hat"):
            drawn = canvas(tab, stream)
            expected = to_pixels(trajectory.stream(stream)[index, 0])
            assert [drawn[i] for i in range(len(drawn)) if i % 4 < 3] == expected.flatten().tolist()
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def test_a_step_change_is_drawn_and_its_time_is_printed(tab):
    times, frames = tab.evaluate("""async () => {
      const slider = document.querySelector(".ds-transport input[type=range]"), times = [], frames = [];
      const nextFrame = () => new Promise(requestAnimationFrame);
      for (let i = 0; i < 100; i++) {
        slider.value = i % 24;
        await nextFrame();
        const start = performance.now();
        slider.dispatchEvent(new Event("input"));
        times.push(Studio.lastDrawMs);
        if (Number(document.querySelector(".ds-stage").dataset.step) !== i % 24) throw new Error("not drawn");
        await nextFrame();
        frames.push(performance.now() - start);
      }
      return [times, frames];
    }""")
    print(f"\nstep change: drawn in {statistics.median(times):.2f} ms, on the screen in {statistics.median(frames):.1f} ms (medians of {len(times)})")
    assert len(times) == 100


def test_a_click_shows_one_picture_alone_and_full_view_follows_the_step(tab):
    wide = tab.evaluate("document.querySelector('.ds-pane canvas').width")
    tab.click(".ds-pane[data-stream=x_t] canvas", position={"x": 15, "y": 15})
    assert wide > 64 and tab.evaluate("document.querySelector('.ds-pane canvas').width") == 32
    tab.click(".ds-pane[data-stream=x0_hat] .ds-open-full")
    tab.keyboard.press("Home")
    assert "step 1 of 24" in tab.locator("dialog .ds-caption").inner_text()
    with tab.expect_download() as caught:
        tab.click(".ds-download")
    with Image.open(caught.value.path()) as picture:
        assert picture.size == (512, 512)
    tab.keyboard.press("Escape")
    tab.click(".ds-all")
    assert tab.evaluate("document.querySelector('.ds-pane canvas').width") == wide


def test_a_picture_saved_from_the_full_view_carries_the_options_that_make_it(tab):
    ran(tab, steps=6, images=3, seed=41)
    tab.click(".ds-pane[data-stream=x0_hat] .ds-open-full")
    together = saved_from_full_view(tab)
    assert (together.seed, together.num_images, together.num_steps) == (41, 3, 6)
    tab.keyboard.press("Escape")
    box = tab.locator(".ds-pane[data-stream=x0_hat] canvas").bounding_box()
    tab.click(".ds-pane[data-stream=x0_hat] canvas", position={"x": 0.75 * box["width"], "y": 0.25 * box["height"]})
    tab.click(".ds-pane[data-stream=x0_hat] .ds-open-full")
    assert saved_from_full_view(tab) == dataclasses.replace(together, seed=42, num_images=1)


def saved_from_full_view(page) -> SampleOptions:
    """Download it, decode it as Pillow does with every checksum checked, and read what it carries."""
    shown = page.eval_on_selector("dialog canvas", "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    with page.expect_download() as caught:
        page.click(".ds-download")
    with Image.open(caught.value.path()) as picture:
        picture.verify()
    with Image.open(caught.value.path()) as picture:
        width, height = page.eval_on_selector("dialog canvas", "c => [c.width, c.height]")
        assert list(picture.convert("RGBA").resize((width, height), Image.Resampling.NEAREST).tobytes()) == shown
    return read_options(caught.value.path())


def test_eps_hat_joins_as_a_third_pane(tab):
    assert tab.locator(".ds-pane:visible").count() == 2
    tab.click(".ds-eps")
    assert tab.locator(".ds-pane:visible").count() == 3
    sizes = {(round(box["width"]), round(box["height"])) for box in (pane.bounding_box() for pane in tab.locator(".ds-pane:visible canvas").all())}
    assert len(sizes) == 1


# --- files ---------------------------------------------------------------------------------------------------

def keep(page, kind: str, folder: Path) -> Path:
    if not page.locator(f"#denoise-keep-{kind}").is_visible():
        page.click("#denoise-keep > button")
    with page.expect_download() as caught:
        page.click(f"#denoise-keep-{kind}")
    path = folder / caught.value.suggested_filename
    caught.value.save_as(path)
    return path


def test_a_run_file_goes_out_and_comes_back_without_a_model(tab, served, tmp_path):
    ran(tab, steps=6, images=1, seed=11)
    path = keep(tab, "run", tmp_path)
    assert path.suffix == ".safetensors"
    tab.keyboard.press("End")
    before, asked = canvas(tab, "x0_hat"), len(served[0].asked)
    tab.reload()
    tab.wait_for_selector(FILM)
    tab.set_input_files("#denoise-open input[type=file]", path)
    tab.wait_for_selector("text=Run file disc-ddim-seed11.safetensors")
    tab.keyboard.press("End")
    at_step(tab, 5)
    assert canvas(tab, "x0_hat") == before and len(served[0].asked) == asked
    assert tab.input_value("#denoise-seed input") == "11" and tab.input_value("#denoise-steps input") == "6"


def test_a_kept_picture_dropped_on_the_stage_restores_its_options(tab, tmp_path):
    ran(tab, steps=6, images=1, seed=12)
    path = keep(tab, "png", tmp_path)
    tab.reload()
    tab.wait_for_selector(FILM)
    transfer = tab.evaluate_handle("""(bytes) => { const t = new DataTransfer();
      t.items.add(new File([new Uint8Array(bytes)], "kept.png", { type: "image/png" })); return t; }""", list(path.read_bytes()))
    tab.dispatch_event(".ds-stage", "drop", {"dataTransfer": transfer})
    tab.wait_for_selector("text=The options of this picture are set")
    assert tab.input_value("#denoise-seed input") == "12" and tab.input_value("#denoise-steps input") == "6"


def test_a_cut_run_file_gets_a_sentence_and_the_stage_stays(tab, tmp_path):
    before = canvas(tab, "x_t")
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x10\x00\x00")
    tab.set_input_files("#denoise-open input[type=file]", path)
    tab.wait_for_selector("text=This run file cannot be read")
    assert canvas(tab, "x_t") == before


@pytest.mark.parametrize(("kind", "magic"), [("gif", b"GIF8"), ("sheet", b"\x89PNG")])
def test_films_and_sheets_are_downloaded(tab, tmp_path, kind, magic):
    ran(tab, steps=4, images=2)
    assert keep(tab, kind, tmp_path).read_bytes().startswith(magic)


def test_the_film_that_is_downloaded_shows_the_run_on_the_stage(tab, served, tmp_path):
    ran(tab, steps=4, images=2)
    path = keep(tab, "mp4", tmp_path)
    assert path.name == "disc-ddim-seed0-both.mp4"
    trajectory = list(served[0].sample(served[0].asked[-1]))[-1].trajectory
    film, shown = frames(trajectory, "both"), imageio.imread(path, plugin="FFMPEG")
    # Four steps and the picture, which is held for 1.5 s at 12 frames a second.
    assert len(shown) == 5 + 18 and imageio.immeta(path, plugin="FFMPEG")["fps"] == 12
    height, width = film.shape[1:3]
    error = np.abs(shown[:5, :height, :width].astype(float) - film).mean(axis=(1, 2, 3))
    assert error.max() < 12 and error[-1] < 4


# --- controls and looks --------------------------------------------------------------------------------------

def choose(page, name: str, label: str) -> None:
    page.click(f"#denoise-{name} input")
    page.click(f"ul[role=listbox] >> text='{label}'")


def test_controls_follow_the_model_and_the_scheduler(tab):
    choose(tab, "model", "Rings")
    tab.wait_for_selector("#denoise-class", state="hidden")
    assert tab.input_value("#denoise-steps input") == "10"
    choose(tab, "scheduler", "Euler")
    tab.wait_for_selector("#denoise-eta", state="hidden")
    tab.wait_for_selector("text=First-order ODE step")
    ran(tab, images=1)
    assert "disc" not in tab.locator(".ds-title-text").inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_legible(page, served, theme):
    page.goto(f"{served[1]}?__theme={theme}")
    page.wait_for_selector(FILM)
    contrast = page.evaluate("""() => {
      const value = (name) => { const probe = document.createElement("i"); probe.style.color = `var(${name})`;
        document.querySelector(".ds-stage").append(probe); const c = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number); probe.remove(); return c; };
      const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      const luminance = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255)).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
      const paper = luminance(value("--ds-paper"));
      return Object.fromEntries(["--ds-ink", "--ds-muted", "--ds-signal", "--ds-noise", "--ds-accent"].map((name) => {
        const other = luminance(value(name)); return [name, (Math.max(paper, other) + 0.05) / (Math.min(paper, other) + 0.05)]; }));
    }""")
    assert min(contrast.values()) >= 4.5 and contrast["--ds-ink"] >= 10
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", dark)[:3])) < 150) == (theme == "dark")


def test_a_narrow_window_stacks_with_the_stage_first_and_does_not_scroll_sideways(tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.wait_for_function("document.querySelector('.ds-stage').clientWidth < 390")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    stage, controls = tab.locator(".ds-stage-column").bounding_box(), tab.locator(".ds-controls").bounding_box()
    assert stage["y"] + stage["height"] <= controls["y"] + 1
