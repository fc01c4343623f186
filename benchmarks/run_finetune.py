"""Measure what finetuning on twenty photographs of one kind gains on others of that kind.

Example:
    python benchmarks/run_finetune.py --data train --pattern 'arch_*' --control 'animals_*' --seeds 0,1,2

By the SHA-256 of their names, the last `--train` photographs of the kind are trained on (the first two of them only
watched) and all others are held back. `--control` trains on as many photographs of another kind and judges on the same
held-back ones: what is gained there as well is not owed to the kind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import (
    add_model_options,
    finish,
    list_images,
    metric_definitions,
    model_name,
    parse_numbers,
    program,
    run_facts,
    set_threads,
)

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr.metrics import Lpips, gmsd
from linearsr.pipeline import Upscaler
from linearsr_train.compare import compare_models
from linearsr_train.data.split import PhotoSplit, by_name_hash
from linearsr_train.finetune import FULL_OVERRIDES, finetune_config, run_finetune

WATCHED = 2
WAYS: dict[str, tuple[str, ...]] = {"lora": (), "full": FULL_OVERRIDES}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="photographs of several kinds")
    parser.add_argument("--pattern", default="arch_*", help="names of the kind (default: arch_*)")
    parser.add_argument("--control", metavar="PATTERN", help="names of another kind, to train on instead")
    parser.add_argument("--train", type=int, default=20, help="photographs to train on (default: 20)")
    parser.add_argument("--ways", default="lora,full", help="of lora and full (default: lora,full)")
    parser.add_argument("--seeds", default="0", help="whole numbers with commas between (default: 0)")
    parser.add_argument("--experts", help="experts to train, such as 3 (default: all)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING", help="section.field=value of the recipe"
    )
    parser.add_argument("--lpips-weights", type=Path, metavar="FILE", help="safetensors; GMSD without it")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the runs here, and go on from them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-finetune.json")
    add_model_options(parser)
    return parser


def photographs(folder: Path, pattern: str, least: int) -> list[Path]:
    """Photographs of a kind in the order of their names' hashes.

    Raises:
        ConfigError: fewer than `least`.
    """
    found = by_name_hash([path for path in list_images(folder) if path.match(pattern)])
    if len(found) < least:
        raise ConfigError(f"{len(found)} photographs are called {pattern!r}, expected at least {least}")
    return found


def parts(options: argparse.Namespace) -> dict[str, PhotoSplit]:
    """Training and held-back photographs of the kind, and of the control with the same held-back ones."""
    if options.train <= WATCHED:
        raise ConfigError(f"--train is {options.train}, expected at least {WATCHED + 1}: {WATCHED} are only watched")
    ranked = photographs(options.data, options.pattern, options.train + 2)
    sources = {"kind": ranked[-options.train :]}
    if options.control is not None:
        sources["control"] = photographs(options.data, options.control, options.train)[-options.train :]
        if both := set(ranked) & set(sources["control"]):
            raise ConfigError(f"--control has {len(both)} photographs of the kind itself, expected another kind")
    held_back = tuple(sorted(ranked[: -options.train]))
    return {
        name: PhotoSplit(
            training=tuple(sorted(paths[WATCHED:])),
            watched=tuple(sorted(paths[:WATCHED])),
            held_back=held_back,
            notes=(),
        )
        for name, paths in sources.items()
    }


def measure(
    options: argparse.Namespace, way: str, source: str, seed: int, split: PhotoSplit, folder: Path
) -> dict[str, Any]:
    """Finetune once and compare; one row of the result."""
    overrides = [*WAYS[way], *options.set, f"loop.seed={seed}"]
    config, checkpoint = finetune_config(options.model, overrides)
    count = len(config.experts.boundaries) + 1
    experts = None if options.experts is None else parse_numbers(options.experts, "--experts", 0, count - 1)
    start = time.perf_counter()
    result = run_finetune(
        config, checkpoint, split, folder, experts=experts, device=options.device,
        lpips_weights=options.lpips_weights, report=lambda line: print(line, file=sys.stderr),
    )  # fmt: skip
    if result.export is None:
        raise SystemExit(130)  # stopped by a signal; the same command with --work goes on
    seconds = time.perf_counter() - start
    perceptual, name = gmsd, "gmsd"
    if options.lpips_weights is not None:
        perceptual, name = Lpips.from_file(options.lpips_weights), "lpips-alex-0.1"
    before, after = (
        Upscaler.from_pretrained(model, device=options.device, dtype=options.dtype)
        for model in (options.model, result.export)
    )
    comparison = compare_models(before, after, split.held_back, perceptual=perceptual, perceptual_name=name)
    stage = config.stages.experts
    return {
        "way": way,
        "trained_on": source,
        "seed": seed,
        "experts": experts,
        "steps": stage.max_steps,
        "learning_rate": stage.learning_rate,
        "lora_rank": config.experts.lora_rank if way == "lora" else None,
        "batch_size": config.loop.batch_size,
        "crop": config.data.crop,
        "chosen": {name: done["chosen"] for name, done in result.run.stages.items()},
        "seconds_of_training": round(seconds, 1),
        **comparison.to_dict(),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Differences on the held-back photographs as Markdown."""
    header = (
        "way",
        "trained on",
        "seed",
        "measure",
        "before",
        "after",
        "difference",
        "95 % interval",
        "better",
        "worse",
    )
    lines = []
    for row in rows:
        for key, entry in row["rows"].items():
            digits = 3 if "/psnr_" in key else 4
            interval = f"{entry['low']:+.{digits}f} to {entry['high']:+.{digits}f}"
            means = [number(sum(entry[side]) / len(entry[side]), digits) for side in ("before", "after")]
            signs = (str(entry["num_better"]), str(entry["num_worse"]))
            difference = f"{entry['difference']:+.{digits}f}"
            lines.append((row["way"], row["trained_on"], str(row["seed"]), key, *means, difference, interval, *signs))
    return markdown_table(header, lines)


def protocol(options: argparse.Namespace) -> dict[str, str | None]:
    """What a reader must know to make the numbers again."""
    return {
        "kind": options.pattern,
        "control": options.control,
        "split": "by SHA-256 of the name: the last of the kind are trained on, the first two of those are watched, "
        "all others are held back",
        "input": "x4: MATLAB bicubic; real4: degrade_real_fixed with REAL_V1 at scale 4; central crops up to 512",
        "tags": "those the model's tagger names, none without one",
        "rounding": "input and result rounded to 8 bits; border of 4 pixels cut for PSNR",
    }


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    set_threads(options.threads)
    ways = options.ways.split(",")
    if not set(ways) <= set(WAYS):
        raise ConfigError(f"--ways is {options.ways!r}, expected some of {', '.join(WAYS)}")
    seeds, splits = parse_numbers(options.seeds, "--seeds", 0, 2**31), parts(options)
    facts = run_facts("finetune", arguments, options.device)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) if options.work is None else options.work
        rows = [
            measure(options, way, source, seed, split, work / f"{way}-{source}-{seed}")
            for way in ways
            for source, split in splits.items()
            for seed in seeds
        ]
    payload = {
        **facts,
        "model": {"name": model_name(options.model)},
        "protocol": protocol(options),
        "trained_on": {source: [path.name for path in split.training] for source, split in splits.items()},
        "watched": {source: [path.name for path in split.watched] for source, split in splits.items()},
        "held_back": [path.name for path in splits["kind"].held_back],
        "definitions": metric_definitions(["psnr_y", "gmsd" if options.lpips_weights is None else "lpips"]),
        "rows": rows,
    }
    finish(options.output, "finetune", payload, table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
