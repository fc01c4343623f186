"""Upscaler: the one place that knows all parts. Picture in, larger picture out.

The picture and the canvas stay on the host; only tiles visit the device. Every result depends on the picture, the
settings, the weights and the seed alone, not on file names or the order of files; on tile batches by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from linearsr.alpha import resize_alpha
from linearsr.checkpoint import CONFIG_NAME
from linearsr.color import apply_color_fix
from linearsr.engine import check_parts, check_settings, make_engine
from linearsr.errors import ConfigError, WeightsError
from linearsr.families import Blend
from linearsr.hub import BUNDLED, Model, open_model
from linearsr.image_arrays import as_picture, network_input
from linearsr.image_io import Picture
from linearsr.passes import Passes, run_passes
from linearsr.resize import resize
from linearsr.runtime import Runtime, resolve_runtime
from linearsr.sizing import resolve_size
from linearsr.tagging import TagFinder, check_tagger
from linearsr.tags.tagger import Tagger

if TYPE_CHECKING:
    from PIL import Image

    from linearsr.hub_repo import OnDownload, OnLicence
    from linearsr.model.experts import ExpertBank

__all__ = ["Upscaler"]


class Upscaler:
    """Enlarges or restores pictures with one checkpoint.

    Args:
        model: as opened by `hub.open_model`.
        runtime: where and how to compute.
        tagger: names the tags of pictures for which the caller gives none: `auto` is the model's own if it has one,
            `none` or None names none, `KIND:SOURCE` is an open-vocabulary one such as `siglip:owner/name`.
        tag_vocabulary: names that a zero-shot tagger chooses from; None is the list that comes with LinearSR.
    """

    def __init__(
        self,
        model: Model,
        runtime: Runtime,
        tagger: Tagger | str | None = "auto",
        tag_vocabulary: Sequence[str] | None = None,
    ) -> None:
        self.model = model
        self.config = model.config
        try:
            self.engine = make_engine(model, runtime)
        except (ConfigError, WeightsError) as error:
            raise WeightsError(f"{CONFIG_NAME} of model {model.source.name!r}: {error}", hint=error.hint) from error
        self.tags = TagFinder(model, self.engine, tagger, tag_vocabulary)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = BUNDLED,
        *,
        device: str = "auto",
        dtype: str = "auto",
        offload: str = "none",
        compile: bool = False,
        vae_tile: str | int = "auto",
        tagger: Tagger | str | None = "auto",
        tag_vocabulary: Sequence[str] | None = None,
        loras: Sequence[tuple[str | Path, float]] = (),
        on_download: OnDownload | None = None,
        on_licence: OnLicence | None = None,
    ) -> Upscaler:
        """Open a model; its weights load when the first step needs them.

        Args:
            model: `compact` (bundled), a checkpoint folder, or a Hub id `owner/name[@revision]`.
            device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
            dtype: `auto`, `fp32`, `bf16` or `fp16`.
            offload, compile, vae_tile: as `runtime.Runtime`.
            tagger, tag_vocabulary: as the class takes them.
            loras: path and weight of LoRA files for this model, merged into its experts; weight 1 is as trained.
            on_download, on_licence: as `hub.open_model`.

        Raises:
            WeightsError: no such model or LoRA, or one that does not fit.
            DeviceError: the device or precision is not available.
            ConfigError: another setting is none of its values.
        """
        runtime = resolve_runtime(device, dtype, offload, compile=compile, vae_tile=vae_tile)
        opened = open_model(model, loras, on_download=on_download, on_licence=on_licence)
        if isinstance(tagger, str):
            check_tagger(tagger, opened.config)
        return cls(opened, runtime, tagger, tag_vocabulary)

    @property
    def bank(self) -> ExpertBank:
        """The experts."""
        return self.engine.bank

    @property
    def device(self) -> torch.device:
        """Where networks compute."""
        return self.engine.device

    @property
    def tags_ahead(self) -> bool:
        """Whether the tags of all pictures should be found before the first is sampled, see `prepare`.

        Tagger and text encoder are large then: each is loaded once, used for every picture and let go of.
        """
        return self.config.tags.kind == "text"

    @property
    def tagger(self) -> Tagger | None:
        """Names the tags of pictures, loaded at its first use; None where nothing names any."""
        return self.tags.tagger

    def find_tags(self, picture: Picture | Tensor | None, tags: str | tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Canonical tags for a picture, or for its pixels (3, h, w); as `TagFinder.find`."""
        return self.tags.find(picture, tags)

    def prepare(self, pictures: Sequence[tuple[str, ...]], negative_tags: str | None = None) -> None:
        """Embed the tags of all pictures to come, and let go of tagger and text encoder.

        Args:
            pictures: canonical tags of each.
            negative_tags: as `upscale_picture`.

        Raises:
            WeightsError: the text encoder cannot be had.
        """
        self.tags.free()
        self.engine.words.prepare(pictures, self.tags.negative(negative_tags))

    def check_parts(self) -> None:
        """Find out before the first picture what would fail after its last step; as `engine.check_parts`."""
        check_parts(self.model, self.engine)

    def validate(
        self,
        *,
        steps: int | None = None,
        tags: str | tuple[str, ...] | None = None,
        negative_tags: str | tuple[str, ...] | None = None,
        cfg_scale: float | tuple[float, ...] | None = None,
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
        self.engine.time_grid(steps)
        for words in (tags, negative_tags):
            if words is not None:
                self.engine.words.parse(words)
        check_settings(
            self.engine, cfg_scale=cfg_scale, tile=tile, tile_overlap=tile_overlap, color_fix=color_fix, alpha=alpha,
            batch_size=batch_size, color_strength=color_strength,
        )  # fmt: skip

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
        negative_tags: str | tuple[str, ...] | None = None,
        cfg_scale: float | tuple[float, ...] | None = None,
        tile: str | int = "auto",
        tile_overlap: int | None = None,
        batch_size: int = 1,
        alpha: str = "auto",
        color_fix: str | None = None,
        color_strength: float = 1.0,
        progress: Callable[[float], None] | None = None,
    ) -> Picture:
        """Upscale a decoded picture, its alpha on a path of its own.

        Args:
            picture: as from `image_io.read`.
            scale, size, long_side: one request for the output size, as `sizing.resolve_size`; x4 when none is given.
            steps: network evaluations; 1 is the most faithful, more add detail. The model's own default when None.
            seed: of the noise. One step uses none.
            tags: degradations the picture has, such as `"jpeg, noise:weak"`, or `"clean"`; None asks the tagger.
            negative_tags: what guidance leads away from; None is what the model was trained with, mostly no tags.
            cfg_scale: weight of guidance towards the tags, 0 to 20, or one for each expert; 1 is off, anything else
                runs the network twice a step. The model's own default when None; no effect without tags.
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
            steps=steps, tags=tags, negative_tags=negative_tags, cfg_scale=cfg_scale, tile=tile,
            tile_overlap=tile_overlap, batch_size=batch_size, color_fix=color_fix, color_strength=color_strength,
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
        negative_tags: str | tuple[str, ...] | None = None,
        cfg_scale: float | tuple[float, ...] | None = None,
        tile: str | int = "auto",
        tile_overlap: int | None = None,
        batch_size: int = 1,
        color_fix: str | None = None,
        color_strength: float = 1.0,
        blend: Blend | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Tensor:
        """Upscale (3, h, w) in [0, 1] to exactly `size` = (width, height); see `upscale_picture` for the rest.

        Args:
            lr: float32 on the host, sRGB-encoded.
            blend: `tiles` samples each tile to its end and blends once; `steps` blends the velocity of all tiles at
                every step; None is the family's own. Compared in docs/concepts/tiling.md.

        Returns:
            (3, height, width) float32 on the host, clamped to [0, 1].

        Raises:
            As `upscale_picture`; tile, overlap and batch size are not checked here, see `validate`.
        """
        names, negative = self.find_tags(lr, tags), self.tags.negative(negative_tags)
        if self.tags_ahead:
            self.tags.free()
        settings = Passes(
            ts=self.engine.time_grid(steps),
            seed=seed,
            names=names,
            negative=negative,
            cfg_scale=self.engine.guidance(cfg_scale),
            tile=tile,
            tile_overlap=tile_overlap,
            batch_size=batch_size,
            blend=blend,
        )
        sr = run_passes(self.engine, lr, size, settings, progress)
        fix = self.config.sampling.color_fix if color_fix is None else color_fix
        if fix != "none":
            reference = resize(lr, (size[1], size[0])).clamp_(0, 1)
            sr = apply_color_fix(fix, sr, reference, color_strength).clamp_(0, 1)
        return sr
