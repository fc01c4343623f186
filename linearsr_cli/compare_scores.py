"""What `linearsr compare` scores by: the metrics asked for, or the usual ones, and how their values are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linearsr_cli.compare_settings import CompareOptions
from linearsr_cli.output import Output

if TYPE_CHECKING:
    from linearsr.comparison.scenes import MetricColumn
    from linearsr.metrics import Scorer

    Columns = tuple[MetricColumn, ...]

__all__ = ["make_scoring", "scores_text"]

BORDER = "border cut from every side"
"""What definitions say of the border that is chosen."""


def make_scoring(options: CompareOptions, out: Output, border: int) -> tuple[dict[str, Scorer], Columns]:
    """Scorers that leave out a border, and how their values are shown; what is left out is said.

    Args:
        options: which metrics, and what there is to score against.
        out: for what is left out.
        border: pixels at each side of a result that is scored against the clean picture.

    Raises:
        WeightsError, ConfigError: a metric that was asked for cannot be computed.
    """
    from linearsr.comparison.scenes import MetricColumn
    from linearsr.metrics import METRICS, ScoreSettings, make_scorers, parse_metrics

    has = frozenset(need for need, given in (("reference", options.hr), ("input", options.lr)) if given is not None)
    usual = ("psnr_y", "ssim_y", "lpips") * ("reference" in has) + ("lr_psnr",) * ("input" in has)
    names = (
        usual if options.metrics is None else () if options.metrics == "none" else parse_metrics(options.metrics, "y")
    )
    settings = ScoreSettings(crop_border=border, lpips_weights=options.lpips_weights)
    scorers, skipped = make_scorers(names, settings, has=has, explicit=options.metrics is not None)
    for metric in skipped:
        hint = "" if metric.hint is None else f" ({metric.hint})"
        out.info(f"note: {metric.name} is left out: {metric.reason}{hint}")
    columns = tuple(
        MetricColumn(
            name=name,
            title=METRICS[name].title,
            unit=METRICS[name].unit,
            digits=METRICS[name].digits,
            lower_better=METRICS[name].lower_better,
            definition=METRICS[name].definition.replace(BORDER, _border_text(border)),
        )
        for name in scorers
    )
    return scorers, columns


def _border_text(border: int) -> str:
    return f"border {border} px left out" if border > 0 else "no border cut"


def scores_text(border: int, metrics: Columns) -> str:
    """What all scores have in common, and which of them keep the border."""
    from linearsr.metrics import METRICS

    whole = [metric.title for metric in metrics if not METRICS[metric.name].needs_reference]
    kept = f" (not of {', '.join(whole)})" if border > 0 and whole else ""
    return f"8-bit RGB pictures, {_border_text(border)}{kept}, luma in limited range"
