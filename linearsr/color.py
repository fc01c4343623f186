"""Colours of the result against the input: what the network must not change, taken back from the upsampled input.

Works on (3, H, W) float32 RGB in [0, 1], sRGB encoded. Both functions are pure and run on the tensors' device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.errors import ConfigError, ShapeError

__all__ = ["COLOR_FIXES", "adain_fix", "apply_color_fix", "wavelet_fix"]

COLOR_FIXES = ("none", "wavelet", "adain")
_LEVELS = 5
_HALO = 2**_LEVELS - 1
"""Pixels that the low-pass reads on each side: 1 + 2 + 4 + 8 + 16."""


def _check(sr: Tensor, reference: Tensor, strength: float) -> None:
    if sr.dim() != 3 or sr.shape[0] != 3 or sr.shape != reference.shape:
        raise ShapeError(
            f"result is {tuple(sr.shape)} and reference {tuple(reference.shape)}, expected both (3, H, W)",
            hint="upsample the input to the size of the result first",
        )
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(
            f"colour fix strength is {strength:g}, expected a number from 0 to 1", hint="use 1 for all of it"
        )


def _low_pass(image: Tensor) -> Tensor:
    """Five dilated passes of [[1, 2, 1], [2, 4, 2], [1, 2, 1]] / 16, replicated at the border; (3, h, w) to the same.

    The kernel is the outer product of [1, 2, 1] / 4 with itself, so each level is two short sums.
    """
    for level in range(_LEVELS):
        step = 2**level
        rows = F.pad(image, (0, 0, step, step), mode="replicate")
        image = 0.25 * rows[:, : -2 * step] + 0.5 * image + 0.25 * rows[:, 2 * step :]
        cols = F.pad(image, (step, step, 0, 0), mode="replicate")
        image = 0.25 * cols[:, :, : -2 * step] + 0.5 * image + 0.25 * cols[:, :, 2 * step :]
    return image


def wavelet_fix(sr: Tensor, reference: Tensor, strength: float = 1.0, block: int = 1024) -> Tensor:
    """Replace the low frequencies of the result by those of the reference.

    Blurring is linear, so high(sr) + low(reference) is sr + low(reference - sr): one low-pass instead of two. It reads
    31 pixels around each pixel; blocks are cut with that margin, so the result does not depend on `block`, and the
    memory beyond input and output is that of one block.

    Args:
        sr: (3, H, W) result in [0, 1].
        reference: (3, H, W) input, upsampled bicubically to the same size.
        strength: 0 gives `sr`, 1 the full fix; linear between.
        block: side of a block in pixels, at least 1.

    Returns:
        (3, H, W), clamped to [0, 1] where the fix applies.

    Raises:
        ShapeError: the shapes differ.
        ConfigError: strength outside [0, 1], or block < 1.

    Source: arXiv:2305.07015 (StableSR), wavelet colour correction.
    """
    _check(sr, reference, strength)
    if block < 1:
        raise ConfigError(f"colour fix block is {block}, expected at least 1 pixel", hint="use 1024")
    if strength == 0.0:
        return sr.clone()
    height, width = sr.shape[1:]
    out = torch.empty_like(sr)
    for top in range(0, height, block):
        bottom = min(top + block, height)
        above, below = max(0, top - _HALO), min(height, bottom + _HALO)
        for left in range(0, width, block):
            right = min(left + block, width)
            before, after = max(0, left - _HALO), min(width, right + _HALO)
            window = (slice(None), slice(above, below), slice(before, after))
            low = _low_pass(reference[window] - sr[window])
            low = low[:, top - above : bottom - above, left - before : right - before]
            part = sr[:, top:bottom, left:right]
            fixed = (part + low).clamp_(0.0, 1.0)
            out[:, top:bottom, left:right] = fixed if strength == 1.0 else torch.lerp(part, fixed, strength)
    return out


def _mean_std(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + 1e-5) of each channel, (3, 1, 1) each; a single pixel has variance 0."""
    pixels = image.shape[1] * image.shape[2]
    variance, mean = torch.var_mean(image, dim=(1, 2), keepdim=True, correction=1 if pixels > 1 else 0)
    return mean, (variance + 1e-5).sqrt()


def adain_fix(sr: Tensor, reference: Tensor, strength: float = 1.0) -> Tensor:
    """Give each channel of the result the mean and standard deviation of the reference.

    Args:
        sr: (3, H, W) result in [0, 1].
        reference: (3, H, W) input, upsampled bicubically to the same size.
        strength: 0 gives `sr`, 1 the full fix; linear between.

    Returns:
        (3, H, W), clamped to [0, 1] where the fix applies.

    Raises:
        ShapeError: the shapes differ.
        ConfigError: strength outside [0, 1].

    Source: arXiv:1703.06868 eq. 8, on pixels instead of features.
    """
    _check(sr, reference, strength)
    if strength == 0.0:
        return sr.clone()
    mean, std = _mean_std(sr)
    target_mean, target_std = _mean_std(reference)
    gain = target_std / std
    fixed = (sr * gain + (target_mean - mean * gain)).clamp_(0.0, 1.0)
    return fixed if strength == 1.0 else torch.lerp(sr, fixed, strength)


def apply_color_fix(name: str, sr: Tensor, reference: Tensor, strength: float = 1.0, block: int = 1024) -> Tensor:
    """Apply the colour fix of that name; "none" gives `sr` itself, not a copy.

    Raises:
        ConfigError: an unknown name, or strength outside [0, 1].
        ShapeError: the shapes differ.
    """
    if name == "none":
        return sr
    if name == "wavelet":
        return wavelet_fix(sr, reference, strength, block)
    if name == "adain":
        return adain_fix(sr, reference, strength)
    raise ConfigError(
        f"colour fix is {name!r}, expected one of {', '.join(COLOR_FIXES)}", hint="use `--color-fix wavelet`"
    )
