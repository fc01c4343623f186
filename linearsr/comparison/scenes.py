"""What sheets and pages show: scenes, each one view by every method, and the metrics they are scored by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["MetricColumn", "ReportImage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricColumn:
    """How the scores of one metric are shown."""

    name: str
    """Key in `ReportImage.scores`."""
    title: str
    unit: str
    """Such as `dB`; may be empty."""
    digits: int
    """Decimals shown."""
    lower_better: bool
    definition: str
    """One sentence, shown at the foot of the page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportImage:
    """One scene by every method."""

    name: str
    """Unique in a report."""
    width: int
    height: int
    """Size in which places are given and which counts as 100 %; the arrays may be smaller, of the same shape."""
    pictures: Mapping[str, np.ndarray]
    """Label -> pixels (H, W, 3) uint8, all of one size, the labels of the report."""
    scores: Mapping[str, Mapping[str, float]]
    """Label -> metric -> value. What has none is left out; may be infinite."""
    places: tuple[tuple[int, int, int, int], ...] = ()
    """(left, top, width, height) of the windows that differ most, the first the most."""
    notes: tuple[str, ...] = ()
    enlarged: Mapping[str, float] = field(default_factory=dict)
    """Label -> factor by which bicubic enlarged the file to this size. A label that says so itself is left out."""
    cut_from: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Label -> (width, height) of the file, where it was cut to this size."""

    def column_head(self, label: str) -> str:
        """Label with what was done to the picture of this scene: `inputs (x4 bicubic)`."""
        return f"{label} (x{self.enlarged[label]:.3g} bicubic)" if label in self.enlarged else label

    @property
    def size_text(self) -> str:
        """The size, after those that were cut to it: `250 x 361, cut to 248 x 360`."""
        size = f"{self.width} x {self.height}"
        cut = dict.fromkeys(f"{width} x {height}" for width, height in self.cut_from.values())
        return f"{' and '.join(cut)}, cut to {size}" if cut else size

    @property
    def changes(self) -> tuple[str, ...]:
        """What was done to which of the pictures, a sentence each."""
        enlarged = (f"{label}: enlarged x{factor:.3g} by bicubic" for label, factor in self.enlarged.items())
        cut = (f"{label}: cut from {width} x {height}" for label, (width, height) in self.cut_from.items())
        return (*enlarged, *cut)
