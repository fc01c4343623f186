"""An evaluation for programs: JSON that holds everything, and back again, and CSV.

Owns the formats of the files. JSON has no infinity: in scores, intervals, ranges and times a value that is not finite
is the string `inf`, `-inf` or `nan`, which the file says itself.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from linearsr.errors import ConfigError
from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import Bootstrap, Paired, Row, Summary
from linearsr.metrics import METRICS
from linearsr.strict import from_dict

__all__ = [
    "KIND",
    "SCHEMA_VERSION",
    "from_json",
    "per_image_csv",
    "per_image_json",
    "printable",
    "rows_from_json",
    "to_csv",
    "to_json",
]

KIND = "linearsr-evaluation"
SCHEMA_VERSION = 1
_NUMBERS = "a value that is not finite is the string inf, -inf or nan; PSNR of identical pictures is inf"
_NOT_FINITE = frozenset({"inf", "-inf", "nan"})
_LATER = frozenset({"unsaved", "other_inputs"})
"""Sections that older files do not have."""
_SECTIONS = tuple(field.name for field in dataclasses.fields(Evaluation) if field.name != "metrics")


def printable(text: str) -> str:
    """Escape control characters and broken surrogates, which names of files may hold."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """What JSON can hold: dataclasses and mappings as objects, sequences as lists, anything unknown as its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def to_json(evaluation: Evaluation, rows: Sequence[Row], facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything there is to know about an evaluation, for `json.dumps`.

    Args:
        evaluation: what was found.
        rows: of `statistics.summarise`.
        facts: about the run: versions, machine, command, date.

    Returns:
        An object with `kind`, `schema_version`, `numbers`, `facts`, `metrics` (name -> definition), `rows` and the
        fields of `Evaluation`. Tuples in `protocol` and `settings` become lists.
    """
    data: dict[str, Any] = {"kind": KIND, "schema_version": SCHEMA_VERSION, "numbers": _NUMBERS}
    data["facts"] = _plain({} if facts is None else facts)
    data["metrics"] = {name: _plain(METRICS[name]) for name in evaluation.metrics}
    data["rows"] = _plain(tuple(rows))
    return data | {name: _plain(getattr(evaluation, name)) for name in _SECTIONS}


def per_image_json(evaluation: Evaluation, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Scores of every picture by every method, for `json.dumps`, with all that one needs to know of them.

    Args:
        evaluation: what was found.
        facts: about the run: versions, machine, command, date.

    Returns:
        What `to_json` returns, but for `rows`; `kind` is another.
    """
    data = to_json(evaluation, (), facts) | {"kind": f"{KIND}-images"}
    del data["rows"]
    return data


def _number(value: Any) -> Any:  # noqa: ANN401
    return float(value) if isinstance(value, str) and value in _NOT_FINITE else value


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in values.items()}


def _check(data: Any) -> None:  # noqa: ANN401
    if not isinstance(data, dict) or data.get("kind") != KIND:
        kind = data.get("kind") if isinstance(data, dict) else type(data).__name__
        raise ConfigError(
            f"the evaluation is of kind {kind!r}, expected {KIND!r}", hint="make it with `linearsr eval -o FILE.json`"
        )
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"schema_version of the evaluation is {version!r}, expected {SCHEMA_VERSION}",
            hint="update LinearSR, or evaluate again",
        )


def from_json(data: Any) -> Evaluation:  # noqa: ANN401
    """Read back what `to_json` made.

    Raises:
        ConfigError: another kind of file or version, or a part is missing or of another type.
    """
    _check(data)
    try:
        found = {name: data[name] for name in _SECTIONS if name in data or name not in _LATER}
        found["metrics"] = list(data["metrics"])
        found["images"] = [
            image | {"scores": _numbers(image["scores"]), "seconds": _number(image["seconds"])}
            for image in data["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the evaluation is damaged: {error}", hint="evaluate again") from error
    return from_dict(Evaluation, found, where="evaluation")


def _entries(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_dict(cls, _numbers(entry), where=name) for name, entry in data.items()}


def rows_from_json(data: Any) -> tuple[Row, ...]:  # noqa: ANN401
    """The rows in what `to_json` made.

    Raises:
        ConfigError: as `from_json`.
    """
    _check(data)
    try:
        return tuple(
            Row(
                **{name: row[name] for name in ("dataset", "method", "steps", "num_images")},
                seconds_per_megapixel=_number(row["seconds_per_megapixel"]),
                scores=_entries(Summary, row["scores"]),
                differences=_entries(Paired, row["differences"]),
                bootstrap=None if row["bootstrap"] is None else from_dict(Bootstrap, row["bootstrap"]),
            )
            for row in data["rows"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the evaluation is damaged: {error}", hint="evaluate again") from error


def _csv(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([printable(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return stream.getvalue()


def to_csv(evaluation: Evaluation, rows: Sequence[Row]) -> str:
    """One line for each dataset and method; what there is not is empty, what is not finite is `inf` or `nan`.

    Returns:
        Columns dataset, method, steps, num_images, seconds_per_megapixel; for each metric its mean, the interval of
        that `_low` and `_high`, the difference from the baseline `_diff` and its sign test `_p`; then for each metric
        the interval of the difference `_diff_low` and `_diff_high`, and the numbers of pictures where the method is
        `_better`, `_worse` and equal, `_ties`; last `baseline`, its name. Values are not rounded.
    """
    header = ["dataset", "method", "steps", "num_images", "seconds_per_megapixel"]
    header += [f"{name}{end}" for name in evaluation.metrics for end in ("", "_low", "_high", "_diff", "_p")]
    ends = ("_diff_low", "_diff_high", "_better", "_worse", "_ties")
    header += [f"{name}{end}" for name in evaluation.metrics for end in ends] + ["baseline"]
    lines = []
    for row in rows:
        line: list[object] = [row.dataset, row.method, row.steps, row.num_images, row.seconds_per_megapixel]
        more: list[object] = []
        for name in evaluation.metrics:
            score, paired = row.scores.get(name), row.differences.get(name)
            line += [None] * 3 if score is None else [score.mean, score.low, score.high]
            line += [None] * 2 if paired is None else [paired.mean, paired.p_value]
            more += [None] * len(ends) if paired is None else _spread(paired)
        lines.append([*line, *more, evaluation.baseline])
    return _csv(header, lines)


def _spread(paired: Paired) -> list[object]:
    return [paired.low, paired.high, paired.better, paired.worse, paired.ties]


def per_image_csv(evaluation: Evaluation) -> str:
    """One line for each picture and method; what there is not is empty, infinity is `inf`.

    Returns:
        Columns dataset, image, method, every metric, seconds (from input to result), megapixels (of the result),
        cached (`True` if the scores are of an earlier run) and steps. Values are not rounded.
    """
    header = ["dataset", "image", "method", *evaluation.metrics, "seconds", "megapixels", "cached", "steps"]
    steps = {method.name: method.steps for method in evaluation.methods}
    return _csv(
        header,
        (
            [image.dataset, image.image, image.method]
            + [image.scores.get(name) for name in evaluation.metrics]
            + [image.seconds, image.megapixels, image.cached, steps.get(image.method)]
            for image in evaluation.images
        ),
    )
