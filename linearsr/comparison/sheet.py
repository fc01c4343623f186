"""A comparison as pictures: for each scene all methods in columns, whole and at the places where they differ most.

Owns the layout. Takes scenes as the HTML report does (`scenes.ReportImage`), so that both show the same; reads and
writes no files. Columns of a scene have one width: that of a place, zoomed by a whole factor so that its pixels stay
what they are. The maps of differences are against the first column, whose place in their row has their scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linearsr.comparison import MAX_ZOOM
from linearsr.comparison.drawing import (
    LIGHT,
    Theme,
    badge,
    below,
    beside,
    blank,
    difference_legend,
    draw_boxes,
    fit_inside,
    text_line,
    zoomed,
)
from linearsr.comparison.places import Window, difference_map
from linearsr.comparison.scenes import MetricColumn, ReportImage
from linearsr.errors import ConfigError

__all__ = ["choose_zoom", "compare_sheet", "page_path"]

SHEET_PX = 1700
"""Width that `choose_zoom` aims at: a wide screen, or a page of print at 200 dots an inch."""

_AUTO_ZOOM = 4
_MIN_COLUMN_PX = 150
_GAP_PX, _BLOCK_GAP_PX = 6, 28
_GUTTER_PX = 22
_TITLE_PX, _NAME_PX, _LABEL_PX, _SCORE_PX, _FOOT_PX = 36, 30, 28, 19, 24


def choose_zoom(side: int, columns: int) -> int:
    """Largest zoom, from 1 to 4, at which that many columns of places `side` pixels wide are a sheet of usual width."""
    return max(1, min(_AUTO_ZOOM, SHEET_PX // max(1, columns) // max(1, side)))


def page_path(output: Path, page: int) -> Path:
    """Name of one of several sheets: `sheet.png`, `sheet-2.png`, `sheet-3.png` for pages 1, 2 and 3."""
    return output if page == 1 else output.with_name(f"{output.stem}-{page}{output.suffix}")


def compare_sheet(
    images: Sequence[ReportImage],
    labels: Sequence[str],
    *,
    metrics: Sequence[MetricColumn] = (),
    zoom: int | None = None,
    title: str | None = None,
    foot: str | None = None,
    theme: Theme = LIGHT,
) -> np.ndarray:
    """Draw scenes below each other, each with its labels, scores, whole pictures, difference maps and places.

    Args:
        images: scenes; their pictures in full size, their places inside them.
        labels: columns from the left; difference maps are against the first.
        metrics: scores to write under each label, in this order; the best of a scene in the darker ink.
        zoom: of the places, 1 to 8; None for what suits the width of a sheet.
        title: over the first scene; None for none.
        foot: line under the last scene, such as how scores are made; None for none.
        theme: colours.

    Returns:
        (H, W, 3) uint8, the same for the same input.

    Raises:
        ConfigError: no scene, no label, or a zoom out of range.
        ShapeError: the pictures of a scene are not of one size.
    """
    if not images or not labels:
        raise ConfigError(f"{len(images)} scenes and {len(labels)} labels, expected at least one of each")
    if zoom is not None and not 1 <= zoom <= MAX_ZOOM:
        raise ConfigError(f"zoom is {zoom}, expected 1 to {MAX_ZOOM}", hint="3 and 4 are usual")
    side = max((place[2] for image in images for place in image.places), default=_MIN_COLUMN_PX)
    factor = choose_zoom(side, len(labels)) if zoom is None else zoom
    width = max(side * factor, _MIN_COLUMN_PX)
    blocks = [_scene(image, labels, metrics, factor, width, theme) for image in images]
    sheet = below(blocks, theme=theme, gap=_BLOCK_GAP_PX)
    if title is not None:
        sheet = below([text_line(title, sheet.shape[1], _TITLE_PX, theme=theme, size=24), sheet], theme=theme)
    if foot is not None:
        line = text_line(foot, sheet.shape[1], _FOOT_PX, theme=theme, color=theme.muted, size=14)
        sheet = below([sheet, line], theme=theme, gap=_GAP_PX)
    return _framed(sheet, theme)


def _scene(
    image: ReportImage, labels: Sequence[str], metrics: Sequence[MetricColumn], zoom: int, width: int, theme: Theme
) -> np.ndarray:
    """One scene, its rows below each other."""
    windows = [Window(*place) for place in image.places]
    pictures = [image.pictures[label] for label in labels]
    total = _GUTTER_PX + len(labels) * width + (len(labels) - 1) * _GAP_PX
    heads = [_head(image, label, metrics, width, theme) for label in labels]
    rows = [_name_line(image, total, theme), _row(heads, width, theme)]
    rows += [_whole(pictures, windows, width, theme)]
    if len(labels) > 1:
        rows.append(_maps(pictures, labels[0], width, theme))
    for number, window in enumerate(windows, start=1):
        crops = [zoomed(_cut(picture, window), zoom) for picture in pictures]
        rows.append(_row(crops, width, theme, gutter=badge(number, _GUTTER_PX - _GAP_PX)))
    return below(rows, theme=theme, gap=_GAP_PX)


def _name_line(image: ReportImage, width: int, theme: Theme) -> np.ndarray:
    """Name, size and notes of a scene; what was enlarged is said by its label."""
    facts = ", ".join((image.size_text, *image.notes))
    return text_line(f"{image.name}   {facts}", width, _NAME_PX, theme=theme, size=19)


def _head(image: ReportImage, label: str, metrics: Sequence[MetricColumn], width: int, theme: Theme) -> np.ndarray:
    """Label of a column, and its scores in the scene."""
    lines = [text_line(image.column_head(label), width, _LABEL_PX, theme=theme, size=18)]
    for metric in metrics:
        values = {name: scores[metric.name] for name, scores in image.scores.items() if metric.name in scores}
        value = values.get(label)
        best = None if not values else (min if metric.lower_better else max)(values.values())
        text = "" if value is None else f"{metric.title} {_number(value, metric.digits)} {metric.unit}".rstrip()
        color = theme.ink if value is not None and value == best else theme.muted
        lines.append(text_line(text, width, _SCORE_PX, theme=theme, color=color, size=14))
    return below(lines, theme=theme)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "infinite"


def _whole(pictures: Sequence[np.ndarray], windows: Sequence[Window], width: int, theme: Theme) -> np.ndarray:
    """Whole pictures, fitted to the columns, with the places."""
    cells = []
    for picture in pictures:
        small, factor = fit_inside(picture, width, width)  # no higher than wide
        cells.append(draw_boxes(small, windows, factor))
    return _row(cells, width, theme)


def _maps(pictures: Sequence[np.ndarray], first: str, width: int, theme: Theme) -> np.ndarray:
    """Difference maps against the first picture, whose cell has the scale."""
    cells = [difference_legend(width, first, theme=theme)]
    for picture in pictures[1:]:
        whole, factor = fit_inside(picture, width, width)
        zoom = max(1, int(factor))
        size = (whole.shape[0] // zoom, whole.shape[1] // zoom)
        cells.append(zoomed(difference_map(pictures[0], picture, size=size), zoom))
    return _row(cells, width, theme)


def _row(cells: Sequence[np.ndarray], width: int, theme: Theme, gutter: np.ndarray | None = None) -> np.ndarray:
    """Cells in their columns, behind a gutter."""
    first = below([blank(0, _GUTTER_PX, theme), *([] if gutter is None else [gutter])], theme=theme)
    padded = [below([cell, blank(0, width, theme)], theme=theme) for cell in cells]
    return beside([first, beside(padded, theme=theme, gap=_GAP_PX)], theme=theme)


def _cut(picture: np.ndarray, window: Window) -> np.ndarray:
    return picture[window.top : window.top + window.height, window.left : window.left + window.width]


def _framed(sheet: np.ndarray, theme: Theme) -> np.ndarray:
    """A margin all round."""
    margin = 2 * _GAP_PX
    wide = beside([blank(1, margin, theme), sheet, blank(1, margin, theme)], theme=theme)
    edge = blank(margin, wide.shape[1], theme)
    return below([edge, wide, edge], theme=theme)
