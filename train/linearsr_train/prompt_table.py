"""Embeddings of all prompts of a run, made before it begins; the text encoder is gone while the network trains."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from linearsr.tags.encoder import PromptEmbedder

__all__ = ["PromptTable"]

KEPT_BYTES = 4 * 2**30
"""Embeddings held in memory; the others are read from the disk's cache when a batch needs them."""
AT_ONCE = 64


class PromptTable:
    """Looks up the embeddings of numbered prompts; number 0 is the empty prompt, which untold crops get.

    Args:
        embedder: with a cache on disk.
        vocabulary: the other prompts, from number 1 on.
    """

    def __init__(self, embedder: PromptEmbedder, vocabulary: Sequence[str]) -> None:
        self.prompts = ("", *vocabulary)
        self._embedder = embedder
        self._kept: dict[int, Tensor] = {}

    def fill(self) -> None:
        """Embed every prompt that is not cached, then let go of the encoder.

        Raises:
            LinearSRError: the encoder cannot be loaded.
        """
        room = KEPT_BYTES
        for first in range(0, len(self.prompts), AT_ONCE):
            part = self.prompts[first : first + AT_ONCE]
            for number, embedding in enumerate(self._embedder.embed(part), start=first):
                room -= embedding.nbytes
                if room >= 0:
                    self._kept[number] = embedding
        self._embedder.free()

    def __call__(self, numbers: list[int]) -> list[Tensor]:
        """(K, C) float32 on the host for each number."""
        missing = [number for number in numbers if number not in self._kept]
        found = dict(zip(missing, self._embedder.embed([self.prompts[n] for n in missing]), strict=True))
        return [self._kept[number] if number in self._kept else found[number] for number in numbers]
