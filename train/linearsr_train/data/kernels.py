"""Blur kernels of the degradation chain: bells, plateaus and ringing low-pass filters, and their random draws.

Source: Wang et al. 2021 (arXiv:2107.10833), sections 3.1 and 3.2.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linearsr_train.data.degradation_config import KERNEL_KINDS, DegradationConfig, Range

__all__ = ["bell_kernel", "bessel_j1", "draw_kernel", "draw_side", "grid", "normalised", "sinc_kernel"]

Image = NDArray[np.float32]
TRIM = 1e-3
"""A border of a kernel that holds less than this share of its weight is cut off: filters get cheaper."""


@lru_cache(maxsize=32)
def grid(side: int) -> tuple[Image, Image]:
    """Coordinates x and y of every kernel element, (side, side), centre 0."""
    line = np.arange(side, dtype=np.float32) - (side - 1) / 2
    x, y = np.meshgrid(line, line)
    return x, y


def normalised(kernel: NDArray[Any]) -> Image:
    """`kernel` without its empty border, summing to 1."""
    kernel = kernel / kernel.sum()
    cut, middle = 0, kernel.shape[0] // 2
    weight = np.abs(kernel)
    total = weight.sum()
    while cut < middle - 1 and total - weight[cut + 1 : -cut - 1, cut + 1 : -cut - 1].sum() < TRIM * total:
        cut += 1
    kernel = kernel[cut : kernel.shape[0] - cut, cut : kernel.shape[1] - cut]
    return np.ascontiguousarray(kernel / kernel.sum(), dtype=np.float32)


def bell_kernel(side: int, kind: str, sigmas: tuple[float, float], angle: float, beta: float) -> Image:
    """Gaussian, generalized Gaussian exp(-q^beta / 2) or plateau 1 / (q^beta + 1), with q = x^T Sigma^-1 x."""
    x, y = grid(side)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    q = (along / sigmas[0]) ** 2 + (across / sigmas[1]) ** 2
    return normalised(1 / (q**beta + 1) if kind.startswith("plateau") else np.exp(-0.5 * q**beta))


def bessel_j1(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """J1 by its integral over half a period; 64 midpoints are exact to rounding for 0 <= x <= 60."""
    tau = (np.arange(64) + 0.5) * (math.pi / 64)
    return np.cos(tau - x[:, None] * np.sin(tau)).mean(axis=1)


def sinc_kernel(side: int, cutoff: float) -> Image:
    """Circular low-pass filter with `cutoff` in radians per pixel, (0, pi]; it rings."""
    x, y = grid(side)
    squares, index = np.unique(np.rint(x * x + y * y), return_inverse=True)  # few differ, so J1 is cheap
    radii = np.sqrt(squares.astype(np.float64))
    values = np.full(radii.shape, cutoff * cutoff / (4 * math.pi))
    values[1:] = cutoff * bessel_j1(cutoff * radii[1:]) / (2 * math.pi * radii[1:])
    return normalised(values[index.reshape(side, side)])


def draw_side(config: DegradationConfig, rng: np.random.Generator) -> int:
    """An odd kernel side from the config's range."""
    return int(rng.choice(np.arange(config.kernel_size[0], config.kernel_size[1] + 1, 2)))


def _draw_beta(rng: np.random.Generator, bounds: Range) -> float:
    (low, high), below = bounds, rng.random() < 0.5
    if low >= 1 or high <= 1:
        return 1.0 if below and low == 1 else float(rng.uniform(low, high))
    return float(rng.uniform(low, 1) if below else rng.uniform(1, high))


def draw_kernel(config: DegradationConfig, rng: np.random.Generator, second: bool, strength: float) -> Image:
    """A kernel of a random shape; `strength` in (0, 1] narrows it for scales below 4."""
    sinc_prob = config.sinc_prob2 if second else config.sinc_prob
    sigma = config.blur_sigma2 if second else config.blur_sigma
    side = draw_side(config, rng)
    if rng.random() < sinc_prob:
        cutoff = rng.uniform(math.pi / 3 if side < 13 else math.pi / 5, math.pi)
        return sinc_kernel(side, min(cutoff / strength, math.pi))
    kind = KERNEL_KINDS[int(rng.choice(len(KERNEL_KINDS), p=config.kernel_probs))]
    sigma_x, sigma_y = (float(x) * strength for x in rng.uniform(*sigma, size=2))
    angle = float(rng.uniform(-math.pi, math.pi))
    beta = _draw_beta(rng, config.betap if kind.startswith("plateau") else config.betag)
    if kind in ("iso", "aniso"):
        beta = 1.0
    sigmas = (sigma_x, sigma_y if kind.endswith("aniso") else sigma_x)
    return bell_kernel(side, kind, sigmas, angle, beta)
