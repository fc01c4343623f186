"""The tables of docs/experiments, made from result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _results import Result, provenance
from run_knee import table as knee_table

from linearsr.evaluation.tables import markdown_table, number

__all__ = ["EXPERIMENT_TABLES", "over_tasks"]

Scores = Mapping[str, Mapping[str, Any]]


def digits(name: str) -> int:
    """Decimals shown of a score or instrument."""
    if "psnr" in name:
        return 2
    return {"effective_rank": 1, "nonfinite": 0}.get(name, 4)


def cell(scores: Scores, name: str, signed: bool = False) -> str:
    """Mean over the seeds with the standard deviation behind it."""
    if name not in scores:
        return "-"
    entry, places = scores[name], digits(name)
    text = f"{entry['mean']:+.{places}f}" if signed else number(entry["mean"], places)
    return text if entry["std"] is None else f"{text} ({number(entry['std'], places)})"


def over_tasks(scores: Scores, tasks: Sequence[str], name: str) -> dict[str, Any]:
    """Each seed's mean over the tasks, then mean and deviation over the seeds."""
    values = [
        statistics.fmean(seed) for seed in zip(*(scores[f"{task}/{name}"]["values"] for task in tasks), strict=True)
    ]
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def esgf_stages(result: Result) -> str:
    """What the controller said of each seed's curve."""
    rows = []
    for stage in result["stages"]:
        verdict = stage["verdict"]
        steps = (verdict["elbow"], verdict["knee"], verdict["onset"], stage["stopped_at"], stage["curve"][-1]["step"])
        rows.append((str(stage["seed"]), verdict["status"], *("-" if step is None else str(step) for step in steps)))
    return markdown_table(("seed", "verdict", "elbow", "knee", "onset", "would have ended at", "last step"), rows)


def _means(result: Result, row: Result) -> tuple[str, ...]:
    names = ("psnr_1", "psnr_4", "perceptual_4")
    averages = {name: over_tasks(row["scores"], result["tasks"], name) for name in names}
    return tuple(cell(averages, name) for name in names)


def esgf_checkpoints(result: Result) -> str:
    """Scores and instruments of the checkpoints."""
    looked = ("effective_rank", "dead_queries", "min_denominator", "grad_norm", "nonfinite")
    rows = [
        (
            row["checkpoint"],
            ", ".join(map(str, row["steps"])),
            *_means(result, row),
            *(cell(row["instruments"], name) for name in looked),
        )
        for row in result["checkpoints"]
    ]
    names = ("effective rank", "dead queries", "smallest denominator", "gradient norm", "non-finite steps")
    return markdown_table(("checkpoint", "steps", "PSNR-Y, 1", "PSNR-Y, 4", "LPIPS, 4", *names), rows)


def esgf_branches(result: Result) -> str:
    """Scores of what the stages from the checkpoints gave."""
    rows = [
        (
            row["branch"],
            *_means(result, row),
            cell(row["health"], "effective_rank"),
            cell(row["health"], "dead_queries"),
            str(row["nonfinite"]),
            f"{row['collapsed']} of {len(row['seeds'])}",
        )
        for row in result["branches"]
    ]
    names = ("effective rank", "dead queries", "non-finite steps", "collapsed")
    return markdown_table(("stage", "PSNR-Y, 1", "PSNR-Y, 4", "LPIPS, 4", *names), rows)


def _times(boundaries: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in boundaries) if boundaries else "-"


def experts_scores(task: str) -> Callable[[Result], str]:
    """A table of one task's scores by candidate."""

    def make(result: Result) -> str:
        keys = [f"{task}/{name}_{steps}" for steps in (1, 4, 8) for name in ("psnr", "perceptual")]
        start = {key: {"mean": result["start"][key], "std": None} for key in keys}
        rows = [("before the stage", "-", *(cell(start, key) for key in keys))]
        rows += [
            (row["candidate"], _times(row["boundaries"]), *(cell(row["scores"], key) for key in keys))
            for row in result["rows"]
        ]
        names = [f"{name}, {steps}" for steps in (1, 4, 8) for name in ("PSNR-Y", "LPIPS")]
        return markdown_table(("networks", "boundaries in t", *names), rows)

    return make


def experts_differences(result: Result) -> str:
    """What each candidate has more than one network, seed by seed."""
    keys = [f"{task}/{name}" for task in result["tasks"] for name in ("psnr_1", "psnr_4", "perceptual_4")]
    rows = [(row["candidate"], *(cell(row["over_first"], key, signed=True) for key in keys)) for row in result["rows"]]
    names = [key.replace("/", " ").replace("psnr_", "PSNR-Y, ").replace("perceptual_", "LPIPS, ") for key in keys]
    return markdown_table(("networks", *names), rows[1:])


def experts_used(result: Result) -> str:
    """Which expert makes which step, and which make none."""
    rows = []
    for row in result["rows"]:
        used = row["experts_of_steps"]
        idle = sorted(set(range(row["experts"])) - set(used["4"]))
        shown = (" ".join(map(str, used[steps])) for steps in ("4", "8"))
        unused = ", ".join(map(str, idle)) if idle else "none"
        rows.append((row["candidate"], str(row["steps_each"]), *shown, unused, str(row["nonfinite"])))
    header = ("networks", "training steps each", "experts of 4 steps", "of 8 steps", "idle at 4", "non-finite steps")
    return markdown_table(header, rows)


def tags_scores(result: Result) -> str:
    """Scores by input and tags."""
    keys = tuple(result["rows"][0]["modes"]["none"])
    rows = []
    for row in result["rows"]:
        shown = {"psnr_y": number(row["bicubic"]["psnr_y"], 2), "lpips": number(row["bicubic"]["lpips"], 4)}
        rows.append((row["input"], "bicubic, no model", *(shown[key.rpartition("_")[0]] for key in keys)))
        for mode, scores in row["modes"].items():
            rows.append((row["input"], mode, *(number(scores[key], digits(key)) for key in keys)))
    names = [key.replace("psnr_y_", "PSNR-Y, ").replace("lpips_", "LPIPS, ") for key in keys]
    return markdown_table(("input", "tags", *names), rows)


def _gain(entry: Mapping[str, Any], key: str) -> str:
    low, high = entry["interval"]
    return f"{entry['mean']:+.{digits(key)}f} ({low:+.{digits(key)}f} to {high:+.{digits(key)}f})"


def tags_gains(result: Result) -> str:
    """What tags gain over none, and how much of that predicted tags keep."""
    rows = []
    for row in result["rows"]:
        for key, found in row["gains"].items():
            share = found["recovered"]
            name = key.replace("psnr_y_", "PSNR-Y, ").replace("lpips_", "LPIPS, ")
            three = (_gain(found[mode], key) for mode in ("true", "wrong", "predicted"))
            rows.append((row["input"], name, *three, "-" if share is None else f"{100 * share:.0f} %"))
    return markdown_table(("input", "score", "true", "wrong", "predicted", "recovered"), rows)


def tags_inputs(result: Result) -> str:
    """How many pictures have what, and how often the tagger names exactly that."""
    rows = [
        (row["input"], str(row["num_images"]), *(str(n) for n in row["with"].values()), str(row["predicted_exactly"]))
        for row in result["rows"]
    ]
    return markdown_table(("input", "pictures", *result["rows"][0]["with"], "predicted exactly"), rows)


def steps_scores(result: Result) -> str:
    """Scores by set and number of steps."""
    rows = [
        (
            row["dataset"],
            row["method"],
            "-" if row["steps"] is None else str(row["steps"]),
            number(row["psnr_y"], 2),
            number(row["ssim_y"], 4),
            number(row.get("lpips"), 4),
        )
        for row in result["rows"]
    ]
    return markdown_table(("set", "method", "steps", "PSNR-Y", "SSIM-Y", "LPIPS"), rows)


def knee_rates(result: Result) -> str:
    """How often each rule reads made-up curves rightly."""
    return knee_table(result["rows"])


EXPERIMENT_TABLES: Mapping[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    **{f"{name}-run": ((name,), provenance) for name in ("esgf", "experts", "tags", "steps")},
    "esgf-stages": (("esgf",), esgf_stages),
    "esgf-checkpoints": (("esgf",), esgf_checkpoints),
    "esgf-branches": (("esgf",), esgf_branches),
    "experts-x4": (("experts",), experts_scores("x4")),
    "experts-real4": (("experts",), experts_scores("real4")),
    "experts-differences": (("experts",), experts_differences),
    "experts-used": (("experts",), experts_used),
    "tags-inputs": (("tags",), tags_inputs),
    "tags-scores": (("tags",), tags_scores),
    "tags-gains": (("tags",), tags_gains),
    "steps-scores": (("steps",), steps_scores),
    "knee": (("knee",), knee_rates),
}
"""Name of a table -> names of its result files, and what makes the table of them."""
