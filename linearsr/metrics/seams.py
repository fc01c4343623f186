"""Seams: does a picture made of tiles show lines where they meet? Needs no picture to compare with.

A seam is a step that keeps its sign along the border of a tile, weak beside the edges of what is shown. So steps are
taken against the slope around them, averaged along short runs, where grain cancels and a seam does not, and bounded, so
that one strong edge on a border decides nothing. Lines of comparison lie 8 and 16 pixels away: near enough to show the
same things, and at the same place in the 8-pixel blocks that JPEG, WebP and networks leave in pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from linearsr.errors import ShapeError

__all__ = ["Tiles", "seam_score"]

_RUN_PX = 16
_DISTANCES_PX = (8, 16)
_HALF_LEVELS = 1.0
"""Step, in levels of 0..255, that counts half of the strongest."""
_FLOOR = 1e-4
"""Added to both sides of the ratio: two lines of a flat picture are equal, not 0 / 0."""


class Tiles(Protocol):
    """Where the tiles of a picture lie; `linearsr.tiling.TilePlan` is one."""

    @property
    def height(self) -> int:
        """Rows of the canvas."""

    @property
    def width(self) -> int:
        """Columns of the canvas."""

    @property
    def row_starts(self) -> tuple[int, ...]:
        """First row of every row of tiles, ascending."""

    @property
    def col_starts(self) -> tuple[int, ...]:
        """First column of every column of tiles, ascending."""

    @property
    def tile_height(self) -> int:
        """Rows of a tile."""

    @property
    def tile_width(self) -> int:
        """Columns of a tile."""


def seam_score(x: Tensor, tiles: Tiles) -> float | None:
    """How much stronger steps across the borders of tiles are than those beside them; 1 means no seam.

    A line p is the step from row (or column) p - 1 to p. Lines of seams are where a tile starts or ends inside the
    picture, and the middle of each overlap. Of a line: its step minus the mean of the steps before and after it, in
    levels of 0..255, averaged over runs of 16 pixels along the line; e = mean of s / (s + 1) over the runs, s the mean
    square of the three channels. The score is the sum of e over all lines of seams by the sum of the mean e of the
    lines 8 and 16 pixels to either side of each, 0.0001 added to both; a neighbour within a pixel of a line of seams
    is left out.

    Args:
        x: (3, H, W) RGB in [0, 1].
        tiles: where its tiles lie; the canvas may reach beyond the picture at the bottom and to the right.

    Returns:
        The score, or None for a picture of one tile and where no line has a neighbour to compare with.

    Raises:
        ShapeError: x is no colour picture, or larger than the canvas of the tiles.
    """
    if x.dim() != 3 or x.shape[0] != 3 or x.shape[1] > tiles.height or x.shape[2] > tiles.width:
        raise ShapeError(
            f"picture is {tuple(x.shape)}; expected (3, H, W) with H to {tiles.height} and W to {tiles.width}",
            hint="give the tiles of this result",
        )
    levels = x.float() * 255.0
    rows = _energies_of_axis(levels, tiles.row_starts, tiles.tile_height)
    cols = _energies_of_axis(levels.transpose(1, 2), tiles.col_starts, tiles.tile_width)
    if not rows and not cols:
        return None
    across, beside = (sum(pair[side] for pair in rows + cols) for side in (0, 1))
    return (across + _FLOOR) / (beside + _FLOOR)


def _energies_of_axis(picture: Tensor, starts: Sequence[int], side: int) -> list[tuple[float, float]]:
    """Energy across each line of seams of (3, H, W) along H, and the mean of those beside it."""
    size, found = picture.shape[1], []
    lines = _lines(starts, side, size)
    for line in lines:
        near = [
            p
            for distance in _DISTANCES_PX
            for p in (line - distance, line + distance)
            if 2 <= p < size - 1 and min(abs(p - other) for other in lines) > 1
        ]
        if near:
            energies = _energies(picture, (line, *near))
            found.append((float(energies[0]), float(energies[1:].mean())))
    return found


def _lines(starts: Sequence[int], side: int, size: int) -> list[int]:
    """Rows (or columns) of a picture that a tile starts or ends at, and the middles of the overlaps."""
    borders = {p for start in starts for p in (start, start + side)}
    middles = {(start + side + following) // 2 for start, following in zip(starts, starts[1:], strict=False)}
    return sorted(p for p in borders | middles if 2 <= p < size - 1)


def _energies(picture: Tensor, lines: Sequence[int]) -> Tensor:
    """(lines,) bounded energy of the steps across some rows of (3, H, W), each 2 or more and below H - 1."""
    at = torch.tensor(lines, device=picture.device)
    before2, before, here, after = (picture[:, at + offset] for offset in (-2, -1, 0, 1))
    step = (here - before) - ((before - before2) + (after - here)) / 2
    run = min(_RUN_PX, step.shape[2])
    whole = step.shape[2] // run * run
    mean_square = step[..., :whole].unflatten(2, (-1, run)).mean(dim=-1).square().mean(dim=0)
    return (mean_square / (mean_square + _HALF_LEVELS**2)).mean(dim=1)
