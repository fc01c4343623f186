"""What holds of a metric for every picture: identity, symmetry, range, and worse with more noise."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr.metrics import METRICS, Lpips, gmsd, lr_psnr, ms_ssim, psnr, quantise, ssim
from linearsr.resize import resize

_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with bench/ and metrics/")

PAIRED: dict[str, Callable[[torch.Tensor, torch.Tensor], float]] = {
    "psnr_y": psnr,
    "psnr_rgb": lambda a, b: psnr(a, b, luma_only=False),
    "ssim_y": ssim,
    "ssim_rgb": lambda a, b: ssim(a, b, luma_only=False),
    "ms_ssim_y": ms_ssim,
    "gmsd": gmsd,
}
BEST = {"psnr": math.inf, "ssim": 1.0, "ms_ssim": 1.0, "gmsd": 0.0}
few = settings(max_examples=5, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def _picture(seed: int) -> torch.Tensor:
    """Smooth shapes with some grain, 8-bit, large enough for five scales; sides differ and may be odd."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (int(torch.randint(180, 210, (), generator=generator)) for _ in range(2))
    shapes = resize(torch.rand(3, 12, 14, generator=generator), (height, width)) * 0.6 + 0.2
    return quantise(shapes + 0.02 * torch.randn(shapes.shape, generator=generator))


def _noise_like(x: torch.Tensor, seed: int) -> torch.Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed + 1))


@few
@given(seed=seeds)
def test_a_picture_and_itself_have_the_best_value(seed: int) -> None:
    x = _picture(seed)
    for name, function in PAIRED.items():
        best = BEST[name.removesuffix("_y").removesuffix("_rgb")]
        assert function(x, x) == pytest.approx(best, abs=1e-12), name


@few
@given(seed=seeds, level=st.floats(0.01, 0.3))
def test_distances_are_symmetric_and_within_their_range(seed: int, level: float) -> None:
    a = _picture(seed)
    b = quantise(a + level * _noise_like(a, seed))
    for name, function in PAIRED.items():
        value = function(a, b)
        assert value == pytest.approx(function(b, a), abs=1e-12), name
        low, high = METRICS[name].range
        assert low <= value <= high, name


@few
@given(seed=seeds, level=st.floats(0.02, 0.06))
def test_more_of_the_same_noise_is_worse(seed: int, level: float) -> None:
    x = _picture(seed)
    noise = _noise_like(x, seed)
    noisy = [quantise(x + share * level * noise) for share in (1, 2, 4)]
    lr = quantise(resize(x, (x.shape[1] // 4, x.shape[2] // 4)))
    functions = {**PAIRED, "lr_psnr": lambda a, _: lr_psnr(a, lr)}
    for name, function in functions.items():
        values = [function(y, x) for y in noisy]
        assert values == sorted(values, reverse=not METRICS[name].lower_better), name
        assert len(set(values)) == 3, name


@few
@given(seed=seeds, border=st.integers(0, 2))
def test_a_border_is_the_same_as_a_picture_cut_by_hand(seed: int, border: int) -> None:
    a = _picture(seed)
    b = quantise(a + 0.05 * _noise_like(a, seed))
    inner = slice(border, -border or None)
    for function in (psnr, ssim, ms_ssim):
        assert function(a, b, border=border) == function(a[:, inner, inner], b[:, inner, inner])


@needs_data
def test_lpips_is_zero_for_itself_symmetric_and_worse_with_noise() -> None:
    folder = Path(str(_DATA)) / "metrics"
    metric = Lpips.from_file(folder / "lpips-alex-v0.1.safetensors")
    picture = np.array(Image.open(folder / "ex_ref.png").convert("RGB"))
    x = torch.from_numpy(picture).permute(2, 0, 1).float() / 255.0
    noisy = [quantise(x + share * _noise_like(x, 5)) for share in (0.02, 0.05, 0.1, 0.2)]
    values = [metric(y, x) for y in noisy]
    assert metric(x, x) == 0.0
    assert 0.0 < values[0] < values[1] < values[2] < values[3]
    assert values[1] == pytest.approx(metric(x, noisy[1]), abs=1e-6)
