"""Files that are not what they seem: pictures that are bombs, cut short or foreign, and run files whose parts do not fit."""

from uuid import uuid4

import pytest

from tests.hostile.files import hostile_pictures, hostile_runs, reference
from tests.hostile.judging import judge, quiet


def test_every_handler_of_pictures_answers_hostile_ones(app):
    handlers = [handler for handler in app.handlers() if handler.takes_file]
    for name, content in hostile_pictures().items():
        said = reference(app.upload(name, content), orig_name=name)
        for handler in handlers:
            with quiet(app):
                answer = app.queued(handler, handler.values(file=said))
                judge(answer, handler.public)
    assert app.alive()


@pytest.mark.parametrize("then", ["shown", "kept"])
def test_hostile_run_files_are_refused_or_shown_and_never_break_what_follows(app, then):
    openers = app.openers()
    assert openers
    for name, content in hostile_runs().items():
        said = reference(app.upload(name, content), orig_name=name)
        for opener in openers:
            session = uuid4().hex
            with quiet(app):
                answer = app.queued(opener, opener.values(file=said), session)
                judge(answer, opener.public)
                assert answer.ok or answer.sentence, f"{name}: {answer.text[:300]}"
            if then == "kept" and answer.ok:
                keep_all(app, name, session)
    assert app.alive()


def keep_all(app, name, session):
    """Everything that can be asked of an opened run."""
    for handler in app.handlers():
        if handler.name.startswith("keep") or handler.name == "on_open_step":
            with quiet(app):
                answer = app.queued(handler, handler.values(), session, {"run": "x", "stream": "x_t", "index": 10**9})
                assert answer.ok or answer.sentence, f"{name}, {handler.name}: {answer.text[:300]}"
