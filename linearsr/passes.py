"""A picture to its wanted size: as many enlargements as that takes, each resized to where the next one starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from linearsr.engine import Engine, choose_overlap, choose_tile
from linearsr.enlarge import Enlargement, enlarge
from linearsr.families import Blend
from linearsr.noise import NoiseField, content_key
from linearsr.resize import resize
from linearsr.sizing import OutputSize, pass_sizes

__all__ = ["Passes", "run_passes"]

Progress = Callable[[float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """What all passes share."""

    ts: Tensor
    """Time grid."""
    seed: int
    names: tuple[str, ...]
    """Canonical tags of the picture; they describe the first pass's input, later ones have none."""
    negative: tuple[str, ...] | None
    cfg_scale: float | tuple[float, ...]
    tile: str | int
    tile_overlap: int | None
    batch_size: int
    blend: Blend | None
    """None is the family's own."""


def run_passes(
    engine: Engine, lr: Tensor, size: tuple[int, int], settings: Passes, progress: Progress | None
) -> Tensor:
    """Enlarge (3, h, w) in [0, 1] to exactly `size` = (width, height).

    Args:
        engine: the model.
        lr: float32 on the host.
        size: of the result.
        settings: of every pass.
        progress: called with the fraction done.

    Returns:
        (3, height, width) float32 on the host, clamped to [0, 1].

    Raises:
        As `enlarge`.
    """
    sizes = pass_sizes(lr.shape[-1], lr.shape[-2], OutputSize(width=size[0], height=size[1], scale=1.0))
    key, family, current = content_key(lr), engine.family, lr
    for index, wanted in enumerate(sizes):
        out = family.pass_size(current.shape[-1], current.shape[-2], wanted)
        job = Enlargement(
            engine=engine,
            lr=current,
            out=out,
            ts=settings.ts,
            noise=NoiseField(
                settings.seed, key, (out.height, out.width), channels=family.cell_channels, cell=family.cell
            ),
            tokens=engine.words.tokens(settings.names if index == 0 else (), settings.negative, engine.device),
            cfg_scale=settings.cfg_scale,
        )
        current = enlarge(
            job,
            tile=choose_tile(engine, settings.tile, job.padded, settings.batch_size),
            overlap=choose_overlap(engine, settings.tile, settings.tile_overlap),
            batch_size=settings.batch_size,
            blend=family.blend if settings.blend is None else settings.blend,
            progress=_share(progress, index, len(sizes)),
        ).clamp_(0, 1)
        if tuple(current.shape[-2:]) != (wanted.height, wanted.width):
            current = resize(current, (wanted.height, wanted.width)).clamp_(0, 1)
    return current


def _share(progress: Progress | None, index: int, count: int) -> Progress:
    """Progress of one pass among several of about equal weight."""
    return (lambda _: None) if progress is None else lambda fraction: progress((index + fraction) / count)
