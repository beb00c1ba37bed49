"""First presses made quick: what they need is loaded in the background, once the page is up.

    page served -> its stage shows the recorded run -> here: load, make ready, practise -> a press finds everything done
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any

from studio.errors import StudioError
from studio.models.device import Work
from studio.options import SampleOptions
from tabs.parts.api import SamplingApi
from tabs.parts.session import Session
from tabs.parts.stage import CHEAP
from tabs.parts.visitors import NOBODY

__all__ = ["FirstPress", "make_ready_once_up"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FirstPress:
    """What a tab's first press asks for, as its controls stand when the page opens.

    changes: of the page while such a run goes on. opened: the event that shows the recorded run of the tab that a page opens with.
    """

    options: SampleOptions
    changes: Callable[[SampleOptions, Event, Session], Iterator[Any]]
    opened: Any = None


def make_ready_once_up(studio: SamplingApi, presses: Collection[FirstPress]) -> None:
    """Once the first page shows the tab that it opens with, their models are made ready in this order, once for the process.

    Not before: importing and loading takes seconds, and would take them from the page.
    """
    lock, begun = Lock(), Event()

    def on_up() -> None:
        with lock:
            if begun.is_set():
                return
            begun.set()
        Thread(target=_make_ready, args=(studio, presses), name="making ready", daemon=True).start()

    if opened := next((press.opened for press in presses if press.opened is not None), None):
        opened.then(on_up, **CHEAP)


def _make_ready(studio: SamplingApi, presses: Collection[FirstPress]) -> None:
    """A model that cannot be made ready is left to the press, which says why on the page."""
    for press in presses:
        name = press.options.model
        try:
            # Loading goes on beside others' runs; what is then done with the networks has a turn of the device.
            studio.require_room(press.options)
            with studio.device.ask(NOBODY.visitor, Work(name="make ready", whole=True)) as turn:
                turn.wait()
                studio.make_ready(press.options)
            _practise(press)
        except StudioError as error:
            logger.warning("%s could not be made ready before its first run: %s", name, error)
        except Exception as error:
            logger.warning("%s could not be made ready before its first run (%s: %s).", name, type(error).__name__, error)


def _practise(press: FirstPress) -> None:
    """A run of one step that nobody sees: whatever the first run has to import, to compile and to look up is done then."""
    for _ in press.changes(dataclasses.replace(press.options, num_steps=1), Event(), Session()):
        pass
