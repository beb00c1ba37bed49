"""A small share of `make load`, without a clock: clients at once get what each gets alone, and who leaves holds up nobody."""

from tests.hostile.conftest import EITHER
from tests.hostile.load import LONG, SHORT, Left, film_of, runs_of_all_kinds, sampled, started_and_left, under_load


@EITHER
def test_what_comes_back_under_load_is_what_comes_back_alone(app):
    since = app.places()[0]
    crowd = under_load(app, runs=runs_of_all_kinds(7, 4), clients=6, quick=2, rounds=2)
    assert not crowd.wrong and not crowd.refused and app.alive()
    assert sum(len(took) for name, took in crowd.took.items() if not name.startswith("/")) == 4 * 2
    assert "Traceback" not in app.log(since)


@EITHER
def test_a_short_run_comes_back_while_a_strangers_long_one_goes_on(app):
    alone = film_of(sampled(app, SHORT))
    with Left(app, app.named("sample"), app.named("sample").values(**LONG)) as left:
        left.until_begun()
        assert film_of(sampled(app, SHORT)) == alone and left.goes_on()


@EITHER
def test_runs_that_are_left_after_a_step_hold_up_nobody(app):
    alone = film_of(sampled(app, SHORT))
    # Each would go on for half a minute.
    started_and_left(app, 12)
    assert alone and film_of(sampled(app, SHORT)) == alone and app.alive()
