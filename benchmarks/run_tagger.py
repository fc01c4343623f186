"""Measure the tagger on photographs that it never saw: precision and recall by kind, and its time.

Example:
    python benchmarks/run_tagger.py --data data/train --tagger runs/mine/export/tagger.safetensors

The photographs are those of the folder's validation split. Each sample is degraded by the training chain, which knows
what it did. Precision is the share of named tags that are right, recall the share of what is there that is named.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import finish, list_images, program, run_facts, set_threads
from _cost import sample_picture

from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.tables import markdown_table, number
from linearsr.tags.compact import CompactTagger, load_tagger
from linearsr_train.data.degradation import REAL_V1, degrade_real_fixed
from linearsr_train.data.sources import PhotoSet, find_photos
from linearsr_train.data.tag_samples import TagSamples
from linearsr_train.tagger import measure_tagger
from linearsr_train.tagger_config import TaggerConfig
from linearsr_train.tagger_scores import score_tags

VALIDATION_FRACTION = 0.05
MIXED_REAL, MIN_SIDE = 0.45, 128
SEED = 2


def cases(tagger: CompactTagger, photos: PhotoSet, options: argparse.Namespace) -> dict[str, tuple[TagSamples, int]]:
    """Name -> samples and how many of them."""
    shape = tagger.network.config
    base = TaggerConfig(crop=shape.crop, widths=shape.widths, hidden=shape.hidden)
    settings: dict[str, tuple[float, dict[str, Any], int]] = {
        "crops, x4, 45 % degraded": (MIXED_REAL, {"scale": 4.0}, options.samples),
        "crops, x4, all degraded": (1.0, {"scale": 4.0}, options.samples),
        "crops, x1 to x4, 60 % degraded": (base.real_probability, {}, options.samples),
        "whole photographs, x4, all degraded": (1.0, {"scale": 4.0, "whole": True}, options.whole),
    }
    return {
        name: (
            TagSamples(
                photos,
                range(len(photos)),
                dataclasses.replace(base, real_probability=real),
                REAL_V1,
                (options.seed, SEED + index),
                **more,
            ),
            count,
        )
        for index, (name, (real, more, count)) in enumerate(settings.items())
        if count
    }


def measure_fixed(tagger: CompactTagger, folder: Path) -> dict[str, Any]:
    """The low-resolution pictures of the quality benchmark's "real" rows at x4, one for each picture of a folder."""
    named, truth, names = [], [], []
    for path in list_images(folder):
        hr = np.ascontiguousarray(read_picture(path).permute(1, 2, 0).numpy())
        made = degrade_real_fixed(hr, 4, path.name)
        named.append(tagger.tag(torch.from_numpy(np.ascontiguousarray(made.lr.transpose(2, 0, 1)))))
        truth.append(made.tags)
        names.append(path.name)
    return score_tags(named, truth, names)


def time_tagger(tagger: CompactTagger, side: int = 1024, runs: int = 9) -> float:
    """Median processor milliseconds for one picture of side x side pixels, after a warm-up."""
    picture, taken = sample_picture(side), []
    for _ in range(runs + 1):
        begin = time.process_time()
        tagger.tag(picture)
        taken.append(1000 * (time.process_time() - begin))
    return statistics.median(taken[1:])


def _cell(row: dict[str, Any], name: str) -> str:
    interval = row[f"{name}_interval"]
    bounds = "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    return number(row[name], 3) + bounds


def _table(results: dict[str, dict[str, Any]]) -> str:
    body = []
    for case, scores in results.items():
        rows = {**scores["presence"], **{f"strictly `{entry}`": row for entry, row in scores["strict"].items()}}
        for name, row in rows.items():
            body.append((case, name, str(row["there"]), _cell(row, "precision"), _cell(row, "recall")))
        macro = scores["macro"]
        body.append((case, "macro", str(scores["samples"]), number(macro["precision"], 3), number(macro["recall"], 3)))
        body.append((case, "exact set", str(scores["samples"]), number(scores["exact"], 3), ""))
    return markdown_table(("samples", "tag", "there", "precision", "recall"), body)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs; its validation split is used")
    parser.add_argument("--tagger", type=Path, required=True, help="tagger.safetensors")
    parser.add_argument("--samples", type=int, default=1200, help="samples of each kind of crop (default: 1200)")
    parser.add_argument("--whole", type=int, default=150, help="samples of whole photographs (default: 150)")
    parser.add_argument("--fixed", type=Path, help="also the fixed degraded pictures of this folder, at x4")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-tagger.json")
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report."""
    options = build_parser().parse_args(arguments)
    results: dict[str, dict[str, Any]] = {}
    set_threads(options.threads)
    tagger = load_tagger(options.tagger)
    milliseconds = time_tagger(tagger)
    photos = PhotoSet(find_photos(options.data, VALIDATION_FRACTION)[1], MIN_SIDE, 4.0)
    for name, (samples, count) in cases(tagger, photos, options).items():
        results[name] = measure_tagger(tagger, samples, count)
        print(f"{name} done", file=sys.stderr)
    if options.fixed is not None:
        results[f"{options.fixed.name}, x4, fixed"] = measure_fixed(tagger, options.fixed)
    facts = {
        "thresholds": dataclasses.asdict(tagger.thresholds),
        "parameters": sum(p.numel() for p in tagger.network.parameters()),
        "bytes": options.tagger.stat().st_size,
        "processor_milliseconds_1024x1024": milliseconds,
    }
    payload = {**run_facts("tagger", arguments, "cpu"), "tagger": facts, "cases": results}
    spent = f"{milliseconds:.0f} ms of processor time for 1024 x 1024 pixels, {torch.get_num_threads()} thread(s)"
    finish(options.output, "tagger", payload, _table(results), spent)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
