"""Pictures as they are scored: RGB on the 8-bit grid, cut to the scale; and what had to be done to them for that.

Rounding is that of `image_io.write`, so that a result is scored as the file it would be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from linearsr.atomic import make_folder
from linearsr.errors import ImageError
from linearsr.image_arrays import network_input
from linearsr.image_encode import quantised
from linearsr.image_io import ImageInfo, Picture, read, write

__all__ = [
    "cropped_size",
    "eight_bits",
    "notes_of",
    "pixels_digest",
    "read_input",
    "read_picture",
    "rows_digest",
    "save_picture",
]

Size = tuple[int, int]


def cropped_size(size: Size, scale: float) -> Size:
    """(width, height) that is left when a clean picture is cut to multiples of the scale, as `metrics.mod_crop`.

    A scale that is no whole number cuts nothing. A side that is smaller than the scale gives 0.
    """
    if scale != round(scale):
        return size
    return size[0] - size[0] % round(scale), size[1] - size[1] % round(scale)


def eight_bits(x: Tensor) -> Tensor:
    """Round (3, H, W) to what an 8-bit file holds: clamped to [0, 1], a multiple of 1/255, float32 on the host."""
    return torch.from_numpy(quantised(x.detach().to("cpu", torch.float32).numpy(), 8)).float().div_(255.0)


def pixels_digest(x: Tensor) -> str:
    """SHA-256 of size and pixels of (3, H, W) on the 8-bit grid."""
    digest = hashlib.sha256(str(tuple(x.shape)).encode())
    digest.update(quantised(x.numpy(), 8).tobytes())
    return digest.hexdigest()


def rows_digest(x: Tensor) -> str:
    """SHA-256 of the 8-bit RGB values of (3, H, W), row by row, as `linearsr degrade` writes them down."""
    return hashlib.sha256(np.ascontiguousarray(quantised(x.permute(1, 2, 0).numpy(), 8)).tobytes()).hexdigest()


def read_picture(path: Path, size: Size | None = None) -> Tensor:
    """Read a picture for scoring: gray repeated, alpha ignored, 16 bits rounded to 8.

    Args:
        path: of the file.
        size: (width, height) to cut to, at the right and the bottom; None for all of it.

    Returns:
        (3, H, W) float32 on the 8-bit grid.

    Raises:
        ImageError: it cannot be read whole, or is smaller than `size`.
    """
    rgb = read(path).rgb
    height, width = rgb.shape[:2]
    if size is not None:
        if width < size[0] or height < size[1]:
            raise ImageError(f"{path} is {width}x{height}, expected at least {size[0]}x{size[1]}")
        rgb = rgb[: size[1], : size[0]]
    return eight_bits(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))))


def read_input(path: Path) -> tuple[Tensor, bool]:
    """Read a picture that is to be enlarged, as `linearsr upscale` does, but for 16 bits rounded to 8.

    Returns:
        (3, h, w) float32 on the 8-bit grid, and whether the file is gray.

    Raises:
        ImageError: it cannot be read whole.
    """
    picture = read(path)
    return eight_bits(network_input(picture)), picture.info.is_gray


def save_picture(path: Path, x: Tensor) -> None:
    """Write (3, H, W) as an 8-bit PNG, whole or not at all; its folder is made.

    Raises:
        ImageError: the system refuses.
    """
    make_folder(path.parent)
    write(Picture.from_array(quantised(x.permute(1, 2, 0).contiguous().numpy(), 8)), path, format="PNG")


def notes_of(infos: Iterable[ImageInfo]) -> list[str]:
    """What reading such files for scoring changes, in plain words, once each."""
    kinds = tuple(infos)
    notes = (
        (any(info.bit_depth > 8 for info in kinds), "16-bit pictures rounded to 8 bits"),
        (any(info.is_gray for info in kinds), "gray pictures repeated to three channels"),
        (any(info.has_alpha for info in kinds), "alpha ignored"),
    )
    return [text for happens, text in notes if happens]
