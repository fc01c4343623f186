"""Published ways to evaluate, by name: what makes two numbers comparable. Standard library only.

A protocol fixes the inputs, the scores and how luma is made. `docs/benchmarks.md` says how each differs from what other
programs do by default.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from linearsr.errors import ConfigError

__all__ = ["PROTOCOLS", "Protocol", "get_protocol", "note_sizes"]

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """One way to evaluate."""

    name: str
    description: str
    scale: int
    degradation: Literal["bicubic"] | None
    """How inputs are made of the clean pictures; None where they are published and given as files."""
    metrics: tuple[str, ...]
    """Keys of `linearsr.metrics.METRICS`, in the order of the published tables."""
    crop_border: int
    """Pixels cut from every side before a comparison with the original."""
    color: Literal["y", "rgb"]
    """What PSNR and SSIM compare."""
    y_range: Literal["limited", "full"]
    luma: str
    """How luma is made, and what to mind beside other programs."""
    source: str
    hr_px: int | None = None
    """Side of the square clean pictures; None for any size."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know."""


def _classical(scale: int) -> Protocol:
    return Protocol(
        name=f"classical-x{scale}",
        description=f"clean pictures cut to a multiple of {scale}, inputs by MATLAB's antialiased bicubic rounded to 8 "
        f"bits, {scale} pixels cut from every side before scoring",
        scale=scale,
        degradation="bicubic",
        metrics=("psnr_y", "ssim_y", "lpips"),
        crop_border=scale,
        color="y",
        y_range="limited",
        luma="BT.601, 16 to 235, of 8-bit RGB, not rounded; MATLAB's rgb2ycbcr rounds it, which takes 0.01 to 0.03 dB "
        "off bicubic on Set5",
        source="the protocol of Set5, Set14 and BSD100 in BasicSR, SwinIR and the papers before them",
    )


_REAL_X4 = Protocol(
    name="real-x4",
    description="128x128 inputs and 512x512 clean pictures as they are published, nothing cut",
    scale=4,
    degradation=None,
    metrics=("psnr_y", "ssim_y", "lpips", "dists", "niqe", "musiq", "maniqa_pipal", "clipiqa"),
    crop_border=0,
    color="y",
    y_range="limited",
    luma="BT.601, 16 to 235, as pyiqa's color_space='ycbcr'; pyiqa's own default, 'yiq', is 0 to 255 and gives 1.32 dB "
    "less",
    source="StableSR, SeeSR and OSEDiff; test_metrics.py of OSEDiff, arXiv:2406.08177",
    hr_px=512,
    notes=(
        "FID, which stands in some published tables, is not computed here: it compares whole folders",
        "published SSIM is by pyiqa, which rounds luma to 8 bits first; here it is not rounded",
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {protocol.name: protocol for protocol in (*map(_classical, (2, 3, 4)), _REAL_X4)}
)


def get_protocol(name: str) -> Protocol:
    """A protocol by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PROTOCOLS:
        close = difflib.get_close_matches(name.lower().replace("_", "-"), PROTOCOLS, n=1)
        known = f"known are {', '.join(PROTOCOLS)}"
        raise ConfigError(f"protocol {name!r} is unknown", hint=f"did you mean {close[0]}?" if close else known)
    return PROTOCOLS[name]


def note_sizes(protocol: Protocol, sizes: Iterable[tuple[Size | None, Size]]) -> tuple[str, ...]:
    """What to say of pictures that are not of the protocol's size; they are scored all the same.

    Args:
        protocol: one whose `hr_px` is None asks for no size.
        sizes: (width, height) of each input, None where there is none, and of its clean picture.

    Returns:
        One note, or none.
    """
    if protocol.hr_px is None:
        return ()
    hr, lr = protocol.hr_px, protocol.hr_px // protocol.scale
    found = list(sizes)
    other = sum(clean != (hr, hr) or small not in (None, (lr, lr)) for small, clean in found)
    if not other:
        return ()
    return (
        f"{other} of {len(found)} pictures are not {hr}x{hr} with an input of {lr}x{lr}, as protocol {protocol.name} "
        "has them: these numbers do not compare with published ones",
    )
