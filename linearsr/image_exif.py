"""EXIF and XMP blocks corrected for a picture of another size: upright, true sizes, no stale thumbnail or gain map.

EXIF is corrected in place, byte by byte, rather than parsed and written anew: maker notes hold absolute offsets, and
Pillow's writer guesses the types of tags it does not know.
"""

from __future__ import annotations

import re
import struct

__all__ = ["fix_exif", "fix_xmp"]


def _set_number(blob: bytearray, order: str, entry: int, value: int) -> None:
    """Overwrite a 12-byte EXIF entry by one number, as SHORT if it fits."""
    if value < 65536:
        blob[entry + 2 : entry + 12] = struct.pack(order + "HIHH", 3, 1, value, 0)
    else:
        blob[entry + 2 : entry + 12] = struct.pack(order + "HII", 4, 1, value)


def _entries(blob: bytearray, order: str, at: int) -> tuple[dict[int, int], int]:
    """Positions of a directory's entries by tag, and the position of its pointer to the next directory."""
    (count,) = struct.unpack_from(order + "H", blob, at)
    end = at + 2 + 12 * count
    if end + 4 > len(blob):
        raise ValueError("an EXIF directory passes the end of the block")
    return {struct.unpack_from(order + "H", blob, p)[0]: p for p in range(at + 2, end, 12)}, end


def _drop_thumbnail(blob: bytearray, order: str, pointer: int) -> None:
    """Unhook the thumbnail directory and wipe its picture: it shows the old size, and cropped parts survive in it."""
    (at,) = struct.unpack_from(order + "I", blob, pointer)
    struct.pack_into(order + "I", blob, pointer, 0)
    if not at:
        return
    try:
        entries, _ = _entries(blob, order, at)
        (start,) = struct.unpack_from(order + "I", blob, entries[0x0201] + 8)
        (length,) = struct.unpack_from(order + "I", blob, entries[0x0202] + 8)
    except (KeyError, ValueError, struct.error):
        return  # unhooked already; there is no JPEG thumbnail to wipe
    if 8 <= start < len(blob):
        if start + length >= len(blob):
            del blob[start:]
        else:
            blob[start : start + length] = bytes(length)


def fix_exif(exif: bytes, width: int, height: int, *, drop_orientation: bool = False) -> bytes:
    """Correct an EXIF block for a picture of the new size: orientation 1, sizes where they are given, no thumbnail.

    Args:
        exif: the block from the byte-order mark on.
        width, height: of the picture that it goes into, in pixels.
        drop_orientation: take the orientation tag out; AVIF and HEIF say it elsewhere.

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 14:
        raise ValueError("EXIF data has no byte-order mark")
    blob = bytearray(exif)
    (first,) = struct.unpack_from(order + "I", blob, 4)
    entries, pointer = _entries(blob, order, first)
    for tag, value in ((0x0112, 1), (0x0100, width), (0x0101, height)):
        if tag in entries:
            _set_number(blob, order, entries[tag], value)
    if 0x8769 in entries:
        (at,) = struct.unpack_from(order + "I", blob, entries[0x8769] + 8)
        inner, _ = _entries(blob, order, at)
        for tag, value in ((0xA002, width), (0xA003, height)):
            if tag in inner:
                _set_number(blob, order, inner[tag], value)
    _drop_thumbnail(blob, order, pointer)
    if drop_orientation and 0x0112 in entries:
        # Close the gap inside the directory, so that no offset moves; 12 unused bytes stay behind its end.
        gap = entries[0x0112]
        blob[gap : pointer + 4] = blob[gap + 12 : pointer + 4] + bytes(12)
        struct.pack_into(order + "H", blob, first, len(entries) - 1)
    return bytes(blob)


def fix_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """Correct orientation and sizes in an XMP packet, and take out what announces a gain map or a video."""
    values = {
        b"tiff:Orientation": 1,
        b"tiff:ImageWidth": width,
        b"tiff:ImageLength": height,
        b"exif:PixelXDimension": width,
        b"exif:PixelYDimension": height,
    }
    for name, value in values.items():
        xmp = re.sub(rb"(\b" + name + rb"\s*=\s*[\"'])[^\"']*", rb"\g<1>%d" % value, xmp)
        xmp = re.sub(rb"(<" + name + rb">)[^<]*", rb"\g<1>%d" % value, xmp)
    xmp = re.sub(rb"\s+hdrgm:\w+\s*=\s*(\"[^\"]*\"|'[^']*')", b"", xmp)
    xmp = re.sub(rb"<(G?Container):Directory\b.*?</\1:Directory>", b"", xmp, flags=re.DOTALL)
    return re.sub(rb"(\bGCamera:(?:MotionPhoto|MicroVideo)\s*=\s*[\"'])1", rb"\g<1>0", xmp)
