"""Pixels out of files, as arrays of whole numbers.

8-bit files go through Pillow. Pillow cannot hold 16-bit RGB, so 16-bit PNGs are decoded by OpenCV and 16-bit TIFFs by
tifffile (OpenCV without it). Pillow still reads them once, for metadata behind the pixels and as a check on the others.

Arrays are (H, W, C), uint8 or uint16, C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA; alpha is straight.
"""

from __future__ import annotations

from importlib import import_module
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from linearsr.errors import ImageError
from linearsr.image_headers import ImageInfo, pnm_header
from linearsr.image_profiles import cmyk_to_rgb, lab_to_rgb

__all__ = ["decode", "upright"]


def decode(
    image: Image.Image, data: bytes, info: ImageInfo, orientation: int, name: str
) -> tuple[np.ndarray, list[str]]:
    """Decode the pixels of an opened picture, upright; no profile is applied, except to CMYK and Lab.

    Args:
        image: as from `image_headers.inspect`.
        data: the whole file.
        info: what its headers say.
        orientation: of the EXIF data, 1 to 8.
        name: for messages.

    Returns:
        (H, W, C) pixels, uint8 or uint16, contiguous, and notes.

    Raises:
        OSError, ValueError, SyntaxError: the data is cut short or damaged.
        ImageError: a kind of 16-bit TIFF that needs tifffile.
    """
    notes: list[str] = []
    if info.format == "PPM" and info.bit_depth == 16:
        return _decode_pnm16(data), notes  # Pillow takes a microsecond per pixel, and drops the lower byte
    # Needed at 16 bits too: PNG text behind the pixels, the witness for TIFF, a second opinion on files cut short.
    image.load()
    if info.bit_depth == 16:
        if info.format == "TIFF":
            return np.ascontiguousarray(_decode_tiff16(image, data, orientation, name)), notes
        return np.ascontiguousarray(upright(_decode_png16(image, data), orientation)), notes
    if image.mode == "CMYK":
        image, note = cmyk_to_rgb(image, image.info.get("icc_profile"))
        notes.append(note)
    elif image.mode == "LAB":
        image = lab_to_rgb(image)
        notes.append("CIE Lab colours were converted to sRGB")
    mode = ("LA" if info.has_alpha else "L") if info.is_gray else ("RGBA" if info.has_alpha else "RGB")
    if image.mode != mode:
        image = image.convert(mode)
    pixels = np.asarray(image)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    # Pillow has turned a TIFF already while loading it.
    return np.ascontiguousarray(pixels if info.format == "TIFF" else upright(pixels, orientation)), notes


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation (1 to 8) to the first two axes; a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _decode_cv2(data: bytes) -> np.ndarray:
    """Decode by OpenCV as it lies in the file, but in RGB order."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ValueError("16-bit pixels cannot be decoded") from error
    if pixels is None:
        raise ValueError("16-bit pixels cannot be decoded")
    if pixels.ndim == 2:
        return pixels[..., None]
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _decode_png16(image: Image.Image, data: bytes) -> np.ndarray:
    pixels = _decode_cv2(data)
    if pixels.dtype != np.uint16:
        raise ValueError(f"16-bit pixels were decoded as {pixels.dtype}")
    hidden = image.info.get("transparency")
    if pixels.shape[2] == 1 and isinstance(hidden, int):
        # OpenCV turns one transparent colour into alpha for RGB, but not for gray.
        alpha = np.where(pixels == hidden, 0, 65535).astype(np.uint16)
        return np.concatenate([pixels, alpha], axis=2)
    if data[25] == 4:
        return pixels[..., [0, 3]]  # gray and alpha, which OpenCV widens to BGRA
    return pixels


def _decode_pnm16(data: bytes) -> np.ndarray:
    """Decode P2, P3, P5 and P6 with a largest value above 255, scaled to 65535."""
    kind, width, height, maximum, offset = pnm_header(data)
    channels = 3 if kind in (b"P3", b"P6") else 1
    count = width * height * channels
    if kind in (b"P5", b"P6"):
        values = np.frombuffer(data, dtype=">u2", count=count, offset=offset).astype(np.uint32)
    else:
        values = np.array(data[offset - 1 :].split()[:count], dtype=np.uint32)
    if values.size < count:
        raise ValueError(f"{values.size} of {count} values are there")
    if maximum != 65535:
        values = (np.minimum(values, maximum) * 65535 + maximum // 2) // maximum
    return values.astype(np.uint16).reshape(height, width, channels)


def _by_tifffile(data: bytes) -> np.ndarray | None:
    """First page by tifffile, (H, W, C) as stored; None without tifffile or without the codec that the file needs."""
    try:
        tifffile: Any = import_module("tifffile")
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(BytesIO(data)) as file:
            page = file.pages[0]
            pixels = page.asarray()
            planar = page.planarconfig == 2 and page.samplesperpixel > 1
    except Exception:  # noqa: BLE001  tifffile raises many types; OpenCV is asked next, and its answer is checked
        return None
    return np.moveaxis(pixels, 0, -1) if planar else pixels


def _straight(pixels: np.ndarray) -> np.ndarray:
    """Divide 16-bit RGBA colours by their alpha."""
    alpha = np.maximum(pixels[..., 3:], 1).astype(np.uint32)
    color = (pixels[..., :3].astype(np.uint32) * 65535 + alpha // 2) // alpha
    return np.concatenate([np.minimum(color, 65535).astype(np.uint16), pixels[..., 3:]], axis=2)


def _decode_tiff16(image: Any, data: bytes, orientation: int, name: str) -> np.ndarray:  # noqa: ANN401
    """Decode a 16-bit TIFF, upright. Pillow's 8-bit result tells whether OpenCV understood the layout.

    Tried with OpenCV 5.0: it turns 16-bit TIFFs by their orientation even with IMREAD_UNCHANGED, and returns noise for
    separate colour planes; other versions may differ.
    """
    tags = image.tag_v2
    bits = max(tags.get(258, (16,)))
    if image.mode not in ("RGB", "RGBA"):
        pixels = np.asarray(image).astype(np.uint16)[..., None]
        if bits < 16:
            pixels = ((pixels.astype(np.uint32) * 65535) // (2**bits - 1)).astype(np.uint16)
        return 65535 - pixels if tags.get(262) == 0 else pixels
    channels = len(image.mode)
    premultiplied = channels == 4 and tags.get(338, (2,))[0] == 1
    found = _by_tifffile(data)
    if found is not None and found.ndim == 3 and found.shape[2] >= channels and found.dtype == np.uint16:
        pixels = upright(found[..., :channels], orientation)
        return _straight(pixels) if premultiplied else pixels
    witness = np.asarray(image)
    found = _decode_cv2(data)[..., :channels]
    for pixels in (found, upright(found, orientation)):
        if pixels.dtype == np.uint16 and pixels.shape == witness.shape:
            straight = _straight(pixels) if premultiplied else pixels
            if tags.get(284, 1) == 1 and np.abs((straight >> 8).astype(np.int16) - witness).mean() < 1.0:
                return straight
    raise ImageError(
        f"{name} is a kind of 16-bit TIFF that cannot be read without tifffile",
        hint='install it with `pip install "linearsr[formats]"`, or save the file as PNG',
    )
