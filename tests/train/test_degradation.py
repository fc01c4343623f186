"""Numbers of the degradation chain: exact bicubic, reproducible draws, tags that name only what is there."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from linearsr.errors import ConfigError, ShapeError
from linearsr.resize import resize
from linearsr_train.data import degradation as deg
from linearsr_train.data import kernels

SIZES = [(1.0, (61, 47)), (1.3, (47, 36)), (2.0, (31, 23)), (3.0, (20, 16)), (4.0, (15, 12))]
HARD = deg.DegradationConfig(
    second_blur_prob=0.8,
    resize_range=(0.15, 1.5),
    resize_range2=(0.3, 1.2),
    noise_sigma=(1.0, 30.0),
    noise_sigma2=(1.0, 25.0),
    poisson_scale=(0.05, 3.0),
    poisson_scale2=(0.05, 2.5),
    jpeg_quality=(30.0, 95.0),
    jpeg_quality2=(30.0, 95.0),
)
ONLY = {
    "blur": deg.DegradationConfig(noise_stage_prob=0, jpeg_stage_prob=0),
    "noise": deg.DegradationConfig(blur_stage_prob=0, jpeg_stage_prob=0),
    "jpeg": deg.DegradationConfig(blur_stage_prob=0, noise_stage_prob=0),
}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(astronaut()[30:158, 150:278]).astype(np.float32) / 255


def luma_rms(a: np.ndarray, b: np.ndarray) -> float:
    weights = np.array([0.299, 0.587, 0.114])
    return float(np.sqrt(np.mean(((a - b) @ weights) ** 2))) * 255


def assert_on_grid(lr: np.ndarray) -> None:
    assert lr.dtype == np.float32
    assert np.isfinite(lr).all()
    assert lr.min() >= 0 and lr.max() <= 1
    np.testing.assert_array_equal(np.rint(lr * 255).astype(np.float32) / np.float32(255), lr)


# ---- bicubic


@pytest.mark.parametrize("size", [(32, 32), (43, 61), (64, 40), (127, 1)])
def test_degrade_bicubic_equals_the_core_resize(photo: np.ndarray, size: tuple[int, int]) -> None:
    expected = resize(torch.from_numpy(photo).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    raw = deg._resize_by_matrix(photo, size, "bicubic")
    np.testing.assert_allclose(raw, expected, atol=2e-6)
    result = deg.degrade_bicubic(photo, size)
    assert_on_grid(result.lr)
    assert np.abs(result.lr - expected.clip(0, 1)).max() <= 0.5 / 255 + 3e-6
    assert result.tags == ("clean",)


def test_degrade_bicubic_rounds_the_picture_itself_when_size_is_unchanged(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(deg.degrade_bicubic(photo, (128, 128)).lr, photo)
    shifted = np.clip(photo + 0.3 / 255, 0, 1)
    np.testing.assert_array_equal(deg.degrade_bicubic(shifted, (128, 128)).lr, photo)


@pytest.mark.parametrize("size", [(129, 64), (64, 0)])
def test_degrade_rejects_a_size_that_is_no_reduction(photo: np.ndarray, size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="1 to 128 rows"):
        deg.degrade_bicubic(photo, size)
    with pytest.raises(ShapeError, match="1 to 128 rows"):
        deg.degrade_real(photo, size, deg.REAL_V1, np.random.default_rng(0))


def test_degrade_rejects_8_bit_pictures() -> None:
    with pytest.raises(ShapeError, match="uint8"):
        deg.degrade_bicubic(np.zeros((8, 8, 3), np.uint8), (4, 4))  # type: ignore[arg-type]


# ---- the chain as a whole


def test_degrade_real_is_equal_for_equal_generators_and_differs_for_others(photo: np.ndarray) -> None:
    runs = [deg.degrade_real(photo, (32, 32), deg.REAL_V1, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    np.testing.assert_array_equal(runs[0].lr, runs[1].lr)
    assert runs[0].tags == runs[1].tags
    assert np.abs(runs[0].lr - runs[2].lr).max() > 1 / 255


def test_degrade_real_leaves_its_input_and_the_global_generator_alone(photo: np.ndarray) -> None:
    before, state = photo.copy(), np.random.get_state()[1].copy()
    for seed in range(10):
        deg.degrade_real(photo, (128, 128), HARD, np.random.default_rng(seed))
    np.testing.assert_array_equal(photo, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(("scale", "size"), SIZES)
@pytest.mark.parametrize("config", [deg.REAL_V1, HARD], ids=["real", "hard"])
def test_degrade_real_gives_the_asked_size_on_the_8_bit_grid(
    photo: np.ndarray, scale: float, size: tuple[int, int], config: deg.DegradationConfig
) -> None:
    rng = np.random.default_rng(11)
    for _ in range(25):
        result = deg.degrade_real(np.ascontiguousarray(photo[:61, :47]), size, config, rng)
        assert result.lr.shape == (*size, 3)
        assert_on_grid(result.lr)
        assert set(result.tags) <= set(deg.TAGS)
        assert len(result.tags) >= 1


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_degrade_real_stays_in_range_when_the_picture_is_flat(level: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        result = deg.degrade_real(np.full((24, 17, 3), level, np.float32), (6, 5), HARD, rng)
        assert_on_grid(result.lr)
        assert not any(tag.startswith("blur") for tag in result.tags)


def test_degrade_real_keeps_colours_apart() -> None:
    flat = np.full((64, 64, 3), [0.7, 0.5, 0.3], np.float32)
    rng = np.random.default_rng(0)
    for _ in range(40):
        mean = deg.degrade_real(flat, (32, 32), deg.REAL_V1, rng).lr.mean(axis=(0, 1))
        np.testing.assert_allclose(mean, [0.7, 0.5, 0.3], atol=0.03)


def test_degrade_real_ranges_from_mild_to_strong(photo: np.ndarray) -> None:
    clean = deg.degrade_bicubic(photo, (32, 32)).lr
    rng = np.random.default_rng(1)
    errors = [luma_rms(deg.degrade_real(photo, (32, 32), deg.REAL_V1, rng).lr, clean) for _ in range(120)]
    assert np.quantile(errors, 0.05) < 7
    assert 12 < np.quantile(errors, 0.95) < 45


def test_degrade_real_fixed_follows_the_name_only(photo: np.ndarray) -> None:
    a = deg.degrade_real_fixed(photo, 4, "0801.png")
    b = deg.degrade_real_fixed(photo, 4, "0801.png")
    c = deg.degrade_real_fixed(photo, 4, "0802.png")
    np.testing.assert_array_equal(a.lr, b.lr)
    assert a.tags == b.tags
    assert np.abs(a.lr - c.lr).max() > 1 / 255
    assert deg.degrade_real_fixed(photo[:, :127].copy(), 3, "x").lr.shape == (43, 42, 3)
    with pytest.raises(ConfigError, match=r"scale is 0\.5"):
        deg.degrade_real_fixed(photo, 0.5, "x")


def test_degrade_real_fixed_draws_are_pinned() -> None:
    """A change here changes every benchmark: it needs REAL_V2."""
    text = json.dumps(deg.REAL_V1.to_dict(), sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "4a84092fb1bf58f8"
    plan = deg.draw_plan((128, 128), (32, 32), deg.REAL_V1, np.random.default_rng(deg.REAL_SEED))
    drawn = [sorted(plan.active), plan.size1, plan.size2, plan.modes, plan.quality1, plan.quality2, plan.jpeg_last]
    assert drawn == [["jpeg", "noise"], (92, 92), (32, 32), ("bicubic", "bicubic", "bicubic"), 62, 92, True]


# ---- the plan


def test_apply_plan_draws_the_same_noise_whatever_else_is_active(photo: np.ndarray) -> None:
    config = dataclasses.replace(ONLY["noise"], jpeg_stage_prob=1.0, noise_stage_prob=1.0)
    plan = deg.draw_plan((128, 128), (128, 128), config, np.random.default_rng(4))
    plan = dataclasses.replace(plan, quality1=100, quality2=100)
    none = deg.apply_plan(plan, photo, ())
    noise = deg.apply_plan(plan, photo, {"noise"}) - none
    both = deg.apply_plan(plan, photo) - none
    assert np.corrcoef(noise[..., 1].ravel(), both[..., 1].ravel())[0, 1] > 0.9


def test_apply_plan_without_stages_is_nearly_the_plain_resize_when_blur_is_off(photo: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    for size in [(32, 32), (64, 64), (128, 128)]:
        clean = deg.degrade_bicubic(photo, size).lr
        for _ in range(20):
            plan = deg.draw_plan((128, 128), size, ONLY["jpeg"], rng)
            assert min(plan.size1[0], plan.size2[0]) >= size[0]
            assert luma_rms(deg.apply_plan(plan, photo, ()), clean) < 4.5


def test_draw_plan_blurs_less_at_smaller_scales(photo: np.ndarray) -> None:
    """The same draws at x1 lose less detail, in pixels of the source, than at x4."""
    spreads = {}
    for size in (32, 128):
        values = []
        for seed in range(60):
            kernel = deg.draw_plan((128, 128), (size, size), ONLY["blur"], np.random.default_rng(seed)).kernel1
            x, y = kernels.grid(kernel.shape[0])
            values.append(float((kernel * (x * x + y * y)).sum()))
        spreads[size] = float(np.median(values))
    assert spreads[128] == pytest.approx(spreads[32] / 4, rel=0.35)


def test_draw_plan_first_resize_keeps_what_the_final_size_holds() -> None:
    rng = np.random.default_rng(0)
    for size in (32, 64, 128):
        for _ in range(60):
            assert deg.draw_plan((128, 128), (size, size), deg.REAL_V1, rng).size1[0] >= min(128, 1.2 * size - 1)


def test_draw_plan_has_each_stage_at_its_rate() -> None:
    rng = np.random.default_rng(0)
    active = [deg._draw_active(deg.REAL_V1, rng) for _ in range(4000)]
    assert min(len(stages) for stages in active) == 1
    for stage in deg.STAGES:
        rate = np.mean([stage in stages for stages in active])
        assert rate == pytest.approx(0.75 / (1 - 0.25**3), abs=0.03)


# ---- tags


@pytest.mark.parametrize("stage", deg.STAGES)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (128, 128)])
def test_tags_name_only_the_active_stage(photo: np.ndarray, stage: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(8)
    seen = set()
    for _ in range(40):
        tags = deg.degrade_real(photo, size, ONLY[stage], rng).tags
        assert tags == ("clean",) or {tag.split(":")[0] for tag in tags} == {stage}
        seen.update(tags)
    assert {stage, f"{stage}:weak"} <= seen


def test_tags_follow_the_change_of_each_stage_alone(photo: np.ndarray) -> None:
    for seed in range(25):
        plan = deg.draw_plan((128, 128), (40, 40), deg.REAL_V1, np.random.default_rng(seed))
        result = deg.degrade_real(photo, (40, 40), deg.REAL_V1, np.random.default_rng(seed))
        np.testing.assert_array_equal(result.lr, deg.apply_plan(plan, photo))
        expected = []
        for stage in deg.STAGES:
            if stage not in plan.active:
                continue
            plain = deg.degrade_bicubic(photo, (40, 40)).lr if stage == "blur" else deg.apply_plan(plan, photo, ())
            change = luma_rms(deg.apply_plan(plan, photo, {stage}), plain)
            weak, strong = deg.TAG_THRESHOLDS[stage]
            expected += [stage] if change > strong else [f"{stage}:weak"] if change > weak else []
        assert result.tags == (tuple(expected) or ("clean",))


def test_tags_are_clean_when_the_stage_is_invisible(photo: np.ndarray) -> None:
    config = dataclasses.replace(ONLY["noise"], noise_sigma=(0, 0.2), noise_sigma2=(0, 0.2), gaussian_prob=1)
    config = dataclasses.replace(config, gaussian_prob2=1)
    rng = np.random.default_rng(0)
    assert {deg.degrade_real(photo, (64, 64), config, rng).tags for _ in range(10)} == {("clean",)}


# ---- kernels, noise, JPEG


@pytest.mark.parametrize("kind", [*kernels.KERNEL_KINDS, "sinc"])
@pytest.mark.parametrize("side", [7, 13, 21])
def test_kernels_sum_to_one_and_are_point_symmetric(kind: str, side: int) -> None:
    kernel = kernels.sinc_kernel(side, 1.3) if kind == "sinc" else kernels.bell_kernel(side, kind, (2.0, 0.8), 0.7, 1.5)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.shape[0] == kernel.shape[1] <= side
    assert kernel.shape[0] % 2 == 1
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)


def test_bell_kernel_has_the_asked_standard_deviations() -> None:
    kernel = kernels.bell_kernel(21, "aniso", (2.0, 1.0), 0.0, 1.0)
    x, y = kernels.grid(kernel.shape[0])
    assert float((kernel * x * x).sum()) == pytest.approx(4.0, rel=0.03)
    assert float((kernel * y * y).sum()) == pytest.approx(1.0, rel=0.03)


def test_bessel_j1_equals_its_table() -> None:
    x = np.array([0.5, 1.0, 5.0, 20.0])
    table = [0.2422684577, 0.4400505857, -0.3275791376, 0.0668331242]
    np.testing.assert_allclose(kernels.bessel_j1(x), table, atol=1e-9)


def test_sinc_kernel_passes_low_and_stops_high_frequencies() -> None:
    kernel = kernels.sinc_kernel(21, np.pi / 3)
    line = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    gain = [abs((kernel.sum(axis=0) * np.cos(f * line)).sum()) for f in (0.3, 2.0, 2.8)]
    assert gain[0] == pytest.approx(1, abs=0.15)
    assert max(gain[1:]) < 0.12


@pytest.mark.parametrize("level", [2 / 128, 10 / 128, 0.5])
def test_poisson_noise_has_the_mean_and_variance_of_counts(level: float) -> None:
    image = np.full((40_000, 1, 3), level, np.float32)
    normal = np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    noise = deg._poisson_noise(image, normal)
    exact = round(level * 255) / 255
    assert noise.mean() == pytest.approx(0, abs=0.03 * exact)
    assert noise.var() == pytest.approx(exact / 128, rel=0.05)


def test_poisson_noise_counts_by_the_levels_of_the_picture() -> None:
    """More than 128 levels give 256 counts at white, so half the variance of a flat picture."""
    ramp = (np.arange(200, dtype=np.float32) / 255)[:, None, None].repeat(3, axis=2)
    image = np.concatenate([ramp, np.full((40_000, 1, 3), 0.6, np.float32)])
    normal = np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    assert deg._poisson_noise(image, normal)[200:].var() == pytest.approx(0.6 / 256, rel=0.05)


def test_poisson_noise_leaves_black_black() -> None:
    normal = np.full((4, 4, 3), 4.0, np.float32)
    assert np.abs(deg._poisson_noise(np.zeros((4, 4, 3), np.float32), normal)).max() == 0


@pytest.mark.parametrize("gray", [True, False])
def test_gaussian_noise_has_the_asked_strength(gray: bool) -> None:
    plan = deg.NoisePlan(gaussian=True, level=10 / 255, gray=gray, seed=1)
    normal = np.random.default_rng(1).standard_normal((200, 200, 1 if gray else 3), dtype=np.float32)
    image = np.full((200, 200, 3), 0.5, np.float32)
    noise = deg._add_noise(image, plan, normal) - image
    assert noise.std() * 255 == pytest.approx(10, rel=0.02)
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 2].ravel())[0, 1]
    assert correlation == pytest.approx(1.0 if gray else 0.0, abs=0.02)


def test_jpeg_is_nearly_lossless_at_quality_100_and_worse_below(photo: np.ndarray) -> None:
    errors = [luma_rms(deg._jpeg(photo, quality), photo) for quality in (100, 90, 60)]
    assert errors[0] < 0.8
    assert errors[0] < errors[1] < errors[2]
    assert errors[2] > 2.5


# ---- configuration


@pytest.mark.parametrize("config", [deg.REAL_V1, HARD, ONLY["blur"]])
def test_config_survives_a_round_trip_through_json(config: deg.DegradationConfig) -> None:
    assert deg.DegradationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_rejects_an_unknown_key_and_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="jpeg_qualty") as caught:
        deg.DegradationConfig.from_dict({"jpeg_qualty": [60, 95]})
    assert caught.value.hint == "did you mean `jpeg_quality`?"


@pytest.mark.parametrize(
    "values",
    [
        {"blur_stage_prob": 1.5},
        {"sinc_prob": "0.1"},
        {"sinc_prob": True},
        {"sinc_prob": [0.1]},
        {"sinc_prob": float("nan")},
        {"blur_sigma": [3.0, 0.2]},
        {"blur_sigma": [0.0, 1.0]},
        {"blur_sigma": 1.0},
        {"kernel_size": [7, 20]},
        {"kernel_probs": [0.5, 0.5, 0.5, 0, 0, 0]},
        {"resize_prob": [0.5, 0.5]},
        {"resize_range": [1.1, 1.5]},
        {"jpeg_quality": [0, 90]},
        {"noise_sigma": [-1, 5]},
        {"blur_stage_prob": 0, "noise_stage_prob": 0, "jpeg_stage_prob": 0},
    ],
)
def test_config_rejects_a_wrong_value(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        deg.DegradationConfig.from_dict(values)
