"""What several tests of the trainers learn from."""

import numpy as np
import pytest
from PIL import Image

from studio.rankings import NewGeneration, NewTask, Ranking, add_tasks, open_rankings, open_tasks, submit
from studio.rankings.pictures import keep_drawn, picture_path


@pytest.fixture
def rankings(tmp_path):
    """Twelve prompts, of whose three pictures the reddest is best."""
    opened = open_rankings(tmp_path / "rankings", "")
    for number in range(12):
        pictures = [keep_drawn(opened.folder, Image.new("RGB", (32, 32), (level, 20 * number, 40))) for level in (250, 130, 10)]
        add_tasks(opened, [NewTask(prompt=f"a star {number}", generations=[NewGeneration(picture=one) for one in pictures])])
    while tasks := open_tasks(opened, "Ada", 1):
        reds = {one.position: int(np.asarray(Image.open(picture_path(opened.folder, one.sha256, one.suffix)))[0, 0, 0]) for one in tasks[0].pictures}
        submit(opened, "Ada", tasks[0].assignment, Ranking(ranks=[1 + sorted(reds.values(), reverse=True).index(reds[place]) for place in sorted(reds)]))
    yield opened
    opened.close()
