"""Each metric against a published value, an independent program or arithmetic done by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from skimage.data import astronaut, coffee
from skimage.metrics import structural_similarity

from linearsr.errors import ConfigError, ShapeError, WeightsError
from linearsr.metrics import Lpips, gmsd, lr_psnr, luma, mod_crop, psnr, quantise, ssim
from linearsr.resize import resize

_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with bench/ and metrics/")


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255.0


def _read(path: Path) -> torch.Tensor:
    return _tensor(np.asarray(Image.open(path).convert("RGB")))


def _photo_pair() -> tuple[torch.Tensor, torch.Tensor]:
    clean = _tensor(astronaut()[100:261, 150:301])  # odd sides on purpose
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * 0.04
    return clean, quantise(clean + noise)


def test_quantise_clamps_and_lands_on_the_8_bit_grid() -> None:
    out = quantise(torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 0.7, 1.3]))
    assert torch.allclose(out * 255, torch.tensor([0.0, 0.0, 0.0, 1.0, 178.0, 255.0]), atol=1e-4)
    assert torch.equal(quantise(out), out)


def test_luma_has_the_bt601_values_of_primaries() -> None:
    primaries = torch.tensor([[0.0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])[:, None, :]
    expected = torch.tensor([16.0, 235.0, 81.481, 144.553, 40.966])
    assert torch.allclose(luma(primaries)[0, 0], expected, atol=1e-4)


def test_full_range_luma_runs_from_0_to_255_and_is_the_limited_one_stretched() -> None:
    primaries = torch.tensor([[0.0, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 0, 1]])[:, None, :]
    expected = torch.tensor([0.0, 255.0, 0.299 * 255, 0.587 * 255, 0.114 * 255])
    assert torch.allclose(luma(primaries, y_range="full")[0, 0], expected, atol=1e-4)
    x = torch.rand(3, 9, 7, dtype=torch.float64)
    stretched = (luma(x) - 16) * 255 / 219
    # the limited weights are published with three decimals
    assert torch.allclose(luma(x, y_range="full"), stretched, atol=1e-3)


def test_psnr_and_ssim_of_full_range_luma_are_lower_by_its_wider_swing() -> None:
    a, b = _photo_pair()
    loss = 20 * math.log10(255 / 219)
    assert psnr(a, b, y_range="full") == pytest.approx(psnr(a, b) - loss, abs=1e-3)
    assert ssim(a, b, y_range="full") < ssim(a, b)
    assert psnr(a, b, luma_only=False, y_range="full") == psnr(a, b, luma_only=False)


def test_an_unknown_range_of_luma_is_refused() -> None:
    with pytest.raises(ConfigError, match="'tv'"):
        luma(torch.rand(3, 4, 4), y_range="tv")  # type: ignore[arg-type]


def test_psnr_of_a_constant_difference_is_the_formula() -> None:
    a = torch.full((3, 20, 20), 100 / 255)
    b = torch.full((3, 20, 20), 110 / 255)
    assert psnr(a, b, luma_only=False) == pytest.approx(20 * math.log10(25.5), abs=1e-3)
    assert psnr(a, b) == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)), abs=1e-3)


def test_psnr_of_identical_pictures_is_infinite() -> None:
    a = torch.rand(3, 12, 12)
    assert psnr(a, a) == math.inf


def test_psnr_of_a_batch_is_the_mean_of_its_pictures() -> None:
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert psnr(a, b) == pytest.approx((psnr(a[0], b[0]) + psnr(a[1], b[1])) / 2, abs=1e-9)


def test_border_leaves_the_edge_out() -> None:
    a = torch.rand(3, 32, 32)
    b = a.clone()
    b[:, :3] = 0
    b[:, :, -3:] = 0
    assert psnr(a, b, border=2) < 40
    assert psnr(a, b, border=3) == math.inf
    assert ssim(a, b, border=3) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("luma_only", [True, False])
def test_ssim_agrees_with_scikit_image(luma_only: bool) -> None:
    a, b = _photo_pair()
    planes = [(luma(x.double()) if luma_only else x.double() * 255).numpy() for x in (a, b)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = []
    for x, y in zip(*planes, strict=True):
        # scikit-image averages over the valid windows only: it crops by half a window itself
        expected.append(structural_similarity(x, y, **options))
    assert ssim(a, b, luma_only=luma_only) == pytest.approx(float(np.mean(expected)), abs=1e-4)


def _gmsd_by_the_paper(a: np.ndarray, b: np.ndarray) -> float:
    """The authors' MATLAB steps with conv2(..., 'same'), in scipy."""
    prewitt = np.array([[1.0, 0, -1]] * 3) / 3
    magnitudes = []
    for picture in (a, b):
        grey = picture.astype(np.float64) @ np.array([0.2989, 0.5870, 0.1140])
        halved = convolve2d(grey, np.full((2, 2), 0.25), mode="full")[1:, 1:][::2, ::2]
        parts = [convolve2d(halved, kernel, mode="same") for kernel in (prewitt, prewitt.T)]
        magnitudes.append(np.sqrt(parts[0] ** 2 + parts[1] ** 2))
    similarity = (2 * magnitudes[0] * magnitudes[1] + 170) / (magnitudes[0] ** 2 + magnitudes[1] ** 2 + 170)
    return float(similarity.std(ddof=1))


def test_gmsd_agrees_with_the_authors_steps_in_scipy() -> None:
    a, b = _photo_pair()
    arrays = [(x * 255).round().permute(1, 2, 0).numpy() for x in (a, b)]
    assert gmsd(a, b) == pytest.approx(_gmsd_by_the_paper(*arrays), abs=1e-6)


def test_gmsd_is_zero_for_itself_and_grows_with_noise() -> None:
    a, b = _photo_pair()
    assert gmsd(a, a) == 0.0
    assert 0.0 < gmsd(a, (a + b) / 2) < gmsd(a, b)


def test_lpips_distance_has_a_finite_gradient_even_on_black(lpips_weights: dict) -> None:
    metric = Lpips(lpips_weights)
    a = torch.zeros(2, 3, 31, 33, requires_grad=True)
    metric.distance(a, torch.rand(2, 3, 31, 33)).sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().max() > 0


def test_lpips_of_a_picture_and_itself_is_zero_and_batch_rows_are_independent(lpips_weights: dict) -> None:
    metric = Lpips(lpips_weights)
    a, b = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    assert metric(a, a) == 0.0
    rows = metric.distance(a, b)
    assert rows.tolist() == pytest.approx([metric(a[0], b[0]), metric(a[1], b[1])], abs=1e-5)


def test_lpips_names_the_missing_tensor(lpips_weights: dict) -> None:
    weights = dict(lpips_weights)
    del weights["lin3.weight"]
    with pytest.raises(WeightsError, match="lin3.weight"):
        Lpips(weights)


def test_lpips_file_errors_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="absent"):
        Lpips.from_file(tmp_path / "absent.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not weights")
    with pytest.raises(WeightsError, match="damaged"):
        Lpips.from_file(tmp_path / "damaged.safetensors")


def test_wrong_shapes_are_refused_with_both_shapes_named() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 8, 8\).*\(3, 8, 9\)"):
        psnr(torch.rand(3, 8, 8), torch.rand(3, 8, 9))
    with pytest.raises(ShapeError, match="at least 11x11"):
        ssim(torch.rand(3, 14, 40), torch.rand(3, 14, 40), border=2)
    with pytest.raises(ShapeError):
        gmsd(torch.rand(1, 8, 8), torch.rand(1, 8, 8))


def test_mod_crop_keeps_the_top_left_corner() -> None:
    x = torch.arange(3 * 11 * 10).view(3, 11, 10)
    assert torch.equal(mod_crop(x, 4), x[:, :8, :8])
    with pytest.raises(ShapeError, match="multiple of 12"):
        mod_crop(x, 12)


def test_lr_psnr_is_infinite_for_the_input_and_falls_with_what_is_invented() -> None:
    flat = torch.full((3, 24, 36), 77 / 255)
    assert lr_psnr(torch.full((3, 96, 144), 77 / 255), flat) == math.inf
    brighter = torch.full((3, 96, 144), 82 / 255)
    assert lr_psnr(brighter, flat) == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)


def test_lr_psnr_is_psnr_over_rgb_of_the_result_shrunk_back_and_rounded() -> None:
    _, sr = _photo_pair()
    lr = quantise(resize(sr, (40, 38)) + 0.01)
    assert lr_psnr(sr, lr) == psnr(quantise(resize(sr, (40, 38))), lr, luma_only=False)


def test_lr_psnr_refuses_an_input_larger_than_the_result() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 8, 8\).*\(3, 8, 9\)"):
        lr_psnr(torch.rand(3, 8, 8), torch.rand(3, 8, 9))
    with pytest.raises(ShapeError):
        lr_psnr(torch.rand(3, 8, 8), torch.rand(1, 4, 4))


@needs_data
def test_lpips_reproduces_its_authors_example() -> None:
    folder = Path(str(_DATA)) / "metrics"
    metric = Lpips.from_file(folder / "lpips-alex-v0.1.safetensors")
    reference = _read(folder / "ex_ref.png")
    assert metric(reference, _read(folder / "ex_p0.png")) == pytest.approx(0.7219, abs=1e-3)
    assert metric(reference, _read(folder / "ex_p1.png")) == pytest.approx(0.1376, abs=1e-3)


@needs_data
@pytest.mark.parametrize(
    ("scale", "expected_psnr", "expected_ssim"), [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)]
)
def test_bicubic_on_set5_has_the_published_psnr_and_ssim(
    scale: int, expected_psnr: float, expected_ssim: float
) -> None:
    values = []
    for path in sorted((Path(str(_DATA)) / "bench" / "Set5").glob("*.png")):
        hr = mod_crop(_read(path), scale)
        height, width = hr.shape[-2:]
        lr = quantise(resize(hr, (height // scale, width // scale)))
        sr = quantise(resize(lr, (height, width)))
        values.append((psnr(sr, hr, border=scale), ssim(sr, hr, border=scale)))
    mean_psnr, mean_ssim = np.mean(values, axis=0)
    assert len(values) == 5
    assert mean_psnr == pytest.approx(expected_psnr, abs=0.03)
    assert mean_ssim == pytest.approx(expected_ssim, abs=0.001)


def test_ssim_falls_with_blur_as_scikit_image_says() -> None:
    clean = _tensor(coffee()[:120, :160])
    small = resize(clean, (40, 53))
    blurred = quantise(resize(small, (120, 160)))
    planes = [luma(x.double())[0].numpy() for x in (clean, blurred)]
    expected = structural_similarity(
        *planes, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert expected < 0.95
    assert ssim(clean, blurred) == pytest.approx(expected, abs=1e-4)
