"""The side-by-side picture of `--compare`: bicubic on the left, the result on the right, a label over each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr_cli.naming import is_picture_name

if TYPE_CHECKING:
    import numpy as np

    from linearsr.image_io import Picture

__all__ = ["comparison_path", "side_by_side", "write_comparison"]

GAP = 4
"""Pixels between the halves."""


def comparison_path(wanted: str | None, relative: Path, one_is_written: bool) -> Path | None:
    """Where the comparison of one picture goes.

    Args:
        wanted: of `--compare`: a name with a picture's ending is a file, which the first picture gets; else a folder.
        relative: the picture's place in the run, for a name in the folder.
        one_is_written: whether an earlier picture has the file.

    Returns:
        The path, or None if this picture has no comparison.
    """
    if wanted is None:
        return None
    path = Path(wanted)
    if not is_picture_name(path) or path.is_dir():
        return path / relative.parent / f"{relative.name}.compare.png"
    return None if one_is_written else path


def write_comparison(path: Path, source: Picture, result: Picture, label: str) -> None:
    """Write bicubic and result side by side, at full size and without transparency.

    Args:
        path: picture file to write; its suffix gives the format.
        source: the input.
        result: the output, whose size counts.
        label: over the right half.

    Raises:
        ImageError: it cannot be written.
    """
    from linearsr.image_io import write

    height, width = result.rgb.shape[:2]
    bicubic = _bicubic(source.rgb, (height, width))
    canvas = side_by_side(bicubic, result.rgb, ("bicubic", label))
    path.parent.mkdir(parents=True, exist_ok=True)
    info = replace(result.info, width=canvas.shape[1], height=canvas.shape[0], has_alpha=False, is_gray=False)
    picture = replace(result, rgb=canvas, alpha=None, info=info)
    write(picture, path, bit_depth="8", metadata="strip")


def side_by_side(left: np.ndarray, right: np.ndarray, labels: tuple[str, str]) -> np.ndarray:
    """Put two pictures of one size beside each other under a labelled strip.

    Args:
        left, right: (H, W, 3) float32 in [0, 1].
        labels: text over each; its middle is left out where it does not fit.

    Returns:
        (strip + H, 2 W + GAP, 3) float32 in [0, 1].
    """
    from linearsr.comparison.drawing import LIGHT, beside, labelled

    strip = max(14, min(48, round(right.shape[0] / 20)))
    halves = [labelled(half, text, strip, theme=LIGHT) for half, text in zip((left, right), labels, strict=True)]
    return beside(halves, theme=LIGHT, gap=GAP)


def _bicubic(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) to (height, width, 3) by MATLAB's bicubic, clipped to [0, 1]."""
    import numpy as np
    import torch

    from linearsr.resize import resize

    enlarged = resize(torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1))), size)
    return enlarged.clamp_(0, 1).permute(1, 2, 0).numpy()
