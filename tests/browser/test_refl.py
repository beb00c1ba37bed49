"""The ReFL tab in a real browser, with a real run of a tiny random model: tune, watch, stop, compare, promote, rank blind."""

from tests.browser.conftest import until_settled

PATIENCE_MS = 400_000  # a run loads torch and diffusers in a process of its own
STAGE = "#refl-stage .ds-follow"


def fill(page, name, value):
    page.fill(f"#refl-{name} input, #refl-{name} textarea", str(value))


def choose(page, name, value):
    fill(page, name, value)
    page.press(f"#refl-{name} input", "Enter")


def test_a_model_is_tuned_watched_stopped_compared_promoted_and_ranked_blind(page, app_url, tiny_sd, runs_root, no_run_left):
    page.set_default_timeout(PATIENCE_MS)
    page.goto(app_url)
    page.get_by_role("tab", name="ReFL").click()
    page.wait_for_selector(f"{STAGE}[data-state=example]")

    page.click("#refl-more button")
    page.wait_for_selector("#refl-resolution input")
    small = {
        "resolution": 32, "batch-size": 2, "num-steps": 4, "stop-low": 2, "stop-high": 3, "pretrain-pictures": 4, "pretrain-batch": 2, "validation-prompts": 2,
        "validation-samples": 2, "validation-steps": 2, "sample-every": 2, "checkpoint-every": 2, "prompt-limit": 8, "steps": 100000, "pretrain-data": "base",
        "lr": 0.002,
    }
    for name, value in small.items():
        fill(page, name, value)
    for name, value in (("base", tiny_sd), ("rewards", "jpeg_size"), ("judge", "sharpness")):
        choose(page, name, value)
    fill(page, "name", "tuned-here")
    page.click("#refl-train")
    page.wait_for_selector("text=/has no gradient .* Diffusion-DPO/")
    assert not (runs_root / "tuned-here").exists()

    choose(page, "rewards", "redness")
    page.uncheck("#refl-stop-on-alarm input")
    page.click("#refl-train")
    # Until then the recorded example is shown.
    page.wait_for_selector(f"{STAGE}[data-state=running]")
    page.wait_for_function("Number(document.querySelector('#refl-watched .ds-tuning').dataset.looks) >= 2")
    assert page.locator("#refl-watched figure:visible").count() == 6
    page.wait_for_selector(f"{STAGE} .ds-follow-picture img[src*='file=']")
    assert page.locator(f"{STAGE} .ds-follow-heads span").all_inner_texts()[0] == "before" and page.locator(f"{STAGE} .ds-follow-prompts span").count() == 2
    page.click("#refl-stop")
    page.wait_for_selector(f"{STAGE}[data-state=stopped]")

    page.click("#refl-second input")
    page.get_by_role("option", name="Step 2", exact=True).click()
    page.click("#refl-scorers input")
    page.get_by_role("option", name="Redness").click()
    page.click("#refl-draw-run")
    page.wait_for_selector("#refl-sheet .ds-sheet[data-state=done] .ds-sheet-note:has-text('redness:')")
    assert page.locator("#refl-sheet tbody img").count() >= 8

    page.click("#refl-promote")
    page.wait_for_selector("#refl-promoted:has-text('Step 2 of tuned-here is in the menus of models now.')")
    fill(page, "count", 2)
    page.click("#refl-blind")
    page.wait_for_selector("#refl-blind-status:has-text('2 comparisons are in the collection')")
    page.wait_for_selector("#refl-duel:has-text('nothing was ranked yet')")

    page.get_by_role("tab", name="Text to image").click()
    until_settled(page)
    page.click("#t2i-model input")
    page.get_by_role("option", name="tuned-here, step 2 (promoted)").wait_for()
