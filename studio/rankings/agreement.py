"""How well annotators agree, with each other and with themselves, and how strong the models are by what they say.

For two rankings of the same pictures let s_a, s_b in {-1, 0, 1} be the order of each pair (0 for a tie; pairs with a picture left out
in either are not counted):
    Kendall tau-b        sum(s_a s_b) / sqrt(sum |s_a| sum |s_b|)
    pairwise agreement   share of pairs with s_a = s_b among those where neither is a tie
Kendall W of m rankings of n pictures, mean ranks within ties, T = sum (t^3 - t):
    W = (12 sum R_i^2 - 3 m^2 n (n + 1)^2) / (m^2 n (n^2 - 1) - m sum T)
Krippendorff's alpha (ordinal) by the library of that name, strengths by Bradley-Terry (choix; Hunter 2004).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.rankings.ranking import MAX_PICTURES

if TYPE_CHECKING:
    from studio.rankings.database import Rankings

__all__ = ["Agreement", "Strength", "Table", "agreement", "read_table", "strengths", "tau_b", "win_rates", "kendall_w", "pair_signs"]

PAIRS = list(combinations(range(MAX_PICTURES), 2))
FIRST, SECOND = (np.array(side) for side in zip(*PAIRS))
RESAMPLED = 200
# A model that won or lost every comparison has no finite strength; this much of a win and a loss to each keeps it in sight.
PRIOR = 0.1


@dataclass(frozen=True)
class Table:
    """Every ranking as one row. ranks: (N, 9) float64, NaN for a picture left out or not there; models: of the pictures of each task."""

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
    """Agreement of pairs of rankings of the same tasks; None where nobody ranked the same. pairs: strict pairs that were compared."""

    rankings: int
    tau_b: float | None = None
    pairwise: float | None = None
    pairs: int = 0
    kendall_w: float | None = None
    alpha: float | None = None
    itself: float | None = None
    annotators: Mapping[str, Mapping[str, Any]]


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
    from sqlalchemy import select

    from studio.rankings.schema import Annotator, Assignment, Generation, RankingRow, Task, TaskItem

    columns = (Assignment.task_id, Assignment.annotator_id, Assignment.repeat, RankingRow.ranks, RankingRow.seconds, RankingRow.submitted)
    wanted = select(*columns).join(Assignment, Assignment.id == RankingRow.assignment_id).order_by(RankingRow.submitted)
    items = select(TaskItem.task_id, Generation.model).join(Generation, Generation.id == TaskItem.generation_id).order_by(TaskItem.task_id, TaskItem.position)
    if collection:
        wanted = wanted.join(Task, Task.id == Assignment.task_id).where(Task.collection == collection)
        items = items.join(Task, Task.id == TaskItem.task_id).where(Task.collection == collection)
    with rankings.reading() as session:
        rows = session.execute(wanted).all()
        names = dict(session.execute(select(Annotator.id, Annotator.name)).tuples().all())
        models: dict[int, list[str]] = {}
        for task, model in session.execute(items):
            models.setdefault(task, []).append(model)
    ranks = np.full((len(rows), MAX_PICTURES), np.nan)
    for row, said in enumerate(rows):
        ranks[row, : len(said.ranks)] = [np.nan if rank is None else rank for rank in said.ranks]
    of = lambda place, kind: np.array([row[place] for row in rows], dtype=kind)  # noqa: E731
    return Table(
        task=of(0, np.int64), annotator=of(1, np.int64), repeat=of(2, np.int64), ranks=ranks, seconds=of(4, float), submitted=of(5, float), names=names,
        models=models,
    )


def pair_signs(ranks: np.ndarray) -> np.ndarray:
    """(N, 9) ranks -> (N, 36) float32: 1 where the first of a pair is better, -1 where the second is, 0 for a tie, NaN where one is left out."""
    return np.sign(ranks[:, SECOND] - ranks[:, FIRST]).astype(np.float32)


def tau_b(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of rows of signs, (N, 36) each -> (N,); NaN where either says nothing but ties."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = np.where(both, a, 0), np.where(both, b, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt(np.abs(a).sum(1) * np.abs(b).sum(1))


def kendall_w(ranks: np.ndarray) -> float | None:
    """Kendall's W of m complete rankings (m, n) of the same n pictures, ties corrected; None where all say nothing but ties."""
    from scipy.stats import rankdata

    m, n = ranks.shape
    means = rankdata(ranks, axis=1)
    ties = sum(float((count**3 - count).sum()) for row in ranks for count in [np.unique(row, return_counts=True)[1].astype(float)])
    below = m**2 * n * (n**2 - 1) - m * ties
    return float((12 * (means.sum(0) ** 2).sum() - 3 * m**2 * n * (n + 1) ** 2) / below) if below else None


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
    found = []
    for rows in rows_by_task(table):
        sizes = (~np.isnan(table.ranks[rows])).sum(1)
        whole = rows[sizes == len(table.models[int(table.task[rows[0]])])]
        if len(whole) > 1:
            found.append(kendall_w(table.ranks[whole][:, : sizes.max()]))
    return mean(np.array([w for w in found if w is not None]))


def rows_by_task(table: Table) -> Iterator[np.ndarray]:
    """Rows of first rankings by task, of tasks that more than one ranked."""
    rows = np.flatnonzero(table.repeat == 0)
    order = rows[np.argsort(table.task[rows], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(table.task[order])) + 1):
        if len(group) > 1:
            yield group


def alpha(table: Table) -> float | None:
    """Krippendorff's alpha for ordinal data: units are pictures of tasks, values their ranks."""
    import krippendorff

    units = np.concatenate([value_counts(table, rows) for rows in rows_by_task(table)] or [np.zeros((0, MAX_PICTURES))])
    units = units[units.sum(1) > 1]
    # Where all say one and the same value there is nothing to agree on.
    if not len(units) or (units.sum(0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=units, value_domain=list(range(1, MAX_PICTURES + 1)), level_of_measurement="ordinal"))


def value_counts(table: Table, rows: np.ndarray) -> np.ndarray:
    """(pictures, 9): how many gave each picture of a task each rank."""
    ranks = table.ranks[rows][:, : len(table.models[int(table.task[rows[0]])])]
    return np.stack([(ranks == value).sum(0) for value in range(1, MAX_PICTURES + 1)], axis=1)


# --- strengths -----------------------------------------------------------------------------------------------

def strengths(table: Table, seed: int = 0) -> list[Strength]:
    """The models by Bradley-Terry, strongest first; a tie is half a win for each. Fewer than two models have none."""
    models = sorted({model for of in table.models.values() for model in of if model})
    if len(models) < 2 or not len(table.task):
        return []
    wins = wins_by_task(table, models)
    tasks = np.unique(table.task, return_inverse=True)[1]
    per_task = np.zeros((tasks.max() + 1, *wins.shape[1:]))
    np.add.at(per_task, tasks, wins)
    generator = np.random.default_rng(seed)
    drawn = [fitted(per_task[generator.integers(len(per_task), size=len(per_task))].sum(0)) for _ in range(RESAMPLED)]
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
    """(N, M, M): of each ranking how often the model of the row beat that of the column, a tie half a win for each; none against itself."""
    place = {model: i for i, model in enumerate(models)}
    wins, signs = np.zeros((len(table.task), len(models), len(models))), pair_signs(table.ranks)
    of_task = {task: np.array([place.get(model, -1) for model in of] + [-1] * (MAX_PICTURES - len(of))) for task, of in table.models.items()}
    which = np.array([of_task[task] for task in table.task.tolist()], dtype=np.int64).reshape(-1, MAX_PICTURES)
    row, pair = np.nonzero(~np.isnan(signs))
    a, b = which[row, FIRST[pair]], which[row, SECOND[pair]]
    known = (a >= 0) & (b >= 0) & (a != b)
    row, a, b, score = row[known], a[known], b[known], (signs[row, pair][known] + 1) / 2
    np.add.at(wins, (row, a, b), score)
    np.add.at(wins, (row, b, a), 1 - score)
    return wins


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
