"""The formulas of the flow: round trips, ends, published values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.errors import ShapeError
from linearsr.flow import (
    T_EPS,
    add_noise,
    eps_from_v,
    log_snr,
    precondition,
    shift_t,
    t_from_log_snr,
    v_from_x0,
    velocity_target,
    x0_from_v,
)


def _draw(batch: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = (batch, 3, 4, 5)
    return torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64), torch.rand(batch)


def test_x0_and_eps_come_back_from_the_velocity_in_float64() -> None:
    x0, eps, t = _draw()
    x_t, v = add_noise(x0, eps, t), velocity_target(x0, eps)
    assert x_t.dtype == torch.float64
    assert (x0_from_v(x_t, v, t) - x0).abs().max() < 1e-14
    assert (eps_from_v(x_t, v, t) - eps).abs().max() < 1e-14
    assert (v_from_x0(x_t, x0, t) - v).abs().max() < 1e-12


def test_add_noise_is_exact_at_both_ends() -> None:
    x0, eps, _ = _draw(2)
    x_t = add_noise(x0, eps, torch.tensor([0.0, 1.0]))
    assert torch.equal(x_t[0], x0[0])
    assert torch.equal(x_t[1], eps[1])


def test_ends_give_back_the_latent_and_the_noise_themselves() -> None:
    x0, eps, _ = _draw(1)
    v = velocity_target(x0, eps)
    assert torch.equal(x0_from_v(x0, v, torch.zeros(1)), x0)
    assert torch.equal(eps_from_v(eps, v, torch.ones(1)), eps)
    assert torch.equal(v_from_x0(eps, x0, torch.ones(1)), v)


def test_velocity_is_the_derivative_of_the_path() -> None:
    x0, eps, t = _draw()
    t = 0.25 + 0.5 * t
    difference = add_noise(x0, eps, t + 2**-9) - add_noise(x0, eps, t - 2**-9)
    width = ((t + 2**-9) - (t - 2**-9)).double().view(-1, 1, 1, 1)
    assert (difference / width - velocity_target(x0, eps)).abs().max() < 1e-9


def test_v_from_x0_refuses_t_zero() -> None:
    x0, eps, _ = _draw(2)
    with pytest.raises(ValueError, match="t = 0"):
        v_from_x0(eps, x0, torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize("t", [torch.tensor(0.5), torch.rand(3), torch.rand(2, 1)])
def test_times_of_another_shape_are_refused(t: torch.Tensor) -> None:
    x0, eps, _ = _draw(2)
    with pytest.raises(ShapeError, match=r"expected \(2,\)"):
        add_noise(x0, eps, t)


@pytest.mark.parametrize(
    ("t", "expected"), [(0.5, 0.0), (0.223, 2.4965), (0.875, -3.8918), (0.939, -5.4679), (0.01163, 8.885)]
)
def test_log_snr_has_the_published_values(t: float, expected: float) -> None:
    assert float(log_snr(t)) == pytest.approx(expected, abs=5e-4)
    assert math.exp(float(log_snr(t))) == pytest.approx(((1 - t) / t) ** 2, rel=1e-12)


def test_log_snr_is_clamped_at_both_ends() -> None:
    end = 2 * math.log((1 - T_EPS) / T_EPS)
    assert log_snr(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([end, -end], abs=1e-9)


@given(st.floats(1e-5, 1 - 1e-5))
def test_t_comes_back_from_its_log_snr(t: float) -> None:
    assert float(t_from_log_snr(log_snr(t))) == pytest.approx(t, rel=1e-10)


@given(st.floats(-20, 20))
def test_log_snr_comes_back_from_its_time(value: float) -> None:
    assert float(log_snr(t_from_log_snr(value))) == pytest.approx(value, abs=1e-6)


@given(st.floats(1e-3, 1 - 1e-3), st.floats(0.2, 5))
def test_shift_translates_the_log_snr(t: float, shift: float) -> None:
    shifted = shift_t(torch.tensor(t, dtype=torch.float64), shift)
    assert float(log_snr(shifted)) == pytest.approx(float(log_snr(t)) - 2 * math.log(shift), abs=1e-8)


def test_shift_keeps_the_ends_and_one_is_no_shift() -> None:
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    assert shift_t(t, 3.0).tolist() == pytest.approx([0.0, 0.9 / 1.6, 1.0], abs=1e-15)
    assert torch.equal(shift_t(t, 1.0), t)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_shift_refuses_what_is_no_positive_number(shift: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        shift_t(torch.rand(3), shift)


def test_precondition_scales_the_state_to_unit_variance_and_subtracts_its_best_guess() -> None:
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    c_in, c_skip, c_out = precondition(t)
    variance = (1 - t) ** 2 + t**2  # of x_t for unit-variance data
    assert torch.allclose(c_in**2 * variance, torch.ones_like(t))
    assert torch.allclose(c_skip * variance, 1 - t), "covariance of x0 and x_t"
    left = 1 - 2 * c_skip * (1 - t) + c_skip**2 * variance  # variance of x0 - c_skip x_t
    assert torch.allclose(c_out**2, left, atol=1e-12), "the network's target has unit variance"
    assert [float(c[-1]) for c in (c_in, c_skip, c_out)] == [1.0, 0.0, 1.0]
    assert [float(c[0]) for c in (c_in, c_skip, c_out)] == [1.0, 1.0, 0.0]
