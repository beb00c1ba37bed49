"""What every answer of the app must be, whoever asks and whatever for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hostile.served import ROOT, Answer, Served

__all__ = ["judge", "quiet"]

# Where something of the server stands in an answer: a traceback, its folders, its packages.
LEAKS = re.compile(rf"Traceback|File \"/|site-packages|{re.escape(str(ROOT))}/(?!runs)")


def judge(answer: Answer, public: bool) -> None:
    """Raises AssertionError with what is wrong about the answer. public: of an endpoint that programs know by its name."""
    assert answer.status != 500 or isinstance(answer.body, dict), f"Not answered: {answer.text[:200]}"
    if public:
        assert answer.ok or answer.sentence, f"No sentence: {answer.status} {answer.text[:200]}"
    assert answer.ok or not LEAKS.search(answer.text), f"The answer tells of the server: {answer.text[:500]}"


@contextmanager
def quiet(app: Served) -> Iterator[None]:
    """Raises AssertionError where the log shows a fault afterwards, where anything outside was touched, or too much memory taken."""
    log_from, report_from = app.places()
    yield
    # A fault is written down after its answer has gone out: by the next answer it stands there.
    app.client.get("/gradio_api/app_id")
    assert not app.killed_for_memory, f"The app took more than {app.max_mib} MiB."
    log = app.log(log_from)
    assert "Traceback" not in log, f"A traceback in the log: {log[-1500:]}"
    outside = app.report(report_from)
    assert not outside, f"Outside: {outside[:5]}"
