"""Where pictures of one scene differ: the windows worth a look, and a map of the difference in colour.

Pure functions of pixels: no files, no labels, no layout. The difference of two pixels is the largest of the differences
of their BT.601 luma Y and chroma Cb and Cr (full range), in 8-bit levels: n where R, G and B all change by n, and about
half of what changes where colour alone does. All three are whole numbers of 1/256 levels, so sums are exact, equal
pixels and no others differ by exactly nothing, and windows that tie are told apart by position alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from linearsr.errors import ConfigError, ShapeError

__all__ = ["FULL_LEVELS", "Window", "difference_colors", "difference_map", "find_detail", "find_flat", "find_places"]

FULL_LEVELS = 32
"""Difference, in 8-bit levels, that has the full colour; larger ones have it too."""

_LUMA = (77, 150, 29)
"""BT.601's 0.299, 0.587, 0.114 in 1/256."""
_CB, _CR = (-43, -85, 128), (128, -107, -21)
"""Of 0.5 (B - Y) / (1 - 0.114) and 0.5 (R - Y) / (1 - 0.299) in 1/256: exactly nothing for gray."""
_UNIT = sum(_LUMA)
_STEPS_A_LEVEL = 8
_LIGHTNESS = (0.96, 0.30)
"""OKLab lightness of no and of full difference."""
_HUE = (100.0, -40.0)
"""In degrees: yellow for the smallest difference, by way of red, to purple for the full one."""
_CHROMA = 0.19
_STRIP = 32
"""Rows worked on at a time: they stay in the processor's cache."""


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


def find_places(pictures: Sequence[np.ndarray | Tensor], side: int, count: int) -> tuple[Window, ...]:
    """Find the windows where pictures of one scene differ most, the most telling first.

    A window's score is the sum, over its pixels, of the square of the largest difference of Y, Cb or Cr between any two
    of the pictures. The best window is taken, then the best of those at least a window's side away from it, so that the
    places are not all of one fence, and so on; where none is left, the best of those that overlap none.

    Args:
        pictures: at least two of one size, (H, W, 3) uint8 or (3, H, W) float in [0, 1].
        side: of a window; cut to the picture where that is smaller.
        count: most windows to find.

    Returns:
        At most `count` windows inside the picture that do not overlap; fewer where nothing else differs, none for
        equal pictures. Of windows that tie, the uppermost, then the leftmost.

    Raises:
        ShapeError: fewer than two pictures, or other shapes.
        ConfigError: side or count is below 1.
    """
    if side < 1 or count < 1:
        raise ConfigError(f"side is {side} and count {count}, expected both at least 1", hint="96 and 3 are usual")
    difference = _difference(pictures)
    height, width = min(side, difference.shape[0]), min(side, difference.shape[1])
    scores = _window_sums(difference.astype(np.int64) ** 2, height, width)
    return _best_windows(scores, Window(0, 0, width, height), count)


def _best_windows(scores: np.ndarray, shape: Window, count: int) -> tuple[Window, ...]:
    """Take windows by their scores, apart from one another as long as there are such."""
    apart = scores.copy()
    found: list[Window] = []
    while len(found) < count:
        left_over = apart if apart.any() else scores
        top, left = (int(index) for index in np.unravel_index(int(left_over.argmax()), scores.shape))
        if left_over[top, left] == 0:
            break
        found.append(Window(left, top, shape.width, shape.height))
        for values, reach in ((scores, 1), (apart, 2)):
            down, right = reach * shape.height, reach * shape.width
            values[max(0, top - down + 1) : top + down, max(0, left - right + 1) : left + right] = 0
    return tuple(found)


def find_detail(picture: np.ndarray | Tensor, side: int) -> Window:
    """Find the window with the most gradient energy, where texture and edges are; arguments as `find_flat`."""
    return _extreme(picture, side, most=True)


def find_flat(picture: np.ndarray | Tensor, side: int) -> Window:
    """Find the window with the least gradient energy, where blotches, grids and seams show.

    Args:
        picture: (H, W, 3) uint8 or (3, H, W) float in [0, 1].
        side: of the window; cut to the picture where that is smaller.

    Raises:
        ShapeError: another shape.
    """
    return _extreme(picture, side, most=False)


def _extreme(picture: np.ndarray | Tensor, side: int, *, most: bool) -> Window:
    plane = _weighted(_pixels(picture), _LUMA).astype(np.int64)
    height, width = min(side, plane.shape[0]), min(side, plane.shape[1])
    energy = np.zeros_like(plane)
    energy[:, :-1] += np.diff(plane, axis=1) ** 2
    energy[:-1] += np.diff(plane, axis=0) ** 2
    sums = _window_sums(energy, height, width)
    top, left = np.unravel_index(int(sums.argmax() if most else sums.argmin()), sums.shape)
    return Window(int(left), int(top), width, height)


def difference_map(
    a: np.ndarray | Tensor,
    b: np.ndarray | Tensor,
    *,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Show how much two pictures differ in brightness or colour, and where.

    Lightness falls in proportion to the largest of the absolute differences of Y, Cb and Cr: a place twice as dark
    differs twice as much, also for readers who do not tell the colours apart.

    Args:
        a, b: two pictures of one size, (H, W, 3) uint8 or (3, H, W) float in [0, 1].
        size: (height, width) of a smaller map, each pixel the mean difference of those it stands for; None for (H, W).

    Returns:
        (H, W, 3) uint8, or of `size`; the neutral gray `difference_colors(0)` exactly where the pixels are equal.

    Raises:
        ShapeError: the pictures' sizes differ, or `size` is larger.
    """
    difference = _difference((a, b)).astype(np.float64) / _UNIT
    if size is not None:
        difference = _means(difference, size)
    return difference_colors(difference)


def difference_colors(levels: np.ndarray | float) -> np.ndarray:
    """Colour of an absolute difference; `FULL_LEVELS` and more have the full one.

    Args:
        levels: (...) differences in 8-bit levels, at least 0.

    Returns:
        (..., 3) uint8.
    """
    table = _color_table()
    # Rounded up: the neutral gray is kept for what is equal.
    index = np.ceil(np.asarray(levels, dtype=np.float64) * _STEPS_A_LEVEL).clip(0, len(table) - 1)
    return table[index.astype(np.int64)]


@lru_cache(maxsize=1)
def _color_table() -> np.ndarray:
    """(n + 1, 3) uint8 for differences 0 to full.

    Source: OKLab, Bjorn Ottosson 2020, bottosson.github.io/posts/oklab; sRGB transfer of IEC 61966-2-1.
    """
    part = np.linspace(0.0, 1.0, FULL_LEVELS * _STEPS_A_LEVEL + 1)
    lightness = _LIGHTNESS[0] + (_LIGHTNESS[1] - _LIGHTNESS[0]) * part
    hue = np.radians(_HUE[0] + (_HUE[1] - _HUE[0]) * part)
    chroma = _CHROMA * np.sin(np.pi * part)  # the ends of OKLab's lightness leave no room for colour
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_cones = np.array([[0.3963377774, 0.2158037573], [-0.1055613458, -0.0638541728], [-0.0894841775, -1.2914855480]])
    cones = (lightness + to_cones @ np.stack((a, b))) ** 3
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (to_rgb @ cones).clip(0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded.T * 255.0).round().astype(np.uint8)


def _means(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink (H, W) to `size` by means of whole pixels."""
    if any(wanted > length for wanted, length in zip(size, values.shape, strict=True)):
        raise ShapeError(f"map is {values.shape}, expected a size of at most that, not {size}")
    for axis, (length, wanted) in enumerate(zip(values.shape, size, strict=True)):
        starts = np.arange(wanted) * length // wanted
        counts = np.diff(starts, append=length)
        values = np.add.reduceat(values, starts, axis=axis) / np.expand_dims(counts, 1 - axis)
    return values


def _difference(pictures: Sequence[np.ndarray | Tensor]) -> np.ndarray:
    """(H, W) int32: the largest difference of Y, Cb or Cr between any two of the pictures, in 1/256 levels.

    Raises:
        ShapeError: fewer than two pictures, or other shapes.

    Source: ITU-R BT.601-7, 2.5.1 and 2.5.2; full range as in ITU-T T.871, 7.
    """
    arrays = [_pixels(picture) for picture in pictures]
    if len(arrays) < 2 or len({array.shape for array in arrays}) > 1:
        shapes = ", ".join(str(array.shape[:2]) for array in arrays)
        raise ShapeError(f"pictures are {shapes}; expected two or more of one size", hint="enlarge the smaller ones")
    return np.concatenate(
        [_spread([array[top : top + _STRIP] for array in arrays]) for top in range(0, len(arrays[0]), _STRIP)]
    )


def _spread(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """`_difference` of checked pictures, or of strips of them."""
    largest = np.zeros(arrays[0].shape[:2], np.int32)
    for weights in (_LUMA, _CB, _CR):
        lowest = _weighted(arrays[0], weights)
        highest = lowest.copy()
        for array in arrays[1:]:
            plane = _weighted(array, weights)
            np.minimum(lowest, plane, out=lowest)
            np.maximum(highest, plane, out=highest)
        np.maximum(largest, highest - lowest, out=largest)
    return largest


def _pixels(picture: np.ndarray | Tensor) -> np.ndarray:
    """The picture as (H, W, 3) uint8."""
    pixels = picture
    if isinstance(pixels, Tensor):
        if pixels.dim() != 3 or pixels.shape[0] != 3:
            raise ShapeError(f"tensor is {tuple(pixels.shape)}, expected (3, H, W)", hint="one RGB picture at a time")
        scaled = pixels.detach().float().clamp(0, 1).mul(255).round()
        pixels = scaled.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ShapeError(f"array is {pixels.shape} {pixels.dtype}, expected (H, W, 3) uint8", hint="RGB, channels last")
    return pixels


def _weighted(pixels: np.ndarray, weights: tuple[int, int, int]) -> np.ndarray:
    """(H, W) int32 sum of the channels times their weights."""
    red, green, blue = weights
    plane = pixels[..., 0].astype(np.int32) * red
    plane += pixels[..., 1].astype(np.int32) * green
    plane += pixels[..., 2].astype(np.int32) * blue
    return plane


def _window_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sum of every window; (H, W) int64, which is overwritten, to (H - height + 1, W - width + 1)."""
    np.cumsum(values, axis=0, out=values)
    values[height:] -= values[:-height].copy()
    sums = values[height - 1 :]
    np.cumsum(sums, axis=1, out=sums)
    sums[:, width:] -= sums[:, :-width].copy()
    return sums[:, width - 1 :]
