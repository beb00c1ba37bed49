"""Recorded example runs: real ones, kept with the studio as they were left but for their weights.

They can be looked at, compared with and copied from. They lie in no user's folder, and nothing stops, resumes or deletes them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from studio.models.catalogue import ASSETS
from studio.runs.folder import RunView, read_run

__all__ = ["DOMINO", "EXAMPLES", "TUNED", "example_named", "examples"]

# No run of a user's can have such names.
DOMINO, TUNED = "domino (example)", "tuned (example)"
EXAMPLES: dict[str, Path] = {DOMINO: ASSETS / "openings" / "domino", TUNED: ASSETS / "openings" / "tuned"}
ABOUT = "This run was recorded and is kept with the studio, without its weights: look at it, compare with it, take its options."


def examples() -> Sequence[RunView]:
    """All of them."""
    return [example_named(name) for name in EXAMPLES]


def example_named(name: str) -> RunView:
    """The example of this name, a key of EXAMPLES."""
    return replace(read_run(EXAMPLES[name]), name=name, message=ABOUT, example=True)
