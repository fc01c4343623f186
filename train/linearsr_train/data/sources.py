"""Photographs on disk: finding them, splitting them, holding them decoded.

The validation split depends on file names alone, so that it is the same on every machine and for every order.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from linearsr.errors import ImageError, TrainingError
from linearsr.image_io import IMAGE_SUFFIXES, read

__all__ = ["PHOTO_SUFFIXES", "PhotoSet", "find_photos", "is_validation", "list_photos", "read_photo"]

READ_AHEAD = 16
"""Photographs decoded at a time while a set is read in."""
PHOTO_SUFFIXES = IMAGE_SUFFIXES
"""Files that are taken for photographs: all that `linearsr upscale` reads."""


def is_validation(name: str, fraction: float) -> bool:
    """Whether a photograph is held back, by the hash of its file name."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def _visible(folder: Path) -> list[Path]:
    """Everything under a folder but what is hidden."""
    if not folder.is_dir():
        raise TrainingError(f"data folder {str(folder)!r} does not exist", hint="give a folder of photographs")
    return [
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def list_photos(folder: Path) -> list[Path]:
    """All photographs under a folder in sorted order.

    Raises:
        TrainingError: the folder does not exist.
    """
    return sorted(path for path in _visible(folder) if path.suffix.lower() in PHOTO_SUFFIXES)


def find_photos(folder: Path, fraction: float) -> tuple[list[Path], list[Path]]:
    """All photographs under a folder in sorted order, split into (training, validation).

    Raises:
        TrainingError: the folder does not exist or a split is empty.
    """
    paths = list_photos(folder)
    training = [path for path in paths if not is_validation(path.name, fraction)]
    validation = [path for path in paths if is_validation(path.name, fraction)]
    if not training or not validation:
        raise TrainingError(
            f"{str(folder)!r} holds {len(training)} training and {len(validation)} validation photographs among "
            f"{sum(path.is_file() for path in _visible(folder))} files, expected at least one of each",
            hint="add photographs (PNG, JPEG, WebP, TIFF), a hundred or more for useful weights",
        )
    return training, validation


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 sRGB, upright, as people see it: through its colour profile, transparency over white.

    Raises:
        TrainingError: the file cannot be read, is no picture, or is damaged or cut short.
    """
    try:
        picture = read(path)
    except ImageError as error:
        raise TrainingError(error.message, hint=error.hint) from error
    rgb = picture.rgb
    if picture.alpha is not None:
        alpha = picture.alpha[..., None]
        rgb = rgb * alpha + (1 - alpha)
    return np.rint(rgb * np.float32(255)).astype(np.uint8)


class PhotoSet:
    """Decoded photographs, kept in memory up to a budget and read again beyond it.

    Pictures smaller than the crop and unreadable files are left out and listed in `skipped`.

    Args:
        paths: files in a fixed order.
        min_side: smallest side a picture must have.
        cache_gib: budget of decoded pixels.

    Raises:
        TrainingError: nothing usable is left.
    """

    def __init__(self, paths: list[Path], min_side: int, cache_gib: float) -> None:
        self.skipped: list[tuple[str, str]] = []
        """(file name, reason) of what was left out."""
        self._paths: list[Path] = []
        self._pixels: list[NDArray[np.uint8] | None] = []
        self._sizes: list[tuple[int, int]] = []
        budget, small = cache_gib * 2**30, 0
        with ThreadPoolExecutor(2) as pool:
            # In small portions: the pool would else decode the whole folder ahead, whatever the budget.
            for first in range(0, len(paths), READ_AHEAD):
                portion = paths[first : first + READ_AHEAD]
                for path, pixels in zip(portion, pool.map(_read_or_reason, portion), strict=True):
                    if isinstance(pixels, str):
                        self.skipped.append((path.name, pixels))
                        continue
                    height, width = pixels.shape[:2]
                    if min(height, width) < min_side:
                        small += 1
                        self.skipped.append((path.name, f"{width}x{height} is smaller than the {min_side}-pixel crop"))
                        continue
                    budget -= pixels.nbytes
                    pixels.setflags(write=False)
                    self._paths.append(path)
                    self._sizes.append((height, width))
                    self._pixels.append(pixels if budget >= 0 else None)
        if not self._paths:
            raise _nothing_usable(self.skipped, small, min_side)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels: where loaders are started afresh (macOS, Windows) they read again what they need."""
        return {**self.__dict__, "_pixels": [None] * len(self._paths)}

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """File name of a photograph."""
        return self._paths[index].name

    def path(self, index: int) -> Path:
        """File of a photograph."""
        return self._paths[index]

    def area(self, index: int) -> int:
        """Number of pixels of a photograph, without reading it again."""
        height, width = self._sizes[index]
        return height * width

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; read-only where it comes from memory.

        Raises:
            TrainingError: the file, read again, is gone, damaged, or not of the size it had.
        """
        cached = self._pixels[index]
        if cached is not None:
            return cached
        pixels = read_photo(self._paths[index])
        if pixels.shape[:2] != self._sizes[index]:
            raise TrainingError(f"{self._paths[index]} was replaced by another picture while training ran")
        return pixels


def _nothing_usable(skipped: list[tuple[str, str]], small: int, min_side: int) -> TrainingError:
    example = f", for example {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
    return TrainingError(
        f"no usable photograph among {len(skipped)} files{example} "
        f"({small} too small for the {min_side}-pixel crop, {len(skipped) - small} unreadable)",
        hint="give larger photographs, or train on smaller crops with `--set data.crop=...`" if small else None,
    )


def _read_or_reason(path: Path) -> NDArray[np.uint8] | str:
    try:
        return read_photo(path)
    except TrainingError as error:
        return str(error).removeprefix(f"{path} ")
