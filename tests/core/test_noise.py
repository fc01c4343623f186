"""Noise by blocks: the same wherever windows meet, another for every seed, picture and size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.noise import BLOCK, NoiseField, content_key
from linearsr.tiling import Tile


def _field(seed: int = 0, content: str = "picture", size: tuple[int, int] = (600, 700)) -> NoiseField:
    return NoiseField(seed, content, size)


@given(st.integers(0, 540), st.integers(0, 640), st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_windows_agree_wherever_they_meet(top: int, left: int, height: int, width: int) -> None:
    whole = _field().window(Tile(0, 0, 600, 700))
    assert torch.equal(
        _field().window(Tile(top, left, height, width)), whole[:, top : top + height, left : left + width]
    )


def test_noise_is_standard_normal_and_independent_between_blocks_and_channels() -> None:
    noise = _field().window(Tile(0, 0, 2 * BLOCK, 2 * BLOCK))
    assert abs(float(noise.mean())) < 0.005
    assert float(noise.var()) == pytest.approx(1.0, abs=0.01)
    assert float((noise**4).mean()) == pytest.approx(3.0, abs=0.05)
    planes = [
        noise[c, r : r + BLOCK, s : s + BLOCK].flatten() for c in range(3) for r in (0, BLOCK) for s in (0, BLOCK)
    ]
    correlation = torch.corrcoef(torch.stack(planes)) - torch.eye(12)
    assert float(correlation.abs().max()) < 0.02  # 1 / 256 is one standard error


@pytest.mark.parametrize("other", [_field(seed=1), _field(content="other"), _field(size=(600, 701))])
def test_noise_differs_by_seed_content_and_size(other: NoiseField) -> None:
    tile = Tile(3, 5, 64, 64)
    a, b = _field().window(tile), other.window(tile)
    assert float((a - b).abs().mean()) == pytest.approx(2 / torch.pi**0.5, abs=0.05)


def test_noise_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    _field(seed=12345).window(Tile(0, 0, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_content_key_sees_pixels_and_shape_at_16_bits() -> None:
    image = torch.rand(3, 4, 6)
    poked = image.clone()
    poked[2, 3, 5] = (poked[2, 3, 5] + 0.5) % 1
    assert content_key(image) == content_key(image.clone())
    assert content_key(image) == content_key((image * 65535).round() / 65535)
    assert content_key(image) != content_key(poked)
    assert content_key(torch.zeros(3, 4, 6)) != content_key(torch.zeros(3, 6, 4))


def test_content_key_does_not_depend_on_memory_layout() -> None:
    image = torch.rand(4, 6, 3).permute(2, 0, 1)
    assert content_key(image) == content_key(image.contiguous())


def test_noise_in_cells_has_as_many_numbers_and_windows_meet() -> None:
    field = NoiseField(0, "picture", (2048, 2048), channels=32, cell=32)
    whole = field.window(Tile(0, 0, 20, 24))
    assert whole.shape == (32, 20, 24)
    assert torch.equal(field.window(Tile(5, 7, 9, 11)), whole[:, 5:14, 7:18])
    assert float(whole.mean()) == pytest.approx(0.0, abs=0.05) and float(whole.std()) == pytest.approx(1.0, abs=0.02)
    # 8 x 8 cells are one block: neighbouring blocks are drawn apart
    assert not torch.equal(whole[:, :8, :8], whole[:, :8, 8:16])
