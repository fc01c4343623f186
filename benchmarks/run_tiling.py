"""Compare the whole picture at once, blended tiles and per-step blending, at one and at four steps.

Example:
    python benchmarks/run_tiling.py --data bench/Kodak24 --limit 5

Every picture is taken as the low-resolution input itself and enlarged by 4, so the canvas is several tiles a side. For
each tile size, overlap and way of blending: PSNR (RGB) to the whole picture at once, the gradient energy across tile
borders over that of the whole picture at the same places (1 = no seam), and the time over the whole picture's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _common import add_model_options, finish, list_images, parse_numbers, program, run_facts, set_threads
from torch import Tensor

from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.tables import markdown_table, number
from linearsr.metrics import psnr
from linearsr.pipeline import Upscaler
from linearsr.tiling import plan_tiles

SCALE, GRID = 4, 8


def border_energy(x: Tensor, positions: Sequence[int], dim: int) -> float:
    """Mean squared difference across the given rows or columns of (3, H, W)."""
    index = torch.tensor([p for p in positions if 0 < p < x.shape[dim]])
    step = x.index_select(dim, index) - x.index_select(dim, index - 1)
    return float(step.square().mean())


def seam_ratio(tiled: Tensor, whole: Tensor, tile: int, overlap: int) -> float:
    """Gradient energy at all tile borders and overlap centres, tiled over whole."""
    plan = plan_tiles(whole.shape[1], whole.shape[2], tile, overlap, GRID)
    energies = []
    for dim, starts, side in ((1, plan.row_starts, plan.tile_height), (2, plan.col_starts, plan.tile_width)):
        borders = [p for start in starts for p in (start, start + side)]
        centres = [(a + side + b) // 2 for a, b in zip(starts, starts[1:], strict=False)]
        inner = [p for p in borders + centres if 0 < p < whole.shape[dim]]
        if inner:
            energies.append((border_energy(tiled, inner, dim), border_energy(whole, inner, dim)))
    return sum(a for a, _ in energies) / sum(b for _, b in energies)


def measure(up: Upscaler, lr: Tensor, cases: Sequence[tuple[int, int, str]], steps: int) -> list[dict[str, Any]]:
    """All cases of one picture."""
    size = (lr.shape[2] * SCALE, lr.shape[1] * SCALE)

    def run(**settings: Any) -> tuple[Tensor, float]:  # noqa: ANN401
        begin = time.perf_counter()
        return up.upscale_tensor(lr, size=size, steps=steps, **settings), time.perf_counter() - begin

    whole, whole_s = run(tile="off")
    rows = []
    for tile, overlap, blend in cases:
        tiled, tiled_s = run(tile=tile, tile_overlap=overlap, blend=blend)
        row = {"steps": steps, "tile": tile, "overlap": overlap, "blend": blend}
        row["psnr_to_whole"] = psnr(tiled, whole, luma_only=False)
        row["seam_ratio"] = seam_ratio(tiled, whole, tile, overlap)
        row["time_ratio"] = tiled_s / whole_s
        rows.append(row)
    return rows


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, used as inputs")
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--crop", type=int, default=320, help="central crop of each input (default: 320)")
    parser.add_argument("--steps", default="1,4")
    parser.add_argument("--tiles", default="512:32,512:64,768:64,768:96,1024:64", help="tile:overlap pairs")
    parser.add_argument("--blends", default="tiles,steps")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-tiling.json")
    add_model_options(parser)
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    options = build_parser().parse_args(arguments)
    set_threads(options.threads)
    up = Upscaler.from_pretrained(options.model, device=options.device, dtype=options.dtype)
    pairs = [tuple(int(part) for part in pair.split(":")) for pair in options.tiles.split(",")]
    cases = [(tile, overlap, blend) for tile, overlap in pairs for blend in options.blends.split(",")]
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in list_images(options.data)[: options.limit]:
        picture = read_picture(path)
        top, left = ((side - min(side, options.crop)) // 2 for side in picture.shape[1:])
        lr = picture[:, top : top + options.crop, left : left + options.crop].contiguous()
        for steps in parse_numbers(options.steps, "steps", 1, 1000):
            for row in measure(up, lr, cases, steps):
                found.setdefault((steps, row["tile"], row["overlap"], row["blend"]), []).append(row)
        print(f"{path.name} done", file=sys.stderr)
    rows = [_over_pictures(group) for group in found.values()]
    finish(options.output, "tiling", {**run_facts("tiling", arguments, options.device), "rows": rows}, _table(rows))
    return 0


def _over_pictures(group: list[dict[str, Any]]) -> dict[str, Any]:
    """Worst PSNR, range of the seam ratio, median time ratio."""
    seams = [row["seam_ratio"] for row in group]
    return {
        **{key: group[0][key] for key in ("steps", "tile", "overlap", "blend")},
        "pictures": len(group),
        "psnr_to_whole_min": min(row["psnr_to_whole"] for row in group),
        "psnr_to_whole_mean": statistics.fmean(row["psnr_to_whole"] for row in group),
        "seam_ratio_min": min(seams),
        "seam_ratio_max": max(seams),
        "time_ratio": statistics.median(row["time_ratio"] for row in group),
    }


def _table(rows: list[dict[str, Any]]) -> str:
    header = ("steps", "tile", "overlap", "blend", "min PSNR to whole", "seam ratio", "time over whole")
    body = [
        (
            str(row["steps"]),
            str(row["tile"]),
            str(row["overlap"]),
            row["blend"],
            number(row["psnr_to_whole_min"], 1),
            f"{row['seam_ratio_min']:.3f} to {row['seam_ratio_max']:.3f}",
            number(row["time_ratio"], 2),
        )
        for row in rows
    ]
    return markdown_table(header, body)


if __name__ == "__main__":
    sys.exit(main())
