from __future__ import annotations

import numpy as np
import pytest
import torch

from linearsr.alpha import bleed_colors, resize_alpha
from linearsr.errors import ShapeError
from linearsr.resize import resize


def disc(size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """An orange disc with a soft edge; black where it is hidden, as most programs save it."""
    y, x = np.mgrid[0:size, 0:size] - (size - 1) / 2
    alpha = np.clip(size / 3 - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)
    rgb = np.full((size, size, 3), (0.9, 0.5, 0.1), dtype=np.float32)
    rgb[alpha == 0] = 0
    return rgb, alpha


def test_bleed_colors_takes_the_nearest_visible_color():
    rgb = np.zeros((5, 9, 3), dtype=np.float32)
    alpha = np.zeros((5, 9), dtype=np.float32)
    rgb[2, 1], rgb[2, 7] = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    alpha[2, 1] = alpha[2, 7] = 1.0
    out = bleed_colors(rgb, alpha)
    assert (out[:, :4] == (1.0, 0.0, 0.0)).all() and (out[:, 5:] == (0.0, 0.0, 1.0)).all()


def test_bleed_colors_leaves_no_halo_after_enlarging():
    rgb, alpha = disc()

    def composite(colors: np.ndarray) -> np.ndarray:
        large = resize(torch.from_numpy(colors).permute(2, 0, 1).contiguous(), (256, 256)).permute(1, 2, 0).numpy()
        cover = resize_alpha(alpha, (256, 256))[..., None]
        return large * cover + np.array([0.9, 0.5, 0.1]) * (1 - cover)  # on its own colour nothing may show

    assert np.abs(composite(bleed_colors(rgb, alpha)) - (0.9, 0.5, 0.1)).max() < 1e-5
    assert np.abs(composite(rgb) - (0.9, 0.5, 0.1)).max() > 0.05  # the plain way shows a dark rim


def test_bleed_colors_keeps_what_is_seen():
    rng = np.random.default_rng(0)
    rgb = rng.random((40, 50, 3), dtype=np.float32)
    alpha = np.repeat(np.linspace(0, 1, 50, dtype=np.float32)[None], 40, axis=0)
    before = rgb.copy()
    out = bleed_colors(rgb, alpha)
    assert (rgb == before).all()
    assert (out[alpha > 1 / 16] == rgb[alpha > 1 / 16]).all()
    assert np.abs((out - rgb) * alpha[..., None]).max() < 1 / 60  # below a sixteenth, what changes is hardly there


def test_bleed_colors_of_opaque_hidden_and_faint_pictures():
    rgb = np.random.default_rng(0).random((6, 7, 3), dtype=np.float32)
    assert (bleed_colors(rgb, np.ones((6, 7), np.float32)) == rgb).all()
    assert (bleed_colors(rgb, np.zeros((6, 7), np.float32)) == rgb).all()
    faint = np.full((6, 7), 0.03, np.float32)
    faint[0] = 0
    out = bleed_colors(rgb, faint)
    assert (out[1:] == rgb[1:]).all() and (out[0] == rgb[1]).all()


def test_bleed_colors_of_one_pixel():
    rgb = np.full((1, 1, 3), 0.5, np.float32)
    for value in (0.0, 0.01, 1.0):
        assert (bleed_colors(rgb, np.full((1, 1), value, np.float32)) == rgb).all()


@pytest.mark.parametrize("size", [(61, 83), (100, 128), (257, 33)])
def test_resize_alpha_keeps_flat_areas_exact(size):
    alpha = np.zeros((40, 50), dtype=np.float32)
    alpha[:, 25:] = 1.0
    out = resize_alpha(alpha, size)
    assert out.shape == size and out.dtype == np.float32
    assert out.min() >= 0.0 and out.max() <= 1.0
    edge = int(np.ceil(3 * size[1] / 50)) + 1
    middle = size[1] // 2
    assert (out[:, : middle - edge] == 0.0).all() and (out[:, middle + edge :] == 1.0).all()
    assert (np.diff(out, axis=1) >= -1e-6).all()  # overshoot was cut, so the edge only rises


def test_resize_alpha_is_the_bicubic_of_the_package_inside():
    alpha = 0.2 + 0.6 * np.random.default_rng(0).random((20, 30), dtype=np.float32)
    wanted = resize(torch.from_numpy(alpha), (50, 70)).clamp(0, 1).numpy()
    assert np.abs(resize_alpha(alpha, (50, 70)) - wanted).max() < 1e-6
    assert (resize_alpha(alpha, (20, 30)) == alpha).all()


def test_sizes_that_differ_are_refused():
    with pytest.raises(ShapeError, match=r"\(4, 4, 3\) and alpha \(4, 5\)"):
        bleed_colors(np.zeros((4, 4, 3), np.float32), np.zeros((4, 5), np.float32))
    with pytest.raises(ShapeError, match=r"\(4, 4, 1\)"):
        resize_alpha(np.zeros((4, 4, 1), np.float32), (8, 8))
