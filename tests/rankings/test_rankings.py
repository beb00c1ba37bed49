"""Tasks, who gets them, and what becomes of what is submitted."""

import dataclasses
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text

from studio.errors import DamagedFile, InvalidOption, NotWritable, StudioBusy, StudioError, UnknownName
from studio.rankings import NewGeneration, NewTask, Ranking, add_tasks, collections, open_rankings, open_tasks, progress, save_draft, skip, submit, undo
from studio.rankings.assigning import ABANDONED_S, REPEAT_AFTER
from studio.rankings.schema import Assignment, History, RankingRow, Task

RANKING = Ranking(ranks=[1, 2, 2, None])


def counted(rankings, table):
    with rankings.reading() as session:
        return session.scalar(select(func.count()).select_from(table))


def rank_all(rankings, name, ranking=RANKING, most=1000):
    """Submit the same ranking for every task that the annotator is given; gives their prompts in order."""
    prompts = []
    while len(prompts) < most and (tasks := open_tasks(rankings, name, 1)):
        submit(rankings, name, tasks[0].assignment, ranking)
        prompts.append(tasks[0].prompt)
    return prompts


# --- tasks ---------------------------------------------------------------------------------------------------

def test_the_same_pictures_in_another_order_are_the_same_task(rankings, pictures):
    one = [NewGeneration(picture=picture) for picture in pictures(3)]
    assert add_tasks(rankings, [NewTask(prompt="p", generations=one)]) == 1
    assert add_tasks(rankings, [NewTask(prompt="p", generations=one[::-1])]) == 0
    assert add_tasks(rankings, [NewTask(prompt="another", generations=one)]) == 1
    assert counted(rankings, Task) == 2


def test_tasks_are_added_all_or_none(rankings, pictures):
    good = NewTask(prompt="p", generations=[NewGeneration(picture=picture) for picture in pictures(2)])

    def tasks():
        yield good
        raise InvalidOption("no")

    with pytest.raises(InvalidOption):
        add_tasks(rankings, tasks())
    assert counted(rankings, Task) == 0


@pytest.mark.parametrize(("changes", "word"), [
    ({"generations": 1}, "2 to 9"), ({"generations": 10}, "2 to 9"), ({"overlap": 0}, "overlap"), ({"gold": [1, 2]}, "gold"), ({"prompt": 3}, "prompt"),
])
def test_a_task_that_makes_no_sense_is_refused_in_a_sentence(pictures, changes, word):
    generations = [NewGeneration(picture=picture) for picture in pictures(changes.get("generations", 3))]
    with pytest.raises(InvalidOption, match=word):
        NewTask(**{"prompt": "p", **changes, "generations": generations})


def test_a_picture_twice_in_one_task_is_refused(pictures):
    twice = [NewGeneration(picture=pictures(1)[0], seed=seed) for seed in (1, 2)]
    with pytest.raises(InvalidOption, match="twice"):
        NewTask(prompt="p", generations=twice)


@pytest.mark.parametrize("ranks", [[1], [1, 0], [1, 10], [1, True], [1, 1.5], [1, float("nan")], [1, "2"], [None, None], [1, None], [1] * 10, "12", None])
def test_ranks_that_make_no_sense_are_refused_in_a_sentence(ranks):
    with pytest.raises(InvalidOption):
        Ranking(ranks=ranks)


@pytest.mark.parametrize("changes", [
    {"ratings": [{"alignment": 8}, {}]}, {"ratings": [{"beauty": 1}, {}]}, {"ratings": [{}]}, {"flags": [["nice"], []]}, {"flags": [[]]}, {"seconds": -1.0},
    {"note": "x" * 3000}, {"ratings": [3, 4]}, {"flags": ["broken", ""]}, {"seconds": float("nan")},
])
def test_the_rest_of_a_ranking_that_makes_no_sense_is_refused_in_a_sentence(changes):
    with pytest.raises(InvalidOption):
        Ranking(ranks=[1, 2], **changes)


# --- who gets which ------------------------------------------------------------------------------------------

def test_each_annotator_gets_each_task_once_and_no_task_more_often_than_its_overlap(with_tasks):
    rankings = with_tasks(6, overlap=2)
    for name in ("Ada", "Bob"):
        assert sorted(set(rank_all(rankings, name))) == [f"prompt {place}" for place in range(6)]
    assert open_tasks(rankings, "Eve") == []
    assert progress(rankings, "Ada").done == progress(rankings, "Ada").total == 12


def test_a_task_that_is_open_comes_again_after_a_reload_in_the_same_order_and_with_its_draft(with_tasks):
    rankings = with_tasks(3)
    first = open_tasks(rankings, "Ada", 1)[0]
    save_draft(rankings, "Ada", first.assignment, {"ranks": [None, 1, None, 2], "flags": [["broken"], [], [], []]})
    again = open_tasks(rankings, "Ada", 1)[0]
    assert dataclasses.replace(again, draft=None) == first
    assert again.draft["ranks"] == [None, 1, None, 2] and again.draft["flags"][0] == ["broken"]


def test_annotators_see_the_pictures_in_orders_of_their_own(with_tasks):
    rankings = with_tasks(8, size=9, overlap=2)
    orders = {name: [tuple(one.position for one in task.pictures) for task in open_tasks(rankings, name, 5)] for name in ("Ada", "Bob")}
    assert orders["Ada"] != orders["Bob"] and all(sorted(order) == list(range(9)) for of in orders.values() for order in of)


def test_a_collection_of_its_own_gives_its_own_tasks(with_tasks, pictures):
    rankings = with_tasks(2)
    add_tasks(rankings, [NewTask(prompt="other", collection="second", generations=[NewGeneration(picture=picture) for picture in pictures(2, 500)])])
    assert collections(rankings) == {"mine": 2, "second": 1}
    assert [task.prompt for task in open_tasks(rankings, "Ada", 5, "second")] == ["other"]


def test_a_skipped_task_goes_to_another_and_not_to_the_same_again(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    assert open_tasks(rankings, "Bob") == []
    skip(rankings, "Ada", task.assignment, "I cannot tell")
    assert open_tasks(rankings, "Ada") == []
    assert [other.prompt for other in open_tasks(rankings, "Bob")] == [task.prompt]


def test_a_task_that_was_left_lying_goes_to_another_when_no_other_is_free(with_tasks, clock):
    rankings = with_tasks(1)
    open_tasks(rankings, "Ada", 1)
    assert open_tasks(rankings, "Bob") == []
    clock.now += ABANDONED_S + 1
    assert len(open_tasks(rankings, "Bob")) == 1


def test_now_and_then_a_task_comes_again_but_not_one_of_the_last_few(with_tasks):
    rankings = with_tasks(30)
    prompts = rank_all(rankings, "Ada")
    again = [place for place, prompt in enumerate(prompts) if prompt in prompts[:place]]
    assert len(prompts) == 33 and len(again) == 3
    assert all(place - prompts.index(prompts[place]) > REPEAT_AFTER for place in again)


def test_many_at_once_never_get_the_same_slot(with_tasks):
    rankings = with_tasks(12, overlap=3)
    barrier = threading.Barrier(6)

    def rank(name):
        barrier.wait()
        return rank_all(rankings, name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(rank, [f"annotator {number}" for number in range(6)]))
    with rankings.reading() as session:
        rows = session.execute(select(Assignment.task_id, func.count(Assignment.slot)).where(Assignment.slot.is_not(None)).group_by(Assignment.task_id)).all()
        assert [taken for _, taken in rows] == [3] * 12
        assert session.scalars(select(Task.taken)).all() == [3] * 12


# --- submitting ----------------------------------------------------------------------------------------------

def test_a_ranking_is_kept_as_it_was_submitted(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    whole = Ranking(
        ranks=[2, 1, 2, None], ratings=[{"alignment": 7}, {}, {"fidelity": 1, "harmlessness": 4}, {}], flags=[[], ["broken", "harmful"], [], []],
        note="hm", seconds=4.5,
    )
    assert submit(rankings, "Ada", task.assignment, whole).revision == 1
    with rankings.reading() as session:
        row = session.get_one(RankingRow, task.assignment)
        assert {name: getattr(row, name) for name in whole.content()} == whole.content()


def test_a_correction_replaces_it_and_the_history_keeps_both(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    submit(rankings, "Ada", task.assignment, RANKING)
    assert submit(rankings, "Ada", task.assignment, Ranking(ranks=[4, 3, 2, 1])).revision == 2
    with rankings.reading() as session:
        assert session.get_one(RankingRow, task.assignment).ranks == [4, 3, 2, 1]
        assert [(row.action, row.content["ranks"]) for row in session.scalars(select(History).order_by(History.id))] == [
            ("submit", [1, 2, 2, None]), ("correct", [4, 3, 2, 1]),
        ]


def test_what_is_sent_twice_counts_once(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    for _ in range(3):
        assert submit(rankings, "Ada", task.assignment, RANKING, "one request").revision == 1
    assert counted(rankings, RankingRow) == counted(rankings, History) == 1


def test_what_was_submitted_last_can_be_taken_back_again_and_again(with_tasks):
    rankings = with_tasks(3)
    prompts = rank_all(rankings, "Ada")
    assert [undo(rankings, "Ada").prompt for _ in range(3)] == prompts[::-1]
    assert undo(rankings, "Ada") is None and counted(rankings, RankingRow) == 0
    first = open_tasks(rankings, "Ada", 3)
    assert [task.prompt for task in first] == prompts and first[0].draft["ranks"] == [1, 2, 2, None]
    assert submit(rankings, "Ada", first[0].assignment, RANKING).revision == 2


def test_a_skip_can_be_taken_back(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    skip(rankings, "Ada", task.assignment)
    assert undo(rankings, "Ada").assignment == task.assignment
    submit(rankings, "Ada", task.assignment, RANKING)
    assert open_tasks(rankings, "Bob") == []


def test_a_task_with_a_known_order_tells_whether_it_was_met(with_tasks):
    rankings = with_tasks(1, gold=[1, 2, 3, 4])
    task = open_tasks(rankings, "Ada", 1)[0]
    assert submit(rankings, "Ada", task.assignment, Ranking(ranks=[1, 2, None, 4])).gold is True
    assert submit(rankings, "Ada", task.assignment, Ranking(ranks=[1, 1, 3, 4])).gold is False


def test_what_is_not_ones_own_cannot_be_ranked_and_nothing_is_learned_of_it(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    with pytest.raises(UnknownName) as of_another:
        submit(rankings, "Bob", task.assignment, RANKING)
    with pytest.raises(UnknownName) as of_nobody:
        submit(rankings, "Bob", 10**6, RANKING)
    assert str(of_another.value).replace(str(task.assignment), "N") == str(of_nobody.value).replace(str(10**6), "N")


@pytest.mark.parametrize("wrong", [
    lambda rankings, task: submit(rankings, "Ada", task.assignment, Ranking(ranks=[1, 2])),
    lambda rankings, task: submit(rankings, "Ada", "first", RANKING),
    lambda rankings, task: submit(rankings, "  ", task.assignment, RANKING),
    lambda rankings, task: submit(rankings, "x" * 500, task.assignment, RANKING),
    lambda rankings, task: skip(rankings, "Ada", task.assignment, "why " * 1000),
    lambda rankings, task: save_draft(rankings, "Ada", task.assignment, {"ranks": "1"}),
    lambda rankings, task: open_tasks(rankings, "Ada", 100),
])
def test_what_makes_no_sense_is_refused_and_changes_nothing(with_tasks, wrong):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    with pytest.raises(StudioError):
        wrong(rankings, task)
    assert counted(rankings, RankingRow) == counted(rankings, History) == 0


def test_many_submissions_of_one_request_at_once_are_one(with_tasks):
    rankings = with_tasks(1)
    task = open_tasks(rankings, "Ada", 1)[0]
    barrier = threading.Barrier(8)

    def send(_):
        barrier.wait()
        return submit(rankings, "Ada", task.assignment, RANKING, "the same").revision

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(send, range(8))) == [1] * 8
    assert counted(rankings, History) == 1


# --- the database --------------------------------------------------------------------------------------------

def test_what_was_kept_is_there_after_it_is_opened_again(with_tasks, tmp_path, url):
    rankings = with_tasks(2)
    rank_all(rankings, "Ada")
    rankings.close()
    again = open_rankings(tmp_path / "rankings", url)
    assert counted(again, RankingRow) == 2 and progress(again, "Ada").submitted == 2
    again.close()


def test_a_database_of_a_newer_studio_is_left_alone(rankings, tmp_path, url):
    rankings.write(lambda session: session.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    with pytest.raises(InvalidOption, match="newer"):
        open_rankings(tmp_path / "rankings", url)


def test_the_tables_are_those_that_the_code_knows(rankings):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from studio.rankings.schema import Base

    with rankings.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "rankings.sqlite").write_bytes(b"not a database at all, but long enough to be taken for one" * 20)
    with pytest.raises(DamagedFile, match=r"rankings\.sqlite"):
        open_rankings(tmp_path)


def test_a_folder_that_cannot_be_made_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritable):
        open_rankings(tmp_path / "file" / "rankings")


def test_a_database_that_something_else_holds_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("studio.rankings.database.BUSY_S", 0.05)
    rankings = open_rankings(tmp_path)
    other = sqlite3.connect(tmp_path / "rankings.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StudioBusy):
        open_tasks(rankings, "Ada")
    other.rollback()
    assert open_tasks(rankings, "Ada") == []


@pytest.mark.parametrize("url", ["mysql://host/name", "nonsense", "postgresql://studio@127.0.0.1:1/none"])
def test_an_address_that_leads_nowhere_is_told_of(tmp_path, url):
    with pytest.raises(StudioError, match="DATABASE_URL"):
        open_rankings(tmp_path, url)


# --- which task next -----------------------------------------------------------------------------------------

def test_the_posterior_knows_what_was_compared_and_the_most_telling_task_is_of_what_was_not():
    import numpy as np

    from studio.rankings.sureness import information, posterior, saved_share

    wins = np.zeros((3, 3))
    wins[0, 1], wins[1, 0] = 20, 20
    known = posterior(["a", "b", "c"], wins)
    assert known.strengths == pytest.approx([0, 0, 0], abs=1e-6)
    assert information(known, ["a", "c"]) > 5 * information(known, ["a", "b"]) > 0
    assert information(known, ["a", "a"]) == 0 == information(known, ["other", "a"])
    # By hand: precision of the difference of a and b is 40 / 4 beside that of the prior.
    assert known.covariance[0, 0] + known.covariance[1, 1] - 2 * known.covariance[0, 1] == pytest.approx(1 / (10 + 1 / 8), rel=1e-6)
    assert saved_share(known, ["a", "c"], [["a", "b"], ["a", "c"]]) > 0.5
    more = posterior(["a", "b", "c"], 4 * wins)
    assert more.uncertainty < known.uncertainty


def test_the_least_sure_task_is_given_out_first_and_what_it_saves_is_told(rankings):
    from PIL import Image

    from studio.rankings.assigning import sureness
    from studio.rankings.pictures import keep_drawn

    def task(number, *models):
        pictures = [keep_drawn(rankings.folder, Image.new("RGB", (8, 8), (number, place, 1))) for place in range(len(models))]
        return NewTask(prompt=f"p{number}", generations=[NewGeneration(picture=one, model=model) for one, model in zip(pictures, models)], overlap=1)

    add_tasks(rankings, [task(number, "a", "b") for number in range(6)])
    for number in range(4):
        submit(rankings, "Ada", open_tasks(rankings, "Ada", 1)[0].assignment, Ranking(ranks=[1, 2] if number % 2 else [2, 1]))
    add_tasks(rankings, [task(6, "a", "c")])
    assert open_tasks(rankings, "Bob", 1)[0].prompt == "p4"
    (first,) = open_tasks(rankings, "Cy", 1, choose="least_sure")
    assert first.prompt == "p6"
    told = sureness(rankings, first.assignment)
    assert told.deviation > 0 and told.saves > 0
    with pytest.raises(InvalidOption, match="choose"):
        open_tasks(rankings, "Cy", 1, choose="best")


def test_flagged_pictures_are_found_by_flag_and_collection(with_tasks):
    from studio.rankings.flagged import flagged

    rankings = with_tasks(2, overlap=2)
    for name, flags in (("Ada", [["broken"], [], ["bad", "harmful"]]), ("Bob", [[], [], ["harmful"]])):
        task = open_tasks(rankings, name, 1)[0]
        size = len(task.pictures)
        submit(rankings, name, task.assignment, Ranking(ranks=list(range(1, size + 1)), flags=[*flags, *[[]] * size][:size]))
    every = flagged(rankings)
    assert [one.flags for one in sorted(every, key=lambda one: len(one.flags))] == [["broken"], ["harmful", "bad"]]
    (harmful,) = flagged(rankings, "harmful")
    assert harmful.annotators == ["Ada", "Bob"] and harmful.prompt
    assert flagged(rankings, "text_wrong") == [] and flagged(rankings, "", "no such collection") == []
    with pytest.raises(InvalidOption, match="flag"):
        flagged(rankings, "ugly")
