"""Metrics in strips of rows: little memory however large the pictures, and buffers small enough to be used again.

A filter of n taps over windows that lie wholly inside a picture makes n - 1 rows fewer of it. Strips that share n - 1
rows have every window once, so that all of them together give what the picture gives in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STRIP_PX", "SUM_PX", "halved", "map_by_strips", "mean_by_strips"]

STRIP_PX = 2**16
"""Pixels of a strip, over the pictures of a batch, at least two rows. The buffers of a larger one are given back to the
system after every use, and new pages take longer than the arithmetic."""
SUM_PX = 2**20
"""Pixels whose values are summed at once: a picture up to this size has the same sum whatever its strips are."""


def map_by_strips(x: Tensor, y: Tensor, measure: Callable[[Tensor, Tensor], Tensor], *, shared: int = 0) -> Tensor:
    """What `measure` makes of two pictures, from strip to strip.

    Args:
        x: (B, C, H, W) with more rows than `shared`.
        y: the other picture, same shape.
        measure: of two strips (B, C, h, W) the values (B, D, h - shared, V).
        shared: rows that a strip has in common with the next.

    Returns:
        (B, D, H - shared, V).
    """
    return torch.cat([measure(x[..., rows, :], y[..., rows, :]) for rows in _rows(x, STRIP_PX, shared)], dim=-2)


def mean_by_strips(x: Tensor, y: Tensor, measure: Callable[[Tensor, Tensor], Tensor], *, shared: int = 0) -> Tensor:
    """Mean of each picture's values in `map_by_strips`, which takes the same arguments, without keeping them all.

    Returns:
        (B,) float64.
    """
    total, count = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device), 0
    for rows in _rows(x, SUM_PX, shared):
        values = map_by_strips(x[..., rows, :], y[..., rows, :], measure, shared=shared)
        total, count = total + values.sum(dim=(1, 2, 3)), count + values[0].numel()
    return total / count


def halved(x: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """Means of 2x2 pixels of the planes that `read` makes of a picture.

    Args:
        x: (B, C, H, W).
        read: of a strip (B, C, h, W), where h is even but at the bottom of an odd H, planes with even sides.

    Returns:
        (B, planes, rows / 2, columns / 2).
    """
    means = (F.avg_pool2d(read(x[..., rows, :]), 2) for rows in _rows(x, STRIP_PX))
    first = next(means)
    # `torch.cat` would hold everything twice; sums follow the order in memory, so it stays that of the pieces
    order = sorted(range(4), key=first.stride, reverse=True)
    shape = (*first.shape[:2], (x.shape[-2] + 1) // 2, first.shape[-1])
    out, top = torch.empty_permuted(shape, order, dtype=first.dtype, device=first.device), 0
    for piece in chain((first,), means):
        out[..., top : top + piece.shape[-2], :] = piece
        top += piece.shape[-2]
    return out


def _rows(x: Tensor, pixels: int, shared: int = 0) -> Iterator[slice]:
    """Rows of each strip of about so many pixels: an even number, the shared ones not counted, but at the bottom."""
    batch, _, height, width = x.shape
    step = max(1, pixels // (2 * batch * width)) * 2
    for top in range(0, height - shared, step):
        yield slice(top, min(top + step + shared, height))
