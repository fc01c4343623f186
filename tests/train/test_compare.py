"""Comparing two models: the interval against known distributions, verdicts, and the same values as by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from linearsr import Upscaler
from linearsr.checkpoint import load_network, read_config, save_checkpoint
from linearsr.errors import ConfigError, TrainingError
from linearsr.metrics import gmsd, psnr, quantise
from linearsr_train.compare import Comparison, Paired, build_case, compare_models, paired_interval
from linearsr_train.data.degradation import degrade_bicubic, degrade_real_fixed
from linearsr_train.data.sources import read_photo


def binomial_quantile(n: int, p: float, q: float) -> int:
    """Smallest k whose binomial distribution function reaches q."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= q:
            return k
    return n


def paired(key: str, differences: list[float]) -> Paired:
    return Paired.of(key, [30.0] * len(differences), [30.0 + d for d in differences])


@pytest.mark.parametrize(("zeros", "ones"), [(8, 12), (6, 6), (20, 10)])
def test_interval_of_zeros_and_ones_is_the_binomial_one(zeros: int, ones: int) -> None:
    """A resample of zeros and ones is a binomial draw, so that the quantiles of its mean are known exactly."""
    n = zeros + ones
    low, high = paired_interval([0.0] * zeros + [1.0] * ones)
    assert low == pytest.approx(binomial_quantile(n, ones / n, 0.025) / n)
    assert high == pytest.approx(binomial_quantile(n, ones / n, 0.975) / n)


def test_interval_of_many_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.3, 2.0, 400)
    error = values.std() / math.sqrt(400)
    low, high = paired_interval(list(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.05 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.05 * error)


def test_interval_is_the_same_every_time_and_hangs_on_the_seed() -> None:
    values = [0.1, 0.5, -0.2, 0.3, 0.9]
    assert paired_interval(values) == paired_interval(values)
    assert paired_interval(values, resamples=50) != paired_interval(values, resamples=50, seed=1)


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=12), shift=st.floats(-3, 3), factor=st.floats(0.1, 4))
def test_interval_moves_and_stretches_with_its_values(values: list[float], shift: float, factor: float) -> None:
    low, high = paired_interval(values, resamples=100)
    moved = paired_interval([factor * value + shift for value in values], resamples=100)
    assert moved == pytest.approx((factor * low + shift, factor * high + shift), abs=1e-9)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("key", "differences", "verdict"),
    [
        ("x4/psnr_1", [0.1, 0.2, 0.3, 0.1, 0.2], "better"),
        ("x4/psnr_1", [-0.1, -0.2, -0.3, -0.1, -0.2], "worse"),
        ("real4/perceptual_4", [0.1, 0.2, 0.3, 0.1, 0.2], "worse"),
        ("real4/perceptual_4", [-0.1, -0.2, -0.3, -0.1, -0.2], "better"),
        ("x4/psnr_1", [-0.3, 0.2, 0.3, -0.1, 0.0], "unclear"),
        ("x4/psnr_1", [0.0] * 9, "unclear"),
        ("x4/psnr_1", [0.1, 0.2, 0.3, 0.1], "unclear"),
    ],
    ids=["psnr up", "psnr down", "distance up", "distance down", "both ways", "nothing", "four photographs"],
)
def test_verdict_follows_interval_direction_and_number(key: str, differences: list[float], verdict: str) -> None:
    assert paired(key, differences).verdict == verdict


def test_signs_count_photographs_that_got_better_and_worse() -> None:
    assert paired("x4/psnr_1", [0.1, 0.2, -0.3, 0.0]).signs == (2, 1)
    assert paired("x4/perceptual_1", [0.1, 0.2, -0.3, 0.0]).signs == (1, 2)


def test_table_has_a_line_a_measure_and_its_data_survive_json() -> None:
    rows = (paired("x4/psnr_1", [0.1, 0.2, 0.3]), paired("x4/perceptual_1", [0.1, -0.2, 0.3]))
    comparison = Comparison(photographs=("a", "b", "c"), perceptual="gmsd", rows=rows)
    lines = comparison.table()
    assert len(lines) == 3
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[:4] == ["x4/psnr_1", "30.00", "30.20", "+0.200"]
    data = json.loads(json.dumps(comparison.to_dict()))
    assert data["rows"]["x4/psnr_1"]["after"] == pytest.approx([30.1, 30.2, 30.3])
    assert data["rows"]["x4/psnr_1"]["difference"] == pytest.approx(0.2)
    assert comparison.row("x4/perceptual_1") is rows[1]
    with pytest.raises(ConfigError, match="'x2/psnr_1' is unknown, expected one of x4/psnr_1"):
        comparison.row("x2/psnr_1")


def test_a_large_photograph_is_judged_by_its_centre(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (523, 530, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    case = build_case(tmp_path / "large.png")
    centre = pixels[5:517, 9:521].astype(np.float32) / 255.0
    assert torch.equal(case.hr, torch.from_numpy(centre.transpose(2, 0, 1).copy()))
    assert torch.equal(case.lr["x4"].permute(1, 2, 0), torch.from_numpy(degrade_bicubic(centre, (128, 128)).lr))
    real = degrade_real_fixed(centre, 4, "large.png").lr
    assert torch.equal(case.lr["real4"].permute(1, 2, 0), torch.from_numpy(real))


def test_values_are_those_of_the_upscaler(photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = read_config(tiny_checkpoint)
    state = load_network(tiny_checkpoint, config, 0).state_dict()
    save_checkpoint(tmp_path / "other", config, [{name: value * 0.9 for name, value in state.items()}])
    models = [Upscaler.from_pretrained(m, device="cpu", dtype="fp32") for m in (tiny_checkpoint, tmp_path / "other")]
    paths = sorted(photos.iterdir())[:2]
    comparison = compare_models(*models, paths, perceptual=gmsd, perceptual_name="gmsd")
    assert [row.key for row in comparison.rows] == [
        f"{task}/{measure}_{steps}"
        for task in ("x4", "real4")
        for steps in (1, 4)
        for measure in ("psnr", "perceptual")
    ]
    hr = torch.from_numpy(read_photo(paths[1]).transpose(2, 0, 1)[:, :72, :64] / np.float32(255))
    lr = torch.from_numpy(degrade_bicubic(hr.permute(1, 2, 0).numpy(), (18, 16)).lr.transpose(2, 0, 1).copy())
    for values, model in zip(("before", "after"), models, strict=True):
        sr = quantise(model.upscale_tensor(lr, size=(64, 72), steps=4, seed=0))
        assert getattr(comparison.row("x4/psnr_4"), values)[1] == psnr(sr, hr, border=4)
        assert getattr(comparison.row("x4/perceptual_4"), values)[1] == gmsd(sr, hr)
    assert comparison.row("x4/psnr_1").difference != 0.0


def test_a_model_against_itself_differs_nowhere(photos: Path, tiny_checkpoint: Path) -> None:
    one, two = (Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32") for _ in range(2))
    comparison = compare_models(one, two, sorted(photos.iterdir()), perceptual=gmsd, perceptual_name="gmsd")
    for row in comparison.rows:
        assert row.before == row.after, row.key
        assert (row.low, row.high, row.verdict) == (0.0, 0.0, "unclear")


def test_damaged_photographs_are_left_out_and_said(photos: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken, small = tmp_path / "broken.png", tmp_path / "small.png"
    broken.write_bytes(sorted(photos.iterdir())[0].read_bytes()[:900])
    Image.new("RGB", (64, 31)).save(small)
    model = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")
    said: list[str] = []
    paths = [broken, small, photos / "lamp.png"]
    result = compare_models(model, model, paths, perceptual=gmsd, perceptual_name="gmsd", report=said.append)
    assert result.photographs == ("lamp.png",)
    assert ["broken.png" in said[0], "64x31, expected 32 pixels a side" in said[1]] == [True, True]
    with pytest.raises(TrainingError, match="none of the 2 held-back photographs"):
        compare_models(model, model, paths[:2], perceptual=gmsd, perceptual_name="gmsd")
