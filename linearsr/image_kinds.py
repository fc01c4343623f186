"""Which kind of file some bytes are, and a plain refusal, with the next step, for what LinearSR does not read.

Owns the suffixes, the signatures and the words. Opens nothing by itself.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from linearsr.errors import ImageError

__all__ = [
    "FORMAT_BY_SUFFIX",
    "IMAGE_SUFFIXES",
    "RAW_SUFFIXES",
    "damage_as_error",
    "load_heif_plugin",
    "raw_error",
    "refuse_by_name",
    "sniff",
]

FORMAT_BY_SUFFIX = {
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    ".webp": "WEBP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".avif": "AVIF",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIF"),
    ".gif": "GIF",
}
IMAGE_SUFFIXES = frozenset(FORMAT_BY_SUFFIX)
"""Lower-case suffixes of files worth opening in a folder. A GIF is read if it does not move, and never written."""
# fmt: off
RAW_SUFFIXES = frozenset((
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".iiq", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef",
    ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
))
# fmt: on

_KINDS = "PNG, JPEG, WebP, TIFF, AVIF, BMP, PPM or HEIF"
_CONVERT = "convert it to PNG or JPEG first"
_RAW = ("a camera raw file", "develop it in a raw converter and save a 16-bit TIFF or PNG")
_VIDEO = ("a video", "extract frames with `ffmpeg -i FILE frame-%05d.png`")
_OURS: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"RIFF.{4}WEBP", "WEBP"),
    (rb"(II[*+]\0|MM\0[*+])(?!.{4}CR\x02)", "TIFF"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"P[1-6][\s#]", "PPM"),
    (rb"GIF8[79]a", "GIF"),
)
_FOREIGN: tuple[tuple[int, bytes, tuple[str, str]], ...] = (
    (0, b"%PDF", ("a PDF document", "export its pages as PNG")),
    (0, b"%!PS", ("a PostScript file", "export it as PNG")),
    (0, b"8BPS", ("a Photoshop file", "export it as PNG or TIFF")),
    (0, b"\x00\x00\x00\x0cJXL ", ("a JPEG XL file", _CONVERT)),
    (0, b"\xff\x0a", ("a JPEG XL file", _CONVERT)),
    (0, b"\x00\x00\x00\x0cjP  ", ("a JPEG 2000 file", _CONVERT)),
    (0, b"\xff\x4f\xff\x51", ("a JPEG 2000 file", _CONVERT)),
    (0, b"\x76\x2f\x31\x01", ("an OpenEXR file", "tone-map it and save a 16-bit PNG")),
    (0, b"#?RADIANCE", ("a Radiance HDR file", "tone-map it and save a 16-bit PNG")),
    (0, b"\x00\x00\x01\x00", ("an icon file", _CONVERT)),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),
    (0, b"FLV\x01", _VIDEO),
    (0, b"\x00\x00\x01\xba", _VIDEO),
    (0, b"\x00\x00\x01\xb3", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (8, b"CR\x02", _RAW),
    (0, b"FUJIFILMCCD-RAW", _RAW),
    (0, b"IIU\x00", _RAW),
    (0, b"IIRO", _RAW),
    (0, b"IIRS", _RAW),
    (0, b"FOVb", _RAW),
    (0, b"PK\x03\x04", ("a ZIP archive", "unpack it first")),
    (0, b"\x1f\x8b", ("a gzip archive", "unpack it first")),
    (0, b"version https://git-lfs", ("a Git LFS pointer, not the picture itself", "run `git lfs pull`")),
)


@contextmanager
def damage_as_error(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises on bad bytes into an `ImageError` that names the file."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, RuntimeError,
            OverflowError, struct.error, zlib.error) as error:  # fmt: skip
        detail = " ".join(str(error).split()).rstrip(".")
        raise ImageError(
            f"{name} is damaged or cut short, expected a complete picture ({detail or type(error).__name__})",
            hint="copy or download the file again, or open it in an image editor and save it anew",
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has more pixels than can be decoded", hint="crop or shrink it first") from error


def refuse_by_name(path: Path) -> None:
    """Refuse what the path alone shows: a folder, a missing file, a camera raw file.

    Raises:
        ImageError: always with the next step.
    """
    if path.is_dir():
        raise ImageError(
            f"{path} is a folder, expected a picture",
            hint="pass the folder to `linearsr upscale`, with `-r` for its subfolders",
        )
    if not path.exists():
        raise ImageError(f"{path} does not exist, expected a picture", hint="check the name and the folder")
    if path.suffix.lower() in RAW_SUFFIXES:
        raise raw_error(str(path))


def raw_error(name: str) -> ImageError:
    """Build the refusal of a camera raw file."""
    return ImageError(f"{name} is {_RAW[0]}, expected {_KINDS}", hint=_RAW[1])


def _foreign(head: bytes) -> tuple[str, str]:
    """Name a file that is none of ours, and the next step."""
    for offset, magic, answer in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            return answer
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")) and b"<svg" in start:
        return "an SVG drawing", "render it with `rsvg-convert -w WIDTH` at the size you need"
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture", "download the picture itself"
    if b"\0" not in head:
        try:
            head[:-4].decode("utf-8")  # the cut may fall inside a character
        except UnicodeDecodeError:
            pass
        else:
            return "a text file", "check that the right file was given"
    return "of an unknown kind", _CONVERT


def _iso_kind(head: bytes) -> str | tuple[str, str]:
    """Tell AVIF, HEIF, raw and video apart by the brands of an ISO base media file."""
    size = struct.unpack(">I", head[:4])[0]
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "HEIF"
    return _RAW if b"crx " in brands else _VIDEO


def sniff(head: bytes, name: str) -> str:
    """Find the format by the first 1,024 bytes."""
    if not head:
        raise ImageError(f"{name} is empty (0 bytes), expected a picture", hint="copy or download the file again")
    if not head.strip(b"\0"):
        raise ImageError(f"{name} holds only zero bytes, expected a picture", hint="copy or download the file again")
    for pattern, kind in _OURS:
        if re.match(pattern, head, re.DOTALL):
            return kind
    found = _iso_kind(head) if head[4:8] == b"ftyp" else _foreign(head)
    if isinstance(found, str):
        return found
    raise ImageError(f"{name} is {found[0]}, expected {_KINDS}", hint=found[1])


def load_heif_plugin(name: str) -> Any:  # noqa: ANN401
    """Return pillow-heif with its opener registered.

    Raises:
        ImageError: it is not installed.
    """
    try:
        pillow_heif = import_module("pillow_heif")
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIF picture, which needs pillow-heif", hint='install it with `pip install "linearsr[heif]"`'
        ) from error
    pillow_heif.register_heif_opener()
    return pillow_heif
