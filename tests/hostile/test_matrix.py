"""Every handler that the app lists, called with what nobody should send, by the queue and past it, with and without --public.

The handlers are read from the app's own configuration, so a new one is covered as soon as it is there. In CI each gets
a few requests, always the same, every other handler of the app for strangers and the ones between of its owner's; `make attack`
sends many to all of both, other ones each time.
"""

import httpx
from hypothesis import HealthCheck, Phase, given, settings

from tests.hostile.files import uploaded
from tests.hostile.judging import judge, quiet
from tests.hostile.served import ATTACK, Handler, Served
from tests.hostile.strategies import Request, requests

EXAMPLES = ATTACK or 2


def attack(app: Served, handler: Handler, references: list) -> None:
    """Send the handler its requests; the first that is not well answered is made as small as can be and raised."""
    @settings(
        max_examples=EXAMPLES, derandomize=not ATTACK, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink], report_multiple_bugs=False,
    )
    @given(requests(handler, references))
    def one(request: Request) -> None:
        try:
            with quiet(app):
                judge(request.send(app), handler.public)
        except (AssertionError, httpx.TransportError) as error:
            raise AssertionError(f"{request}\n    {error or repr(error)}") from None

    one()


def test_every_handler_answers_what_nobody_should_send(app):
    references, wrong = uploaded(app), []
    for handler in app.handlers() if ATTACK else app.handlers()[int(app.public) :: 2]:
        try:
            attack(app, handler, references)
        except (AssertionError, ExceptionGroup) as error:
            # A group where the same request was well answered when it was sent again.
            wrong.append(str(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)[:1500])
        if not app.alive():
            wrong.append(f"after {handler.name} the app answers no more")
            break
        # A training that was begun would take the processor from all that follows.
        app.end_runs()
    assert not wrong, f"{len(wrong)} handlers\n--- " + "\n--- ".join(wrong)
