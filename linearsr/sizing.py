"""From what the user asked for to an exact output size. Standard library only, so that a plan needs no torch.

A scale is the enlargement factor along one side, a float >= `MIN_SCALE`. One network pass covers scales from 1 to
`MAX_PASS_SCALE`; a larger scale is the product of several passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from linearsr.errors import ConfigError

__all__ = ["MAX_PASS_SCALE", "MAX_SCALE", "OutputSize", "parse_size", "pass_sizes", "resolve_size"]

MAX_PASS_SCALE = 4.0
MAX_SCALE = 64.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputSize:
    """An exact output size in pixels."""

    width: int
    height: int
    scale: float
    """Geometric mean of the two side ratios; 1.0 means restore without enlarging."""


def parse_size(text: str) -> tuple[int | None, int | None]:
    """Read `WxH`, `Wx` or `xH` into (width, height); a side that was left out is None.

    Raises:
        ConfigError: the text has another form, or a side is not a positive integer.
    """
    width_text, separator, height_text = text.lower().strip().partition("x")
    try:
        width = int(width_text) if width_text else None
        height = int(height_text) if height_text else None
    except ValueError:
        separator, width, height = "", None, None
    if not separator or (width is None and height is None) or any(s is not None and s < 1 for s in (width, height)):
        raise ConfigError(
            f"size is {text!r}, expected WxH, Wx or xH in pixels, each side at least 1",
            hint="for example `--size 1920x1080`, or `--size 1920x` to keep the aspect ratio",
        )
    return width, height


def check_scale(scale: float) -> float:
    """Return `scale` as a float if it lies in [1, MAX_SCALE].

    Raises:
        ConfigError: it does not, or it is not finite.
    """
    if not math.isfinite(scale) or not 1.0 <= scale <= MAX_SCALE:
        raise ConfigError(
            f"scale is {scale:g}, expected a number from 1 to {MAX_SCALE:g}",
            hint="use 1 to restore without enlarging, or 4 for the usual enlargement",
        )
    return float(scale)


def _both_sides(width: int, height: int, size: tuple[int | None, int | None]) -> tuple[int, int]:
    """Fill in a side that was left out, in the aspect ratio of `width` x `height`."""
    out_width, out_height = size
    if out_width is not None:
        return out_width, max(1, round(height * out_width / width)) if out_height is None else out_height
    if out_height is not None:
        return max(1, round(width * out_height / height)), out_height
    raise ConfigError("size names no side, expected a width, a height or both", hint="use 1920x1080 or 1920x")


def resolve_size(
    width: int,
    height: int,
    *,
    scale: float | None = None,
    size: tuple[int | None, int | None] | None = None,
    long_side: int | None = None,
) -> OutputSize:
    """Work out the output size of a `width` x `height` picture; exactly one of the three requests may be given.

    Args:
        width, height: input size in pixels, after orientation.
        scale: enlargement factor; 4 when nothing is given. Sides are rounded to the nearest pixel.
        size: (width, height) as from `parse_size`; a missing side keeps the aspect ratio.
        long_side: length of the longer side; the other keeps the aspect ratio.

    Raises:
        ConfigError: more than one request, a value out of range, or an output smaller than the input.
    """
    given = [name for name, value in (("scale", scale), ("size", size), ("long_side", long_side)) if value is not None]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are both given, expected one of them", hint="drop all but one")
    if size is not None:
        out_width, out_height = _both_sides(width, height, size)
    elif long_side is not None:
        factor = long_side / max(width, height)
        out_width, out_height = max(1, round(width * factor)), max(1, round(height * factor))
    else:
        factor = check_scale(4.0 if scale is None else scale)
        out_width, out_height = max(1, round(width * factor)), max(1, round(height * factor))
    if out_width < width or out_height < height:
        raise ConfigError(
            f"output would be {out_width}x{out_height}, smaller than the {width}x{height} input",
            hint="LinearSR enlarges or restores; to shrink, use an image editor or ImageMagick",
        )
    ratio = math.sqrt((out_width / width) * (out_height / height))
    check_scale(max(ratio, out_width / width, out_height / height))
    return OutputSize(width=out_width, height=out_height, scale=ratio)


def _pass_side(start: int, end: int, before: int, index: int, count: int) -> int:
    """Side after pass `index` of `count`: an equal factor each, within reach of the passes before and after."""
    if index == count:
        return end
    least = math.ceil(end / MAX_PASS_SCALE ** (count - index))
    return min(max(round(start * (end / start) ** (index / count)), least), int(before * MAX_PASS_SCALE))


def pass_sizes(width: int, height: int, target: OutputSize) -> list[OutputSize]:
    """Split an enlargement into passes of at most `MAX_PASS_SCALE` along each side, ending exactly at `target`.

    The passes have equal factors: x6 is two passes of x2.45, which keeps both inside the range the network knows.
    """
    largest = max(target.width / width, target.height / height)
    count = max(1, math.ceil(math.log(largest) / math.log(MAX_PASS_SCALE) - 1e-9)) if largest > 1 else 1
    sizes: list[OutputSize] = []
    before = (width, height)
    for index in range(1, count + 1):
        side = (
            _pass_side(width, target.width, before[0], index, count),
            _pass_side(height, target.height, before[1], index, count),
        )
        ratio = math.sqrt((side[0] / before[0]) * (side[1] / before[1]))
        sizes.append(OutputSize(width=side[0], height=side[1], scale=ratio))
        before = side
    return sizes
