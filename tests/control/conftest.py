"""Tiny ControlNets, and maps for them."""

import numpy as np
import pytest
from PIL import Image

from tests.tiny_control import save_tiny_controlnet


@pytest.fixture(scope="session")
def tiny_net(tmp_path_factory, tiny_sd) -> str:
    """The folder of a random ControlNet for `tiny_sd`."""
    return save_tiny_controlnet(tmp_path_factory.mktemp("net") / "tiny-net", tiny_sd)


@pytest.fixture(scope="session")
def other_net(tmp_path_factory, tiny_sd) -> str:
    """Another one."""
    return save_tiny_controlnet(tmp_path_factory.mktemp("net") / "other-net", tiny_sd, seed=6)


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory) -> str:
    """The folder of a tiny random StableDiffusionXLPipeline."""
    from tests.tiny_families import save_tiny_sdxl

    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny-sdxl")


@pytest.fixture(scope="session")
def xl_net(tmp_path_factory, tiny_sdxl) -> str:
    """The folder of a random ControlNet for `tiny_sdxl`."""
    return save_tiny_controlnet(tmp_path_factory.mktemp("net") / "xl-net", tiny_sdxl)


@pytest.fixture(scope="session")
def tiny_sd3(tmp_path_factory) -> str:
    """The folder of a tiny random StableDiffusion3Pipeline without T5."""
    from tests.tiny_families import save_tiny_sd3

    return save_tiny_sd3(tmp_path_factory.mktemp("sd3") / "tiny-sd3", t5=False)


@pytest.fixture(scope="session")
def maps() -> list[Image.Image]:
    """Two maps of 32 x 32."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]
