"""Tiles over an output canvas: plan, windows, blending. Geometry only; knows no model and no picture format.

The windows of a plan are separable and sum to one along each axis at every pixel, so blending needs neither a canvas
of weights nor a division. The canvas lives on the host; only one batch of tiles at a time visits the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from linearsr.errors import ConfigError

__all__ = ["Tile", "TilePlan", "check_tile", "plan_tiles", "run_tiled"]

MIN_TILE = 64
QUIET_FRACTION = 0.25
"""Share of an overlap at a tile's edge that gets weight zero: there the network saw padding instead of picture."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A window of the canvas in output pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Rows of the canvas that the tile covers."""
        return slice(self.top, self.top + self.height)

    @property
    def cols(self) -> slice:
        """Columns of the canvas that the tile covers."""
        return slice(self.left, self.left + self.width)


@dataclass(frozen=True, slots=True)
class TilePlan:
    """A product grid of equal tiles and the windows that blend them."""

    height: int
    width: int
    row_starts: tuple[int, ...]
    col_starts: tuple[int, ...]
    tile_height: int
    tile_width: int
    row_windows: tuple[Tensor, ...]
    """For each row start, (tile_height,) float32 weights that sum to one over all tiles at every row."""
    col_windows: tuple[Tensor, ...]

    @property
    def tiles(self) -> list[Tile]:
        """All tiles in row-major order."""
        return [
            Tile(top, left, self.tile_height, self.tile_width) for top in self.row_starts for left in self.col_starts
        ]

    def window(self, tile: Tile) -> Tensor:
        """(height, width) float32 blending weights of a tile."""
        row = self.row_windows[self.row_starts.index(tile.top)]
        col = self.col_windows[self.col_starts.index(tile.left)]
        return row[:, None] * col[None, :]


def check_tile(tile: int, overlap: int, multiple: int) -> None:
    """Check a tile size and overlap given by a user.

    Raises:
        ConfigError: not a multiple, too small, or an overlap that leaves no progress; the hint names a size that works.
    """
    if tile < MIN_TILE or tile % multiple:
        nearest = multiple * math.ceil(max(tile, MIN_TILE) / multiple)
        raise ConfigError(
            f"tile is {tile}, expected a multiple of {multiple} pixels, at least {MIN_TILE}",
            hint=f"use `--tile {nearest}`, `--tile auto`, or `--tile off` for the whole picture at once",
        )
    if overlap < 0 or overlap % multiple or overlap > tile // 2:
        raise ConfigError(
            f"tile overlap is {overlap}, expected a multiple of {multiple} pixels from 0 to half the tile, {tile // 2}",
            hint=f"use `--tile-overlap {min(64, tile // 2) // multiple * multiple}`",
        )


def _layout(size: int, tile: int, overlap: int, multiple: int) -> tuple[int, tuple[int, ...]]:
    """Side and starts along one axis: as few tiles as fit, of equal side, spread evenly.

    Equal tiles cost less than full ones with the last moved inward: 2048 pixels in tiles of at most 1024 with overlap
    32 take three of 704 rather than three of 1024, less than half the work in two dimensions.
    """
    if size <= tile:
        return size, (0,)
    count = math.ceil((size - overlap) / (tile - overlap))
    side = multiple * math.ceil((size + (count - 1) * overlap) / count / multiple)
    while True:
        starts = [multiple * (index * (size - side) // ((count - 1) * multiple)) for index in range(count - 1)]
        starts.append(size - side)
        if all(b - a <= side - overlap for a, b in zip(starts, starts[1:], strict=False)):
            return side, tuple(starts)
        side += multiple  # rounding to the grid opened a gap


def _windows(starts: Sequence[int], size: int, tile: int, overlap: int) -> tuple[Tensor, ...]:
    """Raised-cosine ramps over each inner overlap, then normalised to sum to one at every position."""
    quiet = overlap * QUIET_FRACTION
    position = torch.arange(tile, dtype=torch.float64) + 0.5
    total = torch.zeros(size, dtype=torch.float64)
    raw = []
    for start in starts:
        window = torch.ones(tile, dtype=torch.float64)
        for edge, distance in ((start > 0, position), (start + tile < size, tile - position)):
            if edge and overlap:
                rise = ((distance - quiet) / (overlap - 2 * quiet)).clamp(0, 1)
                window *= 0.5 - 0.5 * torch.cos(math.pi * rise)
        raw.append(window)
        total[start : start + tile] += window
    return tuple((window / total[start : start + tile]).float() for start, window in zip(starts, raw, strict=True))


def plan_tiles(height: int, width: int, tile: int | None, overlap: int, multiple: int = 1) -> TilePlan:
    """Plan tiles over a canvas.

    Args:
        height, width: canvas in output pixels, multiples of `multiple`.
        tile: largest side of a tile; None for one tile over the whole canvas. Tiles are made smaller where that
            covers a side with as many of them and less work.
        overlap: pixels that neighbours share at least.
        multiple: grid that starts and sides keep to.

    Returns:
        A plan whose windows sum to one (to float32 rounding) at every pixel.
    """
    tile_height, row_starts = _layout(height, height if tile is None else tile, overlap, multiple)
    tile_width, col_starts = _layout(width, width if tile is None else tile, overlap, multiple)
    return TilePlan(
        height,
        width,
        row_starts,
        col_starts,
        tile_height,
        tile_width,
        _windows(row_starts, height, tile_height, overlap),
        _windows(col_starts, width, tile_width, overlap),
    )


def run_tiled(
    fn: Callable[[list[Tile]], Tensor],
    plan: TilePlan,
    *,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run `fn` over all tiles and blend the results.

    Args:
        fn: takes up to `batch_size` tiles and gives (len, C, tile_height, tile_width), on any device.
        plan: from `plan_tiles`.
        batch_size: tiles a call.
        progress: called with (tiles done, tiles in all).

    Returns:
        (C, height, width) float32 on the host.

    Raises:
        ConfigError: batch_size is below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1 tile", hint="use 1")
    tiles = plan.tiles
    canvas: Tensor | None = None
    for first in range(0, len(tiles), batch_size):
        batch = tiles[first : first + batch_size]
        results = fn(batch).to("cpu", torch.float32)
        if len(tiles) == 1:
            canvas = results[0]
        else:
            if canvas is None:
                canvas = torch.zeros(results.shape[1], plan.height, plan.width)
            for tile, result in zip(batch, results, strict=True):
                canvas[:, tile.rows, tile.cols] += result * plan.window(tile)
        if progress is not None:
            progress(first + len(batch), len(tiles))
    assert canvas is not None, "a plan has at least one tile"
    return canvas
