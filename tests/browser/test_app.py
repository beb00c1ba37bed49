"""The studio as a visitor gets it: the real app with its embedded models, in a real Chromium and over the wire."""

import json

import pytest
from gradio_client import Client, handle_file
from PIL import Image

from studio.sampling.export import read_options
from studio.sampling.trajectory import Trajectory

STAGE = "#denoise-stage .ds-stage"
OWN_FILM = f"{STAGE}[data-kind=film][data-complete=true]:not([data-run=opening])"


@pytest.fixture
def denoising(page, app_url):
    """The Denoising tab, its opening run on the stage, the digits chosen."""
    page.goto(app_url)
    page.wait_for_selector(f"{STAGE}[data-kind=film][data-run=opening]")
    choose(page, "#denoise-model", "Digits 16x16")
    page.wait_for_function("document.querySelector('#denoise-model').innerText.includes('handwritten')")
    return page


def choose(page, dropdown: str, label: str) -> None:
    page.click(f"{dropdown} input")
    page.get_by_role("option", name=label, exact=True).click()


def run(page, **values) -> None:
    for name, value in values.items():
        page.fill(f"#denoise-{name} input", str(value))
    page.click("#denoise-run")
    page.wait_for_selector(OWN_FILM)


def test_the_studio_opens_with_something_real_playing(page, app_url):
    page.goto(app_url)
    page.wait_for_selector(f"{STAGE}[data-run=opening]")
    page.wait_for_function(f"Number(document.querySelector('{STAGE}').dataset.step) > 2")
    assert {tab.inner_text() for tab in page.get_by_role("tab").all()} >= {"Denoising", "Noise schedules", "One step or many"}


def test_a_digit_is_made_step_by_step_kept_and_opened_again(denoising, tmp_path):
    choose(denoising, "#denoise-class", "7")
    run(denoising, steps=12, images=2, seed=5)
    assert denoising.get_attribute(STAGE, "data-step") == "11"
    denoising.locator(STAGE).press("Home")
    denoising.wait_for_selector(f"{STAGE}[data-step='0']")
    denoising.click("#denoise-keep")
    with denoising.expect_download() as kept:
        denoising.get_by_role("button", name="Run file").click()
    path = tmp_path / "run.safetensors"
    kept.value.save_as(path)
    trajectory = Trajectory.load(path)
    assert trajectory.options.class_label == "7" and trajectory.options.seed == 5 and len(trajectory.steps) == 12
    before = denoising.get_attribute(STAGE, "data-run")
    denoising.set_input_files("#denoise-open input[type=file]", path)
    denoising.wait_for_function(f"document.querySelector('{STAGE}').dataset.run !== '{before}'")
    assert denoising.input_value("#denoise-steps input") == "12"


def test_one_s_own_photograph_is_noised_and_denoised(denoising, tmp_path):
    from skimage.data import astronaut

    photograph = tmp_path / "photograph.jpg"
    Image.fromarray(astronaut()).save(photograph)
    denoising.click("#denoise-more")
    denoising.set_input_files("#denoise-init input[type=file]", photograph)
    denoising.wait_for_selector("#denoise-init img")
    run(denoising, steps=10, images=1)
    # 0.6 of ten steps are run: the stage shows six.
    assert denoising.get_attribute(STAGE, "data-step") == "5"


def test_a_typed_folder_is_a_model_too(denoising, tiny_model):
    denoising.fill("#denoise-model input", tiny_model)
    denoising.locator("#denoise-model input").press("Enter")
    denoising.wait_for_function("folder => document.querySelector('#denoise-model').innerText.includes(folder)", arg=tiny_model)
    run(denoising, steps=3)
    assert denoising.get_attribute(STAGE, "data-step") == "2"


def test_a_wrong_model_gets_a_sentence_and_the_stage_stays(denoising):
    before = denoising.get_attribute(STAGE, "data-run")
    denoising.fill("#denoise-model input", "digit-dpm")
    denoising.locator("#denoise-model input").press("Enter")
    denoising.wait_for_selector("text=There is no model named")
    assert denoising.get_attribute(STAGE, "data-run") == before


# --- over the wire -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def client(app_url):
    return Client(app_url, verbose=False)


def test_a_client_samples_by_named_arguments(client):
    asked = {"model": "digits-ddpm", "class_label": "3", "num_steps": 6, "scheduler": "dpm++_2m", "num_images": 2, "seed": 9}
    film, sentence, pictures = client.predict(**asked, api_name="/sample")[:3]
    steps = json.loads(film)["steps"]
    assert len(steps) == 6 and "6 steps" in sentence and len(pictures) == 2
    options = read_options(pictures[0]["image"])
    assert (options.model, options.class_label, options.scheduler, options.num_steps) == ("digits-ddpm", "3", "dpm++_2m", 6)


def test_a_client_reads_a_schedule_and_noises_a_picture(client, tmp_path):
    numbers = client.predict("cosine", 100, api_name="/schedule")
    alpha_bar = numbers["curves"]["alpha_bar"]
    assert len(alpha_bar) == 100 and alpha_bar[0] > alpha_bar[-1]
    white = tmp_path / "white.png"
    Image.new("RGB", (96, 80), "white").save(white)
    picture, coefficients = client.predict(picture=handle_file(white), schedule="linear", num_timesteps=1000, t=999, seed=0, api_name="/noise_image")
    assert Image.open(picture).size == (96, 80) and coefficients["log_snr"] < -9
