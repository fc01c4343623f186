"""Upscaler: the one place that knows all parts. Picture in, larger picture out.

The picture and the canvas stay on the host; only tiles visit the device. Every result depends on the picture, the
settings, the weights and the seed alone, not on tile batches, file names or the order of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from linearsr.alpha import resize_alpha
from linearsr.checkpoint import CONFIG_NAME
from linearsr.color import COLOR_FIXES, apply_color_fix
from linearsr.config import check_cfg_scale
from linearsr.device import autocast_dtype, resolve_device
from linearsr.enlarge import Blend, Enlargement, check_tiling, choose_overlap, choose_tile, enlarge, make_engine
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub import BUNDLED, Model, open_model
from linearsr.image_arrays import as_picture, network_input
from linearsr.image_io import Picture
from linearsr.model.experts import ExpertBank
from linearsr.noise import NoiseField, content_key
from linearsr.resize import resize
from linearsr.schedules import compact_grid
from linearsr.sizing import OutputSize, pass_sizes, resolve_size
from linearsr.tags.tagger import Tagger
from linearsr.tags.vocabulary import parse_tags

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Upscaler"]

Progress = Callable[[float], None]
ALPHA_MODES = ("auto", "resize", "model", "drop")


class Upscaler:
    """Enlarges or restores pictures with one checkpoint.

    Args:
        model: as opened by `hub.open_model`.
        device: to compute on.
        dtype: precision of the dense layers for autocast; None is float32.
        tagger: names the tags of pictures for which the caller gives none: `auto` is the model's own if it has one,
            `none` or None names none.
    """

    def __init__(
        self, model: Model, device: torch.device, dtype: torch.dtype | None, tagger: Tagger | str | None = "auto"
    ) -> None:
        self.model = model
        self.config = model.config
        self.device = device
        self._tagger = tagger
        self.bank = ExpertBank(model.config.experts.boundaries_log_snr, partial(model.load_expert, device=device))
        try:
            self.engine = make_engine(model.config, self.bank, device, dtype)
        except (ConfigError, WeightsError) as error:
            raise WeightsError(f"{CONFIG_NAME} of model {model.source.name!r}: {error}", hint=error.hint) from error

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = BUNDLED,
        *,
        device: str = "auto",
        dtype: str = "auto",
        tagger: Tagger | str | None = "auto",
        loras: Sequence[tuple[str | Path, float]] = (),
    ) -> Upscaler:
        """Open a model; its weights load when the first step needs them.

        Args:
            model: `compact` (bundled), a checkpoint folder, or a Hub id `owner/name[@revision]`.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `auto`, `fp32`, `bf16` or `fp16`.
            tagger: as the class takes it.
            loras: path and weight of LoRA files for this model, merged into its experts; weight 1 is as trained.

        Raises:
            WeightsError: no such model or LoRA, or one that does not fit.
            DeviceError: the device or precision is not available.
        """
        if isinstance(tagger, str) and tagger not in ("auto", "none"):
            raise ConfigError(f"tagger is {tagger!r}, expected auto, none or an object with a method tag")
        target = resolve_device(device)
        precision = autocast_dtype(dtype, target)
        return cls(open_model(model, loras), target, precision, tagger)

    @cached_property
    def tagger(self) -> Tagger | None:
        """Names the tags of pictures; the model's own is loaded at its first use. None where nothing names any.

        Raises:
            WeightsError: the model's own cannot be had.
        """
        if isinstance(self._tagger, str):
            return self.model.load_tagger() if self._tagger == "auto" else None
        return self._tagger

    def find_tags(self, picture: Picture | Tensor, tags: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Canonical tags for a picture, or for its pixels (3, h, w): those given, or what the tagger names.

        Raises:
            ConfigError: a tag that the model does not know.
            WeightsError: as `tagger`.
        """
        if tags is None and self.tagger is not None:
            tags = self.tagger.tag(network_input(picture) if isinstance(picture, Picture) else picture)
        return parse_tags(() if tags is None else tags, self.config.tags.vocabulary)

    def validate(
        self,
        *,
        steps: int | None = None,
        tags: str | tuple[str, ...] | None = None,
        cfg_scale: float | None = None,
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
        if cfg_scale is not None:
            check_cfg_scale(cfg_scale)
        check_tiling(self.engine, tile, tile_overlap)
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

    def __call__(self, image: Picture | Image.Image | np.ndarray | Tensor, **settings: Any) -> Any:  # noqa: ANN401
        """Upscale a picture of any of the usual kinds and return the same kind.

        Args:
            image: as `image_arrays.as_picture`.
            settings: as `upscale_picture`.

        Raises:
            ShapeError: an array or tensor of another shape.
        """
        picture, back = as_picture(image)
        return back(self.upscale_picture(picture, **settings))

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
        cfg_scale: float | None = None,
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
            cfg_scale: weight of guidance towards the tags, 0 to 20; 1 is off, anything else runs the network twice a
                step. The model's own default when None; no effect without tags.
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
            steps=steps, tags=tags, cfg_scale=cfg_scale, tile=tile, tile_overlap=tile_overlap, batch_size=batch_size,
            color_fix=color_fix, color_strength=color_strength,
        )  # fmt: skip
        self.validate(alpha=alpha, **settings)
        settings |= {"size": (target.width, target.height), "seed": seed, "tags": self.find_tags(picture, tags)}
        sr = self.upscale_tensor(network_input(picture), progress=progress, **settings)
        if picture.info.is_gray:
            sr = sr.mean(dim=0, keepdim=True).expand(3, -1, -1)
        new_alpha = None
        if picture.alpha is not None and alpha != "drop":
            if alpha == "model":
                plane = torch.from_numpy(np.ascontiguousarray(picture.alpha, dtype=np.float32)).expand(3, -1, -1)
                new_alpha = self.upscale_tensor(plane, **settings).mean(dim=0).numpy()
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
        cfg_scale: float | None = None,
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
        names = self.find_tags(lr, tags)
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
                cfg_scale=self.config.sampling.cfg_scale if cfg_scale is None else cfg_scale,
            )
            current = enlarge(
                job,
                tile=choose_tile(self.engine, tile, job.padded, batch_size),
                overlap=choose_overlap(self.engine, tile, tile_overlap),
                batch_size=batch_size,
                blend=blend,
                progress=_share(progress, index, len(sizes)),
            ).clamp_(0, 1)
        if fix != "none":
            reference = resize(lr, (size[1], size[0])).clamp_(0, 1)
            current = apply_color_fix(fix, current, reference, color_strength).clamp_(0, 1)
        return current


def _share(progress: Progress | None, index: int, count: int) -> Progress:
    """Progress of one pass among several of about equal weight."""
    return (lambda _: None) if progress is None else lambda fraction: progress((index + fraction) / count)
