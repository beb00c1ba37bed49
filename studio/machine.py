"""How much of the computer's memory there is, and how much is free: what the system says, within what a container may take; and its cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition

from studio.errors import StudioBusy, TooLarge

__all__ = ["total_ram", "free_ram", "require_ram", "spare_one_core", "prefer_huge_pages", "keep_freed_memory", "in_words", "Room"]

# mallopt's names, in malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# What is freed beyond this goes back to the system, and larger pieces at once.
KEPT_FREE = 2**31 - 1

# Where Linux says what a container may take and takes: (limit, use, its statistics, the name there of what it can give back).
CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def total_ram() -> int:
    """Bytes of memory that this process may take at most."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for limit, _ in _containers())])


def free_ram() -> int:
    """Bytes of memory that this process can still take without anything being written to disk for it."""
    import psutil

    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in _containers())]))


def spare_one_core() -> int:
    """Threads for networks on a processor that serves a page as well: a core is left for the page.

    Threads of one operation wait for each other, so one that shares its core with the page holds up all: on two cores two
    threads draw more slowly than one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - 1)


def prefer_huge_pages() -> None:
    """Let torch ask for huge pages for what is large, where Linux has them: a network then runs a tenth to a fifth faster on a processor.

    To be called before torch makes its first tensor; a setting of the user's own stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Let the process keep the memory that it frees, where it is glibc that has it.

    The activations of a training step are freed at its end and needed again in the next one: given back in between, each page is
    fetched and cleared anew, a tenth of a small network's step. For processes that train and end; one that stays should give memory back.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        for threshold in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(threshold, KEPT_FREE)


def require_ram(needed: int, what: str, instead: str) -> None:
    """Refuse, in numbers, what would take more memory than is free. what: the subject of the sentence; instead: what to do.

    Raises TooLarge.
    """
    free = free_ram()
    if needed > free:
        raise TooLarge(f"{what} needs about {in_words(needed)} of memory and {in_words(free)} are free: {instead}.")


class Room:
    """An allowance of memory that many threads share: who finds too much of it taken waits a while.

    Args:
        size: bytes in all.
        wait_s: seconds that anybody waits at most.
        busy: what is said to whoever has waited in vain.
    """

    def __init__(self, size: int, wait_s: float, busy: str = "The studio is busy; try again in a few seconds.") -> None:
        self.wait_s, self.busy = wait_s, busy
        self._free = size
        self._changed = Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """So many bytes are taken inside. Raises StudioBusy."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= size, self.wait_s):
                raise StudioBusy(self.busy)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


def in_words(size: float) -> str:
    """Bytes as a person reads them: "9.3 GiB", "120 MiB"."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _containers(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, int]]:
    """(limit, use) in bytes of the containers around this process that set a limit; none outside of Linux."""
    found = []
    for limit, use, statistics, name in CGROUPS:
        try:
            # "max" is no limit.
            most = int((root / limit).read_text())
            given_back = dict(line.split() for line in (root / statistics).read_text().splitlines()).get(name, "0")
            found.append((most, int((root / use).read_text()) - int(given_back)))
        except (OSError, ValueError):
            continue
    return found
