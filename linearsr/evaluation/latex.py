"""Tables of an evaluation for a paper: LaTeX with booktabs, no wider than a page of text.

Each table is a float with a caption. One that is too wide is broken into tables below each other, which repeat set and
method; where they are many lines together, they are floats of their own. What the numbers mean follows as plain text,
which may run over pages and can be moved to an appendix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from linearsr.evaluation.columns import Cell, Column, Table, fit, make_tables
from linearsr.evaluation.legend import legend
from linearsr.evaluation.records import printable
from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import Row

__all__ = ["to_latex"]

_UP, _DOWN = "\u2191", "\u2193"
_LINE_POINTS = 345.0
"""A line of the class `article`; other classes have more."""
_GAP_POINTS = 6.0
"""Between columns: `tabcolsep` twice."""
_DIGIT_POINTS = 4.63
"""Width of a digit in `small`, which is 9 pt."""
_WIDTHS = {
    **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 1.45),
    **dict.fromkeys("+<>=mwMW%@&", 1.6),
    **dict.fromkeys(".,:;!'`()[]|ijlt-", 0.65),
    " ": 0.67,
}
"""Of other signs in digits, about; those not named are as wide as a digit."""
_BOLD = 1.15
_FLOAT_LINES = 40
"""Lines of tables in one float; a page of `article` holds about 45 of them."""
_HEAD_LINES = 3
_RANKS = {"": "{}", "best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}
_SCORES = "Scores. Bold: best of its set, by what is printed; underlined: second of three or more"
_SIGNS = {
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


def _escape(text: str) -> str:
    safe = re.sub(r"(?<=-)-", "\0", printable(text))
    return "".join(_SIGNS["-"] if c == "\0" else c if c == "-" else _SIGNS.get(c, c) for c in safe)


def _title(column: Column) -> str:
    text = _escape(column.title(_UP, _DOWN))
    return text.replace(_UP, "$\\uparrow$").replace(_DOWN, "$\\downarrow$")


def _name(cell: Cell) -> str:
    return _escape(cell.text)


def _number(cell: Cell) -> str:
    """A hyphen is no minus."""
    text, suffix = (re.sub(r"-(?=\w)", "$-$", _escape(part)) for part in (cell.text, cell.suffix))
    return _RANKS[cell.rank].format(text) + suffix


def _points(column: Column) -> float:
    """About how wide a column is printed, with the gap beside it."""

    def digits(text: str) -> float:
        return sum(_WIDTHS.get(sign, 1.0) for sign in text)

    def printed(cell: Cell) -> float:
        text, suffix = (part.replace("-", "+") for part in (cell.text, cell.suffix))  # a minus is as wide as a plus
        return digits(text) * (_BOLD if cell.rank == "best" else 1.0) + digits(suffix)

    return max(digits(column.title(_UP, _DOWN)), *map(printed, column.cells)) * _DIGIT_POINTS + _GAP_POINTS


def _tabular(columns: Sequence[Column]) -> list[str]:
    """One table: set, method and numbers, with a rule between sets."""
    sets, num_names = columns[0].cells, 2
    lines = [f"\\begin{{tabular}}{{@{{}}ll{'r' * (len(columns) - num_names)}@{{}}}}", "\\toprule"]
    lines += [" & ".join(map(_title, columns)) + " \\\\", "\\midrule"]
    for index, of_set in enumerate(sets):
        if index and of_set.text != sets[index - 1].text:
            lines.append("\\midrule")
        names = [_name(column.cells[index]) for column in columns[:num_names]]
        lines.append(" & ".join([*names, *(_number(column.cells[index]) for column in columns[num_names:])]) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def _floats(table: Table) -> list[str]:
    """A table in as many floats as its lines need."""
    blocks = [_tabular(columns) for columns in fit(table, _points, _LINE_POINTS + _GAP_POINTS)]
    each = max(1, _FLOAT_LINES // (len(table.names[0].cells) + _HEAD_LINES))
    caption = _escape(table.heading) if table.heading else _SCORES
    lines: list[str] = []
    for start in range(0, len(blocks), each):
        lines += ["\\begin{table}", "\\centering\\small\\setlength{\\tabcolsep}{3pt}"]
        lines.append(f"\\caption{{{caption}{', continued' if start else ''}.}}")
        for index, block in enumerate(blocks[start : start + each]):
            lines += [*(["", "\\medskip"] if index else []), *block]
        lines += ["\\end{table}", ""]
    return lines


def to_latex(
    evaluation: Evaluation,
    rows: Sequence[Row],
    facts: Mapping[str, Any] | None = None,
    *,
    intervals: bool = False,
    differences: bool = False,
) -> str:
    """Tables for booktabs, the best of each set bold and the second underlined, and below them what the numbers mean.

    A table of more than about 40 rows is longer than a page.

    Args:
        evaluation: what was found.
        rows: of `statistics.summarise`.
        facts: about the run: versions, machine, command, date.
        intervals: show the interval of each mean; without them more columns fit beside each other.
        differences: show differences from the baseline, with the sign test.
    """
    lines = ["% needs \\usepackage{booktabs}"]
    for table in make_tables(evaluation, rows, intervals=intervals, differences=differences):
        lines += _floats(table)
    lines.append("\\begingroup\\footnotesize\\raggedright")
    for heading, found in legend(evaluation, rows, facts, intervals=intervals, differences=differences):
        lines.append(f"\\noindent\\textbf{{{heading}.}} " + "\\\\\n".join(map(_escape, found)) + "\\par")
    return "\n".join([*lines, "\\endgroup"]) + "\n"
