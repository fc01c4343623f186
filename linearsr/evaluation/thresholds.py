"""A gate on scores: `psnr_y=27,lpips<0.2` as data, and which rows of a table miss it.

A missing value and one that is not a number pass no threshold, so a metric that silently was not computed cannot open
the gate.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, cast

from linearsr.errors import ConfigError
from linearsr.evaluation.results import MethodInfo
from linearsr.evaluation.statistics import Row, Summary
from linearsr.metrics import METRICS, parse_metrics

__all__ = ["Threshold", "Violation", "check", "check_known", "parse_thresholds"]

Operator = Literal[">=", ">", "<=", "<"]
_HOLDS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}
)
_PART = re.compile(r"\s*([A-Za-z][\w-]*)\s*(>=|<=|=|>|<)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", re.ASCII)
_EXAMPLE = "`psnr_y=27,lpips<0.2`; `=` means no worse than"
_MOST_DIGITS = 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """What the mean of one metric must be."""

    metric: str
    """Key of `METRICS`."""
    operator: Operator
    value: float

    @property
    def text(self) -> str:
        """Such as `>= 27`."""
        return f"{self.operator} {self.value:.10g}"

    def passes(self, mean: float | None) -> bool:
        """Whether a mean is good enough; None and what is not a number are not."""
        return mean is not None and not math.isnan(mean) and _HOLDS[self.operator](mean, self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A mean that is not good enough."""

    dataset: str
    method: str
    metric: str
    value: float | None
    """None if there is none."""
    wanted: Threshold
    is_finite_part: bool = False
    """Whether infinite values are left out of `value`."""

    @property
    def text(self) -> str:
        """Such as `Set5, compact, 4 steps: PSNR-Y 26.91, wanted >= 27`."""
        where = f"{self.dataset}, {self.method}: {METRICS[self.metric].title}"
        if self.value is None or math.isnan(self.value):
            return f"{where} has no value, wanted {self.wanted.text}"
        shown = _shown(self.value, self.wanted, METRICS[self.metric].digits)
        of = " over the pictures where it is finite" if self.is_finite_part else ""
        return f"{where} {shown}{of}, wanted {self.wanted.text}"


def _shown(value: float, wanted: Threshold, digits: int) -> str:
    """The value with as many decimals as it takes to see that it misses: never `27.00, wanted >= 27`."""
    texts = (f"{value:.{places}f}" for places in range(digits, _MOST_DIGITS))
    return next((text for text in texts if not wanted.passes(float(text))), repr(value))


def parse_thresholds(text: str, color: Literal["y", "rgb"] = "y") -> tuple[Threshold, ...]:
    """Read a list of thresholds that a user typed.

    Args:
        text: parts between commas, each a metric, one of `=`, `>=`, `>`, `<=`, `<`, and a number. `=` means no worse
            than, by the metric's direction.
        color: what `psnr`, `ssim` and `ms_ssim` without an ending mean.

    Raises:
        ConfigError: a part is no threshold, or a metric is unknown.
    """
    found = []
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"threshold is {part.strip()!r}, expected a metric, one of = >= > <= < and a number", hint=_EXAMPLE
            )
        (metric,) = parse_metrics(match[1], color)
        sign, value = match[2], float(match[3])
        if not math.isfinite(value):
            raise ConfigError(f"threshold is {part.strip()!r}, expected a finite number", hint=_EXAMPLE)
        if sign == "=":
            sign = "<=" if METRICS[metric].lower_better else ">="
        found.append(Threshold(metric=metric, operator=cast(Operator, sign), value=value))
    return tuple(found)


def check_known(thresholds: Sequence[Threshold], metrics: Sequence[str]) -> None:
    """Refuse a threshold on a metric that will not be computed, before anything is.

    Raises:
        ConfigError: naming the metric and those that will be.
    """
    for threshold in thresholds:
        if threshold.metric not in metrics:
            raise ConfigError(
                f"threshold {threshold.metric} {threshold.text} is on a metric that is not computed, "
                f"expected one of {', '.join(metrics)}",
                hint=f"`--metrics {','.join([*metrics, threshold.metric])}`",
            )


def _judged(score: Summary) -> float:
    """The mean, or that of the finite values where there are any: one identical picture is no pass for the others."""
    return score.finite_mean if math.isinf(score.mean) and score.finite_mean is not None else score.mean


def check(rows: Sequence[Row], thresholds: Sequence[Threshold], methods: Sequence[MethodInfo]) -> tuple[Violation, ...]:
    """Every threshold that is missed, for every method that is not a baseline, on every dataset of the rows.

    Args:
        rows: of `statistics.summarise`; a method without a row on a dataset misses every threshold there.
        thresholds: what the means must be.
        methods: of the evaluation; baselines among them are not judged.

    Raises:
        ConfigError: there are thresholds and nothing that they judge.
    """
    judged = [method.name for method in methods if method.kind != "baseline"]
    if thresholds and not (judged and rows):
        raise ConfigError(
            "thresholds have nothing to judge, expected a model or a folder of results beside the baselines",
            hint="add `--model NAME` or `--sr DIR`",
        )
    found = {(row.dataset, row.method): row for row in rows}
    violations = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        for method in judged:
            row = found.get((dataset, method))
            for wanted in thresholds:
                score = None if row is None else row.scores.get(wanted.metric)
                value = None if score is None else _judged(score)
                if not wanted.passes(value):
                    part = score is not None and math.isinf(score.mean) and value != score.mean
                    facts = {"dataset": dataset, "method": method, "metric": wanted.metric}
                    violations.append(Violation(**facts, value=value, wanted=wanted, is_finite_part=part))
    return tuple(violations)
