"""What `linearsr compare` was asked to do, typed and checked before anything heavy is imported."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linearsr.errors import ConfigError
from linearsr_cli.errors import NoInputError
from linearsr_cli.eval_settings import split_label
from linearsr_cli.plan_checks import file_key, why_not_there

if TYPE_CHECKING:
    from linearsr_cli.compare_plan import ComparePlan

__all__ = [
    "ROWS",
    "CompareOptions",
    "check_compare_options",
    "check_output_files",
    "further_sheets",
    "label_inputs",
    "parse_bytes",
    "parse_inputs",
    "parse_zoom",
    "paths_of",
]

ROWS = 4
"""Scenes on a sheet, unless told otherwise."""
SHEETS, PAGES = (".png", ".jpg", ".jpeg", ".webp"), (".html", ".htm")
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Every option of one run, one field a flag; `None` means not given."""

    inputs: tuple[Path, ...]
    """Files, or folders."""
    output: str
    """File name, or `-` for stdout."""
    hr: Path | None = None
    lr: Path | None = None
    pair_by: Literal["name", "order"] = "name"
    recursive: bool = False
    limit: int | None = None
    on_exists: Literal["error", "overwrite"] = "error"

    labels: tuple[str | None, ...] | None = None
    """One for each input; None where the name of the file or folder counts."""
    title: str | None = None
    metrics: str | None = None
    crop_border: int | None = None
    """Pixels; None for the scale where it is known, else none."""
    lpips_weights: Path | None = None
    places: int = 3
    crop: int = 96
    zoom: int | None = None
    """None for what suits the width of a sheet."""
    rows: int | None = None
    max_bytes: int | None = None

    progress: str = "auto"
    json: bool = False
    quiet: bool = False

    @property
    def is_page(self) -> bool:
        """Whether the comparison is an HTML page, not sheets."""
        return Path(self.output).suffix.lower() in PAGES


def parse_inputs(texts: Sequence[str], labels: str | None) -> tuple[tuple[Path, ...], tuple[str | None, ...] | None]:
    """Read `PATH` and `NAME=PATH`, and the labels of `--labels`.

    Args:
        texts: as typed. What exists is a path, whatever signs it holds.
        labels: with commas between, or None.

    Returns:
        Paths, and labels as in `CompareOptions`.

    Raises:
        ConfigError: both ways of labelling at once.
    """
    found: list[tuple[str | None, Path]] = []
    for text in texts:
        name, path = split_label(text)
        found.append((name, Path(path)))
    paths, names = tuple(path for _, path in found), tuple(name for name, _ in found)
    if not any(names):
        return paths, None if labels is None else tuple(label.strip() for label in labels.split(","))
    if labels is not None:
        raise ConfigError("--labels and NAME=PATH are both given, expected one of them", hint="drop `--labels`")
    return paths, names


def parse_zoom(text: str | None) -> int | None:
    """Read `auto` or a whole factor; None for `auto`.

    Raises:
        ConfigError: anything else.
    """
    if text is None or text.strip().lower() == "auto":
        return None
    from linearsr.comparison import MAX_ZOOM

    try:
        zoom = int(text)
    except ValueError:
        zoom = 0
    if not 1 <= zoom <= MAX_ZOOM:
        raise ConfigError(f"zoom is {text!r}, expected auto or a whole number from 1 to {MAX_ZOOM}", hint="`--zoom 3`")
    return zoom


def parse_bytes(text: str) -> int:
    """Read a size of a file: `6MB`, `1.5 GB`, `800kB`; a kB is 1000 bytes.

    Raises:
        ConfigError: anything else, and less than a byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", text.lower())
    unit = None if match is None else _UNITS.get(match[2])
    count = 0 if match is None or unit is None else math.floor(float(match[1]) * unit)
    if count < 1:
        raise ConfigError(f"size is {text!r}, expected a number with kB, MB or GB", hint="`--max-size 6MB`")
    return count


def check_compare_options(options: CompareOptions) -> None:
    """Refuse values out of range and options that exclude one another, before any picture is looked at.

    Raises:
        NoInputError: what is to be compared is not there.
        ConfigError: the first problem found, with the value and the nearest valid command.
    """
    _check_output(options)
    _check_inputs(options)
    for field, low in (("places", 0), ("crop", 8), ("limit", 1), ("rows", 1), ("crop_border", 0)):
        name, value = field.replace("_", "-"), getattr(options, field)
        if value is not None and value < low:
            raise ConfigError(f"{name} is {value}, expected at least {low}", hint=f"`--{name} {low}`, or leave it out")


def _check_output(options: CompareOptions) -> None:
    ending = ".png" if options.output == "-" else Path(options.output).suffix.lower()
    if ending not in (*SHEETS, *PAGES):
        raise ConfigError(
            f"output is {options.output!r}, expected a name ending in {', '.join(SHEETS)} (a sheet) or .html (a page)",
            hint="`-o sheet.png` or `-o report.html`",
        )
    if options.is_page and (options.zoom is not None or options.rows is not None):
        raise ConfigError(
            "--zoom and --rows are of sheets, and the output is a page", hint="drop them, or use `-o sheet.png`"
        )
    if not options.is_page and options.max_bytes is not None:
        raise ConfigError("--max-size is of a page, and the output is a sheet", hint="drop it, or use `-o report.html`")


def _check_inputs(options: CompareOptions) -> None:
    named = [path for path in (*options.inputs, options.hr, options.lr) if path is not None]
    if len(named) < 2:
        raise ConfigError(
            "there is one thing to compare, expected two or more", hint="`linearsr compare A B -o sheet.png`"
        )
    for path in named:
        if not (path.is_file() or path.is_dir()):
            problem = "is no regular file" if path.exists() else "does not exist"
            kind = NoInputError if path in options.inputs else ConfigError
            raise kind(f"{str(path)!r} {problem}, expected a picture or a folder", hint="check the path")
    if len({path.is_dir() for path in named}) > 1:
        files, folders = (str(next(p for p in named if p.is_dir() is kind)) for kind in (False, True))
        raise ConfigError(
            f"{files!r} is a file and {folders!r} a folder, expected all files or all folders",
            hint="name the one picture in each folder, or folders only",
        )
    _refuse_twice(options.inputs)
    if options.labels is not None and len(options.inputs) != len(options.labels):
        raise ConfigError(
            f"{len(options.labels)} labels for {len(options.inputs)} inputs, expected one for each",
            hint="`--labels a,b` in the order of the inputs, or `NAME=PATH`; --hr and --lr have labels of their own",
        )
    label_inputs(options)


def _refuse_twice(paths: Iterable[Path]) -> None:
    """Refuse what would be compared with itself."""
    known: dict[str, Path] = {}
    for path in paths:
        other = known.setdefault(file_key(path), path)
        if other is not path:
            said = (
                f"{str(path)!r} is named twice" if other == path else f"{str(other)!r} and {str(path)!r} are the same"
            )
            raise ConfigError(f"{said}, expected different pictures or folders", hint="name each of them once")


def label_inputs(options: CompareOptions) -> tuple[str, ...]:
    """Label of each input: as given, or the name of the file or folder, with those above where some are equal.

    Raises:
        ConfigError: two are equal, or one is empty.
    """
    given = (None,) * len(options.inputs) if options.labels is None else options.labels
    paths = [Path(os.path.abspath(path)) for path, label in zip(options.inputs, given, strict=True) if label is None]
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths) and depth < max(len(p.parts) for p in paths):
        depth += 1
    names = iter("/".join(path.parts[-depth:]) for path in paths)
    labels = tuple(next(names) if label is None else label for label in given)
    taken = "reference" if options.hr is not None else None
    for label in labels:
        if not label or labels.count(label) > 1 or label == taken:
            raise ConfigError(f"label is {label!r}, expected one of its own for each column", hint="`--labels a,b`")
    return labels


def further_sheets(output: str, page: int, inputs: Collection[str]) -> list[Path]:
    """Sheets of an earlier comparison that are there without a gap from `page` on; what is compared is none of them.

    Args:
        output: name of the first sheet.
        page: number of the first that is looked for, at least 2.
        inputs: real paths of the files compared.
    """
    from linearsr.comparison.sheet import page_path

    found: list[Path] = []
    while (path := page_path(Path(output), page + len(found))).is_file() and os.path.realpath(path) not in inputs:
        found.append(path)
    return found


def check_output_files(plan: ComparePlan, options: CompareOptions) -> None:
    """Refuse to replace an input, or, unless asked to, a file that is there.

    Raises:
        ConfigError: names the file; or more than one sheet would go to stdout, or no page is as small as asked.
    """
    if options.is_page and options.max_bytes is not None:
        from linearsr.comparison.report import check_max_bytes

        check_max_bytes(options.max_bytes)
    rows = ROWS if options.rows is None else options.rows
    pages = 1 if options.is_page else max(1, -(-len(plan.scenes) // rows))
    if options.output == "-":
        if pages > 1:
            raise ConfigError(
                f"{len(plan.scenes)} pictures are {pages} sheets, expected one for stdout",
                hint=f"`--rows {len(plan.scenes)}`, or `--limit {rows}`",
            )
        return
    from linearsr.comparison.sheet import page_path

    inputs = paths_of(plan)
    paths = [page_path(Path(options.output), page) for page in range(1, pages + 1)]
    for path in paths if options.is_page else (*paths, *further_sheets(options.output, pages + 1, inputs)):
        if os.path.realpath(path) in inputs:
            raise ConfigError(f"output is {str(path)!r}, which is an input too", hint="use another name")
        if os.path.lexists(path) and options.on_exists != "overwrite":
            raise ConfigError(
                f"output is {str(path)!r}, which exists already", hint="use another name, or `--on-exists overwrite`"
            )
        refusal = why_not_there(path)
        if refusal is not None:
            raise refusal


def paths_of(plan: ComparePlan) -> frozenset[str]:
    """Real paths of the files compared."""
    return frozenset(os.path.realpath(path) for scene in plan.scenes for path in scene.files.values())
