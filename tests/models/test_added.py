"""LoRAs, embeddings and VAEs put into a model: as diffusers' own pipeline draws with them, and refused in a sentence."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from studio import SampleOptions, Studio
from studio.additions import Lora
from studio.conditions import NOTHING_ADDED, Added, SizeTold
from studio.errors import InvalidOption, ModelUnavailable, StudioError
from studio.models.originals import read_header
from studio.models.shelf import trigger_words
from studio.sampling.trajectory import Trajectory
from tests.tiny_families import make_vae, save_tiny_dit, save_tiny_sd3, save_tiny_sdxl
from tests.tiny_originals import vae_to_original
from tests.tiny_sd import save_tiny_sd

PROMPT = "a red star on a blue butterfly"
TOLD = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("added")


@pytest.fixture(scope="module")
def folders(home):
    savers = {"sd": save_tiny_sd, "sdxl": save_tiny_sdxl, "sd3": save_tiny_sd3}
    return {name: save(home / name) for name, save in savers.items()}


@pytest.fixture(scope="module")
def studio(home):
    return Studio(folders=[home])


def pipeline_of(folder):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline, prompt=PROMPT, **told) -> np.ndarray:
    images = pipeline(prompt, generator=torch.Generator().manual_seed(3), **TOLD, **told).images
    return np.asarray(images[0]).astype(int)


def asked(model: str, added: Added, **changes) -> SampleOptions:
    scheduler = "ddim" if Path(model).name == "sd" else "euler"
    return SampleOptions(**{
        "model": model, "prompt": PROMPT, "num_steps": 3, "seed": 3, "guidance_scale": 3.0, "scheduler": scheduler, "added": added, **changes,
    })


def ours(studio, model, added=NOTHING_ADDED, **changes) -> np.ndarray:
    *_, finished = studio.sample(asked(model, added, **changes))
    return np.asarray(finished.images[0]).astype(int)


# --- LoRAs ---------------------------------------------------------------------------------------------------

def lora_weights(pipeline, seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """Of every projection of the attention layers, in diffusers' layout."""
    generator = torch.Generator().manual_seed(seed)
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    weights = {}
    for layer, module in getattr(pipeline, name).named_modules():
        if isinstance(module, torch.nn.Linear) and layer.rpartition(".")[2] in ("to_q", "to_k", "to_v"):
            weights[f"{name}.{layer}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator) * 0.3
            weights[f"{name}.{layer}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=generator) * 0.3
    return weights


def in_kohyas_layout(weights: dict[str, torch.Tensor], alpha: float = 2.0) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in weights.items():
        layer, matrix, _ = key.removeprefix("unet.").rsplit(".", 2)
        start = f"lora_unet_{layer.replace('.', '_')}"
        found[f"{start}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
        found[f"{start}.alpha"] = torch.tensor(alpha)
    return found


@pytest.fixture(scope="module")
def loras(home, folders):
    """For each family one in diffusers' layout, and for those with a UNet one in kohya's."""
    files = {}
    for family, folder in folders.items():
        weights = lora_weights(pipeline_of(folder), 1)
        files[family] = str(home / f"{family}-plain.safetensors")
        save_file(weights, files[family])
        if family != "sd3":
            files[f"{family}-kohya"] = str(home / f"{family}-kohya.safetensors")
            tags = {"ss_tag_frequency": json.dumps({"10_star": {"sks star": 10, "red": 2}, "5_more": {"red": 1}}), "ss_base_model_version": f"{family}_v1"}
            save_file(in_kohyas_layout(lora_weights(pipeline_of(folder), 2)), files[f"{family}-kohya"], metadata=tags)
    return files


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_a_run_with_loras_draws_what_diffusers_draws_with_the_same_adapters(studio, folders, loras, family):
    pipeline = pipeline_of(folders[family])
    plain = theirs(pipeline)
    files = [loras[family], loras[f"{family}-kohya"]] if family != "sd3" else [loras[family]]
    weights = [0.7, -0.4][: len(files)]
    for i, file in enumerate(files):
        pipeline.load_lora_weights(file, adapter_name=f"a{i}")
    pipeline.set_adapters([f"a{i}" for i in range(len(files))], weights)
    wanted = theirs(pipeline)
    added = Added(loras=tuple(Lora(file=file, weight=weight) for file, weight in zip(files, weights)))
    drawn = ours(studio, folders[family], added)
    assert np.abs(wanted - plain).max() > 3 and np.abs(drawn - wanted).max() <= 1
    # The base model is what it was.
    assert np.abs(ours(studio, folders[family]) - plain).max() <= 1


def test_graphs_that_were_made_ready_of_the_base_do_not_stand_for_the_model_with_its_lora(studio, folders, loras):
    added = Added(loras=(Lora(file=loras["sd"]),))
    for one in (Added(), added):
        studio.make_ready(asked(folders["sd"], one))
    assert np.abs(ours(studio, folders["sd"]) - ours(studio, folders["sd"], added)).max() > 10
    assert np.abs(ours(studio, folders["sd"]) - ours(studio, folders["sd"], Added(loras=(Lora(file=loras["sd"], weight=0.0),)))).max() == 0
    named = [resident.added for resident in studio.residents()]
    assert "" in named and "sd-plain 1" in named


def test_a_run_with_additions_is_kept_reopened_without_the_model_and_forked_with_others(studio, folders, loras, tmp_path):
    added = Added(loras=(Lora(file="sd-plain", weight=0.5), Lora(file=loras["sd-kohya"])))
    *_, finished = studio.sample(asked(folders["sd"], added))
    back = Trajectory.load(finished.trajectory.save(tmp_path / "run.safetensors"))
    assert back.options.added == added and SampleOptions.from_dict(json.loads(json.dumps(back.options.to_dict()))) == back.options
    *_, same = studio.resume(back, 1)
    assert (same.trajectory.x_final - back.x_final).abs().max() < 2e-3
    *_, other = studio.resume(back, 1, added=Added())
    assert (other.trajectory.x_final - back.x_final).abs().max() > 0.01


def test_trigger_words_are_those_that_the_metadata_counts_most(studio, loras):
    assert trigger_words(read_header(loras["sd-kohya"])) == ("sks star", "red")
    listed = {Path(file.path).name: file for file in studio.shelf("lora")}
    assert listed["sd-kohya.safetensors"].words == ("sks star", "red") and set(listed) >= {"sd-plain.safetensors", "sdxl-plain.safetensors"}
    assert Studio(public=True).shelf("lora") == []


def test_a_file_in_a_folder_within_another_is_listed_once(loras, home, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    for place in (tmp_path, inner):
        (place / f"of-{place.name}.safetensors").write_bytes(Path(loras["sd"]).read_bytes())
    for folders in ([tmp_path, inner], [inner, tmp_path], [tmp_path, tmp_path]):
        listed = [Path(file.path).stem for file in Studio(folders=folders).shelf("lora")]
        assert sorted(listed) == sorted([f"of-{tmp_path.name}", "of-inner"])


@pytest.mark.parametrize(("model", "file", "said"), [
    ("sdxl", "sd-kohya", "was taught to sd_v1, and .* its layers do not fit"), ("sd", "sdxl", "do not fit"), ("sd", "sd3", "do not fit"),
    ("sd3", "sd", "do not fit"),
])
def test_a_lora_of_another_family_is_refused_in_a_sentence_before_the_first_step(studio, folders, loras, model, file, said):
    with pytest.raises(ModelUnavailable, match=said):
        next(studio.sample(asked(folders[model], Added(loras=(Lora(file=loras[file]),)))))


def test_what_is_damaged_absent_elsewhere_or_not_allowed_is_refused_in_a_sentence(studio, folders, loras, home, tmp_path):
    def refused(said, added, by=studio, model=folders["sd"]):
        with pytest.raises(StudioError, match=said):
            next(by.sample(asked(model, added)))

    (home / "cut.safetensors").write_bytes(b"nothing")
    refused("cut short", Added(loras=(Lora(file=str(home / "cut.safetensors")),)))
    save_file({"x": torch.zeros(2, 2), "y": torch.zeros(2)}, home / "other.safetensors")
    refused("do not fit|no LoRA", Added(loras=(Lora(file=str(home / "other.safetensors")),)))
    refused("is no textual inversion", Added(embeddings=(str(home / "other.safetensors"),)))
    refused("holds no VAE", Added(vae=str(home / "other.safetensors")))
    refused("no .safetensors file in the folders", Added(loras=(Lora(file="nowhere"),)))
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(Path(loras["sd"]).read_bytes())
    refused("no .safetensors file in the folders", Added(loras=(Lora(file=str(outside)),)))
    refused("are off on this public studio", Added(loras=(Lora(file=loras["sd"]),)), Studio(public=True), "toybox-sd")
    refused("takes no LoRA|cannot be told", Added(loras=(Lora(file=loras["sd"]),)), studio, save_tiny_dit(home / "dit"))
    refused("cannot be told 'LoRA'", Added(loras=(Lora(file=loras["sd"]),)), studio, "toybox-ddpm")


@pytest.mark.parametrize("values", [
    {"loras": (Lora(file="a"),) * 9}, {"loras": ("a",)}, {"embeddings": ("a/x.safetensors", "b/x.safetensors")}, {"vae": 3}, {"embeddings": (3,)},
])
def test_nonsense_in_additions_is_refused_with_the_value(values):
    with pytest.raises(InvalidOption):
        Added(**values)
    for weight in (5.0, float("nan"), "much"):
        with pytest.raises(InvalidOption, match="weight"):
            Lora(file="a", weight=weight)


# --- embeddings ----------------------------------------------------------------------------------------------

def test_an_embedding_of_several_vectors_is_read_as_diffusers_reads_it(studio, folders, home):
    generator = torch.Generator().manual_seed(5)
    one, two = torch.randn(2, 32, generator=generator), torch.randn(2, 48, generator=generator)
    save_file({"emb_params": one}, home / "oddstyle.safetensors")
    save_file({"clip_l": one, "clip_g": two}, home / "bothstyle.safetensors")
    save_file({"<oneword>": one[0]}, home / "oneword.safetensors")
    prompt = "a red oddstyle star"
    pipeline = pipeline_of(folders["sd"])
    pipeline.load_textual_inversion(one, token="oddstyle")
    added = Added(embeddings=(str(home / "oddstyle.safetensors"),))
    drawn = ours(studio, folders["sd"], added, prompt=prompt)
    assert np.abs(drawn - theirs(pipeline, prompt)).max() <= 1 and np.abs(drawn - ours(studio, folders["sd"], prompt=prompt)).max() > 3
    tokens = studio.tokens(folders["sd"], prompt, added)
    assert [token.text for token in tokens.tokens if token.word == 2] == ["oddstyle", "oddstyle_1"]
    pipeline = pipeline_of(folders["sdxl"])
    for words, encoder, values in (("tokenizer", "text_encoder", one), ("tokenizer_2", "text_encoder_2", two)):
        pipeline.load_textual_inversion(values, token="bothstyle", tokenizer=getattr(pipeline, words), text_encoder=getattr(pipeline, encoder))
    prompt = "a bothstyle star"
    drawn = ours(studio, folders["sdxl"], Added(embeddings=("bothstyle",)), prompt=prompt)
    assert np.abs(drawn - theirs(pipeline, prompt)).max() <= 1
    assert studio.tokens(folders["sd"], "oneword", Added(embeddings=("oneword",))).words == ("oneword",)
    for model, word in (("sd", "bothstyle"), ("sdxl", "oddstyle"), ("sd3", "oddstyle")):
        with pytest.raises(ModelUnavailable, match="another family"):
            next(studio.sample(asked(folders[model], Added(embeddings=(word,)))))


# --- a VAE of one's own --------------------------------------------------------------------------------------

def test_a_vae_of_a_folder_and_of_a_file_in_either_layout_takes_the_place_of_the_models_own(studio, folders, home):
    vae = make_vae(9, norm_num_groups=8)
    vae.save_pretrained(home / "vae-folder")
    save_file({key: value.contiguous().clone() for key, value in vae_to_original(vae, "").items()}, home / "vae-original.safetensors")
    save_file(vae.state_dict(), home / "vae-diffusers.safetensors")
    pipeline = pipeline_of(folders["sd"])
    plain = theirs(pipeline)
    pipeline.vae = vae
    wanted = theirs(pipeline)
    assert np.abs(wanted - plain).max() > 10
    for name in (str(home / "vae-folder"), "vae-original", "vae-diffusers"):
        assert np.abs(ours(studio, folders["sd"], Added(vae=name)) - wanted).max() <= 1, name
    *_, finished = studio.sample(asked(folders["sd"], Added(vae="vae-original")))
    decoded = np.asarray(studio.decode(finished.trajectory, "x0_hat", 2)[0]).astype(int)
    assert np.abs(decoded - wanted).max() < 60  # by that VAE, not by the model's own
    with pytest.raises(ModelUnavailable, match="latents of 4 and .* works with 16"):
        next(studio.sample(asked(folders["sd3"], Added(vae="vae-original"))))


# --- over the wire -------------------------------------------------------------------------------------------

def test_a_program_tells_sample_additions_and_sizes_and_what_a_family_does_not_know_is_a_sentence(studio, folders, loras):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    from tabs.endpoints import create_sample_endpoint
    from tabs.parts.blocks import StudioBlocks

    with StudioBlocks() as demo:
        create_sample_endpoint(studio)
    _, url, _ = demo.queue().launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    told = {"prompt": PROMPT, "num_steps": 3, "seed": 3, "guidance_scale": 3.0, "scheduler": "euler", "num_images": 1}
    try:
        client = Client(url, verbose=False)
        pictures = client.predict(
            model=folders["sdxl"], **told, size={"original": [64, 24]}, added={"loras": [{"file": "sdxl-plain", "weight": 0.5}]}, api_name="/sample",
        )[2]
        drawn = np.asarray(Image.open(pictures[0]["image"] if isinstance(pictures[0]["image"], str) else pictures[0]["image"]["path"])).astype(int)
        wanted = ours(studio, folders["sdxl"], Added(loras=(Lora(file=loras["sdxl"], weight=0.5),)), size=SizeTold(original=(64, 24)))
        assert np.abs(drawn - wanted).max() == 0 and np.abs(drawn - ours(studio, folders["sdxl"])).max() > 3
        for told_too, words in (
            ({"flow": {"shift": 2}}, "cannot be told 'Shift of the flow'"), ({"added": {"loras": [{"file": "nowhere"}]}}, "no .safetensors file"),
        ):
            with pytest.raises(AppError, match=words):
                client.predict(model=folders["sdxl"], **told, **told_too, api_name="/sample")
    finally:
        demo.close()
