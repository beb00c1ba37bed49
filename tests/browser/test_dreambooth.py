"""The DreamBooth tab in a real browser, with real runs of a tiny random model: upload, train, reload, stop, resume, use, delete."""

import re
import shutil
import time
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from tests.browser.conftest import until_settled

ROOT = Path(__file__).parents[2]
DOMINO = sorted(str(path) for path in (ROOT / "assets" / "examples" / "domino").glob("*.png"))
STAGE = "#dreambooth-stage .ds-follow"
PATIENCE_MS = 400_000  # a run loads torch and diffusers in a process of its own


@pytest.fixture
def tab(page, app_url):
    page.set_default_timeout(PATIENCE_MS)
    open_tab(page, app_url)
    return page


def open_tab(page, app_url):
    page.goto(app_url)
    page.get_by_role("tab", name="DreamBooth").click()
    page.wait_for_selector("#dreambooth-train")
    page.wait_for_selector(f"{STAGE}[data-state]")


def fill(page, name, value):
    page.fill(f"#dreambooth-{name} input, #dreambooth-{name} textarea", str(value))


def value_of(page, name):
    return page.input_value(f"#dreambooth-{name} input, #dreambooth-{name} textarea")


def set_options(page, tiny_sd, **options):
    """Fill the form for the tiny model."""
    page.click("#dreambooth-more button")
    page.wait_for_selector("#dreambooth-resolution input")
    small = {"resolution": 32, "batch-size": 2, "num-class-images": 4, "class-steps": 2, "validation-steps": 2, "sample-every": 5, "checkpoint-every": 5}
    for name, value in {**small, **options}.items():
        fill(page, name, value)
    fill(page, "base", tiny_sd)
    page.press("#dreambooth-base input", "Enter")


def wait_for_state(page, *states):
    page.wait_for_selector(", ".join(f"{STAGE}[data-state={state}]" for state in states))


def steps(page):
    return int(page.get_attribute(STAGE, "data-step") or 0)


def test_five_pictures_are_taught_across_reload_stop_and_resume_and_the_subject_is_in_the_other_tab(tab, app_url, tiny_sd, runs_root, no_run_left):
    tab.set_input_files("#dreambooth-pictures input[type=file]", DOMINO)
    tab.wait_for_function("document.querySelectorAll('#dreambooth-seen .grid-container img, #dreambooth-seen .thumbnail-item img').length >= 5")
    fill(tab, "name", "taught")
    set_options(tab, tiny_sd, steps=100000)
    tab.click("#dreambooth-train")
    wait_for_state(tab, "starting", "running")
    tab.wait_for_function(f"Number(document.querySelector('{STAGE}').dataset.step) >= 6")
    assert tab.locator(f"{STAGE} .ds-line[d*=L]").count() >= 4 and "left" in tab.inner_text(f"{STAGE} .ds-title-text")

    # Nobody chose it there: the page is older than the first run.
    tab.get_by_role("tab", name="Runs").click()
    tab.wait_for_selector("#runs-stage .ds-follow[data-run=taught][data-state=running]")
    tab.wait_for_selector("#runs-stop:not([disabled])")

    open_tab(tab, app_url)
    tab.wait_for_selector(f"{STAGE}[data-run=taught][data-state=running]")
    tab.wait_for_selector(f"{STAGE} .ds-follow-picture img[src*='file=']")
    tab.wait_for_selector("#dreambooth-stop:not([disabled])")
    tab.click("#probe-after")
    tab.wait_for_selector("#probe-status >> text=The run 'taught' has not finished; wait for its end, or resume it.")
    tab.click("#dreambooth-stop")
    wait_for_state(tab, "stopped")
    message = tab.inner_text(f"{STAGE} .ds-follow-message")
    stopped = int(re.match(r"Stopped after step (\d+) of 100000; everything up to there is saved", message)[1])
    assert stopped >= 6 and steps(tab) == stopped

    # What is left is cut short, so that the run comes to its end.
    options = runs_root / "taught" / "options.toml"
    options.write_text(options.read_text().replace("steps = 100000", f"steps = {stopped + 5}"))
    tab.click("#dreambooth-resume")
    wait_for_state(tab, "finished")
    assert steps(tab) == stopped + 5

    tab.click("#probe-after")
    tab.wait_for_selector("#dreambooth-sheet .ds-sheet[data-state=done] .ds-title-text >> text=/^“/")
    assert tab.locator("#dreambooth-sheet tbody img").count() == 8
    assert "Root mean square change" in tab.inner_text("#dreambooth-sheet .ds-sheet-note")
    tab.click("#probe-matrix")
    # Not by its state: a quick one is done before its "drawing" was seen.
    tab.wait_for_selector("#dreambooth-sheet .ds-sheet[data-state=done]:has-text('checkpoints by denoising steps')")
    assert tab.locator("#dreambooth-sheet tbody img").count() >= 8

    tab.get_by_role("tab", name="Text to image").click()
    until_settled(tab)
    tab.click("#t2i-model input")
    tab.get_by_role("option", name="taught (DreamBooth run)").click()
    tab.fill("#t2i-prompt textarea", "a sks cat")
    tab.fill("#t2i-steps input", "3")
    tab.click("#t2i-run")
    tab.wait_for_function("document.querySelector('#t2i-status').innerText.startsWith('Done: 3 steps')")

    tab.get_by_role("tab", name="Runs").click()
    tab.click("#runs-list tr[data-run=taught] button")
    tab.wait_for_selector("#runs-stage .ds-follow[data-run=taught][data-state=finished]")
    tab.click("#runs-delete")
    tab.click("#runs-sure")
    tab.wait_for_selector("#runs-list tr[data-run=taught]", state="detached")
    assert not (runs_root / "taught").exists() and not (runs_root / "uploads" / "taught").exists()


def test_the_example_fills_the_form_and_a_preset_fills_the_options(tab):
    tab.click("#dreambooth-example")
    tab.wait_for_selector("#dreambooth-seen img")
    assert value_of(tab, "name").startswith("domino") and value_of(tab, "token") == "sks"
    assert tab.locator("#dreambooth-rank").count() == 0 or not tab.is_visible("#dreambooth-rank")
    tab.click("#dreambooth-preset input")
    tab.get_by_role("option", name="SD 1.5 LoRA, 8 GB").click()
    tab.wait_for_selector("#dreambooth-rank input:visible")
    assert value_of(tab, "steps") == "800" and value_of(tab, "lr") == "0.0001" and value_of(tab, "rank") == "16"
    assert "Half precision" in tab.inner_text("#dreambooth-preset")


def test_what_cannot_be_is_said_in_a_sentence_and_nothing_starts(tab, tmp_path, runs_root):
    (tmp_path / "text.png").write_text("not a picture")
    tab.set_input_files("#dreambooth-pictures input[type=file]", [DOMINO[0], str(tmp_path / "text.png")])
    tab.wait_for_function("document.querySelector('#dreambooth-status').innerText.includes('text.png: This file is not a picture')")
    before = sorted(path.parent.name for path in runs_root.glob("*/state.json"))
    fill(tab, "name", "bad")
    tab.click("#dreambooth-train")
    tab.wait_for_selector(".toast-body:has-text('text.png')")
    fill(tab, "name", "a/b")
    tab.click("#dreambooth-train")
    tab.wait_for_selector(".toast-body:has-text('letters, digits')")
    assert sorted(path.parent.name for path in runs_root.glob("*/state.json")) == before


def test_any_trainer_is_started_from_toml_and_two_runs_are_compared(tab, runs_root, no_run_left):
    tab.get_by_role("tab", name="Runs").click()
    tab.click("#runs-new button")
    lines = 'data = "digits"', 'widths = "16,32"', "resolution = 8", "attention_from = 5", "batch_size = 8", "sample_every = 0", "tensorboard = false"
    tab.fill("#runs-name input, #runs-name textarea", "first")
    tab.fill("#runs-toml textarea", "\n".join([*lines, "steps = 12"]))
    tab.click("#runs-start")
    tab.wait_for_selector("#runs-list tr[data-run=first][data-state=finished]")
    # A second of its kind, as another terminal leaves one.
    shutil.copytree(runs_root / "first", runs_root / "second")
    tab.wait_for_selector("#runs-list tr[data-run=second][data-state=finished]")
    tab.click("#runs-list tr[data-run=first] button")
    tab.wait_for_selector("#runs-stage .ds-follow[data-run=first]")
    tab.click("#runs-compare input")
    tab.get_by_role("option", name="second").click()
    tab.wait_for_function("document.querySelectorAll('#runs-stage .ds-line[d*=L]').length === 2")
    tab.click("#runs-stage .ds-follow-command summary")
    assert "python -m trainers.ddpm --config" in tab.inner_text("#runs-stage .ds-follow-command pre")
    tab.fill("#runs-toml textarea", "steps = 'many'")
    tab.fill("#runs-name input, #runs-name textarea", "third")
    tab.click("#runs-start")
    tab.wait_for_selector(".toast-body:has-text('steps must be a whole number')")


def test_train_and_follow_over_the_wire(app_url, tiny_sd, no_run_left):
    client = Client(app_url, verbose=False)
    client.predict(
        pictures=[handle_file(path) for path in DOMINO[:2]], name="wired", base=tiny_sd, resolution=32, method="lora", rank=2, steps=2, prior=False,
        sample_every=0, validation_steps=2, api_name="/train",
    )
    end = time.monotonic() + PATIENCE_MS / 1000
    while (status := client.predict(name="wired", api_name="/run_status"))["state"] in ("waiting", "starting", "running"):
        assert time.monotonic() < end
        time.sleep(0.5)
    assert status["state"] == "finished" and Path(status["model"], "pytorch_lora_weights.safetensors").is_file(), status
