"""Solvers on equations with known solutions: exactness, order of convergence, ends, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.samplers import SAMPLERS, Sampler, sample_dpmpp_2m, sample_euler, sample_heun
from linearsr.schedules import compact_grid, dpm_flow_grid

MEAN, STD = 0.7, 0.35


def _variance(t: float) -> float:
    return (1 - t) ** 2 * STD**2 + t**2


def _gaussian_velocity(x: Tensor, t: float) -> Tensor:
    """E[eps - x0 | x_t = x] for data of normal distribution (MEAN, STD)."""
    centred = (x - (1 - t) * MEAN) / _variance(t)
    return t * centred - (MEAN + (1 - t) * STD**2 * centred)


def _gaussian_path(z: Tensor, t: float) -> Tensor:
    """The exact flow: z stays the standardised coordinate."""
    return (1 - t) * MEAN + math.sqrt(_variance(t)) * z


def _error(sampler: Sampler, steps: int, start: float, end: float) -> float:
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    ts = torch.linspace(start, end, steps + 1, dtype=torch.float64)
    return float((sampler(_gaussian_velocity, _gaussian_path(z, start), ts) - _gaussian_path(z, end)).abs().max())


@pytest.mark.parametrize(("sampler", "order"), [(sample_euler, 1), (sample_heun, 2), (sample_dpmpp_2m, 2)])
def test_samplers_converge_at_their_order(sampler: Sampler, order: int) -> None:
    errors = [_error(sampler, steps, 0.9, 0.3) for steps in (40, 80, 160)]
    observed = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert observed == pytest.approx([order, order], abs=0.05), errors


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_converge_from_pure_noise_to_the_data(sampler: Sampler) -> None:
    coarse, fine = _error(sampler, 50, 1.0, 0.0), _error(sampler, 400, 1.0, 0.0)
    assert fine < 4e-3
    assert fine < coarse / 6


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    "ts", [*map(compact_grid, (1, 2, 3, 4, 8, 20)), dpm_flow_grid(20)], ids=[*"123", "4", "8", "20", "dpm20"]
)
def test_samplers_with_a_perfect_velocity_give_the_data(sampler: Sampler, ts: Tensor) -> None:
    x0, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    start = float(ts[0])
    out = sampler(lambda x, t: eps - x0, (1 - start) * x0 + start * eps, ts)
    assert out.dtype == torch.float32
    assert (out - x0).abs().max() < 5e-6


def test_euler_takes_the_steps_done_by_hand() -> None:
    out = sample_euler(lambda x, t: x * t, torch.tensor([2.0]), torch.tensor([1.0, 0.5, 0.0]))
    assert out.item() == pytest.approx(2.0 * (1 - 0.5) * (1 - 0.5 * 0.5))


def test_heun_averages_two_slopes_and_ends_with_euler() -> None:
    out = sample_heun(lambda x, t: torch.full_like(x, t), torch.tensor([0.0]), torch.tensor([1.0, 0.5, 0.0]))
    assert out.item() == pytest.approx(-0.5 * 0.75 - 0.5 * 0.5)


def test_dpmpp_2m_extrapolates_in_half_log_snr() -> None:
    times, x0s = [0.8, 0.6, 0.4, 0.2], {0.8: 1.0, 0.6: 2.0, 0.4: 4.0}
    half = [math.log((1 - t) / t) for t in times]
    ratio = (half[1] - half[0]) / (half[2] - half[1])
    x1 = (0.6 / 0.8) * 3.0 + (0.4 - 0.6 / 0.8 * 0.2) * 1.0
    corrected = 2.0 + (2.0 - 1.0) / (2 * ratio)
    x2 = (0.4 / 0.6) * x1 + (0.6 - 0.4 / 0.6 * 0.4) * corrected
    x3 = (0.2 / 0.4) * x2 + (0.8 - 0.2 / 0.4 * 0.6) * 4.0  # the last step is first order

    def v_fn(x: Tensor, t: float) -> Tensor:
        return (x - x0s[round(t, 6)]) / t

    out = sample_dpmpp_2m(v_fn, torch.tensor([3.0], dtype=torch.float64), torch.tensor(times, dtype=torch.float64))
    assert out.item() == pytest.approx(x3, abs=1e-9)


@pytest.mark.parametrize(("name", "calls"), [("euler", 4), ("heun", 7), ("dpmpp_2m", 4)])
def test_samplers_never_ask_for_the_velocity_at_zero(name: str, calls: int) -> None:
    asked: list[float] = []

    def v_fn(x: Tensor, t: float) -> Tensor:
        asked.append(t)
        return torch.zeros_like(x)

    SAMPLERS[name](v_fn, torch.zeros(1), compact_grid(4))
    assert len(asked) == calls
    assert min(asked) > 0


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_report_each_step_with_the_time_reached(sampler: Sampler) -> None:
    seen: list[tuple[int, float, Tensor]] = []
    out = sampler(_gaussian_velocity, torch.ones(3), compact_grid(4), callback=lambda *step: seen.append(step))
    assert [index for index, _, _ in seen] == [0, 1, 2, 3]
    assert [t for _, t, _ in seen] == pytest.approx([0.9, 0.65, 0.22, 0.0])
    assert torch.equal(seen[-1][2], out)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_leave_the_starting_noise_alone(sampler: Sampler) -> None:
    x = torch.ones(3)
    sampler(_gaussian_velocity, x, compact_grid(4))
    assert torch.equal(x, torch.ones(3))


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize(
    "times", [[1.0], [], [0.0, 1.0], [1.0, 0.5, 0.5], [1.2, 0.0], [1.0, -0.1], [1.0, math.nan, 0.0], [math.nan, 0.0]]
)
def test_samplers_refuse_grids_that_do_not_fall_within_0_and_1(sampler: Sampler, times: list[float]) -> None:
    with pytest.raises(ConfigError, match="falling times"):
        sampler(_gaussian_velocity, torch.zeros(1), torch.tensor(times))
