"""What the tables of an evaluation hold, before they become text, Markdown or LaTeX.

Owns how numbers look, which of them is the best and what stands beside what. Of equal printed numbers all are the best.
Differences from the baseline are a table of their own: beside the scores they would make one that nobody can read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import Paired, Row
from linearsr.metrics import METRICS, Metric

__all__ = ["Cell", "Column", "Table", "fit", "make_tables", "number", "p_text"]

Rank = Literal["", "best", "second"]

_MARKS_SECOND_FROM = 3  # of two methods the second is simply the other one


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One number, or a name."""

    text: str
    suffix: str = ""
    """The interval; never marked."""
    rank: Rank = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A heading and what stands below it, a cell for each row."""

    heading: str
    direction: Literal["", "higher", "lower"] = ""
    cells: tuple[Cell, ...]

    def title(self, up: str, down: str) -> str:
        """Heading with the arrow of its direction."""
        return self.heading + {"": "", "higher": f" {up}", "lower": f" {down}"}[self.direction]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table; its columns have equal numbers of cells."""

    heading: str
    """Empty for the scores."""
    names: tuple[Column, Column]
    """Set and method, repeated wherever the table is broken."""
    groups: tuple[tuple[Column, ...], ...]
    """Columns of numbers; those of a group stand beside each other."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them, from left to right."""
        return (*self.names, *(column for group in self.groups for column in group))


def number(value: float | None, digits: int) -> str:
    """A cell: `-` for nothing, `inf` and `nan` for what is not finite."""
    return "-" if value is None else f"{value:.{digits}f}"


def p_text(p: float) -> str:
    """A p-value as it is printed."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _seconds(value: float | None) -> str:
    """More decimals where everything is fast."""
    return number(value, 2 if value is None or value >= 1 else 3)


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"


def _ranks(rows: Sequence[Row], metric: str, outside: Collection[str]) -> dict[tuple[str, str], Rank]:
    """Best and second of each dataset, by what is printed; methods that are `outside` the contest have no rank."""
    found: dict[tuple[str, str], Rank] = {}
    about = METRICS[metric]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        of_set = [row for row in rows if row.dataset == dataset and row.method not in outside]
        shown = {r.method: round(r.scores[metric].mean, about.digits) for r in of_set if metric in r.scores}
        shown = {method: value for method, value in shown.items() if not math.isnan(value)}
        order = sorted(set(shown.values()), reverse=not about.lower_better)
        for method, value in shown.items():
            if len(shown) > 1 and value == order[0]:
                found[dataset, method] = "best"
            elif len(shown) >= _MARKS_SECOND_FROM and value == order[1]:
                found[dataset, method] = "second"
    return found


def _names(rows: Sequence[Row]) -> tuple[Column, Column]:
    return (
        Column(heading="set", cells=tuple(Cell(text=row.dataset) for row in rows)),
        Column(heading="method", cells=tuple(Cell(text=row.method) for row in rows)),
    )


def _score_column(rows: Sequence[Row], metric: str, intervals: bool, outside: Collection[str]) -> Column:
    """Means; their intervals end with one decimal less, for they are not known better."""
    about, ranks = METRICS[metric], _ranks(rows, metric, outside)
    cells = []
    for row in rows:
        score = row.scores.get(metric)
        if score is None:
            cells.append(Cell(text="-"))
            continue
        suffix = _interval(score.low, score.high, max(about.digits - 1, 0)) if intervals else ""
        rank = ranks.get((row.dataset, row.method), "")
        cells.append(Cell(text=number(score.mean, about.digits), suffix=suffix, rank=rank))
    return Column(heading=about.title, direction=about.direction, cells=tuple(cells))


def _difference_columns(rows: Sequence[Row], metric: str, intervals: bool) -> tuple[Column, ...]:
    about = METRICS[metric]
    cells = [_difference_cells(row.differences.get(metric), about, intervals) for row in rows]
    differences, better, chances = zip(*cells, strict=True)
    return (
        Column(heading=about.title, direction=about.direction, cells=differences),
        Column(heading="better", cells=better),
        Column(heading="p", cells=chances),
    )


def _difference_cells(paired: Paired | None, about: Metric, intervals: bool) -> tuple[Cell, Cell, Cell]:
    """Their intervals have all decimals of the difference: what counts is on which side of 0 they end."""
    if paired is None:
        return Cell(text="-"), Cell(text="-"), Cell(text="-")
    suffix = _interval(paired.low, paired.high, about.digits) if intervals else ""
    return (
        Cell(text=f"{paired.mean:+.{about.digits}f}", suffix=suffix),
        Cell(text=f"{paired.better}/{paired.better + paired.worse + paired.ties}", suffix=_ties(paired.ties)),
        Cell(text=p_text(paired.p_value)),
    )


def _ties(ties: int) -> str:
    return f" ({ties} equal)" if ties else ""


def make_tables(
    evaluation: Evaluation, rows: Sequence[Row], *, intervals: bool, differences: bool
) -> tuple[Table, ...]:
    """The scores, with seconds if anything was made; then, if asked for, the differences from the baseline.

    Args:
        evaluation: what was found.
        rows: of `statistics.summarise`.
        intervals: show the interval of each mean.
        differences: show differences from the baseline; of the baseline itself there are none, nor a row.
    """
    outside = {method.name for method in evaluation.methods if not method.competes}
    groups = [(_score_column(rows, metric, intervals, outside),) for metric in evaluation.metrics]
    if any(row.seconds_per_megapixel is not None for row in rows):
        cells = tuple(Cell(text=_seconds(row.seconds_per_megapixel)) for row in rows)
        groups.append((Column(heading="s/MP", cells=cells),))
    scores = Table(heading="", names=_names(rows), groups=tuple(groups))
    others = [row for row in rows if row.differences]
    if not differences or not others:
        return (scores,)
    paired = Table(
        heading=f"Differences from {evaluation.baseline}, picture by picture",
        names=_names(others),
        groups=tuple(_difference_columns(others, metric, intervals) for metric in evaluation.metrics),
    )
    return scores, paired


def fit(table: Table, width: Callable[[Column], float], limit: float) -> list[list[Column]]:
    """Break a table into tables below each other: set and method, and as many groups of columns as fit.

    Args:
        table: to break.
        width: of a column with what parts it from the next.
        limit: of a table. A wider group begins a table and is broken too; a single column may stand out.
    """
    taken = sum(map(width, table.names))
    broken: list[list[Column]] = []
    used = math.inf
    for group in table.groups:
        parts = [group]
        if taken + sum(map(width, group)) > limit:
            parts, used = [(column,) for column in group], math.inf
        for part in parts:
            size = sum(map(width, part))
            if used + size > limit:
                broken.append(list(table.names))
                used = taken
            broken[-1] += part
            used += size
    return broken or [list(table.names)]
