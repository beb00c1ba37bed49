"""The Score tab in a real Chromium: what only a browser shows."""

from playwright.sync_api import expect

# What was recorded has a heading; what is scored now has none.
SCORED = "#score-stage .ds-scores[data-done=true] .ds-scores-head:empty"


def test_the_example_is_scored_sorted_and_its_scorers_compared(page, app_url):
    page.goto(app_url)
    page.get_by_role("tab", name="Score", exact=True).click()
    expect(page.locator("#score-stage .ds-empty")).to_contain_text("Drop pictures")
    page.click("#score-example")
    expect(page.locator("#score-prompt textarea")).not_to_have_value("")
    page.click("#score-run")
    stage = page.locator("#score-stage .ds-scores")
    page.wait_for_selector(SCORED, state="attached")
    rows = stage.locator("tbody tr[data-index]")
    expect(rows).to_have_count(4)
    shown = [float(text) for text in rows.locator(".ds-scores-bar:nth-child(3) span").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    expect(stage.locator(".ds-scores-agreement")).to_be_visible()
    by_another = stage.get_by_role("button", name="Toybox examiner")
    by_another.click()
    expect(by_another).to_have_attribute("aria-pressed", "true")
    assert "another scene" in rows.last.inner_text()


def test_a_scored_picture_is_looked_at_closely_and_a_run_is_followed_by_its_reward(page, app_url):
    page.goto(app_url)
    page.get_by_role("tab", name="Score", exact=True).click()
    page.click("#score-example")
    expect(page.locator("#score-prompt textarea")).not_to_have_value("")
    page.click("#score-run")
    page.wait_for_selector(SCORED, state="attached")
    page.locator("#score-stage tbody tr[data-index] button").first.click()
    page.wait_for_function("document.querySelector('#why-prompt textarea')?.value")
    page.click("#why-pixels")
    page.wait_for_selector("#why-stage .ds-why[data-shown=pixels]")
    assert page.locator("#why-stage figure canvas").count() == 2
    page.click("#why-words")
    page.wait_for_selector("#why-stage .ds-why[data-words='11']")
    page.get_by_role("tab", name="Along a run", exact=True).click()
    page.fill("#along-steps input", "6")
    page.click("#along-drawn")
    page.wait_for_selector("#along-stage .ds-stage[data-rewards='3']")
    assert page.locator("#along-stage .ds-reward-curve svg").count() == 1
    page.wait_for_function("document.querySelector('#along-status').innerText.includes('.')")
