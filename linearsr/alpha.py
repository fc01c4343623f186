"""Transparency on its own path: colours under it made harmless before the network, alpha itself resized plainly.

Works on straight (not premultiplied) alpha, 0 = hidden, 1 = opaque, NumPy arrays in and out.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from linearsr.errors import ShapeError
from linearsr.resize import resize

__all__ = ["bleed_colors", "resize_alpha"]

_FAINT = 1.0 / 16.0
"""At and below this alpha a pixel's own colour is mostly rounding and matte, so its neighbours' colour takes over."""
_SNAP = 2.0**-17
"""Half a 16-bit step: rounding errors of the resize within it are put back to exactly 0 or 1."""


def bleed_colors(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill the colours that transparency hides from the nearest visible pixels.

    Files keep black, white or leftovers under alpha 0; a network or a resize would pull them into the visible edge as
    a halo. Hidden pixels get the colour of the nearest pixel with alpha above 1/16; between 0 and 1/16 the pixel's own
    colour fades in with alpha; above 1/16 nothing changes.

    Args:
        rgb: (H, W, 3) float32.
        alpha: (H, W) float32 in [0, 1].

    Returns:
        (H, W, 3) float32, a new array; a plain copy when nothing is hidden or nothing is visible.

    Raises:
        ShapeError: the sizes differ.
    """
    if rgb.ndim != 3 or alpha.ndim != 2 or rgb.shape[:2] != alpha.shape:
        raise ShapeError(f"colours are {rgb.shape} and alpha {alpha.shape}, expected (H, W, 3) and (H, W)")
    faint = alpha <= _FAINT
    if faint.all():
        # A picture of nothing but faint pixels still has colours where alpha is above 0.
        faint = alpha <= 0.0
    if not faint.any() or faint.all():
        return rgb.copy()
    # cv2 labels each pixel with the number of the nearest zero pixel; every zero pixel has a label of its own.
    _, labels = cv2.distanceTransformWithLabels(
        faint.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    visible = ~faint
    source = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    source[labels[visible]] = np.flatnonzero(visible)
    fill = rgb.reshape(-1, 3)[source[labels[faint]]]
    own = np.clip(alpha[faint] / _FAINT, 0.0, 1.0).astype(np.float32)[:, None]
    out = rgb.copy()
    out[faint] = own * rgb[faint] + (1.0 - own) * fill
    return out


def resize_alpha(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize alpha bicubically; flat areas of exactly 0 or 1 stay exact.

    Args:
        alpha: (H, W) float32 in [0, 1].
        size: (height, width) of the result, as `linearsr.resize.resize`.

    Returns:
        (height, width) float32 in [0, 1].

    Raises:
        ShapeError: alpha is not (H, W).
    """
    if alpha.ndim != 2:
        raise ShapeError(f"alpha is {alpha.shape}, expected (H, W)")
    out = resize(torch.from_numpy(np.ascontiguousarray(alpha, dtype=np.float32)), size).numpy()
    np.clip(out, 0.0, 1.0, out=out)
    out[out < _SNAP] = 0.0
    out[out > 1.0 - _SNAP] = 1.0
    return out
