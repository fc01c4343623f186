"""GMSD: how evenly the gradients of two pictures agree. Needs no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.metrics.planes import crop_pair

__all__ = ["gmsd"]

_GREY = (0.2989, 0.5870, 0.1140)
_C = 170.0


def _gradient_magnitude(grey: Tensor) -> Tensor:
    """Prewitt gradient magnitude of (B, 1, H, W), zeros beyond the edge, as the authors' program."""
    column = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=grey.dtype, device=grey.device) / 3.0
    kernels = torch.stack((column, column.t()))[:, None]  # (2, 1, 3, 3)
    return F.conv2d(grey, kernels, padding=1).square().sum(dim=1, keepdim=True).sqrt()


def gmsd(a: Tensor, b: Tensor) -> float:
    """Gradient magnitude similarity deviation, 0 for identical pictures; needs no weights.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch the mean is returned.
        b: the other picture, same shape.

    Raises:
        ShapeError: shapes differ or a side has fewer than 4 pixels.

    Source: arXiv:1308.3052 eq. 3 to 6 with the authors' constants for the 0..255 scale; the deviation is the sample
        one (divisor n - 1) and an odd last row or column is averaged with zeros, as in their program.
    """
    maps = []
    for x in crop_pair(a, b, minimum=4):
        weights = torch.tensor(_GREY, dtype=torch.float64, device=x.device).view(3, 1, 1)
        grey = (x.double() * 255.0 * weights).sum(dim=1, keepdim=True)
        grey = F.pad(grey, (0, grey.shape[-1] % 2, 0, grey.shape[-2] % 2))
        maps.append(_gradient_magnitude(F.avg_pool2d(grey, 2)))
    similarity = (2 * maps[0] * maps[1] + _C) / (maps[0].square() + maps[1].square() + _C)
    return float(similarity.flatten(1).std(dim=1, unbiased=True).mean())
