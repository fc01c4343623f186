"""Pictures of a report as base64 text of WebP files, as good as a number of bytes allows. NumPy and Pillow only.

Pictures wait on disk without loss, so that one at a time is in memory however many there are and however often they are
encoded before they fit.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["Encoding", "OnPicture", "PictureSpool", "encode_thumbnail", "fit_pictures"]

QUALITIES = (95, 90, 85, 80, 75, 70, 65, 60)
MIN_LONG_SIDE = 320
"""Pictures are not made smaller than this to fit."""
SMALLEST = f"WebP quality {QUALITIES[-1]} and {MIN_LONG_SIDE} pixels on the longer side"
"""The last setting that is tried, in words."""
GOOD_QUALITY = 85
"""Below it what the encoding changes is seen."""
MAX_WEBP_SIDE = 16_383
"""What the format can hold."""
_SHRINK = 0.8
_LOSSLESS_OVER_PNG = 0.6
"""WebP without loss takes 0.65 to 0.75 of the bytes of the quick PNG of the spool; below this it is not tried."""
_THUMBNAIL_HEIGHT = 112


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How the pictures of a report are stored."""

    quality: int | None
    """Of WebP, in [60, 95]; None stores every pixel as it is."""
    long_side: int | None = None
    """Larger pictures are shrunk to this many pixels on the longer side; None leaves all as they are."""

    @property
    def exact(self) -> bool:
        """Whether the stored pixels are those of the pictures."""
        return self.quality is None and self.long_side is None

    @property
    def is_coarse(self) -> bool:
        """Whether the encoding is seen: its quality is below 85, as it is wherever pictures were shrunk to fit."""
        return self.quality is not None and self.quality < GOOD_QUALITY

    def __str__(self) -> str:
        """Short name, such as `WebP 90, long side 1280`."""
        name = "WebP lossless" if self.quality is None else f"WebP {self.quality}"
        return name if self.long_side is None else f"{name}, long side {self.long_side}"


OnPicture = Callable[[Encoding, int, int], None]
"""Takes the setting that is tried, the number of the picture that is to be encoded, from 1, and the count of all."""


class PictureSpool:
    """Pictures written to a folder without loss, in the order given.

    Args:
        folder: an empty one, which the caller removes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0
        self.bytes = 0
        """Of all files."""
        self.long_side = 0
        """Of the largest picture."""

    def add(self, picture: np.ndarray) -> None:
        """Append a picture (H, W, 3) uint8."""
        path = self._path(self.count)
        Image.fromarray(picture).save(path, compress_level=1)
        self.count += 1
        self.bytes += path.stat().st_size
        self.long_side = max(self.long_side, *picture.shape[:2])

    def __iter__(self) -> Iterator[Image.Image]:
        for index in range(self.count):
            with Image.open(self._path(index)) as picture:
                yield picture

    def _path(self, index: int) -> Path:
        return self._folder / f"{index}.png"


def encode_thumbnail(picture: np.ndarray) -> str:
    """Return a small picture of (H, W, 3) uint8 as base64 of WebP, for a list."""
    image = Image.fromarray(picture)
    image.thumbnail((2 * _THUMBNAIL_HEIGHT, _THUMBNAIL_HEIGHT), reducing_gap=2.0)
    return _encode(image, Encoding(quality=75))


def fit_pictures(
    spool: PictureSpool, budget: int, on_picture: OnPicture | None = None
) -> tuple[Encoding, list[str]] | None:
    """Encode all pictures alike, at the best setting whose base64 text takes at most `budget` characters.

    Settings from the best: every pixel as it is; quality 95 down to 60; then at 60 a long side that shrinks by a fifth
    each time, which takes the largest pictures first, down to 320 pixels.

    Args:
        spool: the pictures.
        budget: characters for all of them.
        on_picture: called before each picture is encoded at each setting that is tried.

    Returns:
        The setting and the text of each picture, in the order of the spool; None where the last setting takes more.
    """
    if spool.long_side <= MAX_WEBP_SIDE and spool.bytes * _LOSSLESS_OVER_PNG * 4 / 3 <= budget:
        exact = Encoding(quality=None)
        texts = _encode_all(spool, exact, budget, on_picture)
        if texts is not None:
            return exact, texts
    settings = _settings(spool.long_side)
    fitting = None
    low, high, middle = 0, len(settings) - 1, 0  # most reports fit at the first
    while low <= high:
        texts = _encode_all(spool, settings[middle], budget, on_picture)
        if texts is None:
            low = middle + 1
        else:
            fitting = settings[middle], texts
            high = middle - 1
        middle = (low + high) // 2
    return fitting


def _settings(long_side: int) -> list[Encoding]:
    """With loss, from the best."""
    cap = MAX_WEBP_SIDE if long_side > MAX_WEBP_SIDE else None
    settings = [Encoding(quality=quality, long_side=cap) for quality in QUALITIES]
    side = min(long_side, MAX_WEBP_SIDE)
    while (side := int(side * _SHRINK)) >= MIN_LONG_SIDE:
        settings.append(Encoding(quality=QUALITIES[-1], long_side=side))
    return settings


def _encode_all(spool: PictureSpool, setting: Encoding, budget: int, on_picture: OnPicture | None) -> list[str] | None:
    """Base64 text of each picture, or None as soon as they take more than `budget` characters."""
    texts = []
    for number, picture in enumerate(spool, start=1):
        if on_picture is not None:
            on_picture(setting, number, spool.count)
        texts.append(_encode(picture, setting))
        budget -= len(texts[-1])
        if budget < 0:
            return None
    return texts


def _encode(picture: Image.Image, setting: Encoding) -> str:
    if setting.long_side is not None and max(picture.size) > setting.long_side:
        factor = setting.long_side / max(picture.size)
        width, height = (max(1, round(side * factor)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    stream = BytesIO()
    if setting.quality is None:
        # Without loss, quality and method are effort: these take half the time of the default for one per cent more.
        picture.save(stream, "WEBP", lossless=True, quality=30, method=2)
    else:
        picture.save(stream, "WEBP", quality=setting.quality)
    return base64.b64encode(stream.getvalue()).decode("ascii")
