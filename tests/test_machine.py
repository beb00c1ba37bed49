"""The computer's memory as the studio counts it: the system's, within a container's limit."""

import threading

import psutil
import pytest

from studio import Studio, machine


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (8, 7)])
def test_a_core_is_left_for_the_page(monkeypatch, cores, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    assert machine.spare_one_core() == threads


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
