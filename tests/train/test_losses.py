"""Draws of t and the loss, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from linearsr_train.config import LossConfig
from linearsr_train.losses import draw_times, x0_loss


def _config(**changes: float) -> LossConfig:
    settings = {"t_one_probability": 0.5, "t_logit_mean": 0.4, "t_logit_std": 1.2, "max_weight": 2.0}
    return LossConfig(**{**settings, **changes})


@pytest.mark.parametrize(
    ("batch", "share", "ones"), [(16, 0.5, 8), (16, 0.0, 0), (16, 1.0, 16), (10, 0.25, 2), (5, 0.4, 2)]
)
def test_draw_times_gives_exactly_that_share_the_time_one(batch: int, share: float, ones: int) -> None:
    for seed in range(20):
        t = draw_times(batch, _config(t_one_probability=share), torch.Generator().manual_seed(seed))
        assert t.shape == (batch,)
        assert t.dtype == torch.float32
        assert int((t == 1).sum()) == ones
        assert bool((t[:ones] == 1).all())
        assert float(t.min()) > 0


def test_draw_times_is_logit_normal_below_one() -> None:
    t = draw_times(200_000, _config(t_one_probability=0.0), torch.Generator().manual_seed(0)).double()
    logit = torch.log(t / (1 - t))
    assert float(logit.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(logit.std()) == pytest.approx(1.2, abs=0.01)
    assert float(t.max()) < 1.0


def test_draw_times_keeps_away_from_both_ends() -> None:
    t = draw_times(1000, _config(t_one_probability=0.0, t_logit_std=50.0), torch.Generator().manual_seed(0))
    assert float(t.min()) == pytest.approx(1e-3)
    assert float(t.max()) == pytest.approx(0.999)


def test_draw_times_follows_its_generator_alone() -> None:
    draws = [draw_times(16, _config(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_x0_loss_is_absolute_at_one_and_huber_below() -> None:
    x0 = torch.zeros(4, 1, 1, 2)
    x0_hat = torch.tensor([[0.5, -3.0], [0.5, -3.0], [0.5, 0.5], [0.0, 0.0]]).view(4, 1, 1, 2)
    t = torch.tensor([1.0, 0.9, 0.999, 0.5])
    huber = (0.5 * 0.25 + (3.0 - 0.5)) / 2
    expected = [1.75, huber / 0.81, 0.125 / 0.999**2, 0.0]
    loss, squared = x0_loss(x0_hat, x0, t, max_weight=4.0)
    assert float(loss) == pytest.approx(sum(expected) / 4, rel=1e-6)
    assert squared.tolist() == pytest.approx([4.625, 4.625, 0.25, 0.0])


@pytest.mark.parametrize(("t", "weight"), [(0.999, 1 / 0.999**2), (0.75, 1 / 0.75**2), (0.5, 2.0), (0.01, 2.0)])
def test_x0_loss_weighs_by_inverse_t_squared_up_to_its_bound(t: float, weight: float) -> None:
    ones = torch.ones(1, 2, 3, 3)
    loss, _ = x0_loss(ones * 0.6, ones, torch.tensor([t]), max_weight=2.0)
    assert float(loss) == pytest.approx(weight * 0.5 * 0.16, rel=1e-5)


def test_x0_loss_of_a_perfect_prediction_is_zero_with_zero_gradient() -> None:
    x0 = torch.randn(3, 2, 4, 4)
    x0_hat = x0.clone().requires_grad_(True)
    loss, squared = x0_loss(x0_hat, x0, torch.tensor([1.0, 0.5, 0.1]), 2.0)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(x0_hat.grad, torch.zeros_like(x0))
    assert not squared.requires_grad


def test_x0_loss_counts_every_picture_alike() -> None:
    x0_hat = torch.stack([torch.full((1, 2, 2), value) for value in (1.0, 3.0)])
    loss, _ = x0_loss(x0_hat, torch.zeros_like(x0_hat), torch.ones(2), 2.0)
    assert float(loss) == 2.0
    assert math.isfinite(float(loss))
