"""Fixtures of all tests: one thread for torch, and small models in the real folder format."""

import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# What takes longest begins first, so that no process is left with it at the end; then everything else as it stands.
SLOW_FIRST = (
    "browser/test_dreambooth", "hostile", "browser/test_schedules", "browser", "trainers/test_devices", "runs/test_runs",
    "sampling", "trainers", "tabs", "media",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which they are given to the processes; `make test` keeps a file in one of them."""
    places = {item: item.path.relative_to(item.path.parents[1]).as_posix() for item in items}
    items.sort(key=lambda item: next((i for i, slow in enumerate(SLOW_FIRST) if places[item].startswith(slow)), len(SLOW_FIRST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `make test` shares the tests among its processes: a file to one of them, and of tests/hostile all that ask the same app.

    Starting an app and its first picture cost some twelve seconds of processor time, in each process that needs one.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByApp(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            return f"tests/hostile, {'public' if 'public' in test.partition('[')[2] else 'own'}" if "/hostile/" in file else file

    return ByApp(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """A function that writes a tiny random pixel DDPM in diffusers' folder format: (mean_type=..., ...) -> folder name."""
    from pathlib import Path

    import torch

    from trainers.data import Pictures
    from trainers.ddpm import DDPMOptions, make_network, save_model

    def write(*, channels: int = 1, classes: int = 3, **changes) -> str:
        options = DDPMOptions(**{"widths": "16,32", "layers": 1, "attention_from": 5, "resolution": 8, **changes})
        torch.manual_seed(0)
        names = tuple("abcdefghij"[:classes])
        pictures = Pictures(pixels=torch.zeros(2, channels, 8, 8, dtype=torch.uint8), labels=torch.zeros(2, dtype=torch.long), class_names=names)
        network = make_network(options, channels, classes)
        # A fresh UNet ends in a small convolution; larger weights make its predictions matter.
        network.conv_out.weight.data *= 4
        folder = Path(tmp_path_factory.mktemp("model"))
        save_model(folder, options, network, pictures)
        return str(folder)

    return write


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder) -> str:
    """A tiny grey class-conditional model that predicts epsilon on the linear schedule."""
    return tiny_model_folder(schedule="linear")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What the studio computes and keeps lies in a folder of the tests, not in the user's."""
    os.environ["DIFFUSION_STUDIO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["DIFFUSION_STUDIO_RANKINGS"] = str(tmp_path_factory.mktemp("rankings"))


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory) -> str:
    """The folder of a tiny random StableDiffusionPipeline: 32x32 pictures, latents 4x8x8."""
    from tests.tiny_sd import save_tiny_sd

    return save_tiny_sd(tmp_path_factory.mktemp("sd") / "tiny-sd")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> str:
    """The folder of a tiny random CLIPModel."""
    from tests.tiny_sd import save_tiny_clip

    return save_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="session")
def example_rankings(tmp_path_factory):
    """A function that puts the made-up example, ranked, into a folder where no rankings lie yet: (folder)."""
    import shutil

    from studio.rankings import open_rankings
    from studio.rankings.example import add_example

    made = tmp_path_factory.mktemp("example") / "rankings"
    rankings = open_rankings(made)
    add_example(rankings)
    rankings.close()
    return lambda folder: shutil.copytree(made, folder)


@pytest.fixture
def quick_hashes(monkeypatch):
    """argon2 at its cheapest, where what it costs is not the matter."""
    from argon2 import PasswordHasher

    from studio import users

    quick = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    users._nobodys_hash.cache_clear()
    monkeypatch.setattr(users, "_hasher", lambda: quick)
    yield
    users._nobodys_hash.cache_clear()
