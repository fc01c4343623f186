"""Starting noise that depends on the picture and the seed, and on nothing about how the work is done.

The canvas is cut into fixed blocks of `BLOCK` pixels a side, each drawn on the CPU in float32 by a generator of its
own, keyed by (seed, content, output size, block). Any window of the canvas is put together from its blocks, so tile
size, batch, order, shard and device change nothing, and nothing the size of the canvas is ever drawn.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from linearsr.tiling import Tile

__all__ = ["BLOCK", "NoiseField", "content_key"]

BLOCK = 256


def content_key(image: Tensor) -> str:
    """SHA-256 of a picture's pixels at 16-bit precision and its size; (3, H, W) in [0, 1]."""
    levels = (image.detach().to("cpu", torch.float32).clamp(0, 1) * 65535).round().to(torch.int32)
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(levels.contiguous().numpy().tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=32)
def _block(key: str, row: int, col: int, channels: int, side: int) -> Tensor:
    digest = hashlib.sha256(f"{key}/{row}/{col}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(channels, side, side, generator=generator)


class NoiseField:
    """Standard normal noise over an unbounded plane of cells, deterministic by key.

    Args:
        seed: the user's seed.
        content: key of the picture, as from `content_key`.
        size: (height, width) of the output.
        channels: numbers in a cell.
        cell: pixels along one side of a cell; divides `BLOCK`.
    """

    def __init__(self, seed: int, content: str, size: tuple[int, int], *, channels: int = 3, cell: int = 1) -> None:
        self._key = f"{seed}/{content}/{size[0]}x{size[1]}"
        self._channels, self._side = channels, BLOCK // cell

    def window(self, tile: Tile) -> Tensor:
        """(channels, height, width) float32 noise of a window given in cells; equal wherever windows meet."""
        out, side = torch.empty(self._channels, tile.height, tile.width), self._side
        bottom, right = tile.top + tile.height, tile.left + tile.width
        for row in range(tile.top // side, (bottom - 1) // side + 1):
            for col in range(tile.left // side, (right - 1) // side + 1):
                top, left = max(tile.top, row * side), max(tile.left, col * side)
                end, edge = min(bottom, (row + 1) * side), min(right, (col + 1) * side)
                block = _block(self._key, row, col, self._channels, side)
                out[:, top - tile.top : end - tile.top, left - tile.left : edge - tile.left] = block[
                    :, top - row * side : end - row * side, left - col * side : edge - col * side
                ]
        return out
