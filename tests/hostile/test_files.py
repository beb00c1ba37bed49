"""Files that are not what they seem: pictures that are bombs, cut short or foreign, and run files whose parts do not fit."""

from uuid import uuid4

from tests.hostile.files import hostile_pictures, hostile_runs, reference
from tests.hostile.judging import judge, quiet
from tests.hostile.served import ATTACK

# In CI a file goes to a few of the handlers, to others in each of the two modes; in `make attack` all to all.
SHARE = 1 if ATTACK else 16
# Run files that open, and of which everything is kept in CI as well.
KEPT = {f"{name}.safetensors" for name in ("line", "many", "nan")}


def test_every_handler_of_pictures_answers_hostile_ones(app):
    handlers = [handler for handler in app.handlers() if handler.takes_file]
    assert len(handlers) > SHARE
    for number, (name, content) in enumerate(hostile_pictures().items()):
        said = reference(app.upload(name, content), orig_name=name)
        for handler in share(app, handlers, number):
            with quiet(app):
                answer = app.queued(handler, handler.values(file=said))
                judge(answer, handler.public)
            app.end_runs()
    assert app.alive()


def test_hostile_run_files_are_refused_or_shown_and_never_break_what_follows(app):
    openers, kept = app.openers(), [handler for handler in app.handlers() if handler.name.startswith("keep") or handler.name == "on_open_step"]
    assert openers and len(kept) > len(openers)
    for number, (name, content) in enumerate(hostile_runs().items()):
        said = reference(app.upload(name, content), orig_name=name)
        for opener in openers if ATTACK else openers[number % 4 :: 4]:
            session = uuid4().hex
            with quiet(app):
                answer = app.queued(opener, opener.values(file=said), session)
                judge(answer, opener.public)
                assert answer.ok or answer.sentence, f"{name}: {answer.text[:300]}"
            if answer.ok and (ATTACK or name in KEPT):
                keep_all(app, kept, name, session)
    assert app.alive()


def share(app, handlers, number):
    """The handlers that the file of this number goes to."""
    # Its owner's app starts a process of its own for some of them.
    step = SHARE if app.public or ATTACK else 2 * SHARE
    return handlers[(number + (0 if app.public else SHARE // 2)) % step :: step]


def keep_all(app, handlers, name, session):
    """Everything that can be asked of an opened run."""
    for handler in handlers:
        with quiet(app):
            answer = app.queued(handler, handler.values(), session, {"run": "x", "stream": "x_t", "index": 10**9})
            assert answer.ok or answer.sentence, f"{name}, {handler.name}: {answer.text[:300]}"
