"""Noise schedules: identities that hold for every one, formulas written a second time, and respacing."""

import math

import numpy as np
import pytest

from studio.errors import InvalidOption, StudioError, UnknownName
from studio.process.schedules import (
    CURVES,
    MAX_TIMESTEPS,
    SCHEDULES,
    SPACINGS,
    alphas_cumprod,
    betas_from_alphas_cumprod,
    curves,
    make_betas,
    parse_timesteps,
    rescale_zero_terminal_snr,
    respace_betas,
    schedule_options,
    space_timesteps,
    spaced_timesteps,
)
from tests.process.three import THREE_SCHEDULES

EVERY_SCHEDULE = pytest.mark.parametrize("name", SCHEDULES)
WITH_AND_WITHOUT_ZERO_SNR = pytest.mark.parametrize("zero_terminal_snr", [False, True], ids=["plain", "zero_snr"])


# --- what holds for every schedule ---------------------------------------------------------------------------

@EVERY_SCHEDULE
@WITH_AND_WITHOUT_ZERO_SNR
@pytest.mark.parametrize("num_timesteps", [50, 1000, 4000])
def test_there_is_one_beta_per_timestep_and_each_lies_between_0_and_1(name, zero_terminal_snr, num_timesteps):
    betas = make_betas(name, num_timesteps, zero_terminal_snr=zero_terminal_snr)
    assert betas.shape == (num_timesteps,) and betas.dtype == np.float64
    assert np.all(betas > 0) and np.all(betas[:-1] < 1) and betas[-1] <= 1


@EVERY_SCHEDULE
@WITH_AND_WITHOUT_ZERO_SNR
def test_the_picture_only_ever_gets_noisier(name, zero_terminal_snr):
    snr = curves(make_betas(name, zero_terminal_snr=zero_terminal_snr))["snr"]
    assert np.all(np.diff(snr) < 0)


def test_the_snr_stays_at_zero_where_float64_cannot_hold_what_is_left_of_the_picture():
    # 10,000 betas of 0.094 on average leave exp(-1000), and the least float64 is exp(-745).
    snr = curves(make_betas("sqrt", MAX_TIMESTEPS))["snr"]
    first_zero = int(np.argmax(snr == 0))
    assert first_zero > 0
    assert np.all(np.diff(snr[: first_zero + 1]) < 0) and np.all(snr[first_zero:] == 0)


@EVERY_SCHEDULE
def test_signal_and_noise_power_sum_to_one(name):
    table = curves(make_betas(name))
    np.testing.assert_allclose(table["sqrt_alpha_bar"] ** 2 + table["sqrt_one_minus_alpha_bar"] ** 2, 1, rtol=1e-14)


@EVERY_SCHEDULE
def test_log_snr_is_minus_two_log_sigma(name):
    table = curves(make_betas(name, zero_terminal_snr=True))
    np.testing.assert_allclose(table["log_snr"][:-1], -2 * np.log(table["sigma"][:-1]), rtol=1e-12, atol=1e-12)
    assert table["log_snr"][-1] == -np.inf and table["sigma"][-1] == np.inf


@EVERY_SCHEDULE
def test_curves_has_exactly_the_menu_of_curves_and_each_is_finite_before_zero_snr(name):
    table = curves(make_betas(name, 200, zero_terminal_snr=True))
    assert list(table) == list(CURVES)
    for key, curve in table.items():
        assert curve.shape == (200,) and np.all(np.isfinite(curve[:-1])), key


@EVERY_SCHEDULE
def test_betas_come_back_from_their_cumulative_product(name):
    betas = make_betas(name)
    # 1 - ratio cancels: what is lost is an ulp of 1, whatever the size of beta.
    np.testing.assert_allclose(betas_from_alphas_cumprod(alphas_cumprod(betas)), betas, rtol=0, atol=4 * np.finfo(float).eps)


def test_the_curves_of_a_two_step_process_are_those_of_hand_arithmetic():
    # beta = 0.2, 0.5: alpha_bar = 0.8, 0.4. At t = 1: posterior variance = 0.5 * 0.2 / 0.6 = 1/6,
    # coef1 = 0.5 * sqrt(0.8) / 0.6, coef2 = 0.2 * sqrt(0.5) / 0.6. At t = 0 the posterior is x0 itself.
    table = curves(np.array([0.2, 0.5]))
    expected = {
        "beta": [0.2, 0.5],
        "alpha_bar": [0.8, 0.4],
        "sqrt_alpha_bar": [math.sqrt(0.8), math.sqrt(0.4)],
        "sqrt_one_minus_alpha_bar": [math.sqrt(0.2), math.sqrt(0.6)],
        "snr": [4, 2 / 3],
        "log_snr": [math.log(4), math.log(2 / 3)],
        "sigma": [0.5, math.sqrt(1.5)],
        "posterior_variance": [0, 1 / 6],
        "posterior_mean_coef1": [1, 0.5 * math.sqrt(0.8) / 0.6],
        "posterior_mean_coef2": [0, 0.2 * math.sqrt(0.5) / 0.6],
    }
    assert expected.keys() == CURVES.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(table[key], values, rtol=1e-14, atol=1e-15, err_msg=key)


# --- each schedule against its formula -----------------------------------------------------------------------

@pytest.mark.parametrize("num_timesteps", [100, 1000, 2000])
def test_linear_runs_between_the_ends_of_the_paper_scaled_by_1000_over_T(num_timesteps):
    scale = 1000 / num_timesteps
    low, high = scale * 1e-4, scale * 0.02
    expected = [low + (high - low) * t / (num_timesteps - 1) for t in range(num_timesteps)]
    np.testing.assert_allclose(make_betas("linear", num_timesteps), expected, rtol=1e-12)


@pytest.mark.parametrize("num_timesteps", [100, 1000])
def test_scaled_linear_has_a_line_of_square_roots(num_timesteps):
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    expected = [(low + (high - low) * t / (num_timesteps - 1)) ** 2 for t in range(num_timesteps)]
    np.testing.assert_allclose(make_betas("scaled_linear", num_timesteps), expected, rtol=1e-12)


@pytest.mark.parametrize("num_timesteps", [100, 1000])
def test_cosine_follows_the_squared_cosine_and_caps_beta(num_timesteps):
    def alpha_bar(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [min(1 - alpha_bar((t + 1) / num_timesteps) / alpha_bar(t / num_timesteps), 0.999) for t in range(num_timesteps)]
    assert expected[-1] == 0.999
    np.testing.assert_allclose(make_betas("cosine", num_timesteps), expected, rtol=1e-11)


def test_sigmoid_is_a_logistic_curve_from_minus_6_to_6():
    expected = [1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * t / 999)) for t in range(1000)]
    np.testing.assert_allclose(make_betas("sigmoid"), expected, rtol=1e-12)
    np.testing.assert_allclose(make_betas("sigmoid", 500)[[0, -1]], 2 * np.array(expected)[[0, -1]], rtol=1e-12)


def test_sqrt_linear_is_linear_at_1000_steps_and_keeps_its_ends_at_any_other_number():
    np.testing.assert_allclose(make_betas("sqrt_linear"), make_betas("linear"), rtol=1e-12)
    np.testing.assert_allclose(make_betas("sqrt_linear", 50)[[0, -1]], [1e-4, 0.02], rtol=1e-12)


def test_sqrt_has_the_square_roots_of_a_line_as_betas():
    np.testing.assert_allclose(make_betas("sqrt") ** 2, [1e-4 + (0.02 - 1e-4) * t / 999 for t in range(1000)], rtol=1e-12)


def test_karras_visits_the_noise_levels_of_edm():
    low, high = 0.002 ** (1 / 7), 80 ** (1 / 7)
    expected = [(low + (high - low) * t / 199) ** 7 for t in range(200)]
    # 1 - alpha_bar is 4e-6 at the start, so sigma is good to 1e-16 / 4e-6.
    np.testing.assert_allclose(curves(make_betas("karras", 200))["sigma"], expected, rtol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_has_the_noise_to_signal_ratio_of_a_straight_line(shift):
    # x = (1 - s) x0 + s eps, so sigma = s / (1 - s); the shift multiplies exactly that ratio.
    s = np.arange(1, 100) / 100
    table = curves(make_betas("flow", 100, shift=shift))
    np.testing.assert_allclose(table["sigma"][:-1], shift * s / (1 - s), rtol=1e-9)
    assert table["snr"][-1] == 0


# --- zero terminal SNR ---------------------------------------------------------------------------------------

@EVERY_SCHEDULE
@pytest.mark.parametrize("num_timesteps", [2, 50, 1000])
def test_zero_terminal_snr_ends_in_pure_noise_and_starts_where_it_did(name, num_timesteps):
    # Short processes need gentler ends than the menu's defaults, which are made for many steps.
    options = {"beta_start": 1e-4, "beta_end": 1e-3} if num_timesteps == 2 and "beta_end" in schedule_options(name) else {}
    before = alphas_cumprod(make_betas(name, num_timesteps, **options))
    after = alphas_cumprod(make_betas(name, num_timesteps, zero_terminal_snr=True, **options))
    assert after[-1] == 0
    assert after[0] == pytest.approx(before[0], rel=1e-14)


@EVERY_SCHEDULE
def test_zero_terminal_snr_moves_every_signal_scale_by_one_affine_map(name):
    before, after = (np.sqrt(alphas_cumprod(make_betas(name, 200, zero_terminal_snr=zero))) for zero in (False, True))
    # Lin et al. 2023, algorithm 1: first -> first, last -> 0, straight in between.
    expected = (before - before[-1]) / (before[0] - before[-1]) * before[0]
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-13)


def test_zero_terminal_snr_leaves_a_schedule_that_has_it_alone():
    betas = make_betas("flow", 100)
    np.testing.assert_allclose(rescale_zero_terminal_snr(betas), betas, rtol=0, atol=1e-13)


def test_zero_terminal_snr_gives_no_nan_where_the_picture_underflows():
    alpha_bar = alphas_cumprod(make_betas("sqrt", MAX_TIMESTEPS, zero_terminal_snr=True))
    assert np.all(np.isfinite(alpha_bar)) and alpha_bar[-1] == 0 and alpha_bar[0] > 0.98


def test_zero_terminal_snr_of_one_timestep_is_refused():
    with pytest.raises(InvalidOption, match="at least 2 timesteps .* there are 1"):
        make_betas("scaled_linear", 1, zero_terminal_snr=True)


# --- respacing -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("num_timesteps", "count"), [(1000, 1), (1000, 10), (1000, 50), (1000, 1000), (1000, 334), (100, 17), (7, 4)])
def test_ddim_respacing_takes_exactly_n_steps_with_one_stride_from_zero(num_timesteps, count):
    kept = space_timesteps(num_timesteps, f"ddim{count}")
    assert len(kept) == count and kept[0] == 0 and kept[-1] < num_timesteps
    stride = kept[1] if count > 1 else num_timesteps
    assert kept == [stride * step for step in range(count)]
    assert kept[-1] + stride >= num_timesteps


def test_the_ddim_counts_that_work_are_exactly_the_ceilings_of_T_over_a_stride():
    num_timesteps = 60
    possible = {math.ceil(num_timesteps / stride) for stride in range(1, num_timesteps + 1)}
    for count in range(1, num_timesteps + 1):
        if count in possible:
            assert len(space_timesteps(num_timesteps, f"ddim{count}")) == count
        else:
            with pytest.raises(InvalidOption, match=rf"\b{count} of {num_timesteps}\b"):
                space_timesteps(num_timesteps, f"ddim{count}")


def test_an_impossible_ddim_count_names_counts_that_work():
    # 1000 / 300 = 3.3: stride 3 gives ceil(1000/3) = 334 steps and stride 4 gives 250.
    with pytest.raises(InvalidOption, match="300 of 1000 .*ddim334 and ddim250"):
        space_timesteps(1000, "ddim300")


@pytest.mark.parametrize(
    ("num_timesteps", "counts"),
    [(300, [10, 15, 20]), (1000, [10, 15, 20]), (1000, [7]), (10, [1, 1, 1]), (100, [1]), (11, [3, 2]), (100, [50, 1]), (1000, [999]), (64, [64])],
)
def test_each_section_keeps_its_own_count_spread_from_end_to_end(num_timesteps, counts):
    kept = np.array(space_timesteps(num_timesteps, counts))
    assert len(kept) == sum(counts) and np.all(np.diff(kept) > 0)
    # Sections as equal as whole numbers allow, the longer ones first: what numpy's array_split does.
    for section, count in zip(np.array_split(np.arange(num_timesteps), len(counts)), counts, strict=True):
        mine = kept[(kept >= section[0]) & (kept <= section[-1])]
        assert len(mine) == count and mine[0] == section[0]
        if count > 1:
            assert mine[-1] == section[-1]
            strides = np.diff(mine)
            assert strides.max() - strides.min() <= 1


def test_ten_fifteen_twenty_of_300_starts_with_the_strides_of_hand_arithmetic():
    # Sections 0..99, 100..199, 200..299; the first keeps 10 of them: stride 99/9 = 11.
    kept = space_timesteps(300, "10,15,20")
    assert kept[:10] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert kept[10] == 100 and kept[24] == 199 and kept[25] == 200 and kept[44] == 299


def published_timesteps(num_timesteps: int, counts: list[int]) -> list[int]:
    """The timesteps as Nichol & Dhariwal published them: the stride is added up, and each sum rounded."""
    kept, start = [], 0
    for section, count in enumerate(counts):
        end = start + num_timesteps // len(counts) + (1 if section < num_timesteps % len(counts) else 0)
        position = float(0)
        for _ in range(count):
            kept.append(start + round(position))
            position = position + (end - 1 - start) / max(count - 1, 1)
        start = end
    return kept


def test_the_timesteps_are_those_that_checkpoints_are_published_with():
    assert 149 in space_timesteps(300, [10, 15, 20]) and 150 not in space_timesteps(300, [10, 15, 20])
    assert {166, 832} <= set(space_timesteps(1000, "25")) and not {167, 833} & set(space_timesteps(1000, "25"))
    # 11 timesteps, 5 kept: stride 10/4 = 2.5, so 0, 2.5, 5, 7.5, 10; halves go to the even neighbour.
    assert space_timesteps(11, [5]) == [0, 2, 5, 8, 10]


def test_the_timesteps_are_the_published_ones_over_a_wide_sweep():
    rng = np.random.default_rng(0)
    single = [(1000, [count]) for count in range(1, 1001)]
    single += [(total, [count]) for total in (7, 64, 100, 300, 4000) for count in range(1, total + 1, max(1, total // 60))]
    several = []
    for _ in range(2000):
        total, sections = int(rng.integers(20, 2001)), int(rng.integers(2, 9))
        several.append((total, [int(count) for count in rng.integers(1, total // sections + 1, sections)]))
    assert not [(total, counts) for total, counts in single + several if space_timesteps(total, counts) != published_timesteps(total, counts)]


def test_text_and_lists_say_the_same():
    assert parse_timesteps("10, 15,20") == parse_timesteps([10, 15, 20]) == parse_timesteps((10.0, np.int64(15), 20)) == [10, 15, 20]
    assert parse_timesteps("ddim50") == parse_timesteps(" DDIM 50 ") == 50


@pytest.mark.parametrize("name", THREE_SCHEDULES)
@WITH_AND_WITHOUT_ZERO_SNR
@pytest.mark.parametrize("spacing", ["ddim50", "10,15,20", [25]], ids=str)
def test_a_respaced_process_has_the_same_noise_at_the_timesteps_it_keeps(name, zero_terminal_snr, spacing):
    betas = make_betas(name, zero_terminal_snr=zero_terminal_snr)
    kept = space_timesteps(1000, spacing)
    np.testing.assert_allclose(alphas_cumprod(respace_betas(betas, kept)), alphas_cumprod(betas)[kept], rtol=1e-9, atol=1e-300)


@EVERY_SCHEDULE
def test_keeping_every_timestep_changes_nothing(name):
    betas = make_betas(name, 100)
    np.testing.assert_allclose(respace_betas(betas, range(100)), betas, rtol=0, atol=4 * np.finfo(float).eps)


def test_respacing_survives_a_picture_that_underflows():
    betas = respace_betas(make_betas("sqrt", MAX_TIMESTEPS), range(0, MAX_TIMESTEPS, 100))
    assert np.all((betas > 0) & (betas <= 1))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_timesteps", [50, 64, 999, 1000])
def test_any_number_of_steps_up_to_T_can_be_spaced(num_timesteps, spacing):
    for count in range(1, num_timesteps + 1):
        kept = spaced_timesteps(num_timesteps, count, spacing)
        assert len(kept) == count and kept[0] >= 0 and np.all(np.diff(kept) > 0)
        if spacing == "trailing" or (spacing == "linspace" and count > 1):
            assert kept[-1] == num_timesteps - 1
        if spacing != "trailing":
            assert kept[0] == 0


# --- refusals ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: make_betas("cosin"), r"'cosin'; did you mean 'cosine'\?"),
        (lambda: schedule_options("zzz"), "'zzz'; choose one of .*linear"),
        (lambda: make_betas("linear", 0), "num_timesteps=0"),
        (lambda: make_betas("linear", MAX_TIMESTEPS + 1), f"num_timesteps={MAX_TIMESTEPS + 1}"),
        (lambda: make_betas("linear", 99.5), r"num_timesteps=99\.5"),
        (lambda: make_betas("linear", True), "num_timesteps=True"),
        (lambda: make_betas("linear", None), "num_timesteps=None"),
        (lambda: make_betas("linear", "many"), "num_timesteps='many'"),
        (lambda: make_betas("linear", math.nan), "num_timesteps=nan"),
        (lambda: make_betas("linear", math.inf), "num_timesteps=inf"),
        (lambda: make_betas("linear", shift=2.0), "takes beta_start, beta_end; leave out shift"),
        # 10 steps: beta_end = 0.02 * 1000 / 10 = 2.
        (lambda: make_betas("linear", 10), "from 0.01 to 2"),
        (lambda: make_betas("linear", beta_start=-0.5), "from -0.5 to 0.02"),
        (lambda: make_betas("sqrt_linear", beta_start=1e-20), "from 1e-20 to 0.02"),
        (lambda: make_betas("sqrt", beta_end=math.nan), "nan"),
        (lambda: make_betas("flow", shift=0.0), r"shift=0\.0"),
        (lambda: make_betas("flow", shift=math.nan), "nan"),
        (lambda: make_betas("karras", sigma_min=90.0), r"sigma_min=90\.0 and sigma_max=80\.0"),
        (lambda: space_timesteps(1000, "fifty"), "'fifty'"),
        (lambda: space_timesteps(1000, "10,,20"), "'10,,20'"),
        (lambda: space_timesteps(1000, "ddim"), "'ddim'"),
        (lambda: space_timesteps(1000, "ddim0"), "exactly 0 of 1000"),
        (lambda: space_timesteps(1000, "ddim-5"), "exactly -5 of 1000"),
        (lambda: space_timesteps(1000, []), "at least one count"),
        (lambda: space_timesteps(1000, [10.5]), r"10\.5"),
        (lambda: space_timesteps(1000, ["ten"]), "'ten'"),
        (lambda: space_timesteps(100, [10, 60]), "Section 2 has 50 timesteps, so it can keep 1 to 50 of them, not 60"),
        (lambda: space_timesteps(100, [10, 0]), "Section 2 .* not 0"),
        (lambda: space_timesteps(100, "-3"), "Section 1 .* not -3"),
        (lambda: space_timesteps(0, [1]), "num_timesteps=0"),
        (lambda: spaced_timesteps(100, 101), "num_steps=101"),
        (lambda: spaced_timesteps(100, 0), "num_steps=0"),
        (lambda: spaced_timesteps(100, 10, "trailling"), r"'trailling'; did you mean 'trailing'\?"),
        (lambda: respace_betas(np.full(10, 0.1), []), r"0\.\.9, but there are none"),
        (lambda: respace_betas(np.full(10, 0.1), [3, 3]), r"0\.\.9, but 3 follows 3"),
        (lambda: respace_betas(np.full(10, 0.1), [5, 2]), r"0\.\.9, but 2 follows 5"),
        (lambda: respace_betas(np.full(10, 0.1), [-2, 4]), r"0\.\.9, but -2 follows -1"),
        (lambda: respace_betas(np.full(30, 0.1), [*range(20), 44]), r"0\.\.29, but 30 follows 44"),
    ],
)
def test_nonsense_is_refused_in_a_sentence_that_holds_the_value(call, says):
    with pytest.raises(StudioError, match=says) as caught:
        call()
    assert str(caught.value)[-1] in ".?"


def test_an_unknown_schedule_is_also_a_key_error_and_a_bad_option_a_value_error():
    with pytest.raises(KeyError):
        make_betas("nothing")
    with pytest.raises(ValueError):
        make_betas("linear", -1)
    assert issubclass(UnknownName, StudioError) and issubclass(InvalidOption, StudioError)


@EVERY_SCHEDULE
def test_a_whole_number_of_timesteps_may_come_as_a_float(name):
    np.testing.assert_array_equal(make_betas(name, 100.0), make_betas(name, 100))


@EVERY_SCHEDULE
def test_the_listed_options_with_their_defaults_are_the_schedule_itself(name):
    options = schedule_options(name)
    assert options
    np.testing.assert_array_equal(make_betas(name, 100, **options), make_betas(name, 100))


@EVERY_SCHEDULE
def test_every_listed_option_moves_the_schedule(name):
    for option, default in schedule_options(name).items():
        assert not np.array_equal(make_betas(name, 100, **{option: default * 1.5}), make_betas(name, 100)), option
