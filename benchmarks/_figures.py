"""The figures of README and docs, drawn from result files.

The numbers that a figure shows are kept as JSON in the PNG itself, so that a stale one is found without comparing
pixels, which differ between versions of matplotlib and of its fonts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _results import Result
from PIL import Image

from linearsr.evaluation.records import from_json
from linearsr.evaluation.statistics import Row, summarise
from linearsr.extras import require

__all__ = ["FIGURES", "Figure", "numbers_in"]

NUMBERS = "linearsr-numbers"
"""Key of the PNG's text that holds the numbers."""
WIDTH, DPI = 8.0, 150
"""Inches and dots: shown at 800 pixels, letters are those of the page around."""
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6E6E6E"
"""Told apart by people who see few colours (after Okabe and Ito)."""
SCORES = ("psnr_y", "lpips")
Data = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One picture of the pages."""

    source: str
    """Name of its result file."""
    numbers: Callable[[Result], Data]
    """What it shows of that, as plain data."""
    draw: Callable[[Data, Path], None]


def numbers_in(path: Path) -> Data | None:
    """The numbers that a PNG was drawn from; None without any."""
    with Image.open(path) as image:
        text = image.info.get(NUMBERS)
    return None if text is None else json.loads(text)


def _short(value: float | None) -> float | None:
    """Six digits: more are not seen, and fewer survive another processor."""
    return None if value is None else float(f"{value:.6g}")


@contextmanager
def _canvas(path: Path, data: Data, panels: int, height: float) -> Iterator[tuple[Any, Sequence[Any]]]:
    """A figure with panels side by side, saved at the end together with its numbers.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    require("matplotlib", "train", "the figures").use("Agg")
    plt = require("matplotlib.pyplot", "train", "the figures")
    style = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context({**style, "axes.edgecolor": GREY, "xtick.color": "#333333", "ytick.color": "#333333"}):
        figure, axes = plt.subplots(1, panels, figsize=(WIDTH, height), layout="constrained", squeeze=False)
        for axis in axes[0]:
            axis.grid(alpha=0.25, linewidth=0.6)
            axis.set_axisbelow(True)
        yield figure, axes[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI, facecolor="white", metadata={NUMBERS: json.dumps(data), "Software": None})
        plt.close(figure)


def _score(row: Row, name: str) -> dict[str, Any]:
    """Mean of one score, and how far the interval of the difference from the baseline reaches below and above it."""
    paired = row.differences.get(name)
    if paired is None or paired.low is None or paired.high is None:
        return {"mean": _short(row.scores[name].mean), "below": 0.0, "above": 0.0}
    reach = {"below": _short(paired.mean - paired.low), "above": _short(paired.high - paired.mean)}
    return {"mean": _short(row.scores[name].mean), **reach}


def pareto_numbers(result: Result) -> Data:
    """Scores and seconds of every method over the pictures of all sets."""
    evaluation = from_json(result["evaluation"])
    last = summarise(evaluation, pooled=True)[-len(evaluation.methods) :]  # over all sets, if there are several
    points = [
        {
            "method": row.method,
            "steps": row.steps,
            "seconds": _short(row.seconds_per_megapixel),
            **{name: _score(row, name) for name in SCORES},
        }
        for row in last
    ]
    return {"datasets": list(evaluation.datasets), "num_images": last[0].num_images, "points": points}


def tradeoff_numbers(result: Result) -> Data:
    """PSNR and LPIPS of every method on every set."""
    sets: dict[str, list[dict[str, Any]]] = {}
    for row in summarise(from_json(result["evaluation"]), resamples=0):
        scores = {name: _short(row.scores[name].mean) for name in SCORES}
        sets.setdefault(row.dataset, []).append({"method": row.method, "steps": row.steps, **scores})
    return {"sets": sets}


def scaling_numbers(result: Result) -> Data:
    """Time, operations and memory of the attention core by tokens."""
    keys = ("attention", "tokens", "seconds", "gflop", "activations_mib", "scores_mib")
    core = [row for row in result["rows"] if row["level"] == "core"]
    return {"rows": [{key: _short(row[key]) if key != "attention" else row[key] for key in keys} for row in core]}


def _name(point: Data) -> str:
    """What stands beside a point: its steps, or the name of a baseline."""
    steps = point["steps"]
    return point["method"] if steps is None else f"{steps} step{'s' if steps > 1 else ''}"


def _write(axis: Any, x: float, y: float, text: str, color: str, offset: tuple[float, float], **how: Any) -> None:  # noqa: ANN401
    """Text beside a point; the offset is in points."""
    axis.annotate(text, (x, y), xytext=offset, textcoords="offset points", color=color, **how)


def _front(points: Sequence[Data], score: str, lower_better: bool) -> list[Data]:
    """Points that none which is as fast is better than, by time."""
    front: list[Data] = []
    for point in sorted(points, key=lambda p: p["seconds"]):
        value = point[score]["mean"]
        if not front or (value < front[-1][score]["mean"] if lower_better else value > front[-1][score]["mean"]):
            front.append(point)
    return front


def _draw_points(axis: Any, data: Data, score: str, lower_better: bool) -> None:  # noqa: ANN401
    """Methods by time; those on the front are filled, and a dashed line joins them."""
    points = data["points"]
    front = _front(points, score, lower_better)
    times, values = [p["seconds"] for p in front], [p[score]["mean"] for p in front]
    last = 2 * max(p["seconds"] for p in points)
    axis.step([*times, last], [*values, values[-1]], where="post", color=GREY, linewidth=1, linestyle="--", zorder=1)
    for point in points:
        color = BLUE if point["steps"] else GREY
        look = {"color": color, "markersize": 7, "markerfacecolor": color if point in front else "white"}
        x, y = point["seconds"], point[score]["mean"]
        reach = [[point[score]["below"]], [point[score]["above"]]]
        axis.errorbar(x, y, yerr=reach, fmt="o", elinewidth=1.4, capsize=3, zorder=3, **look)
        if not point["steps"]:
            above = y == max(p[score]["mean"] for p in points if not p["steps"])
            _write(axis, x, y, point["method"], color, (0, 9 if above else -16), ha="center")
        elif point in front:  # the side of the line where nothing is
            _write(axis, x, y, _name(point), color, (-8, -12 if lower_better else 5), ha="right")
        else:
            _write(axis, x, y, _name(point), color, (7, 5))


def draw_pareto(data: Data, path: Path) -> None:
    """Quality by seconds, one panel for each score."""
    panels = (("psnr_y", "PSNR-Y (dB), higher is better", False), ("lpips", "LPIPS, lower is better", True))
    with _canvas(path, data, 2, 3.7) as (figure, axes):
        for axis, (score, title, lower_better) in zip(axes, panels, strict=True):
            _draw_points(axis, data, score, lower_better)
            axis.set(xscale="log", title=title, xlabel="seconds per megapixel of the result")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.margins(x=0.16, y=0.14)
        lines = (
            f"Blue: compact. x4, mean over the {data['num_images']} pictures of {', '.join(data['datasets'])}.",
            "Filled, dashed line: nothing as fast is better. Bars: 95 % interval of the difference from bicubic.",
        )
        figure.supxlabel("\n".join(lines), fontsize=8, color=GREY)


def _draw_tradeoff(axis: Any, points: Sequence[Data]) -> None:  # noqa: ANN401
    """The line of one set through the steps, and the baselines."""
    line = sorted((p for p in points if p["steps"]), key=lambda p: p["steps"])
    axis.plot([p["psnr_y"] for p in line], [p["lpips"] for p in line], "o-", color=BLUE, markersize=6)
    for point in line:
        ends = point in (line[0], line[-1])
        offset = (0, 8) if point is line[0] else (0, -14) if ends else (5, -11)
        text = _name(point) if ends else str(point["steps"])
        _write(axis, point["psnr_y"], point["lpips"], text, BLUE, offset, ha="center" if ends else "left")
    for point, up in zip((p for p in points if not p["steps"]), (-14, 8), strict=False):
        axis.plot(point["psnr_y"], point["lpips"], "s", color=GREY, markersize=5)
        _write(axis, point["psnr_y"], point["lpips"], point["method"], GREY, (0, up), ha="center")


def draw_tradeoff(data: Data, path: Path) -> None:
    """LPIPS by PSNR, one panel for each set, all to the same scale."""
    sets = data["sets"]
    ranges = {name: [p["psnr_y"] for p in points] for name, points in sets.items()}
    reach = 0.72 * max(max(values) - min(values) for values in ranges.values())
    with _canvas(path, data, len(sets), 3.4) as (figure, axes):
        for axis, (name, points) in zip(axes, sets.items(), strict=True):
            _draw_tradeoff(axis, points)
            middle = (max(ranges[name]) + min(ranges[name])) / 2
            axis.set(title=name, xlim=(middle - reach, middle + reach))
            axis.sharey(axes[0])
            axis.margins(y=0.12)
            axis.tick_params(labelleft=axis is axes[0])
        axes[0].set_ylabel("LPIPS: further down looks closer")
        figure.supxlabel("PSNR-Y (dB): further right is more faithful", fontsize=9)


def draw_scaling(data: Data, path: Path) -> None:
    """Three small panels of the core by tokens, both axes logarithmic."""
    panels = (("seconds", "time (s)"), ("gflop", "operations (GFLOP)"), ("activations_mib", "memory (MiB)"))
    with _canvas(path, data, 3, 2.6) as (_, axes):
        for axis, (key, title) in zip(axes, panels, strict=True):
            lines = {
                n: [(r["tokens"], r[key]) for r in data["rows"] if r["attention"] == n] for n in ("linear", "softmax")
            }
            upper = max(lines, key=lambda name: lines[name][-1][1])
            for (name, points), marker, color in zip(lines.items(), "os", (BLUE, ORANGE), strict=True):
                axis.loglog(*zip(*points, strict=True), marker=marker, markersize=4, color=color)
                how = {"offset": (-6, 5), "ha": "right"} if name == upper else {"offset": (4, -12)}
                _write(axis, *points[-2], name, color, **how)
            if key == "activations_mib":
                points = [(row["tokens"], row["scores_mib"]) for row in data["rows"] if row["attention"] == "softmax"]
                axis.loglog(*zip(*points, strict=True), ":", color=GREY)
                _write(axis, *points[-2], "softmax, with\nits N x N scores", GREY, (-8, 6), ha="right")
            axis.set(title=title, xlabel="tokens")


FIGURES: Mapping[str, Figure] = {
    "pareto.png": Figure(source="eval-classical-x4", numbers=pareto_numbers, draw=draw_pareto),
    "perception-distortion.png": Figure(source="eval-classical-x4", numbers=tradeoff_numbers, draw=draw_tradeoff),
    "scaling.png": Figure(source="scaling", numbers=scaling_numbers, draw=draw_scaling),
}
"""Name of a file in docs/images -> what it shows."""
