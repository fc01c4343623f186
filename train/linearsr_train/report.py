"""What a run shows to a person: sheets of sample pictures, and one line on whether the network waits for its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from linearsr.atomic import atomic_file
from linearsr.errors import ConfigError, ImageError, ShapeError

__all__ = ["contact_sheet", "throughput_line"]

Row = tuple[str, Sequence[tuple[str, Tensor]]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_PX = 14
LINE_PX = 20
MARGIN_PX = 8
PAPER = (32, 32, 32)
INK = (232, 232, 232)
NOT_FINITE = (255, 0, 255)
"""Magenta: no photograph has it, and black would pass for a dark picture."""


def _picture(label: str, pixels: Tensor) -> Image.Image:
    """An 8-bit picture of a (3, H, W) tensor in [0, 1]; what is beyond is clipped."""
    if pixels.dim() != 3 or pixels.shape[0] != 3 or pixels.numel() == 0:
        raise ShapeError(f"picture {label!r} is {tuple(pixels.shape)}, expected (3, H, W)")
    rgb = pixels.detach().float().cpu().permute(1, 2, 0)  # (H, W, 3)
    values = (rgb.nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    values[~rgb.isfinite().all(dim=-1)] = torch.tensor(NOT_FINITE, dtype=torch.uint8)
    return Image.fromarray(values.numpy())


def _same_height(cells: list[Image.Image], zoom: int) -> list[Image.Image]:
    """All pictures of a row at `zoom` times the height of the tallest; pixels are repeated, none is invented."""
    height = zoom * max((cell.height for cell in cells), default=0)
    sizes = [(max(1, round(cell.width * height / cell.height)), height) for cell in cells]
    return [cell.resize(size, Image.Resampling.NEAREST) for cell, size in zip(cells, sizes, strict=True)]


def _column_widths(rows: Sequence[Row], grid: list[list[Image.Image]], font: Font) -> list[int]:
    """Room that each column needs for its widest picture or label."""
    widths: list[int] = []
    for (_, cells), pictures in zip(rows, grid, strict=True):
        needed = [max(p.width, math.ceil(font.getlength(label))) for (label, _), p in zip(cells, pictures, strict=True)]
        widths = [max(pair) for pair in zip_longest(widths, needed, fillvalue=0)]
    return widths


def _lay_out(rows: Sequence[Row], grid: list[list[Image.Image]]) -> Image.Image:
    """The sheet: for each row its title, a line of labels, and the pictures under them."""
    font = ImageFont.load_default(FONT_PX)
    widths = _column_widths(rows, grid, font)
    heights = [2 * LINE_PX + (pictures[0].height if pictures else 0) for pictures in grid]
    title_width = math.ceil(max((font.getlength(title) for title, _ in rows), default=0))
    width = MARGIN_PX + max(sum(widths) + MARGIN_PX * len(widths), title_width + MARGIN_PX)
    sheet = Image.new("RGB", (width, MARGIN_PX + sum(heights) + MARGIN_PX * len(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN_PX
    for (title, cells), pictures, height in zip(rows, grid, heights, strict=True):
        draw.text((MARGIN_PX, top), title, INK, font)
        left = MARGIN_PX
        for (label, _), picture, column_width in zip(cells, pictures, widths, strict=False):
            draw.text((left, top + LINE_PX), label, INK, font)
            sheet.paste(picture, (left, top + 2 * LINE_PX))
            left += column_width + MARGIN_PX
        top += height + MARGIN_PX
    return sheet


def contact_sheet(path: Path, rows: Sequence[Row], *, zoom: int = 1) -> Path:
    """Write rows of labelled pictures as one PNG.

    Args:
        path: of the PNG; its folder is created, an older file replaced in one step.
        rows: a title, and the row's (label, picture) pairs. Pictures are (3, H, W) RGB in [0, 1], sRGB encoded, of any
            float dtype and device. Smaller ones are enlarged to the height of the row's tallest by repeating pixels;
            columns line up. Pixels that are not finite are magenta.
        zoom: enlargement of the pictures, by repeating pixels; 1 or more.

    Returns:
        The path.

    Raises:
        ConfigError: `zoom` is below 1.
        ShapeError: a picture is not (3, H, W).
        ImageError: the disk is full or refuses the name.
    """
    if zoom < 1:
        raise ConfigError(f"zoom is {zoom}, expected 1 or more")
    sheet = _lay_out(rows, [_same_height([_picture(*cell) for cell in cells], zoom) for _, cells in rows])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{path.parent} cannot be made: {error.strerror}", hint="choose another folder") from error
    with atomic_file(path) as stream:
        sheet.save(stream, "PNG")
    return path


def _rate(batch_size: int, seconds: float) -> str:
    """Crops a second with as many digits as mean something."""
    rate = batch_size / seconds if seconds > 0.0 else math.inf
    if rate >= 1e4:
        return "over 9999"
    return f"{rate:.0f}" if rate >= 10.0 else f"{rate:.2g}"


def throughput_line(seconds_loader: float, seconds_network: float, batch_size: int) -> str:
    """Say whether the loader keeps up with the network, in one line.

    Args:
        seconds_loader: that the loader takes for a batch with all its workers when nothing but it runs. This is not the
            time a training step waits for its batch: with batches made ahead that is near zero as long as the loader
            keeps up, whatever it could give.
        seconds_network: that a training step takes without waiting.
        batch_size: crops of a batch.
    """
    rates = (
        f"loader gives {_rate(batch_size, seconds_loader)} crops/s, network takes {_rate(batch_size, seconds_network)}"
    )
    if seconds_loader <= seconds_network:
        return f"{rates}: not starved"
    idle = 1.0 - seconds_network / seconds_loader
    return f"{rates}: starved, the network waits {100.0 * idle:.0f} % of the time; raise data.num_workers"
