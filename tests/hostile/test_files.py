"""Files that are not what they seem: pictures that are bombs, cut short or foreign."""

from tests.hostile.files import hostile_pictures, reference
from tests.hostile.judging import judge, quiet
from tests.hostile.served import ATTACK

# In CI every handler gets every second picture, and every picture goes to every second handler; in `make attack` all to all.
SHARE = 1 if ATTACK else 2


def test_every_handler_of_pictures_answers_hostile_ones(app):
    handlers = [handler for handler in app.handlers() if handler.takes_file]
    for number, (name, content) in enumerate(hostile_pictures().items()):
        said = reference(app.upload(name, content), orig_name=name)
        for handler in handlers[number % SHARE :: SHARE]:
            with quiet(app):
                answer = app.queued(handler, handler.values(file=said))
                judge(answer, handler.public)
    assert app.alive()
