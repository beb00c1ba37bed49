"""Noise in one jump and step by step."""

import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from studio.errors import InvalidOption, UnknownName
from studio.media.pictures import load_picture
from studio.process.noising import ChainFinished, ChainProgress, Moments, NoiseOptions, compare_chain, draw_eps, noise_image, working_copy
from studio.process.schedules import SCHEDULES, alphas_cumprod, make_betas


@pytest.fixture(scope="module")
def cat():
    return working_copy(load_picture("cat"))


def finished(picture, **options):
    *_, last = compare_chain(picture, NoiseOptions(**options))
    assert isinstance(last, ChainFinished)
    return last


# --- options -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_timesteps": 0}, "num_timesteps.* 0"),
        ({"num_timesteps": 10.5}, "10.5"),
        ({"num_timesteps": None}, "None"),
        ({"t": 1000}, "t must be .* 999, but it is 1000"),
        ({"t": -1}, "-1"),
        ({"t": True}, "True"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "'x'"),
        ({"parameters": {"shift": 3.0}}, "shift"),
        ({"parameters": {"beta_end": math.nan}}, "beta_end"),
        ({"parameters": {"beta_end": "big"}}, "big"),
        ({"parameters": {"beta_end": 5.0}}, "betas"),
        ({"respacing": "ddim999"}, "ddim"),
        ({"respacing": "soup"}, "soup"),
        ({"respacing": [10]}, "text such as"),
        ({"num_timesteps": 1, "zero_terminal_snr": True}, "at least 2"),
    ],
)
def test_nonsense_is_refused_at_construction_with_the_value_in_the_message(options, words):
    with pytest.raises(InvalidOption, match=words):
        NoiseOptions(**options)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        NoiseOptions(schedule="cosin")


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NoiseOptions().t = 3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_coefficients_agree_with_each_other(schedule):
    at = NoiseOptions(schedule=schedule, t=400).coefficients()
    assert at.timestep == 400
    assert at.sqrt_alpha_bar**2 + at.sqrt_one_minus_alpha_bar**2 == pytest.approx(1)
    assert at.snr == pytest.approx(at.sigma**-2) == pytest.approx(math.exp(at.log_snr))


def test_respacing_does_not_change_the_closed_form(cat):
    plain, respaced = NoiseOptions(t=320), NoiseOptions(t=320, respacing="ddim50")
    assert noise_image(cat, plain) == noise_image(cat, respaced)
    assert respaced.kept() == list(range(0, 1000, 20)) and plain.kept() == list(range(1000))


# --- one jump ------------------------------------------------------------------------------------------------

def test_noise_is_the_closed_form_pixel_by_pixel(cat):
    options = NoiseOptions(schedule="cosine", t=300, seed=7)
    alpha_bar = alphas_cumprod(make_betas("cosine"))[300]
    eps = np.random.default_rng(7).standard_normal((cat.height, cat.width, 3), dtype=np.float32)
    x_t = math.sqrt(alpha_bar) * (np.asarray(cat) / 127.5 - 1) + math.sqrt(1 - alpha_bar) * eps
    expected = np.clip((x_t + 1) * 127.5, 0, 255)
    assert np.abs(np.asarray(noise_image(cat, options)) - expected).max() <= 0.501


def test_the_same_seed_gives_the_same_picture_and_another_seed_another(cat):
    assert noise_image(cat, NoiseOptions(t=500, seed=1)) == noise_image(cat, NoiseOptions(t=500, seed=1))
    assert noise_image(cat, NoiseOptions(t=500, seed=1)) != noise_image(cat, NoiseOptions(t=500, seed=2))


def test_arrays_and_pictures_of_any_mode_are_taken(cat):
    options = NoiseOptions(t=100)
    assert noise_image(np.asarray(cat), options) == noise_image(cat, options) == noise_image(cat.convert("RGBA"), options)


def test_at_zero_terminal_snr_nothing_of_the_picture_is_left(cat):
    last = NoiseOptions(t=999, zero_terminal_snr=True)
    assert noise_image(cat, last) == noise_image(Image.new("RGB", cat.size), last)
    assert last.coefficients().sigma == math.inf and last.coefficients().log_snr == -math.inf
    assert noise_image(cat, NoiseOptions(t=999)) != noise_image(Image.new("RGB", cat.size), NoiseOptions(t=999))


def test_working_copy_is_at_most_256_and_at_least_64_and_keeps_the_shape():
    assert working_copy(Image.new("RGB", (1024, 512))).size == (256, 128)
    assert working_copy(Image.new("L", (200, 100))).size == (200, 100)
    tiny = working_copy(Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)))
    assert tiny.size == (64, 32) and tiny.getpixel((31, 0)) == (255, 0, 0) and tiny.getpixel((32, 31)) == (0, 0, 255)
    assert working_copy(Image.new("RGB", (1, 1))).size == (64, 64)


# --- the chain -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("schedule", "t"), [("linear", 999), ("linear", 0), ("cosine", 300), ("karras", 400), ("flow", 999), ("sqrt", 30)])
def test_chain_and_jump_agree_within_four_standard_errors(schedule, t, cat):
    result = finished(cat, schedule=schedule, t=t)
    alpha_bar = alphas_cumprod(make_betas(schedule))[t]
    assert result.num_steps == t + 1
    assert [m.theory_variance for m in result.moments] == pytest.approx([1 - alpha_bar, 1 - alpha_bar, 2 * (1 - alpha_bar)])
    assert all(abs(m.mean_deviation) < 4 and abs(m.variance_deviation) < 4 for m in result.moments)
    assert result.agrees and result.verdict.startswith("Yes: ")


def test_the_respaced_chain_takes_fewer_steps_to_the_same_distribution(cat):
    result = finished(cat, t=333, respacing="ddim50")
    assert result.num_steps == 18  # 0, 20 .. 320, and 333 itself
    assert result.agrees


def test_one_seed_repeats_exactly_and_the_two_ways_use_different_noise(cat):
    first, again = finished(cat, t=50, seed=3), finished(cat, t=50, seed=3)
    assert first.chain == again.chain and first.jump == again.jump
    assert first.jump == noise_image(cat, NoiseOptions(t=50, seed=3))
    x0 = np.asarray(cat).astype(float)
    noise = [np.asarray(picture).astype(float) - x0 for picture in (first.chain, first.jump)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_a_wrong_chain_would_be_found(cat, monkeypatch):
    """The test must be able to fail: a chain whose noise is 2 % too strong lies far outside."""
    import studio.process.noising as noising

    monkeypatch.setattr(noising.schedules, "betas_from_alphas_cumprod", lambda alpha_bar: 1.04 * (1 - alpha_bar / np.append(1.0, alpha_bar[:-1])))
    result = finished(cat, t=100)
    assert not result.agrees and result.verdict.startswith("Not this time")


def test_histograms_share_their_bins_and_follow_theory(cat):
    bins = finished(cat, schedule="cosine", t=200).histogram
    assert bins.edges.shape == (65,) and bins.chain.shape == bins.jump.shape == bins.theory.shape == (64,)
    assert bins.chain.sum() == pytest.approx(1) and bins.jump.sum() == pytest.approx(1) and bins.theory.sum() == pytest.approx(1, abs=1e-3)
    # Pixels share x0, so a bin's count is less spread than a binomial's: 5 sigma of it bounds the difference.
    count = cat.width * cat.height * 3
    bound = 5 * np.sqrt(bins.theory / count) + 1e-5
    assert np.all(np.abs(bins.chain - bins.theory) < bound) and np.all(np.abs(bins.jump - bins.theory) < bound)


def test_standard_errors_are_those_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2000, 500)) * 2
    spread = Moments(name="x", count=500, mean=0, variance=4, theory_variance=4)
    assert draws.mean(axis=1).std() == pytest.approx(spread.mean_error, rel=0.06)
    assert draws.var(axis=1, ddof=1).std() == pytest.approx(spread.variance_error, rel=0.06)


def test_progress_ascends_to_the_last_step_before_the_result(cat):
    events = list(compare_chain(cat, NoiseOptions(t=199), num_events=10))
    progress, last = events[:-1], events[-1]
    assert all(isinstance(event, ChainProgress) for event in progress) and isinstance(last, ChainFinished)
    assert [event.index for event in progress] == list(range(20, 201, 20))
    assert progress[-1].timestep == 199 and progress[-1].picture == last.chain
    assert progress[0].picture.size == cat.size


def test_closing_the_stream_ends_it_within_a_step(cat):
    stream = compare_chain(cat, NoiseOptions(t=9999, num_timesteps=10_000))
    assert next(stream).num_steps == 10_000
    stream.close()
    assert list(stream) == []


def test_noise_is_standard_normal():
    eps = draw_eps((400, 400, 3), 5)
    assert eps.dtype == np.float32
    assert abs(eps.mean()) < 4 / math.sqrt(eps.size) and abs(eps.var() - 1) < 4 * math.sqrt(2 / eps.size)
