"""What the two model families do differently in one enlargement; everything else is shared.

A family knows what of the input the network sees under a tile (its view), how that becomes the condition, which cells
the sampler's state has, and how a latent becomes pixels. It holds no settings and draws no noise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.config import AutoencoderConfig, CheckpointConfig
from linearsr.device import memory_errors
from linearsr.errors import ConfigError
from linearsr.resize import resize_window
from linearsr.sizing import OutputSize
from linearsr.tiling import Tile

if TYPE_CHECKING:
    from linearsr.autoencoders.dcae import DcaeAutoencoder

__all__ = ["Blend", "Family", "LatentFamily", "PixelFamily", "make_family"]

Blend = Literal["tiles", "steps"]
Progress = Callable[[int, int], None]
NATIVE_SCALE = 4
"""Enlargement of the latent family: its stem reads low-resolution pixels as they are, on a grid fixed at training."""


class Family(Protocol):
    """One family's way between pictures and the network."""

    factor: int
    """Output pixels along one side of a latent pixel."""
    cell: int
    """Output pixels along one side of a cell of noise and blended state."""
    cell_channels: int
    blend: Blend
    """How tiles are joined unless the caller says otherwise."""

    def pass_size(self, width: int, height: int, out: OutputSize) -> OutputSize:
        """Size that the network makes of a `width` x `height` picture when `out` is wanted; resized to it after."""

    def view(self, lr: Tensor, out: OutputSize, tile: Tile) -> Tensor:
        """What the network sees of the input (3, h, w) under a tile of the output canvas."""

    def condition(self, view: Tensor) -> Tensor:
        """Views (B, 3, h, w) in [0, 1] to `Conditioning.lr`."""

    def cells(self, latent: Tensor) -> Tensor:
        """Latent (B, C, h, w) to cells (B, cell_channels, H, W)."""

    def latent(self, cells: Tensor) -> Tensor:
        """Inverse of `cells`."""

    def decode(self, latent: Tensor, view: Tensor, scale: float, progress: Progress | None = None) -> Tensor:
        """Latent to pixels (B, 3, H, W) in [0, 1], not clamped; progress is called with (tiles done, tiles in all)."""

    def free(self) -> None:
        """Let go of what is not needed while the network samples."""


def _replicate(window: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column of (3, h, w) up to a size: the canvas beyond the picture."""
    pad = (0, width - window.shape[2], 0, height - window.shape[1])
    return F.pad(window[None], pad, mode="replicate")[0] if any(pad) else window


class PixelFamily:
    """`compact`: any scale from 1 to 4, the enlarged input as condition, a lossless latent, cells are pixels."""

    cell, cell_channels = 1, 3
    blend: Blend = "tiles"

    def __init__(self, config: AutoencoderConfig) -> None:
        self.autoencoder = PixelAutoencoder(config)
        self.factor = config.factor
        self.latent_channels = self.autoencoder.latent_channels

    def pass_size(self, width: int, height: int, out: OutputSize) -> OutputSize:
        """As wanted: the network runs on the grid of the output."""
        return out

    def view(self, lr: Tensor, out: OutputSize, tile: Tile) -> Tensor:
        """The enlarged input under a tile, (3, tile height, tile width)."""
        size = height, width = (out.height, out.width)
        rows = slice(min(tile.top, height - 1), min(tile.top + tile.height, height))
        cols = slice(min(tile.left, width - 1), min(tile.left + tile.width, width))
        same_size = tuple(lr.shape[-2:]) == size
        window = lr[:, rows, cols] if same_size else resize_window(lr, size, rows, cols)
        return _replicate(window, tile.height, tile.width)

    def condition(self, view: Tensor) -> Tensor:
        """Frequency coefficients on the latent grid."""
        return self.autoencoder.condition(view)

    def cells(self, latent: Tensor) -> Tensor:
        """Depth to space."""
        return F.pixel_shuffle(latent, self.factor)

    def latent(self, cells: Tensor) -> Tensor:
        """Space to depth."""
        return F.pixel_unshuffle(cells, self.factor)

    def decode(self, latent: Tensor, view: Tensor, scale: float, progress: Progress | None = None) -> Tensor:
        """The enlarged input plus the residual."""
        return self.autoencoder.decode(latent, view, scale)

    def free(self) -> None:
        """Nothing to let go of."""


class LatentFamily:
    """`sana-*`: a learned autoencoder's latent, native low-resolution pixels as condition, always x4 in one pass.

    Args:
        config: of the checkpoint.
        load: gives the autoencoder when a picture is first decoded.
    """

    cell_channels: int
    blend: Blend = "steps"

    def __init__(self, config: CheckpointConfig, load: Callable[[], DcaeAutoencoder]) -> None:
        self.factor = self.cell = config.autoencoder.factor
        self.latent_channels = self.cell_channels = config.model.in_channels
        if config.model.lr_factor * NATIVE_SCALE != self.factor:
            raise ConfigError(
                f"model.lr_stem has {len(config.model.lr_stem)} convolutions for an autoencoder factor of "
                f"{self.factor}, expected factor = {NATIVE_SCALE} * 2^convolutions"
            )
        self._load = load

    @cached_property
    def autoencoder(self) -> DcaeAutoencoder:
        """Loaded at its first use."""
        return self._load()

    def pass_size(self, width: int, height: int, out: OutputSize) -> OutputSize:
        """Four times the input, whatever is wanted."""
        return OutputSize(width=NATIVE_SCALE * width, height=NATIVE_SCALE * height, scale=float(NATIVE_SCALE))

    def view(self, lr: Tensor, out: OutputSize, tile: Tile) -> Tensor:
        """The input's own pixels under a tile, (3, tile height / 4, tile width / 4)."""
        top, left, height, width = (v // NATIVE_SCALE for v in (tile.top, tile.left, tile.height, tile.width))
        top, left = min(top, lr.shape[1] - 1), min(left, lr.shape[2] - 1)
        return _replicate(lr[:, top : top + height, left : left + width], height, width)

    def condition(self, view: Tensor) -> Tensor:
        """Pixels in [-1, 1], for the network's stem."""
        return view * 2.0 - 1.0

    def cells(self, latent: Tensor) -> Tensor:
        """The latent itself."""
        return latent

    def latent(self, cells: Tensor) -> Tensor:
        """The cells themselves."""
        return cells

    def decode(self, latent: Tensor, view: Tensor, scale: float, progress: Progress | None = None) -> Tensor:
        """By the autoencoder, in tiles of its own where the picture is large."""
        with memory_errors("loading the autoencoder", hint="use `--offload expert`, or `--device cpu`"):
            autoencoder = self.autoencoder
        return autoencoder.decode(latent, progress=progress)

    def free(self) -> None:
        """Drop the autoencoder; it loads again for the next picture."""
        self.__dict__.pop("autoencoder", None)


def make_family(config: CheckpointConfig, load: Callable[[], DcaeAutoencoder]) -> Family:
    """The family of a checkpoint.

    Args:
        config: of the checkpoint.
        load: gives its learned autoencoder, if it has one.

    Raises:
        ConfigError: autoencoder and network do not fit one another.
    """
    if config.autoencoder.kind == "dcae":
        return LatentFamily(config, load)
    family = PixelFamily(config.autoencoder)
    if family.latent_channels != config.model.in_channels:
        raise ConfigError(
            f"model.in_channels is {config.model.in_channels}, expected {family.latent_channels} "
            f"for an autoencoder factor of {config.autoencoder.factor}"
        )
    return family
