"""What stays resident, what gives way, what is refused; downloads told in bytes; running out of memory."""

import gc
import weakref

import numpy as np
import pytest
import torch

from studio import SampleOptions, Studio
from studio.errors import InvalidOption, ModelUnavailable, RunFailed, TooLarge, UnknownName
from studio.models.downloads import LoadProgress, download
from studio.models.loading import resolve
from studio.models.memory import GIB, RUN_GIB, VARIABLE, Residents, budget_gib, estimate_gib


class Weights:
    """Stands for a model of a known size."""

    def __init__(self, gib: float):
        self.gib = gib


SIZES = {"small": 1.0, "other": 1.5, "large": 3.0, "huge": 5.0, "giant": 9.0, "vast": 20.0, "titan": 40.0}


def residents(budget: float = 4.0, offload: bool = True, loads: list | None = None) -> Residents:
    def load(name, offloaded):
        if loads is not None:
            loads.append((name, offloaded))
        return Weights(SIZES[name])

    return Residents(load=load, estimate=SIZES.get, measure=lambda model: model.gib, budget=lambda: budget, can_offload=lambda: offload)


def test_models_stay_until_another_needs_their_room():
    loads: list = []
    memory = residents(loads=loads)
    small = memory.get("small")
    memory.get("other")
    assert memory.get("small") is small and [one.name for one in memory.list()] == ["small", "other"]
    memory.get("large")  # 3 beside 1 fit in 4; the other, used longest ago, gave way
    assert [one.name for one in memory.list()] == ["large", "small"] and memory.get("small") is small
    assert loads == [("small", ""), ("other", ""), ("large", "")]
    assert [one.memory_gib for one in memory.list()] == [1.0, 3.0] and memory.list()[0].last_used >= memory.list()[1].last_used


def test_an_evicted_model_is_freed():
    memory = residents()
    gone = weakref.ref(memory.get("large"))
    memory.get("other")
    gc.collect()
    assert gone() is None


def test_what_does_not_fit_alone_is_offloaded_and_then_refused_in_numbers():
    loads: list = []
    memory = residents(loads=loads)
    memory.get("huge")  # 5 GiB, part by part 3.25
    assert loads == [("huge", "parts")] and memory.list()[0].offloaded and memory.list()[0].memory_gib == pytest.approx(3.25)
    with pytest.raises(ModelUnavailable, match=r"4\.8 GiB even layer by layer.*4\.0 GiB: 0\.8 GiB are missing"):
        memory.get("titan")
    assert [one.name for one in memory.list()] == ["huge"]  # a refusal costs nobody their place
    with pytest.raises(ModelUnavailable, match=r"needs about 5\.0 GiB and the studio may use 4\.0 GiB: 1\.0"):
        residents(offload=False).get("huge")


@pytest.mark.parametrize(("name", "holding", "about"), [
    ("large", "", ""), ("huge", "parts", "lent part by part"), ("giant", "fp8", "network in 8 bits, lent part by part"),
    ("vast", "layers", "lent layer by layer"),
])
def test_a_model_is_held_in_the_first_way_that_fits_and_that_is_said(name, holding, about):
    loads: list = []
    memory = residents(loads=loads)
    memory.get(name)
    assert loads == [(name, holding)] and memory.list()[0].about == about
    # Of one that is lent layer by layer no whole network has to fit.
    assert memory.offloads(name) == (holding in ("parts", "fp8"))


def test_a_network_in_8_bits_takes_less_and_draws_nearly_the_same(tiny_sd, monkeypatch):
    from diffusers import StableDiffusionPipeline

    from studio.models import load_model
    from studio.models.memory import measured_gib
    from studio.sampling.loop import sample

    def drawn(model):
        options = SampleOptions(model=tiny_sd, prompt="a red star", num_steps=3, seed=3)
        model.make_ready(options)
        *_, finished = sample(model, options)
        return np.asarray(finished.images[0]).astype(int)

    # There is no second device here that anything could be lent to.
    monkeypatch.setattr(StableDiffusionPipeline, "enable_model_cpu_offload", lambda self, device: None)
    whole, rounded = load_model(tiny_sd), load_model(tiny_sd, offload="fp8")
    assert any(weight.dtype == torch.float8_e4m3fn for weight in rounded.network.parameters()) and measured_gib(rounded) < measured_gib(whole)
    assert 0 < np.abs(drawn(rounded) - drawn(whole)).mean() < 16


def test_what_does_not_fit_is_tried_in_tiles_before_it_is_refused_and_that_is_said(tiny_sd, monkeypatch):
    from studio.models import load_model, room
    from studio.models.room import Need, require_room

    model = load_model(tiny_sd)
    model.vae.tile_latent_min_size = 4
    monkeypatch.setattr(room, "free_ram", lambda: 100)

    def need(quick):
        at_once = model.decoded_at_once(8, 8)
        return Need(phases=((at_once[0] * at_once[1] * 2, 0),))

    require_room(model, need, offloaded=False, let_others_go=lambda: False)
    assert model.decoded_at_once(8, 8) == (4, 4) and model.tiles_early
    held = Residents(load=lambda name, how: model, estimate=lambda name: 0.1, measure=lambda model: 0.1, budget=lambda: 1.0, can_offload=lambda: False)
    held.get("x")
    assert held.list()[0].about == "VAE in tiles" == (held.get("x"), held.list()[0].about)[1]
    monkeypatch.setattr(room, "free_ram", lambda: 10)
    with pytest.raises(TooLarge):
        require_room(model, need, offloaded=False, let_others_go=lambda: False)


def test_the_budget_is_read_from_the_device_or_said(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert budget_gib(torch.device("cpu")) > 0.5
    monkeypatch.setenv(VARIABLE, "2.5")
    assert budget_gib(torch.device("cpu")) == 2.5 == Studio().memory_gib()
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(InvalidOption, match="much"):
        budget_gib(torch.device("cpu"))


def test_the_studio_says_what_is_resident_and_refuses_what_is_too_large(tiny_sd, tiny_model, monkeypatch):
    studio = Studio()
    studio.model(tiny_sd), studio.model(tiny_model)
    assert [one.name for one in studio.residents()] == [tiny_model, tiny_sd] and all(0 < one.memory_gib < 0.2 for one in studio.residents())
    monkeypatch.setenv(VARIABLE, "0.01")
    other = Studio()
    with pytest.raises(ModelUnavailable, match="GiB are missing"):
        other.model(tiny_sd)
    studio.free()
    assert studio.residents() == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_frees_everything_and_the_next_request_works(tiny_sd, monkeypatch, error):
    studio = Studio()
    options = SampleOptions(model=tiny_sd, prompt="a star", num_steps=3)
    model = studio.model(tiny_sd)
    freed = weakref.ref(model)

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(model.network, "forward", fail)
    del model
    with pytest.raises(RunFailed, match="fewer or smaller pictures") as raised:
        list(studio.sample(options))
    assert raised.value.__cause__ is None and studio.residents() == []
    monkeypatch.undo()
    error.__traceback__ = None
    del raised
    gc.collect()
    assert freed() is None
    assert list(studio.sample(options))[-1].trajectory.complete


def test_other_errors_keep_their_traceback(tiny_sd, monkeypatch):
    studio = Studio()
    monkeypatch.setattr(studio.model(tiny_sd).network, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(studio.sample(SampleOptions(model=tiny_sd, num_steps=2)))


# --- downloads -----------------------------------------------------------------------------------------------

def test_a_download_tells_its_bytes_and_then_the_model_is_there(tiny_sd, monkeypatch):
    from studio.models import loading

    monkeypatch.setattr(loading, "resolve", lambda name: tiny_sd if fetched else name)
    fetched: list[str] = []

    def fetch(name, tell):
        for done in range(0, 101, 10):
            tell(done, 100)
        fetched.append(name)

    studio = Studio()
    studio.fetch = fetch
    told = list(studio.load("somebody/tiny-sd"))
    assert told[0] == LoadProgress(name="somebody/tiny-sd", done_bytes=0, total_bytes=0)
    assert told[-1] == LoadProgress(name="somebody/tiny-sd", done_bytes=100, total_bytes=100)
    assert fetched == ["somebody/tiny-sd"] and [one.name for one in studio.residents()] == ["somebody/tiny-sd"]
    assert list(studio.load("somebody/tiny-sd")) == []  # it is here


def test_failed_downloads_are_said_in_a_sentence():
    class GatedRepoError(OSError):
        pass

    class RepositoryNotFoundError(OSError):
        pass

    def failing(error):
        def fetch(name, tell):
            raise error
        return fetch

    for error, said in (
        (GatedRepoError("403"), "accept its licence"), (RepositoryNotFoundError("404"), "check the spelling"), (OSError(28, "full"), "no room"),
        (ConnectionError("no route"), "Check the network"), (ModelUnavailable("It holds no safetensors."), "no safetensors"),
    ):
        with pytest.raises(ModelUnavailable, match=said):
            list(download("a/b", failing(error)))


def test_closing_a_download_ends_it():
    from threading import Event

    ended, going = Event(), Event()

    def fetch(name, tell):
        try:
            for done in range(10**9):
                tell(done, 10**9)
                going.set()
                ended.wait(0.001)
        except BaseException:
            ended.set()
            raise

    progress = download("a/b", fetch)
    next(progress)
    assert going.wait(10)
    progress.close()
    assert ended.wait(10)


def test_without_a_network_a_hub_id_is_refused_in_a_sentence():
    with pytest.raises(ModelUnavailable, match="could not be fetched"):
        list(Studio().load("nobody/nothing-of-this-name"))


def test_only_a_folder_that_says_it_holds_a_model_is_looked_through(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion.safetensors").write_bytes(bytes(GIB // 1024))
    assert estimate_gib(str(tmp_path), None, half=False) == RUN_GIB
    (tmp_path / "model_index.json").write_text("{}")
    assert estimate_gib(str(tmp_path), None, half=False) == pytest.approx(RUN_GIB + 1 / 1024)


def test_no_name_is_not_the_folder_that_the_studio_was_started_in():
    with pytest.raises(UnknownName):
        resolve("")
