"""The plan of `linearsr degrade`, from headers only: which pairs will be made, and what stands in the way."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linearsr.errors import ConfigError, ImageError, LinearSRError, ShapeError
from linearsr.sizing import check_scale
from linearsr_cli.errors import NoInputError, describe
from linearsr_cli.inputs import Source, expand_inputs
from linearsr_cli.plan_checks import file_key, why_not_writable

if TYPE_CHECKING:
    from linearsr_train.data.pair_files import PairFiles
    from linearsr_train.data.pair_table import PairFolder

__all__ = ["DegradeItem", "DegradeOptions", "DegradePlan", "make_degrade_plan"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradeOptions:
    """Every option of one run, one field a flag."""

    inputs: tuple[str, ...]
    """Files, folders or globs, as typed."""
    output: Path
    """Folder of the low-resolution pictures."""
    hr_out: Path | None = None
    """Folder of the cropped originals."""
    recipe: str = "bicubic"
    scale: float = 4.0
    seed: int = 0
    recursive: bool = False
    on_exists: Literal["skip", "overwrite", "error"] = "skip"
    limit: int | None = None
    """At most this many pictures, in order."""
    dry_run: bool = False
    json: bool = False
    quiet: bool = False

    @property
    def command(self) -> str:
        """The command line that makes the same pictures."""
        words = ["linearsr", "degrade", *self.inputs, "-o", str(self.output)]
        words += [] if self.hr_out is None else ["--hr-out", str(self.hr_out)]
        words += ["--recipe", self.recipe, "--scale", f"{self.scale:g}", "--seed", str(self.seed)]
        words += ["--recursive"] if self.recursive else []
        return shlex.join(words + ([] if self.limit is None else ["--limit", str(self.limit)]))


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradeItem:
    """One input and what is to become of it."""

    source: Source
    action: Literal["make", "skip", "fail"] = "make"
    pair: PairFiles | None = None
    """None for an input that fails before it has a name."""
    size: tuple[int, int] = (0, 0)
    """Width and height of the low-resolution picture."""
    hr_size: tuple[int, int] = (0, 0)
    tags: tuple[str, ...] = ()
    """Of a picture that is there already."""
    error: BaseException | None = None

    @property
    def pixels(self) -> int:
        """Of the original, which is what the work depends on."""
        return self.hr_size[0] * self.hr_size[1]

    def event(
        self, status: str, *, seconds: float = 0.0, tags: tuple[str, ...] = (), notes: tuple[str, ...] = ()
    ) -> dict[str, object]:
        """The JSON line of this picture; sizes are 0 if unknown."""
        line: dict[str, object] = {
            "event": "file",
            "input": self.source.name,
            "output": None if self.pair is None else str(self.pair.lr),
            "hr_output": None if self.pair is None or self.pair.hr is None else str(self.pair.hr),
            "status": status,
            "width": self.size[0],
            "height": self.size[1],
            "hr_width": self.hr_size[0],
            "hr_height": self.hr_size[1],
            "seconds": round(seconds, 3),
            "tags": list(tags) if tags else None,
            "notes": list(notes),
        }
        if self.error is not None:
            line["error"], hint = describe(self.error)
            if hint is not None:
                line["hint"] = hint
        return line


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradePlan:
    """All items in order."""

    items: tuple[DegradeItem, ...]
    folder: PairFolder

    @property
    def todo(self) -> tuple[DegradeItem, ...]:
        """Items to make."""
        return tuple(item for item in self.items if item.action == "make")


def make_degrade_plan(options: DegradeOptions) -> DegradePlan:
    """Look at every input's header and decide what becomes of it.

    Raises:
        NoInputError: nothing matched.
        ConfigError: an option, the recipe, or the run as a whole cannot work.
    """
    _check(options)
    from linearsr_train.data.pair_table import PairFolder, PairSettings
    from linearsr_train.data.pairs import load_recipe

    settings = PairSettings(
        recipe=load_recipe(options.recipe), scale=options.scale, seed=options.seed, command=options.command
    )
    folders = tuple(folder for folder in (options.output, options.hr_out) if folder is not None)
    sources = expand_inputs(list(options.inputs), recursive=options.recursive, stdin_file=None, leave_out=folders)
    if not sources:
        raise NoInputError("no picture among the inputs", hint="system files such as Thumbs.db do not count")
    for folder in folders:
        refusal = why_not_writable(folder)
        if refusal is not None:
            raise ConfigError(refusal.message, hint=refusal.hint)
    items = [_plan_one(source, options) for source in sources[: options.limit]]
    _refuse_clashes(items, sources)
    tables = PairFolder.open(options.output, settings)
    items = list(_with_existing(items, tables, options))
    tables.refuse_mixture(frozenset(item.pair.name for item in items if item.pair and options.on_exists == "overwrite"))
    return DegradePlan(items=tuple(items), folder=tables)


def _check(options: DegradeOptions) -> None:
    for text in options.inputs:
        if text in ("", "-"):
            why = "an unset shell variable is the usual cause" if text == "" else "draws follow from the file name"
            raise ConfigError(f"an input is {text!r}, expected a file, a folder or a glob", hint=why)
    for flag, path in (("output", options.output), ("hr-out", options.hr_out)):
        if path is not None and str(path).startswith("-"):
            raise ConfigError(f"{flag} is {str(path)!r}, expected a folder", hint=f"write `./{path}` for such a name")
    check_scale(options.scale)
    if not 0 <= options.seed < 2**63:
        raise ConfigError(f"seed is {options.seed}, expected 0 to 2^63 - 1", hint="use a small number such as 0")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}, expected at least 1", hint="drop `--limit` to take all pictures")


def _plan_one(source: Source, options: DegradeOptions) -> DegradeItem:
    item = DegradeItem(source=source)
    if source.error is not None:
        return replace(item, action="fail", error=source.error)
    from linearsr.image_io import probe
    from linearsr_train.data.pair_files import PairFiles
    from linearsr_train.data.pairs import pair_sizes

    try:
        info = probe(source.path)
        high, low = pair_sizes(info.height, info.width, options.scale)
    except ShapeError as error:
        return replace(item, action="fail", error=ImageError(error.message, hint=error.hint))
    except LinearSRError as error:
        return replace(item, action="fail", error=error)
    place = source.relative.with_suffix(".png")
    hr = None if options.hr_out is None else options.hr_out / place
    pair = PairFiles(source=source.path, name=place.as_posix(), lr=options.output / place, hr=hr)
    return replace(item, pair=pair, size=low[::-1], hr_size=high[::-1])


def _refuse_clashes(items: list[DegradeItem], sources: list[Source]) -> None:
    """Refuse results over inputs and results of one name.

    Raises:
        ConfigError: names both files.
    """
    inputs = {key: source.name for source in sources if source.error is None for key in _keys(source.path)}
    outputs: dict[object, str] = {}
    for item in items:
        for path in () if item.pair is None else (item.pair.lr, item.pair.hr):
            if path is None:
                continue
            name, keys = item.source.name, _keys(path)
            replaced = next((inputs[key] for key in keys if key in inputs), None)
            if replaced is not None:
                raise ConfigError(
                    f"{path}, made of {name}, would replace the input {replaced}", hint="use another folder"
                )
            other = outputs.setdefault(keys[0], name)
            if other != name:
                raise ConfigError(
                    f"{other} and {name} would both become {path}, expected one name each",
                    hint="use a run and a folder for each, or give the folder above with `-r` to keep the tree",
                )
        if item.pair is not None and item.pair.hr is not None and _keys(item.pair.lr)[0] == _keys(item.pair.hr)[0]:
            raise ConfigError(
                f"hr-out is the output folder too: {item.pair.lr}", hint="use another folder for `--hr-out`"
            )


def _keys(path: Path) -> list[object]:
    """Names of one file: however it is spelled, and what is on the disk, also where that ignores case."""
    try:
        found = os.stat(path)
    except OSError:
        return [file_key(path)]
    return [file_key(path), (found.st_dev, found.st_ino)]


def _with_existing(items: list[DegradeItem], tables: PairFolder, options: DegradeOptions) -> Iterator[DegradeItem]:
    """Apply `--on-exists` to pictures that are there already.

    Raises:
        ConfigError: with `error`, the first file that exists.
    """
    from linearsr_train.data.pair_files import is_finished

    if options.on_exists == "error" and tables.is_there:
        raise ConfigError(
            f"{options.output} holds pictures of `linearsr degrade` already",
            hint="use `--on-exists skip` or `overwrite`, or another folder with `-o`",
        )
    for item in items:
        pair = item.pair
        if pair is None or options.on_exists == "overwrite":
            yield item
            continue
        taken = next((path for path in (pair.lr, pair.hr) if path is not None and os.path.lexists(path)), None)
        if taken is not None and options.on_exists == "error":
            raise ConfigError(
                f"{taken} exists already", hint="use `--on-exists skip` or `overwrite`, or another folder with `-o`"
            )
        row = tables.rows.get(pair.name)
        same = row is not None and (row.width, row.height) == item.size
        if row is not None and same and is_finished(pair, row):
            yield replace(item, action="skip", tags=tuple(row.tags.split(", ")))
        else:
            yield item
