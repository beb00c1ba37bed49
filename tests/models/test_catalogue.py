"""The well-known ids of Stable Diffusion XL, 3 and DiT and of their ControlNets, through the loading code with a Hub that holds tiny ones."""

from pathlib import Path

import pytest

from studio.models import MODELS, load_model
from studio.models.controlnet_menu import CONTROLNETS
from studio.models.controlnets import load_controlnet
from studio.models.families import FAMILIES
from tests.tiny_control import save_tiny_controlnet, save_tiny_sd3_controlnet
from tests.tiny_families import save_tiny_dit, save_tiny_refiner, save_tiny_sd3, save_tiny_sdxl

SAVERS = {"sdxl": save_tiny_sdxl, "sdxl-refiner": save_tiny_refiner, "sd3": save_tiny_sd3, "dit": save_tiny_dit}
LISTED = [name for name, info in MODELS.items() if info.family in SAVERS]
NETS = [name for name, info in CONTROLNETS.items() if info.base.startswith(("Stable Diffusion XL", "Stable Diffusion 3"))]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("catalogue")
    made = {family: save(root / family) for family, save in SAVERS.items()}
    nets = {"Stable Diffusion XL": save_tiny_controlnet(root / "xl-net", made["sdxl"])}
    nets["Stable Diffusion 3 medium"] = save_tiny_sd3_controlnet(root / "sd3-net", made["sd3"])
    nets["Stable Diffusion 3.5 large"] = save_tiny_sd3_controlnet(root / "large-net", made["sd3"], large=True, force_zeros_for_pooled_projection=False)
    return {**made, **nets}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hub; gives what puts a folder there under an id."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def hold(name: str, folder: str) -> None:
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        (repository / "snapshots").mkdir()
        (repository / "snapshots" / ("0" * 40)).symlink_to(Path(folder), target_is_directory=True)

    return hold


@pytest.mark.parametrize("family", SAVERS)
def test_every_listed_model_loads_by_its_id_as_the_family_it_is_listed_under(tiny, hub, family):
    names = [name for name in LISTED if MODELS[name].family == family]
    assert names
    for name in names:
        info = MODELS[name]
        assert info.licence and info.size_mib > 1_000 and 1 < info.memory_gib < 40 and info.about and info.source == name
        hub(name, tiny[family])
    for name in names:
        model = load_model(name)
        assert model.info.family == family and model.info.label == MODELS[name].label and model.info.licence == MODELS[name].licence
        assert FAMILIES[family].text == (model.prompts is not None)


@pytest.mark.parametrize("name", NETS)
def test_every_listed_controlnet_loads_by_its_id(tiny, hub, name):
    info = CONTROLNETS[name]
    assert info.licence and info.size_mib > 1_000 and info.memory_gib > 1 and info.annotators
    hub(name, tiny[info.base])
    net = load_controlnet(name)
    assert net.info == info and net.adds_to == ("UNet2DConditionModel" if "XL" in info.base else "SD3Transformer2DModel")
