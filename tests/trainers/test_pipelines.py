"""What the trainers write: fp16 in the files, float32 for whoever loads them with nothing but the folder."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, StableDiffusionPipeline
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPTextModel

from studio.runs.trainers.clip import ClipOptions
from trainers.clip import make_network, make_tokenizer, save_model
from trainers.dreambooth import as_pipeline, load_parts
from trainers.pipelines import save_network, save_pipeline


def precisions(*networks: torch.nn.Module) -> set[torch.dtype]:
    return {value.dtype for network in networks for value in network.state_dict().values() if value.is_floating_point()}


def stored(folder) -> set[torch.dtype]:
    files = list(folder.rglob("*.safetensors"))
    assert files
    return {value.dtype for file in files for value in load_file(file).values()} - {torch.int64}


@pytest.mark.parametrize("kept_in", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_pipeline_is_stored_in_half_and_runs_from_its_folder_alone(tiny_sd, tmp_path, kept_in):
    parts = load_parts(tiny_sd)
    for name in ("unet", "vae", "text_encoder"):
        parts[name].to(kept_in)
    save_pipeline(as_pipeline(parts), tmp_path)
    assert precisions(parts["unet"], parts["text_encoder"]) == {kept_in}  # what was saved stays as it was
    assert stored(tmp_path) == {torch.float16}
    pipeline = StableDiffusionPipeline.from_pretrained(str(tmp_path))
    assert precisions(pipeline.unet, pipeline.vae, pipeline.text_encoder) == {torch.float32}
    assert pipeline("a red star", num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)


def test_a_clip_is_stored_in_half_and_runs_from_its_folder_alone(tmp_path):
    options = ClipOptions()
    tokenizer = make_tokenizer(["a red star", "a blue car"], options.max_tokens)
    save_model(tmp_path, options, make_network(options, tokenizer), tokenizer)
    assert stored(tmp_path) == {torch.float16}
    network, tower = CLIPModel.from_pretrained(str(tmp_path)), CLIPTextModel.from_pretrained(str(tmp_path))
    assert precisions(network, tower) == {torch.float32}
    assert network(**tokenizer(["a red star"], return_tensors="pt"), pixel_values=torch.zeros(1, 3, 64, 64)).logits_per_image.isfinite().all()


def test_a_pixel_pipeline_is_stored_in_half_and_computes_in_float32(tiny_model):
    assert stored(Path(tiny_model)) == {torch.float16}
    assert precisions(DDPMPipeline.from_pretrained(tiny_model).unet) == {torch.float32}


def test_no_config_names_the_place_that_a_network_was_read_from(tiny_sd, tmp_path):
    save_network(AutoencoderKL.from_pretrained(f"{tiny_sd}/vae"), tmp_path / "vae")
    save_network(CLIPTextModel.from_pretrained(f"{tiny_sd}/text_encoder"), tmp_path / "text_encoder")
    assert not [file for file in tmp_path.rglob("config.json") if tiny_sd in file.read_text()]
