"""Upscaler: the one place that knows all parts. Picture in, larger picture out.

The picture and the canvas stay on the host; only tiles visit the device. Every result depends on the picture, the
settings, the weights and the seed alone, not on tile batches, file names or the order of files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from linearsr.alpha import bleed_colors, resize_alpha
from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.checkpoint import CONFIG_NAME, load_network, read_config
from linearsr.color import COLOR_FIXES, apply_color_fix
from linearsr.config import CheckpointConfig
from linearsr.device import autocast_dtype, free_memory, resolve_device, tile_memory
from linearsr.enlarge import Blend, Engine, Enlargement, enlarge
from linearsr.errors import ConfigError, ShapeError, WeightsError
from linearsr.hub import BUNDLED, ModelSource, find_model
from linearsr.image_io import Picture
from linearsr.model.experts import ExpertBank
from linearsr.noise import NoiseField, content_key
from linearsr.resize import resize
from linearsr.schedules import compact_grid
from linearsr.sizing import OutputSize, pass_sizes, resolve_size
from linearsr.tags.tagger import FixedTagger, Tagger
from linearsr.tags.vocabulary import parse_tags
from linearsr.tiling import MIN_TILE, check_tile

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Upscaler"]

logger = logging.getLogger(__name__)
Progress = Callable[[float], None]
ALPHA_MODES = ("auto", "resize", "model", "drop")
WHOLE_FACTOR = 1.5
"""`auto` takes a picture whole if neither side is longer than this many tiles: two tiles would cost more."""


class Upscaler:
    """Enlarges or restores pictures with one checkpoint.

    Args:
        config: of the checkpoint.
        source: where its weight files come from.
        device: to compute on.
        dtype: precision of the dense layers for autocast; None is float32.
        tagger: names the tags of pictures for which the caller gives none; by default none are named.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        source: ModelSource,
        device: torch.device,
        dtype: torch.dtype | None,
        tagger: Tagger | None = None,
    ) -> None:
        if config.autoencoder.kind != "pixel":
            raise WeightsError(
                f"model {source.name!r} uses the {config.autoencoder.kind!r} autoencoder, expected 'pixel'",
                hint="this version runs the compact family only",
            )
        self.config = config
        self.source = source
        self.device = device
        self.tagger: Tagger = FixedTagger() if tagger is None else tagger
        self.bank = ExpertBank(config.experts.boundaries_log_snr, self._load_expert)
        self.engine = Engine(config, PixelAutoencoder(config.autoencoder), self.bank, device, dtype)
        self.grid = self.engine.grid
        check_tile(config.sampling.tile, config.sampling.tile_overlap, self.grid)
        if self.engine.autoencoder.latent_channels != config.model.in_channels:
            raise ConfigError(
                f"model.in_channels is {config.model.in_channels}, expected {self.engine.autoencoder.latent_channels} "
                f"for an autoencoder factor of {config.autoencoder.factor}"
            )

    @classmethod
    def from_pretrained(
        cls, model: str | Path = BUNDLED, *, device: str = "auto", dtype: str = "auto", tagger: Tagger | None = None
    ) -> Upscaler:
        """Open a model; its weights load when the first step needs them.

        Args:
            model: `compact` (bundled), a checkpoint folder, or a Hub id `owner/name[@revision]`.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `auto`, `fp32`, `bf16` or `fp16`.
            tagger: as the class takes it.

        Raises:
            WeightsError: no such model, or its config does not fit.
            DeviceError: the device or precision is not available.
        """
        target = resolve_device(device)
        precision = autocast_dtype(dtype, target)
        source = find_model(model)
        config = read_config(source.fetch(CONFIG_NAME).parent)
        try:
            return cls(config, source, target, precision, tagger)
        except ConfigError as error:
            raise WeightsError(f"{CONFIG_NAME} of model {source.name!r}: {error}", hint=error.hint) from error

    def _load_expert(self, index: int) -> Any:  # noqa: ANN401
        path = self.source.fetch(self.config.experts.files[index])
        return load_network(path.parent, self.config, index, self.device)

    def validate(
        self,
        *,
        steps: int | None = None,
        tags: str | tuple[str, ...] | None = None,
        tile: str | int = "auto",
        tile_overlap: int | None = None,
        color_fix: str | None = None,
        alpha: str = "auto",
        batch_size: int = 1,
        color_strength: float = 1.0,
    ) -> None:
        """Check settings against this model before any picture is read.

        Raises:
            ConfigError: a setting that this model cannot serve; names the value and what fits.
        """
        self._time_grid(steps)
        if tags is not None:
            parse_tags(tags, self.config.tags.vocabulary)
        if isinstance(tile, str) and tile not in ("auto", "off"):
            raise ConfigError(f"tile is {tile!r}, expected auto, off or a number of pixels", hint="use `--tile auto`")
        overlap = self._overlap(tile, tile_overlap)
        if tile != "off":
            check_tile(self.config.sampling.tile if isinstance(tile, str) else tile, overlap, self.grid)
        if color_fix is not None and color_fix not in COLOR_FIXES:
            raise ConfigError(f"color fix is {color_fix!r}, expected {', '.join(COLOR_FIXES)}")
        if alpha not in ALPHA_MODES:
            raise ConfigError(f"alpha is {alpha!r}, expected {', '.join(ALPHA_MODES)}")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected at least 1 tile", hint="use 1")
        if not 0.0 <= color_strength <= 1.0:
            raise ConfigError(f"color_strength is {color_strength:g}, expected a number from 0 to 1", hint="use 1")

    def _time_grid(self, steps: int | None) -> Tensor:
        published = {int(count): grid for count, grid in self.config.sampling.t_grids.items()}
        return compact_grid(self.config.sampling.steps if steps is None else steps, published, self.config.flow.shift)

    def _overlap(self, tile: str | int, overlap: int | None) -> int:
        if overlap is not None:
            return overlap
        side = self.config.sampling.tile if isinstance(tile, str) else tile
        return min(self.config.sampling.tile_overlap, max(0, side) // 2 // self.grid * self.grid)

    def __call__(self, image: Picture | Image.Image | np.ndarray | Tensor, **settings: Any) -> Any:  # noqa: ANN401
        """Upscale a picture of any of the usual kinds and return the same kind.

        Args:
            image: a `Picture`; a PIL image (8 bits; RGB or RGBA comes back); an array (H, W, 3) or (H, W, 4), uint8
                or float in [0, 1]; or a tensor (3, H, W) float in [0, 1].
            settings: as `upscale_picture`.

        Raises:
            ShapeError: an array or tensor of another shape.
        """
        if isinstance(image, Picture):
            return self.upscale_picture(image, **settings)
        if isinstance(image, Tensor):
            if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
                raise ShapeError(f"tensor is {image.dtype} {tuple(image.shape)}, expected (3, H, W) float in [0, 1]")
            pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()
            result = self.upscale_picture(Picture.from_array(pixels), **settings)
            return torch.from_numpy(np.ascontiguousarray(result.rgb.transpose(2, 0, 1))).to(image.device, image.dtype)
        if isinstance(image, np.ndarray):
            return self._call_array(image, settings)
        from PIL import Image as PILImage

        return PILImage.fromarray(self._call_array(_pil_array(image), settings))

    def _call_array(self, array: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
        if array.ndim != 3 or array.shape[2] not in (3, 4):
            raise ShapeError(f"array is {array.shape}, expected (H, W, 3) or (H, W, 4)")
        is_bytes = array.dtype == np.uint8
        if not is_bytes and not np.issubdtype(array.dtype, np.floating):
            raise ShapeError(f"array holds {array.dtype}, expected uint8 or float in [0, 1]")
        pixels = array.astype(np.float32) / 255.0 if is_bytes else array.astype(np.float32)
        alpha = pixels[:, :, 3] if pixels.shape[2] == 4 else None
        result = self.upscale_picture(Picture.from_array(pixels[:, :, :3], alpha), **settings)
        planes = result.rgb if result.alpha is None else np.dstack([result.rgb, result.alpha])
        return np.floor(planes.clip(0, 1) * 255.0 + 0.5).astype(np.uint8) if is_bytes else planes

    def upscale_picture(
        self,
        picture: Picture,
        *,
        scale: float | None = None,
        size: tuple[int | None, int | None] | None = None,
        long_side: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        tags: str | tuple[str, ...] | None = None,
        tile: str | int = "auto",
        tile_overlap: int | None = None,
        batch_size: int = 1,
        alpha: str = "auto",
        color_fix: str | None = None,
        color_strength: float = 1.0,
        progress: Progress | None = None,
    ) -> Picture:
        """Upscale a decoded picture, its alpha on a path of its own.

        Args:
            picture: as from `image_io.read`.
            scale, size, long_side: one request for the output size, as `sizing.resolve_size`; x4 when none is given.
            steps: network evaluations; 1 is the most faithful, more add detail. The model's own default when None.
            seed: of the noise. One step uses none.
            tags: degradations the picture has, such as `"jpeg, noise:weak"`, or `"clean"`; None asks the tagger.
            tile: `auto`, `off` (whole picture at once) or a side in output pixels.
            tile_overlap: pixels that neighbouring tiles share; the model's own default when None.
            batch_size: tiles a call of the network.
            alpha: `auto` and `resize` enlarge it by bicubic, `model` by the network, `drop` leaves it out.
            color_fix: `none`, `wavelet` or `adain`; the model's own default when None.
            color_strength: 0 to 1.
            progress: called with the fraction done, 0 to 1.

        Returns:
            A new picture with the metadata of the old one.

        Raises:
            ConfigError: a setting is out of range, or the output would be smaller than the input.
            ImageError: the network gives values that are not finite.
            WeightsError, OutOfMemoryError: the weights cannot be had, or the smallest tile does not fit.
        """
        height, width = picture.rgb.shape[:2]
        target = resolve_size(width, height, scale=scale, size=size, long_side=long_side)
        settings: dict[str, Any] = dict(
            steps=steps, seed=seed, tags=tags, tile=tile, tile_overlap=tile_overlap, batch_size=batch_size,
            color_fix=color_fix, color_strength=color_strength,
        )  # fmt: skip
        self.validate(
            steps=steps, tags=tags, tile=tile, tile_overlap=tile_overlap, color_fix=color_fix, alpha=alpha,
            batch_size=batch_size, color_strength=color_strength,
        )  # fmt: skip
        has_alpha = picture.alpha is not None and alpha != "drop"
        rgb = picture.rgb if picture.alpha is None else bleed_colors(picture.rgb, picture.alpha)
        lr = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32))
        out_size = (target.width, target.height)
        sr = self.upscale_tensor(lr, size=out_size, progress=progress, **settings)
        if picture.info.is_gray:
            sr = sr.mean(dim=0, keepdim=True).expand(3, -1, -1)
        new_alpha = None
        if has_alpha and picture.alpha is not None:
            if alpha == "model":
                plane = torch.from_numpy(np.ascontiguousarray(picture.alpha, dtype=np.float32)).expand(3, -1, -1)
                new_alpha = self.upscale_tensor(plane, size=out_size, **settings).mean(dim=0).numpy()
            else:
                new_alpha = resize_alpha(picture.alpha, (target.height, target.width))
        return replace(picture, rgb=sr.permute(1, 2, 0).contiguous().numpy(), alpha=new_alpha)

    @torch.no_grad()
    def upscale_tensor(
        self,
        lr: Tensor,
        *,
        size: tuple[int, int],
        steps: int | None = None,
        seed: int = 0,
        tags: str | tuple[str, ...] | None = None,
        tile: str | int = "auto",
        tile_overlap: int | None = None,
        batch_size: int = 1,
        color_fix: str | None = None,
        color_strength: float = 1.0,
        blend: Blend = "tiles",
        progress: Progress | None = None,
    ) -> Tensor:
        """Upscale (3, h, w) in [0, 1] to exactly `size` = (width, height); see `upscale_picture` for the rest.

        Args:
            lr: float32 on the host, sRGB-encoded.
            blend: `tiles` samples each tile to its end and blends once; `steps` blends the velocity of all tiles at
                every step. Compared in docs/concepts/tiling.md.

        Returns:
            (3, height, width) float32 on the host, clamped to [0, 1].

        Raises:
            As `upscale_picture`; tile, overlap and batch size are not checked here, see `validate`.
        """
        height, width = lr.shape[-2:]
        target = OutputSize(width=size[0], height=size[1], scale=1.0)
        sizes = pass_sizes(width, height, target)
        key = content_key(lr)
        names = parse_tags(self.tagger.tag(lr) if tags is None else tags, self.config.tags.vocabulary)
        fix = self.config.sampling.color_fix if color_fix is None else color_fix
        current, ts = lr, self._time_grid(steps)
        for index, out in enumerate(sizes):
            job = Enlargement(
                engine=self.engine,
                lr=current,
                out=out,
                ts=ts,
                noise=NoiseField(seed, key, (out.height, out.width)),
                tags=names if index == 0 else (),
            )
            side = self._tile_side(tile, job.padded, batch_size)
            logger.debug(
                "%dx%d to %dx%d, times %s, tags %s, %s, %s on %s",
                *(current.shape[2], current.shape[1], out.width, out.height),
                [round(float(t), 3) for t in ts[:-1]],
                ", ".join(job.tags) if job.tags else "none",
                "whole" if side is None else f"tiles of at most {side}",
                "float32" if self.engine.dtype is None else str(self.engine.dtype).removeprefix("torch."),
                self.device,
            )
            current = enlarge(
                job,
                tile=side,
                overlap=self._overlap(tile, tile_overlap),
                batch_size=batch_size,
                blend=blend,
                progress=_share(progress, index, len(sizes)),
            ).clamp_(0, 1)
        if fix != "none":
            reference = resize(lr, (size[1], size[0])).clamp_(0, 1)
            current = apply_color_fix(fix, current, reference, color_strength).clamp_(0, 1)
        return current

    def _fitting_side(self, batch_size: int) -> int:
        """The model's own tile, halved until a batch (or a whole picture, see `WHOLE_FACTOR`) fits into free memory."""
        side, free = self.config.sampling.tile, free_memory(self.device)
        while free is not None and side // 2 >= MIN_TILE:
            need = tile_memory(self.config, side, side, self.engine.dtype) * max(batch_size, WHOLE_FACTOR**2)
            if need <= free // 2:
                break
            side = side // 2 // self.grid * self.grid
        return side

    def _tile_side(self, tile: str | int, padded: tuple[int, int], batch_size: int = 1) -> int | None:
        if tile == "off":
            return None
        if tile == "auto":
            side = self._fitting_side(batch_size)
            return None if max(padded) <= WHOLE_FACTOR * side else side
        return int(tile)


def _pil_array(image: Image.Image) -> np.ndarray:
    """8-bit RGB or RGBA of a PIL image; 16-bit gray is rounded, as Pillow's own conversion clips it to white."""
    if image.mode.startswith("I;16"):
        gray = np.rint(np.asarray(image).astype(np.float32) / 257.0).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ShapeError(
            f"picture has mode {image.mode!r}, whose range is not known, expected 8-bit or I;16",
            hint="scale it to [0, 1] and give an array (H, W, 3)",
        )
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))


def _share(progress: Progress | None, index: int, count: int) -> Progress:
    """Progress of one pass among several of about equal weight."""
    return (lambda _: None) if progress is None else lambda fraction: progress((index + fraction) / count)
