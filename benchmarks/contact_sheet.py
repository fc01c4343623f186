"""Put bicubic and the model's results of real low-quality photographs side by side, to look at.

Example:
    python benchmarks/contact_sheet.py bench/real -o sheet.png --steps 1,4 --limit 12

Each row is one place of one photograph at native pixels of the result: the place with the most detail, then the
flattest one, where blotches, grids and seams show. Rows beyond `--rows` go to further sheets (sheet-2.png, ...). What
changed in mean colour is printed, for the eye forgives a shift that a number does not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _common import (
    TensorUpscaler,
    add_model_options,
    fail,
    list_images,
    load_upscaler,
    markdown_table,
    parse_numbers,
    parse_tile,
    read_picture,
    set_threads,
    to_pil,
)
from PIL import Image
from torch import Tensor

from linearsr.comparison.drawing import DARK, below, beside, blank, labelled, text_line
from linearsr.comparison.places import find_detail, find_flat
from linearsr.comparison.sheet import page_path
from linearsr.errors import ConfigError, ImageError, LinearSRError
from linearsr.metrics import quantise
from linearsr.resize import resize
from linearsr.tags.vocabulary import parse_tags

LABEL_PX, GAP_PX = 14, 4


@dataclass(frozen=True, slots=True)
class Row:
    """One place of one photograph, by every method."""

    label: str
    cells: tuple[tuple[str, Tensor], ...]
    """Method and its crop (3, crop, crop) in [0, 1]."""


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="photographs as they are found, low quality")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the sheet, a PNG")
    parser.add_argument("--scale", type=int, default=4, help="whole number from 1 to 8 (default: 4)")
    parser.add_argument("--steps", default="1,4", help="one column each (default: 1,4)")
    parser.add_argument("--tags", default="none", help="none, or tags such as jpeg,noise:weak (default: none)")
    parser.add_argument("--tile", default="auto", help="auto, off or a size in output pixels (default: auto)")
    parser.add_argument("--crop", type=int, default=320, help="side of a crop in output pixels (default: 320)")
    parser.add_argument("--places", choices=("detail", "flat", "both"), default="both")
    parser.add_argument("--limit", type=int, default=12, help="photographs, spread over the folder (default: 12)")
    parser.add_argument("--rows", type=int, default=4, help="rows of one sheet (default: 4)")
    parser.add_argument("--max-input", type=int, default=512, help="larger photographs are cut to this side (512)")
    add_model_options(parser)
    return parser


def find_places(picture: Tensor, side: int, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Top-left corners (row, column) of the windows with the most and the least gradient energy.

    Args:
        picture: (3, H, W) in [0, 1].
        side: of the window, at most H and W.
        names: `detail`, `flat` or both.
    """
    find = {"detail": find_detail, "flat": find_flat}
    windows = {name: find[name](picture, side) for name in names}
    return {name: (window.top, window.left) for name, window in windows.items()}


def centre_cut(picture: Tensor, side: int) -> Tensor:
    """The middle of a picture that is larger than `side`."""
    height, width = picture.shape[-2:]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return picture[:, top : top + side, left : left + side].contiguous()


def spread(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most `limit` of the paths, evenly spaced, in order."""
    if len(paths) <= limit:
        return list(paths)
    return [paths[index * len(paths) // limit] for index in range(limit)]


def make_results(
    lr: Tensor, steps: Sequence[int], upscaler: TensorUpscaler, options: argparse.Namespace
) -> dict[str, Tensor]:
    """The whole photograph by every method, bicubic first, rounded to 8 bits."""
    height, width = lr.shape[-2] * options.scale, lr.shape[-1] * options.scale
    results = {"bicubic": quantise(resize(lr, (height, width)))}
    tags = None if options.tags == "none" else parse_tags(options.tags)
    if options.model != "none":
        for count in steps:
            sr = upscaler.upscale_tensor(
                lr, size=(width, height), steps=count, seed=options.seed, tags=tags, tile=options.tile
            )
            results["1 step" if count == 1 else f"{count} steps"] = quantise(sr)
    return results


def make_rows(name: str, lr: Tensor, results: dict[str, Tensor], options: argparse.Namespace) -> list[Row]:
    """Cut the same places out of every result."""
    names = ("detail", "flat") if options.places == "both" else (options.places,)
    crop = min(options.crop, lr.shape[-2] * options.scale, lr.shape[-1] * options.scale)
    side = max(2, crop // options.scale)
    rows = []
    for place, (top, left) in find_places(lr, side, names).items():
        y, x = top * options.scale, left * options.scale
        cells = tuple((method, sr[:, y : y + crop, x : x + crop]) for method, sr in results.items())
        rows.append(Row(f"{name}, {place}, x{options.scale} at {x},{y}", cells))
    return rows


def draw_sheet(rows: Sequence[Row]) -> Image.Image:
    """Rows under each other, crops beside each other, a label above each."""
    width = max(crop.shape[-1] for row in rows for _, crop in row.cells)
    parts = []
    for row in rows:
        cells = [
            beside([np.asarray(to_pil(crop)), blank(1, width - crop.shape[-1], DARK)], theme=DARK)
            for _, crop in row.cells
        ]
        methods = [
            labelled(cell, method, LABEL_PX, theme=DARK) for cell, (method, _) in zip(cells, row.cells, strict=True)
        ]
        line = beside(methods, theme=DARK, gap=GAP_PX)
        parts += [text_line(row.label, line.shape[1], LABEL_PX, theme=DARK), line, blank(GAP_PX, 1, DARK)]
    return Image.fromarray(below(parts, theme=DARK))


def colour_shift(results: dict[str, Tensor]) -> list[tuple[str, float]]:
    """Largest change of a channel's mean against bicubic, in 8-bit levels, for each other method."""
    reference = results["bicubic"].mean(dim=(1, 2))
    shifts = {name: (sr.mean(dim=(1, 2)) - reference).abs().max() * 255 for name, sr in results.items()}
    return [(name, float(value)) for name, value in shifts.items() if name != "bicubic"]


def check(options: argparse.Namespace) -> tuple[int, ...]:
    """Check what argparse cannot; returns the steps.

    Raises:
        ConfigError: a setting is out of range.
    """
    for name, low, high in (("scale", 1, 8), ("crop", 16, 4096), ("limit", 1, 10000), ("rows", 1, 100)):
        if not low <= getattr(options, name) <= high:
            raise ConfigError(f"--{name} is {getattr(options, name)}, expected a whole number from {low} to {high}")
    if options.max_input < 16:
        raise ConfigError(f"--max-input is {options.max_input}, expected at least 16")
    if options.tags != "none":
        parse_tags(options.tags)
    options.tile = parse_tile(options.tile)
    return parse_numbers(options.steps, "--steps", 1, 1000)


def write_sheets(rows: Sequence[Row], per_sheet: int, output: Path) -> list[Path]:
    """Write one PNG for every `per_sheet` rows and give back their paths.

    Raises:
        ImageError: one cannot be written.
    """
    written = []
    for first in range(0, len(rows), per_sheet):
        page = first // per_sheet + 1
        path = page_path(output, page)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_sheet(rows[first : first + per_sheet]).save(path)
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot write {path}: {error}", hint="give a file name ending in .png") from error
        written.append(path)
    return written


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the sheets."""
    options = build_parser().parse_args(arguments)
    try:
        steps = check(options)
        set_threads(options.threads)
        paths = spread(list_images(options.folder), options.limit)
        upscaler = load_upscaler(options.model, options.device, options.dtype)
        rows: list[Row] = []
        shifts: list[tuple[str, ...]] = []
        for path in paths:
            lr = centre_cut(read_picture(path), options.max_input)
            results = make_results(lr, steps, upscaler, options)
            rows += make_rows(path.name, lr, results, options)
            shifts += [(path.name, method, f"{value:.2f}") for method, value in colour_shift(results)]
            print(f"{path.name} done", file=sys.stderr)
        written = write_sheets(rows, options.rows, options.output)
    except LinearSRError as error:
        fail(error)
    if shifts:
        print(markdown_table(("photograph", "method", "colour shift, 8-bit levels"), shifts))
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
