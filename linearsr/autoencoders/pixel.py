"""The compact family's latent: pixels by space-to-depth, without weights and without loss.

The latent is the residual of the high-resolution picture against the enlarged low-resolution one, divided by a stored
standard deviation for the scale, so that its variance is of the order of one, as the flow formulas assume. The
condition is the enlarged picture on the same grid: at x4 a latent pixel covers exactly one input pixel, and at smaller
scales nothing of the input is lost.

The condition goes to the network in a 4x4 cosine basis with a gain for each frequency. Plain space-to-depth of a
smooth picture gives 48 nearly equal channels, in which the detail that matters is a thousandth of the mean; the basis
takes them apart and the gains bring them to about unit variance. Both are invertible constants, so nothing is lost.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.config import AutoencoderConfig
from linearsr.errors import ConfigError, ShapeError

__all__ = ["PixelAutoencoder"]


GAINS = (0.45, 5.5, 20.0, 30.0, 30.0, 30.0, 30.0)
"""Gain by the sum of the two frequency indices: about the inverse standard deviation of a cosine coefficient over
training photographs (geometric mean of x2 and x4 inputs), bounded at 30 so that a sharp x1 input stays moderate."""


def _frequency_basis(factor: int) -> Tensor:
    """(f^2, f^2) orthonormal 2-D cosine basis over a block, each row times its gain."""
    n = torch.arange(factor, dtype=torch.float64)
    rows = torch.cos(math.pi * (2 * n[None, :] + 1) * n[:, None] / (2 * factor)) * math.sqrt(2 / factor)
    rows[0] /= math.sqrt(2)
    order = (n[:, None] + n[None, :]).long().flatten().clamp(max=len(GAINS) - 1)
    return (torch.tensor(GAINS, dtype=torch.float64)[order][:, None] * torch.kron(rows, rows)).float()


class PixelAutoencoder:
    """Space-to-depth of a normalised residual; `decode` is the exact inverse of `encode`.

    Args:
        config: factor and residual standard deviations by scale.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        self.factor = config.factor
        self._basis = _frequency_basis(config.factor)
        try:
            self._knots = sorted((math.log2(float(scale)), std) for scale, std in config.residual_std.items())
        except ValueError:  # a key that is no number above 0
            self._knots = []
        if not self._knots or not all(std > 0 for _, std in self._knots):
            raise ConfigError(f"autoencoder.residual_std is {config.residual_std}, expected positive values by scale")

    @property
    def latent_channels(self) -> int:
        """Channels of latent and condition."""
        return 3 * self.factor**2

    def residual_std(self, scale: float) -> float:
        """Standard deviation of the residual at `scale`, linear in log2(scale) between stored values, flat beyond."""
        x = math.log2(max(scale, 1.0))
        (x0, y0), *rest = self._knots
        if x <= x0:
            return y0
        for x1, y1 in rest:
            if x <= x1:
                return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
            x0, y0 = x1, y1
        return y0

    def condition(self, lr_up: Tensor) -> Tensor:
        """Enlarged input (B, 3, H, W) in [0, 1] -> condition (B, 3 f^2, H / f, W / f) of about unit variance."""
        self._check(lr_up)
        x = F.pixel_unshuffle(lr_up * 2.0 - 1.0, self.factor).unflatten(1, (3, -1))  # (B, 3, f^2, H / f, W / f)
        basis = self._basis.to(x.device, x.dtype)
        return torch.einsum("oi,bcihw->bcohw", basis, x).flatten(1, 2)

    def encode(self, hr: Tensor, lr_up: Tensor, scale: float | Tensor) -> Tensor:
        """Latent of a picture given its enlarged low-resolution version.

        Args:
            hr, lr_up: (B, 3, H, W) in [0, 1]; H and W multiples of the factor.
            scale: enlargement, or the (B,) residual standard deviations themselves as a tensor.

        Returns:
            (B, 3 f^2, H / f, W / f) float32, variance of the order of one.
        """
        self._check(hr)
        return F.pixel_unshuffle((hr - lr_up) / self._std(scale), self.factor)

    def decode(self, latent: Tensor, lr_up: Tensor, scale: float | Tensor) -> Tensor:
        """Inverse of `encode`; not clamped."""
        return lr_up + F.pixel_shuffle(latent, self.factor) * self._std(scale)

    def _std(self, scale: float | Tensor) -> float | Tensor:
        return scale.view(-1, 1, 1, 1) if isinstance(scale, Tensor) else self.residual_std(scale)

    def _check(self, image: Tensor) -> None:
        if image.dim() != 4 or image.shape[1] != 3 or image.shape[2] % self.factor or image.shape[3] % self.factor:
            raise ShapeError(
                f"image is {tuple(image.shape)}, expected (B, 3, H, W) with H and W multiples of {self.factor}"
            )
