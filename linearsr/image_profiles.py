"""Colours between a file's own ICC profile and sRGB, both ways.

8-bit pixels go through Pillow's LittleCMS. 16-bit pixels need imagecodecs (extra `formats`), since Pillow's transforms
are 8-bit only; without it they stay in their own space. Rows are converted in strips, so little memory is added.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

__all__ = ["cmyk_to_rgb", "from_srgb", "lab_to_rgb", "profile_name", "profile_space", "srgb_profile", "to_srgb"]

_STRIP = 256
"""Rows converted at a time."""
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_BAD_PROFILE = (ImageCms.PyCMSError, OSError, ValueError, TypeError, RuntimeError)
_Convert = Callable[[np.ndarray], np.ndarray]


@lru_cache(maxsize=1)
def srgb_profile() -> bytes:
    """Return the bytes of LittleCMS's sRGB profile, dated 2000-01-01 rather than now, so that outputs repeat."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return icc[:24] + bytes((7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0)) + icc[36:]


def profile_space(icc: bytes) -> str | None:
    """Colour space that the profile describes, "RGB", "GRAY" or "CMYK"; None if it is no profile."""
    space = icc[16:20].decode("ascii", "replace").strip()
    return space if icc[36:40] == b"acsp" and space in ("RGB", "GRAY", "CMYK") else None


def profile_name(icc: bytes) -> str:
    """Name of the profile for messages, such as "Display P3"."""
    try:
        return ImageCms.getProfileDescription(ImageCms.getOpenProfile(BytesIO(icc))).strip()
    except _BAD_PROFILE:
        return "unnamed profile"


def _open(icc: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.getOpenProfile(BytesIO(icc))


def _cms8(source: bytes, target: bytes, source_mode: str, target_mode: str) -> _Convert:
    """8-bit transform of (h, W, C) strips by Pillow."""
    transform = ImageCms.buildTransform(_open(source), _open(target), source_mode, target_mode, _INTENT, _FLAGS)

    def convert(strip: np.ndarray) -> np.ndarray:
        flat = strip[..., 0] if source_mode == "L" else strip
        done = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(flat)), transform)
        out = np.asarray(done)
        return out[..., None] if out.ndim == 2 else out

    return convert


def _cms16(source: bytes, target: bytes, source_mode: str, target_mode: str) -> _Convert | None:
    """16-bit transform by imagecodecs, None without it."""
    try:
        codecs: Any = import_module("imagecodecs")
        transform = codecs.cms_transform
    except (ImportError, AttributeError):
        return None
    space = {"L": "gray", "RGB": "rgb"}

    def convert(strip: np.ndarray) -> np.ndarray:
        flat = np.ascontiguousarray(strip[..., 0] if source_mode == "L" else strip)
        out = transform(
            flat,
            source,
            target,
            colorspace=space[source_mode],
            outcolorspace=space[target_mode],
            outdtype="uint16",
            intent=int(_INTENT),
            flags=int(_FLAGS),
        )
        return out[..., None] if out.ndim == 2 else out

    return convert


def _build(pixels: np.ndarray, source: bytes, target: bytes, source_mode: str, target_mode: str) -> _Convert | None:
    return (_cms8 if pixels.dtype == np.uint8 else _cms16)(source, target, source_mode, target_mode)


def _by_strips(pixels: np.ndarray, convert: _Convert, channels: int) -> np.ndarray:
    out = np.empty((*pixels.shape[:2], channels), dtype=pixels.dtype)
    for top in range(0, pixels.shape[0], _STRIP):
        out[top : top + _STRIP] = convert(pixels[top : top + _STRIP])[..., :channels]
    return out


def _is_srgb(icc: bytes, mode: str) -> bool:
    """Whether a profile does what sRGB does, within one level of 255; then converting would only add rounding."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    if mode == "L":
        cube = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    else:
        cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(64, 64, 3)
    out = _cms8(icc, srgb_profile(), mode, "RGB")(cube)
    return int(np.abs(out.astype(np.int16) - cube).max()) <= 1


def _clips(pixels: np.ndarray, converted: np.ndarray, icc: bytes) -> bool:
    """Whether more than 0.1 % of a sample of the pixels does not come back from sRGB within 8 levels."""
    step = max(1, int((pixels.shape[0] * pixels.shape[1] / 65536) ** 0.5))
    before, after = pixels[::step, ::step], np.ascontiguousarray(converted[::step, ::step])
    back = _build(after, srgb_profile(), icc, "RGB", "RGB")
    if back is None:
        return False
    unit = 1 if pixels.dtype == np.uint8 else 257
    wrong = np.abs(back(after).astype(np.int32) - before).max(axis=-1) > 8 * unit
    return bool(wrong.mean() > 1e-3)


def to_srgb(pixels: np.ndarray, icc: bytes | None) -> tuple[np.ndarray, bool, list[str]]:
    """Convert colours from an embedded profile to sRGB.

    Args:
        pixels: (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16.
        icc: the file's profile, or None for sRGB.

    Returns:
        pixels of the same shape and dtype; whether they were converted, so that writing must convert back; notes.
    """
    if icc is None:
        return pixels, False, []
    mode, space = ("L", "GRAY") if pixels.shape[2] == 1 else ("RGB", "RGB")
    if profile_space(icc) != space:
        # An RGB profile in a gray file is common and says nothing about gray; other mixtures cannot be used either.
        misfit = ["the colour profile does not fit the picture: colours are taken as sRGB"]
        return pixels, False, [] if profile_space(icc) == "RGB" else misfit
    try:
        if _is_srgb(icc, mode):
            return pixels, False, []
        convert = _build(pixels, icc, srgb_profile(), mode, "RGB")
        if convert is None:
            stays = f"16-bit colours stay in their own space ({profile_name(icc)}) while upscaling"
            return pixels, False, [f'{stays}: converting them needs imagecodecs, `pip install "linearsr[formats]"`']
        converted = _by_strips(pixels, convert, pixels.shape[2])
        clipped = mode == "RGB" and _clips(pixels, converted, icc)
    except _BAD_PROFILE:
        return pixels, False, ["the colour profile cannot be used: colours are taken as sRGB"]
    if clipped:
        return converted, True, [f"some colours of {profile_name(icc)} lie outside sRGB and were moved to its edge"]
    return converted, True, []


def from_srgb(pixels: np.ndarray, icc: bytes) -> np.ndarray | None:
    """Convert sRGB colours to a profile; the way back of `to_srgb`.

    Args:
        pixels: (H, W, 1) gray or (H, W, 3) RGB, uint8 or uint16.
        icc: a profile of the same colour space.

    Returns:
        pixels of the same shape and dtype, or None if this cannot be done: 16 bits without imagecodecs, a profile of
        another colour space, or one that has no way back.
    """
    mode, space = ("L", "GRAY") if pixels.shape[2] == 1 else ("RGB", "RGB")
    if profile_space(icc) != space:
        return None
    try:
        convert = _build(pixels, srgb_profile(), icc, "RGB", mode)
        if convert is None:
            return None
        if mode == "L":
            return _by_strips(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), convert, 1)
        return _by_strips(pixels, convert, 3)
    except _BAD_PROFILE:
        return None


def cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    """Convert a CMYK image to sRGB through its profile, or plainly if it has none that can be used.

    Returns:
        RGB image, and a note that says which way it was.
    """
    if icc is not None and profile_space(icc) == "CMYK":
        try:
            done = ImageCms.profileToProfile(image, _open(icc), _open(srgb_profile()), _INTENT, "RGB", flags=_FLAGS)
            if done is not None:
                return done, f"CMYK colours were converted to sRGB through the embedded profile ({profile_name(icc)})"
        except _BAD_PROFILE:
            pass  # the plain conversion below still gives a picture, and its note says so
    return image.convert("RGB"), "CMYK colours without a usable profile were converted to RGB plainly: they may shift"


def lab_to_rgb(image: Image.Image) -> Image.Image:
    """Convert a CIE Lab image to sRGB."""
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), _open(srgb_profile()), "LAB", "RGB", _INTENT)
    done = ImageCms.applyTransform(image, transform)
    return done if done is not None else image.convert("RGB")
