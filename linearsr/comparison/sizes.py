"""One size for the pictures of a scene: which sizes belong together, and how the smaller ones are enlarged.

Pure arithmetic on sizes, then tensors; no files.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from linearsr.metrics import quantise
from linearsr.resize import resize

__all__ = ["CROP_PX", "belongs", "bring_to", "common_size", "enlargement"]

Size = tuple[int, int]
"""(width, height)."""
CROP_PX = 7
"""What a scale of up to 8 leaves over at the right and bottom of a clean picture; cut off, never resized."""
_CROP_RATIO = 1.05


def _is_cut(size: Size, largest: Size) -> bool:
    """Whether a picture is the largest one but for a few columns and rows cut off."""
    return all(
        0 <= whole - side <= CROP_PX and whole <= _CROP_RATIO * side for side, whole in zip(size, largest, strict=True)
    )


def belongs(size: Size, largest: Size) -> bool:
    """Whether pictures of two sizes can show the same, one of them shrunk or cut.

    They can if one factor explains both sides, each rounded up or down to whole pixels.

    Args:
        size: (width, height).
        largest: (width, height) of the picture with the most pixels.
    """
    if _is_cut(size, largest):
        return True
    least = max(whole / (side + 1) for side, whole in zip(size, largest, strict=True))
    most = min(whole / (side - 1) if side > 1 else float("inf") for side, whole in zip(size, largest, strict=True))
    return least < most


def common_size(sizes: Iterable[Size]) -> Size:
    """Size to compare at: the largest, less what others of nearly that size lack.

    Args:
        sizes: (width, height) of each picture, at least one.

    Returns:
        (width, height).
    """
    known = list(sizes)
    largest = max(known, key=lambda size: (size[0] * size[1], size))
    near = [size for size in known if _is_cut(size, largest)]
    return min(size[0] for size in near), min(size[1] for size in near)


def enlargement(size: Size, common: Size) -> float:
    """Factor by which a picture of that size is enlarged to the common size; 1 if it is not, or only cut."""
    if size[0] >= common[0] and size[1] >= common[1]:
        return 1.0
    return max(common[0] / size[0], common[1] / size[1])


def bring_to(picture: Tensor, common: Size) -> Tensor:
    """Cut or enlarge a picture to the common size.

    Args:
        picture: (3, h, w) float32 in [0, 1].
        common: (width, height), as `common_size` gives it.

    Returns:
        (3, H, W), cut at the right and bottom, or enlarged by MATLAB's bicubic, on the 8-bit grid.
    """
    width, height = common
    if enlargement((picture.shape[-1], picture.shape[-2]), common) == 1.0:
        return quantise(picture[:, :height, :width])
    return quantise(resize(picture, (height, width)))
