"""How close a result is to a picture in decibels: PSNR to the original, and to the input it was made from."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from linearsr.errors import ShapeError
from linearsr.metrics.planes import YRange, crop_pair, planes, quantise
from linearsr.metrics.strips import mean_by_strips
from linearsr.resize import resize

__all__ = ["lr_psnr", "psnr"]


def psnr(a: Tensor, b: Tensor, *, border: int = 0, luma_only: bool = True, y_range: YRange = "limited") -> float:
    """Peak signal-to-noise ratio in dB, peak 255; identical pictures give infinity.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch the mean of the pictures' dB is returned.
        b: the other picture, same shape.
        border: pixels cut from every side; the benchmarks use the scale.
        luma_only: compare `luma` (the benchmarks' way); else all three channels together.
        y_range: of luma; no other range changes the peak.

    Raises:
        ShapeError: shapes differ or the border leaves nothing.
    """
    first, second = crop_pair(a, b, border)
    read = partial(planes, luma_only=luma_only, y_range=y_range)
    error = mean_by_strips(first, second, lambda x, y: (read(x) - read(y)).square())
    return float((10.0 * torch.log10(255.0**2 / error)).mean())


def lr_psnr(sr: Tensor, lr: Tensor) -> float:
    """Consistency with the input in dB: PSNR over RGB of the result, shrunk back and rounded to 8 bits, to the input.

    Args:
        sr: (3, H, W) in [0, 1], the result.
        lr: (3, h, w) in [0, 1], the input. Infinity means that the result shrinks to exactly this.

    Raises:
        ShapeError: one of them is no colour picture, or the result is smaller than the input.

    Source: the consistency of the challenge on learning the super-resolution space, Lugmayr et al., NTIRE 2021,
        section 3.2: bicubic shrinking by MATLAB's `imresize`.
    """
    wrong = sr.dim() != 3 or lr.dim() != 3 or sr.shape[0] != 3 or lr.shape[0] != 3
    if wrong or any(large < small for large, small in zip(sr.shape[1:], lr.shape[1:], strict=True)):
        raise ShapeError(
            f"result is {tuple(sr.shape)} and input {tuple(lr.shape)}; expected (3, H, W) and a smaller (3, h, w)",
            hint="check that the inputs belong to these results",
        )
    height, width = lr.shape[1:]
    return psnr(quantise(resize(sr.float(), (height, width))), lr.to(sr.device).float(), luma_only=False)
