"""Agreement by hand arithmetic, against scipy, and with annotators whose reliability is known."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from studio.rankings import Ranking, open_rankings, open_tasks, submit
from studio.rankings.agreement import agreement, kendall_w, pair_signs, read_table, strengths, tau_b, win_rates
from studio.rankings.example import ANNOTATORS, EXAMPLE, add_example, ranks_by


def rank(rankings, name, *ranks):
    """Submit these ranks, in the order in which the annotator is given the tasks."""
    for of in ranks:
        submit(rankings, name, open_tasks(rankings, name, 1)[0].assignment, Ranking(ranks=list(of)))


def test_tau_b_is_that_of_scipy_ties_included():
    generator = np.random.default_rng(0)
    a, b = generator.integers(1, 5, (2, 60, 9)).astype(float)
    own = tau_b(pair_signs(a), pair_signs(b))
    assert own == pytest.approx([kendalltau(x, y).statistic for x, y in zip(a, b)], abs=1e-6)


def test_pictures_that_are_left_out_do_not_count():
    a, b = np.array([[1.0, 2, 3, np.nan]]), np.array([[1.0, 3, np.nan, 2]])
    whole = np.full((2, 9), np.nan)
    whole[:, :4] = np.concatenate([a, b])
    assert tau_b(pair_signs(whole[:1]), pair_signs(whole[1:])) == pytest.approx([1.0])


def test_kendall_w_by_hand():
    # Three rankings of three pictures: rank sums 4, 6, 8, so S = 4 + 0 + 4 = 8 and W = 12 * 8 / (9 * 24).
    assert kendall_w(np.array([[1.0, 2, 3], [1, 3, 2], [2, 1, 3]])) == pytest.approx(12 * 8 / (9 * 24))
    assert kendall_w(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1.0)
    # With ties: mean ranks 1.5, 1.5, 3 twice; S = 6, T = 6 each, W = 12 * 6 / (4 * 24 - 2 * 12).
    assert kendall_w(np.array([[1.0, 1, 2], [1, 1, 2]])) == pytest.approx(1.0)
    assert np.isnan(kendall_w(np.array([[1.0, 1, 1], [1, 1, 1]])))


def test_pairwise_agreement_counts_strict_pairs_alone(with_tasks):
    rankings = with_tasks(1, size=3, overlap=2)
    rank(rankings, "Ada", (1, 2, 3))
    rank(rankings, "Bob", (1, 1, 2))
    found = agreement(read_table(rankings))
    # Ada and Bob both order the pairs (1, 3) and (2, 3), the same way; the tie of Bob is not counted.
    assert (found.pairwise, found.pairs) == (1.0, 2)
    assert found.tau_b == pytest.approx(2 / np.sqrt(3 * 2))


def test_who_agrees_with_nobody_is_seen(with_tasks):
    rankings = with_tasks(6, overlap=3)
    for name, ranks in (("Ada", (1, 2, 3, 4)), ("Bob", (1, 2, 3, 4)), ("Eve", (4, 3, 2, 1))):
        rank(rankings, name, *[ranks] * 6)
    found = agreement(read_table(rankings))
    assert found.annotators["Ada"]["pairwise"] == found.annotators["Bob"]["pairwise"] == 0.5
    assert found.annotators["Eve"]["pairwise"] == 0.0 and found.pairwise == pytest.approx(1 / 3)
    assert found.kendall_w == pytest.approx(1 / 9)


def test_agreement_is_followed_over_time(with_tasks):
    rankings = with_tasks(20, overlap=2)
    rank(rankings, "Ada", *[(1, 2, 3, 4)] * 20)
    rank(rankings, "Bob", *[(1, 2, 3, 4)] * 10, *[(4, 3, 2, 1)] * 10)
    parts = agreement(read_table(rankings)).over_time
    # Four parts of ten rankings: Ada's twenty, then Bob's, who turned round after ten.
    assert [part["rankings"] for part in parts] == [10] * 4 and [part["until"] for part in parts] == sorted(part["until"] for part in parts)
    assert [part["annotators"]["Bob"] for part in parts] == [None, None, 1.0, 0.0]
    assert [part["pairwise"] for part in parts] == [part["annotators"]["Ada"] or part["annotators"]["Bob"] or 0.0 for part in parts]


def test_nothing_is_claimed_where_nobody_ranked_the_same(with_tasks):
    rankings = with_tasks(2, overlap=1)
    rank(rankings, "Ada", (1, 2, 3, 4))
    found = agreement(read_table(rankings))
    assert found.rankings == 1 and found.tau_b is found.pairwise is found.kendall_w is found.alpha is found.itself is None


def test_an_empty_table_has_no_figures(rankings):
    table = read_table(rankings)
    assert agreement(table).rankings == 0 and strengths(table) == [] and win_rates(table)[0] == []


def test_krippendorffs_alpha_is_that_of_the_library_on_the_table_of_reliability_data(with_tasks):
    import krippendorff

    rankings = with_tasks(5, overlap=2)
    generator = np.random.default_rng(3)
    said = {name: [ranks_by(generator.normal(size=4)) for _ in range(5)] for name in ("Ada", "Bob")}
    for name, ranks in said.items():
        rank(rankings, name, *ranks)
    table = [[rank for of in ranks for rank in of] for ranks in said.values()]
    wanted = krippendorff.alpha(reliability_data=table, value_domain=list(range(1, 10)), level_of_measurement="ordinal")
    assert agreement(read_table(rankings)).alpha == pytest.approx(wanted)


# What follows from a table: that it is read the same from either database is shown above.
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_strengths_follow_who_wins_and_their_intervals_hold_them(with_tasks):
    rankings = with_tasks(20)
    rank(rankings, "Ada", *[(1, 2, 3, 4)] * 15, *[(2, 1, 4, 3)] * 7)
    table = read_table(rankings)
    found = strengths(table)
    assert [one.model for one in found] == ["one", "two", "three", "four"]
    assert all(one.low <= one.strength <= one.high for one in found) and sum(one.strength for one in found) == pytest.approx(0, abs=1e-9)
    models, rates = win_rates(table)
    assert rates[models.index("one"), models.index("three")] == 1.0 and rates[models.index("two"), models.index("one")] == pytest.approx(7 / 22)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_two_models_have_the_strengths_of_their_odds(with_tasks):
    rankings = with_tasks(100, size=2)
    rank(rankings, "Ada", *[(1, 2)] * 75, *[(2, 1)] * 25)
    first, second = strengths(read_table(rankings))
    # Bradley-Terry of two is the log of the odds, but for a tenth of a win and a loss.
    assert first.strength - second.strength == pytest.approx(np.log(75.1 / 25.1), abs=1e-3)


def test_the_example_has_annotators_of_the_reliability_that_it_says(tmp_path):
    rankings = open_rankings(tmp_path)
    assert add_example(rankings) == 60 and add_example(rankings) == 0
    found = agreement(read_table(rankings, EXAMPLE))
    careful, usual, hasty = (found.annotators[name] for name in ANNOTATORS)
    assert careful["itself"] > usual["itself"] > hasty["itself"] and careful["pairwise"] > hasty["pairwise"]
    assert [one.model for one in strengths(read_table(rankings, EXAMPLE))] == ["as it says", "blurred and noisy", "another colour", "another scene"]
    assert len(open_tasks(rankings, "me", 5, EXAMPLE)) == 5
    rankings.close()
