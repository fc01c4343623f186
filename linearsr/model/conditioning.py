"""What the network is conditioned on, as one typed object, and the embedding of tags."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from linearsr.tags.vocabulary import MAX_TAGS

__all__ = ["Conditioning", "TagEmbedding", "pad_tag_ids"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """Condition of a batch; a batch of one row broadcasts over tiles."""

    lr: Tensor
    """(B, Cc, H, W) low-resolution condition on the latent grid; with an `lr_stem` (B, 3, h, w) pixels in [-1, 1]."""
    tags: Tensor
    """(B, K) int64 ids of a closed vocabulary, or (B, K, C) float text embeddings."""
    tag_mask: Tensor
    """(B, K) bool, True where a token counts. The first is always True, so that attention is never empty."""
    log2_scale: Tensor | None = None
    """(B or 1,) float32 log2 of the enlargement."""
    null_tags: Tensor | None = None
    """As `tags`, what guidance leads away from; None is the null tag of a closed vocabulary."""
    null_mask: Tensor | None = None
    """As `tag_mask`, for `null_tags`."""

    def without_tags(self) -> Conditioning:
        """The null condition for classifier-free guidance: same picture, no tags."""
        if self.null_tags is not None and self.null_mask is not None:
            return replace(self, tags=self.null_tags, tag_mask=self.null_mask)
        mask = torch.zeros_like(self.tag_mask)
        mask[:, 0] = True
        return replace(self, tags=torch.zeros_like(self.tags), tag_mask=mask)


def pad_tag_ids(ids: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Lay out tag ids for a batch: the null token first, then the tags, then padding.

    Args:
        ids: for each batch element any number of ids >= 1.

    Returns:
        (B, 1 + K) int64 ids and bool mask; K is `MAX_TAGS`, or the longest element's number if that is more, as it can
        be with content tags.
    """
    width = 1 + max([MAX_TAGS, *(len(values) for values in ids)])
    tags = torch.zeros(len(ids), width, dtype=torch.int64, device=device)
    mask = torch.zeros(len(ids), width, dtype=torch.bool, device=device)
    mask[:, 0] = True
    for row, values in enumerate(ids):
        if values:
            tags[row, 1 : 1 + len(values)] = torch.tensor(values, device=device)
            mask[row, 1 : 1 + len(values)] = True
    return tags, mask


class TagEmbedding(nn.Module):
    """Learned vectors for a closed vocabulary; row 0 is the null tag."""

    def __init__(self, num_tags: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tags + 1, dim) * 0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, K) int64 -> (B, K, dim)."""
        return nn.functional.embedding(ids, self.weight)
