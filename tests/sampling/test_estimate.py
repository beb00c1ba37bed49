"""What is asked is weighed before it begins: runs, decoding, films, sheets, grids, comparisons; refused in numbers, and never what fits."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from studio import SampleOptions, Studio
from studio.errors import InvalidOption, TooLarge
from studio.kept import PUBLIC_LIMITS
from studio.models import activations
from studio.sampling import estimate, export
from studio.sampling.compare import common_axis, difference_maps
from studio.sampling.estimate import PUBLIC_SIDES, PUBLIC_WORK, RECORDED_BYTES, need_of_runs, num_steps_of
from tests.peak import CAN_MEASURE, foretold_and_measured

GIB, MIB = 2**30, 2**20


@pytest.fixture
def free(monkeypatch):
    """A function that says how many bytes are free."""
    def say(size: float) -> None:
        for module in ("studio.machine", "studio.models.room", "studio.models.memory"):
            monkeypatch.setattr(f"{module}.free_ram", lambda: int(size))

    return say


@pytest.fixture(scope="module")
def run(tiny_sd):
    """A latent run of 12 steps and 2 pictures."""
    return list(Studio().sample(SampleOptions(model=tiny_sd, prompt="a star", num_steps=12, num_images=2, guidance_scale=3.0)))[-1].trajectory


# --- runs ----------------------------------------------------------------------------------------------------

def test_a_run_that_does_not_fit_is_refused_in_numbers_before_its_first_step(tiny_model, free):
    studio = Studio()
    free(4.1 * GIB)
    with pytest.raises(TooLarge, match=r"^This needs about \d+\.\d GiB and 4\.1 GiB are free: make it smaller, or take fewer pictures or steps\.$"):
        next(iter(studio.sample(SampleOptions(model=tiny_model, width=4096, height=4096, num_images=8, num_steps=1))))
    free(20 * MIB)
    with pytest.raises(TooLarge, match="20 MiB are free"):
        list(studio.sample(SampleOptions(model=tiny_model, num_images=64, num_steps=1000)))


def test_what_fits_is_not_refused_and_costs_no_count(tiny_model, tiny_sd, free, monkeypatch):
    monkeypatch.setattr(activations, "live_peak", lambda work: pytest.fail("counted, though it fits by far"))
    free(2 * GIB)
    for model in (tiny_model, tiny_sd):
        assert list(Studio().sample(SampleOptions(model=model, num_steps=2)))[-1].trajectory.complete


def test_the_quick_bound_is_above_the_count_and_the_count_is_made_once(tiny_model, tiny_sd, tiny_clip, monkeypatch):
    studio, counts = Studio(), []
    count = activations.live_peak
    monkeypatch.setattr(activations, "live_peak", lambda work: counts.append(1) or count(work))
    for options in (
        SampleOptions(model=tiny_model), SampleOptions(model=tiny_model, width=64, height=32, num_images=5), SampleOptions(model=tiny_sd, guidance_scale=4.0),
        SampleOptions(model=tiny_sd, width=128, height=128), SampleOptions(model=tiny_sd, prompt="a", clip_guidance_scale=10.0, clip_model=tiny_clip),
    ):
        model = studio.model(options.model)
        quick, exact = (need_of_runs(model, [options], quick=quick) for quick in (True, False))
        counted = len(counts)
        assert quick.device > exact.device > 0 and quick.host == exact.host > 0
        assert need_of_runs(model, [options], quick=False) == exact and len(counts) == counted


def test_a_count_leaves_the_model_as_it_was(tiny_sd):
    options = SampleOptions(model=tiny_sd, prompt="a star", num_steps=3, guidance_scale=3.0, record_attention=True)
    studio = Studio()
    before = list(studio.sample(options))[-1].trajectory
    need_of_runs(studio.model(tiny_sd), [options], quick=False)
    after = list(studio.sample(options))[-1].trajectory
    assert all(torch.equal(before.stream(name), after.stream(name)) for name in before.streams)


def test_networks_that_are_lent_part_by_part_are_counted_as_they_lie(tiny_sd):
    from accelerate import cpu_offload_with_hook

    model = Studio().model(tiny_sd)
    plain = need_of_runs(model, [SampleOptions(model=tiny_sd)], quick=False)
    other = Studio().model(tiny_sd)
    for part in (other.network, other.parts["vae"]):
        cpu_offload_with_hook(part, execution_device="cpu")
    hooks = [part._hf_hook for part in (other.network, other.parts["vae"])]
    assert need_of_runs(other, [SampleOptions(model=tiny_sd)], quick=False) == plain
    assert [part._hf_hook for part in (other.network, other.parts["vae"])] == hooks and other.network.forward is not type(other.network).forward


def test_recorded_bytes_are_those_of_the_trajectory(tiny_model, tiny_sd, tiny_clip):
    for changes in (
        {"model": tiny_model, "num_images": 3}, {"model": tiny_sd, "guidance_scale": 2.0}, {"model": tiny_sd, "guidance_scale": 2.0, "num_images": 2},
        {"model": tiny_sd, "prompt": "a", "clip_guidance_scale": 5.0, "clip_model": tiny_clip}, {"model": tiny_model, "timesteps": "10,5"},
        {"model": tiny_model, "init_image": Image.new("RGB", (8, 8)), "strength": 0.5},
    ):
        options = SampleOptions(**{"num_steps": 6, **changes})
        studio = Studio()
        trajectory = list(studio.sample(options))[-1].trajectory
        assert num_steps_of(options) == len(trajectory.steps)
        final = trajectory.x_final.nbytes + (0 if trajectory.final_pixels is None else trajectory.final_pixels.nbytes)
        start = 3 * 8 * 8 if options.init_image else 0
        assert need_of_runs(studio.model(options.model), [options], quick=True).kept == trajectory.nbytes - final - start


def test_two_runs_that_are_both_kept_need_more_than_one_after_the_other(tiny_model):
    model, runs = Studio().model(tiny_model), [SampleOptions(model=tiny_model, num_steps=500, num_images=n) for n in (3, 4)]
    both, after = (need_of_runs(model, runs, quick=True, keep=keep) for keep in (True, False))
    assert both.kept == sum(need_of_runs(model, [one], quick=True).kept for one in runs) and after.kept == 0
    assert after.together == max(need_of_runs(model, [one], quick=True).together for one in runs) < both.together


def test_other_models_give_way_before_a_run_is_refused(tiny_model, tiny_sd, free, monkeypatch):
    studio = Studio()
    studio.model(tiny_sd), studio.model(tiny_model)
    options = SampleOptions(model=tiny_model, num_steps=2, width=64, height=64)
    needed = need_of_runs(studio.model(tiny_model), [options], quick=False).together
    free(needed - 1)
    only = studio._memory.only
    monkeypatch.setattr(studio._memory, "only", lambda name: only(name) and not free(needed))
    assert list(studio.sample(options))[-1].trajectory.complete and [one.name for one in studio.residents()] == [tiny_model]
    free(needed - 1)
    with pytest.raises(TooLarge):  # nobody is left to give way
        list(studio.sample(options))


def test_a_gpu_and_the_computer_are_weighed_apart(tiny_model, free, monkeypatch):
    from studio.models import room
    from studio.models.room import Need, require_room

    class OnGpu:
        device = torch.device("cuda")

        def spare_memory(self):
            return False

    weigh = {"offloaded": False, "let_others_go": lambda: False}
    monkeypatch.setattr(room, "free_bytes", lambda device: 2 * GIB)
    free(GIB)
    require_room(OnGpu(), lambda quick: Need(phases=((2 * GIB, GIB), (0, GIB))), **weigh)  # type: ignore[arg-type]
    with pytest.raises(TooLarge, match=r"3\.0 GiB of the GPU's memory and 2\.0 GiB are free"):
        require_room(OnGpu(), lambda quick: Need(phases=((3 * GIB, 0),)), **weigh)  # type: ignore[arg-type]
    with pytest.raises(TooLarge, match=r"1\.5 GiB of the computer's memory and 1\.0 GiB are free"):
        require_room(OnGpu(), lambda quick: Need(phases=((GIB, 0), (0, GIB * 3 // 2))), **weigh)  # type: ignore[arg-type]


def test_options_that_do_not_fit_the_model_are_refused_as_the_run_would(tiny_model):
    with pytest.raises(InvalidOption, match="reads no text"):
        Studio().require_room(SampleOptions(model=tiny_model, prompt="a star", clip_guidance_scale=3.0))


@pytest.mark.skipif(not CAN_MEASURE, reason="the peak of a process is read as Linux tells it")
@pytest.mark.parametrize("options", [
    {"model": "toybox-ddpm", "num_images": 48, "num_steps": 4}, {"model": "toybox-sd", "num_images": 24, "num_steps": 2, "guidance_scale": 4.0},
], ids=str)
def test_what_is_foretold_is_what_a_process_takes(options):
    told, took = foretold_and_measured(**options)
    assert 0.6 * took < told < 1.5 * took


# --- in public -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "sentence"), [
    ({"num_images": 64, "num_steps": 1000}, rf"{PUBLIC_WORK:,} pixels in all steps of a run, but 32 x 32 pixels x 64 pictures x 1000 steps are 65,536,000"),
    ({"timesteps": "900,90", "num_images": 64}, "x 990 steps"), ({"width": 256, "num_steps": 1}, r"at most 128 x 128 pixels with .*, but this is 256 x 32"),
    ({"width": 4096, "height": 4096, "num_steps": 1}, "this is 4096 x 4096"),
])
def test_a_public_studio_bounds_the_work_of_a_run_before_it_loads_a_model(changes, sentence):
    studio = Studio(public=True)
    options = SampleOptions(**{"model": "toybox-ddpm", **changes})
    for asked in (lambda: list(studio.sample(options)), lambda: studio.noise_curve(options), lambda: studio.require_room(options)):
        with pytest.raises(TooLarge, match=sentence):
            asked()
    assert studio.residents() == []


def test_a_strangers_file_is_not_decoded_beyond_the_bounds_of_a_public_studio():
    run = list(Studio().sample(SampleOptions(model="toybox-sd", num_steps=1)))[-1].trajectory
    studio = Studio(public=True)
    for shape, sentence in (((1, 4, 128, 128), "this is 512 x 512"), ((3000, 4, 16, 16), "x 3000 pictures x 1 steps")):
        with pytest.raises(TooLarge, match=sentence):
            studio.decode(dataclasses.replace(run, x_final=torch.zeros(shape)), "x0_hat", 0)
    assert studio.decode(run, "x0_hat", 0)[0].size == (64, 64)


def test_the_largest_run_of_a_public_studio_fits_into_what_a_session_keeps():
    channels, streams_of_guidance = 3, 4
    assert PUBLIC_WORK * channels * (RECORDED_BYTES + streams_of_guidance) > PUBLIC_LIMITS.session_bytes  # were all of it guided pixels
    assert PUBLIC_WORK * channels * RECORDED_BYTES <= 1.05 * PUBLIC_LIMITS.session_bytes


def test_usual_requests_are_within_the_bounds_of_a_public_studio():
    studio = Studio(public=True)
    for name, info in studio.models.items():
        for changes in ({"num_images": 64, "num_steps": 25}, {"num_images": 2, "num_steps": 1000}):
            estimate.check_public(info, SampleOptions(model=name, **changes))
        estimate.check_public(info, SampleOptions(model=name, width=PUBLIC_SIDES * info.width, height=PUBLIC_SIDES * info.height, num_steps=25))


def test_what_no_computer_holds_is_refused_before_the_model_is_loaded():
    studio = Studio()
    with pytest.raises(TooLarge, match="this computer has"):
        list(studio.sample(SampleOptions(model="toybox-ddpm", width=4096, height=4096, num_images=64, num_steps=1000)))
    assert studio.residents() == []


# --- decoding, films, sheets, comparisons --------------------------------------------------------------------

def test_decoding_and_previews_are_weighed(run, free):
    studio = Studio()
    free(MIB // 8)
    long = dataclasses.replace(run, steps=list(run.steps) * 400)
    for work in (lambda: studio.decode(run, "x0_hat", 3), lambda: next(studio.decoded(run, "both")), lambda: studio.preview_pictures(long, "x_t")):
        with pytest.raises(TooLarge, match="0 MiB are free"):
            work()
    free(GIB)
    assert len(studio.decode(run, "x0_hat", 3)) == 2 and studio.preview_pictures(run, "x_t").shape[0] == 12


WORK = {
    "This GIF": lambda run, path: export.save_gif(run, "both", path / "a.gif"), "This MP4": lambda run, path: export.save_mp4(run, "both", path / "a.mp4"),
    "This contact sheet": lambda run, path: export.contact_sheet(run, "x0_hat"), "This film": lambda run, path: export.frames(run, "x_t"),
    "A grid of that": lambda run, path: export.labelled_grid(run.images * 32, ["a"] * 8, ["b"] * 8, "corner"),
    "This comparison": lambda run, path: difference_maps(run, run, "x_t", common_axis(run.steps, run.steps)),
}


@pytest.mark.parametrize("what", WORK)
def test_what_is_made_of_a_run_is_weighed_before_it_is_made(run, free, tmp_path, what):
    free(100)
    with pytest.raises(TooLarge, match=rf"{what} needs about \d+ MiB of memory and 0 MiB are free: "):
        WORK[what](run, tmp_path)
    assert not list(tmp_path.iterdir())
    free(4 * GIB)
    WORK[what](run, tmp_path)


@pytest.mark.parametrize("what", list(WORK)[:5])
def test_what_is_made_of_a_run_is_bounded_however_much_memory_there_is(run, free, tmp_path, monkeypatch, what):
    free(2**50)
    monkeypatch.setattr(export, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(TooLarge, match=r"megapixels a frame, and at most 0 can be made: take fewer pictures"):
        WORK[what](run, tmp_path)
    monkeypatch.setattr(export, "MAX_FRAME_PIXELS", 2**30)
    monkeypatch.setattr(export, "MAX_HELD_PIXELS", 2000)
    monkeypatch.setattr(export, "MAX_SHEET_PIXELS", 2000)
    with pytest.raises(TooLarge, match="megapixels, and at most"):
        WORK[what](run, tmp_path)


def test_a_run_file_whose_pictures_are_not_its_steps_is_refused(run, tmp_path):
    from studio.errors import BadRunFile
    from studio.sampling.trajectory import Trajectory

    more = torch.from_numpy(np.zeros((7, 640, 640, 3), np.uint8))
    with pytest.raises(BadRunFile, match="do not match"):
        Trajectory.load(dataclasses.replace(run, final_pixels=more).save(tmp_path / "run.safetensors"))
