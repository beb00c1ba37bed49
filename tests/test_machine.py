"""The computer's memory as the studio counts it: the system's, within a container's limit."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from studio import Studio, machine

ROOT = Path(__file__).parents[1]
HUGE = "THP_MEM_ALLOC_ENABLE"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_a_core_is_left_for_the_page(monkeypatch, cores, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert machine.spare_one_core() == threads


@pytest.mark.parametrize(("own", "found"), [(None, "1"), ("0", "0")])
def test_torch_is_told_of_huge_pages_before_it_is_there_unless_the_user_says_otherwise(own, found):
    environment = {name: value for name, value in os.environ.items() if name != HUGE} | ({} if own is None else {HUGE: own})
    code = f"import os, sys, studio; print(os.environ['{HUGE}'], 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.split() == [found, "False"]


FAULTS = """
import resource, sys
from studio.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def use():
    pieces = [bytes(24 * 2**20).replace(bytes(1), b"a", 1) for _ in range(4)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what keeps the memory is glibc's")
def test_memory_that_a_training_frees_is_not_fetched_from_the_system_again():
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True, cwd=ROOT).stdout) for how in ("given back", "kept")
    ]
    # 96 MiB and their copies are tens of thousands of pages of 4 KiB.
    assert faults[0] > 10_000 and faults[1] < 1_000


def test_networks_take_the_threads_that_the_studio_was_given():
    import torch

    before, seen = torch.get_num_threads(), []
    try:
        list(Studio(threads=before + 1).load("digits-ddpm"))
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [before + 1]


def written(root, names: tuple[str, str, str], limit: str, used: int, stat: str):
    for name, text in zip(names, (limit, str(used), stat)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(("names", "cache"), [(row[:3], row[3]) for row in machine.CGROUPS])
def test_a_containers_limit_counts_and_what_it_can_give_back_does_not(tmp_path, names, cache):
    written(tmp_path, names, "4000\n", 3000, f"anon 5\n{cache} 1200\n")
    assert machine._containers(tmp_path) == [(4000, 1800)]


def test_no_limit_is_no_limit(tmp_path):
    written(tmp_path, machine.CGROUPS[0][:3], "max\n", 3000, "inactive_file 0\n")
    assert machine._containers(tmp_path) == [] and machine._containers(tmp_path / "nowhere") == []


def test_what_is_free_is_the_least_of_all(monkeypatch):
    monkeypatch.setattr(machine, "_containers", lambda: [(4000, 1800)])
    assert machine.total_ram() == 4000 and machine.free_ram() == 2200
    monkeypatch.setattr(machine, "_containers", lambda: [(2**60, 0), (10, 20)])
    assert machine.free_ram() == 0
    monkeypatch.setattr(machine, "_containers", lambda: [])
    assert machine.total_ram() == psutil.virtual_memory().total and 0 < machine.free_ram() <= machine.total_ram()
