"""One enlargement by at most x4: condition, noise and sampler for any tile of an output canvas.

The input picture and the canvas stay on the host; only tiles visit the device. What a tile sees (its window of the
enlarged input, its window of the noise field) does not depend on how the canvas is cut.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.config import CheckpointConfig
from linearsr.denoiser import velocity_fn
from linearsr.device import free_memory, tile_memory
from linearsr.errors import ConfigError, ImageError, OutOfMemoryError, WeightsError
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.experts import ExpertBank
from linearsr.noise import NoiseField
from linearsr.resize import resize_window
from linearsr.samplers import SAMPLERS
from linearsr.sizing import OutputSize
from linearsr.tags.vocabulary import tag_ids
from linearsr.tiling import MIN_TILE, Tile, TilePlan, check_tile, plan_tiles, run_tiled

__all__ = ["Blend", "Engine", "Enlargement", "check_tiling", "choose_overlap", "choose_tile", "enlarge", "make_engine"]

Blend = Literal["tiles", "steps"]
logger = logging.getLogger(__name__)
Progress = Callable[[float], None]
WHOLE_FACTOR = 1.5
"""`auto` takes a picture whole if neither side is longer than this many tiles: two tiles would cost more."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The model parts that every enlargement shares."""

    config: CheckpointConfig
    autoencoder: PixelAutoencoder
    bank: ExpertBank
    device: torch.device
    dtype: torch.dtype | None
    """Precision of the dense layers for autocast; None is float32."""

    @property
    def grid(self) -> int:
        """Output pixels that canvas and tiles must be multiples of."""
        return self.config.autoencoder.factor * self.config.model.patch_size


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


def _fitting_side(engine: Engine, batch_size: int) -> int:
    """The model's own tile, halved until a batch (or a whole picture, see `WHOLE_FACTOR`) fits into free memory."""
    side, free = engine.config.sampling.tile, free_memory(engine.device)
    while free is not None and side // 2 >= MIN_TILE:
        need = tile_memory(engine.config, side, side, engine.dtype) * max(batch_size, WHOLE_FACTOR**2)
        if need <= free // 2:
            break
        side = side // 2 // engine.grid * engine.grid
    return side


def make_engine(config: CheckpointConfig, bank: ExpertBank, device: torch.device, dtype: torch.dtype | None) -> Engine:
    """Put the parts of a model together.

    Raises:
        WeightsError: a family that this version does not run.
        ConfigError: parts that do not fit one another.
    """
    if config.autoencoder.kind != "pixel":
        raise WeightsError(
            f"the model uses the {config.autoencoder.kind!r} autoencoder, expected 'pixel'",
            hint="this version runs the compact family only",
        )
    engine = Engine(config, PixelAutoencoder(config.autoencoder), bank, device, dtype)
    check_tile(config.sampling.tile, config.sampling.tile_overlap, engine.grid)
    if engine.autoencoder.latent_channels != config.model.in_channels:
        raise ConfigError(
            f"model.in_channels is {config.model.in_channels}, expected {engine.autoencoder.latent_channels} "
            f"for an autoencoder factor of {config.autoencoder.factor}"
        )
    return engine


@dataclass(frozen=True, kw_only=True, slots=True)
class Enlargement:
    """What one enlargement is: everything that decides the result, nothing about how it is computed."""

    engine: Engine
    lr: Tensor
    """(3, h, w) float32 in [0, 1] on the host."""
    out: OutputSize
    """Exact size of the result."""
    ts: Tensor
    """Time grid."""
    noise: NoiseField
    tags: tuple[str, ...]
    """Canonical names."""
    cfg_scale: float = 1.0
    """Weight of classifier-free guidance; 1 is off."""

    @property
    def guidance(self) -> float:
        """Weight that acts: without tags both predictions are one and the same, and a second run would be wasted."""
        return self.cfg_scale if self.tags else 1.0

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of the canvas: the output, rounded up to the grid."""
        grid = self.engine.grid
        return math.ceil(self.out.height / grid) * grid, math.ceil(self.out.width / grid) * grid

    @property
    def scale(self) -> float:
        """Enlargement factor that the network is told."""
        return max(1.0, self.out.scale)

    def lr_up(self, tiles: list[Tile]) -> Tensor:
        """(B, 3, height, width) enlarged input under tiles, on the device."""
        return torch.stack([self._lr_up(tile) for tile in tiles]).to(self.engine.device)

    def _lr_up(self, tile: Tile) -> Tensor:
        """One tile's enlarged input; the canvas beyond the picture repeats its last pixels."""
        size = height, width = (self.out.height, self.out.width)
        rows = slice(min(tile.top, height - 1), min(tile.top + tile.height, height))
        cols = slice(min(tile.left, width - 1), min(tile.left + tile.width, width))
        same_size = tuple(self.lr.shape[-2:]) == size
        window = self.lr[:, rows, cols] if same_size else resize_window(self.lr, size, rows, cols)
        pad = (0, tile.width - window.shape[2], 0, tile.height - window.shape[1])
        return F.pad(window[None], pad, mode="replicate")[0] if any(pad) else window

    def start(self, tiles: list[Tile]) -> Tensor:
        """(B, C, h, w) latent noise of tiles on the device; zeros for one step of x0 prediction, which reads none."""
        factor, first = self.engine.autoencoder.factor, tiles[0]
        if len(self.ts) == 2 and float(self.ts[0]) >= 1.0 and self.engine.config.flow.prediction == "x0":
            shape = (len(tiles), self.engine.autoencoder.latent_channels, first.height // factor, first.width // factor)
            return torch.zeros(shape, device=self.engine.device)
        noise = torch.stack([self.noise.window(tile) for tile in tiles])
        return F.pixel_unshuffle(noise, factor).to(self.engine.device)

    def condition(self, lr_up: Tensor) -> Conditioning:
        """Condition of tiles for the network."""
        ids, mask = pad_tag_ids([tag_ids(self.tags, self.engine.config.tags.vocabulary)], self.engine.device)
        return Conditioning(
            lr=self.engine.autoencoder.condition(lr_up),
            tags=ids.expand(lr_up.shape[0], -1),
            tag_mask=mask.expand(lr_up.shape[0], -1),
            log2_scale=torch.tensor([math.log2(self.scale)], device=self.engine.device),
        )


def enlarge(
    job: Enlargement, *, tile: int | None, overlap: int, batch_size: int, blend: Blend, progress: Progress
) -> Tensor:
    """Run one enlargement, with a smaller tile each time the device runs out of memory.

    Args:
        job: what to compute.
        tile: side in output pixels; None for the whole canvas at once.
        overlap: pixels that neighbouring tiles share.
        batch_size: tiles a call of the network.
        blend: `tiles` samples each tile to its end and blends once; `steps` blends velocities at every step.
        progress: called with the fraction done.

    Returns:
        (3, height, width) float32 on the host, not clamped.

    Raises:
        OutOfMemoryError: the smallest tile does not fit.
        ImageError: the network gives values that are not finite, in full precision too.
    """
    logger.debug(
        "%dx%d to %dx%d, times %s, tags %s, guidance %g, %s, %s on %s",
        *(job.lr.shape[2], job.lr.shape[1], job.out.width, job.out.height),
        [round(float(t), 3) for t in job.ts[:-1]],
        ", ".join(job.tags) if job.tags else "none",
        job.guidance,
        "whole" if tile is None else f"tiles of at most {tile}",
        "float32" if job.engine.dtype is None else str(job.engine.dtype).removeprefix("torch."),
        job.engine.device,
    )
    run = _blend_tiles if blend == "tiles" else _blend_steps
    while True:
        plan = plan_tiles(*job.padded, tile, overlap if tile is None else min(overlap, tile // 2), job.engine.grid)
        try:
            return run(job, plan, batch_size, progress)[:, : job.out.height, : job.out.width]
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            grid, side = job.engine.grid, max(job.padded) if tile is None else tile
            smallest = math.ceil(MIN_TILE / grid) * grid
            if side <= smallest:
                message = f"{job.engine.device} is out of memory even with {side}-pixel tiles"
                other = "" if job.engine.device.type == "cpu" else ", or use `--device cpu`"
                raise OutOfMemoryError(message, hint=f"close other programs that use it{other}") from error
            if job.engine.device.type == "cuda":
                torch.cuda.empty_cache()
            elif job.engine.device.type == "mps":
                torch.mps.empty_cache()
            tile = max(smallest, side // 2 // grid * grid)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has a class of its own for it; Apple's GPU and the CPU's allocator say it in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(word in str(error) for word in words)


def _blend_tiles(job: Enlargement, plan: TilePlan, batch_size: int, progress: Progress) -> Tensor:
    engine, sampler = job.engine, SAMPLERS[job.engine.config.sampling.sampler]

    def sample(tiles: list[Tile]) -> Tensor:
        lr_up = job.lr_up(tiles)
        for dtype in (engine.dtype, None):  # anything not finite is tried once more in full precision
            v_fn = velocity_fn(
                engine.bank, engine.config.flow, job.condition(lr_up), cfg_scale=job.guidance, autocast_dtype=dtype
            )
            latent = sampler(v_fn, job.start(tiles), job.ts)
            if bool(torch.isfinite(latent).all()):
                return engine.autoencoder.decode(latent, lr_up, job.scale)
        raise ImageError("the network gave values that are not finite", hint="try `--dtype fp32`")

    return run_tiled(sample, plan, batch_size=batch_size, progress=lambda done, total: progress(done / total))


def _blend_steps(job: Enlargement, plan: TilePlan, batch_size: int, progress: Progress) -> Tensor:
    """The state of the whole canvas stays on the host, and one velocity field is blended from tiles at each step."""
    engine, factor = job.engine, job.engine.autoencoder.factor
    canvas = [Tile(0, 0, plan.height, plan.width)]

    def canvas_v_fn(x: Tensor, t: float) -> Tensor:
        pixels = F.pixel_shuffle(x, factor)[0]

        def velocity(tiles: list[Tile]) -> Tensor:
            cond = job.condition(job.lr_up(tiles))
            state = torch.stack([pixels[:, tile.rows, tile.cols] for tile in tiles]).to(engine.device)
            v_fn = velocity_fn(
                engine.bank, engine.config.flow, cond, cfg_scale=job.guidance, autocast_dtype=engine.dtype
            )
            return F.pixel_shuffle(v_fn(F.pixel_unshuffle(state, factor), t), factor)

        return F.pixel_unshuffle(run_tiled(velocity, plan, batch_size=batch_size)[None], factor)

    steps = len(job.ts) - 1
    sampler = SAMPLERS[engine.config.sampling.sampler]
    latent = sampler(
        canvas_v_fn, job.start(canvas).to("cpu"), job.ts, callback=lambda index, _t, _x: progress((index + 1) / steps)
    )
    if not bool(torch.isfinite(latent).all()):
        raise ImageError("the network gave values that are not finite", hint="try `--dtype fp32`")
    return engine.autoencoder.decode(latent, job.lr_up(canvas).to("cpu"), job.scale)[0]
