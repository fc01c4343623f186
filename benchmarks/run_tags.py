"""Measure what tags are worth: the true ones, none, wrong ones, and those that the tagger names.

Example:
    python benchmarks/run_tags.py --data bench/Kodak24 --lpips-weights metrics/lpips-alex-v0.1.safetensors

Inputs are those of run_quality.py's "real" rows at x4; `--inputs blur,noise,jpeg` are the same draws with that stage
alone. Wrong tags turn all around: each degradation that is there is left out, each that is not is named as strong.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _common import (
    TensorUpscaler,
    add_model_options,
    finish,
    list_images,
    load_upscaler,
    measure,
    metric_definitions,
    model_name,
    parse_numbers,
    program,
    run_facts,
    set_threads,
)
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.tables import markdown_table, number
from linearsr.metrics import Lpips, mod_crop, quantise
from linearsr.resize import resize
from linearsr.tags.compact import load_tagger
from linearsr.tags.tagger import Tagger
from linearsr.tags.vocabulary import DEGRADATIONS, parse_tags
from linearsr_train.compare import paired_interval
from linearsr_train.data.degradation import REAL_V1, DegradationConfig, degrade_real_fixed

SCALE = 4
MODES = ("true", "none", "wrong", "predicted")
LEAST_GAIN_DB = 0.1
"""Where true tags gain less than this over none, no share of it is worth stating."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One clean picture and the input made from it."""

    name: str
    hr: Tensor
    """(3, H, W) in [0, 1]; sides are multiples of the scale."""
    lr: Tensor
    """(3, H / scale, W / scale) in [0, 1] on the 8-bit grid."""
    tags: tuple[str, ...]
    """What was done to it."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the result."""
        return self.hr.shape[-1], self.hr.shape[-2]


def recipe(name: str) -> DegradationConfig:
    """`real`, or its draws with one stage alone.

    Raises:
        ConfigError: neither.
    """
    if name == "real":
        return REAL_V1
    if name not in DEGRADATIONS:
        raise ConfigError(f"--inputs has {name!r}, expected real, {', '.join(DEGRADATIONS)}")
    stages: dict[str, Any] = {f"{stage}_stage_prob": float(stage == name) for stage in DEGRADATIONS}
    return dataclasses.replace(REAL_V1, **stages)


def wrong_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Each degradation that is named is left out and each other one named; where all are there, `clean`."""
    present = {tag.partition(":")[0] for tag in tags}
    absent = [kind for kind in DEGRADATIONS if kind not in present]
    return parse_tags(absent if absent else ("clean",))


def make_case(path: Path, config: DegradationConfig) -> Case:
    """A clean picture and the input made from it, alike in every run."""
    hr = mod_crop(read_picture(path), SCALE)
    made = degrade_real_fixed(hr.permute(1, 2, 0).contiguous().numpy(), SCALE, path.name, config)
    return Case(path.name, hr, torch.from_numpy(made.lr).permute(2, 0, 1).contiguous(), tuple(made.tags))


def measure_picture(
    case: Case, upscaler: TensorUpscaler, tagger: Tagger, steps: Sequence[int], lpips: Lpips, seed: int
) -> dict[str, Any]:
    """Tags and scores of one picture in every mode; equal tags are run once."""
    named = {
        "true": parse_tags(case.tags),
        "none": (),
        "wrong": wrong_tags(case.tags),
        "predicted": parse_tags(tagger.tag(case.lr)),
    }
    done: dict[tuple[str, ...], dict[str, float]] = {}
    for tags in named.values():
        if tags not in done:
            values: dict[str, float] = {}
            for count in steps:
                settings = {"size": case.size, "steps": count, "seed": seed, "tags": tags, "tile": "auto"}
                scores = measure(quantise(upscaler.upscale_tensor(case.lr, **settings)), case.hr, SCALE, lpips)
                values |= {f"psnr_y_{count}": scores["psnr_y"], f"lpips_{count}": scores["lpips"]}
            done[tags] = values
    bicubic = measure(quantise(resize(case.lr, case.size[::-1])), case.hr, SCALE, lpips)
    modes = {mode: {"tags": tags, **done[tags]} for mode, tags in named.items()}
    return {"name": case.name, "bicubic": {"psnr_y": bicubic["psnr_y"], "lpips": bicubic["lpips"]}, "modes": modes}


def gains(pictures: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """What each mode gains over none in a score, above 0 is better, with 95 % paired bootstrap intervals.

    `recovered` is the share of the true tags' gain that the predicted ones have; None where that gain is too small to
    divide by.
    """
    sign = -1.0 if key.startswith("lpips") else 1.0
    found: dict[str, Any] = {}
    for mode in MODES:
        if mode != "none":
            each = [sign * (p["modes"][mode][key] - p["modes"]["none"][key]) for p in pictures]
            found[mode] = {"mean": fmean(each), "interval": paired_interval(each)}
    true = found["true"]["mean"]
    enough = true >= LEAST_GAIN_DB if key.startswith("psnr") else found["true"]["interval"][0] > 0
    found["recovered"] = found["predicted"]["mean"] / true if enough else None
    return found


def run_input(
    name: str, options: argparse.Namespace, upscaler: TensorUpscaler, tagger: Tagger, lpips: Lpips
) -> dict[str, Any]:
    """Every picture of the folder under one degradation."""
    config, pictures = recipe(name), []
    for path in list_images(options.data)[: options.limit]:
        case = make_case(path, config)
        pictures.append(measure_picture(case, upscaler, tagger, options.counts, lpips, options.seed))
        print(f"{name} {path.name} done", file=sys.stderr)
    keys = [f"{metric}_{count}" for count in options.counts for metric in ("psnr_y", "lpips")]
    kinds = [{t.partition(":")[0] for t in p["modes"]["true"]["tags"]} - {"clean"} for p in pictures]
    return {
        "input": name,
        "num_images": len(pictures),
        "with": {kind: sum(kind in present for present in kinds) for kind in DEGRADATIONS},
        "predicted_exactly": sum(p["modes"]["predicted"]["tags"] == p["modes"]["true"]["tags"] for p in pictures),
        "bicubic": {key: fmean([p["bicubic"][key] for p in pictures]) for key in ("psnr_y", "lpips")},
        "modes": {mode: {key: fmean([p["modes"][mode][key] for p in pictures]) for key in keys} for mode in MODES},
        "gains": {key: gains(pictures, key) for key in keys},
        "images": pictures,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean scores by input and mode, as Markdown."""
    keys = tuple(rows[0]["modes"]["none"])
    lines = [
        (row["input"], mode, *(number(row["modes"][mode][key], 2 if "psnr" in key else 4) for key in keys))
        for row in rows
        for mode in MODES
    ]
    return markdown_table(("input", "tags", *keys), lines)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="clean pictures")
    parser.add_argument("--lpips-weights", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--tagger", type=Path, metavar="FILE", help="tagger.safetensors (default: the model's own)")
    parser.add_argument("--inputs", default="real,blur,noise,jpeg", help="degradations (default: real,blur,noise,jpeg)")
    parser.add_argument("--steps", default="1,4", help="solver steps (default: 1,4)")
    parser.add_argument("--limit", type=int, help="first N pictures only")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-tags.json")
    add_model_options(parser)
    return parser


def open_tagger(path: Path | None, upscaler: Any) -> Tagger:  # noqa: ANN401 - the pipeline's, or the stand-in
    """A tagger from a file, or the model's own.

    Raises:
        ConfigError: the model has none.
        WeightsError: the file is no tagger.
    """
    tagger = load_tagger(path) if path is not None else getattr(upscaler, "tagger", None)
    if tagger is None:
        raise ConfigError("the model has no tagger of its own", hint="give one with --tagger FILE")
    return tagger


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    options.counts = parse_numbers(options.steps, "--steps", 1, 1000)
    inputs = options.inputs.split(",")
    for name in inputs:
        recipe(name)
    set_threads(options.threads)
    facts = run_facts("tags", arguments, options.device)
    upscaler = load_upscaler(options.model, options.device, options.dtype)
    tagger = open_tagger(options.tagger, upscaler)
    lpips = Lpips.from_file(options.lpips_weights)
    rows = [run_input(name, options, upscaler, tagger, lpips) for name in inputs]
    payload = {
        "model": model_name(options.model),
        "dataset": options.data.resolve().name,
        "least_gain_db": LEAST_GAIN_DB,
        "definitions": metric_definitions(("psnr_y", "lpips")),
        "rows": rows,
    }
    finish(options.output, "tags", {**facts, **payload}, table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
