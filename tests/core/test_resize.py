"""Resizing against a slow transcription of MATLAB's rule, windows against the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.resize import axis_weights, resize, resize_window

SIZES = [
    ((12, 10), (3, 5)),
    ((12, 10), (24, 40)),
    ((13, 7), (5, 9)),
    ((7, 13), (8, 12)),
    ((31, 17), (11, 50)),
    ((1, 9), (3, 4)),
    ((2, 2), (9, 1)),
    ((40, 3), (1, 3)),
    ((5, 5), (5, 11)),
    ((29, 23), (28, 22)),
]


def _cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def _matlab_axis(signal: np.ndarray, out_size: int) -> np.ndarray:
    """imresize along the first axis, sample by sample, with MATLAB's 1-based positions and mirrored ends."""
    in_size = signal.shape[0]
    scale = out_size / in_size
    stretch = min(scale, 1.0)
    width = 4 / stretch
    mirrored = [*range(1, in_size + 1), *range(in_size, 0, -1)]
    out = np.zeros((out_size, *signal.shape[1:]))
    for x in range(1, out_size + 1):
        u = x / scale + 0.5 * (1 - 1 / scale)
        left = math.floor(u - width / 2)
        positions = range(left, left + math.ceil(width) + 2)
        weights = [stretch * _cubic(stretch * (u - p)) for p in positions]
        total = sum(weights)
        for p, weight in zip(positions, weights, strict=True):
            out[x - 1] += weight / total * signal[mirrored[(p - 1) % (2 * in_size)] - 1]
    return out


def _matlab(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = _matlab_axis(image, size[0])
    return _matlab_axis(rows.T, size[1]).T


@pytest.mark.parametrize(("in_size", "out_size"), SIZES, ids=str)
def test_resize_follows_matlab_to_the_border(in_size: tuple[int, int], out_size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random(in_size)
    out = resize(torch.from_numpy(image).float(), out_size)
    assert out.shape == out_size
    np.testing.assert_allclose(out.numpy(), _matlab(image, out_size), atol=2e-6)


@given(st.integers(1, 40), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_axis_weights_follow_matlab_for_any_sizes(in_size: int, out_size: int) -> None:
    weights, indices = axis_weights(in_size, out_size)
    matrix = np.zeros((out_size, in_size))
    np.add.at(matrix, (np.arange(out_size)[:, None], indices.numpy()), weights.numpy())
    np.testing.assert_allclose(matrix, _matlab_axis(np.eye(in_size), out_size), atol=2e-6)


def test_resize_halves_an_edge_with_the_weights_of_the_widened_kernel() -> None:
    """By hand: taps of cubic(d / 2) / 2 at d = 0.5, 1.5, 2.5, 3.5 are 0.43359, 0.11328, -0.03516, -0.01172."""
    taps = [_cubic(d / 2) / 2 for d in (0.5, 1.5, 2.5, 3.5)]
    assert taps == pytest.approx([0.43359375, 0.11328125, -0.03515625, -0.01171875])
    out = resize(torch.tensor([[0.0] * 8 + [1.0] * 8]), (1, 8))[0].tolist()
    assert out[1:4] == pytest.approx([0.0, taps[3], taps[1] + taps[2] + taps[3]], abs=1e-6)
    assert out[4] == pytest.approx(1 - out[3], abs=1e-6)


def test_resize_keeps_constants_and_inner_ramps() -> None:
    assert torch.allclose(resize(torch.full((3, 9, 7), 0.3), (20, 31)), torch.tensor(0.3), atol=1e-6)
    ramp = torch.arange(20.0).expand(4, 20)
    out = resize(ramp, (4, 50))[0]
    expected = (torch.arange(50) + 0.5) / 2.5 - 0.5
    assert (out - expected)[5:-5].abs().max() < 1e-4


def test_resize_to_the_same_size_is_a_copy() -> None:
    image = torch.rand(3, 5, 6)
    out = resize(image, (5, 6))
    assert torch.equal(out, image)
    assert out.data_ptr() != image.data_ptr()


def test_resize_overshoots_at_edges_and_is_not_clamped() -> None:
    out = resize(torch.tensor([[0.0] * 4 + [1.0] * 4]), (1, 32))
    assert float(out.min()) < -0.02
    assert float(out.max()) > 1.02


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_resize_window_equals_the_whole(data: st.DataObject) -> None:
    in_size = data.draw(st.tuples(st.integers(1, 25), st.integers(1, 25)))
    size = data.draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    top, left = data.draw(st.integers(0, size[0] - 1)), data.draw(st.integers(0, size[1] - 1))
    rows = slice(top, data.draw(st.integers(top + 1, size[0])))
    cols = slice(left, data.draw(st.integers(left + 1, size[1])))
    image = torch.rand(2, *in_size, generator=torch.Generator().manual_seed(0))
    whole = resize_window(image, size, slice(0, size[0]), slice(0, size[1]))
    assert torch.equal(resize_window(image, size, rows, cols), whole[:, rows, cols])


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None)
def test_axis_weights_sum_to_one_and_stay_inside(in_size: int, out_size: int) -> None:
    weights, indices = axis_weights(in_size, out_size)
    assert float((weights.double().sum(1) - 1).abs().max()) < 1e-6
    assert 0 <= int(indices.min()) <= int(indices.max()) < in_size
