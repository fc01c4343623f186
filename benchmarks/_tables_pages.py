"""The measured tables of README, concepts, guides and docs/benchmarks.md, made from result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from _results import Result, place

from linearsr.evaluation.records import from_json, rows_from_json
from linearsr.evaluation.tables import markdown_table, number, to_markdown

__all__ = ["PAGE_TABLES"]

SIDE = 2048
"""Of the results whose seconds README shows."""
SETS = {
    "Set5, x2": ("quality-set5", "Set5", 2),
    "Set5, x3": ("quality-set5", "Set5", 3),
    "Kodak24, x4": ("quality-kodak24", "Kodak24", 4),
    "BSD100, x4": ("quality-bsd100", "BSD100", 4),
    'Kodak24, x4 "real", the tagger\'s tags': ("quality-kodak24-real-tags-predicted", "Kodak24", 4),
    'Kodak24, x4 "real", true tags': ("quality-kodak24-real-tags-true", "Kodak24", 4),
    'Kodak24, x4 "real", no tags': ("quality-kodak24-real-tags-none", "Kodak24", 4),
}
"""Row of README -> result, set and scale."""
PUBLISHED = {2: "33.66 / 0.9299", 3: "30.39 / 0.8682", 4: "28.42 / 0.8104"}
"""Bicubic on Set5, PSNR-Y / SSIM-Y, as papers print it."""
SET_FILES = tuple(dict.fromkeys(name for name, _, _ in SETS.values()))
CROPS = ("crops, x4, 45 % degraded", "crops, x4, all degraded")
"""Cases of the tagger's result whose kinds are shown, and whose strengths are."""
CHUNKS = (1, 16)
"""Shown of those that were counted."""


def _row(result: Result, dataset: str, scale: int, steps: int | None) -> Mapping[str, Any]:
    """Row of the model at a number of steps, or of bicubic for None."""
    for row in result["rows"]:
        wanted = row["method"] == "bicubic" if steps is None else row["steps"] == steps
        if wanted and (row["dataset"], row["scale"]) == (dataset, scale):
            return row
    raise KeyError(f"{result['command']}: no row of {dataset}, x{scale}, {steps} steps")


def _speed(result: Result, steps: int) -> Mapping[str, Any]:
    return next(r for r in result["rows"] if (r["side"], r["steps"], r["tile"]) == (SIDE, steps, "auto"))


def readme_set5(quality: Result, speed: Result, peers: Result) -> str:
    """Set5 at x4: bicubic, the model in bold, and networks by others, which no command here measures."""
    header = ("", "PSNR-Y (dB, higher is better)", "LPIPS (lower is better)", "seconds per output megapixel")
    bicubic = _row(quality, "Set5", 4, None)
    seconds = _speed(speed, 1)["pil_bicubic_seconds_per_output_megapixel"]
    rows = [("bicubic", number(bicubic["psnr_y"], 2), number(bicubic["lpips"], 3), number(seconds, 3))]
    for steps in (1, 4):
        found, seconds = _row(quality, "Set5", 4, steps), _speed(speed, steps)["seconds_per_output_megapixel"]
        name = f"LinearSR {found['method']}, {steps} step{'s' if steps > 1 else ''}"
        cells = (name, number(found["psnr_y"], 2), number(found["lpips"], 3), number(seconds, 2))
        rows.append(tuple(f"**{cell}**" for cell in cells))
    for peer in peers["rows"]:
        values = (number(peer["psnr_y"], 2), number(peer["lpips"], 3), number(peer["seconds_per_output_megapixel"], 2))
        rows.append((peer["name"], *values))
    return markdown_table(header, rows)


def bicubic_set5(quality: Result) -> str:
    """Bicubic on Set5 as papers print it, and here."""
    rows = []
    for scale, published in PUBLISHED.items():
        row = _row(quality, "Set5", scale, None)
        rows.append((f"x{scale}", published, f"{number(row['psnr_y'], 2)} / {number(row['ssim_y'], 4)}"))
    return markdown_table(("scale", "published PSNR / SSIM", "`linearsr eval`"), rows)


def readme_sets(*results: Result) -> str:
    """PSNR-Y / LPIPS of further sets."""
    by_name = dict(zip(SET_FILES, results, strict=True))
    rows = []
    for title, (name, dataset, scale) in SETS.items():
        found = [_row(by_name[name], dataset, scale, steps) for steps in (None, 1, 4)]
        rows.append((title, *(f"{number(row['psnr_y'], 2)} / {number(row['lpips'], 3)}" for row in found)))
    return markdown_table(("set, input", "bicubic", "1 step", "4 steps"), rows)


def _rate(entry: Mapping[str, Any], name: str) -> str:
    low, high = entry[f"{name}_interval"]
    return f"{number(entry[name], 2)} ({low:.2f} to {high:.2f})"


def _rates(entry: Mapping[str, Any]) -> tuple[str, str]:
    return _rate(entry, "precision"), _rate(entry, "recall")


def tagger_kinds(result: Result) -> str:
    """Precision and recall of each kind's presence."""
    case = result["cases"][CROPS[0]]
    rows = [(kind, *_rates(entry)) for kind, entry in case["presence"].items()]
    rows.append(("**macro**", *(f"**{number(case['macro'][name], 2)}**" for name in ("precision", "recall"))))
    rows.append(("`clean`", *_rates(case["strict"]["clean"])))
    return markdown_table(("kind", "precision", "recall"), rows)


def tagger_samples(result: Result) -> str:
    """Macro precision and recall of every kind of sample."""
    rows = []
    for name, case in result["cases"].items():
        shares = (case["macro"]["precision"], case["macro"]["recall"], case["exact"])
        rows.append((name, f"{case['samples']:,}", *(number(share, 2) for share in shares)))
    return markdown_table(("samples", "count", "precision", "recall", "exact set"), rows)


def tagger_strengths(result: Result) -> str:
    """Precision and recall where the strength must be right too."""
    entries = result["cases"][CROPS[1]]["strict"].items()
    return markdown_table(
        ("tag", "precision", "recall"), [(f"`{tag}`", *_rates(entry)) for tag, entry in entries if tag != "clean"]
    )


def tiling(result: Result) -> str:
    """Tiles against the whole picture."""
    rows = []
    for row in result["rows"]:
        seams = f"{row['seam_ratio_min']:.3f} to {row['seam_ratio_max']:.3f}"
        settings = (str(row["steps"]), str(row["tile"]), str(row["overlap"]), row["blend"])
        rows.append((*settings, number(row["psnr_to_whole_min"], 1), seams, number(row["time_ratio"], 2)))
    header = ("steps", "tile", "overlap", "blend", "least PSNR to whole", "seam ratio", "time over whole")
    return markdown_table(header, rows)


def memory(result: Result) -> str:
    """Peaks in bfloat16, whole and in many chunks."""
    rows = []
    for row in result["rows"]:
        if row["dtype"] == "bf16" and row["row_chunks"] in CHUNKS:
            peaks = (row[f"{name}_mib"] for name in ("activations", "peak_none", "peak_expert", "peak_sequential"))
            settings = (f"`{row['preset']}`", str(row["side"]), str(row["row_chunks"]))
            rows.append((*settings, *(f"{mib:,.0f}" for mib in peaks)))
    header = ("preset", "side", "chunks", "activations", "`--offload none`", "`expert`", "`sequential`")
    return markdown_table(header, rows)


def evaluations(result: Result) -> str:
    """Times faster than diffusers."""
    rows = []
    for row in result["rows"]:
        settings = (row["dtype"], str(row["text_tokens"]), "yes" if row["lr_stem"] else "no")
        gains = ("times_faster_first", "times_faster", "total_times_faster")
        rows.append((*settings, *(number(row[name], 2) for name in gains)))
    header = ("precision", "real text tokens", "stem on low-resolution pixels", "first", "next", "20")
    return markdown_table(header, rows)


def finetuning(result: Result) -> str:
    """Differences on the held-back photographs at x4, one step."""
    rows = []
    for row in result["rows"]:
        measures = [(row["rows"]["x4/psnr_1"], 3), (row["rows"]["x4/perceptual_1"], 4)]
        shown = [
            f"{m['difference']:+.{places}f} ({m['low']:+.{places}f} to {m['high']:+.{places}f})"
            for m, places in measures
        ]
        better = [f"{m['num_better']} of {len(m['before'])}" for m, _ in measures]
        rows.append(("LoRA" if row["way"] == "lora" else row["way"], *shown, *better))
    return markdown_table(("way", "PSNR-Y, dB", "LPIPS", "PSNR-Y better on", "LPIPS better on"), rows)


def evaluation(result: Result) -> str:
    """What `linearsr eval` prints as Markdown, with the program's own facts."""
    data = result["evaluation"]
    facts = {name: result[name] for name in ("command", "date", "linearsr")}
    found = to_markdown(from_json(data), rows_from_json(data), {**facts, "made with": place(result)}, intervals=True)
    return found.rstrip("\n")


PAGE_TABLES: Mapping[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "readme-set5": (("quality-set5", "speed", "peers"), readme_set5),
    "readme-sets": (SET_FILES, readme_sets),
    "tagger-kinds": (("tagger",), tagger_kinds),
    "tagger-samples": (("tagger",), tagger_samples),
    "tagger-strengths": (("tagger",), tagger_strengths),
    "tiling": (("tiling",), tiling),
    "memory": (("memory",), memory),
    "nfe": (("nfe",), evaluations),
    "finetune": (("finetune",), finetuning),
    "bicubic-set5": (("quality-set5",), bicubic_set5),
    "eval-classical-x4": (("eval-classical-x4",), evaluation),
    "eval-real-x4": (("eval-real-x4",), evaluation),
}
"""Name of a table -> names of its result files, and what makes the table of them."""
