"""Results that are kept as pictures, and never in the place of another picture."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from linearsr.errors import ImageError
from linearsr.evaluation.ledger import Result
from linearsr.evaluation.pictures import pixels_digest, read_picture, save_picture

__all__ = ["read_saved", "save_result"]


def save_result(place: Path, sr: Tensor | None) -> None:
    """Save a result where there is none yet.

    Args:
        place: of the file.
        sr: (3, H, W) on the 8-bit grid; None for a result that is known to be another than the picture there.

    Raises:
        ImageError: another picture is there, or one that cannot be read; or the system refuses.
    """
    if sr is not None and not place.is_file():
        save_picture(place, sr)
    elif sr is None or not torch.equal(read_picture(place), sr):
        raise ImageError(f"{place} is there and is another picture", hint="save to another folder, or remove it")


def read_saved(place: Path, known: Result) -> Tensor | None:
    """The result that an earlier run saved, if it lies there still."""
    try:
        saved = read_picture(place) if place.is_file() else None
    except ImageError:
        return None
    return saved if saved is not None and pixels_digest(saved) == known.pixels else None
