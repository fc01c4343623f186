"""The parts of a model that every enlargement shares, and the tiles that suit them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from linearsr.color import COLOR_FIXES
from linearsr.config import CheckpointConfig, check_cfg_scale
from linearsr.device import free_memory, tile_memory
from linearsr.errors import ConfigError
from linearsr.extras import require
from linearsr.families import Family, make_family
from linearsr.hub import Model
from linearsr.model.experts import ExpertBank
from linearsr.runtime import Runtime, make_bank
from linearsr.schedules import time_grid
from linearsr.tag_tokens import TagWords, make_tag_words
from linearsr.tiling import MIN_TILE, check_tile

if TYPE_CHECKING:
    from linearsr.autoencoders.dcae import DcaeAutoencoder
    from linearsr.tags.encoder import PromptEmbedder

__all__ = ["Engine", "check_parts", "check_settings", "check_tiling", "choose_overlap", "choose_tile", "make_engine"]

ALPHA_MODES = ("auto", "resize", "model", "drop")
WHOLE_FACTOR = 1.5
"""`auto` takes a picture whole if neither side is longer than this many tiles: two tiles would cost more."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The model parts that every enlargement shares."""

    config: CheckpointConfig
    family: Family
    words: TagWords
    bank: ExpertBank
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        """Where networks compute."""
        return self.runtime.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Precision of the dense layers for autocast; None is float32."""
        return self.runtime.dtype

    @property
    def grid(self) -> int:
        """Output pixels that canvas and tiles must be multiples of."""
        return self.config.autoencoder.factor * self.config.model.patch_size

    def time_grid(self, steps: int | None) -> Tensor:
        """Times of that many steps; None is the model's own number.

        Raises:
            ConfigError: steps out of range.
        """
        sampling = self.config.sampling
        published = {int(count): grid for count, grid in sampling.t_grids.items()}
        return time_grid(sampling.steps if steps is None else steps, self.config.flow, published)

    def guidance(self, cfg_scale: float | tuple[float, ...] | None) -> float | tuple[float, ...]:
        """Weight of guidance as asked, common or by expert; None is the model's own."""
        if cfg_scale is not None:
            return cfg_scale[0] if isinstance(cfg_scale, tuple) and len(cfg_scale) == 1 else cfg_scale
        sampling = self.config.sampling
        return sampling.expert_cfg_scales if sampling.expert_cfg_scales else sampling.cfg_scale


def choose_tile(engine: Engine, tile: str | int, padded: tuple[int, int], batch_size: int = 1) -> int | None:
    """Side of a tile in output pixels for what was asked; None for the whole canvas at once.

    Args:
        engine: gives the model's own tile and the device.
        tile: `auto`, `off` or a side.
        padded: (height, width) of the canvas.
        batch_size: tiles a call of the network.
    """
    if tile == "off":
        return None
    if tile == "auto":
        if engine.family.blend == "steps":  # the network runs whole, by rows where that takes too much memory
            return None
        side = _fitting_side(engine, batch_size)
        return None if max(padded) <= WHOLE_FACTOR * side else side
    return int(tile)


def choose_overlap(engine: Engine, tile: str | int, overlap: int | None) -> int:
    """Pixels that neighbouring tiles share: as asked, or the model's own as far as the tile has room for it."""
    if overlap is not None:
        return overlap
    side = engine.config.sampling.tile if isinstance(tile, str) else tile
    return min(engine.config.sampling.tile_overlap, max(0, side) // 2 // engine.grid * engine.grid)


def check_tiling(engine: Engine, tile: str | int, overlap: int | None) -> None:
    """Refuse a tile or overlap that this model cannot serve.

    Raises:
        ConfigError: names the value and what fits.
    """
    if isinstance(tile, str) and tile not in ("auto", "off"):
        raise ConfigError(f"tile is {tile!r}, expected auto, off or a number of pixels", hint="use `--tile auto`")
    shared = choose_overlap(engine, tile, overlap)
    if tile != "off":
        check_tile(engine.config.sampling.tile if isinstance(tile, str) else tile, shared, engine.grid)


def check_settings(
    engine: Engine,
    *,
    cfg_scale: float | tuple[float, ...] | None,
    tile: str | int,
    tile_overlap: int | None,
    color_fix: str | None,
    alpha: str,
    batch_size: int,
    color_strength: float,
) -> None:
    """Check settings of an upscaling against the model before any picture is read.

    Raises:
        ConfigError: a setting that this model cannot serve; names the value and what fits.
    """
    experts = engine.bank.num_experts
    scales = cfg_scale if isinstance(cfg_scale, tuple) else () if cfg_scale is None else (cfg_scale,)
    if isinstance(cfg_scale, tuple) and len(cfg_scale) not in (1, experts):
        raise ConfigError(
            f"cfg_scale has {len(cfg_scale)} values, expected one, or {experts}: one for each expert of the model",
            hint="expert 0, for the least noise, comes first",
        )
    for value in scales:
        check_cfg_scale(value)
    check_tiling(engine, tile, tile_overlap)
    if color_fix is not None and color_fix not in COLOR_FIXES:
        raise ConfigError(f"color fix is {color_fix!r}, expected {', '.join(COLOR_FIXES)}")
    if alpha not in ALPHA_MODES:
        raise ConfigError(f"alpha is {alpha!r}, expected {', '.join(ALPHA_MODES)}")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}, expected at least 1 tile", hint="use 1")
    if not 0.0 <= color_strength <= 1.0:
        raise ConfigError(f"color_strength is {color_strength:g}, expected a number from 0 to 1", hint="use 1")


def _fitting_side(engine: Engine, batch_size: int) -> int:
    """The model's own tile, halved until a batch (or a whole picture, see `WHOLE_FACTOR`) fits into free memory."""
    side, free = engine.config.sampling.tile, free_memory(engine.device)
    while free is not None and side // 2 >= MIN_TILE:
        need = tile_memory(engine.config, side, side, engine.dtype) * max(batch_size, WHOLE_FACTOR**2)
        if need <= free // 2:
            break
        side = side // 2 // engine.grid * engine.grid
    return side


def make_engine(model: Model, runtime: Runtime) -> Engine:
    """Put the parts of a model together; weights load when they are first needed.

    Raises:
        ConfigError: parts that do not fit one another.
    """
    config = model.config
    family = make_family(config, partial(_load_autoencoder, model, runtime))
    words = make_tag_words(config.tags, partial(_make_embedder, model, runtime))
    engine = Engine(config, family, words, make_bank(model, runtime), runtime)
    check_tile(config.sampling.tile, config.sampling.tile_overlap, engine.grid)
    return engine


def check_parts(model: Model, engine: Engine) -> None:
    """Find out before the first picture what would fail after its last step; fetches what is not here, loads nothing.

    Raises:
        WeightsError: autoencoder or text encoder cannot be had, or do not fit.
        ConfigError: a package that they need is not installed.
    """
    engine.words.check()
    if model.config.autoencoder.kind == "dcae":
        require("diffusers", "full", "the DC-AE autoencoder")
        _autoencoder_folders(model)


def _autoencoder_folders(model: Model) -> tuple[Path, Path | None]:
    config = model.config.autoencoder
    folder = model.component(config.source, what="autoencoder")
    return folder, model.component(config.decoder, what="decoder") if config.decoder else None


def _load_autoencoder(model: Model, runtime: Runtime) -> DcaeAutoencoder:
    from linearsr.autoencoders.dcae import OVERLAP, TILE, WHOLE, load_dcae

    config = model.config.autoencoder
    folder, decoder = _autoencoder_folders(model)
    # float16's range is too narrow for the residual stream of the decoder.
    dtype = None if runtime.dtype is torch.float16 else runtime.dtype
    if isinstance(runtime.vae_tile, int):
        side = runtime.vae_tile
        overlap = min(OVERLAP, max(config.factor, side // 4 // config.factor * config.factor))
        return load_dcae(folder, config, runtime.device, dtype, decoder, tile=side, overlap=overlap, whole=side)
    tile = None if runtime.vae_tile == "off" else TILE
    return load_dcae(folder, config, runtime.device, dtype, decoder, tile=tile, overlap=OVERLAP, whole=WHOLE)


def _make_embedder(model: Model, runtime: Runtime) -> PromptEmbedder:
    from linearsr.tags.encoder import make_embedder

    config = model.config
    folder = model.component(config.tags.encoder, what="text encoder")
    return make_embedder(folder, config.tags, config.model.caption_channels, runtime.device, runtime.dtype)
