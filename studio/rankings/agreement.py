"""How well annotators agree, with each other and with themselves, and how strong the models are by what they say.

For two rankings of the same pictures let s_a, s_b in {-1, 0, 1} be the order of each pair (0 for a tie; pairs with a picture left out
in either are not counted):
    Kendall tau-b        sum(s_a s_b) / sqrt(sum |s_a| sum |s_b|)
    pairwise agreement   share of pairs with s_a = s_b among those where neither is a tie
Kendall W of m rankings of n pictures, mean ranks within ties, T = sum (t^3 - t):
    W = (12 sum R_i^2 - 3 m^2 n (n + 1)^2) / (m^2 n (n^2 - 1) - m sum T)
Krippendorff's alpha (ordinal) by the library of that name, strengths by Bradley-Terry (choix; Hunter 2004).
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.rankings.ranking import MAX_PICTURES

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["Agreement", "Strength", "Table", "agreement", "read_table", "strengths", "tau_b", "win_rates", "kendall_w", "pair_signs"]

RESAMPLED = 200
# Parts of equal numbers of rankings, one after the other, that agreement is followed over; none of fewer rankings than this.
PERIODS, PERIOD_AT_LEAST = 10, 10
# A model that won or lost every comparison has no finite strength; this much of a win and a loss to each keeps it in sight.
PRIOR = 0.1


@dataclass(frozen=True)
class Table:
    """Every ranking as one row. ranks: (N, n) float64, n the most pictures that one ranks, NaN for a picture left out or not there;
    models: of the pictures of each task."""

    task: np.ndarray
    annotator: np.ndarray
    repeat: np.ndarray
    ranks: np.ndarray
    seconds: np.ndarray
    submitted: np.ndarray
    names: Mapping[int, str]
    models: Mapping[int, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of pairs of rankings of the same tasks; None where nobody ranked the same. pairs: strict pairs that were compared.

    over_time: the rankings in parts, one after the other: {"until": when the last was submitted, in seconds since 1970, "rankings",
    "pairwise": of those with all others of the same tasks, "annotators": {name: the same of theirs}}; empty where there are few.
    """

    rankings: int
    tau_b: float | None = None
    pairwise: float | None = None
    pairs: int = 0
    kendall_w: float | None = None
    alpha: float | None = None
    itself: float | None = None
    annotators: Mapping[str, Mapping[str, Any]]
    over_time: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Strength:
    """A model by Bradley-Terry: the log-odds of winning against the mean of all, with a 95 % interval (tasks drawn again 200 times)."""

    model: str
    strength: float
    low: float
    high: float
    wins: float
    comparisons: int


def read_table(rankings: "Rankings", collection: str = "") -> Table:
    """All rankings of a collection; "" for all. Raises as rankings.reading does."""
    from sqlalchemy import Text, cast, select

    from studio.rankings.schema import Annotator, Assignment, Generation, RankingRow, Task, TaskItem

    # As text: of a hundred thousand rankings few are different, and each is read once.
    ranks_text = cast(RankingRow.ranks, Text)
    columns = (Assignment.task_id, Assignment.annotator_id, Assignment.repeat, ranks_text, RankingRow.seconds, RankingRow.submitted)
    wanted = select(*columns).join(Assignment, Assignment.id == RankingRow.assignment_id).order_by(RankingRow.submitted)
    items = select(TaskItem.task_id, Generation.model).join(Generation, Generation.id == TaskItem.generation_id).order_by(TaskItem.task_id, TaskItem.position)
    if collection:
        wanted = wanted.join(Task, Task.id == Assignment.task_id).where(Task.collection == collection)
        items = items.join(Task, Task.id == TaskItem.task_id).where(Task.collection == collection)
    with rankings.reading() as session:
        # By the connection: rows as they are, without what a session does for each.
        connection = session.connection()
        tasks, annotator, repeat, texts, seconds, submitted = list(zip(*connection.execute(wanted).all())) or ((),) * len(columns)
        names = dict(session.execute(select(Annotator.id, Annotator.name)).tuples().all())
        models: dict[int, list[str]] = defaultdict(list)
        for task, model in connection.execute(items).all():
            models[task].append(model)
    return Table(
        task=np.array(tasks, np.int64), annotator=np.array(annotator, np.int64), repeat=np.array(repeat, np.int64), ranks=ranks_read(texts),
        seconds=np.array(seconds, float), submitted=np.array(submitted, float), names=names, models=models,
    )


def ranks_read(texts: Sequence[str]) -> np.ndarray:
    """Lists of ranks in JSON -> (N, n) float64, n the length of the longest, NaN for what is left out or not there."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    read = [json.loads(text) for text in places]
    known = np.full((len(places), max(map(len, read), default=0)), np.nan)
    for place, ranks in enumerate(read):
        known[place, : len(ranks)] = [np.nan if rank is None else rank for rank in ranks]
    return known[np.fromiter((places[text] for text in texts), np.int64, len(texts))]


@cache
def pairs_among(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(first, second) places of every pair of `count` pictures."""
    return np.triu_indices(count, 1)


def pair_signs(ranks: np.ndarray) -> np.ndarray:
    """(N, n) ranks -> (N, n (n - 1) / 2) float32: 1 where the first of a pair is better, -1 where the second is, 0 for a tie, NaN where one is
    left out."""
    first, second = pairs_among(ranks.shape[1])
    return np.sign(ranks[:, second] - ranks[:, first]).astype(np.float32)


def tau_b(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of rows of signs, (N, P) each -> (N,); NaN where either says nothing but ties."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = np.where(both, a, 0), np.where(both, b, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt(np.abs(a).sum(1) * np.abs(b).sum(1))


def kendall_w(ranks: np.ndarray) -> np.ndarray:
    """Kendall's W of m complete rankings of the same n pictures, ties corrected: (..., m, n) -> (...); NaN where all say nothing but ties."""
    from scipy.stats import rankdata

    m, n = ranks.shape[-2:]
    means = rankdata(ranks, axis=-1)
    # In a group of t equal ranks each has t - 1 others: the sum of (t^2 - 1) over its members is t^3 - t.
    equal = (ranks[..., :, None] == ranks[..., None, :]).sum(-1)
    ties = (equal.astype(float) ** 2 - 1).sum((-2, -1))
    below = m**2 * n * (n**2 - 1) - m * ties
    above = 12 * (means.sum(-2) ** 2).sum(-1) - 3 * m**2 * n * (n + 1) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def agreement(table: Table) -> Agreement:
    """How well the annotators of the table agree, in all and each with the others."""
    signs = pair_signs(table.ranks)
    first, second = same_task(table)
    others = table.annotator[first] != table.annotator[second]
    a, b = first[others], second[others]
    tau, (same, compared) = tau_b(signs[a], signs[b]), strict_pairs(signs, a, b)
    own_same, own_compared = strict_pairs(signs, first[~others], second[~others])
    return Agreement(
        rankings=len(table.task), tau_b=mean(tau), pairwise=share(same.sum(), compared.sum()), pairs=int(compared.sum()), kendall_w=mean_w(table),
        alpha=alpha(table), itself=share(own_same.sum(), own_compared.sum()),
        annotators={name: of_annotator(table, who, a, b, signs) for who, name in sorted(table.names.items()) if (table.annotator == who).any()},
        over_time=over_time(table, (a, b), same, compared),
    )


def of_annotator(table: Table, who: int, a: np.ndarray, b: np.ndarray, signs: np.ndarray) -> dict[str, Any]:
    """One annotator's figures against all others (rows a with rows b), with themselves, and their pace."""
    either = (table.annotator[a] == who) | (table.annotator[b] == who)
    same, compared = strict_pairs(signs, a[either], b[either])
    theirs = table.annotator == who
    seconds = table.seconds[theirs & (table.seconds > 0)]
    return {
        "rankings": int(theirs.sum()), "tau_b": mean(tau_b(signs[a[either]], signs[b[either]])), "pairwise": share(same.sum(), compared.sum()),
        "itself": self_consistency(table, who, signs), "seconds": float(np.median(seconds)) if len(seconds) else None,
    }


def self_consistency(table: Table, who: int, signs: np.ndarray) -> float | None:
    """Share of strict pairs that the annotator ranked the same way when they met the task again."""
    rows = np.flatnonzero(table.annotator == who)
    order = rows[np.lexsort((table.repeat[rows], table.task[rows]))]
    again = np.flatnonzero(table.task[order[1:]] == table.task[order[:-1]])
    same, compared = strict_pairs(signs, order[again], order[again + 1])
    return share(same.sum(), compared.sum())


def over_time(table: Table, rows: tuple[np.ndarray, np.ndarray], same: np.ndarray, compared: np.ndarray) -> list[dict[str, Any]]:
    """Pairwise agreement of the rankings of each part. rows: those of every two rankings of one task; same, compared: of each two."""
    parts = min(PERIODS, len(table.task) // PERIOD_AT_LEAST)
    if parts < 2:
        return []
    order = np.argsort(table.submitted, kind="stable")
    of_row = np.empty(len(order), np.int64)
    of_row[order] = np.arange(len(order)) * parts // len(order)
    names = {who: name for who, name in sorted(table.names.items()) if (table.annotator == who).any()}

    def of(part: int, *, who: int | None = None) -> float | None:
        # Each of the two is one that was submitted then.
        counts = np.zeros(2)
        for side in rows:
            own = (of_row[side] == part) & ((table.annotator[side] == who) if who is not None else True)
            counts += same[own].sum(), compared[own].sum()
        return share(*counts)

    return [
        {
            "until": float(table.submitted[of_row == part].max()), "rankings": int((of_row == part).sum()), "pairwise": of(part),
            "annotators": {name: of(part, who=who) for who, name in names.items()},
        }
        for part in range(parts)
    ]


def same_task(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows of every two rankings of one task."""
    order = np.argsort(table.task, kind="stable")
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    # Neighbours, then those two apart, and so on: as many rounds as the most that one task was ranked.
    for apart in range(1, len(order)):
        same = np.flatnonzero(table.task[order[apart:]] == table.task[order[:-apart]])
        if not len(same):
            break
        first.append(order[same])
        second.append(order[same + apart])
    return np.concatenate(first), np.concatenate(second)


def strict_pairs(signs: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every two rows: how many pairs both have the same way, of how many where neither has a tie."""
    product = signs[a] * signs[b]
    return (product == 1).sum(1), (np.abs(product) == 1).sum(1)


def mean_w(table: Table) -> float | None:
    """The mean of Kendall's W over tasks that two or more ranked completely."""
    sizes = np.array([len(table.models[task]) for task in table.task.tolist()], np.int64)
    rows = np.flatnonzero((table.repeat == 0) & ((~np.isnan(table.ranks)).sum(1) == sizes))
    rows = rows[np.argsort(table.task[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(table.task[rows], prepend=-1))
    voices = np.diff(starts, append=len(rows))
    found = [np.empty(0)]
    # All tasks of as many rankings of as many pictures at once.
    for m, n in {(int(m), int(n)) for m, n in zip(voices, sizes[rows[starts]]) if m > 1}:
        first = starts[(voices == m) & (sizes[rows[starts]] == n)]
        found.append(kendall_w(table.ranks[rows[first[:, None] + np.arange(m)]][..., :n]))
    return mean(np.concatenate(found))


def alpha(table: Table) -> float | None:
    """Krippendorff's alpha for ordinal data: units are pictures of tasks, values their ranks, repeats left out."""
    import krippendorff

    place = np.unique(table.task, return_inverse=True)[1]
    row, item = np.nonzero(~np.isnan(table.ranks) & (table.repeat == 0)[:, None])
    shape = (place.max(initial=-1) + 1, table.ranks.shape[1], MAX_PICTURES)
    flat = np.ravel_multi_index((place[row], item, table.ranks[row, item].astype(int) - 1), shape) if len(row) else np.empty(0, np.int64)
    units = np.bincount(flat, minlength=int(np.prod(shape))).reshape(-1, MAX_PICTURES)
    # A rank that nobody gave adds nothing, but its share of the library's table of pairs of ranks.
    given = units.any(0)
    units = units[units.sum(1) > 1][:, given]
    # Where all say one and the same value there is nothing to agree on.
    if not len(units) or (units.sum(0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=units, value_domain=(np.flatnonzero(given) + 1).tolist(), level_of_measurement="ordinal"))


# --- strengths -----------------------------------------------------------------------------------------------

def strengths(table: Table, seed: int = 0) -> list[Strength]:
    """The models by Bradley-Terry, strongest first; a tie is half a win for each. Fewer than two models have none."""
    models = sorted({model for of in table.models.values() for model in of if model})
    if len(models) < 2 or not len(table.task):
        return []
    per_task = wins_by_task(table, models)
    generator, count, flat = np.random.default_rng(seed), len(per_task), per_task.reshape(len(per_task), -1)
    # How often each task is drawn when as many are drawn as there are, with replacement; floats, which matrices are multiplied fast in.
    often = np.stack([np.bincount(generator.integers(count, size=count), minlength=count).astype(float) for _ in range(RESAMPLED)])
    drawn = [fitted(wins.reshape(per_task.shape[1:])) for wins in often @ flat]
    total = per_task.sum(0)
    found = fitted(total)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    rows = [
        Strength(model=model, strength=float(found[i]), low=float(low[i]), high=float(high[i]), wins=float(total[i].sum()),
                 comparisons=int(round(total[i].sum() + total[:, i].sum())))
        for i, model in enumerate(models)
    ]
    return sorted(rows, key=lambda row: -row.strength)


def win_rates(table: Table) -> tuple[list[str], np.ndarray]:
    """Models, and (M, M): the share of comparisons that the model of the row won against that of the column; NaN where there were none."""
    models = sorted({model for of in table.models.values() for model in of if model})
    total = wins_by_task(table, models).sum(0)
    with np.errstate(invalid="ignore"):
        return models, total / (total + total.T)


def wins_by_task(table: Table, models: Sequence[str]) -> np.ndarray:
    """(T, M, M): in each task how often the model of the row beat that of the column, a tie half a win for each; none against itself."""
    place = {model: i for i, model in enumerate(models)}
    tasks, of_row = np.unique(table.task, return_inverse=True)
    which = np.full((len(tasks), MAX_PICTURES), -1)
    for i, task in enumerate(tasks.tolist()):
        own = table.models[task]
        which[i, : len(own)] = [place.get(model, -1) for model in own]
    signs, (first, second) = pair_signs(table.ranks), pairs_among(table.ranks.shape[1])
    row, pair = np.nonzero(~np.isnan(signs))
    task, a, b, score = of_row[row], which[of_row[row], first[pair]], which[of_row[row], second[pair]], (signs[row, pair] + 1) / 2
    known = (a >= 0) & (b >= 0) & (a != b)
    task, a, b, score = task[known], a[known], b[known], score[known]
    shape = (len(tasks), len(models), len(models))

    def counted(winner: np.ndarray, loser: np.ndarray, wins: np.ndarray) -> np.ndarray:
        return np.bincount((task * shape[1] + winner) * shape[2] + loser, wins, int(np.prod(shape))).reshape(shape)

    return counted(a, b, score) + counted(b, a, 1 - score)


def fitted(wins: np.ndarray) -> np.ndarray:
    """(M, M) wins -> (M,) Bradley-Terry strengths with mean 0."""
    import choix

    found = choix.ilsr_pairwise_dense(wins + PRIOR * (1 - np.eye(len(wins))), max_iter=1000)
    return found - found.mean()


# --- numbers -------------------------------------------------------------------------------------------------

def mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
