"""Draws of t and the loss, by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from linearsr.flow import shift_t
from linearsr_train.config import LossConfig
from linearsr_train.experts import expert_interval
from linearsr_train.losses import draw_times, perceptual_term, velocity_loss, x0_loss
from linearsr_train.stage_config import ExpertSplitConfig

PAPER = ExpertSplitConfig()
INTERVALS = [expert_interval(expert, PAPER) for expert in range(4)]


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
    """Very wide draws would nearly all be at the ends; cut there, they fill the middle evenly in logit."""
    t = draw_times(10_000, _config(t_one_probability=0.0, t_logit_std=50.0), torch.Generator().manual_seed(0))
    assert 1e-3 <= float(t.min()) < 1.1e-3
    assert 0.9989 < float(t.max()) <= 0.999
    assert float((t < 0.5).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_draw_times_follows_its_generator_alone() -> None:
    draws = [draw_times(16, _config(), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def _rejected(count: int, interval: tuple[float, float], seed: int) -> torch.Tensor:
    """Times of an interval, drawn the slow way: untruncated, thrown away outside."""
    generator = torch.Generator().manual_seed(seed)
    kept: list[torch.Tensor] = []
    while sum(map(len, kept)) < count:
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(400_000, generator=generator, dtype=torch.float64))
        kept.append(t[(t >= max(interval[0], 1e-3)) & (t <= min(interval[1], 0.999))])
    return torch.cat(kept)[:count]


@pytest.mark.parametrize("interval", [*INTERVALS, (0.0, 1.0), (0.4, 0.41)], ids=str)
def test_truncated_draws_have_the_conditional_distribution(interval: tuple[float, float]) -> None:
    """Two-sample Kolmogorov-Smirnov against rejection sampling, at the 0.1 % level."""
    count = 20_000
    t = draw_times(count, _config(t_one_probability=0.0), torch.Generator().manual_seed(1), interval).double()
    assert float(t.min()) >= interval[0] - 1e-7 and float(t.max()) <= interval[1] + 1e-7
    expected = _rejected(count, interval, 2)
    both = torch.cat([t, expected]).sort().values
    below = [torch.searchsorted(drawn.sort().values, both, right=True) for drawn in (t, expected)]
    distance = float((below[0] - below[1]).abs().max()) / count
    assert distance < 1.95 * math.sqrt(2 / count)


def test_uniform_draws_would_not_pass_for_truncated_ones() -> None:
    """The comparison above can fail: within the widest interval the density is far from flat."""
    low, high = INTERVALS[1]
    t = draw_times(20_000, _config(t_one_probability=0.0), torch.Generator().manual_seed(1), (low, high))
    assert abs(float(t.mean()) - (low + high) / 2) > 0.01


@pytest.mark.parametrize(
    ("interval", "ones"), [((0.0, 1.0), 8), (INTERVALS[3], 8), (INTERVALS[2], 0), (INTERVALS[0], 0), ((0.5, 0.999), 0)]
)
def test_only_an_interval_that_reaches_one_has_its_share_there(interval: tuple[float, float], ones: int) -> None:
    for seed in range(10):
        t = draw_times(16, _config(), torch.Generator().manual_seed(seed), interval)
        assert int((t == 1).sum()) == ones
        assert len(t) == 16
        assert bool((t >= interval[0]).all())


def test_the_experts_divide_the_untruncated_draws_by_their_mass() -> None:
    """Shares of the pretraining's draws by the paper's boundaries, from the normal CDF."""
    cdf = [0.5 * math.erfc(-(math.log(t / (1 - t)) - 0.4) / (1.2 * math.sqrt(2))) for t in PAPER.boundaries]
    expected = [b - a for a, b in zip([0.0, *cdf], [*cdf, 1.0], strict=True)]
    assert expected == pytest.approx([0.0848, 0.8164, 0.0729, 0.0259], abs=1e-4)
    t = draw_times(200_000, _config(t_one_probability=0.0), torch.Generator().manual_seed(0)).double()
    found = torch.histogram(t, torch.tensor([0.0, *PAPER.boundaries, 1.0], dtype=torch.float64)).hist / len(t)
    assert found.tolist() == pytest.approx(expected, abs=3e-3)


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


# ---- the perceptual term


def _distance(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
    return (sr - hr).square().mean(dim=(1, 2, 3))


def test_perceptual_term_counts_the_time_one_as_zero() -> None:
    hr, sr = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    t = torch.tensor([1.0, 0.9, 1.0, 0.2])
    expected = _distance(sr, hr)[[1, 3]].sum() / 4
    assert float(perceptual_term(_distance, sr, hr, t)) == pytest.approx(float(expected), rel=1e-6)
    parts = [
        perceptual_term(_distance, sr[rows], hr[rows], t[rows]) for rows in (slice(0, 1), slice(1, 2), slice(2, 4))
    ]
    assert float(parts[0] + parts[1] + 2 * parts[2]) / 4 == pytest.approx(float(expected), rel=1e-6)


def test_perceptual_term_gives_gradient_below_one_only() -> None:
    sr = torch.rand(3, 3, 8, 8, requires_grad=True)
    perceptual_term(_distance, sr, torch.rand(3, 3, 8, 8), torch.tensor([1.0, 0.5, 0.25])).backward()
    assert float(sr.grad[0].abs().max()) == 0.0
    assert all(float(grad.abs().max()) > 1e-4 for grad in sr.grad[1:])


def test_perceptual_term_of_one_step_alone_is_zero_and_asks_for_nothing() -> None:
    def refuse(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        pytest.fail("the distance was asked for")

    sr = torch.rand(2, 3, 8, 8, requires_grad=True)
    term = perceptual_term(refuse, sr, sr.detach(), torch.ones(2))
    assert float(term) == 0.0


def test_perceptual_term_sees_pictures_in_range() -> None:
    seen: list[torch.Tensor] = []

    def look(sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        seen.append(sr)
        return _distance(sr, hr)

    perceptual_term(look, torch.randn(2, 3, 8, 8) * 3, torch.rand(2, 3, 8, 8), torch.tensor([0.5, 0.6]))
    assert float(seen[0].min()) == 0.0
    assert float(seen[0].max()) == 1.0


# ---- the paper-scale family: shifted times, and a loss of the velocity

SANA = LossConfig(t_one_probability=0.0, t_logit_mean=0.0, t_logit_std=1.0, t_shift=3.0)


def test_a_shift_moves_every_draw_as_flow_shift_does() -> None:
    plain = draw_times(64, _config(t_one_probability=0.0, t_logit_mean=0.0), torch.Generator().manual_seed(2))
    moved = draw_times(
        64, _config(t_one_probability=0.0, t_logit_mean=0.0, t_shift=3.0), torch.Generator().manual_seed(2)
    )
    assert torch.allclose(moved, shift_t(plain, 3.0), atol=1e-6)
    assert float((moved - plain).min()) > 0


def test_shifted_draws_fall_on_the_papers_intervals_with_their_known_shares() -> None:
    """method.md 3.2: 0.0095, 0.792, 0.147, 0.051 of logit-normal(0, 1) shifted by 3."""
    t = draw_times(200_000, SANA, torch.Generator().manual_seed(0))
    ends = (0.0, *PAPER.boundaries, 1.0)
    shares = [float(((t >= a) & (t < b)).float().mean()) for a, b in zip(ends, ends[1:], strict=False)]
    assert shares == pytest.approx([0.0095, 0.792, 0.147, 0.051], abs=0.003)


@pytest.mark.parametrize("interval", INTERVALS)
def test_draws_of_an_interval_follow_the_truncated_shifted_logit_normal(interval: tuple[float, float]) -> None:
    """Kolmogorov-Smirnov against the distribution by its formula; 1.95 / sqrt(n) is exceeded once in a thousand."""
    count = 20_000
    low, high = (min(max(end, 1e-3), 0.999) for end in interval)
    t = draw_times(count, SANA, torch.Generator().manual_seed(3), interval).double().sort().values
    assert low - 1e-6 <= float(t[0]) and float(t[-1]) <= high + 1e-6

    def below(time: torch.Tensor) -> torch.Tensor:
        return torch.special.ndtr(
            torch.logit(time / (3.0 - 2.0 * time))
        )  # the shift taken off, then logit-normal(0, 1)

    a, b = below(torch.tensor([low, high], dtype=torch.float64))
    expected, steps = (below(t) - a) / (b - a), torch.arange(count + 1, dtype=torch.float64) / count
    distance = max(float((expected - steps[:-1]).abs().max()), float((steps[1:] - expected).abs().max()))
    assert distance < 1.95 / math.sqrt(count)


def test_velocity_loss_is_the_mean_squared_error_of_noise_minus_data() -> None:
    x0 = torch.tensor([[1.0, -2.0], [0.5, 0.0]]).view(2, 1, 1, 2)
    eps = torch.tensor([[0.0, 1.0], [2.0, -1.0]]).view(2, 1, 1, 2)
    v_hat = torch.tensor([[-1.0, 1.0], [0.5, 0.0]]).view(2, 1, 1, 2)
    loss, squared = velocity_loss(v_hat, x0, eps)
    # eps - x0 = [-1, 3], [1.5, -1]; errors [0, -2], [-1, 1]
    assert squared.tolist() == [2.0, 1.0]
    assert float(loss) == 1.5
