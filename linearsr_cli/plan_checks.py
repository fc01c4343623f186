"""What would spoil a run, found before it: clashing names, results that exist, folders, disk and memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from linearsr.errors import ConfigError, ImageError, OutOfMemoryError
from linearsr_cli.existing import why_not_done, why_not_ours
from linearsr_cli.inputs import Source
from linearsr_cli.items import Plan, PlanItem
from linearsr_cli.memory import memory_bytes
from linearsr_cli.naming import Place
from linearsr_cli.output import Output, clean
from linearsr_cli.settings import UpscaleOptions

__all__ = [
    "file_key",
    "refuse_clashes",
    "refuse_too_large",
    "size_text",
    "warn_of_full_disk",
    "why_not_there",
    "why_not_writable",
    "with_existing",
    "with_unwritable",
]

LEAST_BYTES_PER_PIXEL = 24
"""Main memory an output pixel takes at the least: the result twice in float32 RGB. Measured: 25 to 56."""


def size_text(count: int) -> str:
    """Bytes for people."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def refuse_too_large(item: PlanItem) -> None:
    """Refuse a result that cannot fit into this machine's memory, which the system would answer by killing the run.

    Raises:
        OutOfMemoryError: names what is needed and what is there.
    """
    total = memory_bytes().get("total")
    need = item.pixels * LEAST_BYTES_PER_PIXEL
    if total is not None and need > total:
        raise OutOfMemoryError(
            f"the result would be {item.width}x{item.height} and need at least {size_text(need)} of memory, "
            f"this machine has {size_text(total)}",
            hint="use a smaller scale, or cut the picture into parts",
        )


def file_key(path: Path) -> str:
    """One name for one file, however it is spelled."""
    return os.path.normcase(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int] | None:
    """What is on the disk under a name, also where the disk ignores case; None if nothing is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def refuse_clashes(items: list[PlanItem], sources: list[Source], options: UpscaleOptions) -> None:
    """Refuse results over inputs, results of one name, and a comparison over either.

    Raises:
        ConfigError: names both files.
    """
    usable = [source for source in sources if source.error is None]
    inputs = {file_key(source.path): source.name for source in usable}
    on_disk = {_identity(source.path): source.name for source in usable}
    outputs: dict[str, str] = {}
    for item in items:
        if item.output is None or item.action == "fail":
            continue
        key, name = file_key(item.output), item.source.name
        identity = _identity(item.output)
        replaced = inputs.get(key, None if identity is None else on_disk.get(identity))
        if replaced is not None:
            raise ConfigError(
                f"the output of {name} would replace the input {replaced}",
                hint="use `-o FOLDER` with another folder, or `--suffix _x4`",
            )
        if key in outputs:
            raise ConfigError(
                f"{outputs[key]} and {name} would both become {item.output}, expected one name each",
                hint="upscale them in separate runs, or give the folder above with `-r` to keep the tree",
            )
        outputs[key] = name
    compare = None if options.compare is None else file_key(Path(options.compare))
    if options.compare is not None and options.on_exists != "overwrite" and Path(options.compare).is_file():
        raise ConfigError(
            f"compare is {options.compare!r}, which exists already",
            hint="use another name, or `--on-exists overwrite`",
        )
    if compare in inputs or compare in outputs:
        raise ConfigError(
            f"compare is {options.compare!r}, which is an input or an output too", hint="use another name"
        )


def with_existing(items: list[PlanItem], options: UpscaleOptions) -> Iterator[PlanItem]:
    """Apply `--on-exists` to results that are there already."""
    for item in items:
        path = item.output
        if item.action == "fail" or path is None or not os.path.lexists(path) or options.on_exists == "overwrite":
            yield item
        elif options.on_exists == "error":
            raise ConfigError(
                f"{path} exists already", hint="use `--on-exists skip` or `overwrite`, or another folder with `-o`"
            )
        else:
            other = why_not_ours(path, item.width, item.height)
            reason = None if other is not None else why_not_done(path)
            if other is not None:
                yield item.failed(
                    ImageError(
                        f"{path} exists and is not this result: {other}",
                        hint="use `--on-exists overwrite` to replace it, or another folder with `-o`",
                    )
                )
            elif reason is None:
                yield replace(item, action="skip")
            else:
                yield replace(item, notes=(*item.notes, f"{path} exists but {reason}: done again"))


def with_unwritable(items: list[PlanItem], place: Place) -> Iterator[PlanItem]:
    """Turn items whose folder cannot be written into failures.

    Raises:
        ConfigError: no result of a place named with `-o` could be written.
    """
    folders = {item.output.parent for item in items if item.action == "upscale" and item.output is not None}
    refused = {folder: error for folder in folders if (error := why_not_writable(folder)) is not None}
    if refused and len(refused) == len(folders) and place.path is not None:
        first = next(iter(refused.values()))
        raise ConfigError(first.message, hint=first.hint)
    for item in items:
        if item.action == "upscale" and item.output is not None and item.output.parent in refused:
            yield item.failed(refused[item.output.parent])
        else:
            yield item


def why_not_writable(folder: Path) -> ImageError | None:
    """Why no file can be made in a folder that may not exist yet."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    hint = "choose another folder with `-o`"
    if not nearest.is_dir():
        return ImageError(f"{nearest} is a file, expected a folder for the output", hint=hint)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return ImageError(f"the output folder {nearest} is not writable", hint=hint)
    if hasattr(os, "statvfs") and os.statvfs(nearest).f_flag & os.ST_RDONLY:
        return ImageError(f"the output folder {nearest} is on a read-only file system", hint=hint)
    return None


def why_not_there(path: Path) -> ConfigError | None:
    """Why a file that was named whole cannot be made: it is a folder, or the folder for it is missing."""
    if path.is_dir():
        return ConfigError(f"{str(path)!r} cannot be written: it is a folder", hint="name a file in it")
    if not path.absolute().parent.is_dir():
        return ConfigError(f"{str(path)!r} cannot be written: its folder is not there", hint="make the folder first")
    return None


def _existing_parent(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    return next((parent for parent in path.absolute().parents if parent.is_dir()), Path(path.absolute().anchor))


def warn_of_full_disk(plan: Plan, out: Output) -> None:
    """Warn when the results will hardly fit on the disk of the first one."""
    first = next((item.output for item in plan.todo if item.output is not None), None)
    if first is None:
        return
    folder = _existing_parent(first)
    free = shutil.disk_usage(folder).free
    if plan.bytes > free:
        out.warn(f"the results need about {size_text(plan.bytes)}, but {clean(folder)} has {size_text(free)} free")
