"""What every metric does to pictures first: check the pair, cut the border, round to 8 bits, take luma.

A picture is RGB, sRGB encoded, float in [0, 1], as (3, H, W) or (B, 3, H, W).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from linearsr.errors import ConfigError, ShapeError

__all__ = ["YRange", "crop_pair", "luma", "mod_crop", "planes", "quantise"]

YRange = Literal["limited", "full"]
_LUMA = {"limited": ((65.481, 128.553, 24.966), 16.0), "full": ((76.245, 149.685, 29.07), 0.0)}


def crop_pair(a: Tensor, b: Tensor, border: int = 0, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Check two pictures and return both as (B, 3, H, W) with `border` pixels cut from every side.

    Raises:
        ShapeError: shapes differ, or fewer than `minimum` pixels are left on a side.
    """
    if a.shape != b.shape or a.dim() not in (3, 4) or a.shape[-3] != 3:
        raise ShapeError(
            f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; expected two equal (3, H, W) or (B, 3, H, W)",
            hint="crop or resize one of the two first",
        )
    height, width = a.shape[-2] - 2 * border, a.shape[-1] - 2 * border
    if border < 0 or min(height, width) < minimum:
        raise ShapeError(
            f"{a.shape[-2]}x{a.shape[-1]} pixels with border {border} leave {height}x{width}; "
            f"expected at least {minimum}x{minimum}",
            hint="use a larger picture or a smaller border",
        )
    window = (..., slice(border, border + height), slice(border, border + width))
    first, second = a[window], b[window]
    return (first[None], second[None]) if a.dim() == 3 else (first, second)


def quantise(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the nearest of the 256 8-bit values; dtype and shape kept."""
    return x.clamp(0, 1).mul(255).round().div(255)


def luma(x: Tensor, *, y_range: YRange = "limited") -> Tensor:
    """BT.601 luma, not rounded.

    Args:
        x: (3, H, W) or (B, 3, H, W) RGB in [0, 1].
        y_range: `limited` is 16 for black and 235 for white, as MATLAB's rgb2ycbcr; `full` is 0 and 255.

    Returns:
        (1, H, W) or (B, 1, H, W), dtype of x.

    Raises:
        ShapeError: not a colour picture.
        ConfigError: another range.

    Source: ITU-R BT.601, 2.5.1 and 2.5.3.
    """
    if x.dim() not in (3, 4) or x.shape[-3] != 3:
        raise ShapeError(f"picture is {tuple(x.shape)}; expected (3, H, W) or (B, 3, H, W)")
    if y_range not in _LUMA:
        raise ConfigError(f"range of luma is {y_range!r}; expected limited or full")
    factors, black = _LUMA[y_range]
    weights = torch.tensor(factors, dtype=x.dtype, device=x.device).view(3, 1, 1)
    return (x * weights).sum(dim=-3, keepdim=True) + black


def planes(x: Tensor, luma_only: bool, y_range: YRange = "limited") -> Tensor:
    """float64 planes on the 0..255 scale: luma (B, 1, H, W) or RGB (B, 3, H, W)."""
    return luma(x.double(), y_range=y_range) if luma_only else x.double() * 255.0


def mod_crop(x: Tensor, multiple: int) -> Tensor:
    """Cut rows at the bottom and columns at the right until both sides divide by `multiple`; a view of x.

    Raises:
        ShapeError: a side is smaller than `multiple`, or `multiple` is below 1.
    """
    height, width = x.shape[-2:]
    if multiple < 1 or min(height, width) < multiple:
        raise ShapeError(f"cannot crop {height}x{width} to a multiple of {multiple}; expected sides of at least that")
    return x[..., : height - height % multiple, : width - width % multiple]
