"""Antialiased bicubic resampling, as MATLAB's `imresize`, of whole images or of any window of the result.

The field's "bicubic" is MATLAB's: cubic kernel with a = -0.5, widened by the factor when shrinking, weights that sum
to one, symmetric padding. torch's own `interpolate(antialias=True)` renormalises at the border instead and differs
there by up to 0.06. Every output row and column is a short weighted sum of input rows and columns, so a window of the
result is computed by `resize_window` without ever making the rest.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["axis_weights", "resize", "resize_window"]


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -0.5 (Keys 1981, eq. 15), zero outside [-2, 2]."""
    a = x.abs()
    inner = (1.5 * a - 2.5) * a * a + 1.0
    outer = ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0
    return torch.where(a <= 1, inner, torch.where(a < 2, outer, torch.zeros_like(a)))


@lru_cache(maxsize=64)
def axis_weights(in_size: int, out_size: int) -> tuple[Tensor, Tensor]:
    """Weights and source indices of every output sample along one axis.

    Returns:
        weights (out_size, taps) float32, rows sum to 1; indices (out_size, taps) int64 in [0, in_size), symmetric
        reflection already applied. Both are cached: treat them as read-only.
    """
    scale = out_size / in_size
    stretch = min(scale, 1.0)  # shrinking widens the kernel, enlarging does not
    support = 4.0 / stretch
    centre = (torch.arange(out_size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - support / 2 + 0.5)
    taps = int(support + 2)
    position = first[:, None] + torch.arange(taps, dtype=torch.float64)[None, :]
    weights = _cubic((centre[:, None] - position) * stretch) * stretch
    weights = weights / weights.sum(dim=1, keepdim=True)
    keep = (weights.abs() > 0).any(dim=0)
    position, weights = position[:, keep].long(), weights[:, keep]
    period = 2 * in_size
    folded = position.remainder(period)
    indices = torch.where(folded < in_size, folded, period - 1 - folded)
    return weights.float().contiguous(), indices.contiguous()


def _apply_axis(image: Tensor, weights: Tensor, indices: Tensor, dim: int) -> Tensor:
    """Weighted sum of gathered slices along `dim`; a loop over the few taps keeps memory at one output."""
    shape = [1] * image.dim()
    shape[dim] = -1
    out: Tensor | None = None
    for tap in range(weights.shape[1]):
        part = image.index_select(dim, indices[:, tap]) * weights[:, tap].view(shape)
        out = part if out is None else out.add_(part)
    assert out is not None, "a kernel has at least one tap"
    return out


def resize_window(image: Tensor, size: tuple[int, int], rows: slice, cols: slice) -> Tensor:
    """Compute rows and columns of the resized image only; equal to `resize(image, size)[..., rows, cols]`.

    Args:
        image: (..., H, W) float32.
        size: (height, width) of the whole result.
        rows, cols: window of the result, with start and stop set.

    Returns:
        (..., rows, cols) float32, not clamped: the cubic kernel overshoots at edges.
    """
    in_height, in_width = image.shape[-2:]
    row_weights, row_indices = axis_weights(in_height, size[0])
    col_weights, col_indices = axis_weights(in_width, size[1])
    row_weights, row_indices = row_weights[rows].to(image.device), row_indices[rows].to(image.device)
    col_weights, col_indices = col_weights[cols].to(image.device), col_indices[cols].to(image.device)
    top, bottom = int(row_indices.min()), int(row_indices.max()) + 1
    left, right = int(col_indices.min()), int(col_indices.max()) + 1
    crop = image[..., top:bottom, left:right]
    crop = _apply_axis(crop, row_weights, row_indices - top, -2)
    return _apply_axis(crop, col_weights, col_indices - left, -1)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to `size` = (height, width) with MATLAB's antialiased bicubic.

    Args:
        image: (..., H, W) float32, any range.

    Returns:
        (..., height, width) float32, not clamped. A copy when the size is unchanged.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image.clone()
    return resize_window(image, size, slice(0, size[0]), slice(0, size[1]))
