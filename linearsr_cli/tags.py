"""Tags of pictures as a table: a CSV file with the columns path and tags, written by one run and read by another.

Paths stand there as they were given. A file name that is not valid Unicode goes in and out as the bytes it has.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linearsr.errors import ConfigError

__all__ = ["TagRow", "TagTable", "UsedTags", "check_rows", "read_tags", "write_tags"]

COLUMNS = ("path", "tags")


@dataclass(frozen=True, kw_only=True, slots=True)
class TagRow:
    """One line of a table."""

    row: int
    """Counted as a spreadsheet does: the heading is row 1."""
    path: str
    tags: str
    """As written, separated by commas; empty for none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TagTable:
    """A table as read."""

    name: str
    """Of its file, for messages."""
    rows: tuple[TagRow, ...] = ()

    def error(self, row: TagRow, problem: str, hint: str | None) -> ConfigError:
        """An error that names a row."""
        return ConfigError(f"row {row.row} of {self.name} ({row.path}): {problem}", hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsedTags:
    """Tags that a picture was upscaled with."""

    names: tuple[str, ...]
    """Canonical names."""
    origin: Literal["user", "csv", "tagger", "none"]

    @property
    def text(self) -> str:
        """As `--tags` takes them."""
        return ", ".join(self.names)


def read_tags(path: str) -> TagTable:
    """Read a table; columns other than path and tags are left aside.

    Raises:
        ConfigError: no such file, no such columns, a row that is not whole, or a path that is listed twice.
    """
    lines = _read_csv(path)
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    for column in COLUMNS:
        if heading.count(column) != 1:
            found = ", ".join(heading) if any(heading) else "nothing"
            raise ConfigError(
                f"{path} has the columns {found[:200]}, expected {column!r} once",
                hint="its first line must read `path,tags`",
            )
    table = TagTable(name=path)
    rows: dict[str, TagRow] = {}
    for number, cells in enumerate(lines[1:], start=2):
        if not cells:
            continue
        row = TagRow(row=number, path="", tags="")
        if len(cells) != len(heading):
            problem = f"{len(cells)} cells, expected {len(heading)}"
            raise table.error(row, problem, hint="put double quotes around tags that hold a comma")
        row = TagRow(row=number, **{column: cells[heading.index(column)] for column in COLUMNS})
        if not row.path:
            raise table.error(row, "the path is empty, expected a picture", hint="drop the row")
        if row.path in rows:
            raise table.error(row, f"listed in row {rows[row.path].row} already", hint="drop one of the rows")
        rows[row.path] = row
    return TagTable(name=path, rows=tuple(rows.values()))


def _read_csv(path: str) -> list[list[str]]:
    try:
        text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ConfigError(
            f"tags-from is {path!r}, which cannot be read: {error.strerror}", hint="`--save-tags` writes such a file"
        ) from error
    if "\0" in text:
        raise ConfigError(f"{path} is no CSV file: it holds zero bytes", hint="save it as UTF-8 text")
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise ConfigError(f"{path} is no CSV file: {error}", hint="`--save-tags` writes such a file") from error


def check_rows(table: TagTable, check: Callable[[str], object]) -> None:
    """Let the tags of all rows be checked.

    Args:
        table: as read.
        check: raises a ConfigError for tags that the model does not know.

    Raises:
        ConfigError: names the first row that is refused.
    """
    for row in table.rows:
        try:
            check(row.tags)
        except ConfigError as error:
            raise table.error(row, error.message, error.hint) from error


def write_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Write a table, atomically; its rows are in the order of `tags`, which has them by path.

    Raises:
        ImageError: the disk is full or refuses the name.
    """
    from linearsr.atomic import write_bytes

    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # csv itself overlooks a carriage return
    plain.writerow(COLUMNS)
    for name, value in tags.items():
        (quoted if "\r" in name + value else plain).writerow((name, value))
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))
