"""Photographs on disk: finding them, splitting them, holding them decoded.

The validation split depends on file names alone, so that it is the same on every machine and for every order.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from linearsr.errors import TrainingError

__all__ = ["PHOTO_SUFFIXES", "PhotoSet", "find_photos", "is_validation", "read_photo"]

READ_AHEAD = 16
"""Photographs decoded at a time while a set is read in."""
PHOTO_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif"})


def is_validation(name: str, fraction: float) -> bool:
    """Whether a photograph is held back, by the hash of its file name."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < fraction


def find_photos(folder: Path, fraction: float) -> tuple[list[Path], list[Path]]:
    """All photographs under a folder in sorted order, split into (training, validation).

    Raises:
        TrainingError: the folder does not exist or a split is empty.
    """
    if not folder.is_dir():
        raise TrainingError(f"data folder {str(folder)!r} does not exist", hint="give a folder of photographs")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    training = [path for path in paths if not is_validation(path.name, fraction)]
    validation = [path for path in paths if is_validation(path.name, fraction)]
    if not training or not validation:
        raise TrainingError(
            f"{str(folder)!r} holds {len(training)} training and {len(validation)} validation photographs, "
            "expected at least one of each",
            hint="add photographs (PNG, JPEG, WebP, TIFF), a hundred or more for useful weights",
        )
    return training, validation


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB, EXIF orientation applied.

    Raises:
        TrainingError: the file cannot be decoded.
    """
    try:
        pixels = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        pixels = None
    if pixels is None:
        raise TrainingError(f"{path.name}: cannot be decoded as a picture")
    return np.ascontiguousarray(pixels[:, :, ::-1])


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
        self._paths: list[Path] = []
        self._pixels: list[NDArray[np.uint8] | None] = []
        self._areas: list[int] = []
        budget = cache_gib * 2**30
        with ThreadPoolExecutor(2) as pool:
            # In small portions: the pool would else decode the whole folder ahead, whatever the budget.
            for first in range(0, len(paths), READ_AHEAD):
                portion = paths[first : first + READ_AHEAD]
                for path, pixels in zip(portion, pool.map(_read_or_reason, portion), strict=True):
                    reason = pixels if isinstance(pixels, str) else _too_small(pixels, min_side)
                    if reason is not None or isinstance(pixels, str):
                        self.skipped.append((path.name, str(reason)))
                        continue
                    budget -= pixels.nbytes
                    pixels.setflags(write=False)
                    self._paths.append(path)
                    self._areas.append(pixels.shape[0] * pixels.shape[1])
                    self._pixels.append(pixels if budget >= 0 else None)
        if not self._paths:
            reason = f", for example {self.skipped[0][0]}: {self.skipped[0][1]}" if self.skipped else ""
            raise TrainingError(f"no usable photograph among {len(paths)} files{reason}")

    def __getstate__(self) -> dict[str, Any]:
        """Without the pixels: where loaders are started afresh (macOS, Windows) they read again what they need."""
        return {**self.__dict__, "_pixels": [None] * len(self._paths)}

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """File name of a photograph."""
        return self._paths[index].name

    def area(self, index: int) -> int:
        """Number of pixels of a photograph, without reading it again."""
        return self._areas[index]

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB; read-only where it comes from memory."""
        cached = self._pixels[index]
        return read_photo(self._paths[index]) if cached is None else cached


def _too_small(pixels: NDArray[np.uint8], min_side: int) -> str | None:
    if min(pixels.shape[:2]) >= min_side:
        return None
    return f"{pixels.shape[1]}x{pixels.shape[0]} is smaller than the {min_side}-pixel crop"


def _read_or_reason(path: Path) -> NDArray[np.uint8] | str:
    try:
        return read_photo(path)
    except (TrainingError, OSError) as error:
        return str(error)
