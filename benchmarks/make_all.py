"""Make every table and figure of README and docs from the newest result files.

Example:
    python benchmarks/make_all.py

A table stands between `<!-- table:NAME -->` and `<!-- end -->`; everything else on a page is left as it is, but that
links to result files follow to the newest of their name. Figures are docs/images/*.png. `--check` changes nothing and
fails where a page or a figure is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from _common import REPOSITORY, RESULTS, fail
from _figures import FIGURES, numbers_in
from _results import newest_result, read_newest
from _tables_experiments import EXPERIMENT_TABLES
from _tables_pages import PAGE_TABLES

from linearsr.errors import ConfigError, LinearSRError

IMAGES = REPOSITORY / "docs" / "images"
NOT_MEASURED = "Not measured yet."
BLOCK = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)
LINK = re.compile(r"(benchmarks/results/)\d{4}-\d\d-\d\d-([\w-]+)(?=\.json)")
TABLES: Mapping[str, tuple[tuple[str, ...], Callable[..., str]]] = {**EXPERIMENT_TABLES, **PAGE_TABLES}
"""Name of a table -> names of its result files, and what makes the table of them."""


def pages() -> list[Path]:
    """README and every page of docs."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def fill(page: str, folder: Path = RESULTS) -> str:
    """A page with its tables made anew and its links to results brought up to date; unknown tables are left alone.

    Raises:
        ConfigError: a table is open at the end of the page.
    """
    if page.count("<!-- table:") != len(BLOCK.findall(page)):
        raise ConfigError("a page has a `<!-- table:NAME -->` without `<!-- end -->`", hint="close it")

    def block(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            return match[0]
        names, make = TABLES[match[2]]
        results = read_newest(names, folder)
        text = NOT_MEASURED if results is None else make(*results)
        return f"{match[1]}\n{text}\n\n{match[3]}"

    def link(match: re.Match[str]) -> str:
        newest = newest_result(match[2], folder)
        return match[0] if newest is None else f"{match[1]}{newest.stem}"

    return LINK.sub(link, BLOCK.sub(block, page))


def stale_figures(folder: Path = RESULTS, images: Path = IMAGES, *, draw: bool) -> list[str]:
    """Figures whose numbers are not those of the newest results, drawn anew if asked; without results none is stale."""
    stale = []
    for name, figure in FIGURES.items():
        results = read_newest([figure.source], folder)
        if results is None:
            continue
        numbers, path = figure.numbers(*results), images / name
        if not path.is_file() or numbers_in(path) != numbers:
            stale.append(name)
            if draw:
                figure.draw(numbers, path)
    return stale


def stale_pages(*, write: bool) -> list[str]:
    """Pages whose tables are not those of the newest results, written anew if asked."""
    stale = []
    for path in pages():
        before = path.read_text(encoding="utf-8")
        after = fill(before)
        if after != before:
            stale.append(path.relative_to(REPOSITORY).as_posix())
            if write:
                path.write_text(after, encoding="utf-8")
    return stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Write pages and figures, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page or figure is stale")
    options = parser.parse_args(arguments)
    try:
        stale = [*stale_pages(write=not options.check), *stale_figures(draw=not options.check)]
    except LinearSRError as error:
        fail(error)
    done = "stale" if options.check else "wrote"
    print("\n".join(f"{done}: {name}" for name in stale) or "all tables and figures are up to date")
    if options.check and stale:
        print("hint: python benchmarks/make_all.py", file=sys.stderr)
    return int(bool(options.check and stale))


if __name__ == "__main__":
    raise SystemExit(main())
