"""DC-AE: pictures to latents 32 times smaller along a side, and back, over diffusers' `AutoencoderDC`.

Its deep blocks attend over all they are given, so a tile does not come out quite as the same place of a whole picture.
Pictures are therefore taken whole as far as memory goes, and tiles are large and overlap widely.

Source: arXiv:2410.10733; scaled as in SANA, arXiv:2410.10629.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.autoencoders.dcae_weights import read_autoencoder, read_with_decoder
from linearsr.config import AutoencoderConfig
from linearsr.device import empty_cache, free_memory, is_out_of_memory
from linearsr.errors import ConfigError, ImageError, OutOfMemoryError, ShapeError, WeightsError
from linearsr.tiling import MIN_TILE, Tile, plan_tiles, run_tiled

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

__all__ = ["OVERLAP", "TILE", "WHOLE", "DcaeAutoencoder", "decode_memory", "load_dcae"]

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
Piece = Callable[[Tensor, Tile], Tensor]
"""Result (B, C, height, width) of a tile of all pictures; the tile counts what the result's pixels count."""
TILE, OVERLAP, WHOLE = 1024, 256, 2048
SMALLEST_RETRY = 256
"""Want of memory never leads to smaller tiles than this by itself: they differ too much from the whole picture."""


def decode_memory(height: int, width: int, dtype: torch.dtype | None, channels: int = 128) -> int:
    """Bytes that decoding one picture or tile needs at its peak, weights left out; encoding needs about as much.

    Counts what lives at once at full size: three feature maps, two more in float32 inside the norm, and the picture
    going in and out.

    Args:
        height, width: in pixels.
        dtype: of the weights; None is float32.
        channels: of the feature maps at full size (f32c32: 128).
    """
    size = 4 if dtype is None else dtype.itemsize
    return height * width * (channels * (3 * size + 2 * 4) + 2 * 3 * 4)


class DcaeAutoencoder:
    """Encoder and decoder of a DC-AE, tiled where a picture is too large.

    Args:
        model: diffusers' module with its weights; used as it is, in its own dtype, without autocast.
        config: factor and scaling factor.
        tile: largest side of a tile in pixels, a multiple of the factor; None for the whole picture always.
        overlap: pixels that neighbouring tiles share, a multiple of the factor; at most half a tile is used.
        whole: a picture with no side longer than this is not tiled; give the tile here too to have none larger.

    Raises:
        WeightsError: the module has another factor than the config.
        ConfigError: a tile or overlap off the grid.
    """

    def __init__(
        self,
        model: AutoencoderDC,
        config: AutoencoderConfig,
        *,
        tile: int | None = TILE,
        overlap: int = OVERLAP,
        whole: int = WHOLE,
    ) -> None:
        self.factor = int(model.spatial_compression_ratio)
        self.latent_channels = int(model.config["latent_channels"])
        if self.factor != config.factor:
            raise WeightsError(
                f"the autoencoder downsamples by {self.factor}, expected {config.factor} (autoencoder.factor)",
                hint="give the autoencoder that the model was trained with",
            )
        _check_tiling(tile, overlap, self.factor)
        self.tile, self.overlap, self.whole = tile, overlap, whole
        self._encoder = model.encoder.eval().requires_grad_(False)
        self._decoder = model.decoder.eval().requires_grad_(False)
        self._scaling = config.scaling_factor
        self._channels = max(model.config["encoder_block_out_channels"][0], self._decoder.norm_out.dim[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._decoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of all that is computed with them; pictures and latents are float32."""
        return next(self._decoder.parameters()).dtype

    def to(self, device: torch.device | str) -> DcaeAutoencoder:
        """Move the weights; returns itself."""
        self._encoder.to(device)
        self._decoder.to(device)
        return self

    def choose_tile(self, height: int, width: int) -> int | None:
        """Largest side of a tile that a picture of this size is cut to at first; None for the whole picture.

        Less than `tile`, down to `SMALLEST_RETRY`, where that would take over half of the memory that is free.
        """
        if self.tile is None or (max(height, width) <= self.whole and self._num_fitting(height, width) > 0):
            return None
        side = self.tile
        while self._num_fitting(side, side) == 0 and self._half(side) >= SMALLEST_RETRY:
            side = self._half(side)
        return side

    def _num_fitting(self, height: int, width: int) -> int:
        """Pictures of this size that half of the free memory has room for."""
        free = free_memory(self.device)
        return 1 if free is None else free // 2 // decode_memory(height, width, self.dtype, self._channels)

    @torch.no_grad()
    def encode(self, hr: Tensor) -> Tensor:
        """Latent of pictures, the same at every call; sides are brought to multiples of the factor by reflection.

        Args:
            hr: (B, 3, H, W) in [0, 1], H and W at least 1, on any device.

        Returns:
            (B, C, ceil(H / factor), ceil(W / factor)) float32 times the scaling factor, on the weights' device.

        Raises:
            ShapeError: another shape.
            ImageError: values that are not finite.
            OutOfMemoryError: tiles as small as reasonable do not fit.
        """
        if hr.dim() != 4 or hr.shape[1] != 3 or hr.numel() == 0:
            raise ShapeError(f"pictures are {tuple(hr.shape)}, expected (B, 3, H, W) with H and W of at least 1")
        factor = self.factor
        size = math.ceil(hr.shape[2] / factor) * factor, math.ceil(hr.shape[3] / factor) * factor

        def run(pictures: Tensor, tile: Tile) -> Tensor:
            rows, cols = (slice(s.start * factor, s.stop * factor) for s in (tile.rows, tile.cols))
            window = pictures[:, :, rows, cols].to(self.device, torch.float32) * 2.0 - 1.0
            return self._encoder(window.to(self.dtype)).float() * self._scaling

        return self._run(run, _extend(hr, *size), size, factor, None).to(self.device)

    @torch.no_grad()
    def decode(
        self, latent: Tensor, size: tuple[int, int] | None = None, *, progress: Progress | None = None
    ) -> Tensor:
        """Pictures of a latent.

        Args:
            latent: (B, C, h, w) as from `encode`, on any device.
            size: (H, W) to crop to, as the encoded picture had it; None for factor * h by factor * w.
            progress: called with (tiles done, tiles in all), of each group of pictures that goes through at once.

        Returns:
            (B, 3, H, W) float32 on the host, in the range of [0, 1] but not clamped.

        Raises:
            ShapeError: another shape, or a size that the latent does not hold.
            ImageError, OutOfMemoryError: as `encode`.
        """
        if latent.dim() != 4 or latent.shape[1] != self.latent_channels or latent.numel() == 0:
            raise ShapeError(f"latent is {tuple(latent.shape)}, expected (B, {self.latent_channels}, h, w)")
        factor = self.factor
        full = latent.shape[2] * factor, latent.shape[3] * factor
        height, width = full if size is None else size
        if not (0 < height <= full[0] and 0 < width <= full[1]):
            raise ShapeError(f"size is {height}x{width}, expected at most {full[0]}x{full[1]}, what the latent holds")

        def run(latents: Tensor, tile: Tile) -> Tensor:
            rows, cols = (slice(s.start // factor, s.stop // factor) for s in (tile.rows, tile.cols))
            window = latents[:, :, rows, cols].to(self.device, torch.float32) / self._scaling
            return self._decoder(window.to(self.dtype)).float() * 0.5 + 0.5

        return self._run(run, latent, full, 1, progress)[..., :height, :width]

    def reconstruct(self, hr: Tensor) -> Tensor:
        """decode(encode(hr)), (B, 3, H, W) as `hr`: the best that any network in this latent can be asked for."""
        return self.decode(self.encode(hr), (hr.shape[2], hr.shape[3]))

    def _run(self, fn: Piece, source: Tensor, size: tuple[int, int], unit: int, progress: Progress | None) -> Tensor:
        """As many pictures at once as fit; the result is a canvas of `size` pixels in blocks of `unit` pixels."""
        side = self.choose_tile(*size)
        count = self._num_fitting(*(size if side is None else (side, side)))
        done = [self._tiled(fn, part, size, side, unit, progress) for part in source.split(max(1, count))]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _tiled(
        self, fn: Piece, source: Tensor, size: tuple[int, int], side: int | None, unit: int, progress: Progress | None
    ) -> Tensor:
        """Out of memory takes the pictures one by one, then tiles of half the side."""

        def run(tiles: list[Tile]) -> Tensor:
            result = fn(source, tiles[0])
            if not bool(torch.isfinite(result).all()):
                raise ImageError("the autoencoder gave values that are not finite", hint="try `--dtype fp32`")
            return result.flatten(0, 1)[None]

        overlap = self.overlap if side is None else min(self.overlap, self._half(side))
        tile = None if side is None else side // unit
        plan = plan_tiles(size[0] // unit, size[1] // unit, tile, overlap // unit, self.factor // unit)
        try:
            return run_tiled(run, plan, progress=progress).unflatten(0, (len(source), -1))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            smaller = side if len(source) > 1 else self._smaller(max(plan.tile_height, plan.tile_width) * unit, error)
        empty_cache(self.device)  # after the handler, which keeps the tensors of the failed try alive
        return torch.cat([self._tiled(fn, part, size, smaller, unit, progress) for part in source.split(1)])

    def _half(self, side: int) -> int:
        return side // 2 // self.factor * self.factor

    def _smaller(self, side: int, error: RuntimeError) -> int:
        """Half the tile that did not fit, `SMALLEST_RETRY` at least."""
        half = self._half(side)
        if side <= SMALLEST_RETRY:
            other = "" if self.device.type == "cpu" else ", or use `--device cpu`"
            raise OutOfMemoryError(
                f"{self.device} is out of memory even with {side}-pixel tiles of the autoencoder",
                hint="use `--offload expert`, or close other programs that use it" + other,
            ) from error
        smaller = max(half, SMALLEST_RETRY // self.factor * self.factor)
        logger.info("the autoencoder ran out of memory with %d-pixel tiles, trying %d", side, smaller)
        return smaller


def load_dcae(
    folder: Path,
    config: AutoencoderConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    decoder_folder: Path | None = None,
    *,
    tile: int | None = TILE,
    overlap: int = OVERLAP,
    whole: int = WHOLE,
) -> DcaeAutoencoder:
    """Load a DC-AE from a folder as diffusers saves it, strictly and without the network.

    Args:
        folder: with config.json and diffusion_pytorch_model.safetensors.
        config: factor and scaling factor; the folder's own scaling factor is not used.
        device: to compute on.
        dtype: of the weights; None is float32. float16 overflows with the published weights.
        decoder_folder: another such folder whose decoder is used, such as dc-ae-lite's.
        tile, overlap, whole: as `DcaeAutoencoder`.

    Raises:
        ConfigError: diffusers is not installed, or a tile or overlap off the grid.
        WeightsError: files missing, damaged, or not those of such an autoencoder; names the tensors.
    """
    precision = torch.float32 if dtype is None else dtype
    if decoder_folder is None:
        model = read_autoencoder(folder, precision)
    else:
        model = read_with_decoder(folder, decoder_folder, precision)
    stated = float(model.config["scaling_factor"])
    if stated != 1.0 and not math.isclose(stated, config.scaling_factor, rel_tol=1e-3):  # 1 is what diffusers fills in
        logger.warning(
            "the autoencoder in %s states a scaling factor of %g, the model uses %g: it may be another autoencoder",
            *(folder.name, stated, config.scaling_factor),
        )
    return DcaeAutoencoder(model, config, tile=tile, overlap=overlap, whole=whole).to(device)


def _check_tiling(tile: int | None, overlap: int, factor: int) -> None:
    if tile is not None and (tile < MIN_TILE or tile % factor):
        nearest = factor * math.ceil(max(tile, MIN_TILE) / factor)
        raise ConfigError(
            f"tile of the autoencoder is {tile}, expected a multiple of {factor} pixels, at least {MIN_TILE}",
            hint=f"use `--vae-tile {nearest}`, `--vae-tile auto`, or `--vae-tile off`",
        )
    if overlap < 0 or overlap % factor:
        raise ConfigError(f"tile overlap of the autoencoder is {overlap}, expected a multiple of {factor} pixels")


def _extend(image: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, H, W) grown at the bottom and right by reflection, or by its last pixels where too small for that."""
    for axis, pad in ((2, (0, 0, 0, height - image.shape[2])), (3, (0, width - image.shape[3], 0, 0))):
        if any(pad):
            image = F.pad(image, pad, mode="reflect" if max(pad) < image.shape[axis] else "replicate")
    return image
