"""SDXL, Stable Diffusion 3 and DiT in the real app: a folder's path in the model field, a run, its steps, its words."""

import pytest

from tests.tiny_families import save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl


def choose(page, tab: str, prefix: str, folder: str) -> None:
    """Type the path of a folder into a tab's model field."""
    page.get_by_role("tab", name=tab, exact=True).click()
    field = page.locator(f"#{prefix}-model input")
    field.click()
    field.fill(folder)
    field.press("Enter")


def run(page, prefix: str, steps: int) -> None:
    page.locator(f"#{prefix}-steps input").first.fill(str(steps))
    page.click(f"#{prefix}-run")
    page.wait_for_selector(f"#{prefix}-status >> text=Done: {steps} steps")
    page.wait_for_selector(f"#{prefix}-stage .ds-stage[data-kind=film]")


def choose_scheduler(page, prefix: str, label: str) -> None:
    field = page.locator(f"#{prefix}-scheduler input")
    field.click()
    page.get_by_role("option", name=label, exact=True).click()


@pytest.mark.parametrize(("save", "scheduler"), [(save_tiny_sdxl, "DPM++ 2M"), (save_tiny_sd3, "Euler")])
def test_a_text_family_draws_scrubs_and_shows_its_words(page, app_url, tmp_path, save, scheduler):
    page.goto(app_url)
    choose(page, "Text to image", "t2i", save(tmp_path / "model"))
    page.fill("#t2i-prompt textarea", "a red star on a blue butterfly")
    choose_scheduler(page, "t2i", scheduler)
    run(page, "t2i", 6)
    page.locator("#t2i-stage .ds-transport input[type=range]").fill("2")
    page.wait_for_selector("#t2i-stage .ds-stage[data-step='2']")
    # The formula is the family's own: a flow's two scales add up to 1, those of betas in squares.
    text = page.locator("#t2i-stage .ds-formula").inner_text()
    signal, noise = (float(part) for part in text.replace("=", " ").replace("+", " ").split() if part.replace(".", "").isdigit())
    total = signal + noise if save is save_tiny_sd3 else signal**2 + noise**2
    assert total == pytest.approx(1, abs=5e-3)


def test_dit_is_told_a_class(page, app_url, tmp_path):
    page.goto(app_url)
    page.wait_for_selector("#denoise-stage .ds-stage[data-kind=film]")
    choose(page, "Denoising", "denoise", save_tiny_dit(tmp_path / "model"))
    label = page.locator("#denoise-class input").first
    label.click()
    label.fill("goldfish")
    page.get_by_role("option", name="goldfish", exact=True).click()
    run(page, "denoise", 5)
    assert "goldfish" in page.locator("#denoise-stage .ds-title-text").inner_text()


def test_what_only_some_families_can_be_told_is_there_for_them_alone_and_acts(page, app_url, tmp_path):
    page.goto(app_url)
    assert not page.locator("#t2i-size").is_visible()
    choose(page, "Text to image", "t2i", save_tiny_sdxl(tmp_path / "sdxl"))
    page.wait_for_selector("#t2i-size", state="visible")
    assert not page.locator("#t2i-flow").is_visible()
    for group in ("size", "refined"):
        page.locator(f"#t2i-{group} button").first.click()
    page.fill("#t2i-size-original textarea, #t2i-size-original input", "64x24")
    field = page.locator("#t2i-refined-model input")
    field.click()
    field.fill(save_tiny_refiner(tmp_path / "refiner"))
    field.press("Enter")
    page.locator("#t2i-refined-start input").first.fill("0.6")
    run(page, "t2i", 10)
    # Where it was handed over is marked, and the caption of the last step says whose it is.
    assert page.locator("#t2i-stage .ds-ticks .ds-mark").get_attribute("x1") == "5.5"
    assert "refiner" in page.locator("#t2i-stage .ds-title .ds-caption").inner_text()
    choose(page, "Text to image", "t2i", save_tiny_sd3(tmp_path / "sd3"))
    page.wait_for_selector("#t2i-flow", state="visible")
    page.wait_for_selector("#t2i-size", state="hidden")
    choose_scheduler(page, "t2i", "Euler")
    for group in ("texts", "skipped"):
        page.locator(f"#t2i-{group} button").first.click()
    page.get_by_label("OpenCLIP G").uncheck()
    page.fill("#t2i-skipped-layers textarea, #t2i-skipped-layers input", "1")
    page.locator("#t2i-skipped-end input").first.fill("0.9")
    run(page, "t2i", 6)
    for view in ("velocity", "skipped"):
        page.click(f"#t2i-stage [data-view={view}]")
    assert page.locator("#t2i-stage .ds-pane:visible").count() == 4
    page.get_by_role("tab", name="Grid", exact=True).click()
    page.get_by_role("radio", name="shift of the flow").check()
    page.fill("#grid-seeds textarea, #grid-seeds input", "0")
    page.fill("#grid-flow-shift textarea, #grid-flow-shift input", "1, 6")
    page.click("#grid-run")
    page.wait_for_selector("#grid-status >> text=Done: 2 pictures")
    choose(page, "Denoising", "denoise", save_tiny_dit(tmp_path / "dit"))
    page.wait_for_selector("#denoise-guidance", state="visible")
    page.locator("#denoise-attention input").check()
    run(page, "denoise", 5)
    page.wait_for_selector("#denoise-stage .ds-patches", state="visible")
    page.locator("#denoise-stage .ds-patches input[type=range]").fill("6")
    assert "patch 7 of 16: row 2, column 3" in page.locator("#denoise-stage .ds-patches").inner_text()
