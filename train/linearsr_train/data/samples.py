"""One training sample: a crop, degraded, and enlarged back. Pure functions of their arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linearsr.resize import axis_weights
from linearsr_train.config import DataConfig
from linearsr_train.data.degradation import degrade_bicubic, degrade_real

__all__ = ["Lost", "Sample", "enlarge", "lr_size", "make_sample"]

Lost = tuple[tuple[str, str], ...]
"""(file name, reason) of photographs that could not be read any more."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop with its degraded version, enlarged back to the crop's size."""

    hr: Tensor
    lr_up: Tensor
    scale: float
    tags: tuple[str, ...]
    index: int = 0
    """Global index."""
    lost: Lost = ()
    lr: Tensor | None = None
    """(3, h, w) low-resolution pixels as they are, where the network reads them so."""


def _to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


@lru_cache(maxsize=256)
def _taps(in_size: int, out_size: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Source rows (out_size,) and weights (out_size, 1, 1) of every tap of the kernel."""
    weights, indices = axis_weights(in_size, out_size)
    return [(indices[:, tap].numpy(), weights[:, tap, None, None].numpy()) for tap in range(weights.shape[1])]


def _enlarge_rows(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    (rows, weights), *others = _taps(image.shape[0], size)
    out = image.take(rows, axis=0) * weights
    part = np.empty_like(out)
    for rows, weights in others:
        image.take(rows, axis=0, out=part, mode="clip")
        part *= weights
        out += part
    return out


def enlarge(lr: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """`linearsr.resize.resize` of (h, w, 3) to (3, height, width), equal bit for bit, in a quarter of the time.

    Both passes gather whole rows, which is a plain copy; gathering columns is what takes long.
    """
    if lr.shape[:2] == size:
        return _to_tensor(lr)
    rows = _enlarge_rows(lr, size[0])
    cols = _enlarge_rows(np.ascontiguousarray(rows.transpose(1, 2, 0)), size[1])
    return torch.from_numpy(np.ascontiguousarray(cols.transpose(1, 2, 0)))


def lr_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Low-resolution (height, width) of a crop."""
    return max(1, round(height / scale)), max(1, round(width / scale))


def make_sample(
    hr: NDArray[np.float32],
    scale: float,
    real: bool,
    config: DataConfig,
    rng: np.random.Generator,
    *,
    native: bool = False,
) -> Sample:
    """Degrade a crop at `scale` and enlarge it back.

    Args:
        hr: (H, W, 3) float32 in [0, 1].
        real: second-order chain rather than bicubic.
        native: keep the degraded pixels too.

    Returns:
        Sample whose scale is the exact ratio of the rounded sizes.
    """
    height, width = hr.shape[:2]
    size = lr_size(height, width, scale)
    degraded = degrade_real(hr, size, config.degradation, rng) if real else degrade_bicubic(hr, size)
    exact = math.sqrt(height * width / (size[0] * size[1]))
    lr = _to_tensor(degraded.lr) if native else None
    return Sample(_to_tensor(hr), enlarge(degraded.lr, (height, width)), exact, degraded.tags, lr=lr)
