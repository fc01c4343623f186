"""GMSD: how evenly the gradients of two pictures agree. Needs no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.metrics.planes import crop_pair
from linearsr.metrics.strips import halved, map_by_strips

__all__ = ["gmsd"]

_GREY = (0.2989, 0.5870, 0.1140)
_C = 170.0


def _grey(x: Tensor) -> Tensor:
    """float64 grey on the 0..255 scale of (B, 3, H, W), with zeros to even sides, as the authors' program has it."""
    weights = torch.tensor(_GREY, dtype=torch.float64, device=x.device).view(3, 1, 1)
    grey = x.to(torch.float64, copy=True).mul_(255.0).mul_(weights).sum(dim=1, keepdim=True)
    return F.pad(grey, (0, grey.shape[-1] % 2, 0, grey.shape[-2] % 2))


def _gradient_magnitude(grey: Tensor) -> Tensor:
    """Prewitt gradient magnitude of (B, 1, H, W) at all pixels but those of the edge."""
    column = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=grey.dtype, device=grey.device) / 3.0
    kernels = torch.stack((column, column.t()))[:, None]  # (2, 1, 3, 3)
    return F.conv2d(grey, kernels).square().sum(dim=1, keepdim=True).sqrt()


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """How near the gradients of two grey pictures are at each pixel, 1 where they are equal."""
    of_x, of_y = _gradient_magnitude(x), _gradient_magnitude(y)
    return (2 * of_x * of_y + _C) / (of_x.square() + of_y.square() + _C)


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
    # gradients at the edge take zeros beyond it, as in the authors' program
    first, second = (F.pad(halved(x, _grey), (1, 1, 1, 1)) for x in crop_pair(a, b, minimum=4))
    similarity = map_by_strips(first, second, _similarity, shared=2)
    return float(similarity.flatten(1).std(dim=1, unbiased=True).mean())
