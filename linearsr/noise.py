"""Starting noise that depends on the picture and the seed, and on nothing about how the work is done.

The canvas is cut into fixed blocks of `BLOCK` pixels, each drawn on the CPU in float32 by a generator of its own, keyed
by (seed, content, output size, block). Any window of the canvas is put together from its blocks, so tile size, batch,
order, shard and device change nothing, and nothing the size of the canvas is ever drawn.
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
def _block(key: str, row: int, col: int) -> Tensor:
    digest = hashlib.sha256(f"{key}/{row}/{col}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn(3, BLOCK, BLOCK, generator=generator)


class NoiseField:
    """Standard normal noise over an unbounded pixel plane, deterministic by key.

    Args:
        seed: the user's seed.
        content: key of the picture, as from `content_key`.
        size: (height, width) of the output.
    """

    def __init__(self, seed: int, content: str, size: tuple[int, int]) -> None:
        self._key = f"{seed}/{content}/{size[0]}x{size[1]}"

    def window(self, tile: Tile) -> Tensor:
        """(3, height, width) float32 noise of a window; equal wherever windows meet."""
        out = torch.empty(3, tile.height, tile.width)
        bottom, right = tile.top + tile.height, tile.left + tile.width
        for row in range(tile.top // BLOCK, (bottom - 1) // BLOCK + 1):
            for col in range(tile.left // BLOCK, (right - 1) // BLOCK + 1):
                top, left = max(tile.top, row * BLOCK), max(tile.left, col * BLOCK)
                end, edge = min(bottom, (row + 1) * BLOCK), min(right, (col + 1) * BLOCK)
                block = _block(self._key, row, col)
                out[:, top - tile.top : end - tile.top, left - tile.left : edge - tile.left] = block[
                    :, top - row * BLOCK : end - row * BLOCK, left - col * BLOCK : edge - col * BLOCK
                ]
        return out
