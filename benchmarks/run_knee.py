"""Measure how well the early-stopping rule reads curves of known kind, beside `kneed` and the rule it grew from.

Example:
    python benchmarks/run_knee.py

The curves, and what is right for each, are in `knee_curves.py`; docs/experiments/knee-detection.md has the protocol.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _common import finish, program, run_facts
from knee_curves import FIRST_SEED, KINDS, NUM_CURVES, Curve, Found, find_with_esgf, measure

from linearsr.errors import ConfigError
from linearsr.evaluation.tables import markdown_table, number
from linearsr_train.knee import median_of_3, noise_floor, smooth

Rule = Callable[[Curve], Found]
DEFINITIONS = {
    "right": "share of the curves with the right verdict",
    "knee, plateau, collapse, running": "share of the curves with that verdict",
    "before": "share with a knee before the onset, or before the stop where there is none",
    "share": "share whose smoothed score at the knee is at least 0.95 of the best before the onset (or the stop)",
    "good": "share with both",
    "noise_free": "share with both for the noise-free score",
    "delay": "median evaluations from the onset (from the start where there is none) to the stop",
}
POINTLESS = {
    "rising": ("kneed", "kneed online", "kneed told the onset"),
    "plateau": ("kneed told the onset",),
    "restart": ("kneed told the onset",),
}
"""Rules that are left out of a kind: it has no knee to be found, or no onset to be told."""
FEWEST_FOR_KNEED = 3
"""kneed divides by zero on shorter curves."""
COLUMNS = ("right", "knee", "before", "share", "good", "noise_free")


def _finite(curve: Curve) -> int:
    """Evaluations before the first that is not finite."""
    return next((i for i, value in enumerate(curve.psnr) if not math.isfinite(value)), len(curve.psnr))


def _scores(psnr: Sequence[float], perceptual: Sequence[float]) -> tuple[list[float], list[float]]:
    """Score and smoothed score as step 1 of the plain rule has them."""
    up, down = median_of_3(psnr), median_of_3(perceptual)
    top_up, top_down = max(max(up) - psnr[0], 1e-6), max(perceptual[0] - min(down), 1e-6)
    raw = [
        0.5 * (a - psnr[0]) / top_up + 0.5 * (perceptual[0] - b) / top_down
        for a, b in zip(psnr, perceptual, strict=True)
    ]
    return raw, smooth(raw, 0.6)


def find_with_plain_rule(curve: Curve) -> Found:
    """The rule as it was first written down: one score, windowed deviation of 3 noises or a dip of 6, no memory."""
    first: int | None = None
    for index in range(len(curve.steps)):
        if not math.isfinite(curve.psnr[index]):
            return Found("collapse", _plain_knee(curve, index), index)
        if index < 7:
            continue
        raw, scores = _scores(curve.psnr[: index + 1], curve.perceptual[: index + 1])
        best, since = -math.inf, index
        for i, score in enumerate(scores):
            if score > best + 0.01:
                best, since = score, i
        noise = max(noise_floor(raw[: since + 1]), 0.003)
        is_swinging = statistics.stdev(raw[-5:]) > 3 * noise or raw[-1] < max(scores) - 6 * noise
        if index - since >= 4 and is_swinging and first is not None:
            return Found("knee", _plain_knee(curve, first), index)
        first = index if is_swinging and index - since >= 4 else None
        if index - since >= 15 and not is_swinging:
            return Found("plateau", _plain_knee(curve, index + 1), index)
    return Found("running", None, len(curve.steps) - 1)


def _plain_knee(curve: Curve, end: int) -> int | None:
    if end < 1:
        return None
    scores = _scores(curve.psnr[:end], curve.perceptual[:end])[1]
    low, high = min(scores), max(scores)
    distance = [(score - low) / max(high - low, 1e-12) - i / max(end - 1, 1) for i, score in enumerate(scores)]
    elbow = distance.index(max(distance))
    return next(i for i in range(elbow, end) if scores[i] >= high - 0.02)


def kneed_rule(*, online: bool, told: bool) -> Rule:
    """`kneed` on the smoothed score: of the whole curve, or of what lies before the onset if it is told that.

    Raises:
        ConfigError: kneed is not installed.
    """
    try:
        from kneed import KneeLocator
    except ImportError as error:
        raise ConfigError(
            "the baseline kneed is not installed", hint="`pip install kneed`, or --baselines off"
        ) from error

    def find(curve: Curve) -> Found:
        end = _finite(curve)
        if told and curve.onset is not None:
            end = min(end, curve.steps.index(curve.onset))
        scores = _scores(curve.psnr[:end], curve.perceptual[:end])[1]
        if end < FEWEST_FOR_KNEED:
            return Found(None, None, end - 1)
        knee = KneeLocator(range(end), scores, curve="concave", direction="increasing", online=online).knee
        return Found(None, None if knee is None else int(knee), end - 1)

    return find


def build_parser() -> argparse.ArgumentParser:
    """The options; see docs/experiments/knee-detection.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--curves", type=int, default=NUM_CURVES, help="curves of each kind (default: 300)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seed of the first curve (default: 10000)")
    parser.add_argument("--baselines", choices=("on", "off"), default="on", help="also measure the others")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: benchmarks/results/DATE-knee.json")
    return parser


def rules(baselines: bool) -> dict[str, Rule]:
    """Rules by the name they have in the table."""
    found: dict[str, Rule] = {"esgf": find_with_esgf}
    if baselines:
        found["plain rule"] = find_with_plain_rule
        found["kneed"] = kneed_rule(online=False, told=False)
        found["kneed online"] = kneed_rule(online=True, told=False)
        found["kneed told the onset"] = kneed_rule(online=False, told=True)
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as Markdown: percentages, and `-` where a rule does not say such a thing."""
    header = (
        "kind",
        "rule",
        "right verdict",
        "called knee",
        "before onset",
        "score >= 0.95",
        "both",
        "noise-free",
        "delay",
    )
    lines = []
    for row in rows:
        has_verdict = row["rule"] in ("esgf", "plain rule")
        values = [row[name] if has_verdict or name not in ("right", "knee") else None for name in COLUMNS]
        if row["kind"] == "rising":
            values[2:] = [None] * len(values[2:])
        cells = [number(None if value is None else 100 * value, 1) for value in values]
        lines.append((row["kind"], row["rule"], *cells, number(row["delay"] if has_verdict else None, 0)))
    return markdown_table(header, lines)


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, print the table and write the JSON."""
    options = build_parser().parse_args(arguments)
    if options.curves < 1:
        raise ConfigError(f"--curves is {options.curves}, expected at least 1")
    seeds = range(options.first_seed, options.first_seed + options.curves)
    compared, facts = rules(options.baselines == "on"), run_facts("knee", arguments, "cpu")
    rows = []
    for kind in KINDS:
        rows += [
            {"kind": kind, "rule": name, **measure(kind, rule, seeds)}
            for name, rule in compared.items()
            if name not in POINTLESS.get(kind, ())
        ]
        print(f"{kind} done", file=sys.stderr)
    payload = {**facts, "definitions": DEFINITIONS, "first_seed": options.first_seed, "rows": rows}
    finish(options.output, "knee", payload, table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
