"""EXIF, XMP, IPTC, ICC, resolution and text: read from a file, corrected for the new size, put into another.

Nothing here raises on bad metadata: what cannot be read or kept becomes a note, in plain words, for the report.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import ExifTags, Image

from linearsr.image_encoders import png_chunk
from linearsr.image_exif import fix_exif, fix_xmp

__all__ = ["Metadata", "insert_into_jpeg", "insert_into_png", "read_metadata", "select_metadata", "tiff_tags"]

_KEEPS = {
    "PNG": {"icc", "exif", "xmp", "dpi", "text", "comment"},
    "JPEG": {"icc", "exif", "xmp", "iptc", "dpi", "comment"},
    "TIFF": {"icc", "exif", "xmp", "iptc", "dpi"},
    "WEBP": {"icc", "exif", "xmp"},
    "AVIF": {"icc", "exif", "xmp"},
    "HEIF": {"icc", "exif", "xmp"},
    "BMP": {"dpi"},
    "PPM": set(),
}
_NAMES = {
    "exif": "EXIF data",
    "xmp": "XMP data",
    "iptc": "IPTC data",
    "dpi": "the resolution (DPI)",
    "text": "text fields",
    "comment": "the comment",
}
_JPEG_LIMIT = 65533
_IPTC_HEAD = b"Photoshop 3.0\0"
_XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
_TIFF_DESCRIPTIVE = (270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, 40091, 40092, 40093, 40094, 40095)
"""IFD0 tags that describe a photograph rather than the layout of the file."""
_BAD = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, RuntimeError, struct.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What a file says beside its pixels, as found; sizes and orientation are corrected when it is written."""

    icc: bytes | None = None
    icc_applied: bool = False
    """The pixels were converted from `icc` to sRGB, so that writing converts them back."""
    exif: bytes | None = None
    """From the byte-order mark on, without the `Exif` head."""
    xmp: bytes | None = None
    iptc: bytes | None = None
    """IPTC-IIM records."""
    dpi: tuple[float, float] | None = None
    """Horizontal and vertical pixels per inch."""
    text: dict[str, str] = field(default_factory=dict)
    """PNG text fields."""
    comment: bytes | None = None


def read_metadata(image: Image.Image) -> tuple[Metadata, list[str]]:
    """Collect the metadata of a picture; call it after decoding, since PNGs may hold some behind the pixels.

    Returns:
        the metadata, and notes on what is damaged.
    """
    info: dict[Any, Any] = image.info
    found: dict[str, Any] = {}
    notes: list[str] = []
    readers = {"exif": _read_exif, "xmp": _read_xmp, "iptc": _read_iptc, "dpi": _read_dpi, "text": _read_text}
    for name, reader in readers.items():
        try:
            value = reader(image)
        except _BAD:
            notes.append(f"{_NAMES[name]} in the file cannot be read and will be left out")
            continue
        if value is not None:
            found[name] = value
    icc = info.get("icc_profile")
    if isinstance(icc, bytes) and icc:
        found["icc"] = icc
    comment = info.get("comment")
    if isinstance(comment, str):
        comment = comment.encode("utf-8", "replace")
    if isinstance(comment, bytes) and comment:
        found["comment"] = comment
    if b"HasExtendedXMP" in found.get("xmp", b""):
        notes.append("the extended part of the XMP data (over 64 KB) cannot be kept")
    return Metadata(**found), notes


def _read_exif(image: Image.Image) -> bytes | None:
    data = image.info.get("exif")
    if data is None and image.format == "TIFF":
        data = _exif_of_tiff(image)
    if data is None and "Raw profile type exif" in image.info:
        data = bytes.fromhex("".join(str(image.info["Raw profile type exif"]).split("\n")[3:]))
    if not data:
        return None
    data = bytes(data)
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    fix_exif(data, 1, 1)  # a damaged block must be a note now, not a surprise when writing
    return data


def _exif_of_tiff(image: Image.Image) -> bytes | None:
    """A TIFF's own first directory is its EXIF; take the tags that describe the photograph."""
    source = image.getexif()
    target = Image.Exif()
    for tag in _TIFF_DESCRIPTIVE:
        if tag in source:
            target[tag] = source[tag]
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if directory in source and (entries := source.get_ifd(directory)):
            target[directory] = entries
    return target.tobytes() if len(target) else None


def _read_xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp", image.info.get("XML:com.adobe.xmp"))
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return bytes(xmp).rstrip(b"\0") if xmp else None


def _read_iptc(image: Image.Image) -> bytes | None:
    tags = getattr(image, "tag_v2", {})
    resources = image.info.get("photoshop", {})
    if 33723 in tags:
        value = tags[33723]
        # Some writers store the bytes as 32-bit numbers.
        return struct.pack(f"<{len(value)}I", *value) if isinstance(value, tuple) else bytes(value)
    if not resources and 34377 in tags:
        resources = _resources(bytes(tags[34377]))
    value = resources.get(0x0404)
    return bytes(value) if value else None


def _resources(data: bytes) -> dict[int, bytes]:
    """Split Photoshop image resources (8BIM blocks) into number -> bytes."""
    found: dict[int, bytes] = {}
    at = 0
    while data[at : at + 4] == b"8BIM":
        number, name_length = struct.unpack_from(">HB", data, at + 4)
        at += 6 + (name_length + 2) // 2 * 2
        (length,) = struct.unpack_from(">I", data, at)
        found[number] = data[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2
    return found


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    dpi = image.info.get("dpi")
    if dpi is None:
        return None
    x, y = float(dpi[0]), float(dpi[1])
    return (x, y) if 1 < x < 1e5 and 1 < y < 1e5 else None


def _read_text(image: Image.Image) -> dict[str, str] | None:
    text = getattr(image, "text", None)
    if not text:
        return None
    kept = {str(key): str(value) for key, value in text.items() if not _is_packed(str(key))}
    return kept if kept else None


def _is_packed(key: str) -> bool:
    """Whether a PNG text field is a container for metadata that is kept elsewhere, with a size or orientation in it."""
    return key == "XML:com.adobe.xmp" or key.startswith("Raw profile type")


def select_metadata(metadata: Metadata, format: str, size: tuple[int, int], policy: str) -> tuple[Metadata, list[str]]:  # noqa: A002
    """Choose and correct what goes into a file of that format.

    Args:
        metadata: as read.
        format: PNG, JPEG, TIFF, WEBP, AVIF, HEIF, BMP or PPM.
        size: (width, height) of the output in pixels.
        policy: "keep", or "strip" for nothing but the ICC profile.

    Returns:
        the metadata to write, and notes on what the format cannot hold.
    """
    keeps = _KEEPS[format]
    icc = metadata.icc if "icc" in keeps else None
    if policy == "strip":
        return Metadata(icc=icc, icc_applied=metadata.icc_applied), []
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, words in _NAMES.items():
        value = getattr(metadata, name)
        if not value:
            continue
        if name not in keeps:
            # 72 and 96 are what programs write when nobody chose a resolution.
            if name == "dpi" and all(round(side) in (72, 96) for side in value):
                continue
            notes.append(f"{words} cannot be kept in {format}")
            continue
        try:
            if name == "exif":
                value = fix_exif(value, *size, drop_orientation=format in ("AVIF", "HEIF"))
            elif name == "xmp":
                value = fix_xmp(value, *size)
        except (ValueError, struct.error):
            notes.append(f"{words} are damaged and were left out")
            continue
        overhead = {"exif": 6, "xmp": len(_XMP_HEAD), "iptc": len(_IPTC_HEAD) + 13, "comment": 0}.get(name)
        if format == "JPEG" and overhead is not None and len(value) + overhead > _JPEG_LIMIT:
            notes.append(f"{words} are too long for JPEG (over 64 KB) and were left out")
            continue
        found[name] = value
    return replace(Metadata(**found), icc=icc, icc_applied=metadata.icc_applied), notes


def insert_into_jpeg(data: bytes, metadata: Metadata) -> bytes:
    """Add the IPTC records, which Pillow does not write, behind the other leading segments of a JPEG."""
    if metadata.iptc is None:
        return data
    records = metadata.iptc
    block = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(records)) + records + b"\0" * (len(records) % 2)
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(_IPTC_HEAD) + len(block)) + _IPTC_HEAD + block
    at = 2
    while data[at] == 0xFF and data[at + 1] in range(0xE0, 0xE2):
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return data[:at] + segment + data[at:]


def _text_chunk(key: str, value: str) -> bytes:
    """PNG text: tEXt where Latin-1 holds it, else iTXt."""
    label = key.encode("latin-1", "replace")[:79].replace(b"\0", b" ")
    try:
        return png_chunk(b"tEXt", label + b"\0" + value.encode("latin-1").replace(b"\0", b" "))
    except UnicodeEncodeError:
        return png_chunk(b"iTXt", label + b"\0\0\0\0\0" + value.encode("utf-8").replace(b"\0", b" "))


def insert_into_png(data: bytes, metadata: Metadata) -> bytes:
    """Add profile, EXIF, XMP, resolution and text to a PNG that has none, behind its first chunk."""
    chunks: list[bytes] = []
    if metadata.icc is not None:
        chunks.append(png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.dpi is not None:
        chunks.append(png_chunk(b"pHYs", struct.pack(">IIB", *(round(side / 0.0254) for side in metadata.dpi), 1)))
    if metadata.exif is not None:
        chunks.append(png_chunk(b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        chunks.append(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    text = dict(metadata.text)
    if metadata.comment is not None:
        text.setdefault("Comment", metadata.comment.decode("utf-8", "replace"))
    chunks.extend(_text_chunk(key, value) for key, value in text.items())
    end_of_header = 8 + 25
    return data[:end_of_header] + b"".join(chunks) + data[end_of_header:]


def tiff_tags(metadata: Metadata) -> tuple[dict[int, tuple[int | None, Any]], list[str]]:
    """Metadata as tags for `image_encoders.encode_tiff`: tag -> (type, value), and notes."""
    tags: dict[int, tuple[int | None, Any]] = {}
    notes: list[str] = []
    if metadata.icc is not None:
        tags[34675] = (7, metadata.icc)
    if metadata.xmp is not None:
        tags[700] = (1, metadata.xmp)
    if metadata.iptc is not None:
        tags[33723] = (7, metadata.iptc)
    if metadata.dpi is not None:
        tags.update({282: (None, metadata.dpi[0]), 283: (None, metadata.dpi[1]), 296: (None, 2)})
    if metadata.exif is not None:
        try:
            source = Image.Exif()
            source.load(metadata.exif)
            tags.update({tag: (None, source[tag]) for tag in _TIFF_DESCRIPTIVE if tag in source})
            for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
                if directory in source and (entries := source.get_ifd(directory)):
                    tags[int(directory)] = (4, entries)
            if tags.get(274) is None:
                tags[274] = (None, 1)
        except _BAD:
            notes.append(f"{_NAMES['exif']} cannot be kept in this TIFF")
    return tags, notes
