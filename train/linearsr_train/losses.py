"""Draws of t and the loss of either prediction. Pure functions.

A network that predicts x0 has its loss in x0 space with a bounded weight: in v space it would be the x0 error over t^2,
which blows up at small t. At t = 1 the error is absolute, which learns sharp edges faster; below it is Huber's, squared
up to one standard deviation of the latent: only the mean of the posterior, not its median, gives the velocity field
that a solver may integrate, and the linear tail keeps a few heavily degraded crops from outweighing the batch.

A network that predicts v, as SANA does, has the plain mean squared error of the velocity, every time weighed alike: its
target has bounded variance at all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.flow import velocity_target
from linearsr_train.config import LossConfig

__all__ = ["draw_times", "perceptual_term", "velocity_loss", "x0_loss"]


def draw_times(
    batch_size: int, config: LossConfig, generator: torch.Generator, interval: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Times of a batch: a fixed share exactly 1, the others logit-normal, truncated to an interval.

    The truncation is by inverse CDF: u uniform between the normal CDF's values at both ends, then t = sigmoid of the
    normal quantile of u. An interval that does not reach 1 has no share at exactly 1. A shift s of the times adds ln s
    to their logit (`flow.shift_t`), so shifted draws are logit-normal about another mean, and the interval is one of
    shifted times: those that the network is told.

    Args:
        batch_size: B.
        config: shares, mean and deviation of logit(t), shift.
        generator: advanced by the draws.
        interval: (low, high) with 0 <= low < high <= 1.

    Returns:
        (B,) float32 in (0, 1]; the first ones are 1.

    Source: Esser et al., arXiv:2403.03206, section 3.1 (logit-normal); the experts' intervals arXiv:2510.08771.
    """
    low, high = interval
    num_one = round(batch_size * config.t_one_probability) if high >= 1.0 else 0
    ends = torch.tensor([low, high], dtype=torch.float64).clamp(1e-3, 0.999)
    mean = config.t_logit_mean + math.log(config.t_shift)
    a, b = torch.special.ndtr((torch.logit(ends) - mean) / config.t_logit_std).tolist()
    u = torch.rand(batch_size - num_one, generator=generator, dtype=torch.float64)
    normal = torch.special.ndtri(a + (b - a) * u)
    t = torch.sigmoid(mean + config.t_logit_std * normal).float()
    return torch.cat([torch.ones(num_one), t.clamp(float(ends[0]), float(ends[1]))])


def x0_loss(x0_hat: Tensor, x0: Tensor, t: Tensor, max_weight: float) -> tuple[Tensor, Tensor]:
    """Mean weighted error of the predicted clean latent.

    Args:
        x0_hat, x0: (B, C, H, W) float32.
        t: (B,).
        max_weight: bound of the 1 / t^2 weight.

    Returns:
        Scalar loss, and the (B,) unweighted squared errors for the log.
    """
    error = x0_hat - x0
    squared = error.square().mean(dim=(1, 2, 3))  # (B,)
    absolute = error.abs().mean(dim=(1, 2, 3))  # (B,)
    huber = F.huber_loss(x0_hat, x0, reduction="none").mean(dim=(1, 2, 3))  # (B,)
    weight = (1.0 / t.square()).clamp(max=max_weight)
    per_sample = torch.where(t >= 1.0, absolute, weight * huber)
    return per_sample.mean(), squared.detach()


def velocity_loss(v_hat: Tensor, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the predicted velocity, without a weight.

    Args:
        v_hat, x0, eps: (B, C, H, W) float32.

    Returns:
        Scalar loss, and the (B,) squared errors for the log.

    Source: SANA, arXiv:2410.10629 (flow velocity prediction); the drawn times are the only weight, as in Esser et al.,
        arXiv:2403.03206, section 3.1.
    """
    squared = (v_hat - velocity_target(x0, eps)).square().mean(dim=(1, 2, 3))  # (B,)
    return squared.mean(), squared.detach()


def perceptual_term(distance: Callable[[Tensor, Tensor], Tensor], sr: Tensor, hr: Tensor, t: Tensor) -> Tensor:
    """Perceptual distance of the predicted pictures, those at exactly t = 1 counted as zero; mean over the batch.

    One step from t = 1 is to stay the posterior mean, which no picture that looks real is. The sum is divided by the
    whole batch, so that parts of a batch weigh alike whatever times they hold.

    Args:
        distance: such as `linearsr.metrics.Lpips.distance`, (B, 3, H, W) twice -> (B,).
        sr, hr: (B, 3, H, W); sr as decoded, with gradient.
        t: (B,).

    Returns:
        Scalar; zero where no sample is below 1.
    """
    below = t < 1.0
    if not bool(below.any()):
        return sr.new_zeros(())
    return distance(sr[below].clamp(0.0, 1.0), hr[below]).sum() / sr.shape[0]
