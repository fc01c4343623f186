"""Pictures as other libraries hold them (PIL, NumPy, torch) to `Picture` and back to the same kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from linearsr.alpha import bleed_colors
from linearsr.errors import ShapeError
from linearsr.image_io import Picture

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["as_picture", "network_input"]


def as_picture(image: Picture | Image.Image | np.ndarray | Tensor) -> tuple[Picture, Callable[[Picture], Any]]:
    """Turn a picture of any of the usual kinds into a `Picture`, and give the way back.

    Args:
        image: a `Picture`; a PIL image (8 bits; RGB or RGBA comes back); an array (H, W, 3) or (H, W, 4), uint8 or
            float in [0, 1]; or a tensor (3, H, W) float in [0, 1].

    Returns:
        The picture, and a function that turns a `Picture` into the kind of `image`.

    Raises:
        ShapeError: an array or tensor of another shape, or values whose range is not known.
    """
    if isinstance(image, Picture):
        return image, lambda result: result
    if isinstance(image, Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    from PIL import Image as PILImage

    picture, array_from = _from_array(_pil_array(image))
    return picture, lambda result: PILImage.fromarray(array_from(result))


def network_input(picture: Picture) -> Tensor:
    """(3, h, w) float32 in [0, 1]; colours under full transparency are replaced by those beside them."""
    rgb = picture.rgb if picture.alpha is None else bleed_colors(picture.rgb, picture.alpha)
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32))


def _from_tensor(tensor: Tensor) -> tuple[Picture, Callable[[Picture], Tensor]]:
    if tensor.dim() != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
        raise ShapeError(f"tensor is {tensor.dtype} {tuple(tensor.shape)}, expected (3, H, W) float in [0, 1]")

    def back(result: Picture) -> Tensor:
        planes = np.ascontiguousarray(result.rgb.transpose(2, 0, 1))
        return torch.from_numpy(planes).to(tensor.device, tensor.dtype)

    return Picture.from_array(tensor.detach().cpu().float().permute(1, 2, 0).numpy()), back


def _from_array(array: np.ndarray) -> tuple[Picture, Callable[[Picture], np.ndarray]]:
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ShapeError(f"array is {array.shape}, expected (H, W, 3) or (H, W, 4)")
    is_bytes = array.dtype == np.uint8
    if not is_bytes and not np.issubdtype(array.dtype, np.floating):
        raise ShapeError(f"array holds {array.dtype}, expected uint8 or float in [0, 1]")
    pixels = array.astype(np.float32) / 255.0 if is_bytes else array.astype(np.float32)

    def back(result: Picture) -> np.ndarray:
        planes = result.rgb if result.alpha is None else np.dstack([result.rgb, result.alpha])
        return np.floor(planes.clip(0, 1) * 255.0 + 0.5).astype(np.uint8) if is_bytes else planes

    return Picture.from_array(pixels[:, :, :3], pixels[:, :, 3] if pixels.shape[2] == 4 else None), back


def _pil_array(image: Image.Image) -> np.ndarray:
    """8-bit RGB or RGBA of a PIL image; 16-bit gray is rounded, as Pillow's own conversion clips it to white."""
    if image.mode.startswith("I;16"):
        gray = np.rint(np.asarray(image).astype(np.float32) / 257.0).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ShapeError(
            f"picture has mode {image.mode!r}, whose range is not known, expected 8-bit or I;16",
            hint="scale it to [0, 1] and give an array (H, W, 3)",
        )
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    return np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
