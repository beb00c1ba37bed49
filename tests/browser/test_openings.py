"""What each tab shows before anything is pressed, in a real browser on the real app."""

import re

# By tab, then area: what is there once the recording is drawn.
SHOWN = {
    ("Denoising", ""): "#denoise-stage .ds-stage[data-run=opening]",
    ("Text to image", ""): "#t2i-stage .ds-stage[data-run=opening]",
    ("Text to image", "Compare"): "#pair-stage .ds-compare[data-meetings] >> text=A recorded comparison",
    ("Text to image", "Grid"): "#grid-stage [data-done='16'] >> text=A recorded grid",
    ("Text to image", "Anatomy"): "#anatomy-trip [data-psnr] >> text=A recorded look at",
    ("One step or many", ""): "#contrast-stage .ds-contrast[data-state=recorded]",
    ("DreamBooth", ""): "#dreambooth-stage .ds-follow[data-state=example] img[src*='file=']",
    ("Score", ""): "#score-stage .ds-scores[data-done=true] >> text=Recorded scores",
    ("Score", "Along a run"): "#along-stage .ds-stage[data-run=opening][data-rewards]",
    ("ReFL", ""): "#refl-stage .ds-follow[data-state=example] img[src*='file=']",
    ("Runs", ""): "#runs-list tr[data-state=example]",
}


def to_tab(page, tab: str, area: str = "") -> None:
    page.get_by_role("tab", name=re.compile(tab)).first.click()
    if area:
        page.get_by_role("tab", name=area, exact=True).click()


def test_every_tab_opens_with_something_recorded(page, app_url):
    failed = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.goto(app_url)
    for (tab, area), shown in SHOWN.items():
        to_tab(page, tab, area)
        page.wait_for_selector(shown)
    assert not failed


def test_a_recording_is_fetched_when_its_tab_is_opened_and_once(page, app_url):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(app_url)
    page.wait_for_selector(SHOWN["Denoising", ""])
    assert not [url for url in asked if "studio-openings/grid" in url or "studio-openings/text" in url]
    to_tab(page, "Text to image")
    page.wait_for_selector(SHOWN["Text to image", ""])
    page.wait_for_selector("#t2i-words .ds-chip")
    # Its stage and its words are of one file.
    assert len([url for url in asked if "studio-openings/text.json" in url]) == 1


def test_where_a_recording_cannot_be_had_the_stage_says_what_to_do(page, app_url):
    page.route("**/studio-openings/**", lambda route: route.abort())
    page.goto(app_url)
    page.wait_for_selector("#denoise-stage .ds-empty >> text=press Run")


def test_the_example_can_be_looked_at_and_copied_from_but_not_acted_on(page, app_url):
    page.goto(app_url)
    to_tab(page, "Runs")
    page.click("#runs-list tr[data-state=example] button")
    page.wait_for_selector("#runs-stage .ds-follow[data-state=example]")
    for button in ("stop", "resume", "delete"):
        assert page.is_disabled(f"#runs-{button}")
    page.click("#runs-new button")
    page.click("#runs-take")
    page.wait_for_function("document.querySelector('#runs-toml textarea').value.includes('a sks cat')")
    to_tab(page, "DreamBooth")
    page.wait_for_selector("#dreambooth-sheet .ds-sheet[data-state=done] >> text=A recorded example")
    page.click("#dreambooth-run input")
    page.get_by_role("option", name="domino (example)").click()
    page.click("#probe-after")
    page.wait_for_selector("#probe-status >> text=kept without its weights")
    assert page.locator("#dreambooth-sheet tbody img").count() == 8


def test_a_word_that_the_world_does_not_hold_is_named_beneath_the_prompt(page, app_url):
    page.goto(app_url)
    to_tab(page, "Text to image")
    page.fill("#t2i-prompt textarea", "an astronaut on a red background")
    page.wait_for_selector("#t2i-unknown >> text=“astronaut” is not a word of this model's world.")
    page.fill("#t2i-prompt textarea", "a red star")
    page.wait_for_function("!document.querySelector('#t2i-unknown').innerText.trim()")
