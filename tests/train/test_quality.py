"""The score that picks the most detailed, cleanest photographs, on made textures and on real photographs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from linearsr.errors import ConfigError, ShapeError, TrainingError
from linearsr_train.data.quality import detail_score, select_best
from linearsr_train.data.sources import PhotoSet, find_photos, read_photo

Pixels = NDArray[np.uint8]
_DATA = os.environ.get("LINEARSR_DATA")
needs_photos = pytest.mark.skipif(
    _DATA is None or not (Path(_DATA) / "train").is_dir(), reason="set LINEARSR_DATA to the folder with train/"
)

GLITTER = ("ubuntu_reflections-by-trenton-fox",)
"""Its sparkle from edge to edge has the spectrum of noise and is taken for it: blurred, it scores higher."""


def _levels(values: NDArray[np.floating]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _texture(seed: int, contrast: float = 40.0, size: tuple[int, int] = (192, 256)) -> Pixels:
    """Amplitude 1/f as in sharp photographs, standard deviation `contrast`."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal(size)) / np.maximum(np.hypot(fy, fx), 1 / max(size))
    field = np.real(np.fft.ifft2(spectrum))
    return _levels(128 + contrast * (field / field.std())[..., None] * np.array([1.0, 0.9, 0.8]))


def blur(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 1.0), np.uint8)


def noise(pixels: Pixels) -> Pixels:
    return _levels(pixels + np.random.default_rng(5).normal(0, 10, pixels.shape))


def jpeg(pixels: Pixels) -> Pixels:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 20])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


@pytest.mark.parametrize("damage", [blur, noise, jpeg])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_damage_lowers_the_score_of_a_texture(damage: Callable[[Pixels], Pixels], seed: int) -> None:
    pixels = _texture(seed, 15.0)
    assert detail_score(damage(pixels)) < detail_score(pixels) - 1


@needs_photos
def test_damage_lowers_the_score_of_real_photographs() -> None:
    paths, _ = find_photos(Path(str(_DATA)) / "train", 0.05)
    paths = [path for path in paths if path.stem not in GLITTER]
    changes: dict[str, list[float]] = {}
    for path in paths[::60]:
        pixels = read_photo(path)
        before = detail_score(pixels)
        for damage in (blur, noise, jpeg):
            changes.setdefault(damage.__name__, []).append(detail_score(damage(pixels)) - before)
    for name, values in changes.items():
        assert max(values) < 0, name
    assert np.median(changes["jpeg"]) < -2
    assert np.median(changes["noise"]) < -2


def test_grass_from_edge_to_edge_is_not_taken_for_noise() -> None:
    flat = np.full((192, 256, 3), 128, np.uint8)
    grainy = _levels(flat + np.random.default_rng(0).normal(0, 20, flat.shape))
    assert detail_score(_texture(1)) > detail_score(flat) + 4
    assert detail_score(grainy) < detail_score(flat) - 3


def test_a_block_grid_is_found_wherever_it_begins() -> None:
    smooth = _levels(np.linspace(60, 200, 256)[None, :, None] * np.ones((192, 1, 3)))
    ramp, blocky = smooth.astype(float), smooth.astype(float)
    blocky += 4 * ((np.arange(256) // 8) % 2)[None, :, None] + 4 * ((np.arange(192) // 8) % 2)[:, None, None]
    for top, left in ((0, 0), (3, 5), (4, 1), (7, 7)):
        change = detail_score(_levels(blocky)[top:, left:]) - detail_score(_levels(ramp)[top:, left:])
        assert change < -4, (top, left)


def test_the_score_does_not_mind_turning_and_mirroring() -> None:
    pixels = _texture(2, size=(128, 128))
    score = detail_score(pixels)
    for view in (pixels[::-1], pixels[:, ::-1], pixels.transpose(1, 0, 2)):
        assert detail_score(np.ascontiguousarray(view)) == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("shape", [(40, 40), (31, 40, 3), (40, 40, 4)])
def test_detail_score_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected uint8"):
        detail_score(np.zeros(shape, np.uint8))
    with pytest.raises(ShapeError, match="float64"):
        detail_score(np.zeros((40, 40, 3)))  # type: ignore[arg-type]


@pytest.fixture
def ranked(tmp_path: Path) -> PhotoSet:
    """Ten pictures; contrast, and with it detail, rises in a shuffled order. 3 and 8 are the same picture."""
    order = (4, 9, 0, 7, 2, 6, 1, 3, 7, 5)
    paths = []
    for index, rank in enumerate(order):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(_texture(3, 4.0 + 3 * rank, (128, 128))).save(paths[-1])
    return PhotoSet(paths, 32, 0.0)


def test_select_best_takes_the_best_share_and_the_earlier_of_equals(ranked: PhotoSet) -> None:
    assert select_best(ranked, 0.1) == (1,)
    assert select_best(ranked, 0.2) == (1, 3)
    assert select_best(ranked, 0.3) == (1, 3, 8)
    assert select_best(ranked, 0.5) == (1, 3, 5, 8, 9)
    assert select_best(ranked, 1.0) == tuple(range(10))
    assert select_best(ranked, 1e-6) == (1,)


def test_select_best_never_takes_what_cannot_be_read_any_more(ranked: PhotoSet) -> None:
    ranked.path(1).unlink()
    assert select_best(ranked, 0.1) == (3,)
    assert select_best(ranked, 1.0) == (0, 2, 3, 4, 5, 6, 7, 8, 9)
    for index in range(10):
        ranked.path(index).unlink(missing_ok=True)
    with pytest.raises(TrainingError, match="none of 10 photographs can be scored"):
        select_best(ranked, 0.5)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_select_best_refuses_other_fractions(ranked: PhotoSet, fraction: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0 and up to 1"):
        select_best(ranked, fraction)
