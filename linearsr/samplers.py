"""Solvers of dx/dt = v(x, t) from noise (t = 1) to the clean latent (t = 0).

All share one signature, `(v_fn, x, ts, *, callback=None)`, and know no model: `v_fn(x, t)` takes the state and a
float time and gives the velocity. The state stays float32, whatever precision the network runs in. No sampler here
draws noise, so none needs a generator; `v_fn` is never called at t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from linearsr.errors import ConfigError

__all__ = ["SAMPLERS", "Sampler", "VelocityFn", "sample_dpmpp_2m", "sample_euler", "sample_heun"]

VelocityFn = Callable[[Tensor, float], Tensor]
StepCallback = Callable[[int, float, Tensor], None]


class Sampler(Protocol):
    """What every solver looks like."""

    def __call__(self, v_fn: VelocityFn, x: Tensor, ts: Tensor, *, callback: StepCallback | None = None) -> Tensor:
        """Integrate from ts[0] to ts[-1] and return the final state."""


def _grid(ts: Tensor) -> list[float]:
    times = [float(t) for t in ts]
    falling = all(b < a for a, b in zip(times, times[1:], strict=False))  # False for NaN as well
    if len(times) < 2 or not falling or times[-1] < 0 or times[0] > 1:
        raise ConfigError(f"time grid is {times}, expected at least two falling times in [0, 1]")
    return times


def sample_euler(v_fn: VelocityFn, x: Tensor, ts: Tensor, *, callback: StepCallback | None = None) -> Tensor:
    """First order; one evaluation a step. Exact where the path is straight.

    Args:
        v_fn: (x, t) -> velocity, as x.
        x: (B, C, H, W) float32 state at ts[0].
        ts: (steps + 1,) falling times.
        callback: called after each step with (index, time reached, state).
    """
    times = _grid(ts)
    for index, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        x = x + (t_next - t) * v_fn(x, t)
        if callback is not None:
            callback(index, t_next, x)
    return x


def sample_heun(v_fn: VelocityFn, x: Tensor, ts: Tensor, *, callback: StepCallback | None = None) -> Tensor:
    """Second order; two evaluations a step but one for the last, which is Euler as v is undefined at t = 0."""
    times = _grid(ts)
    for index, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        v = v_fn(x, t)
        x_next = x + (t_next - t) * v
        if t_next > 0:
            x_next = x + (t_next - t) * 0.5 * (v + v_fn(x_next, t_next))
        x = x_next
        if callback is not None:
            callback(index, t_next, x)
    return x


def _half_log_snr(t: float) -> float:
    """ln((1 - t) / t), the solver's own time, with its infinite ends."""
    if t <= 0.0:
        return math.inf
    return -math.inf if t >= 1.0 else math.log1p(-t) - math.log(t)


def sample_dpmpp_2m(v_fn: VelocityFn, x: Tensor, ts: Tensor, *, callback: StepCallback | None = None) -> Tensor:
    """DPM-Solver++ 2M in its flow form; one evaluation a step, second order from the second step on.

    The last step is first order, as in diffusers' `lower_order_final`. Starting at t = 1, where the log-SNR is
    infinite, the first step and the history over it reduce to first order.

    Source: Lu et al., arXiv:2211.01095, algorithm 2; flow sigmas as in diffusers' DPMSolverMultistepScheduler.
    """
    times = _grid(ts)
    x0_hat_before: Tensor | None = None
    h_before = math.inf
    for index, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        x0_hat = x - t * v_fn(x, t)
        h = _half_log_snr(t_next) - _half_log_snr(t)
        gain = -(1.0 - t_next) * math.expm1(-h)
        x = (t_next / t) * x + gain * x0_hat
        if x0_hat_before is not None and math.isfinite(h_before) and index < len(times) - 2:
            x = x + (0.5 * gain * h / h_before) * (x0_hat - x0_hat_before)
        x0_hat_before, h_before = x0_hat, h
        if callback is not None:
            callback(index, t_next, x)
    return x


SAMPLERS: dict[str, Sampler] = {"euler": sample_euler, "heun": sample_heun, "dpmpp_2m": sample_dpmpp_2m}
"""Name in a checkpoint's config -> solver."""
