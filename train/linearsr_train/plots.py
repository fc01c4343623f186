"""Training curves as a picture, with what the controller read in them. Needs matplotlib, imported when drawing.

One panel a stage: PSNR and the perceptual score above, the smoothed score that the verdict rests on below, and lines at
elbow, knee and onset. Written without a display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linearsr.atomic import write_bytes
from linearsr.errors import ConfigError
from linearsr_train.curves import Curve, read_curves, read_esgf_config, replay
from linearsr_train.esgf import Esgf, Evaluation

__all__ = ["CURVES_NAME", "draw_curve", "draw_run"]

CURVES_NAME = "curves.png"
PER_ROW = 3
PANEL_INCHES = (6.4, 5.4)
DPI = 110
PSNR_COLOR, PERCEPTUAL_COLOR, SCORE_COLOR = "#1f5fa8", "#b5541c", "#333333"
MARKS = (("elbow", "#2a7f3f", ":"), ("knee", "#2a7f3f", "-"), ("onset", "#b3202c", "--"))
"""Fields of the verdict that are drawn as lines: name, colour, style."""


def _matplotlib() -> Any:  # noqa: ANN401 - no stubs
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise ConfigError(
            "drawing a curve needs matplotlib, which is not installed", hint='run `pip install "linearsr[train]"`'
        ) from error
    return matplotlib


def _metrics(axes: Any, curve: Curve, taken: int) -> None:  # noqa: ANN401
    """PSNR on the left axis and the perceptual score on the right one; evaluations after the verdict are faint."""
    below = f"{curve.perceptual_name} (lower is better)"
    kinds = ((axes, "psnr", "PSNR (dB)", PSNR_COLOR), (axes.twinx(), "perceptual", below, PERCEPTUAL_COLOR))
    for one, field, label, color in kinds:
        for part, alpha in ((curve.evaluations[:taken], 1.0), (curve.evaluations[max(taken - 1, 0) :], 0.3)):
            points = [(e.step, getattr(e, field)) for e in part if math.isfinite(getattr(e, field))]
            steps, values = [point[0] for point in points], [point[1] for point in points]
            one.plot(steps, values, "o-", color=color, alpha=alpha, markersize=3, linewidth=1.2)
        one.set_ylabel(label, color=color)
        one.tick_params(axis="y", colors=color)


def _marks(upper: Any, lower: Any, watch: Esgf, last_step: int) -> None:  # noqa: ANN401
    """Vertical lines through both axes, named once; what comes after the onset is shaded."""
    verdict = watch.verdict
    for name, color, style in MARKS:
        step = getattr(verdict, name)
        if step is None:
            continue
        for axes in (upper, lower):
            axes.axvline(step, color=color, linestyle=style, linewidth=1.4)
        lower.plot([], [], color=color, linestyle=style, label=f"{name} {step}")
    if verdict.onset is not None:
        for axes in (upper, lower):
            axes.axvspan(verdict.onset, max(last_step, verdict.onset), color=MARKS[2][1], alpha=0.07, linewidth=0)


def _panel(upper: Any, lower: Any, curve: Curve, watch: Esgf, ticker: Any) -> None:  # noqa: ANN401
    taken: tuple[Evaluation, ...] = watch.evaluations
    _metrics(upper, curve, len(taken))
    lower.plot([e.step for e in taken], watch.scores, "o-", color=SCORE_COLOR, markersize=3, linewidth=1.2)
    lower.set_ylabel("smoothed score", color=SCORE_COLOR)
    lower.set_xlabel("step")
    _marks(upper, lower, watch, curve.evaluations[-1].step)
    upper.set_title(f"{curve.name}: {watch.verdict.status}\n{watch.verdict.reason}", fontsize=10)
    for axes in (upper, lower):
        axes.grid(alpha=0.25)
    lower.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    if lower.get_legend_handles_labels()[0]:
        lower.legend(loc="lower right", fontsize=8)


def draw_curve(path: Path, drawn: Sequence[tuple[Curve, Esgf]]) -> Path:
    """Draw one or more stages into one PNG.

    Args:
        path: of the PNG; an older file is replaced in one step.
        drawn: each curve with the controller that it was fed to (`curves.replay`); at least one, with at least one
            evaluation each.

    Returns:
        The path.

    Raises:
        ConfigError: matplotlib is not installed.
        ImageError: the disk is full or refuses the name.
    """
    matplotlib = _matplotlib()
    columns = min(len(drawn), PER_ROW)
    rows = math.ceil(len(drawn) / columns)
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    figure = matplotlib.figure.Figure(figsize=size, dpi=DPI, layout="constrained")
    grid = figure.subfigures(rows, columns, squeeze=False)
    for index, (curve, watch) in enumerate(drawn):
        upper, lower = grid[index // columns][index % columns].subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _panel(upper, lower, curve, watch, matplotlib.ticker)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_bytes(path, stream.getvalue())
    return path


def draw_run(folder: Path) -> Path:
    """Draw all stages of a run into its `curves.png`.

    Raises:
        ConfigError: matplotlib is not installed, or the run has no curves yet.
        ImageError: the disk is full or refuses the name.
    """
    config = read_esgf_config(folder)
    return draw_curve(folder / CURVES_NAME, [(curve, replay(curve, config)) for curve in read_curves(folder)])
