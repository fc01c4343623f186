"""The photographs of a finetuning, split in three.

Some are trained on, a few are watched to choose the step that is kept, and the held-back ones are seen by nothing but
the comparison at the end: a choice made on the pictures that judge it would make every run look well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linearsr.errors import ImageError, TrainingError
from linearsr.image_io import probe
from linearsr_train.compare import LEAST_SIDE
from linearsr_train.config import TrainConfig
from linearsr_train.data.sources import PHOTO_SUFFIXES

__all__ = ["PhotoSplit", "by_name_hash", "split_photos"]

HELD_BACK, HELD_BACK_LEAST, WATCHED_FROM = 0.2, 5, 5
"""Share that is held back; how many if a third of the photographs is that many; fewest of which some are watched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoSplit:
    """Which photographs do what; all of different content."""

    training: tuple[Path, ...]
    watched: tuple[Path, ...]
    """Choose the step that is kept. In a folder of very few these are the ones trained on."""
    held_back: tuple[Path, ...]
    """For the comparison alone."""
    notes: tuple[str, ...]
    """What was left out, and why."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _photos_in(folder: Path, least_side: int, notes: list[str]) -> dict[str, Path]:
    """Usable photographs of a folder and its subfolders by the hash of their bytes, in sorted order.

    Raises:
        TrainingError: no such folder, or nothing usable in it.
    """
    if not folder.is_dir():
        raise TrainingError(f"data folder {str(folder)!r} does not exist", hint="give a folder of photographs")
    found: dict[str, Path] = {}
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PHOTO_SUFFIXES]
    for path in (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)):
        try:
            info, digest = probe(path), _digest(path)
        except (ImageError, OSError) as error:
            notes.append(f"left out {path.name}: {error}")
            continue
        if min(info.width, info.height) < least_side:
            notes.append(f"left out {path.name}: {info.width}x{info.height} is smaller than {least_side} pixels a side")
        elif digest in found:
            notes.append(f"left out {path.name}: the same file as {found[digest].name}")
        else:
            found[digest] = path
    if not found:
        raise TrainingError(
            f"{str(folder)!r} holds no usable photograph among {len(paths)} picture files",
            hint=f"give photographs of at least {least_side} pixels a side",
        )
    return found


def by_name_hash(paths: Sequence[Path]) -> list[Path]:
    """An order that depends on the names alone and on nothing that they mean."""
    return sorted(paths, key=lambda path: (hashlib.sha256(path.name.encode("utf-8")).digest(), str(path)))


def split_photos(data: Path, val_data: Path | None, config: TrainConfig) -> PhotoSplit:
    """Divide photographs into trained, watched and held back, the first ones by the hash of their names held back.

    Args:
        data: folder to learn from.
        val_data: folder of the held-back photographs; None takes them from `data`: a fifth, but five where there are
            at least fifteen, and always one.
        config: says the smallest side and, as `data.validation_fraction`, the share of the others that is watched.

    Raises:
        TrainingError: fewer than two photographs, or one of `val_data` is in `data` as well.
    """
    notes: list[str] = []
    found = _photos_in(data, max(config.data.crop, config.loop.validation_crop, LEAST_SIDE), notes)
    ranked = by_name_hash(list(found.values()))
    if len(ranked) < 2:
        raise TrainingError(
            f"{str(data)!r} holds 1 usable photograph, expected at least 2",
            hint="give more photographs of the same kind, twenty or more for a gain that can be measured",
        )
    if val_data is None:
        count = max(1, round(HELD_BACK * len(ranked)), min(HELD_BACK_LEAST, len(ranked) // 3))
        held_back, ranked = ranked[:count], ranked[count:]
    else:
        others = _photos_in(val_data, LEAST_SIDE, notes)
        if both := [f"{path.name} is {found[digest].name}" for digest, path in others.items() if digest in found]:
            raise TrainingError(
                f"{len(both)} of the held-back photographs are among those to train on: {', '.join(both[:4])}",
                hint="take them out of one of the folders; on a picture it was trained on a model proves nothing",
            )
        held_back = sorted(others.values())
    watched = ranked[: max(1, round(config.data.validation_fraction * len(ranked)))]
    training = ranked[len(watched) :] if len(ranked) >= WATCHED_FROM else ranked
    parts = (tuple(sorted(part)) for part in (training, watched, held_back))
    return PhotoSplit(**dict(zip(("training", "watched", "held_back"), parts, strict=True)), notes=tuple(notes))
