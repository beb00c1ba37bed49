"""Rankings by hand: pictures of a prompt put in order by annotators, kept so that nothing acknowledged is lost.

    rankings = open_rankings("rankings")                       SQLite in a folder, or PostgreSQL by an address
    add_tasks(rankings, [NewTask(prompt=..., generations=...)])
    task = open_tasks(rankings, "Ada")[0]                      its pictures in an order of Ada's own
    submit(rankings, "Ada", task.assignment, Ranking(ranks=[2, 1, 2, None]))
"""

from studio.rankings.assigning import OpenTask, open_tasks, progress, save_draft
from studio.rankings.database import Rankings, open_rankings, rankings_folder
from studio.rankings.ranking import FLAGS, RATINGS, Ranking
from studio.rankings.submitting import Submitted, skip, submit, undo
from studio.rankings.tasks import NewGeneration, NewTask, add_tasks, collections

__all__ = [
    "FLAGS", "RATINGS", "NewGeneration", "NewTask", "OpenTask", "Ranking", "Rankings", "Submitted", "add_tasks", "collections", "open_rankings",
    "open_tasks", "progress", "rankings_folder", "save_draft", "skip", "submit", "undo",
]
