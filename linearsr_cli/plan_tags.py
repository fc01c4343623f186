"""Tables of tags in a plan: which picture has which row, and whether the table that is asked for can be written."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from linearsr.errors import ConfigError
from linearsr_cli.inputs import Source
from linearsr_cli.items import PlanItem
from linearsr_cli.output import Output, clean
from linearsr_cli.plan_checks import file_key, why_not_writable
from linearsr_cli.settings import BUILTIN_MODEL, UpscaleOptions
from linearsr_cli.tags import TagRow, TagTable, check_rows, read_tags

__all__ = ["Matched", "check_save_tags", "match_rows", "plan_tags"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Which rows are of which inputs."""

    rows: Mapping[str, TagRow] = field(default_factory=dict)
    """By `Source.name`."""
    unused: tuple[TagRow, ...] = ()
    """Rows of files that are not among the inputs."""


def match_rows(table: TagTable, sources: Sequence[Source]) -> Matched:
    """Find the row of each input: by path, however it is spelled, or by a file name that only one of both has.

    Raises:
        ConfigError: two rows of one input, or a bare name that several inputs have.
    """
    by_path = {file_key(source.path): source.name for source in sources if source.name != "-"}
    names = {source.name for source in sources}
    found: dict[str, TagRow] = {}
    left: list[TagRow] = []
    for row in table.rows:
        name = row.path if row.path in names else by_path.get(file_key(Path(row.path)))
        if name is None:
            left.append(row)
        else:
            _put(found, name, row, table)
    free: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        if source.name not in found:
            free[source.path.name].append(source.name)
    rows: dict[str, list[TagRow]] = defaultdict(list)
    for row in left:
        rows[Path(row.path).name].append(row)
    for base, same in rows.items():
        candidates = free.get(base, [])
        if len(same) == len(candidates) == 1:
            _put(found, candidates[0], same[0], table)
        elif len(candidates) > 1 and any(row.path == base for row in same):
            row = next(row for row in same if row.path == base)
            problem = f"{len(candidates)} inputs have this name, such as {candidates[0]} and {candidates[1]}"
            raise table.error(row, problem, hint="write the path as the input is given")
    used = set(found.values())
    return Matched(rows=found, unused=tuple(row for row in table.rows if row not in used))


def _put(found: dict[str, TagRow], name: str, row: TagRow, table: TagTable) -> None:
    if name in found:
        raise table.error(row, f"the same picture as row {found[name].row}", hint="drop one of the rows")
    found[name] = row


def plan_tags(table: TagTable, sources: Sequence[Source], options: UpscaleOptions, out: Output) -> Mapping[str, TagRow]:
    """Find the row of each input, by its name; a row of a file that is no input is a warning.

    Raises:
        ConfigError: a row that does not fit the inputs or the built-in model; another model checks its own later.
    """
    if options.model == BUILTIN_MODEL:
        from linearsr.tags.vocabulary import parse_tags

        check_rows(table, parse_tags)
    matched = match_rows(table, sources)
    if matched.unused:
        count = f"{len(matched.unused)} of {len(table.rows)} rows of {clean(table.name)}"
        out.warn(f"{count} are of no input, such as row {matched.unused[0].row} ({clean(matched.unused[0].path)})")
    return matched.rows


def check_save_tags(items: Sequence[PlanItem], sources: Sequence[Source], options: UpscaleOptions) -> dict[str, str]:
    """Refuse a `--save-tags` file that cannot be written or would replace something else, before the work.

    Returns:
        With `--on-exists skip`, the rows that the file holds already, inputs spelled as in this run.

    Raises:
        ConfigError: names the file and what is in the way.
    """
    if options.save_tags is None:
        return {}
    path = Path(options.save_tags)
    taken = [source.path for source in sources if source.error is None]
    taken += [item.output for item in items if item.output is not None]
    taken += [] if options.compare is None else [Path(options.compare)]
    if path.is_dir() or file_key(path) in {file_key(other) for other in taken}:
        what = "is a folder" if path.is_dir() else "is an input or an output too"
        raise ConfigError(f"save-tags is {options.save_tags!r}, which {what}", hint="`--save-tags tags.csv`")
    refusal = why_not_writable(path.absolute().parent)
    if refusal is None and not path.absolute().parent.is_dir():
        raise ConfigError(f"save-tags is {options.save_tags!r}, whose folder does not exist", hint="create it first")
    if refusal is not None or (path.exists() and not os.access(path, os.W_OK)):
        problem = "not writable" if refusal is None else refusal.message
        raise ConfigError(f"save-tags is {options.save_tags!r}: {problem}", hint="use another folder for the table")
    if not path.exists():
        return {}
    if options.on_exists == "error":
        raise ConfigError(f"{path} exists already", hint="use another name, or `--on-exists skip` or `overwrite`")
    spelled = {file_key(source.path): source.name for source in sources if source.name != "-"}
    try:
        rows = {spelled.get(file_key(Path(row.path)), row.path): row.tags for row in read_tags(options.save_tags).rows}
    except ConfigError as error:
        raise ConfigError(
            f"save-tags is {options.save_tags!r}, which exists and is no table of tags: {error}",
            hint="use another name, so that nothing of yours is lost",
        ) from error
    return rows if options.on_exists == "skip" else {}
