"""The studio's exceptions: each message is one sentence that tells the user what to do.

StudioError
|-- InvalidOption      an option has a value that makes no sense (also a ValueError)
|-- UnknownName        a name that is in no menu (also a KeyError)
|-- BadImage           an uploaded picture that cannot be used
|-- NotUploaded        a file that is none of the uploads
|-- BadRunFile         a run file that is cut short, foreign, or of another version
|-- DamagedFile        a file or folder that the studio itself wrote, and that cannot be read any more
|-- NotWritable        a folder of the studio's that nothing can be written to
|-- ModelUnavailable   a model that cannot be found, loaded, or does not fit the task
|-- TooLarge           a request that takes more memory than is free, or more work than a public studio does
|-- RunFailed          a run, of sampling or training, that ended before it was done
`-- StudioBusy         too much is asked for at the same time; a moment later it can be had

Only these are shown to the user; anything else is a defect and keeps its traceback in the log.
"""

from collections.abc import Iterable
from difflib import get_close_matches

# So many names of a menu fit into a sentence.
SHOWN = 40

__all__ = [
    "StudioError", "InvalidOption", "UnknownName", "BadImage", "NotUploaded", "BadRunFile", "DamagedFile", "NotWritable", "ModelUnavailable", "TooLarge",
    "RunFailed", "StudioBusy",
]

# Of a name that is in no menu, so much is repeated.
MAX_NAME = 100


class StudioError(Exception):
    """Base of everything that the studio tells a user."""


class InvalidOption(StudioError, ValueError):
    """An option has a value that makes no sense."""


class UnknownName(StudioError, KeyError):
    """A name that is in no menu."""

    # KeyError shows its argument quoted; a sentence must stay a sentence.
    __str__ = Exception.__str__

    @classmethod
    def of(cls, kind: str, name: object, known: Iterable[str]) -> "UnknownName":
        """The error for `name`, with the nearest known name or the whole menu in the message."""
        menu = sorted(known)
        if isinstance(name, str) and len(name) > MAX_NAME:
            name = f"{name[:MAX_NAME]}..."
        close = get_close_matches(str(name), menu, n=1)
        some = ", ".join(menu[:SHOWN]) + (f", ... ({len(menu)} in all)" if len(menu) > SHOWN else "")
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of {some}."
        return cls(f"There is no {kind} named {name!r}; {hint}")


class BadImage(StudioError, ValueError):
    """A picture that cannot be used."""


class NotUploaded(StudioError, ValueError):
    """A file that is none of the uploads."""


class BadRunFile(StudioError, ValueError):
    """A run file that cannot be read."""


class DamagedFile(StudioError):
    """A file or folder that the studio itself wrote, and that cannot be read any more."""


class NotWritable(StudioError):
    """A folder of the studio's that nothing can be written to."""


class ModelUnavailable(StudioError):
    """A model that cannot be found or loaded, or that does not fit the task."""


class TooLarge(StudioError, ValueError):
    """A request that takes more memory than is free, or more work than a public studio does."""


class RunFailed(StudioError):
    """A run, of sampling or training, that ended before it was done: out of memory, or by a defect."""


class StudioBusy(StudioError):
    """Too much is asked for at the same time; a moment later it can be had."""
