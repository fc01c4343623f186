"""Whole numbers to the bytes of a file, without metadata except in TIFF.

16-bit PNG and PPM, and all TIFFs, are written here: no library at hand writes gray with alpha at 16 bits, or a 16-bit
TIFF with EXIF. The rest goes through Pillow. Arrays are as in `image_codecs`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from linearsr.errors import ImageError

__all__ = ["encode_pillow", "encode_png16", "encode_ppm", "encode_tiff", "png_chunk"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TIFF_LIMIT = 2**32 - 2**20
"""Classic TIFF counts bytes in 32 bits; the last megabyte is left for tags and metadata."""


def encode_pillow(pixels: np.ndarray, format: str, **options: Any) -> bytes:  # noqa: ANN401, A002
    """Encode 8-bit pixels by Pillow; `options` go to its writer of that format.

    Raises:
        ImageError: the encoder refuses them.
    """
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    flat = pixels[..., 0] if mode == "L" else pixels
    buffer = BytesIO()
    size = (pixels.shape[1], pixels.shape[0])
    image = Image.frombuffer(mode, size, np.ascontiguousarray(flat).tobytes(), "raw", mode, 0, 1)
    try:
        image.save(buffer, format, **options)
    except (OSError, ValueError, RuntimeError, SystemError) as error:
        raise ImageError(
            f"the {size[0]}x{size[1]} picture was refused by the {format} encoder: {error}",
            hint="use `-f png`",
        ) from error
    return buffer.getvalue()


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """Build one PNG chunk with length and checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _filtered(rows: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """PNG filters Sub, Up and Paeth on byte rows, the one with the smallest sum per row.

    Args:
        rows: (n, bytes) uint8.
        above: (n, bytes) uint8, the row before each.
        step: bytes per pixel.

    Returns:
        (n, 1 + bytes) uint8 with the filter number in front.
    """
    left = np.zeros_like(rows)
    left[:, step:] = rows[:, :-step]
    corner = np.zeros_like(rows)
    corner[:, step:] = above[:, :-step]
    a, b, c = left.astype(np.int16), above.astype(np.int16), corner.astype(np.int16)
    to_left, to_above, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    near_left = (to_left <= to_above) & (to_left <= to_corner)
    paeth = np.where(near_left, left, np.where(to_above <= to_corner, above, corner))
    candidates = np.stack([rows - left, rows - above, rows - paeth])
    cost = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)
    best = cost.argmin(axis=0)
    out = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=np.uint8)
    out[:, 0] = np.array([1, 2, 4], dtype=np.uint8)[best]
    out[:, 1:] = candidates[best, np.arange(rows.shape[0])]
    return out


def _strips(pixels: np.ndarray, target_bytes: int = 2**19) -> Iterator[np.ndarray]:
    rows = max(1, target_bytes // max(1, pixels[:1].nbytes))
    for top in range(0, pixels.shape[0], rows):
        yield pixels[top : top + rows]


def encode_png16(pixels: np.ndarray, level: int) -> bytes:
    """Encode (H, W, 1..4) uint16 as PNG without any metadata; `level` is zlib's, 0 to 9."""
    height, width, channels = pixels.shape
    parts = [
        PNG_SIGNATURE,
        png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)),
    ]
    packer = zlib.compressobj(level)
    last = np.zeros((1, width * channels * 2), dtype=np.uint8)
    for strip in _strips(pixels):
        rows = strip.astype(">u2").view(np.uint8).reshape(strip.shape[0], -1)
        packed = packer.compress(_filtered(rows, np.concatenate([last, rows[:-1]]), 2 * channels).tobytes())
        if packed:
            parts.append(png_chunk(b"IDAT", packed))
        last = rows[-1:]
    parts.append(png_chunk(b"IDAT", packer.flush()))
    parts.append(png_chunk(b"IEND", b""))
    return b"".join(parts)


def encode_ppm(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 1 or 3) as P5 or P6, 8 or 16 bits."""
    height, width, channels = pixels.shape
    top = 255 if pixels.dtype == np.uint8 else 65535
    body = pixels if top == 255 else pixels.astype(">u2")
    return b"%s\n%d %d\n%d\n" % (b"P5" if channels == 1 else b"P6", width, height, top) + body.tobytes()


def encode_tiff(pixels: np.ndarray, level: int, tags: dict[int, tuple[int | None, Any]]) -> bytes:
    """Encode (H, W, 1..4), 8 or 16 bits, as a TIFF of deflated strips with horizontal prediction.

    Args:
        pixels: (H, W, C) uint8 or uint16.
        level: zlib level, 0 to 9.
        tags: tag -> (TIFF type or None for Pillow's table, value) beside the structural ones; a dict is a
            sub-directory.

    Raises:
        ImageError: the file would pass 4 GB.
        Exception: whatever Pillow's tag writer raises on a value it cannot write.
    """
    height, width, channels = pixels.shape
    strips: list[bytes] = []
    offsets, at, rows_per_strip = [], 0, 0
    for strip in _strips(pixels):
        rows_per_strip = max(rows_per_strip, strip.shape[0])
        delta = strip.astype(strip.dtype.newbyteorder("<"))
        delta[:, 1:] = strip[:, 1:] - strip[:, :-1]
        strips.append(zlib.compress(delta.tobytes(), level))
        offsets.append(at)
        at += len(strips[-1])
        if at > _TIFF_LIMIT:
            raise ImageError(f"the {width}x{height} TIFF passes 4 GB, more than the format holds", hint="use `-f png`")
    structure: dict[int, tuple[int | None, Any]] = {
        256: (None, width),
        257: (None, height),
        258: (3, (8 * pixels.dtype.itemsize,) * channels),
        259: (3, 8),
        262: (3, 1 if channels < 3 else 2),
        273: (4, tuple(offsets)),
        277: (3, channels),
        278: (None, rows_per_strip),
        279: (4, tuple(map(len, strips))),
        284: (3, 1),
        317: (3, 2),
    }
    if channels in (2, 4):
        structure[338] = (3, 2)
    head = b"II*\0" + struct.pack("<I", 8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(head)
    for tag, (kind, value) in (tags | structure).items():
        if kind is not None:
            directory.tagtype[tag] = kind
        directory[tag] = value
    # Pillow's writer counts strip offsets from the end of the tags and makes them absolute.
    return b"".join([head, directory.tobytes(8), *strips])
