"""Start the experts at the knee, at the elbow or much later, against a run without stages.

Example:
    python benchmarks/run_esgf.py --data data/train --lpips-weights metrics/lpips-alex-v0.1.safetensors

A compact network, shrunk so that two CPU cores can afford it, is pretrained from nothing at a constant rate until
`--late` times the knee, or until the controller has made up its mind if that is later. The controller judges the same
evaluations beside it, without ending anything, and says where its elbow and its knee are. From each of these
checkpoints, and from the last one, four experts are trained alike. Beside them one network goes on from the knee for as
many steps: as a stage of its own with the same schedule, and as the pretraining that was never stopped. Nothing is
rolled back or chosen within a stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _common import finish, metric_definitions, parse_numbers, program, run_facts, set_threads
from _training import (
    Bench,
    Recorder,
    Weights,
    add_training_options,
    cell,
    checkpoint_path,
    health,
    open_bench,
    over_seeds,
    score,
    train_experts,
    train_stage,
    validation_set,
)

from linearsr.config import to_dict
from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr_train.config import TrainConfig, load_recipe
from linearsr_train.evaluate import ValidationSet
from linearsr_train.experts import plan_stages
from linearsr_train.weights import read_tensors

RECIPE, TASKS, STEPS = "compact_cpu", ("x4", "x2", "real4"), (1, 4)
SHRUNK = ("model.width=64", "model.depth=1", "model.stem_width=32", "model.stem_depth=3", "model.head_depth=2")
WATCH_PHOTOS, WATCH_CROP = 8, 128
"""The curve is of fewer and smaller pictures than the scores: it is measured often."""
COLLAPSE_DB = 0.5
"""A stage has collapsed if it ends with a loss that is not finite, or this much PSNR below its start."""
POINTS = ("elbow", "knee", "end")


def config_for(options: argparse.Namespace, seed: int, **changes: object) -> TrainConfig:
    """The shrunk recipe; `changes` are fields with `__` for the dot.

    Raises:
        ConfigError: a setting that does not fit.
    """
    settings: dict[str, object] = {
        "data.crop": options.crop,
        "loop.batch_size": options.batch,
        "loop.seed": seed,
        "loop.validation_photos": options.photos,
        "stages.pretrain.max_steps": options.pretrain_steps,
        "stages.pretrain.learning_rate": options.learning_rate,
        "stages.pretrain.warmup_steps": min(100, options.pretrain_steps),
        "stages.pretrain.validation_steps": options.every,
        "stages.experts.max_steps": options.steps,
        "stages.experts.learning_rate": options.learning_rate / 2,
        "stages.experts.warmup_steps": max(1, options.steps // 10),
        "stages.sft.max_steps": 0,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    return load_recipe(RECIPE, [*SHRUNK, *(f"{name}={value}" for name, value in settings.items())])


def pretrain(bench: Bench, config: TrainConfig, folder: Path, late: float) -> dict[str, Any]:
    """Pretrain from nothing until it is late; keeps the checkpoints that are still needed."""
    small = dataclasses.replace(config.loop, validation_photos=WATCH_PHOTOS, validation_crop=WATCH_CROP)
    watched = dataclasses.replace(config, loop=small)
    folder.mkdir(parents=True, exist_ok=True)
    beyond = 4 * config.stages.experts.max_steps
    recorder = Recorder(bench, watched, validation_set(bench, watched, TASKS), folder, late=late, beyond=beyond)
    stage = next(stage for stage in plan_stages(config) if stage.kind == "pretrain")
    trained = train_stage(
        bench,
        config,
        stage,
        None,
        on_validation=recorder,
        on_step=lambda values: recorder.norms.append(values["grad_norm"]),
        should_stop=recorder.is_late,
    )
    if trained.ending == "collapse":
        recorder.esgf.update(trained.steps + 1, math.nan, math.nan, finite=False)
    verdict, steps = recorder.esgf.verdict, [row["step"] for row in recorder.rows]
    points = {"elbow": verdict.elbow, "knee": verdict.knee, "end": steps[-1]}
    if verdict.knee is not None:
        points["going on"] = next((step for step in steps if step >= verdict.knee + beyond), None)
    for path in folder.glob("step-*.safetensors"):
        if path not in {checkpoint_path(folder, step) for step in points.values() if step is not None}:
            path.unlink()
    return {
        "verdict": dataclasses.asdict(verdict),
        "stopped_at": recorder.stopped_at,
        "points": points,
        "ending": trained.ending,
        "nonfinite": trained.nonfinite,
        "seconds": round(trained.seconds, 1),
        "curve": recorder.rows,
    }


def branch(bench: Bench, config: TrainConfig, start: Weights, data: ValidationSet, before: dict[str, float]) -> dict:
    """Train the expert stage of a config from a checkpoint and measure what came out."""
    trained = train_experts(bench, config, start)
    networks = [part.weights for part in trained]
    scores = score(bench, config, networks, data, STEPS)
    fallen = max(before[f"{task}/psnr_{steps}"] - scores[f"{task}/psnr_{steps}"] for task in TASKS for steps in STEPS)
    finite = all(part.ending == "budget" for part in trained)
    return {
        "scores": scores,
        "health": health(bench, config, networks, data),
        "nonfinite": sum(part.nonfinite for part in trained),
        "collapsed": not finite or fallen > COLLAPSE_DB,
        "seconds": round(sum(part.seconds for part in trained), 1),
    }


def run_seed(bench: Bench, options: argparse.Namespace, seed: int, common: dict[str, Any]) -> dict[str, Any]:
    """All cells of one seed."""
    config, settings = config_for(options, seed), {**common, "seed": seed}
    folder = options.parts / f"seed{seed}"
    first = cell(options.parts, f"seed{seed}-pretrain", settings, lambda: pretrain(bench, config, folder, options.late))
    data = validation_set(bench, config, TASKS)
    points = {name: step for name, step in first["points"].items() if step is not None}
    starts = {name: read_tensors(checkpoint_path(folder, step)) for name, step in points.items()}
    before = {
        name: cell(
            options.parts,
            f"seed{seed}-step{points[name]}",
            {**settings, "step": points[name]},
            lambda w=weights: score(bench, config, [w], data, STEPS),  # type: ignore[misc]
        )
        for name, weights in starts.items()
    }
    single = config_for(options, seed, experts__boundaries="[]", stages__experts__max_steps=4 * options.steps)
    plan = {f"experts from {name}": (name, config) for name in POINTS} | {"one network from knee": ("knee", single)}
    branches = {
        # Parts are named by the step, so that an elbow which is the knee is not trained twice.
        label: cell(
            options.parts,
            f"seed{seed}-{label.partition(' from ')[0].replace(' ', '-')}-from-step{points[name]}",
            {**settings, "step": points[name]},
            lambda n=name, c=chosen: branch(bench, c, starts[n], data, before[n]),  # type: ignore[misc]
        )
        for label, (name, chosen) in plan.items()
        if name in starts
    }
    print(f"seed {seed}: {first['verdict']}", file=sys.stderr)
    return {"seed": seed, "pretrain": first, "points": points, "before": before, "branches": branches}


def _checkpoint_rows(seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each kind of checkpoint: its scores and instruments over the seeds that have it."""
    rows = []
    for name in (*POINTS, "going on"):
        having = [seed for seed in seeds if name in seed["points"]]
        if not having:
            continue
        curves = [{row["step"]: row for row in seed["pretrain"]["curve"]} for seed in having]
        at = [curve[seed["points"][name]] for curve, seed in zip(curves, having, strict=True)]
        looked = ("effective_rank", "dead_queries", "min_denominator", "grad_norm", "nonfinite")
        rows.append(
            {
                "checkpoint": name,
                "seeds": [seed["seed"] for seed in having],
                "steps": [seed["points"][name] for seed in having],
                "scores": over_seeds([seed["before"][name] for seed in having]),
                "instruments": over_seeds([{k: row[k] for k in looked if row[k] is not None} for row in at]),
            }
        )
    return rows


def _branch_rows(seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each branch over the seeds that have it."""
    rows = []
    for label in dict.fromkeys(label for seed in seeds for label in seed["branches"]):
        having = [seed for seed in seeds if label in seed["branches"]]
        parts = [seed["branches"][label] for seed in having]
        rows.append(
            {
                "branch": label,
                "seeds": [seed["seed"] for seed in having],
                "collapsed": sum(part["collapsed"] for part in parts),
                "nonfinite": sum(part["nonfinite"] for part in parts),
                "scores": over_seeds([part["scores"] for part in parts]),
                "health": over_seeds([part["health"] for part in parts]),
                "seconds": [part["seconds"] for part in parts],
            }
        )
    return rows


def measure(options: argparse.Namespace, numbers: tuple[int, ...]) -> dict[str, Any]:
    """All seeds, what was done before from its parts.

    Raises:
        ConfigError: a number of steps that does not fit.
    """
    if options.pretrain_steps % options.every:
        raise ConfigError(
            f"--pretrain-steps is {options.pretrain_steps}, expected a multiple of --every {options.every}"
        )
    names = ("pretrain_steps", "every", "late", "steps", "crop", "batch", "learning_rate", "photos")
    base = config_for(options, numbers[0])
    common = {
        **{name: getattr(options, name) for name in names},
        **{"recipe": RECIPE, "shrunk": SHRUNK, "watch_photos": WATCH_PHOTOS, "watch_crop": WATCH_CROP},
        "esgf": to_dict(base.esgf),
    }
    bench = open_bench(options, base)
    seeds = [run_seed(bench, options, seed, common) for seed in numbers]
    return {
        "settings": common,
        "photographs": {"training": len(bench.photos), "held_back": min(len(bench.held_back), options.photos)},
        "tasks": TASKS,
        "collapse": f"a loss that is not finite, or PSNR {COLLAPSE_DB:g} dB below the start in any task",
        "stages": [{"seed": s["seed"], **{k: v for k, v in s["pretrain"].items() if k != "points"}} for s in seeds],
        "checkpoints": _checkpoint_rows(seeds),
        "branches": _branch_rows(seeds),
    }


def average(scores: dict[str, dict[str, Any]], name: str) -> float:
    """Mean of a score over the tasks and seeds."""
    return statistics.fmean(scores[f"{task}/{name}"]["mean"] for task in TASKS)


def table(found: dict[str, Any]) -> str:
    """Mean scores of checkpoints and branches, as Markdown."""
    rows = [(row["checkpoint"], row["scores"]) for row in found["checkpoints"]]
    rows += [(row["branch"], row["scores"]) for row in found["branches"]]
    names = ("psnr_1", "psnr_4", "perceptual_4")
    lines = [(label, *(number(average(scores, name), 3) for name in names)) for label, scores in rows]
    return markdown_table(("weights", *names), lines)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_training_options(parser, "bench-esgf", photos=25)
    parser.add_argument("--pretrain-steps", type=int, default=4000, help="of the pretraining at most (default: 4000)")
    parser.add_argument("--late", type=float, default=4.0, help="last step, in steps of the knee (default: 4)")
    parser.add_argument("--every", type=int, default=25, help="steps between evaluations (default: 25)")
    parser.add_argument("--steps", type=int, default=150, help="of each of four experts (default: 150)")
    parser.add_argument("--crop", type=int, default=96, help="pixels (default: 96)")
    parser.add_argument("--batch", type=int, default=8, help="crops of a step (default: 8)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of the pretraining; half of it afterwards")
    return parser


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is left of the experiment, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    seeds = parse_numbers(options.seeds, "--seeds", 0, 10_000)
    set_threads(options.threads)
    facts = run_facts("esgf", arguments, options.device)
    found = measure(options, seeds)
    payload = {**facts, "definitions": metric_definitions(("psnr_y", "lpips")), **found}
    finish(options.output, "esgf", payload, table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
