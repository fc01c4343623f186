"""A metric in strips is the metric of the picture in one piece, whatever the size and wherever the last strip ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut
from torch import Tensor
from torch.nn.functional import avg_pool2d

from linearsr.metrics import gmsd, ms_ssim, psnr, quantise, ssim, strips

FUNCTIONS = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}
few = settings(max_examples=12, deadline=None)


def _pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    clean = torch.from_numpy(np.array(astronaut()[:height, :width])).permute(2, 0, 1).float() / 255.0
    return clean, quantise(clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)))


def _with(value: Callable[[], float], strip_px: int, sum_px: int) -> float:
    """A value with other sizes of strips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_PX", strip_px)
        patch.setattr(strips, "SUM_PX", sum_px)
        return value()


def _check(value: Callable[[], float], strip_px: int, sum_px: int) -> None:
    whole = _with(value, 2**40, 2**40)
    assert _with(value, strip_px, sum_px) == pytest.approx(whole, rel=1e-13, abs=0)


@few
@given(
    height=st.integers(11, 60),
    width=st.integers(11, 40),
    border=st.integers(0, 4),
    luma_only=st.booleans(),
    strip_px=st.integers(1, 1500),
    sum_px=st.integers(1, 1500),
)
@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_strips_have_the_value_of_one_piece(
    name: str, height: int, width: int, border: int, luma_only: bool, strip_px: int, sum_px: int
) -> None:
    a, b = _pair(height + 2 * border, width + 2 * border)
    _check(lambda: FUNCTIONS[name](a, b, border=border, luma_only=luma_only), strip_px, sum_px)


@settings(max_examples=6, deadline=None)
@given(height=st.integers(176, 200), width=st.integers(176, 190), luma_only=st.booleans(), rows=st.integers(1, 90))
def test_ms_ssim_in_strips_has_the_value_of_one_piece(height: int, width: int, luma_only: bool, rows: int) -> None:
    a, b = _pair(height, width)
    _check(lambda: ms_ssim(a, b, luma_only=luma_only), rows * width, 2 * rows * width)


@few
@given(height=st.integers(4, 60), width=st.integers(4, 40), strip_px=st.integers(1, 1500))
def test_gmsd_in_strips_has_the_value_of_one_piece(height: int, width: int, strip_px: int) -> None:
    a, b = _pair(height, width)
    _check(lambda: gmsd(a, b), strip_px, 1)


@pytest.mark.parametrize(("height", "name"), [(31, "ssim"), (41, "psnr"), (191, "ms_ssim")])
def test_a_last_strip_of_one_row_counts(height: int, name: str) -> None:
    """Strips of 20 rows: 31 rows have 21 windows one below the other, 41 rows end with one, 191 with 181 windows."""
    width = 180
    a, b = _pair(height, width)
    b[:, -1] = 1 - b[:, -1]
    _check(lambda: FUNCTIONS[name](a, b), 20 * width, 20 * width)
    assert FUNCTIONS[name](a, b) < FUNCTIONS[name](a, _pair(height, width)[1])


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_pictures_of_a_batch_in_strips_stay_apart(name: str) -> None:
    a, b = _pair(181, 183)
    first, second = torch.stack((a, b, a.flip(1))), torch.stack((b, a, b.flip(2)))
    _check(lambda: FUNCTIONS[name](first, second), 7000, 20000)
    expected = np.mean([FUNCTIONS[name](x, y) for x, y in zip(first, second, strict=True)])
    assert _with(lambda: FUNCTIONS[name](first, second), 7000, 20000) == pytest.approx(expected, rel=1e-13)


@few
@given(height=st.integers(3, 40), shared=st.integers(0, 2), strip_px=st.integers(1, 300), sum_px=st.integers(1, 300))
def test_every_row_is_measured_once(height: int, shared: int, strip_px: int, sum_px: int) -> None:
    x = torch.arange(height, dtype=torch.float64).view(1, 1, height, 1).expand(2, 1, height, 5)
    seen: list[int] = []

    def measure(a: Tensor, b: Tensor) -> Tensor:
        assert torch.equal(a, b)
        seen.append(a.shape[0] * a.shape[-1] * (a.shape[-2] - shared))
        return a[..., shared:, :]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_PX", strip_px)
        patch.setattr(strips, "SUM_PX", sum_px)
        assert torch.equal(strips.map_by_strips(x, x, measure, shared=shared), x[..., shared:, :])
        assert max(seen) <= max(strip_px, 20)  # two rows of two pictures, however little is asked for
        mean = strips.mean_by_strips(x, x, measure, shared=shared)
    assert mean.tolist() == pytest.approx([(shared + height - 1) / 2] * 2, rel=1e-14)


@few
@given(height=st.integers(1, 20), strip_px=st.integers(1, 100))
def test_halved_is_the_mean_of_2x2_pixels(height: int, strip_px: int) -> None:
    x = torch.rand(1, 3, 2 * height, 8, generator=torch.Generator().manual_seed(height))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "STRIP_PX", strip_px)
        assert torch.equal(strips.halved(x, torch.square), avg_pool2d(x.square(), 2))


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_a_picture_of_many_strips_has_the_value_of_one_piece(name: str) -> None:
    a, b = (x.repeat(1, 3, 1) for x in _pair(512, 512))
    assert a.shape[1] * a.shape[2] > 8 * strips.STRIP_PX
    _check(lambda: FUNCTIONS[name](a, b), strips.STRIP_PX, strips.SUM_PX // 4)
