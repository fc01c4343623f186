"""Picture files: look at one (`probe`), read it into floats (`read`), write it back whole (`write`).

This module holds the way through and `Picture`; `image_headers` knows the kinds of files, `image_codecs` their pixels,
`image_profiles` their colours, `image_metadata` the rest, `image_encode` the way back, `atomic` the disk. Pixels are
RGB, sRGB encoded, in [0, 1].
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from linearsr.atomic import write_bytes
from linearsr.errors import ImageError, ShapeError
from linearsr.image_codecs import decode
from linearsr.image_encode import check_writable, choose_format, encode, extension, quantised
from linearsr.image_headers import MAX_PIXELS, ImageInfo, inspect
from linearsr.image_kinds import FORMAT_BY_SUFFIX, IMAGE_SUFFIXES, RAW_SUFFIXES, damage_as_error, refuse_by_name
from linearsr.image_metadata import Metadata, read_metadata
from linearsr.image_profiles import profile_space, to_srgb

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "RAW_SUFFIXES",
    "ImageInfo",
    "Metadata",
    "Picture",
    "check_writable",
    "choose_format",
    "encode_picture",
    "extension",
    "format_of",
    "probe",
    "read",
    "write",
]

_BLOCK_ROWS = 256


@dataclass(kw_only=True, slots=True)
class Picture:
    """A decoded picture. `dataclasses.replace(picture, rgb=..., alpha=...)` makes a larger one that writes alike."""

    rgb: np.ndarray
    """(H, W, 3) float32 in [0, 1], sRGB encoded, upright; gray has three equal channels."""
    alpha: np.ndarray | None = None
    """(H, W) float32, 0 = hidden, straight; None if the file has none."""
    info: ImageInfo
    """Headers of the file it came from; its size is the input's, also beside an enlarged `rgb`."""
    metadata: Metadata = field(default_factory=Metadata)
    notes: list[str] = field(default_factory=list)
    """What reading could not keep, in plain words."""

    def digest(self) -> str:
        """Return the SHA-256 hex digest of size and 16-bit pixels; independent of file name, format and metadata."""
        height, width = self.rgb.shape[:2]
        sha = hashlib.sha256(f"{width}x{height}".encode())
        for top in range(0, height, _BLOCK_ROWS):
            rows = slice(top, top + _BLOCK_ROWS)
            sha.update(quantised(self.rgb[rows], 16).astype("<u2").tobytes())
            if self.alpha is not None:
                sha.update(quantised(self.alpha[rows], 16).astype("<u2").tobytes())
        return sha.hexdigest()

    @classmethod
    def from_array(cls, rgb: np.ndarray, alpha: np.ndarray | None = None) -> Picture:
        """Make a picture from arrays that came from no file; it writes as PNG unless told otherwise.

        Args:
            rgb: (H, W, 3), or (H, W) for gray; float in [0, 1], uint8 or uint16; sRGB encoded.
            alpha: (H, W) of the same kinds, or None.

        Raises:
            ShapeError: another shape or type.
        """
        gray = rgb.ndim == 2
        color = _unit(np.repeat(rgb[..., None], 3, axis=2) if gray else rgb)
        if color.ndim != 3 or color.shape[2] != 3 or 0 in color.shape:
            raise ShapeError(f"array is {rgb.shape}, expected (H, W, 3) or (H, W)", hint="channels last, in RGB order")
        if alpha is not None and alpha.shape != color.shape[:2]:
            raise ShapeError(f"alpha is {alpha.shape}, expected {color.shape[:2]}")
        deep = rgb.dtype == np.uint16
        mode = ("L" if gray else "RGB") + ("A" if alpha is not None else "")
        info = ImageInfo(
            path=None,
            format="PNG",
            width=color.shape[1],
            height=color.shape[0],
            mode=("I;16" if mode == "L" else f"{mode};16") if deep else mode,
            bit_depth=16 if deep else 8,
            has_alpha=alpha is not None,
            is_gray=gray,
        )
        return cls(rgb=color, alpha=_unit(alpha) if alpha is not None else None, info=info)


def _unit(values: np.ndarray) -> np.ndarray:
    """Whole numbers or floats to float32 in [0, 1]."""
    if values.dtype in (np.uint8, np.uint16):
        out = values.astype(np.float32)
        out /= np.float32(np.iinfo(values.dtype).max)
        return out
    if not np.issubdtype(values.dtype, np.floating):
        raise ShapeError(f"array holds {values.dtype}, expected float, uint8 or uint16")
    return values.astype(np.float32)


def _unreadable(name: str, error: OSError) -> ImageError:
    reason = error.strerror if error.strerror is not None else str(error)
    return ImageError(f"{name} cannot be read: {reason}", hint="check the permissions and the disk")


def format_of(path: Path) -> str | None:
    """Name the format that a path's suffix stands for, None if it stands for none."""
    return FORMAT_BY_SUFFIX.get(path.suffix.lower())


def probe(path: Path) -> ImageInfo:
    """Say what a picture file is, from its headers.

    Raises:
        ImageError: it cannot be used; the message names the file and what is wrong, the hint what to do.
    """
    refuse_by_name(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _unreadable(str(path), error) from error
    with stream:
        return inspect(stream, str(path), path)[1]


def _load(source: Path | BinaryIO) -> tuple[bytes, Path | None, str]:
    """Whole file, its path and its name for messages."""
    if isinstance(source, Path):
        refuse_by_name(source)
        try:
            return source.read_bytes(), source, str(source)
        except OSError as error:
            raise _unreadable(str(source), error) from error
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "the input stream"
    try:
        return source.read(), None, name
    except OSError as error:
        raise _unreadable(name, error) from error


def read(source: Path | BinaryIO) -> Picture:
    """Decode a picture file.

    Args:
        source: a path, or a binary stream that is read to its end.

    Returns:
        The picture in sRGB, upright. Its `notes` say what could not be kept.

    Raises:
        ImageError: as `probe`, and for a file that is cut short or damaged: a part of a picture is never returned.
    """
    data, path, name = _load(source)
    image, info, orientation = inspect(BytesIO(data), name, path)
    with damage_as_error(name):
        if info.format == "TIFF":
            image.getexif()  # needs the stream, which decoding may close
        pixels, notes = decode(image, data, info, orientation, name)
    metadata, more = read_metadata(image)
    notes = [*info.notes, *notes, *more]
    if metadata.icc is not None and profile_space(metadata.icc) == "CMYK":
        metadata = replace(metadata, icc=None)  # used by `decode`; the output is RGB
    color, applied, more = to_srgb(pixels[..., : 1 if info.is_gray else 3], metadata.icc)
    rgb = _unit(color)
    return Picture(
        rgb=np.repeat(rgb, 3, axis=2) if info.is_gray else rgb,
        alpha=_unit(pixels[..., -1]) if info.has_alpha else None,
        info=info,
        metadata=replace(metadata, icc_applied=applied),
        notes=notes + more,
    )


def encode_picture(
    picture: Picture,
    *,
    format: str = "auto",  # noqa: A002
    quality: int = 95,
    lossless: bool = False,
    bit_depth: str = "auto",
    metadata: str = "keep",
    png_level: int = 6,
) -> tuple[bytes, list[str]]:
    """Encode a picture as the bytes of a file, for a stream or a socket; options and errors as `write`."""
    return encode(
        picture.rgb,
        picture.alpha,
        picture.info,
        picture.metadata,
        format=format,
        quality=quality,
        lossless=lossless,
        bit_depth=bit_depth,
        metadata=metadata,
        png_level=png_level,
    )


def write(
    picture: Picture,
    path: Path,
    *,
    format: str = "auto",  # noqa: A002
    quality: int = 95,
    lossless: bool = False,
    bit_depth: str = "auto",
    metadata: str = "keep",
    png_level: int = 6,
) -> list[str]:
    """Write a picture as one step: on any failure nothing is left behind and an existing file is untouched.

    Args:
        picture: the result; its `info` and `metadata` are the input's.
        path: of the output; its folder must exist.
        format: a name or suffix; "auto" takes what the suffix of `path` says, else the input's format if it can hold
            alpha and depth, else PNG.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIF.
        lossless: refuse to lose anything; acts on WebP, is always so for PNG, TIFF, BMP and PPM.
        bit_depth: "auto" (as the input, if the format can), "8" or "16".
        metadata: "keep", or "strip" for nothing but the colour profile.
        png_level: zlib level of PNG and TIFF, 0 to 9.

    Returns:
        Notes on what could not be kept; those of reading are in `picture.notes`.

    Raises:
        ImageError: the format cannot hold the picture, a value is not a number, or the disk refuses.
        ConfigError: an option is out of range.
    """
    named = format_of(path)
    if format.lower() == "auto" and named is not None:
        format = named  # noqa: A001  GIF is refused there: it holds 256 colours
    data, notes = encode_picture(
        picture,
        format=format,
        quality=quality,
        lossless=lossless,
        bit_depth=bit_depth,
        metadata=metadata,
        png_level=png_level,
    )
    write_bytes(path, data)
    return notes
