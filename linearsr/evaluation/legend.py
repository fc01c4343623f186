"""What stands below every table: definitions, protocol, methods and versions, in plain lines.

A number can be quoted only with these. The lines are plain text; `tables` escapes them for Markdown or LaTeX.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linearsr.evaluation.results import Evaluation, Failure, MethodInfo
from linearsr.evaluation.statistics import Row
from linearsr.metrics import METRICS

__all__ = ["Section", "legend", "plain_words"]

Section = tuple[str, tuple[str, ...]]
"""Heading and lines."""

_NAMED_FAILURES = 10


def plain_words(value: Any) -> str:  # noqa: ANN401
    """A setting as words: `x 1, y (a, b)` for mappings and lists, `yes` and `no`, `none`, numbers without zeros."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {_inner(item)}" for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_inner(item) for item in value) or "none"
    return str(value)


def _inner(value: Any) -> str:  # noqa: ANN401
    """Words of a part, in brackets where commas would run together."""
    words = plain_words(value)
    nested = isinstance(value, Mapping | list | tuple) and len(value) > 1
    return f"({words})" if nested else words


def _settings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """One line each; what is None is not there to be told."""
    return tuple(f"{key.replace('_', ' ')}: {plain_words(value)}" for key, value in values.items() if value is not None)


def _metric(name: str) -> str:
    metric = METRICS[name]
    unit = f"{metric.unit}, " if metric.unit else ""
    by = f" Package: {metric.package} ({metric.licence})." if metric.package else ""
    return f"{metric.title} ({unit}{metric.direction} is better): {metric.definition}. Source: {metric.source}.{by}"


def _methods(methods: Sequence[MethodInfo]) -> tuple[str, ...]:
    """One line for all methods whose settings differ in nothing but the number of steps."""
    named: dict[str, list[str]] = {}
    for method in methods:
        settings = {key: value for key, value in method.settings.items() if key != "steps"}
        if settings:
            named.setdefault(plain_words(settings), []).append(method.name)
    return tuple(f"{'; '.join(names)}: {words}" for words, names in named.items())


def _statistics(evaluation: Evaluation, rows: Sequence[Row], intervals: bool, differences: bool) -> tuple[str, ...]:
    lines = ["Every score is the mean over pictures of each picture's own value."]
    bootstrap = next((row.bootstrap for row in rows), None)
    if bootstrap is not None and intervals:
        lines.append(
            f"[low, high] is the {100 * bootstrap.level:g} % interval of the mean by bootstrap over pictures: "
            f"percentiles of {bootstrap.resamples} resamples, seed {bootstrap.seed}. It is too narrow for a handful of "
            "pictures, and absent where a value is infinite."
        )
    if differences and evaluation.baseline is not None:
        lines.append(
            f"A difference is the mean over pictures of the method's value less that of {evaluation.baseline}; p is "
            "the two-sided exact sign test over pictures, ties left out, not corrected for the number of comparisons."
        )
    if any(row.seconds_per_megapixel is not None for row in rows):
        lines.append(
            "s/MP: seconds per megapixel (10^6 pixels) of the result, median over pictures, files not counted."
        )
    return tuple(lines)


def _pictures(rows: Sequence[Row]) -> str:
    counts = {row.dataset: row.num_images for row in rows}
    return "Pictures: " + ", ".join(f"{name} {num}" for name, num in counts.items())


def _not_computed(evaluation: Evaluation) -> tuple[str, ...]:
    """Skipped metrics, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for skipped in evaluation.skipped:
        title = METRICS[skipped.name].title if skipped.name in METRICS else skipped.name
        reason = skipped.reason if skipped.hint is None else f"{skipped.reason} ({skipped.hint})"
        by_reason.setdefault(reason, []).append(title)
    return tuple(f"{', '.join(titles)}: {reason}" for reason, titles in by_reason.items())


def _failure(failure: Failure) -> str:
    method = "" if failure.method is None else f", {failure.method}"
    return f"{failure.dataset}/{failure.image}{method}: {failure.message}"


def _failures(failures: Sequence[Failure]) -> tuple[str, ...]:
    if not failures:
        return ()
    num = len({(failure.dataset, failure.image) for failure in failures})
    count = "1 picture" if num == 1 else f"{num} pictures"
    lines = [f"{count} could not be scored and counted in no mean, of no method."]
    lines += [_failure(failure) for failure in failures[:_NAMED_FAILURES]]
    if len(failures) > _NAMED_FAILURES:
        lines.append(f"and {len(failures) - _NAMED_FAILURES} more")
    return tuple(lines)


def legend(
    evaluation: Evaluation,
    rows: Sequence[Row],
    facts: Mapping[str, Any] | None = None,
    *,
    intervals: bool = False,
    differences: bool = False,
) -> tuple[Section, ...]:
    """Everything that must stand beside the numbers, by heading; a section with nothing to say is left out.

    Args:
        evaluation: what was found.
        rows: of `statistics.summarise`.
        facts: about the run: versions, machine, command, date.
        intervals: whether the table shows intervals.
        differences: whether the table shows differences from the baseline.
    """
    sections = (
        ("Scores", (*map(_metric, evaluation.metrics), *_statistics(evaluation, rows, intervals, differences))),
        ("Protocol", (*_settings(evaluation.protocol), _pictures(rows))),
        ("Methods", _methods(evaluation.methods)),
        ("Run", () if facts is None else _settings(facts)),
        ("Not computed", _not_computed(evaluation)),
        ("Notes", evaluation.notes),
        ("Not scored", _failures(evaluation.failures)),
    )
    return tuple((heading, lines) for heading, lines in sections if lines)
