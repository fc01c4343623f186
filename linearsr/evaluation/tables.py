"""Tables of an evaluation for people: text for a terminal, Markdown and LaTeX. JSON and CSV come from `records`.

Owns how numbers look. Markdown, LaTeX and text always end with what must stand beside the numbers (`legend`). Of equal
printed numbers all are marked as the best.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from linearsr.evaluation.legend import legend
from linearsr.evaluation.records import printable
from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import Row
from linearsr.metrics import METRICS

__all__ = ["markdown_table", "number", "to_latex", "to_markdown", "to_text"]

Rank = Literal["", "best", "second"]

_UP, _DOWN = "\u2191", "\u2193"
_MARKS_SECOND_FROM = 3  # of two methods the second is simply the other one


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    text: str
    suffix: str = ""
    """The interval; never marked."""
    rank: Rank = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    heading: str
    direction: Literal["", "higher", "lower"] = ""
    cells: tuple[_Cell, ...]

    def title(self, up: str, down: str) -> str:
        """Heading with the arrow of its direction."""
        return self.heading + {"": "", "higher": f" {up}", "lower": f" {down}"}[self.direction]


def number(value: float | None, digits: int) -> str:
    """A cell: `-` for nothing, `inf` and `nan` for what is not finite."""
    return "-" if value is None else f"{value:.{digits}f}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns padded to equal width, so that it reads on a terminal as well."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _seconds(value: float | None) -> str:
    """More decimals where everything is fast."""
    return number(value, 2 if value is None or value >= 1 else 3)


def _interval(low: float | None, high: float | None, digits: int) -> str:
    """Ends with one decimal less than the mean: they are not known better."""
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


def _score_column(rows: Sequence[Row], metric: str, intervals: bool, outside: Collection[str]) -> _Column:
    about, ranks = METRICS[metric], _ranks(rows, metric, outside)
    cells = []
    for row in rows:
        score = row.scores.get(metric)
        if score is None:
            cells.append(_Cell(text="-"))
            continue
        suffix = _interval(score.low, score.high, max(about.digits - 1, 0)) if intervals else ""
        rank = ranks.get((row.dataset, row.method), "")
        cells.append(_Cell(text=number(score.mean, about.digits), suffix=suffix, rank=rank))
    return _Column(heading=about.title, direction=about.direction, cells=tuple(cells))


def _difference_columns(rows: Sequence[Row], metric: str, baseline: str, intervals: bool) -> tuple[_Column, _Column]:
    about = METRICS[metric]
    means, chances = [], []
    for row in rows:
        paired = row.differences.get(metric)
        if paired is None:
            means.append(_Cell(text="-"))
            chances.append(_Cell(text="-"))
            continue
        suffix = _interval(paired.low, paired.high, max(about.digits - 1, 0)) if intervals else ""
        means.append(_Cell(text=f"{paired.mean:+.{about.digits}f}", suffix=suffix))
        chances.append(_Cell(text=_p_value(paired.p_value)))
    heading = f"{about.title} - {baseline}"
    return _Column(heading=heading, cells=tuple(means)), _Column(heading="p", cells=tuple(chances))


def _columns(evaluation: Evaluation, rows: Sequence[Row], intervals: bool, differences: bool) -> list[_Column]:
    """Set and method, then scores, then seconds if anything was made."""
    columns = [
        _Column(heading="set", cells=tuple(_Cell(text=row.dataset) for row in rows)),
        _Column(heading="method", cells=tuple(_Cell(text=row.method) for row in rows)),
    ]
    outside = {method.name for method in evaluation.methods if not method.competes}
    for metric in evaluation.metrics:
        columns.append(_score_column(rows, metric, intervals, outside))
        if differences and evaluation.baseline is not None:
            columns += _difference_columns(rows, metric, evaluation.baseline, intervals)
    if any(row.seconds_per_megapixel is not None for row in rows):
        cells = tuple(_Cell(text=_seconds(row.seconds_per_megapixel)) for row in rows)
        columns.append(_Column(heading="s/MP", cells=cells))
    return columns


def _escape_markdown(text: str) -> str:
    """Keep names from being read as markup; an underscore inside a word is none, nor is a lone bracket."""
    markup = r"[\\|*]|<(?=[A-Za-z/!?])|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(markup, r"\\\g<0>", printable(text))


def to_markdown(
    evaluation: Evaluation,
    rows: Sequence[Row],
    facts: Mapping[str, Any] | None = None,
    *,
    intervals: bool = False,
    differences: bool = False,
) -> str:
    """A Markdown table, the best of each set in bold, and below it what the numbers mean.

    Args:
        evaluation: what was found.
        rows: of `statistics.summarise`.
        facts: about the run: versions, machine, command, date.
        intervals: show the interval of each mean.
        differences: show differences from the baseline, with the sign test.
    """

    def cell(found: _Cell) -> str:
        text = _escape_markdown(found.text)
        return (f"**{text}**" if found.rank == "best" else text) + _escape_markdown(found.suffix)

    columns = _columns(evaluation, rows, intervals, differences)
    header = [_escape_markdown(column.title(_UP, _DOWN)) for column in columns]
    body = [[cell(column.cells[index]) for column in columns] for index in range(len(rows))]
    blocks = [markdown_table(header, body), "Bold: best of its set, by what is printed."]
    for heading, lines in legend(evaluation, rows, facts, intervals=intervals, differences=differences):
        blocks.append(f"{heading}:\n\n" + "\n".join(f"- {_escape_markdown(line)}" for line in lines))
    return "\n\n".join(blocks) + "\n"


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "`": "\\textasciigrave{}",
    "[": "{[}",  # would be read as an argument of the line break before it
    "*": "{*}",
    "-": "{-}",  # two would become a dash, which is no option of a command any more
}


def _escape_latex(text: str) -> str:
    safe = re.sub(r"(?<=-)-", "\0", printable(text))
    return "".join(_LATEX["-"] if c == "\0" else c if c == "-" else _LATEX.get(c, c) for c in safe)


def to_latex(
    evaluation: Evaluation,
    rows: Sequence[Row],
    facts: Mapping[str, Any] | None = None,
    *,
    intervals: bool = False,
    differences: bool = False,
) -> str:
    """A LaTeX table for booktabs, the best of each set bold and the second underlined; arguments of `to_markdown`."""
    marks = {"": "{}", "best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}

    def cell(found: _Cell) -> str:
        return marks[found.rank].format(_escape_latex(found.text)) + _escape_latex(found.suffix)

    columns = _columns(evaluation, rows, intervals, differences)
    header = " & ".join(
        _escape_latex(column.title(_UP, _DOWN)).replace(_UP, "$\\uparrow$").replace(_DOWN, "$\\downarrow$")
        for column in columns
    )
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering"]
    lines += [f"\\begin{{tabular}}{{ll{'r' * (len(columns) - 2)}}}", "\\toprule", f"{header} \\\\", "\\midrule"]
    for index, row in enumerate(rows):
        if index and row.dataset != rows[index - 1].dataset:
            lines.append("\\midrule")
        lines.append(" & ".join(cell(column.cells[index]) for column in columns) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\medskip", "\\begin{minipage}{\\linewidth}\\footnotesize"]
    lines.append(
        "\\textbf{Bold}: best of its set, by what is printed; \\underline{underlined}: second of three or more.\\par"
    )
    for heading, found in legend(evaluation, rows, facts, intervals=intervals, differences=differences):
        lines.append(f"\\textbf{{{heading}.}} " + "\\\\\n".join(map(_escape_latex, found)) + "\\par")
    return "\n".join([*lines, "\\end{minipage}", "\\end{table}"]) + "\n"


def _text_column(column: _Column, up: str, down: str, left: bool) -> list[str]:
    """Heading, rule and cells of equal width."""
    marked = any(cell.rank == "best" for cell in column.cells)
    stars = ["*" if cell.rank == "best" else " " if marked else "" for cell in column.cells]
    cells = [f"{printable(c.text)}{star}{printable(c.suffix)}" for c, star in zip(column.cells, stars, strict=True)]
    heading = printable(column.title(up, down))
    width = max(len(text) for text in (heading, *cells))
    texts = [heading, "-" * width, *cells]
    return [text.ljust(width) if left else text.rjust(width) for text in texts]


def _text_blocks(columns: Sequence[list[str]], width: int) -> list[str]:
    """Set and method, beside them as many columns as fit; the others follow in tables of their own."""
    fixed, rest = columns[:2], list(columns[2:])
    taken = sum(len(column[0]) + 2 for column in fixed)
    blocks: list[str] = []
    while rest or not blocks:
        chosen, used = [*fixed], taken
        while rest and (len(chosen) == len(fixed) or used + len(rest[0][0]) <= width):
            chosen.append(rest.pop(0))
            used += len(chosen[-1][0]) + 2
        blocks.append("\n".join("  ".join(line).rstrip() for line in zip(*chosen, strict=True)))
    return blocks


def to_text(
    evaluation: Evaluation,
    rows: Sequence[Row],
    facts: Mapping[str, Any] | None = None,
    *,
    width: int = 120,
    ascii: bool = False,
    intervals: bool = False,
    differences: bool = False,
) -> str:
    """A table for a terminal without colour, the best of each set with a star; further arguments of `to_markdown`.

    Args:
        width: characters in a line; a wider table continues below itself.
        ascii: `^` and `v` for arrows, and escapes for any other character beyond ASCII.
    """
    up, down = ("^", "v") if ascii else (_UP, _DOWN)
    columns = _columns(evaluation, rows, intervals, differences)
    rendered = [_text_column(column, up, down, left=index < 2) for index, column in enumerate(columns)]
    blocks = _text_blocks(rendered, width)
    key = f"{up} higher is better, {down} lower is better, * best of its set, by what is printed"
    blocks.append(textwrap.fill(key, max(width, 40)))
    for heading, lines in legend(evaluation, rows, facts, intervals=intervals, differences=differences):
        wrapped = [
            textwrap.fill(
                printable(line), max(width, 40), initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
            )
            for line in lines
        ]
        blocks.append("\n".join([heading, *wrapped]))
    text = "\n\n".join(blocks) + "\n"
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii else text
