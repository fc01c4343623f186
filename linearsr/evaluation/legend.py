"""What stands below every table: definitions, protocol, methods and versions, in plain lines.

A number can be quoted only with these. The lines are plain text; `tables` and `latex` escape them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from linearsr.evaluation.columns import p_text
from linearsr.evaluation.results import Evaluation, Failure, MethodInfo
from linearsr.evaluation.statistics import Row
from linearsr.metrics import METRICS

__all__ = ["Section", "legend", "not_computed", "plain_words"]

Section = tuple[str, tuple[str, ...]]
"""Heading and lines."""

_NAMED_FAILURES = 10
_FEW = 6
"""Fewer pictures cannot have a p below 0.05."""


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


def _protocol(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Its settings, a line each; where the inputs come from in words."""
    inputs = protocol.get("inputs")
    if not isinstance(inputs, Mapping) or "kind" not in inputs:
        return _settings(protocol)
    origins = {"none": "none", "made": "made from the clean pictures", "given": "given"}
    origin = origins.get(inputs["kind"], plain_words(inputs["kind"]))
    by_set = inputs.get("by linearsr degrade")
    if isinstance(by_set, Mapping):
        made = [f"those of {name} by {_recipe(facts)}" for name, facts in by_set.items()]
        origin += ", made by linearsr degrade: " + "; ".join(made)
    elif "recipe" in inputs:
        origin += f"{', made by linearsr degrade' if 'by' in inputs else ''} by {_recipe(inputs)}"
    return _settings({**protocol, "inputs": origin})


def _recipe(facts: Mapping[str, Any]) -> str:
    """A recipe with all that decides its pictures; the seed changes nothing that is not drawn."""
    recipe = facts["recipe"]
    kind = "" if recipe["kind"] == recipe["name"] else f", which is {recipe['kind']}"
    seed = "" if recipe["kind"] == "bicubic" else f", seed {facts['seed']}"
    some = f", {facts['pictures']} pictures" if "pictures" in facts else ""
    steps = f" ({plain_words(recipe['degradation'])})" if recipe.get("degradation") else ""
    return f"the recipe {recipe['name']}{kind}{seed}{some}, digest {recipe['digest']}{steps}"


def _metric(name: str, facts: Mapping[str, Any]) -> str:
    metric = METRICS[name]
    unit = f"{metric.unit}, " if metric.unit else ""
    by = f" Package: {metric.package} ({metric.licence})." if metric.package else ""
    if f"{name}_weights" in facts:  # whose package is not used then
        by = " Computed from a file of its weights, named below."
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
    if differences and evaluation.baseline is None:
        lines.append("There are no differences: nothing was scored that they could be taken from.")
    elif differences:
        fewest = min((row.num_images for row in rows), default=0)
        count = "1 picture" if fewest == 1 else f"{fewest} pictures"
        least = f" With {count} it is never below {p_text(0.5 ** (fewest - 1))}." if 0 < fewest < _FEW else ""
        lines.append(
            f"A difference is the mean over pictures of the method's value less that of {evaluation.baseline}; better "
            "is on how many of the pictures the method's value is the better one; p is the two-sided exact sign test "
            f"over pictures, ties left out, not corrected for the number of comparisons.{least}"
        )
    if any(row.seconds_per_megapixel is not None for row in rows):
        lines.append(
            "s/MP: seconds per megapixel (10^6 pixels) of the result, median over pictures, files not counted."
        )
    return tuple(lines)


def _pictures(rows: Sequence[Row]) -> str:
    counts = {row.dataset: row.num_images for row in rows}
    return "Pictures: " + ", ".join(f"{name} {num}" for name, num in counts.items())


def not_computed(evaluation: Evaluation) -> tuple[str, ...]:
    """Skipped metrics, one line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for skipped in evaluation.skipped:
        title = METRICS[skipped.name].title if skipped.name in METRICS else skipped.name
        problem = skipped.reason.removeprefix(f"{title} ")  # so that one reason of many metrics is one line
        reason = problem if skipped.hint is None else f"{problem} ({skipped.hint})"
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
    return (*lines, *_listed(failures))


def _listed(failures: Sequence[Failure]) -> tuple[str, ...]:
    """The first of them, a line each, and how many more there are."""
    more = len(failures) - _NAMED_FAILURES
    named = [_failure(failure) for failure in failures[:_NAMED_FAILURES]]
    return (*named, *([f"and {more} more"] if more > 0 else []))


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
        facts: about the run: versions, machine, command, date; `lpips_weights` where LPIPS is not of its package.
        intervals: whether the table shows intervals.
        differences: whether the table shows differences from the baseline.
    """
    known = {} if facts is None else facts
    metrics = tuple(_metric(name, known) for name in evaluation.metrics)
    sections = (
        ("Scores", (*metrics, *_statistics(evaluation, rows, intervals, differences))),
        ("Protocol", (*_protocol(evaluation.protocol), _pictures(rows))),
        ("Methods", _methods(evaluation.methods)),
        ("Run", _settings(known)),
        ("Not computed", not_computed(evaluation)),
        ("Notes", evaluation.notes),
        ("Not scored", _failures(evaluation.failures)),
        ("Not saved", _listed(evaluation.unsaved)),
    )
    return tuple((heading, lines) for heading, lines in sections if lines)
