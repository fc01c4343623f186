"""What a tagger is: it looks at the low-resolution picture and names a few sure tags."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["FixedTagger", "Tagger"]


@runtime_checkable
class Tagger(Protocol):
    """Names tags for one picture. Precision over recall: a missing tag costs little, a wrong one misleads."""

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Tags of one picture.

        Args:
            lr: (3, h, w) float32 in [0, 1], sRGB-encoded, at its native size.

        Returns:
            Canonical names of the model's vocabulary, surest first; empty for none.
        """


class FixedTagger:
    """Gives every picture the same tags: the user's own, or none."""

    def __init__(self, tags: tuple[str, ...] = ()) -> None:
        self.tags = tags

    def tag(self, lr: Tensor) -> tuple[str, ...]:
        """Return the fixed tags, whatever the picture."""
        return self.tags
