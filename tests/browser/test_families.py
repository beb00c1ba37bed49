"""SDXL, Stable Diffusion 3 and DiT in the real app: a folder's path in the model field, a run, its steps, its words."""

import json

import pytest
import torch

from tests.tiny_families import make_vae, save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd
from tests.tiny_told import save_tiny_depth, save_tiny_inpainting, save_tiny_unclip, save_tiny_upscaler


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
    # Each encoder's tokens, and the pooled vector of those that have one.
    words = page.locator("#t2i-words")
    names = {save_tiny_sdxl: ["CLIP L", "OpenCLIP G"], save_tiny_sd3: ["CLIP L", "OpenCLIP G", "T5"]}[save]
    assert words.locator(".ds-encoder-name").all_inner_texts() == names
    pooled = words.locator(".ds-pooled:visible").all_inner_texts()
    assert [text.partition(":")[2].split()[0] for text in pooled] == {save_tiny_sdxl: ["48"], save_tiny_sd3: ["32", "48"]}[save]
    words.locator("summary").last.click()
    # It is drawn when it is opened.
    words.locator(".ds-encoder").last.locator(".ds-embedding-rows span").first.wait_for()
    rows = {save_tiny_sdxl: 16, save_tiny_sd3: words.locator(".ds-encoder").last.locator(".ds-embedding-rows span").count()}[save]
    assert words.locator(".ds-embedding-map canvas").last.evaluate("canvas => canvas.height") == rows > 8


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
    # A flow beside a diffusion, on the axis of noise.
    page.get_by_role("tab", name="Compare", exact=True).click()
    page.wait_for_selector("#pair-stage .ds-compare[data-kinds='diffusion diffusion']")
    field = page.locator("#pair-model-b input")
    field.click()
    field.fill(str(tmp_path / "sdxl"))
    field.press("Enter")
    for side, steps in (("a", 5), ("b", 4)):
        page.locator(f"#pair-steps-{side} input").fill(str(steps))
    page.click("#pair-run")
    page.wait_for_selector("#pair-status >> text=Compared 5 with 4 steps")
    page.wait_for_selector("#pair-stage .ds-compare[data-kinds='flow diffusion']")
    assert "A is a rectified flow (α + σ = 1), B is a diffusion" in page.locator("#pair-stage .ds-compare-kinds").inner_text()
    scales, share = (page.locator(f"#pair-stage .ds-compare-paths > div:nth-child({i}) svg") for i in (1, 2))
    # Four curves, and a dot for signal and noise of each step that has both; where the first step is pure noise it lies beyond the axis.
    assert scales.locator("path[d]:not([d=''])").count() == 4 and 16 <= scales.locator("circle:not(.ds-dot)").count() <= 18
    assert share.locator("path[d]:not([d=''])").count() == 2 and share.locator(".ds-dot[visibility=visible]").count() == 2
    choose(page, "Denoising", "denoise", save_tiny_dit(tmp_path / "dit"))
    page.wait_for_selector("#denoise-guidance", state="visible")
    page.locator("#denoise-attention input").check()
    run(page, "denoise", 5)
    page.wait_for_selector("#denoise-stage .ds-patches", state="visible")
    page.locator("#denoise-stage .ds-patches input[type=range]").fill("6")
    assert "patch 7 of 16: row 2, column 3" in page.locator("#denoise-stage .ds-patches").inner_text()
    page.get_by_role("tab", name="Text to image", exact=True).click()
    page.get_by_role("tab", name="Anatomy", exact=True).click()
    field = page.locator("#anatomy-model input")
    field.click()
    field.fill(str(tmp_path / "dit"))
    field.press("Enter")
    page.click("#anatomy-look")
    page.wait_for_selector(".ds-anatomy .ds-anatomy-patches[data-patch='10']")
    page.locator(".ds-anatomy-patches input[type=range]").fill("6")
    assert "patch 7 of 16: row 2, column 3" in page.locator(".ds-anatomy-patches").inner_text()
    assert "16 numbers, which become a token of 32" in page.locator(".ds-anatomy-patches").inner_text()
    page.locator(".ds-anatomy-patches canvas").first.hover(position={"x": 5, "y": 5})
    page.wait_for_selector(".ds-anatomy-patches[data-patch='0']")


def test_models_are_told_pictures_and_the_stage_shows_what_they_were_told(page, app_url, tmp_path):
    """Inpainting, depth, upscaling and variations one after the other: each shows its own controls, and what its network saw."""
    from tests.models.test_inpainting import picture

    photo, small = tmp_path / "photo.png", tmp_path / "small.png"
    picture(48, 32).save(photo)
    picture(12, 8, seed=1).save(small)
    page.goto(app_url)

    choose(page, "Text to image", "t2i", save_tiny_inpainting(tmp_path / "inpainting"))
    page.click("#t2i-run")
    page.wait_for_selector("#t2i-status >> text=is made for inpainting: give it a picture, and a mask")
    page.set_input_files("#t2i-init input[type=file]", photo)
    page.wait_for_selector("#t2i-anew .ds-paint[data-shown]")
    page.fill("#t2i-strength input[type=number]", "1")
    page.click("#t2i-anew [data-mode=mask]")
    page.fill("#t2i-anew .ds-paint-size input", "12")
    board = page.locator("#t2i-anew .ds-paint-board").bounding_box()
    page.mouse.move(board["x"] + board["width"] * 0.3, board["y"] + board["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(board["x"] + board["width"] * 0.7, board["y"] + board["height"] * 0.6)
    page.mouse.up()
    page.wait_for_selector("#t2i-anew-line >> text=What is not veiled is drawn anew.")
    run(page, "t2i", 4)
    assert told(page) == ["drawn anew (white)", "what it sees of the picture"]
    page.fill("#t2i-stage .ds-told-over input", "70")
    page.wait_for_selector("#t2i-stage .ds-control-overlay:not([hidden])")

    choose(page, "Text to image", "t2i", save_tiny_depth(tmp_path / "depth"))
    page.wait_for_selector("#t2i-told-estimator")
    page.click("#t2i-anew [data-clear]")
    page.wait_for_selector("#t2i-anew-line >> text=choose Draw anew")
    run(page, "t2i", 2)
    assert told(page) == ["depth map"]

    choose(page, "Text to image", "t2i", save_tiny_upscaler(tmp_path / "upscaler"))
    page.wait_for_selector("#t2i-told-noise")
    page.set_input_files("#t2i-told-picture input[type=file]", small)
    page.click("#t2i-init button[aria-label='Remove Image']")
    run(page, "t2i", 4)
    assert told(page) == ["the small picture, as told"]
    assert page.evaluate("document.querySelector('#t2i-stage .ds-pane[data-stream=x0_hat] canvas').width") == 48

    choose(page, "Text to image", "t2i", save_tiny_unclip(tmp_path / "unclip"))
    page.wait_for_selector("#t2i-told-mix")
    page.set_input_files("#t2i-told-second input[type=file]", photo)
    page.wait_for_selector("#t2i-told-second img")
    run(page, "t2i", 5)
    assert told(page) == ["varied 1", "varied 2"]

    page.get_by_role("tab", name="Grid", exact=True).click()
    page.get_by_role("radio", name="mix of two pictures").check()
    page.fill("#grid-seeds textarea, #grid-seeds input", "0")
    page.fill("#grid-cond-mix textarea, #grid-cond-mix input", "0, 1")
    page.click("#grid-run")
    page.wait_for_selector("#grid-status >> text=Done: 2 pictures")
    first, last = page.locator("#grid-stage td img").evaluate_all("images => images.map(image => image.src)")
    assert first != last
    page.get_by_role("tab", name="Compare", exact=True).click()
    for side, steps in (("a", 5), ("b", 3)):
        page.locator(f"#pair-steps-{side} input").fill(str(steps))
    page.click("#pair-run")
    page.wait_for_selector("#pair-status >> text=Compared 5 with 3 steps")


def test_a_lora_an_embedding_and_a_vae_are_taken_from_the_menu_and_put_into_the_model(page, app_url, runs_root, tmp_path):
    from safetensors.torch import save_file

    from tests.models.test_added import in_kohyas_layout, lora_weights, pipeline_of

    folder, shelf = save_tiny_sd(tmp_path / "sd"), runs_root / "shelf"
    shelf.mkdir()
    tags = {"ss_tag_frequency": json.dumps({"10_star": {"sks star": 10, "red": 2}})}
    save_file(in_kohyas_layout(lora_weights(pipeline_of(folder), 1)), shelf / "starry.safetensors", metadata=tags)
    save_file({"emb_params": torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}, shelf / "oddstyle.safetensors")
    save_file(make_vae(9, norm_num_groups=8).state_dict(), shelf / "own-vae.safetensors")
    save_file(lora_weights(pipeline_of(save_tiny_sdxl(tmp_path / "sdxl")), 1), shelf / "foreign.safetensors")

    def take(label: str, place: str, name: str) -> None:
        field = page.locator("#t2i-added-take input")
        field.click()
        page.locator(f"li[role=option][aria-label='{label}']:visible").click()
        page.wait_for_function(f"document.querySelector('#t2i-added-{place} textarea, #t2i-added-{place} input').value.includes('{name}')")

    def drawn(steps: int) -> str:
        run(page, "t2i", steps)
        return page.evaluate("document.querySelector('#t2i-stage .ds-pane[data-stream=x0_hat] canvas').toDataURL()")

    page.goto(app_url)
    choose(page, "Text to image", "t2i", folder)
    page.wait_for_selector("#t2i-resident >> text=loaded when you press Generate")
    page.fill("#t2i-prompt textarea", "a red oddstyle star")
    plain = drawn(3)
    page.locator("#t2i-added button").first.click()
    take("LoRA: starry", "loras", "starry.safetensors")
    page.wait_for_selector("#t2i-added-words >> text=starry: sks star, red")
    assert drawn(4) != plain
    page.wait_for_selector("#t2i-resident >> text=with starry 1")
    take("Embedding: oddstyle", "embeddings", "oddstyle.safetensors")
    drawn(5)
    assert page.locator("#t2i-words .ds-piece", has_text="oddstyle").all_inner_texts() == ["oddstyle", "oddstyle_1"]
    take("VAE: own-vae", "vae", "own-vae.safetensors")
    drawn(6)
    page.wait_for_selector("#t2i-resident >> text=with starry 1, oddstyle, own-vae")
    # A weight of its own; then one of another family, of which the stage keeps its picture.
    page.fill("#t2i-added-loras textarea", "starry -0.5")
    drawn(7)
    page.wait_for_selector("#t2i-resident >> text=with starry -0.5")
    page.get_by_role("tab", name="Grid", exact=True).click()
    page.get_by_role("radio", name="weight of the LoRA").check()
    page.fill("#grid-seeds textarea, #grid-seeds input", "0")
    page.fill("#grid-added-loras textarea, #grid-added-loras input", "0, 1")
    page.click("#grid-run")
    page.wait_for_selector("#grid-status >> text=Done: 2 pictures")
    without, with_it = page.locator("#grid-stage td img").evaluate_all("images => images.map(image => image.src)")
    assert without != with_it
    page.get_by_role("tab", name="Picture", exact=True).click()
    page.fill("#t2i-added-loras textarea", "foreign")
    page.click("#t2i-run")
    page.wait_for_selector("#t2i-status >> text=do not fit")
    assert page.locator("#t2i-stage .ds-stage[data-kind=film]").count() == 1


def told(page) -> list[str]:
    """What the stage says that the network was told."""
    return page.locator("#t2i-stage .ds-told-picture span").all_inner_texts()
