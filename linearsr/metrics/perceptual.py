"""LPIPS v0.1 with AlexNet, from its weights alone: no torchvision and no package of its own needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.errors import WeightsError
from linearsr.metrics.planes import crop_pair

__all__ = ["LPIPS_MIN_PX", "Lpips"]

_MEAN, _STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_CONVS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # layer number, stride, padding
LPIPS_MIN_PX = 31
"""Smallest side of a picture: below it AlexNet's second pooling has nothing left to pool."""


class Lpips:
    """LPIPS v0.1 with AlexNet features; lower is closer. Make one with `from_file`.

    Args:
        weights: `features.{0,3,6,8,10}.{weight,bias}` of torchvision's AlexNet and `lin{0..4}.weight` (1, C, 1, 1).
            Kept as given; no gradient flows to them.

    Raises:
        WeightsError: a tensor is missing.

    Source: arXiv:1801.03924, eq. 1.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        needed = [f"features.{n}.{part}" for n, _, _ in _CONVS for part in ("weight", "bias")]
        needed += [f"lin{n}.weight" for n in range(len(_CONVS))]
        missing = [name for name in needed if name not in weights]
        if missing:
            raise WeightsError(
                f"LPIPS weights lack {', '.join(missing)}",
                hint="expected AlexNet features.{0,3,6,8,10} and lin{0..4} in one safetensors file",
            )
        self._weights = {name: weights[name].detach().float() for name in needed}

    @classmethod
    def from_file(cls, path: Path) -> Lpips:
        """Read the weights from one safetensors file.

        Raises:
            WeightsError: the file is missing, damaged or lacks a tensor.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(str(path))
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"cannot read LPIPS weights from {path}: {error}", hint="check the path") from error
        return cls(weights)

    def to(self, device: torch.device | str) -> Lpips:
        """Return the same metric with its weights on `device`; pictures must be on that device too."""
        return Lpips({name: tensor.to(device) for name, tensor in self._weights.items()})

    def _features(self, x: Tensor) -> list[Tensor]:
        """ReLU features of the five convolutions, each divided by its norm over channels."""
        mean = torch.tensor(_MEAN, device=x.device).view(3, 1, 1)
        std = torch.tensor(_STD, device=x.device).view(3, 1, 1)
        x = (x.float() * 2.0 - 1.0 - mean) / std
        features = []
        for layer, (number, stride, padding) in enumerate(_CONVS):
            if layer in (1, 2):
                x = F.max_pool2d(x, kernel_size=3, stride=2)
            weight, bias = self._weights[f"features.{number}.weight"], self._weights[f"features.{number}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
            # vector_norm has a zero subgradient where all channels are zero; sqrt(sum) would give nan there
            features.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10))
        return features

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each picture of a batch, differentiable in both.

        Args:
            a: (3, H, W) or (B, 3, H, W) in [0, 1], at least 31 pixels on a side, on the weights' device.
            b: the other picture, same shape.

        Returns:
            (B,) float32, B = 1 for a single picture.

        Raises:
            ShapeError: shapes differ or a side is too small.
        """
        first, second = crop_pair(a, b, minimum=LPIPS_MIN_PX)
        total = torch.zeros(first.shape[0], device=first.device)
        for layer, (x, y) in enumerate(zip(self._features(first), self._features(second), strict=True)):
            weighted = (x - y).square() * self._weights[f"lin{layer}.weight"].view(1, -1, 1, 1)
            total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> float:
        """Mean distance over the batch, without gradients; see `distance`."""
        return float(self.distance(a, b).mean())
