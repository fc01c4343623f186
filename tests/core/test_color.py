from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from linearsr.color import adain_fix, apply_color_fix, wavelet_fix
from linearsr.errors import ConfigError, ShapeError


def pair(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A result and a reference of other colours, away from 0 and 1, so that nothing is clamped."""
    generator = torch.Generator().manual_seed(seed)
    sr = 0.4 + 0.2 * torch.rand(3, height, width, generator=generator)
    reference = 0.35 + 0.3 * torch.rand(3, height, width, generator=generator)
    return sr, reference


def by_definition(sr: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """Five levels on both pictures, high of one plus low of the other, in float64 and by another convolution."""

    def split(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        high = np.zeros_like(plane)
        for level in range(5):
            step = 2**level
            kernel = np.zeros((2 * step + 1, 2 * step + 1))
            kernel[::step, ::step] = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
            low = convolve(plane, kernel, mode="nearest")
            high += plane - low
            plane = low
        return high, plane

    planes = [split(a)[0] + split(b)[1] for a, b in zip(sr.double().numpy(), reference.double().numpy(), strict=True)]
    return np.clip(np.stack(planes), 0, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (40, 3), (97, 83)])
def test_wavelet_fix_equals_its_definition(size):
    sr, reference = pair(*size)
    assert np.abs(wavelet_fix(sr, reference).numpy() - by_definition(sr, reference)).max() < 1e-6


@pytest.mark.parametrize("block", [1, 7, 32, 50, 64])
def test_wavelet_fix_by_blocks_equals_the_whole(block):
    sr, reference = pair(75, 101)
    if block == 1:
        sr, reference = sr[:, :9, :40], reference[:, :9, :40]
    whole = wavelet_fix(sr, reference, block=10_000)
    assert (wavelet_fix(sr, reference, block=block) - whole).abs().max() <= 1e-6


def test_wavelet_fix_needs_its_whole_margin(monkeypatch):
    sr, reference = pair(160, 160)
    whole = wavelet_fix(sr, reference)
    monkeypatch.setattr("linearsr.color._HALO", 30)
    assert (wavelet_fix(sr, reference, block=64) - whole).abs().max() > 1e-6


def test_wavelet_fix_takes_the_mean_from_the_reference_and_keeps_the_detail():
    generator = torch.Generator().manual_seed(1)
    detail = 0.05 * torch.randn(3, 128, 128, generator=generator)
    smooth = torch.linspace(0.3, 0.6, 128).expand(3, 128, 128)
    cast = torch.tensor([0.1, -0.1, 0.05])[:, None, None]
    fixed = wavelet_fix(smooth + detail + cast, smooth)
    assert (fixed.mean(dim=(1, 2)) - smooth.mean(dim=(1, 2))).abs().max() < 2e-3
    error = (fixed - smooth - detail)[:, 32:-32, 32:-32]
    assert error.abs().max() < 0.02 and error.std() < 0.2 * detail.std()


@pytest.mark.parametrize("fix", [wavelet_fix, adain_fix])
def test_strength_mixes_linearly(fix):
    sr, reference = pair(40, 50)
    full = fix(sr, reference, 1.0)
    assert torch.equal(fix(sr, reference, 0.0), sr)
    assert (fix(sr, reference, 0.25) - (0.75 * sr + 0.25 * full)).abs().max() < 1e-6
    assert (full - sr).abs().max() > 0.01


@pytest.mark.parametrize("fix", [wavelet_fix, adain_fix])
def test_fix_is_clamped_and_leaves_its_inputs_alone(fix):
    sr = torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0)).round()
    reference = 1.0 - 0.05 * sr
    before = sr.clone(), reference.clone()
    out = fix(sr, reference)
    assert float(out.min()) >= 0.0 and float(out.max()) <= 1.0
    assert torch.equal(sr, before[0]) and torch.equal(reference, before[1])


def test_adain_fix_gives_mean_and_deviation_of_the_reference():
    sr, reference = pair(60, 80)
    out = adain_fix(sr, reference)
    assert (out.mean(dim=(1, 2)) - reference.mean(dim=(1, 2))).abs().max() < 1e-6
    assert (out.std(dim=(1, 2)) - reference.std(dim=(1, 2))).abs().max() < 1e-4


def test_adain_fix_of_flat_and_of_single_pixels_is_finite():
    flat = torch.full((3, 8, 8), 0.25)
    assert (adain_fix(flat, flat + 0.5) - 0.75).abs().max() < 1e-6
    one = torch.full((3, 1, 1), 0.25)
    assert (adain_fix(one, one + 0.5) - 0.75).abs().max() < 1e-6


def test_apply_color_fix_picks_by_name():
    sr, reference = pair(20, 20)
    assert apply_color_fix("none", sr, reference) is sr
    assert torch.equal(apply_color_fix("wavelet", sr, reference, 0.5), wavelet_fix(sr, reference, 0.5))
    assert torch.equal(apply_color_fix("adain", sr, reference, 0.5), adain_fix(sr, reference, 0.5))
    with pytest.raises(ConfigError, match="'lab', expected one of none, wavelet, adain"):
        apply_color_fix("lab", sr, reference)


def test_bad_arguments_are_refused_with_their_value():
    sr, reference = pair(20, 20)
    with pytest.raises(ConfigError, match="1.5"):
        wavelet_fix(sr, reference, 1.5)
    with pytest.raises(ConfigError, match="nan"):
        adain_fix(sr, reference, float("nan"))
    with pytest.raises(ConfigError, match="block is 0"):
        wavelet_fix(sr, reference, block=0)
    with pytest.raises(ShapeError, match=r"\(3, 20, 20\) and reference \(3, 20, 19\)"):
        wavelet_fix(sr, reference[:, :, 1:])
