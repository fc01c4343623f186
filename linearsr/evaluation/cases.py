"""One picture of an evaluation: the clean picture, its input, and keys of both, each read when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from linearsr.errors import ImageError, OutOfMemoryError, ShapeError
from linearsr.evaluation.cache import file_digest, key_of
from linearsr.evaluation.making import Input
from linearsr.evaluation.pairing import Pair
from linearsr.evaluation.pictures import (
    cropped_size,
    eight_bits,
    notes_of,
    pixels_digest,
    read_input,
    read_picture,
    rows_digest,
)
from linearsr.image_io import ImageInfo, probe

__all__ = ["FAULTS", "Case", "Degrade", "DegradedPicture"]

FAULTS = (ImageError, ShapeError, OutOfMemoryError, MemoryError)
"""What one picture may fail with; everything else would fail the next one too."""


class DegradedPicture(Protocol):
    """An input that was made of a clean picture."""

    @property
    def lr(self) -> Tensor:
        """(3, h, w) in [0, 1]."""

    @property
    def tags(self) -> tuple[str, ...]:
        """What was done."""


Degrade = Callable[[Tensor, str], DegradedPicture]
"""From a clean picture (3, H, W) on the 8-bit grid and the name of its file."""


class Case:
    """A clean picture and what belongs to it.

    Args:
        pair: its files.
        scale: that a whole multiple of is kept, see `cropped_size`.
        degrade: makes the input; None takes the one of `pair`.

    Attributes:
        size: (width, height) that is scored.
        notes: what reading its files changes; from the headers, so that they are the same when nothing is read.
        is_unreadable: whether the clean picture was found to be damaged.
        is_other_input: whether the input was found not to be what is written down of it.

    Raises:
        ImageError: the clean picture's headers cannot be read, or it is smaller than the scale.
    """

    def __init__(self, pair: Pair, scale: float, degrade: Degrade | None) -> None:
        self.pair, self.is_unreadable, self.is_other_input = pair, False, False
        self._degrade = degrade
        header = probe(pair.hr)
        full, self._is_gray = (header.width, header.height), header.is_gray
        self.size = cropped_size(full, scale)
        if min(self.size) < 1:
            raise ImageError(
                f"{pair.hr} is {full[0]}x{full[1]}, expected at least {scale:g} pixels a side, the scale",
                hint="leave the picture out, or use a smaller scale",
            )
        others = (pair.lr if degrade is None else None, *pair.srs.values())
        headers = [header, *(info for info in map(_probe, others) if info is not None)]
        cropped = [] if self.size == full else [f"hr cropped to multiples of {scale:g} (mod-crop)"]
        self.notes = (*cropped, *notes_of(headers))

    @cached_property
    def reference(self) -> str:
        """Key of the clean picture as it is scored.

        Raises:
            ImageError: its file cannot be read.
        """
        return key_of({"file": file_digest(self.pair.hr), "size": self.size})

    @cached_property
    def hr(self) -> Tensor:
        """(3, H, W) on the 8-bit grid, cut to `size`.

        Raises:
            ImageError: it cannot be read whole.
        """
        try:
            return read_picture(self.pair.hr, self.size)
        except FAULTS:
            self.is_unreadable = True
            raise

    @property
    def lr(self) -> Tensor | None:
        """(3, h, w) on the 8-bit grid; None where there is none.

        Raises:
            ImageError: it, or the picture that it is made of, cannot be read whole.
        """
        return self._given[0]

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Key parts of the input; errors as `lr`."""
        lr, gray, tags = self._given
        return {"pixels": None if lr is None else pixels_digest(lr), "gray": gray, "tags": tags}

    @cached_property
    def _given(self) -> tuple[Tensor | None, bool, tuple[str, ...] | None]:
        """Input, whether it is gray, as the file that it would be, and its tags where they are known."""
        if self._degrade is not None:
            made = self._degrade(self.hr, self.pair.hr.name)
            lr = eight_bits(made.lr)
            gray = self._is_gray and bool((lr == lr[:1]).all())  # noise in colour makes a gray picture coloured
            return lr, gray, tuple(made.tags)
        if self.pair.lr is None:
            return None, False, None
        lr, gray = read_input(self.pair.lr)
        return lr, gray, self._known_tags(lr)

    def _known_tags(self, lr: Tensor) -> tuple[str, ...] | None:
        """What was done to a given input, where that is written down of these very pixels."""
        known = self.pair.known
        if known is None:
            return None
        if rows_digest(lr) != known.sha256:
            self.is_other_input = True
            return None
        return known.tags

    def sample(self, *, with_reference: bool) -> Input:
        """What a method is given."""
        lr, gray, tags = self._given
        hr = self.hr if with_reference else None
        return Input(image=self.pair.image, size=self.size, lr=lr, hr=hr, gray=gray, tags=tags, srs=self.pair.srs)


def _probe(path: Path | None) -> ImageInfo | None:
    try:
        return None if path is None else probe(path)
    except ImageError:
        return None
