"""MS-SSIM and SSIM against torchmetrics and scikit-image, on made-up pictures and on 20 photographs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, coffee
from skimage.metrics import structural_similarity
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from linearsr.errors import ShapeError
from linearsr.metrics import luma, mod_crop, ms_ssim, quantise, ssim
from linearsr.metrics.structure import MS_SSIM_MIN_PX
from linearsr.resize import resize

_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with bench/ and metrics/")
Pair = tuple[torch.Tensor, torch.Tensor]


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255.0


def _bicubic(hr: torch.Tensor, scale: int) -> torch.Tensor:
    height, width = hr.shape[1:]
    return quantise(resize(quantise(resize(hr, (height // scale, width // scale))), (height, width)))


def _noisy(hr: torch.Tensor, sigma: float) -> torch.Tensor:
    return quantise(hr + sigma * torch.randn(hr.shape, generator=torch.Generator().manual_seed(4)))


def _made_up() -> Iterator[Pair]:
    for picture in (astronaut(), coffee()):
        hr = _tensor(picture[:400, 20:453])  # an odd side: its last column is left out
        yield _bicubic(mod_crop(hr, 4), 4), mod_crop(hr, 4)
        yield _noisy(hr, 0.1), hr


@lru_cache(maxsize=1)
def _photographs() -> list[Pair]:
    return list(_read_photographs())


def _read_photographs() -> Iterator[Pair]:
    paths = sorted((Path(str(_DATA)) / "bench" / "BSD100").iterdir())[:20]
    assert len(paths) == 20
    for index, path in enumerate(paths):
        hr = mod_crop(_tensor(np.asarray(Image.open(path).convert("RGB"))), 4)
        yield (_noisy(hr, 0.05) if index % 2 else _bicubic(hr, 4)), hr


def _torchmetrics(a: torch.Tensor, b: torch.Tensor, luma_only: bool, inside: bool = False) -> float:
    """Its value; `inside` takes out the windows that it lets reach over a reflected border at the last scale."""
    planes = [(luma(x) if luma_only else x * 255)[None] for x in (a, b)]
    value = float(multiscale_structural_similarity_index_measure(*planes, data_range=255.0, normalize="relu"))
    if inside:
        coarse = [avg_pool2d(x, 16) for x in planes]
        _, windows = structural_similarity_index_measure(*coarse, data_range=255.0, return_full_image=True)
        value *= float(windows[..., 5:-5, 5:-5].mean() / windows.mean()) ** 0.1333
    return value


def _scikit_image(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean over windows that lie wholly inside: scikit-image crops by half a window itself."""
    planes = [luma(x.double())[0].numpy() for x in (a, b)]
    return float(
        structural_similarity(*planes, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    )


@pytest.mark.parametrize("luma_only", [True, False])
def test_ms_ssim_agrees_with_torchmetrics(luma_only: bool) -> None:
    for a, b in _made_up():
        value = ms_ssim(a, b, luma_only=luma_only)
        assert value < 0.99
        assert value == pytest.approx(_torchmetrics(a, b, luma_only, inside=True), abs=1e-5)


@needs_data
def test_ms_ssim_agrees_with_torchmetrics_on_20_photographs() -> None:
    differences = [ms_ssim(a, b) - _torchmetrics(a, b, luma_only=True) for a, b in _photographs()]
    assert max(abs(value) for value in differences) < 1e-4


@needs_data
def test_ssim_agrees_with_scikit_image_on_20_photographs() -> None:
    differences = [ssim(a, b) - _scikit_image(a, b) for a, b in _photographs()]
    assert max(abs(value) for value in differences) < 1e-4


def test_ms_ssim_is_the_product_of_its_scales() -> None:
    """A change of brightness leaves contrast and structure alone, so only the last scale's luminance is left."""
    a = quantise(torch.rand(3, 192, 192, generator=torch.Generator().manual_seed(2)) * 0.3 + 0.2)
    b = a + 40 / 255
    coarse = [avg_pool2d(x.double(), 16) for x in (a, b)]
    assert ms_ssim(a, b) == pytest.approx(ssim(*coarse) ** 0.1333, abs=1e-6)
    assert ssim(*coarse) < 0.96


def test_ms_ssim_of_a_negative_is_zero_and_no_nan() -> None:
    a = quantise(torch.rand(3, 180, 180, generator=torch.Generator().manual_seed(3)))
    assert ms_ssim(a, 1 - a) == 0.0


def test_ms_ssim_of_a_batch_is_the_mean_of_its_pictures() -> None:
    hr = _tensor(astronaut()[:180, :184])
    a, b = torch.stack((hr, hr)), torch.stack((_noisy(hr, 0.05), _bicubic(hr, 4)))
    assert ms_ssim(a, b) == pytest.approx((ms_ssim(hr, b[0]) + ms_ssim(hr, b[1])) / 2, abs=1e-12)


def test_ms_ssim_takes_176_pixels_and_refuses_175() -> None:
    assert MS_SSIM_MIN_PX == 176
    assert ms_ssim(torch.ones(3, 176, 178), torch.ones(3, 176, 178)) == 1.0
    assert ms_ssim(torch.ones(3, 184, 184), torch.ones(3, 184, 184), border=4) == 1.0
    with pytest.raises(ShapeError, match="at least 176x176"):
        ms_ssim(torch.rand(3, 175, 300), torch.rand(3, 175, 300))
    with pytest.raises(ShapeError, match="at least 176x176"):
        ms_ssim(torch.rand(3, 180, 180), torch.rand(3, 180, 180), border=4)


def test_ms_ssim_forgives_blur_more_than_ssim_does() -> None:
    hr = _tensor(coffee()[:256, :256])
    blurred = _bicubic(hr, 4)
    assert ssim(blurred, hr) < ms_ssim(blurred, hr) < 1.0
