"""The pixel latent: nothing is lost, and the numbers between stored scales."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from linearsr.autoencoders.pixel import GAINS, PixelAutoencoder
from linearsr.config import AutoencoderConfig
from linearsr.errors import ConfigError, ShapeError

STDS = {"1": 0.02, "2": 0.03, "4": 0.045}


def _autoencoder(factor: int = 4, stds: dict[str, float] = STDS) -> PixelAutoencoder:
    return PixelAutoencoder(AutoencoderConfig(kind="pixel", factor=factor, residual_std=stds))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("scale", [1.0, 1.7, 4.0, torch.tensor([0.02, 0.05])])
def test_decode_is_the_inverse_of_encode(factor: int, scale: float | torch.Tensor) -> None:
    autoencoder = _autoencoder(factor)
    hr, lr_up = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 8, 12)
    latent = autoencoder.encode(hr, lr_up, scale)
    assert latent.shape == (2, autoencoder.latent_channels, 8 // factor, 12 // factor)
    assert (autoencoder.decode(latent, lr_up, scale) - hr).abs().max() < 1e-6


def test_encode_lays_each_block_out_as_channels() -> None:
    hr, lr_up = torch.rand(1, 3, 8, 12), torch.rand(1, 3, 8, 12)
    latent = _autoencoder().encode(hr, lr_up, 4.0)
    residual = (hr - lr_up) / 0.045
    assert torch.equal(latent[0, 16 + 2 * 4 + 3, 1, 2], residual[0, 1, 4 + 2, 8 + 3])


def test_encode_divides_by_the_std_of_each_picture() -> None:
    autoencoder, hr, lr_up = _autoencoder(), torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    mixed = autoencoder.encode(hr, lr_up, torch.tensor([0.03, 0.045]))
    assert torch.equal(mixed[:1], autoencoder.encode(hr[:1], lr_up[:1], 2.0))
    assert torch.equal(mixed[1:], autoencoder.encode(hr[1:], lr_up[1:], 4.0))


@pytest.mark.parametrize(
    ("scale", "std"),
    [(1.0, 0.02), (2**0.5, 0.025), (2.0, 0.03), (2**1.5, 0.0375), (4.0, 0.045), (8.0, 0.045), (0.5, 0.02)],
)
def test_residual_std_is_linear_in_log2_of_the_scale_and_flat_beyond(scale: float, std: float) -> None:
    assert _autoencoder().residual_std(scale) == pytest.approx(std, abs=1e-12)


def test_residual_std_does_not_depend_on_the_order_of_the_config() -> None:
    shuffled = _autoencoder(stds={"4": 0.045, "1": 0.02, "2": 0.03})
    assert shuffled.residual_std(3.0) == _autoencoder().residual_std(3.0)
    assert _autoencoder(stds={"4": 0.045}).residual_std(1.5) == 0.045


def test_condition_of_gray_is_zero_and_of_white_is_the_mean_alone() -> None:
    autoencoder = _autoencoder()
    assert torch.equal(autoencoder.condition(torch.full((1, 3, 8, 8), 0.5)), torch.zeros(1, 48, 2, 2))
    white = autoencoder.condition(torch.ones(1, 3, 8, 8)).view(3, 16, 4)
    assert white[:, 0].flatten().tolist() == pytest.approx([4 * GAINS[0]] * 12, abs=1e-5)
    assert white[:, 1:].abs().max() < 1e-4


def test_condition_loses_nothing() -> None:
    """The basis is orthonormal but for its gains, so dividing by them and turning back gives the picture."""
    lr_up = torch.rand(2, 3, 8, 12)
    cond = _autoencoder().condition(lr_up).double().unflatten(1, (3, 16))
    k, n = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(4.0, dtype=torch.float64)[None]
    cosines = torch.cos(math.pi * (2 * n + 1) * k / 8) * torch.where(k == 0, 0.5, 0.5**0.5)
    gains = torch.tensor([[GAINS[i + j] for j in range(4)] for i in range(4)], dtype=torch.float64)
    coefficients = cond.unflatten(2, (4, 4)) / gains[:, :, None, None]  # (B, 3, frequency down, frequency across, ...)
    blocks = torch.einsum("uy,vx,bcuvhw->bcyxhw", cosines, cosines, coefficients)
    picture = F.pixel_shuffle(blocks.flatten(1, 3), 4) / 2 + 0.5
    assert (picture - lr_up).abs().max() < 1e-5


@pytest.mark.parametrize("stds", [{}, {"2": 0.0}, {"2": -0.1}, {"two": 0.1}, {"0": 0.1}, {"-2": 0.1}, {"2": math.nan}])
def test_residual_std_that_makes_no_sense_is_refused(stds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="residual_std"):
        _autoencoder(stds=stds)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 6, 8), (1, 3, 8, 10)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="multiples of 4"):
        _autoencoder().condition(torch.zeros(shape))
    with pytest.raises(ShapeError, match="multiples of 4"):
        _autoencoder().encode(torch.zeros(shape), torch.zeros(shape), 2.0)
