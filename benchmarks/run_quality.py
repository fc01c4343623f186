"""Measure fidelity and perceptual distance on folders of clean pictures, beside bicubic and Lanczos.

Example:
    python benchmarks/run_quality.py --data bench/Set5 bench/Kodak24 --scales 2,3,4 --steps 1,4 --tags clean \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

The measuring is that of `linearsr eval`; this runs it at several scales and counts what a result costs. The protocol
is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from _common import (
    add_model_options,
    finish,
    load_upscaler,
    metric_definitions,
    model_name,
    parse_numbers,
    parse_tile,
    program,
    run_facts,
    set_threads,
)
from _cost import model_cost, num_evaluations
from torch import Tensor

from linearsr.errors import ConfigError, ImageError
from linearsr.evaluation.cases import Degrade
from linearsr.evaluation.methods import Method, interpolation, model_methods
from linearsr.evaluation.pairing import PairedSet, pair_folders
from linearsr.evaluation.results import Failure
from linearsr.evaluation.run import evaluate
from linearsr.evaluation.tables import markdown_table, number
from linearsr.metrics import METRICS, ScoreSettings, quantise
from linearsr.resize import resize
from linearsr.tags.vocabulary import parse_tags

SCORES = ("psnr_y", "ssim_y", "gmsd", "lpips")
PROTOCOL = {
    "crop": "reference cut to a multiple of the scale; border of `scale` pixels cut for every metric",
    "rounding": "input and result rounded to 8 bits",
    "null": "a value that is not finite, as the PSNR of identical pictures",
}


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


def make_methods(options: argparse.Namespace, steps: Sequence[int]) -> list[Method]:
    """The baselines, and the model at every number of steps.

    Raises:
        ConfigError: tags of a tagger are wanted of a model that has none.
    """
    methods = [interpolation(name) for name in ("bicubic", "lanczos")]
    if options.model == "none":
        return methods
    methods += model_methods(
        options.model, steps, seed=options.seed, tags=None if options.tags == "predicted" else options.tags,
        tile=options.tile, device=options.device, dtype=options.dtype,
    )  # fmt: skip
    if options.tags == "predicted" and methods[-1].info.settings["tags"] != "tagger":
        raise ConfigError(f"model {model_name(options.model)!r} has no tagger", hint="give --tags none")
    return methods


@dataclass(frozen=True, slots=True)
class Shrunk:
    """A bicubic input."""

    lr: Tensor
    """(3, h, w) in [0, 1] on the 8-bit grid."""
    tags: tuple[str, ...] = ("clean",)


def degrade_with(degradation: str, scale: int) -> Degrade:
    """What makes the inputs.

    Bicubic is `linearsr.resize`, as in the stored results. `linearsr degrade` rounds a few ties at x2 the other way,
    and the noise of several steps follows from every pixel.
    """
    if degradation == "bicubic":
        return lambda hr, name: Shrunk(quantise(resize(hr, (hr.shape[-2] // scale, hr.shape[-1] // scale))))
    from linearsr_train.data.pairs import degrader, load_recipe

    return degrader(load_recipe(degradation), scale=scale)


def stop(failure: Failure) -> None:
    """A mean over fewer pictures would be another number."""
    raise ImageError(f"{failure.dataset}/{failure.image}: {failure.message}", hint=failure.hint)


def run_set(
    paired: PairedSet,
    scale: int,
    methods: Sequence[Method],
    nfe: Mapping[int | None, int | None],
    options: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Rows of one folder at one scale, one for each method."""
    found = evaluate(
        [paired],
        methods,
        metrics=SCORES if options.lpips_weights is not None else SCORES[:-1],
        explicit=True,
        settings=ScoreSettings(crop_border=scale, lpips_weights=options.lpips_weights),
        scale=scale,
        degrade=degrade_with(options.degradation, scale),
        on_progress=lambda done, total, label: print(f"x{scale} [{done}/{total}] {label}", file=sys.stderr),
        on_failure=stop,
    )
    for method in found.methods:
        images = [image for image in found.images if image.method == method.name]
        megapixels = sum(image.megapixels for image in images)
        row: dict[str, Any] = {
            "dataset": paired.name,
            "scale": scale,
            "degradation": options.degradation,
            "method": method.name if method.steps is None else model_name(options.model),
            "steps": method.steps,
            "nfe": nfe[method.steps],
            "tags": options.tags if method.steps is not None else None,
            "num_images": len(images),
            "output_megapixels": round(megapixels, 3),
            "seconds_per_output_megapixel": sum(image.seconds or 0.0 for image in images) / megapixels,
        }
        row.update({name: fmean([image.scores[name] for image in images]) for name in found.metrics})
        if options.per_image:
            names = {pair.image: pair.hr.name for pair in paired.pairs}
            row["images"] = {names[image.image]: image.scores for image in images}
        yield row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    header = ("set", "scale", "input", "method", "steps", "tags", "PSNR-Y", "SSIM-Y", "LPIPS", "GMSD")
    lines = []
    for row in rows:
        settings = (row["method"], *("-" if row[key] is None else str(row[key]) for key in ("steps", "tags")))
        scores = [number(row.get(name), METRICS[name].digits) for name in ("psnr_y", "ssim_y", "lpips", "gmsd")]
        lines.append((row["dataset"], f"x{row['scale']}", row["degradation"], *settings, *scores))
    return markdown_table(header, lines)


def check(options: argparse.Namespace) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check what argparse cannot, before any weights load; returns scales and steps.

    Raises:
        ConfigError: a setting is out of range.
    """
    if options.tags not in ("none", "true", "predicted"):
        parse_tags(options.tags)
    options.tile = parse_tile(options.tile)
    return parse_numbers(options.scales, "--scales", 1, 8), parse_numbers(options.steps, "--steps", 1, 1000)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    scales, steps = check(options)
    sets = [pair_folders(folder, lr=None, srs={}, by="name", limit=options.limit) for folder in options.data]
    set_threads(options.threads)
    facts = run_facts("quality", arguments, options.device)
    methods, model = make_methods(options, steps), None
    nfe: dict[int | None, int | None] = {None: None}
    if options.model != "none":
        upscaler = load_upscaler(options.model, options.device, options.dtype)
        model = {"name": model_name(options.model), **model_cost(upscaler)}
        nfe |= {count: num_evaluations(upscaler, count) for count in steps}
    rows = [row for paired in sets for scale in scales for row in run_set(paired, scale, methods, nfe, options)]
    made = "MATLAB bicubic" if options.degradation == "bicubic" else "degrade_real_fixed with REAL_V1"
    names = [name for name in SCORES if name in rows[0]]
    payload = {
        **facts, "model": model, "protocol": {**PROTOCOL, "input": made}, "definitions": metric_definitions(names),
        "rows": rows,
    }  # fmt: skip
    identical = any(not math.isfinite(row["psnr_y"]) for row in rows)
    finish(options.output, "quality", payload, table(rows), *(["inf: the result equals the reference"] * identical))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
