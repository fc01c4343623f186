"""What the two model families do differently with a batch; loop, validation and export share all the rest.

The compact family learns the residual against the enlarged input, in a latent without loss and without weights. The
paper-scale family learns the latent of a frozen autoencoder, from native low-resolution pixels and text embeddings.
`linearsr.families` is the same cut for users, who have tiles and no originals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.model.conditioning import Conditioning
from linearsr_train.data.batches import Batch

if TYPE_CHECKING:
    from linearsr.autoencoders.dcae import DcaeAutoencoder

__all__ = ["LearnedLatents", "Latents", "PixelLatents", "latents_of"]

Embeddings = Callable[[list[int]], list[Tensor]]
"""Ids of prompts, 0 for the empty one, to their embeddings, each (K, C)."""


class Latents(Protocol):
    """One family's way between batches and the network; all tensors are on the batch's device."""

    factor: int
    """Pixels along one side of a latent pixel."""
    is_lossless: bool
    """Whether `decode` gives back what `encode` was given."""

    def encode(self, batch: Batch) -> Tensor:
        """Clean latent (B, C, H / f, W / f) float32 of the originals."""

    def condition(self, batch: Batch) -> Conditioning:
        """What the network is told of them."""

    def decode(self, latent: Tensor, batch: Batch) -> Tensor:
        """Latent to pixels (B, 3, H, W) in [0, 1], not clamped."""


class PixelLatents:
    """`compact`: residual pixels by space-to-depth, the enlarged input, ids of a closed vocabulary."""

    is_lossless = True

    def __init__(self, autoencoder: PixelAutoencoder) -> None:
        self.autoencoder = autoencoder
        self.factor = autoencoder.factor

    def _std(self, batch: Batch) -> Tensor:
        """(B,) deviation of the residual at each sample's scale."""
        return torch.tensor([self.autoencoder.residual_std(float(s)) for s in batch.scale], device=batch.hr.device)

    def encode(self, batch: Batch) -> Tensor:
        """Residual over its deviation."""
        return self.autoencoder.encode(batch.hr, batch.lr_up, self._std(batch))

    def condition(self, batch: Batch) -> Conditioning:
        """Frequency coefficients of the enlarged input, tag ids, scale."""
        return Conditioning(
            lr=self.autoencoder.condition(batch.lr_up),
            tags=batch.tags,
            tag_mask=batch.tag_mask,
            log2_scale=batch.scale.log2(),
        )

    def decode(self, latent: Tensor, batch: Batch) -> Tensor:
        """The enlarged input plus the residual."""
        return self.autoencoder.decode(latent, batch.lr_up, self._std(batch))


class LearnedLatents:
    """`sana-*`: the latent of a frozen autoencoder, native low-resolution pixels, prompts through a text encoder.

    Args:
        autoencoder: on the device of the run.
        embeddings: of the prompts that the batches number.
    """

    is_lossless = False

    def __init__(self, autoencoder: DcaeAutoencoder, embeddings: Embeddings) -> None:
        self.autoencoder = autoencoder
        self.embeddings = embeddings
        self.factor = autoencoder.factor

    @torch.no_grad()
    def encode(self, batch: Batch) -> Tensor:
        """By the autoencoder, which is not trained."""
        return self.autoencoder.encode(batch.hr)

    def condition(self, batch: Batch) -> Conditioning:
        """Pixels in [-1, 1] for the network's stem, and the embedded prompts."""
        from linearsr.tags.encoder import pad_embeddings

        assert batch.lr is not None, "the dataset of this family keeps native pixels"
        tags, mask = pad_embeddings(self.embeddings(batch.tags[:, 1].tolist()), batch.hr.device)
        return Conditioning(lr=batch.lr * 2.0 - 1.0, tags=tags, tag_mask=mask)

    @torch.no_grad()
    def decode(self, latent: Tensor, batch: Batch) -> Tensor:
        """By the autoencoder."""
        return self.autoencoder.decode(latent).to(latent.device)


def latents_of(autoencoder: PixelAutoencoder | Latents) -> Latents:
    """A family by its own object; the pixel autoencoder, which has nothing else to it, stands for its family."""
    return PixelLatents(autoencoder) if isinstance(autoencoder, PixelAutoencoder) else autoencoder
