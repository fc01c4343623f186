"""Pairs of pictures on disk: PNG files of both sizes, and the tables of `pair_table` beside the smaller ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from linearsr.atomic import make_folder
from linearsr.errors import ImageError, ShapeError
from linearsr.image_encode import quantised
from linearsr.image_io import Picture, probe, read, write
from linearsr_train.data.pair_table import PairFolder, PairRow, PairSettings
from linearsr_train.data.pairs import make_lr

__all__ = ["PairFiles", "is_finished", "make_pair", "make_pairs"]

Levels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFiles:
    """One picture and the files to make of it."""

    source: Path
    name: str
    """Place below the folder of low-resolution pictures, with slashes; unique in it."""
    lr: Path
    hr: Path | None = None
    """File for the cropped high-resolution picture; None for none."""


def is_finished(pair: PairFiles, row: PairRow | None) -> bool:
    """Whether a pair is there as the table says: the low-resolution pixels are compared, of the other only the size.

    A row of another source does not count, so that pictures of one name in two folders are never taken for each other.
    """
    if row is None or row.source != str(pair.source):
        return False
    if not pair.lr.is_file() or (pair.hr is not None and not pair.hr.is_file()):
        return False
    try:
        if pair.hr is not None:
            info = probe(pair.hr)
            if (info.width, info.height) != (row.hr_width, row.hr_height):
                return False
        return _is_as_written(pair, row)
    except ImageError:
        return False


def _is_as_written(pair: PairFiles, row: PairRow) -> bool:
    """Whether the low-resolution picture has the pixels that the table tells of.

    Raises:
        ImageError: it cannot be read.
    """
    return _sha256(quantised(read(pair.lr).rgb, 8)) == row.lr_sha256


def make_pair(pair: PairFiles, settings: PairSettings) -> tuple[PairRow, dict[Path, Levels], tuple[str, ...]]:
    """Read and degrade one picture; nothing is written.

    Returns:
        Its row, the files to write with their pixels, (H, W, 3) or (H, W) for gray, and notes in plain words. Gray
        stays gray unless noise or JPEG coloured it.

    Raises:
        ImageError: the picture cannot be read, or is smaller than the scale.
    """
    picture = read(pair.source)
    notes = list(picture.notes)
    if picture.alpha is not None and bool((picture.alpha < 1).any()):
        notes.append("the transparency was dropped")
    if picture.info.bit_depth == 16:
        notes.append("16 bits per channel were rounded to 8")
    high = quantised(picture.rgb, 8).astype(np.float32) / np.float32(255)
    try:
        made = make_lr(high, settings.recipe, scale=settings.scale, name=pair.source.name, seed=settings.seed)
    except ShapeError as error:
        raise ImageError(f"{pair.source}: {error.message}", hint=error.hint) from error
    lr, hr = quantised(made.lr, 8), quantised(made.hr, 8)
    row = PairRow(
        path=str(pair.lr),
        tags=", ".join(made.tags),
        name=pair.name,
        source=str(pair.source),
        width=lr.shape[1],
        height=lr.shape[0],
        hr_width=hr.shape[1],
        hr_height=hr.shape[0],
        lr_sha256=_sha256(lr),
        hr_sha256=_sha256(hr),
        parameters=json.dumps(made.parameters),
    )
    files = {pair.lr: lr} if pair.hr is None else {pair.lr: lr, pair.hr: hr}
    gray = picture.info.is_gray
    return row, {path: _as_gray(levels) if gray else levels for path, levels in files.items()}, tuple(notes)


def _as_gray(levels: Levels) -> Levels:
    """(H, W) if all channels are equal, else what was given."""
    return np.ascontiguousarray(levels[..., 0]) if bool((levels == levels[..., :1]).all()) else levels


def _sha256(levels: Levels) -> str:
    return hashlib.sha256(np.ascontiguousarray(levels).tobytes()).hexdigest()


def _write_files(files: dict[Path, Levels], overwrite: bool) -> None:
    """Write what is not there yet, each file as one step.

    Raises:
        ImageError: a file of that name is something else and must stay, or the disk refuses.
    """
    left = {path: levels for path, levels in files.items() if overwrite or not path.exists()}
    for path in files.keys() - left.keys():
        if not _holds(path, files[path]):
            hint = "use `--on-exists overwrite` to replace it, or another folder"
            raise ImageError(f"{path} exists and is not this picture", hint=hint)
    for path, levels in left.items():
        make_folder(path.parent)
        write(Picture.from_array(levels), path, format="png")


def _holds(path: Path, levels: Levels) -> bool:
    try:
        found = quantised(read(path).rgb, 8)
    except ImageError:
        return False
    wanted = levels[..., None].repeat(3, axis=2) if levels.ndim == 2 else levels
    return bool(np.array_equal(found, wanted))


def make_pairs(
    pairs: Sequence[PairFiles],
    folder: PairFolder,
    *,
    overwrite: bool = False,
    on_start: Callable[[PairFiles], object] = lambda pair: None,
    on_made: Callable[[PairFiles, PairRow, tuple[str, ...]], object] = lambda pair, row, notes: None,
    on_failed: Callable[[PairFiles, Exception], object] | None = None,
    guard: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Make pictures and keep the tables of their folder, also when an error or a signal ends the work.

    Args:
        pairs: what to make.
        folder: tables, which gain rows.
        overwrite: replace files that are there; else one with other pixels is a failure.
        on_start: called before a picture is read.
        on_made: called with each finished picture, its row, and notes in plain words.
        on_failed: called with each picture that failed; without it the first failure ends the work.
        guard: context in which a file is written and reported, as one step.

    Raises:
        LinearSRError, OSError: of a picture, without `on_failed`; or the tables cannot be written.
    """
    if not pairs:
        return
    # A run that is killed must leave no row of a picture that it replaced.
    untouched = {pair.name: folder.rows.pop(pair.name) for pair in pairs if overwrite and pair.name in folder.rows}
    if folder.made_with != folder.settings.deciding():  # then the table would claim the new recipe for them
        untouched.clear()
    if folder.is_there:
        folder.save()
    try:
        for pair in pairs:
            on_start(pair)
            before = (untouched if overwrite else folder.rows).pop(pair.name, None)
            try:
                row, files, notes = make_pair(pair, folder.settings)
                with guard():
                    _write_files(files, overwrite)
                    folder.rows[pair.name] = row
                    on_made(pair, row, notes)
            except BaseException as error:
                _keep_row(folder, pair, before)
                if on_failed is None or isinstance(error, BrokenPipeError) or not isinstance(error, Exception):
                    raise
                on_failed(pair, error)
    finally:
        folder.rows.update(untouched)
        if folder.rows or folder.is_there:
            with guard():
                folder.save()


def _keep_row(folder: PairFolder, pair: PairFiles, row: PairRow | None) -> None:
    """Put back the row of a picture that failed, if it is of the file that is there still and of these settings."""
    if row is None or pair.name in folder.rows or folder.made_with != folder.settings.deciding():
        return
    with suppress(ImageError):
        if _is_as_written(pair, row):
            folder.rows[pair.name] = row
