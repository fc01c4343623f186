"""Distances between a picture and its reference: PSNR, SSIM, GMSD and LPIPS, each by its published definition.

Owns the definitions and `METRICS`, the table that says which way each one points. Knows nothing of models, files or
folders. Every picture is RGB, sRGB encoded, float in [0, 1], as (3, H, W) or (B, 3, H, W); nothing here rounds to
8 bits by itself: published figures need `quantise` on both pictures first. Sums run in float64 where float32 would
cost digits (SSIM subtracts two large numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from linearsr.errors import ShapeError, WeightsError

__all__ = ["METRICS", "Lpips", "Metric", "gmsd", "luma", "mod_crop", "psnr", "quantise", "ssim"]

_LUMA = (65.481, 128.553, 24.966)
_GREY = (0.2989, 0.5870, 0.1140)
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2
_GMSD_C = 170.0
_LPIPS_MEAN, _LPIPS_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_LPIPS_CONVS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))  # layer number, stride, padding
_LPIPS_MIN_PX = 31  # below this AlexNet's second pooling has nothing left to pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a number means and which way is better."""

    direction: Literal["higher", "lower"]
    """Whether a higher or a lower value is the better one."""
    range: tuple[float, float]
    """Smallest and largest value possible."""
    needs_reference: bool
    """True if it compares against a clean picture."""
    unit: str
    """Unit of the value; empty for a bare number."""
    definition: str
    """How the value is made, complete enough to make it again."""
    source: str
    """Where the definition comes from."""

    @property
    def lower_better(self) -> bool:
        """True if a smaller value is the better one."""
        return self.direction == "lower"


_INF = float("inf")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "psnr_y": Metric(
            direction="higher",
            range=(0.0, _INF),
            needs_reference=True,
            unit="dB",
            definition="10 log10(255^2 / MSE) of unrounded BT.601 limited-range luma of 8-bit pictures, border cropped",
            source="BT.601; the protocol of the super-resolution benchmarks (MATLAB rgb2ycbcr)",
        ),
        "ssim_y": Metric(
            direction="higher",
            range=(-1.0, 1.0),
            needs_reference=True,
            unit="",
            definition="mean SSIM of luma, 11x11 Gaussian window of sigma 1.5, valid windows only, K = 0.01 and 0.03",
            source="Wang et al., IEEE TIP 13(4), 2004, eq. 13",
        ),
        "gmsd": Metric(
            direction="lower",
            range=(0.0, 0.5),
            needs_reference=True,
            unit="",
            definition="standard deviation of the gradient-magnitude similarity: grey 0..255, halved by 2x2 averages, "
            "Prewitt gradients, c = 170",
            source="arXiv:1308.3052, eq. 3 to 6",
        ),
        "lpips": Metric(
            direction="lower",
            range=(0.0, _INF),
            needs_reference=True,
            unit="",
            definition="LPIPS v0.1 with AlexNet: squared differences of channel-normalised features, weighted, "
            "averaged over positions, summed over five layers",
            source="arXiv:1801.03924, eq. 1",
        ),
    }
)


def _pair(a: Tensor, b: Tensor, border: int = 0, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Check two pictures and return both as (B, 3, H, W) with `border` pixels cut from every side."""
    if a.shape != b.shape or a.dim() not in (3, 4) or a.shape[-3] != 3:
        raise ShapeError(
            f"pictures are {tuple(a.shape)} and {tuple(b.shape)}; expected two equal (3, H, W) or (B, 3, H, W)",
            hint="crop or resize one of the two first",
        )
    height, width = a.shape[-2] - 2 * border, a.shape[-1] - 2 * border
    if border < 0 or min(height, width) < minimum:
        raise ShapeError(
            f"{a.shape[-2]}x{a.shape[-1]} pixels with border {border} leave {height}x{width}; "
            f"expected at least {minimum}x{minimum}",
            hint="use a larger picture or a smaller border",
        )
    window = (..., slice(border, border + height), slice(border, border + width))
    first, second = a[window], b[window]
    return (first[None], second[None]) if a.dim() == 3 else (first, second)


def quantise(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the nearest of the 256 8-bit values; dtype and shape kept."""
    return x.clamp(0, 1).mul(255).round().div(255)


def luma(x: Tensor) -> Tensor:
    """Limited-range luma, 16 for black and 235 for white, not rounded.

    Args:
        x: (3, H, W) or (B, 3, H, W) RGB in [0, 1].

    Returns:
        (1, H, W) or (B, 1, H, W), dtype of x.

    Source: BT.601, as MATLAB's rgb2ycbcr.
    """
    if x.dim() not in (3, 4) or x.shape[-3] != 3:
        raise ShapeError(f"picture is {tuple(x.shape)}; expected (3, H, W) or (B, 3, H, W)")
    weights = torch.tensor(_LUMA, dtype=x.dtype, device=x.device).view(3, 1, 1)
    return (x * weights).sum(dim=-3, keepdim=True) + 16.0


def _planes(x: Tensor, luma_only: bool) -> Tensor:
    """float64 planes on the 0..255 scale: luma (B, 1, H, W) or RGB (B, 3, H, W)."""
    return luma(x.double()) if luma_only else x.double() * 255.0


def psnr(a: Tensor, b: Tensor, *, border: int = 0, luma_only: bool = True) -> float:
    """Peak signal-to-noise ratio in dB, peak 255; identical pictures give infinity.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch the mean of the pictures' dB is returned.
        b: the other picture, same shape.
        border: pixels cut from every side; the benchmarks use the scale.
        luma_only: compare `luma` (the benchmarks' way); else all three channels together.

    Raises:
        ShapeError: shapes differ or the border leaves nothing.
    """
    first, second = _pair(a, b, border)
    error = (_planes(first, luma_only) - _planes(second, luma_only)).square().mean(dim=(1, 2, 3))
    return float((10.0 * torch.log10(255.0**2 / error)).mean())


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    """Separable filter of (B, C, H, W) by one 1-D kernel, valid positions only."""
    channels, taps = x.shape[1], kernel.numel()
    x = F.conv2d(x, kernel.view(1, 1, taps, 1).expand(channels, 1, taps, 1), groups=channels)
    return F.conv2d(x, kernel.view(1, 1, 1, taps).expand(channels, 1, 1, taps), groups=channels)


def ssim(a: Tensor, b: Tensor, *, border: int = 0, luma_only: bool = True) -> float:
    """Mean structural similarity, 1 for identical pictures.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch, and of the channels, the mean is returned.
        b: the other picture, same shape.
        border: pixels cut from every side; the benchmarks use the scale.
        luma_only: compare `luma` (the benchmarks' way); else the mean over R, G and B.

    Raises:
        ShapeError: shapes differ or fewer than 11 pixels are left on a side.

    Source: Wang et al. 2004, eq. 13; 11x11 Gaussian window, sigma 1.5, valid windows, constants for range 255.
    """
    first, second = _pair(a, b, border, minimum=_SSIM_WINDOW)
    x, y = _planes(first, luma_only), _planes(second, luma_only)
    offset = torch.arange(_SSIM_WINDOW, dtype=x.dtype, device=x.device) - _SSIM_WINDOW // 2
    kernel = torch.exp(-offset.square() / (2 * _SSIM_SIGMA**2))
    kernel = kernel / kernel.sum()
    mean_x, mean_y = _blur(x, kernel), _blur(y, kernel)
    var_x = _blur(x * x, kernel) - mean_x * mean_x
    var_y = _blur(y * y, kernel) - mean_y * mean_y
    covariance = _blur(x * y, kernel) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    denominator = (mean_x * mean_x + mean_y * mean_y + _SSIM_C1) * (var_x + var_y + _SSIM_C2)
    return float((numerator / denominator).mean())


def _gradient_magnitude(grey: Tensor) -> Tensor:
    """Prewitt gradient magnitude of (B, 1, H, W), zeros beyond the edge, as the authors' program."""
    column = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=grey.dtype, device=grey.device) / 3.0
    kernels = torch.stack((column, column.t()))[:, None]  # (2, 1, 3, 3)
    return F.conv2d(grey, kernels, padding=1).square().sum(dim=1, keepdim=True).sqrt()


def gmsd(a: Tensor, b: Tensor) -> float:
    """Gradient magnitude similarity deviation, 0 for identical pictures; needs no weights.

    Args:
        a: (3, H, W) or (B, 3, H, W) in [0, 1]; of a batch the mean is returned.
        b: the other picture, same shape.

    Raises:
        ShapeError: shapes differ or a side has fewer than 4 pixels.

    Source: arXiv:1308.3052 eq. 3 to 6 with the authors' constants for the 0..255 scale; the deviation is the sample
        one (divisor n - 1) and an odd last row or column is averaged with zeros, as in their program.
    """
    maps = []
    for x in _pair(a, b, minimum=4):
        weights = torch.tensor(_GREY, dtype=torch.float64, device=x.device).view(3, 1, 1)
        grey = (x.double() * 255.0 * weights).sum(dim=1, keepdim=True)
        grey = F.pad(grey, (0, grey.shape[-1] % 2, 0, grey.shape[-2] % 2))
        maps.append(_gradient_magnitude(F.avg_pool2d(grey, 2)))
    similarity = (2 * maps[0] * maps[1] + _GMSD_C) / (maps[0].square() + maps[1].square() + _GMSD_C)
    return float(similarity.flatten(1).std(dim=1, unbiased=True).mean())


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
        needed = [f"features.{n}.{part}" for n, _, _ in _LPIPS_CONVS for part in ("weight", "bias")]
        needed += [f"lin{n}.weight" for n in range(len(_LPIPS_CONVS))]
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
        mean = torch.tensor(_LPIPS_MEAN, device=x.device).view(3, 1, 1)
        std = torch.tensor(_LPIPS_STD, device=x.device).view(3, 1, 1)
        x = (x.float() * 2.0 - 1.0 - mean) / std
        features = []
        for layer, (number, stride, padding) in enumerate(_LPIPS_CONVS):
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
        first, second = _pair(a, b, minimum=_LPIPS_MIN_PX)
        total = torch.zeros(first.shape[0], device=first.device)
        for layer, (x, y) in enumerate(zip(self._features(first), self._features(second), strict=True)):
            weighted = (x - y).square() * self._weights[f"lin{layer}.weight"].view(1, -1, 1, 1)
            total = total + weighted.sum(dim=1).mean(dim=(1, 2))
        return total

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> float:
        """Mean distance over the batch, without gradients; see `distance`."""
        return float(self.distance(a, b).mean())


def mod_crop(x: Tensor, multiple: int) -> Tensor:
    """Cut rows at the bottom and columns at the right until both sides divide by `multiple`; a view of x.

    Raises:
        ShapeError: a side is smaller than `multiple`, or `multiple` is below 1.
    """
    height, width = x.shape[-2:]
    if multiple < 1 or min(height, width) < multiple:
        raise ShapeError(f"cannot crop {height}x{width} to a multiple of {multiple}; expected sides of at least that")
    return x[..., : height - height % multiple, : width - width % multiple]
