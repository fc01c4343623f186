"""Measure fidelity and perceptual distance on folders of clean pictures, beside bicubic and Lanczos.

Example:
    python benchmarks/run_quality.py --data bench/Set5 bench/Kodak24 --scales 2,3,4 --steps 1,4 --tags clean \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

The protocol is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _common import (
    Tags,
    TensorUpscaler,
    Tile,
    add_model_options,
    default_output,
    fail,
    from_pil,
    list_images,
    load_upscaler,
    markdown_table,
    mean,
    metric_definitions,
    model_cost,
    model_name,
    num_evaluations,
    number,
    parse_numbers,
    parse_tile,
    read_picture,
    run_facts,
    set_threads,
    to_pil,
    write_json,
)
from PIL import Image
from torch import Tensor

from linearsr.errors import ConfigError, LinearSRError
from linearsr.metrics import Lpips, gmsd, mod_crop, psnr, quantise, ssim
from linearsr.resize import resize
from linearsr.tags.vocabulary import parse_tags


@dataclass(frozen=True, slots=True)
class Case:
    """One clean picture and the input made from it."""

    name: str
    hr: Tensor
    """(3, H, W) in [0, 1]; sides are multiples of the scale."""
    lr: Tensor
    """(3, H / scale, W / scale) in [0, 1] on the 8-bit grid."""
    tags: tuple[str, ...]
    """What was done to it."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to enlarge: a baseline, or the model at a number of steps."""

    name: str
    steps: int | None


def build_parser() -> argparse.ArgumentParser:
    """The options; see benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FOLDER", help="clean pictures")
    parser.add_argument("--scales", default="2,3,4", help="whole numbers from 1 to 8 (default: 2,3,4)")
    parser.add_argument("--degradation", choices=("bicubic", "real"), default="bicubic")
    parser.add_argument("--steps", default="1,4", help="solver steps to try (default: 1,4)")
    parser.add_argument("--tags", default="none", help="none, true (what was done), predicted, or tags as clean")
    parser.add_argument("--tile", default="auto", help="auto, off or a size in output pixels (default: auto)")
    parser.add_argument("--lpips-weights", type=Path, metavar="FILE", help="safetensors; without it no LPIPS")
    parser.add_argument("--limit", type=int, help="first N pictures of each folder only")
    parser.add_argument("--per-image", action="store_true", help="keep the values of every picture in the JSON")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-quality.json")
    add_model_options(parser)
    return parser


def make_case(path: Path, scale: int, degradation: str) -> Case:
    """Read a clean picture, crop it to a multiple of the scale and make its input."""
    hr = mod_crop(read_picture(path), scale)
    size = (hr.shape[-2] // scale, hr.shape[-1] // scale)
    if degradation == "bicubic":
        return Case(path.name, hr, quantise(resize(hr, size)), ("clean",))
    from linearsr_train.data.degradation import REAL_V1, degrade_real_fixed

    done = degrade_real_fixed(hr.permute(1, 2, 0).contiguous().numpy(), scale, path.name, REAL_V1)
    return Case(path.name, hr, torch.from_numpy(done.lr).permute(2, 0, 1).contiguous(), tuple(done.tags))


def enlarge(case: Case, method: Method, upscaler: TensorUpscaler, tags: Tags, seed: int, tile: Tile) -> Tensor:
    """The result of one method, rounded to 8 bits as a file would be."""
    height, width = case.hr.shape[-2:]
    if method.name == "bicubic":
        return quantise(resize(case.lr, (height, width)))
    if method.name == "lanczos":
        return from_pil(to_pil(case.lr).resize((width, height), Image.Resampling.LANCZOS))
    assert method.steps is not None, "only the baselines have no steps"
    sr = upscaler.upscale_tensor(case.lr, size=(width, height), steps=method.steps, seed=seed, tags=tags, tile=tile)
    return quantise(sr)


def measure(sr: Tensor, hr: Tensor, border: int, lpips: Lpips | None) -> dict[str, float]:
    """Every metric of one result, on the picture without its border."""
    window = (..., slice(border, -border), slice(border, -border))
    values = {
        "psnr_y": psnr(sr, hr, border=border),
        "ssim_y": ssim(sr, hr, border=border),
        "gmsd": gmsd(sr[window], hr[window]),
    }
    if lpips is not None:
        values["lpips"] = lpips(sr[window], hr[window])
    return values


def choose_tags(text: str, case: Case) -> Tags:
    """The tags to give to the model for one case; None asks its tagger."""
    if text in ("none", "predicted"):
        return () if text == "none" else None
    return case.tags if text == "true" else parse_tags(text)


def run_set(
    folder: Path,
    scale: int,
    methods: Sequence[Method],
    upscaler: TensorUpscaler,
    lpips: Lpips | None,
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Rows of one folder at one scale, one for each method."""
    values: dict[Method, dict[str, dict[str, float]]] = {method: {} for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    megapixels = 0.0
    for path in list_images(folder)[: options.limit]:
        case = make_case(path, scale, options.degradation)
        tags = choose_tags(options.tags, case)
        megapixels += case.hr.shape[-1] * case.hr.shape[-2] / 1e6
        for method in methods:
            start = time.perf_counter()
            sr = enlarge(case, method, upscaler, tags, options.seed, options.tile)
            seconds[method] += time.perf_counter() - start
            values[method][case.name] = measure(sr, case.hr, scale, lpips)
    for method in methods:
        images = values[method]
        names = next(iter(images.values())).keys()
        row: dict[str, Any] = {
            "dataset": folder.resolve().name,
            "scale": scale,
            "degradation": options.degradation,
            "method": method.name,
            "steps": method.steps,
            "nfe": None if method.steps is None else num_evaluations(upscaler, method.steps),
            "tags": options.tags if method.steps is not None else None,
            "num_images": len(images),
            "output_megapixels": round(megapixels, 3),
            "seconds_per_output_megapixel": seconds[method] / megapixels,
        }
        row.update({name: mean([image[name] for image in images.values()]) for name in names})
        if options.per_image:
            row["images"] = images
        yield row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("set", "scale", "input", "method", "steps", "tags", "PSNR-Y", "SSIM-Y", "LPIPS", "GMSD")
    lines = [
        (
            row["dataset"],
            f"x{row['scale']}",
            row["degradation"],
            row["method"],
            "-" if row["steps"] is None else str(row["steps"]),
            "-" if row["tags"] is None else row["tags"],
            number(row["psnr_y"], 2),
            number(row["ssim_y"], 4),
            number(row.get("lpips"), 4),
            number(row["gmsd"], 4),
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def check(options: argparse.Namespace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check what argparse cannot, before any weights load; returns scales and steps.

    Raises:
        ConfigError: a setting is out of range.
    """
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}, expected at least 1")
    if options.tags not in ("none", "true", "predicted"):
        parse_tags(options.tags)
    options.tile = parse_tile(options.tile)
    for folder in options.data:
        list_images(folder)
    return parse_numbers(options.scales, "--scales", 1, 8), parse_numbers(options.steps, "--steps", 1, 1000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    try:
        scales, steps = check(options)
        set_threads(options.threads)
        facts = run_facts("quality", arguments, options.device)
        upscaler = load_upscaler(options.model, options.device, options.dtype)
        if options.tags == "predicted" and getattr(upscaler, "tagger", None) is None:
            raise ConfigError(f"model {model_name(options.model)!r} has no tagger", hint="give --tags none")
        lpips = None if options.lpips_weights is None else Lpips.from_file(options.lpips_weights)
        methods = [Method("bicubic", None), Method("lanczos", None)]
        model: dict[str, Any] | None = None
        if options.model != "none":
            methods += [Method(model_name(options.model), count) for count in steps]
            model = {"name": model_name(options.model), **model_cost(upscaler)}
        rows: list[dict[str, Any]] = []
        for folder in options.data:
            for scale in scales:
                rows.extend(run_set(folder, scale, methods, upscaler, lpips, options))
                print(f"{folder.name} x{scale} done", file=sys.stderr)
        output = default_output("quality") if options.output is None else options.output
        names = [name for name in ("psnr_y", "ssim_y", "gmsd", "lpips") if name in rows[0]]
        protocol = {
            "crop": "reference cut to a multiple of the scale; border of `scale` pixels cut for every metric",
            "input": "MATLAB bicubic" if options.degradation == "bicubic" else "degrade_real_fixed with REAL_V1",
            "rounding": "input and result rounded to 8 bits",
            "null": "a value that is not finite, as the PSNR of identical pictures",
        }
        payload = {
            **facts,
            "model": model,
            "protocol": protocol,
            "definitions": metric_definitions(names),
            "rows": rows,
        }
        write_json(output, payload)
    except LinearSRError as error:
        fail(error)
    print(table(rows))
    if any(not math.isfinite(row["psnr_y"]) for row in rows):
        print("\ninf: the result equals the reference")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
