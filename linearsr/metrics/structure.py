"""Structural similarity of two pictures, at one scale (SSIM) and at five (MS-SSIM)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.metrics.planes import YRange, crop_pair, mod_crop, planes
from linearsr.metrics.strips import halved, mean_by_strips

__all__ = ["MS_SSIM_MIN_PX", "ms_ssim", "ssim"]

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_MIN_PX = _WINDOW * 2 ** (len(_SCALE_WEIGHTS) - 1)
"""Smallest side of a picture that leaves one whole window at the last scale."""


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter of (B, C, H, W) by one 1-D kernel, valid positions only."""
    channels, taps = x.shape[1], kernel.numel()
    x = F.conv2d(x, kernel.view(1, 1, taps, 1).expand(channels, 1, taps, 1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, 1, taps).expand(channels, 1, 1, taps), groups=channels)


def _map(x: Tensor, y: Tensor, has_luminance: bool) -> Tensor:
    """SSIM, or its factor of contrast and structure alone, at every valid window of (B, C, H, W) planes."""
    offset = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    kernel = torch.exp(-offset.square() / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    var_x = _blur(x * x, kernel) - mean_x * mean_x
    var_y = _blur(y * y, kernel) - mean_y * mean_y
    covariance = _blur(x * y, kernel) - mean_x * mean_y
    numerator, denominator = 2 * covariance + _C2, var_x + var_y + _C2
    if has_luminance:
        numerator = (2 * mean_x * mean_y + _C1) * numerator
        denominator = (mean_x * mean_x + mean_y * mean_y + _C1) * denominator
    return numerator / denominator


def _means(x: Tensor, y: Tensor, read: Callable[[Tensor], Tensor], *, has_luminance: bool = True) -> Tensor:
    """(B,) means of `_map` over the windows and channels of the planes that `read` makes of both."""
    return mean_by_strips(x, y, lambda a, b: _map(read(a), read(b), has_luminance), shared=_WINDOW - 1)


def ssim(a: Tensor, b: Tensor, *, border: int = 0, luma_only: bool = True, y_range: YRange = "limited") -> float:
    """Mean structural similarity, 1 for identical pictures.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch, and of the channels, the mean is returned.
        b: the other picture, same shape.
        border: pixels cut from every side; the benchmarks use the scale.
        luma_only: compare `luma` (the benchmarks' way); else the mean over R, G and B.
        y_range: of luma; no other range changes the constants.

    Raises:
        ShapeError: shapes differ or fewer than 11 pixels are left on a side.

    Source: Wang et al. 2004, eq. 13; 11x11 Gaussian window, sigma 1.5, valid windows, constants for range 255.
    """
    first, second = crop_pair(a, b, border, minimum=_WINDOW)
    read = partial(planes, luma_only=luma_only, y_range=y_range)
    return float(_means(first, second, read).mean())


def ms_ssim(a: Tensor, b: Tensor, *, border: int = 0, luma_only: bool = True, y_range: YRange = "limited") -> float:
    """Structural similarity over five scales, 1 for identical pictures.

    The contrast and structure of the first four scales and the whole SSIM of the last, each averaged over its windows
    and channels, are multiplied with the paper's exponents; between scales 2x2 pixels become their mean, an odd last
    row or column is left out. An average below zero, which no power is defined for, counts as zero.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch the mean of the pictures' values is returned.
        b: the other picture, same shape.
        border, luma_only, y_range: as in `ssim`.

    Raises:
        ShapeError: shapes differ or fewer than `MS_SSIM_MIN_PX` (176) pixels are left on a side.

    Source: Wang, Simoncelli and Bovik, "Multi-scale structural similarity", Asilomar 2003, eq. 7 and section 3.2.
    """
    x, y = crop_pair(a, b, border, minimum=MS_SSIM_MIN_PX)
    read: Callable[[Tensor], Tensor] = partial(planes, luma_only=luma_only, y_range=y_range)
    product = torch.ones(x.shape[0], dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale:
            x, y = (halved(mod_crop(z, 2), read) for z in (x, y))
            read = Tensor.double  # planes by now
        means = _means(x, y, read, has_luminance=scale == len(_SCALE_WEIGHTS) - 1)
        product = product * means.clamp(min=0) ** weight
    return float(product.mean())
