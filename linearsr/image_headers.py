"""What the headers of a picture file say, without decoding it: `ImageInfo`, the pixel limit and orientation.

Pillow's plugins are called one by one, by the kind that the first bytes show: a wrong name cannot pick a decoder, and
Pillow's own pixel limit, a module global that other code in the process may rely on, stays as it is.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from linearsr.errors import ImageError
from linearsr.image_kinds import (
    IMAGE_SUFFIXES,
    RAW_SUFFIXES,
    damage_as_error,
    load_heif_plugin,
    raw_error,
    sniff,
)

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "RAW_SUFFIXES", "ImageInfo", "inspect", "orientation_of", "pnm_header"]

MAX_PIXELS = 300_000_000
"""Larger inputs are refused from the header: in float32 RGB this many pixels already take 3.6 GB."""

_PLUGINS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "BMP": "BmpImagePlugin",
    "PPM": "PpmImagePlugin",
    "GIF": "GifImagePlugin",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInfo:
    """What the headers say; no pixels were decoded."""

    path: Path | None
    format: str
    """PNG, JPEG, WEBP, TIFF, AVIF, BMP, PPM, HEIF or GIF."""
    width: int
    """Pixels, after the EXIF orientation was applied."""
    height: int
    mode: str
    """Pillow's mode of the file (1, L, LA, P, RGB, RGBA, CMYK, ...), or I;16, LA;16, RGB;16, RGBA;16."""
    bit_depth: int
    """Bits per channel kept on reading: 1, 8 or 16."""
    has_alpha: bool
    is_gray: bool
    notes: tuple[str, ...] = ()
    """What reading this file cannot keep, in plain words."""


def pnm_header(data: bytes) -> tuple[bytes, int, int, int, int]:
    """Read a P1 to P6 header.

    Returns:
        kind (b"P6"), width, height, largest value (1 for bitmaps), and the offset of the pixels.

    Raises:
        ValueError: not a header.
    """
    kind = data[:2]
    fields: list[int] = []
    at = 2
    for match in re.finditer(rb"(?:\s|#[^\r\n]*[\r\n])+([0-9]+)", data[:4096]):
        if match.start() != at:
            break
        at = match.end()
        fields.append(int(match[1]))
        if len(fields) == (2 if kind in (b"P1", b"P4") else 3):
            width, height, maximum = (*fields, 1)[:3]
            return kind, width, height, maximum, at + 1
    raise ValueError("the PPM header is incomplete")


def _png_chunk(stream: BinaryIO, wanted: bytes) -> bytes | None:
    """Find a PNG chunk by hopping over the others; Pillow would decode the picture to reach one after the pixels."""
    stream.seek(8)
    while len(header := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == wanted:
            return stream.read(length)
        if kind == b"IEND":
            return None
        stream.seek(length + 4, 1)
    return None


def orientation_of(image: Image.Image, stream: BinaryIO) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when there is none or it makes no sense; the stream stays in place."""
    try:
        if image.format == "PNG":
            position = stream.tell()
            chunk = _png_chunk(stream, b"eXIf")
            stream.seek(position)
            raw = "".join(str(image.info.get("Raw profile type exif", "")).split("\n")[3:])
            exif = Image.Exif()
            exif.load(chunk if chunk is not None else bytes.fromhex(raw))
        else:
            exif = image.getexif()
        value = exif.get(0x0112, 1)
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, struct.error):
        return 1  # damaged EXIF is a note of the metadata reader, never an error
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _source_mode(image: Image.Image, kind: str, head: bytes, name: str) -> tuple[str, int]:
    """Mode and bits per channel of the file, where Pillow's mode hides 16 bits."""
    mode = image.mode
    deep = False
    if kind == "PNG":
        deep = head[24] == 16
        mode = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}[head[25]] if deep else mode
    elif kind == "PPM":
        deep = pnm_header(head)[3] > 255
        mode = "L" if mode == "I" else mode
    elif kind == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]
        if mode in ("I", "F") or max(bits) > 16:
            raise ImageError(
                f"{name} has {max(bits)} bits per channel, expected at most 16",
                hint="save it as a 16-bit PNG or TIFF first",
            )
        deep = max(bits) > 8 and mode in ("I;16", "I;16B", "RGB", "RGBA")
        mode = "L" if mode.startswith("I;16") else mode
    if deep:
        return ("I;16" if mode == "L" else f"{mode};16"), 16
    return mode, 1 if mode == "1" else 8


def _frame_notes(image: Any, kind: str, name: str) -> list[str]:  # noqa: ANN401
    """Refuse moving pictures; say which page of a still file is used."""
    frames = int(getattr(image, "n_frames", 1))
    if frames <= 1:
        return []
    if kind in ("GIF", "PNG", "WEBP", "AVIF"):
        raise ImageError(
            f"{name} holds {frames} frames (an animation), expected a single picture",
            hint="extract the frames first, for example with `ffmpeg -i FILE frame-%05d.png`",
        )
    if kind == "TIFF":
        return [f"the file holds {frames} pages: only the first is used"]
    return [f"the file holds {frames} pictures (as phones write them): only the first is used"]


def _xmp_of(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp", b""))
    return xmp.encode() if isinstance(xmp, str) else bytes(xmp)


def _extras_notes(image: Any, kind: str) -> list[str]:  # noqa: ANN401
    """Name what phones hide beside the picture: a gain map or a short video."""
    packets = [_xmp_of(image)]
    iso = any(content.startswith(b"urn:iso:std:iso:ts:21496") for _, content in getattr(image, "applist", ()))
    if image.format == "MPO":
        try:
            image.seek(1)
            packets.append(_xmp_of(image))
        except (OSError, ValueError, SyntaxError, EOFError, LookupError):
            pass  # a broken second picture does not matter for the first
        image.seek(0)
    notes = []
    if iso or any(b"hdrgm:" in packet or b"HDRGainMap" in packet for packet in packets):
        notes.append("the HDR gain map (Ultra HDR) cannot be kept: the result is the standard-range picture")
    if re.search(rb"(MotionPhoto|MicroVideo)(=|>)[\"']?1", packets[0]):
        notes.append("the short video of this motion photo cannot be kept")
    if kind == "AVIF" or kind == "HEIF":
        bits = int(image.info.get("bit_depth", 8))
        if bits > 8:
            notes.append(f"the {bits}-bit {kind} picture is read with 8 bits")
    return notes


def _avif_bits(head: bytes) -> int:
    """Bits per channel of the first `pixi` box, 8 when there is none in the first bytes."""
    at = head.find(b"pixi")
    return head[at + 9] if 0 <= at < len(head) - 9 else 8


def _is_dng(image: Any, kind: str) -> bool:  # noqa: ANN401
    return kind == "TIFF" and 50706 in image.tag_v2


def inspect(stream: BinaryIO, name: str, path: Path | None) -> tuple[Image.Image, ImageInfo, int]:
    """Open a picture without decoding it.

    Args:
        stream: seekable; must stay open as long as the returned image is used.
        name: for messages.
        path: for `ImageInfo.path`.

    Returns:
        Pillow's image, not loaded; what its headers say; its EXIF orientation, 1 to 8.

    Raises:
        ImageError: not a picture of a known kind, damaged, animated, or too many pixels.
    """
    head = stream.read(1024)
    kind = sniff(head, name)
    stream.seek(0)
    if kind == "HEIF":
        load_heif_plugin(name)
    else:
        import_module(f"PIL.{_PLUGINS[kind]}")
    with damage_as_error(name):
        image: Any = Image.OPEN[kind][0](stream, "")
        width, height = image.size
        # Pillow applies its own limit inside these two decoders, where it cannot be left out.
        inner = Image.MAX_IMAGE_PIXELS if kind in ("TIFF", "WEBP") else None
        limit = MAX_PIXELS if inner is None else min(MAX_PIXELS, 2 * inner)
        if width * height > limit:
            raise ImageError(
                f"{name} is {width}x{height}, {width * height / 1e6:.0f} megapixels, "
                f"expected at most {limit / 1e6:.0f}",
                hint="crop or shrink it first, or cut it into parts",
            )
        if _is_dng(image, kind):
            raise raw_error(name)
        if kind == "AVIF":
            image.info["bit_depth"] = _avif_bits(head)
        notes = _frame_notes(image, kind, name) + _extras_notes(image, kind)
        mode, bit_depth = _source_mode(image, kind, head, name)
        orientation = orientation_of(image, stream)
        if orientation >= 5 and kind != "TIFF":  # Pillow turns TIFFs itself, and gives their upright size
            width, height = height, width
        info = ImageInfo(
            path=path,
            format=kind,
            width=width,
            height=height,
            mode=mode,
            bit_depth=bit_depth,
            has_alpha=bool(image.has_transparency_data),
            is_gray=mode in ("1", "L", "LA", "I;16", "LA;16"),
            notes=tuple(notes),
        )
    return image, info, orientation
