"""The network of the bundled tagger: pixels of a square piece to logits of degradations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.errors import ConfigError

__all__ = ["TaggerModelConfig", "TaggerNetwork"]

_CLIPS = (2.0, 8.0)
"""Steps between neighbours above so many 8-bit levels count no more: edges of the picture would drown the grid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerModelConfig:
    """Shape of a `TaggerNetwork`."""

    crop: int
    """Side of a piece in pixels, even, at least 32."""
    widths: tuple[int, ...]
    """Channels of the convolutions; each but the first halves the grid."""
    hidden: int
    """Width of the layer before the answers."""

    def __post_init__(self) -> None:
        if self.crop < 32 or self.crop % 2 or not self.widths or min((*self.widths, self.hidden)) < 1:
            raise ConfigError(
                f"tagger crop is {self.crop}, widths {self.widths}, hidden {self.hidden}, "
                "expected an even crop of at least 32 and widths of at least 1"
            )
        if self.crop < 4 << (len(self.widths) - 1):
            raise ConfigError(
                f"tagger crop is {self.crop} and has {len(self.widths)} widths, expected at least 4 pixels after "
                f"halving {len(self.widths) - 1} times"
            )


class _Spectrum(nn.Module):
    """How regular the steps between neighbouring rows and columns are, whatever the phase of a JPEG grid.

    The size of the step between columns, clipped and averaged over rows, has peaks every 8 pixels after JPEG, or at
    another period where the picture was resized since. The magnitude of its Fourier transform does not depend on where
    the grid starts. Rows likewise; both are averaged.
    """

    window: Tensor

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(crop - 1, periodic=False), persistent=False)
        self.features = (len(_CLIPS) + 2) * (crop // 2)

    def forward(self, levels: Tensor) -> Tensor:
        """(B, 3, n, n) luma and chroma in 8-bit levels to (B, features)."""
        found = []
        for plane, clip in ((0, _CLIPS[0]), (0, _CLIPS[1]), (1, _CLIPS[0]), (2, _CLIPS[0])):
            x = levels[:, plane]
            profiles = torch.stack(
                (
                    (x[:, :, 1:] - x[:, :, :-1]).abs().clamp(max=clip).mean(1),
                    (x[:, 1:] - x[:, :-1]).abs().clamp(max=clip).mean(2),
                )
            )  # (2, B, n - 1)
            profiles = (profiles - profiles.mean(-1, keepdim=True)) * self.window / clip
            found.append(torch.fft.rfft(profiles).abs().mean(0))
        return torch.log(torch.cat(found, 1) + 0.02)


class TaggerNetwork(nn.Module):
    """Pixels of a piece to logits: `clean`, then for each kind its presence and, of that, its strong form.

    Args:
        config: the shape.
        num_kinds: kinds of degradation K.
    """

    ycc: Tensor

    def __init__(self, config: TaggerModelConfig, num_kinds: int) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 6
        for index, width in enumerate(config.widths):
            stride = 1 if index == 0 else 2
            layers += [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.body = nn.Sequential(*layers)
        self.spectrum = _Spectrum(config.crop)
        pooled = 3 * channels + config.widths[0] + self.spectrum.features
        self.head = nn.Sequential(
            nn.BatchNorm1d(pooled),
            nn.Linear(pooled, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, 1 + 2 * num_kinds),
        )
        luma = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
        self.register_buffer("ycc", luma.view(3, 3, 1, 1) * 255, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, crop, crop) in [0, 1] to logits (B, 1 + 2 K)."""
        levels = F.conv2d(x, self.ycc)
        low = F.avg_pool2d(F.pad(levels, (1, 1, 1, 1), mode="replicate"), 3, 1)
        # Residuals of one or two levels must count as much as strong edges do.
        residual = (levels - low) / 4
        residual = residual / (1 + residual.abs() / 4)
        features = torch.cat((levels / 64, residual), 1)
        first = self.body[:3](features)
        last = self.body[3:](first)
        pooled = torch.cat(
            (
                last.mean((2, 3)),
                last.amax((2, 3)),
                torch.sqrt(last.var((2, 3)) + 1e-4),
                first.mean((2, 3)),
                self.spectrum(levels),
            ),
            1,
        )
        return self.head(pooled)
