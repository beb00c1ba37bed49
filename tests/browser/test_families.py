"""SDXL, Stable Diffusion 3 and DiT in the real app: a folder's path in the model field, a run, its steps, its words."""

import pytest

from tests.tiny_families import save_tiny_dit, save_tiny_sd3, save_tiny_sdxl


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
