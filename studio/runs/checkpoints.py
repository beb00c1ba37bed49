"""The checkpoints of a run: which there are, and whether one is still what was saved.

    checkpoints/step-000499/   network.safetensors, ema.safetensors, optimizer.safetensors, facts.json
                               manifest.json: length and checksum of each of the others, written last
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.errors import DamagedFile
from studio.files import remove
from studio.manifest import MANIFEST, verify_manifest
from studio.records import read_record
from studio.runs.records import CheckpointFacts

__all__ = ["FACTS", "Choice", "list_checkpoints", "newest_good", "read_facts", "set_damaged_aside", "steps_of", "verify"]

NAME = re.compile(r"step-(\d{1,12})")
FACTS = "facts.json"
PARTS = ("network", "ema", "optimizer")


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of the run in the folder `run`, oldest first; what has another name is none."""
    try:
        found = [path for path in (run / "checkpoints").iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []
    return sorted(found, key=steps_of)


def steps_of(checkpoint: Path) -> int:
    """How many steps were taken when it was saved: one more than the number in its name."""
    match = NAME.fullmatch(checkpoint.name)
    return int(match[1]) + 1 if match else 0


def read_facts(checkpoint: Path) -> CheckpointFacts:
    """What the checkpoint says of itself. Raises DamagedFile."""
    facts = read_record(CheckpointFacts, checkpoint / FACTS)
    if facts is None:
        raise DamagedFile(f"{FACTS} is missing")
    return facts


def verify(checkpoint: Path) -> CheckpointFacts:
    """What the checkpoint says of itself, once every part of it is known to be what was saved. Raises DamagedFile that says what is not.

    One of an earlier version has no manifest: then its parts must be there, each as long as its own header says.
    """
    if (checkpoint / MANIFEST).exists():
        verify_manifest(checkpoint, [f"{part}.safetensors" for part in PARTS])
    else:
        for part in PARTS:
            _require_whole(checkpoint / f"{part}.safetensors")
    facts = read_facts(checkpoint)
    if facts.step + 1 != steps_of(checkpoint):
        raise DamagedFile(f"{FACTS} is that of step {facts.step + 1}")
    return facts


def _require_whole(path: Path) -> None:
    """Refuse a safetensors file that is not as long as its header says: 8 bytes of length, the header, the tensors."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 2**27)))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            whole = path.stat().st_size == 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        whole = False
    if not whole:
        raise DamagedFile(f"{path.name} is missing, damaged or cut short")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The checkpoint to go on from, None where there is none that is good, and the newer ones that are damaged, with what is wrong."""

    good: Path | None = None
    facts: CheckpointFacts | None = None
    damaged: Sequence[tuple[Path, str]] = ()

    @property
    def said(self) -> str:
        """What is damaged and what is taken, in a sentence; "" where nothing is damaged."""
        if not self.damaged:
            return ""
        named = ", ".join(f"step {steps_of(path)} ({wrong})" for path, wrong in self.damaged)
        are = f"The checkpoint of {named} is" if len(self.damaged) == 1 else f"The checkpoints of {named} are"
        if self.good is None:
            return f"{are} damaged, and there is no other to go on from. Start a new run."
        return f"{are} damaged; that of step {steps_of(self.good)}, the newest good one, was taken instead."


def newest_good(run: Path) -> Choice:
    """The newest checkpoint of the run that is what was saved."""
    damaged: list[tuple[Path, str]] = []
    for checkpoint in reversed(list_checkpoints(run)):
        try:
            return Choice(good=checkpoint, facts=verify(checkpoint), damaged=damaged)
        except DamagedFile as error:
            damaged.append((checkpoint, str(error).rstrip(".")))
    return Choice(damaged=damaged)


def set_damaged_aside(choice: Choice) -> None:
    """Give the damaged ones another name, under which nobody takes them for checkpoints."""
    for checkpoint, _ in choice.damaged:
        aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
        remove(aside)
        checkpoint.rename(aside)
