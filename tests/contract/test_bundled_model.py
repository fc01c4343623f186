"""What the bundled weights must do, measured. Changing the weights may raise these bounds, never lower them.

The sets and the LPIPS weights lie in the folder that `LINEARSR_DATA` names; scikit-image's own photographs serve where
there is none.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, cat, coffee
from torch import Tensor

from linearsr import Upscaler
from linearsr.metrics import Lpips, mod_crop, psnr, quantise
from linearsr.resize import resize
from linearsr.tiling import plan_tiles

DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="LINEARSR_DATA names no folder with bench/ and metrics/")


@pytest.fixture(scope="module")
def compact() -> Upscaler:
    return Upscaler.from_pretrained("compact", device="cpu")


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255.0).permute(2, 0, 1).contiguous()


def _set(name: str, limit: int | None = None) -> list[Tensor]:
    paths = sorted(Path(str(DATA), "bench", name).iterdir())[:limit]
    return [_tensor(np.asarray(Image.open(path).convert("RGB"))) for path in paths]


def _pair(hr: Tensor, scale: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """(reference, clean input, (width, height)) by the classical protocol."""
    hr = mod_crop(hr, scale)
    lr = quantise(resize(hr, (hr.shape[1] // scale, hr.shape[2] // scale)))
    return hr, lr, (hr.shape[2], hr.shape[1])


@needs_data
@pytest.mark.parametrize(("scale", "bound"), [(4, 30.8), (3, 30.40 + 1.5), (2, 33.68 + 1.5)])
def test_one_step_on_set5_is_above_its_bound(compact: Upscaler, scale: int, bound: float) -> None:
    scores = []
    for picture in _set("Set5"):
        hr, lr, size = _pair(picture, scale)
        sr = quantise(compact.upscale_tensor(lr, size=size, steps=1, tags=("clean",)))
        scores.append(psnr(sr, hr, border=scale))
    assert np.mean(scores) >= bound, f"{np.mean(scores):.2f} dB"


@pytest.mark.slow
@needs_data
def test_four_steps_have_at_most_nine_tenths_of_the_lpips_of_one(compact: Upscaler) -> None:
    lpips = Lpips.from_file(Path(str(DATA), "metrics", "lpips-alex-v0.1.safetensors"))
    found: dict[int, list[float]] = {1: [], 4: []}
    for picture in _set("Kodak24", 6):
        hr, lr, size = _pair(picture, 4)
        for steps, values in found.items():
            sr = compact.upscale_tensor(lr, size=size, steps=steps, tags=("clean",))
            values.append(lpips(quantise(sr), hr))
    assert np.mean(found[4]) <= 0.90 * np.mean(found[1]), {k: float(np.mean(v)) for k, v in found.items()}


@pytest.mark.parametrize("photo", [astronaut, cat, coffee])
def test_one_step_beats_bicubic_on_a_clean_photograph(compact: Upscaler, photo) -> None:
    hr, lr, size = _pair(_tensor(photo()), 4)
    ours = psnr(quantise(compact.upscale_tensor(lr, size=size, steps=1, tags=("clean",))), hr, border=4)
    bicubic = psnr(quantise(resize(lr, (size[1], size[0]))), hr, border=4)
    assert ours >= bicubic + 0.6, f"{ours:.2f} against {bicubic:.2f} dB"


@pytest.mark.parametrize("steps", [1, 4])
def test_a_clean_picture_comes_back_at_scale_one(compact: Upscaler, steps: int) -> None:
    picture = _tensor(cat())
    size = (picture.shape[2], picture.shape[1])
    assert psnr(quantise(compact.upscale_tensor(picture, size=size, steps=steps, tags=("clean",))), picture) >= 40


def _border_energy(x: Tensor, rows: list[int], cols: list[int]) -> float:
    down = x[:, rows] - x[:, [row - 1 for row in rows]]
    across = x[:, :, cols] - x[:, :, [col - 1 for col in cols]]
    return float(down.square().mean() + across.square().mean())


def _tiled_and_whole(compact: Upscaler, lr: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Results by the model's own tiles and whole, and the tile borders (the same along both axes)."""
    side, sampling = 4 * lr.shape[1], compact.config.sampling
    whole = compact.upscale_tensor(lr, size=(side, side), steps=1, tile="off")
    tiled = compact.upscale_tensor(lr, size=(side, side), steps=1, tile=sampling.tile)
    plan = plan_tiles(side, side, sampling.tile, sampling.tile_overlap, compact.engine.grid)
    borders = [p for start in plan.row_starts for p in (start, start + plan.tile_height) if 0 < p < side]
    assert len(borders) >= 2
    return tiled, whole, borders


@pytest.mark.slow
@needs_data
def test_tiles_equal_the_whole_picture_on_five_photographs(compact: Upscaler) -> None:
    for picture in _set("Kodak24", 5):
        top, left = (picture.shape[1] - 320) // 2, (picture.shape[2] - 320) // 2
        lr = picture[:, top : top + 320, left : left + 320].contiguous()
        tiled, whole, borders = _tiled_and_whole(compact, lr)
        assert psnr(tiled, whole, luma_only=False) >= 45
        assert 0.95 <= _border_energy(tiled, borders, borders) / _border_energy(whole, borders, borders) <= 1.05


@pytest.mark.parametrize("photo", [astronaut, cat, coffee])
def test_tiles_leave_no_seam(compact: Upscaler, photo) -> None:
    tiled, whole, borders = _tiled_and_whole(compact, _tensor(photo())[:, 40:280, 40:280].contiguous())
    assert psnr(tiled, whole, luma_only=False) >= 45
    # A tile's attention sees other statistics than the whole picture's, which changes fine grain everywhere alike (the
    # cat's by 5 %). A seam would show against the rest of the picture.
    everywhere = list(range(1, tiled.shape[1]))
    at_borders = _border_energy(tiled, borders, borders) / _border_energy(whole, borders, borders)
    overall = _border_energy(tiled, everywhere, everywhere) / _border_energy(whole, everywhere, everywhere)
    assert 0.95 <= at_borders / overall <= 1.05, (at_borders, overall)


def test_a_tag_gains_where_it_is_true_and_costs_where_it_is_not(compact: Upscaler, tmp_path: Path) -> None:
    hr, lr, size = _pair(_tensor(astronaut()), 4)
    pixels = (lr * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=60)
    compressed = _tensor(np.asarray(Image.open(tmp_path / "a.jpg")))
    scores = {
        tags: psnr(compact.upscale_tensor(compressed, size=size, steps=1, tags=tags), hr, border=4)
        for tags in ((), ("jpeg",), ("clean",))
    }
    assert scores["jpeg",] > scores[()] > scores["clean",], scores
