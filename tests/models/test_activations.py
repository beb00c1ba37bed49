"""The most that a pass holds at once, found without computing it."""

import pytest
import torch
from torch.nn import functional as F

from studio.models.activations import live_peak


def test_what_is_there_at_the_same_time_is_counted_and_what_was_let_go_is_not():
    def chain() -> torch.Tensor:
        x = torch.zeros(1000)  # 4,000 bytes each
        for _ in range(10):
            x = x + 1  # the new one beside the old one
        return x

    def held() -> list[torch.Tensor]:
        return [torch.zeros(1000) for _ in range(10)]

    assert live_peak(chain) == 8_000 and live_peak(held) == 40_000


def test_views_and_changes_in_place_take_no_memory_of_their_own():
    def work() -> torch.Tensor:
        x = torch.zeros(10, 100)
        return x.t()[5:].mul_(2).reshape(-1)[:7].add_(1)

    # The one that reshape has to copy, and the first.
    assert live_peak(work) <= 4_000 + 95 * 10 * 4


def test_a_convolution_is_counted_with_the_copy_of_its_input():
    weight = torch.zeros(2, 4, 3, 3)

    def work() -> torch.Tensor:
        return F.conv2d(torch.zeros(1, 4, 50, 50), weight, padding=1)

    assert live_peak(work) == 4 * (4 + 2 + 4) * 50 * 50


def test_what_is_kept_for_gradients_counts_while_it_is_kept():
    def forward(gradients: bool) -> None:
        x = torch.zeros(1000, requires_grad=gradients)
        y = x
        for _ in range(20):
            y = (y * 2).sin()
        if gradients:
            torch.autograd.grad(y.sum(), x)

    assert live_peak(lambda: forward(True)) >= 20 * 4_000 > 3 * live_peak(lambda: forward(False))


def test_nothing_is_computed_and_no_memory_is_taken(tiny_model):
    from studio import Studio

    network = Studio().model(tiny_model).network
    weights = [weight.clone() for weight in network.parameters()]
    huge = live_peak(lambda: network(torch.zeros(1, 1, 8192, 8192), 1.0, class_labels=torch.zeros(1, dtype=torch.long)))
    assert huge > 2**33  # far more than this computer would give
    small, twice = (live_peak(lambda n=n: network(torch.zeros(n, 1, 32, 32), 1.0, class_labels=torch.zeros(n, dtype=torch.long))) for n in (1, 2))
    assert twice == pytest.approx(2 * small, rel=0.02)
    assert all(torch.equal(before, after) for before, after in zip(weights, network.parameters()))
