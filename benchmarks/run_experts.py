"""Compare one network, two and four experts, and several ways to cut the noise levels, at equal training.

Example:
    python benchmarks/run_experts.py --data data/train --init runs/mine/stages/pretrain/result.safetensors \
        --lpips-weights metrics/lpips-alex-v0.1.safetensors

Every candidate starts from the same one network and takes the same number of optimizer steps in all, divided equally
among its experts, each with a fresh optimizer and the same learning rate schedule. Scores are of photographs that are
held back from training; nothing is chosen on a benchmark set.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _common import default_output, metric_definitions, parse_numbers, program, run_facts, set_threads, write_json
from _training import (
    Bench,
    Weights,
    add_training_options,
    cell,
    fingerprint,
    open_bench,
    over_seeds,
    score,
    train_experts,
    validation_set,
)

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr.model.experts import PAPER_BOUNDARIES, ExpertBank, bisect_log_snr
from linearsr.model.transformer import LinearDiT
from linearsr.schedules import COMPACT_T_GRIDS, compact_grid
from linearsr_train.config import LossConfig, TrainConfig, load_recipe
from linearsr_train.evaluate import ValidationSet
from linearsr_train.experts import boundaries_log_snr
from linearsr_train.weights import read_init, read_tensors

RECIPE, TASKS, STEPS = "compact_cpu", ("x4", "real4"), (1, 4, 8)
ANCHOR = PAPER_BOUNDARIES[1]


def grid_midpoints(steps: int) -> tuple[float, ...]:
    """Boundaries half-way between the times of a published grid, so that each step has an expert of its own."""
    times = sorted(COMPACT_T_GRIDS[steps][:-1])
    return tuple(round((a + b) / 2, 4) for a, b in zip(times, times[1:], strict=False))


def equal_mass(count: int, loss: LossConfig) -> tuple[float, ...]:
    """Boundaries that give each of `count` experts the same share of the training draws below t = 1."""
    shares = torch.arange(1, count, dtype=torch.float64) / count
    times = torch.sigmoid(loss.t_logit_mean + loss.t_logit_std * torch.special.ndtri(shares))
    return tuple(round(float(t), 4) for t in times)


def candidates(loss: LossConfig) -> dict[str, tuple[float, ...]]:
    """Name -> rising boundaries in t."""
    return {
        "one network": (),
        "two experts, the paper's anchor": (ANCHOR,),
        "four, the paper's triple": PAPER_BOUNDARIES,
        "four, uniform in t": (0.25, 0.5, 0.75),
        "four, log-SNR bisection without anchor": tuple(round(t, 4) for t in bisect_log_snr(anchor=None)),
        "four, midpoints of the 4-step grid": grid_midpoints(4),
        "four, equal shares of the draws": equal_mass(4, loss),
    }


def config_for(options: argparse.Namespace, boundaries: tuple[float, ...], seed: int) -> TrainConfig:
    """The recipe with the budget divided among the experts.

    Raises:
        ConfigError: a setting that does not fit.
    """
    return load_recipe(
        RECIPE,
        [
            f"init={options.init}",
            f"experts.boundaries={list(boundaries)}",
            f"data.crop={options.crop}",
            f"loop.batch_size={options.batch}",
            f"loop.seed={seed}",
            f"loop.validation_photos={options.photos}",
            "stages.pretrain.max_steps=0",
            "stages.sft.max_steps=0",
            f"stages.experts.max_steps={4 * options.steps // (len(boundaries) + 1)}",
            f"stages.experts.learning_rate={options.learning_rate}",
            f"stages.experts.warmup_steps={max(1, options.steps // 10)}",
        ],
    )


def load_start(options: argparse.Namespace, config: TrainConfig) -> Weights:
    """The one network that all candidates start from.

    Raises:
        ConfigError: the model has several.
        WeightsError, TrainingError: it cannot be read.
    """
    if options.init.endswith(".safetensors"):
        weights = read_tensors(Path(options.init))
        LinearDiT(config.model).load_state_dict(weights)
        return weights
    networks = read_init(config)[1]
    if len(networks) > 1:
        raise ConfigError(
            f"model {options.init!r} has {len(networks)} experts, expected one network to start all candidates from",
            hint="give the pretraining of its run, stages/pretrain/result.safetensors",
        )
    return networks[0]


def used_experts(boundaries: tuple[float, ...], config: TrainConfig) -> dict[str, list[int]]:
    """Expert of each step, by number of steps."""
    cuts = boundaries_log_snr(dataclasses.replace(config.experts, boundaries=boundaries))
    bank = ExpertBank(cuts, lambda _: LinearDiT(config.model))
    return {str(steps): bank.used_by(compact_grid(steps, shift=config.flow.shift)) for steps in STEPS}


def run_cell(bench: Bench, config: TrainConfig, start: Weights, data: ValidationSet) -> dict[str, Any]:
    """Train one candidate and measure it."""
    trained = train_experts(bench, config, start)
    return {
        "endings": [t.ending for t in trained],
        "nonfinite": sum(t.nonfinite for t in trained),
        "seconds": round(sum(t.seconds for t in trained), 1),
        "scores": score(bench, config, [t.weights for t in trained], data, STEPS),
    }


def differences(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By score, what a candidate has more than the base, seed by seed."""
    pairs = {
        key: [a - b for a, b in zip(row["scores"][key]["values"], base["scores"][key]["values"], strict=True)]
        for key in row["scores"]
        if not key.endswith("bicubic")
    }
    return over_seeds([{key: values[i] for key, values in pairs.items()} for i in range(len(row["seeds"]))])


def measure(options: argparse.Namespace, seeds: tuple[int, ...]) -> dict[str, Any]:
    """All cells, those done before from their parts."""
    base = config_for(options, (), 0)
    start = load_start(options, base)
    wanted = {n: b for n, b in candidates(base.loss).items() if options.only is None or options.only in n}
    bench = open_bench(options, base)
    data = validation_set(bench, base, TASKS)
    names = ("steps", "crop", "batch", "learning_rate", "photos")
    common = {**{name: getattr(options, name) for name in names}, "start": fingerprint(start), "recipe": RECIPE}
    before = cell(options.parts, "start", common, lambda: score(bench, base, [start], data, STEPS))
    rows: list[dict[str, Any]] = []
    for name, boundaries in wanted.items():
        results = []
        for seed in seeds:
            config = config_for(options, boundaries, seed)
            slug = f"{name.replace(' ', '-').replace(',', '').replace(chr(39), '')}-seed{seed}"
            settings = {**common, "seed": seed, "boundaries": boundaries}
            results.append(
                cell(options.parts, slug, settings, lambda c=config: run_cell(bench, c, start, data))  # type: ignore[misc]
            )
            print(f"{name}, seed {seed}: {results[-1]['scores']}", file=sys.stderr)
        rows.append(
            {
                "candidate": name,
                "boundaries": boundaries,
                "experts": len(boundaries) + 1,
                "steps_each": 4 * options.steps // (len(boundaries) + 1),
                "experts_of_steps": used_experts(boundaries, base),
                "seeds": seeds,
                "endings": sorted({ending for result in results for ending in result["endings"]}),
                "nonfinite": sum(result["nonfinite"] for result in results),
                "seconds": [result["seconds"] for result in results],
                "scores": over_seeds([result["scores"] for result in results]),
            }
        )
    for row in rows:
        row["over_first"] = differences(row, rows[0])
    return {"settings": common, "photographs": {"training": len(bench.photos), "held_back": len(data.tasks["x4"])},
            "tasks": TASKS, "start": before, "rows": rows}  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean scores of the candidates, as Markdown."""
    keys = [f"{task}/{name}_{steps}" for task in TASKS for name, steps in (("psnr", 1), ("psnr", 4), ("perceptual", 4))]
    lines = [
        (row["candidate"], *(number(row["scores"][key]["mean"], 2 if "psnr" in key else 4) for key in keys))
        for row in rows
    ]
    return markdown_table(("candidate", *keys), lines)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_training_options(parser, "bench-experts", photos=25)
    parser.add_argument("--init", required=True, help="model of one network, or a pretraining's result.safetensors")
    parser.add_argument(
        "--steps", type=int, default=150, help="of each of four experts; four times that in all (default: 150)"
    )
    parser.add_argument("--crop", type=int, default=96, help="pixels (default: 96)")
    parser.add_argument("--batch", type=int, default=8, help="crops of a step (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="largest of each stage (default: 5e-4)")
    parser.add_argument("--only", metavar="TEXT", help="candidates whose name has this text; for running in pieces")
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left of the experiment, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    seeds = parse_numbers(options.seeds, "--seeds", 0, 10_000)
    set_threads(options.threads)
    facts = run_facts("experts", arguments, options.device)
    found = measure(options, seeds)
    if options.only is None:
        output = default_output("experts") if options.output is None else options.output
        write_json(output, {**facts, "definitions": metric_definitions(("psnr_y", "lpips")), **found})
    print(table(found["rows"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
