"""Draws of t and the x0 loss. Pure functions.

The loss lives in x0 space with a bounded weight: in v space it would be the x0 error over t^2, which blows up at small
t. At t = 1 the error is absolute, which learns sharp edges faster; below it is Huber's, squared up to one standard
deviation of the latent: only the mean of the posterior, not its median, gives the velocity field that a solver may
integrate, and the linear tail keeps a few heavily degraded crops from outweighing the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr_train.config import LossConfig

__all__ = ["draw_times", "x0_loss"]


def draw_times(batch_size: int, config: LossConfig, generator: torch.Generator) -> Tensor:
    """Times of a batch: a fixed share exactly 1, the others logit-normal.

    Returns:
        (B,) float32 in (0, 1]; the first ones are 1.
    """
    num_one = round(batch_size * config.t_one_probability)
    normal = torch.randn(batch_size - num_one, generator=generator)
    t = torch.sigmoid(config.t_logit_mean + config.t_logit_std * normal)
    return torch.cat([torch.ones(num_one), t.clamp(1e-3, 0.999)])


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
