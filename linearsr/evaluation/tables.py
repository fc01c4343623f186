"""Tables of an evaluation for people: text for a terminal, and Markdown.

They end with what must stand beside the numbers (`legend`). What stands in the cells is of `columns`. LaTeX comes from
`latex`, JSON and CSV from `records`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from linearsr.evaluation.columns import Cell, Column, Table, fit, make_tables, number
from linearsr.evaluation.legend import legend
from linearsr.evaluation.records import printable
from linearsr.evaluation.results import Evaluation
from linearsr.evaluation.statistics import Row

__all__ = ["markdown_table", "number", "to_markdown", "to_text"]

_UP, _DOWN = "\u2191", "\u2193"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns padded to equal width, so that it reads on a terminal as well."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _escape_markdown(text: str) -> str:
    """Keep names from being read as markup; an underscore inside a word is none, nor is a lone bracket."""
    markup = r"[\\|*]|<(?=[A-Za-z/!?])|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(markup, r"\\\g<0>", printable(text))


def _markdown(table: Table) -> str:
    def cell(found: Cell) -> str:
        text = _escape_markdown(found.text)
        return (f"**{text}**" if found.rank == "best" else text) + _escape_markdown(found.suffix)

    header = [_escape_markdown(column.title(_UP, _DOWN)) for column in table.columns]
    body = zip(*(map(cell, column.cells) for column in table.columns), strict=True)
    return markdown_table(header, body)


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
        differences: show differences from the baseline in a second table, with the sign test.
    """
    scores, *others = make_tables(evaluation, rows, intervals=intervals, differences=differences)
    blocks = [_markdown(scores), "Bold: best of its set, by what is printed."]
    for table in others:
        blocks += [f"{_escape_markdown(table.heading)}:", _markdown(table)]
    for heading, lines in legend(evaluation, rows, facts, intervals=intervals, differences=differences):
        blocks.append(f"{heading}:\n\n" + "\n".join(f"- {_escape_markdown(line)}" for line in lines))
    return "\n\n".join(blocks) + "\n"


def _text_column(column: Column, up: str, down: str, left: bool) -> list[str]:
    """Heading, rule and cells of equal width."""
    marked = any(cell.rank == "best" for cell in column.cells)
    stars = ["*" if cell.rank == "best" else " " if marked else "" for cell in column.cells]
    cells = [f"{printable(c.text)}{star}{printable(c.suffix)}" for c, star in zip(column.cells, stars, strict=True)]
    heading = printable(column.title(up, down))
    width = max(len(text) for text in (heading, *cells))
    texts = [heading, "-" * width, *cells]
    return [text.ljust(width) if left else text.rjust(width) for text in texts]


def _text_blocks(table: Table, width: int, up: str, down: str) -> list[str]:
    """The table, broken where it is too wide, below its heading."""
    gap = 2
    blocks = []
    for columns in fit(table, lambda column: len(_text_column(column, up, down, False)[0]) + gap, width + gap):
        rendered = [_text_column(column, up, down, index < len(table.names)) for index, column in enumerate(columns)]
        blocks.append("\n".join((" " * gap).join(line).rstrip() for line in zip(*rendered, strict=True)))
    return [printable(table.heading), *blocks] if table.heading else blocks


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
    tables = make_tables(evaluation, rows, intervals=intervals, differences=differences)
    blocks = [block for table in tables for block in _text_blocks(table, width, up, down)]
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
