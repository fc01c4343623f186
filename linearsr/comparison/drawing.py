"""What sheets are drawn with: lines of text, pictures beside and below each other, boxes, and whole-number zoom.

Everything is an array of RGB pixels, (H, W, 3), uint8 or float in [0, 1]; a picture put on a sheet keeps its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from linearsr.comparison.lettering import fit_text, font, text_length, write_text
from linearsr.comparison.places import FULL_LEVELS, Window, difference_colors
from linearsr.errors import ShapeError

__all__ = [
    "DARK",
    "LIGHT",
    "PLACE_COLORS",
    "Theme",
    "badge",
    "below",
    "beside",
    "blank",
    "difference_legend",
    "draw_boxes",
    "fit_inside",
    "labelled",
    "text_line",
    "zoomed",
]

Color = tuple[int, int, int]

PLACE_COLORS: tuple[Color, ...] = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0))
"""Of the boxes, in turn. Source: Okabe and Ito, Color Universal Design, 2008: told apart with any colour vision."""
_MARGIN_PX = 3
_BAR_PX, _SMALL_PX = 12, 12
_TEXT_PART = 0.7
"""Size of the text as a part of its line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """Colours of a sheet, 8-bit RGB."""

    paper: Color
    ink: Color
    muted: Color
    """Of text that stands back."""


LIGHT = Theme(paper=(255, 255, 255), ink=(0, 0, 0), muted=(90, 90, 90))
DARK = Theme(paper=(32, 32, 32), ink=(235, 235, 235), muted=(165, 165, 165))


def text_line(
    text: str, width: int, height: int, *, theme: Theme, color: Color | None = None, size: float | None = None
) -> np.ndarray:
    """Draw one line of text, cut to the width.

    Args:
        text: what to write.
        width, height: of the line in pixels.
        theme: gives paper and ink.
        color: instead of the theme's ink.
        size: of the font in pixels; 0.7 of the height unless given.

    Returns:
        (height, width, 3) uint8.
    """
    image = Image.new("RGB", (width, height), theme.paper)
    size = height * _TEXT_PART if size is None else size
    shown = fit_text(text, width - 2 * _MARGIN_PX, size)
    fill = theme.ink if color is None else color
    write_text(ImageDraw.Draw(image), shown, _MARGIN_PX, height / 2, size, fill)
    return np.asarray(image)


def labelled(picture: np.ndarray, label: str, height: int, *, theme: Theme) -> np.ndarray:
    """Put a label of `height` pixels over a picture; (H, W, 3) to (height + H, W, 3) of the same kind."""
    return below([text_line(label, picture.shape[1], height, theme=theme), picture], theme=theme)


def blank(height: int, width: int, theme: Theme) -> np.ndarray:
    """Paper with nothing on it, (height, width, 3) uint8."""
    return np.broadcast_to(np.array(theme.paper, dtype=np.uint8), (height, width, 3)).copy()


def beside(cells: Sequence[np.ndarray], *, theme: Theme, gap: int = 0) -> np.ndarray:
    """Put pictures beside each other, their tops level, `gap` pixels of paper between them."""
    width = sum(cell.shape[1] for cell in cells) + gap * (len(cells) - 1)
    sheet = _paper(max(cell.shape[0] for cell in cells), width, cells, theme)
    left = 0
    for cell in cells:
        sheet[: cell.shape[0], left : left + cell.shape[1]] = _as_kind(cell, sheet.dtype)
        left += cell.shape[1] + gap
    return sheet


def below(cells: Sequence[np.ndarray], *, theme: Theme, gap: int = 0) -> np.ndarray:
    """Put pictures below each other, their left sides in line, `gap` pixels of paper between them."""
    height = sum(cell.shape[0] for cell in cells) + gap * (len(cells) - 1)
    sheet = _paper(height, max(cell.shape[1] for cell in cells), cells, theme)
    top = 0
    for cell in cells:
        sheet[top : top + cell.shape[0], : cell.shape[1]] = _as_kind(cell, sheet.dtype)
        top += cell.shape[0] + gap
    return sheet


def _paper(height: int, width: int, cells: Sequence[np.ndarray], theme: Theme) -> np.ndarray:
    """An empty sheet, float32 if any of the cells is float."""
    for cell in cells:
        if cell.ndim != 3 or cell.shape[2] != 3:
            raise ShapeError(f"picture is {cell.shape}, expected (H, W, 3)", hint="RGB, channels last")
    sheet = blank(height, width, theme)
    is_float = any(np.issubdtype(cell.dtype, np.floating) for cell in cells)
    return _as_kind(sheet, np.dtype(np.float32)) if is_float else sheet


def _as_kind(cell: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if cell.dtype == np.uint8 and dtype != np.uint8:
        return cell.astype(np.float32) / np.float32(255.0)
    return cell


def zoomed(picture: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each pixel `factor` times on both axes."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def fit_inside(picture: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """Shrink a picture, or zoom it by a whole factor, so that it fits.

    Args:
        picture: (H, W, 3) uint8.
        width, height: in pixels, at most.

    Returns:
        (h, w, 3) uint8, and the factor from the picture's pixels to its own.
    """
    factor = min(width / picture.shape[1], height / picture.shape[0])
    if factor >= 1.0:
        return zoomed(picture, int(factor)), float(int(factor))
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    small = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small), factor


def draw_boxes(picture: np.ndarray, windows: Sequence[Window], factor: float, *, size: int = 13) -> np.ndarray:
    """Draw numbered boxes on a fitted picture, number 1 first, each in its colour with a white line outside.

    Args:
        picture: (h, w, 3) uint8, as `fit_inside` gives it.
        windows: in the pixels of the whole picture.
        factor: as `fit_inside` gives it.
        size: of the numbers in pixels.

    Returns:
        A copy with the boxes.
    """
    image = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(image)
    for index, window in enumerate(windows):
        left, top = round(window.left * factor), round(window.top * factor)
        right = round((window.left + window.width) * factor) - 1
        bottom = round((window.top + window.height) * factor) - 1
        color = PLACE_COLORS[index % len(PLACE_COLORS)]
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(255, 255, 255))
        draw.rectangle((left, top, right, bottom), outline=color, width=2)
        image.paste(Image.fromarray(badge(index + 1, size)), (left, top))
    return np.asarray(image)


def badge(number: int, size: int) -> np.ndarray:
    """White number of a place on a square of its colour, (size, size, 3) uint8; 1 is the first."""
    image = Image.new("RGB", (size, size), PLACE_COLORS[(number - 1) % len(PLACE_COLORS)])
    draw = ImageDraw.Draw(image)
    draw.text((size / 2, size / 2), str(number), fill=(255, 255, 255), font=font(size * 0.8), anchor="mm")
    return np.asarray(image)


def difference_legend(width: int, reference: str, *, theme: Theme) -> np.ndarray:
    """Draw the scale of `difference_map`: a bar, what it shows and what its ends mean.

    Args:
        width: pixels, at least about 120.
        reference: label of the picture that the others are compared with.
        theme: gives paper and ink.

    Returns:
        (h, width, 3) uint8.
    """
    bar_width = max(16, min(width - 2 * _MARGIN_PX, 220))
    colors = difference_colors(np.linspace(0, FULL_LEVELS, bar_width))
    bar = np.broadcast_to(colors, (_BAR_PX, bar_width, 3))
    ends = Image.new("RGB", (width, 18), theme.paper)
    draw = ImageDraw.Draw(ends)
    right = f"{FULL_LEVELS} levels and more"
    write_text(draw, "0", _MARGIN_PX, 9, _SMALL_PX, theme.muted)
    write_text(draw, right, _MARGIN_PX + bar_width - text_length(right, _SMALL_PX), 9, _SMALL_PX, theme.muted)
    lines = [
        text_line("Difference of Y, Cb, Cr", width, 22, theme=theme, size=14),
        text_line(f"largest, from {reference}", width, 20, theme=theme, color=theme.muted, size=_SMALL_PX),
        beside([blank(_BAR_PX, _MARGIN_PX, theme), bar], theme=theme),
        np.asarray(ends),
    ]
    return below(lines, theme=theme)[:, :width]
