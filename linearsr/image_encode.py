"""From floats to the bytes of a file: which format, which depth, which of the metadata, and what has to be said.

Owns the table of what each format can hold. Touches no disk and reads no file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from linearsr.errors import ConfigError, ImageError
from linearsr.image_encoders import encode_pillow, encode_png16, encode_ppm, encode_tiff
from linearsr.image_headers import ImageInfo
from linearsr.image_kinds import FORMAT_BY_SUFFIX, load_heif_plugin
from linearsr.image_metadata import Metadata, insert_into_jpeg, insert_into_png, select_metadata, tiff_tags
from linearsr.image_profiles import from_srgb, profile_name, profile_space, srgb_profile

__all__ = ["check_writable", "choose_format", "encode", "extension", "quantised"]

_EXTENSIONS = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "AVIF": ".avif",
    "BMP": ".bmp",
    "PPM": ".ppm",
    "HEIF": ".heic",
}
_ALIASES = {name: name for name in _EXTENSIONS} | {
    suffix[1:].upper(): name for suffix, name in FORMAT_BY_SUFFIX.items() if name in _EXTENSIONS
}
_HOLDS_ALPHA = frozenset(("PNG", "WEBP", "TIFF", "AVIF", "HEIF"))
_HOLDS_16 = frozenset(("PNG", "TIFF", "PPM"))
_HOLDS_GRAY = frozenset(("PNG", "JPEG", "TIFF", "AVIF", "BMP", "PPM"))
_HOLDS_ICC = frozenset(("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"))
_ALWAYS_LOSSLESS = frozenset(("PNG", "TIFF", "BMP", "PPM"))
_LONGEST_SIDE = {"WEBP": 16383, "JPEG": 65500, "AVIF": 32768, "HEIF": 32768}
"""Tried: libjpeg stops at 65500, below the format's 65535; libavif reads up to 32768; x265 was tried up to there."""
_BLOCK_ROWS = 256
_GRAY_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 luma, as Pillow's own conversion to gray."""


def _format(requested: str) -> str:
    name = _ALIASES.get(requested.upper().lstrip("."))
    if name is None:
        raise ConfigError(
            f"format is {requested!r}, expected auto, {', '.join(name.lower() for name in _EXTENSIONS)}",
            hint="use `-f auto` to keep the input's format, or `-f png`",
        )
    return name


def choose_format(info: ImageInfo, requested: str) -> str:
    """Name the output format, such as "PNG".

    Args:
        info: of the input.
        requested: "auto", a format name or a suffix, in any case. "auto" keeps the input's format if it is one that is
            written here and holds the input's alpha and depth, else PNG.

    Raises:
        ConfigError: an unknown format.
        ImageError: HEIF was asked for and pillow-heif is missing.
    """
    if requested.lower() != "auto":
        name = _format(requested)
        if name == "HEIF":
            load_heif_plugin("the output")
        return name
    name = info.format
    fits = name in _EXTENSIONS and (name in _HOLDS_ALPHA or not info.has_alpha)
    return name if fits and (name in _HOLDS_16 or info.bit_depth < 16) else "PNG"


def extension(format: str) -> str:  # noqa: A002
    """Return the usual suffix of a format as `choose_format` names it, with its dot."""
    return _EXTENSIONS[_format(format)]


def check_writable(format: str, width: int, height: int, has_alpha: bool) -> None:  # noqa: A002
    """Refuse an output that its format cannot hold; needs no pixels, so that a plan finds it before the work.

    Raises:
        ImageError: a side is too long, or the format has no transparency.
        ConfigError: an unknown format.
    """
    name = _format(format)
    limit = _LONGEST_SIDE.get(name)
    if limit is not None and max(width, height) > limit:
        raise ImageError(
            f"output would be {width}x{height}, but {name} holds at most {limit} pixels a side",
            hint="use `-f png`, or a smaller scale",
        )
    if has_alpha and name not in _HOLDS_ALPHA:
        raise ImageError(
            f"the picture has transparency, which {name} cannot hold",
            hint="use `-f png` or `-f webp`, or `--alpha drop` to remove the transparency",
        )


def quantised(values: np.ndarray, bits: int) -> np.ndarray:
    """Floats in [0, 1] to uint8 or uint16: clamped, rounded half up; NaN must be refused before."""
    top = 2**bits - 1
    # In float32, 65535 x + 0.5 keeps only 7 bits behind the point, too few to round exactly.
    scaled = np.clip(values, 0.0, 1.0).astype(np.float64 if bits == 16 else np.float32) * top + 0.5
    return scaled.astype(np.uint8 if bits == 8 else np.uint16)


def _to_integers(rgb: np.ndarray, alpha: np.ndarray | None, bits: int, gray: bool) -> np.ndarray:
    """Quantise strip by strip to (H, W, C), C = 1 or 3, plus 1 with alpha.

    Raises:
        ImageError: a value is NaN or infinite.
    """
    height, width = rgb.shape[:2]
    colors = 1 if gray else 3
    out = np.empty((height, width, colors + (alpha is not None)), dtype=np.uint8 if bits == 8 else np.uint16)
    for top in range(0, height, _BLOCK_ROWS):
        rows = slice(top, top + _BLOCK_ROWS)
        part = rgb[rows]
        if not np.isfinite(part).all() or (alpha is not None and not np.isfinite(alpha[rows]).all()):
            raise ImageError(
                f"the result holds values that are not numbers (rows {top} to {min(top + _BLOCK_ROWS, height)})",
                hint="try `--dtype fp32`; nothing was written",
            )
        out[rows, :, :colors] = quantised((part @ _GRAY_WEIGHTS)[..., None] if gray else part, bits)
        if alpha is not None:
            out[rows, :, colors] = quantised(alpha[rows], bits)
    return out


def _depth(info: ImageInfo, name: str, requested: str, notes: list[str]) -> int:
    if requested not in ("auto", "8", "16"):
        raise ConfigError(f"bit depth is {requested!r}, expected auto, 8 or 16", hint="use `--bit-depth auto`")
    if requested == "16" and name not in _HOLDS_16:
        raise ImageError(
            f"{name} cannot hold 16 bits per channel", hint="use `-f png` or `-f tiff`, or `--bit-depth 8`"
        )
    if requested != "auto":
        return int(requested)
    if info.bit_depth == 16 and name not in _HOLDS_16:
        notes.append(f"16 bits per channel were reduced to 8, which is what {name} holds")
        return 8
    return 16 if info.bit_depth == 16 else 8


def _own_colors(
    pixels: np.ndarray, colors: int, name: str, kept: Metadata, source: Metadata
) -> tuple[Metadata, list[str]]:
    """Convert the first `colors` channels of `pixels` back to the input's profile, in place; say what cannot be."""
    icc = source.icc
    if icc is None:
        return kept, []
    if name not in _HOLDS_ICC:
        if source.icc_applied:
            return kept, [f"{name} holds no colour profile: the colours were saved as sRGB"]
        return kept, [f"{name} holds no colour profile ({profile_name(icc)}): the colours may look different"]
    if not source.icc_applied:
        if colors == 3 and profile_space(icc) == "GRAY":
            # A gray profile beside RGB pixels makes readers refuse the file or fall back to chance.
            return replace(kept, icc=None), ["the gray colour profile cannot be kept beside RGB pixels"]
        return kept, []
    converted = from_srgb(pixels[..., :1] if profile_space(icc) == "GRAY" else pixels[..., :colors], icc)
    if converted is not None and (colors == 1 or profile_space(icc) == "RGB"):
        pixels[..., :colors] = converted
        return kept, []
    reason = "cannot be applied to this output"
    if pixels.dtype == np.uint16:
        reason = 'needs imagecodecs for 16 bits (`pip install "linearsr[formats]"`)'
    saved = replace(kept, icc=srgb_profile() if colors == 3 else None)
    return saved, [f"the colours were saved as sRGB: the input's profile ({profile_name(icc)}) {reason}"]


def _lossy_options(name: str, quality: int, lossless: bool) -> dict[str, Any]:
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}, expected 1 to 100", hint="use `--quality 95`")
    if lossless and name != "WEBP" and name not in _ALWAYS_LOSSLESS:
        raise ImageError(
            f"{name} cannot be written without loss", hint="use `-f png` or `-f webp`, or drop `--lossless`"
        )
    if name == "WEBP":
        return {"lossless": True, "exact": True} if lossless else {"quality": quality, "alpha_quality": 100}
    full_color = {"subsampling": "4:4:4"} if quality >= 90 else {}
    return {"quality": quality, **full_color}


def _encode_tiff(pixels: np.ndarray, level: int, metadata: Metadata, notes: list[str]) -> bytes:
    tags, more = tiff_tags(metadata)
    notes += more
    try:
        return encode_tiff(pixels, level, tags)
    except ImageError:
        raise
    except Exception:  # noqa: BLE001  Pillow's tag writer raises many types on odd EXIF values; metadata never fails a file
        if metadata.exif is None:
            raise
        notes.append("the EXIF data cannot be kept in this TIFF")
        return encode_tiff(pixels, level, tiff_tags(replace(metadata, exif=None))[0])


def _encode_lossy(pixels: np.ndarray, name: str, metadata: Metadata, options: dict[str, Any]) -> bytes:
    if name == "HEIF":
        load_heif_plugin("the output")
    if metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        options["exif"] = b"Exif\0\0" + metadata.exif if name == "JPEG" else metadata.exif
    if metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    if name == "JPEG":
        if pixels.shape[2] == 1:
            options.pop("subsampling", None)
        if metadata.dpi is not None:
            options["dpi"] = metadata.dpi
        if metadata.comment is not None:
            options["comment"] = metadata.comment
        return insert_into_jpeg(encode_pillow(pixels, name, **options), metadata)
    if name == "AVIF" and pixels.shape[2] == 1:
        options.pop("subsampling", None)
    return encode_pillow(pixels, name, **options)


def encode(
    rgb: np.ndarray,
    alpha: np.ndarray | None,
    info: ImageInfo,
    source: Metadata,
    *,
    format: str,  # noqa: A002
    quality: int = 95,
    lossless: bool = False,
    bit_depth: str = "auto",
    metadata: str = "keep",
    png_level: int = 6,
) -> tuple[bytes, list[str]]:
    """Encode a result as a file of that format.

    Args:
        rgb: (H, W, 3) float in [0, 1], sRGB encoded.
        alpha: (H, W) float in [0, 1], or None.
        info: of the input: gray stays gray, 16 bits stay 16 bits.
        source: metadata of the input.
        format: "auto" or as `choose_format`.
        quality: 1 to 100, for JPEG, WebP, AVIF and HEIF; from 90 on JPEG and AVIF keep full colour resolution.
        lossless: refuse to lose anything; acts on WebP, is always so for PNG, TIFF, BMP and PPM.
        bit_depth: "auto", "8" or "16".
        metadata: "keep", or "strip" for nothing but the colour profile.
        png_level: zlib level of PNG and TIFF, 0 to 9.

    Returns:
        The bytes, and notes on what could not be kept.

    Raises:
        ImageError: the format cannot hold the picture, or a value is not a number.
        ConfigError: an option is out of range.
    """
    if metadata not in ("keep", "strip"):
        raise ConfigError(f"metadata is {metadata!r}, expected keep or strip", hint="use `--metadata keep`")
    if not 0 <= png_level <= 9:
        raise ConfigError(f"PNG level is {png_level}, expected 0 to 9", hint="use `--png-level 6`")
    notes: list[str] = []
    name = choose_format(replace(info, has_alpha=alpha is not None), format)
    height, width = rgb.shape[:2]
    if alpha is not None and name not in _HOLDS_ALPHA and bool((alpha >= 1.0 - 1.0 / 512.0).all()):
        alpha = None  # opaque everywhere: nothing is lost
    check_writable(name, width, height, alpha is not None)
    options = _lossy_options(name, quality, lossless)
    bits = _depth(info, name, bit_depth, notes)
    gray = info.is_gray and name in _HOLDS_GRAY and (alpha is None or name in ("PNG", "TIFF"))
    if gray and name == "TIFF" and bits == 16 and alpha is not None:
        gray = False
        notes.append("gray with alpha at 16 bits is saved as RGB with alpha: few programs read it otherwise")
    pixels = _to_integers(rgb, alpha, bits, gray)
    kept, more = select_metadata(source, name, (width, height), metadata)
    notes += more
    kept, more = _own_colors(pixels, 1 if gray else 3, name, kept, source)
    notes += more
    if name == "PNG":
        bare = encode_png16(pixels, png_level) if bits == 16 else encode_pillow(pixels, name, compress_level=png_level)
        return insert_into_png(bare, kept), notes
    if name == "TIFF":
        return _encode_tiff(pixels, png_level, kept, notes), notes
    if name == "PPM":
        return encode_ppm(pixels), notes
    if name == "BMP":
        return encode_pillow(pixels, name, **({} if kept.dpi is None else {"dpi": kept.dpi})), notes
    return _encode_lossy(pixels, name, kept, options), notes
