"""Options in AUTOMATIC1111's form, both ways, in PNG files of its own and of the studio."""

import pytest
from PIL import Image, PngImagePlugin

from studio import SampleOptions
from studio.additions import Lora
from studio.conditions import Added
from studio.errors import BadImage, StudioError
from studio.process.schedulers import SCHEDULERS
from studio.sampling.export import read_options, read_picture, save_png
from studio.sampling.infotext import parameters_text, read_parameters

# As its own documentation shows it, with what extensions add.
THEIRS = """masterpiece, (red:1.2) star, <lora:style-v2:0.8> \\(on blue\\)
two lines
Negative prompt: blurred, [text]
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 1234567890, Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, \
VAE: vae-ft.safetensors, Denoising strength: 0.55, Clip skip: 2, \
TI hashes: "easynegative: c74b4e81, other: 1", Lora hashes: "style-v2: 0a1b", Version: v1.9.4"""


def test_their_text_is_read():
    options, left_out = read_parameters(THEIRS)
    assert options.prompt == "masterpiece, (red:1.2) star,  \\(on blue\\)\ntwo lines" and options.negative_prompt == "blurred, [text]"
    assert (options.num_steps, options.scheduler, options.sigmas, options.guidance_scale) == (20, "dpm++_2m", "karras", 7.5)
    assert (options.seed, options.width, options.height, options.strength, options.model) == (1234567890, 512, 768, 0.55, "v1-5-pruned")
    assert options.added == Added(loras=(Lora(file="style-v2", weight=0.8),), embeddings=("easynegative", "other"), vae="vae-ft.safetensors")
    assert left_out == ("Clip skip",)


@pytest.mark.parametrize(("said", "scheduler", "sigmas"), [
    ("Euler a", "euler_ancestral", ""), ("DPM++ 2M Karras", "dpm++_2m", "karras"), ("DPM++ 2M SDE", "dpm++_2m_sde", ""), ("DDIM", "ddim", ""),
    ("UniPC", "unipc", ""), ("PLMS", "pndm", ""),
])
def test_samplers_go_by_their_names_there(said, scheduler, sigmas):
    options, left_out = read_parameters(f"a\nSteps: 5, Sampler: {said}, Seed: 1")
    assert (options.scheduler, options.sigmas, left_out) == (scheduler, sigmas, ())


def test_a_sampler_that_is_not_known_is_named_and_a_text_without_fields_is_a_prompt():
    assert read_parameters("a\nSteps: 5, Sampler: Restart, Seed: 1").left_out == ("Sampler",)
    assert read_parameters("a star: red, large").options.prompt == "a star: red, large"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_what_is_written_is_read_as_it_was(scheduler):
    sigmas = "karras" if "karras" in SCHEDULERS[scheduler].sigmas else ""
    added = Added(loras=(Lora(file="style", weight=-0.5),), embeddings=("word",), vae="own")
    options = SampleOptions(
        model="a/b-model", prompt='a "red" star,\n(on: blue)', negative_prompt="dark", num_steps=12, scheduler=scheduler, sigmas=sigmas, guidance_scale=3.5,
        seed=9, width=64, height=32, added=added,
    )
    back, left_out = read_parameters(parameters_text(options))
    assert left_out == () and back == SampleOptions(**{**options.to_dict(), "model": "b-model", "added": added})


def test_a_picture_carries_both_forms_and_the_studios_own_comes_first(tmp_path):
    options = SampleOptions(prompt="a star", seed=4, num_steps=7, guidance_rescale=0.5)
    path = save_png(Image.new("RGB", (8, 16)), tmp_path / "own.png", options, alone=True)
    with Image.open(path) as image:
        assert image.info["parameters"].startswith("a star\nSteps: 7,") and "Size: 8x16" in image.info["parameters"]
    assert read_options(path) == options
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", THEIRS)
    Image.new("RGB", (8, 8)).save(tmp_path / "theirs.png", pnginfo=info)
    assert read_picture(tmp_path / "theirs.png") == read_parameters(THEIRS)


@pytest.mark.parametrize("text", ["a\nSteps: many, Sampler: Euler, Seed: 1", "a\nSteps: 5, Seed: 1.5, CFG scale: 3", "a\nSteps: 5, CFG scale: inf, Seed: 1",
                                  "<lora:x:much>\nSteps: 5, Sampler: Euler, Seed: 1", "<lora:x:nan>\nSteps: 5, Sampler: Euler, Seed: 1"])
def test_nonsense_is_refused_in_a_sentence(text):
    with pytest.raises(StudioError):
        read_parameters(text)


def test_a_picture_with_neither_form_is_refused_in_a_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "none.png")
    with pytest.raises(BadImage, match="no options of the studio or of AUTOMATIC1111"):
        read_options(tmp_path / "none.png")
