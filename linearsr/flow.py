"""Rectified flow: the one place where its formulas stand. Training and sampling take all of them from here.

    x_t = (1 - t) x0 + t eps        t = 1 is pure noise, t = 0 is the clean latent
    v   = dx_t / dt = eps - x0      a solver step is x + (t_next - t) v with t_next < t
    log_snr(t) = 2 ln((1 - t) / t)  natural log of the power ratio, for unit-variance data

Times are float32 (bfloat16 rounds 0.9985 to 1) and broadcast from (B,) over latents (B, C, H, W).

Source: Esser et al., arXiv:2403.03206, section 2; Liu et al., arXiv:2209.03003, eq. 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from linearsr.errors import ShapeError

__all__ = [
    "T_EPS",
    "add_noise",
    "eps_from_v",
    "log_snr",
    "precondition",
    "shift_t",
    "t_from_log_snr",
    "v_from_x0",
    "velocity_target",
    "x0_from_v",
]

T_EPS = 1e-6
"""Closest a time may come to 0 or 1 inside `log_snr`, where the ratio would be infinite."""


def _over_latent(t: Tensor, x: Tensor) -> Tensor:
    """View times (B,) as (B, 1, 1, 1) in float32."""
    if t.dim() != 1 or t.shape[0] != x.shape[0]:
        raise ShapeError(f"t has shape {tuple(t.shape)}, expected ({x.shape[0]},) for a latent of {tuple(x.shape)}")
    return t.float().view(-1, *([1] * (x.dim() - 1)))


def add_noise(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Interpolate between clean latent and noise: x_t = (1 - t) x0 + t eps.

    Args:
        x0: (B, C, H, W) clean latent.
        eps: standard normal noise, as x0.
        t: (B,) in [0, 1].
    """
    t = _over_latent(t, x0)
    return (1.0 - t) * x0 + t * eps


def velocity_target(x0: Tensor, eps: Tensor) -> Tensor:
    """Velocity of the straight path, eps - x0."""
    return eps - x0


def x0_from_v(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Recover the clean latent from a velocity: x_t - t v. Exact at t = 0."""
    return x_t - _over_latent(t, x_t) * v


def eps_from_v(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Recover the noise from a velocity: x_t + (1 - t) v. Exact at t = 1."""
    return x_t + (1.0 - _over_latent(t, x_t)) * v


def v_from_x0(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """Turn a prediction of the clean latent into a velocity: (x_t - x0) / t. Undefined at t = 0.

    Raises:
        ValueError: a time is 0; no solver may evaluate the network there.
    """
    if bool((t <= 0).any()):
        raise ValueError(f"velocity from x0 is undefined at t = {float(t.min()):g}, expected t > 0")
    return (x_t - x0) / _over_latent(t, x_t)


def precondition(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scalings (c_in, c_skip, c_out) that let a network F see and give unit variance at every t.

    x0_hat = c_skip x_t + c_out F(c_in x_t), where c_skip x_t is the best linear guess for unit-variance data. At t = 1
    c_skip is 0 and c_out 1; towards t = 0 the state passes through and the network only corrects it, so its capacity
    does not go into copying.

    Source: Karras et al., arXiv:2206.00364, table 1, rewritten for x_t = (1 - t) x0 + t eps and sigma_data = 1.
    """
    variance = (1.0 - t).square() + t.square()
    return variance.rsqrt(), (1.0 - t) / variance, t * variance.rsqrt()


def log_snr(t: Tensor | float) -> Tensor:
    """Natural log of the power signal-to-noise ratio, 2 ln((1 - t) / t); t is clamped by `T_EPS` here and only here."""
    clamped = torch.as_tensor(t, dtype=torch.float64).clamp(T_EPS, 1.0 - T_EPS)
    return 2.0 * (torch.log1p(-clamped) - torch.log(clamped))


def t_from_log_snr(value: Tensor | float) -> Tensor:
    """Inverse of `log_snr`: t = 1 / (1 + exp(log_snr / 2))."""
    return torch.sigmoid(-0.5 * torch.as_tensor(value, dtype=torch.float64))


def shift_t(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: s t / (1 + (s - 1) t); adds -2 ln s to every log-SNR. Ends stay at 0 and 1.

    Source: arXiv:2403.03206, eq. 23.
    """
    if not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"shift is {shift}, expected a positive number")
    return shift * t / (1.0 + (shift - 1.0) * t)
