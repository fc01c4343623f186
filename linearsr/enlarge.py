"""One enlargement: condition, noise and sampler for any tile of an output canvas.

The input picture and the canvas stay on the host; only tiles visit the device. What a tile sees (its view of the
input, its window of the noise field) does not depend on how the canvas is cut.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from linearsr.denoiser import velocity_fn
from linearsr.device import empty_cache, free_memory, is_out_of_memory
from linearsr.engine import Engine
from linearsr.errors import ImageError, OutOfMemoryError
from linearsr.families import Blend
from linearsr.model.chunked import auto_row_chunks
from linearsr.model.conditioning import Conditioning
from linearsr.noise import NoiseField
from linearsr.samplers import SAMPLERS
from linearsr.sizing import OutputSize
from linearsr.tag_tokens import TagTokens
from linearsr.tiling import MIN_TILE, Tile, TilePlan, plan_tiles, run_tiled

__all__ = ["Enlargement", "enlarge"]

logger = logging.getLogger(__name__)
Progress = Callable[[float], None]
SAMPLING_SHARE = 0.8
"""Of the progress shown; the rest is a learned autoencoder's."""


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
    tokens: TagTokens
    """Of the picture's tags."""
    cfg_scale: float | tuple[float, ...] = 1.0
    """Weight of classifier-free guidance, common or by expert; 1 is off."""

    @property
    def guidance(self) -> float | tuple[float, ...]:
        """Weight that acts: where tags and null are the same, a second run would be wasted."""
        return self.cfg_scale if self.tokens.guides else 1.0

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) of the canvas: the output, rounded up to the grid."""
        grid = self.engine.grid
        return math.ceil(self.out.height / grid) * grid, math.ceil(self.out.width / grid) * grid

    @property
    def scale(self) -> float:
        """Enlargement factor that the network is told."""
        return max(1.0, self.out.scale)

    def views(self, tiles: list[Tile]) -> Tensor:
        """(B, 3, h, w) what the network sees of the input under tiles, on the device."""
        family = self.engine.family
        return torch.stack([family.view(self.lr, self.out, tile) for tile in tiles]).to(self.engine.device)

    def start(self, tiles: list[Tile]) -> Tensor:
        """(B, C, h, w) latent noise of tiles on the device; zeros for one step of x0 prediction, which reads none."""
        family = self.engine.family
        cells = [_in_cells(tile, family.cell) for tile in tiles]
        if len(self.ts) == 2 and float(self.ts[0]) >= 1.0 and self.engine.config.flow.prediction == "x0":
            shape = (len(tiles), family.cell_channels, cells[0].height, cells[0].width)
            return family.latent(torch.zeros(shape, device=self.engine.device))
        return family.latent(torch.stack([self.noise.window(cell) for cell in cells])).to(self.engine.device)

    def condition(self, views: Tensor) -> Conditioning:
        """Condition of tiles for the network."""
        rows, tokens = views.shape[0], self.tokens
        return Conditioning(
            lr=self.engine.family.condition(views),
            tags=_repeat(tokens.tags, rows),
            tag_mask=_repeat(tokens.mask, rows),
            log2_scale=torch.tensor([math.log2(self.scale)], device=self.engine.device),
            null_tags=_repeat(tokens.null_tags, rows),
            null_mask=_repeat(tokens.null_mask, rows),
        )


def _repeat(row: Tensor, count: int) -> Tensor:
    """One row for every tile, without a copy."""
    return row.expand(count, *row.shape[1:])


def _in_cells(tile: Tile, cell: int) -> Tile:
    """A tile in pixels, in cells of that side."""
    return Tile(tile.top // cell, tile.left // cell, tile.height // cell, tile.width // cell)


def _in_pixels(tile: Tile, cell: int) -> Tile:
    """A tile in cells of that side, in pixels."""
    return Tile(tile.top * cell, tile.left * cell, tile.height * cell, tile.width * cell)


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
        ImageError: the network gives values that are not finite; tiles are tried in full precision first.
    """
    logger.debug(
        "%dx%d to %dx%d, times %s, guidance %s, %s, %s on %s",
        *(job.lr.shape[2], job.lr.shape[1], job.out.width, job.out.height),
        [round(float(t), 3) for t in job.ts[:-1]],
        job.guidance,
        "whole" if tile is None else f"tiles of at most {tile}",
        "float32" if job.engine.dtype is None else str(job.engine.dtype).removeprefix("torch."),
        job.engine.device,
    )
    run, unit = (_blend_tiles, 1) if blend == "tiles" else (_blend_steps, job.engine.family.cell)
    job.engine.bank.expect(job.ts)
    chunks = 1
    while True:
        plan = _plan(job, tile, overlap if tile is None else min(overlap, tile // 2), unit)
        most = _most_chunks(job.engine, plan, unit)
        chunks = min(most, max(chunks, _row_chunks(job, plan, unit, batch_size)))
        job.engine.bank.row_chunks = chunks
        empty_cache(job.engine.device)
        try:
            return run(job, plan, batch_size, progress)[:, : job.out.height, : job.out.width]
        except OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if chunks < most:  # the same picture, in smaller parts
                chunks = min(most, 4 * chunks)
                continue
            grid, side = job.engine.grid, max(job.padded) if tile is None else tile
            smallest = math.ceil(MIN_TILE / grid) * grid
            if side <= smallest:
                message = f"{job.engine.device} is out of memory even with {side}-pixel tiles"
                other = "" if job.engine.device.type == "cpu" else ", or use `--device cpu`"
                raise OutOfMemoryError(message, hint=_memory_hint(job.engine) + other) from error
            tile = max(smallest, side // 2 // grid * grid)


def _plan(job: Enlargement, tile: int | None, overlap: int, unit: int) -> TilePlan:
    """Tiles over the canvas, counted in units of that many pixels."""
    height, width = job.padded
    side = None if tile is None else tile // unit
    return plan_tiles(height // unit, width // unit, side, overlap // unit, job.engine.grid // unit)


def _most_chunks(engine: Engine, plan: TilePlan, unit: int) -> int:
    """Rows of tokens of a tile, which cannot be cut further; 1 for networks that are not cut."""
    return plan.tile_height * unit // engine.grid if engine.config.model.stem == "patch" else 1


def _row_chunks(job: Enlargement, plan: TilePlan, unit: int, batch_size: int) -> int:
    """Parts that a transformer block is computed in: a call takes a quarter of what the experts leave free at most."""
    engine = job.engine
    free = free_memory(engine.device)
    if engine.config.model.stem != "patch" or free is None:
        return 1
    if engine.runtime.offload == "none":
        names = {engine.config.experts.files[i] for i in engine.bank.used_by(job.ts) if i not in engine.bank.loaded}
        free = max(0, free - sum(engine.config.files[name].bytes for name in names))
    tokens = plan.tile_height * plan.tile_width * unit**2 // engine.grid**2 * min(batch_size, len(plan.tiles))
    return auto_row_chunks(engine.config.model, tokens, free // 4)


def _memory_hint(engine: Engine) -> str:
    if engine.config.model.stem == "patch" and engine.runtime.offload != "sequential":
        step = "expert" if engine.runtime.offload == "none" else "sequential"
        return f"use `--offload {step}`, close other programs that use it"
    return "close other programs that use it"


def _blend_tiles(job: Enlargement, plan: TilePlan, batch_size: int, progress: Progress) -> Tensor:
    engine, sampler = job.engine, SAMPLERS[job.engine.config.sampling.sampler]

    def sample(tiles: list[Tile]) -> Tensor:
        views = job.views(tiles)
        for dtype in (engine.dtype, None):  # anything not finite is tried once more in full precision
            v_fn = velocity_fn(
                engine.bank, engine.config.flow, job.condition(views), cfg_scale=job.guidance, autocast_dtype=dtype
            )
            latent = sampler(v_fn, job.start(tiles), job.ts)
            if bool(torch.isfinite(latent).all()):
                return engine.family.decode(latent, views, job.scale)
        raise ImageError("the network gave values that are not finite", hint="try `--dtype fp32`")

    return run_tiled(sample, plan, batch_size=batch_size, progress=lambda done, total: progress(done / total))


def _blend_steps(job: Enlargement, plan: TilePlan, batch_size: int, progress: Progress) -> Tensor:
    """The state of the whole canvas stays on the host, and one velocity field is blended from tiles at each step."""
    engine, family = job.engine, job.engine.family
    canvas = [_in_pixels(Tile(0, 0, plan.height, plan.width), family.cell)]

    @lru_cache(maxsize=1 if len(plan.tiles) <= batch_size else 0)
    def condition_of(tiles: tuple[Tile, ...]) -> Conditioning:
        # One call covers the canvas: its condition is the same at every step, and the network knows it again.
        return job.condition(job.views([_in_pixels(tile, family.cell) for tile in tiles]))

    def canvas_v_fn(x: Tensor, t: float) -> Tensor:
        cells = family.cells(x)[0]

        def velocity(tiles: list[Tile]) -> Tensor:
            cond = condition_of(tuple(tiles))
            state = torch.stack([cells[:, tile.rows, tile.cols] for tile in tiles]).to(engine.device)
            v_fn = velocity_fn(
                engine.bank, engine.config.flow, cond, cfg_scale=job.guidance, autocast_dtype=engine.dtype
            )
            return family.cells(v_fn(family.latent(state), t))

        return family.latent(run_tiled(velocity, plan, batch_size=batch_size)[None])

    steps = len(job.ts) - 1
    share = 1.0 if family.cell == 1 else SAMPLING_SHARE

    def after(index: int, state: Tensor) -> None:
        if not bool(torch.isfinite(state).all()):
            raise ImageError("the network gave values that are not finite", hint="try `--dtype fp32`")
        progress(share * (index + 1) / steps)

    sampler = SAMPLERS[engine.config.sampling.sampler]
    latent = sampler(canvas_v_fn, job.start(canvas).to("cpu"), job.ts, callback=lambda index, _t, x: after(index, x))
    if engine.runtime.offload != "none":
        engine.bank.clear()  # the decoder takes their place
        empty_cache(engine.device)
    decoded = family.decode(
        latent, job.views(canvas).to("cpu"), job.scale, lambda done, total: progress(share + (1 - share) * done / total)
    )[0].to("cpu")
    if engine.runtime.offload != "none":
        family.free()
    return decoded
