"""The arithmetic on validation curves, against values worked out by hand, references and known answers."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr_train.knee import (
    Scale,
    evaluations_since_best,
    find_elbow,
    highest_rate,
    joint_swing,
    knee_weights,
    leap_length,
    line_fit,
    median_of_3,
    noise_floor,
    onset_weights,
    smooth,
)

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=40)


@given(VALUES)
def test_median_of_3_is_the_median_of_the_last_three(values: list[float]) -> None:
    wanted = [statistics.median(values[max(i - 2, 0) : i + 1]) for i in range(len(values))]
    assert median_of_3(values) == pytest.approx(wanted)


@given(VALUES, st.floats(0, 0.95), st.integers(0, 39))
def test_smooth_depends_on_the_past_only_and_stays_within_it(values: list[float], decay: float, cut: int) -> None:
    smoothed = smooth(values, decay)
    assert smooth(values[: cut + 1], decay) == smoothed[: cut + 1]
    for i, value in enumerate(smoothed):
        assert min(values[: i + 1]) - 1e-9 <= value <= max(values[: i + 1]) + 1e-9


def test_smooth_has_no_bias_towards_zero_and_drops_a_single_outlier() -> None:
    assert smooth([7.0] * 5, 0.6) == pytest.approx([7.0] * 5)
    assert smooth([1.0, 1.0, 1.0, 50.0, 1.0, 1.0], 0.6) == pytest.approx([1.0] * 6)
    assert smooth([0.0, 0.0, 0.0, 1.0, 1.0], 0.6)[4] == pytest.approx(0.4 / (1 - 0.6**5))


def test_noise_floor_finds_the_noise_and_neither_slope_nor_outliers() -> None:
    rng = random.Random(4)
    values = [0.3 * i + rng.gauss(0, 0.05) for i in range(4000)]
    assert noise_floor(values) == pytest.approx(0.05, rel=0.05)
    for i in range(50, 4000, 100):
        values[i] += 9.0
    assert noise_floor(values) == pytest.approx(0.05, rel=0.1)
    assert noise_floor([2.0, 5.0, 8.0, 11.0]) == 0.0
    assert noise_floor([1.0, 2.0]) == 0.0


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=30))
def test_line_fit_agrees_with_numpy(values: list[float]) -> None:
    slope, deviation = line_fit(values)
    coefficients = np.polyfit(range(len(values)), values, 1)
    residuals = values - np.polyval(coefficients, range(len(values)))
    assert slope == pytest.approx(coefficients[0], abs=1e-6)
    assert deviation == pytest.approx(math.sqrt((residuals**2).sum() / (len(values) - 2)), abs=1e-6)


def test_joint_swing_measures_each_curve_by_its_own_noise() -> None:
    up_and_down = [1.0, -1.0] * 4
    alone = line_fit(up_and_down)[1]
    assert joint_swing([up_and_down], [0.5]) == pytest.approx(2 * alone)
    assert joint_swing([up_and_down, [0.01 * v for v in up_and_down]], [0.5, 0.005]) == pytest.approx(2 * alone)
    assert joint_swing([up_and_down, [0.0] * 8], [0.5, 1.0]) == pytest.approx(2 * alone / math.sqrt(2))
    assert joint_swing([[3.0 * i for i in range(8)]], [0.1]) == pytest.approx(0.0, abs=1e-6)


def test_highest_rate_adds_the_standard_error_of_the_slope() -> None:
    values = [0.1 * i for i in range(9)]
    assert highest_rate(values, 0.2, 0.0) == pytest.approx(0.1)
    # The slope's error is noise / sqrt(sum of (i - 4)^2), here of 60.
    assert highest_rate(values, 0.2, 1.5) == pytest.approx(0.1 + 1.5 * 0.2 / math.sqrt(60))


def test_highest_rate_bounds_the_true_slope_as_often_as_it_says() -> None:
    rng = random.Random(1)
    bounded = sum(highest_rate([rng.gauss(0, 1) for _ in range(20)], 1.0, 1.0) > 0 for _ in range(2000))
    assert bounded / 2000 == pytest.approx(0.85, abs=0.03)  # one error to one side is 0.841; the larger noise is taken


def test_scale_gives_zero_at_the_start_and_one_at_the_full_gain() -> None:
    scale = Scale(
        psnr_weight=0.25, psnr_start=20.0, psnr_gain=2.0, psnr_noise=0.04,
        perceptual_start=0.5, perceptual_gain=0.2, perceptual_noise=0.01,
    )  # fmt: skip
    assert scale.score([20.0, 22.0, 22.0, 21.0], [0.5, 0.3, 0.5, 0.5]) == pytest.approx([0.0, 1.0, 0.25, 0.125])
    assert scale.score_noise == pytest.approx(math.hypot(0.25 * 0.02, 0.75 * 0.05))


def test_evaluations_since_best_counts_only_real_progress() -> None:
    assert evaluations_since_best([0.0, 0.5, 0.505, 0.51, 0.4], 0.01) == 3
    assert evaluations_since_best([0.0, 0.5, 0.505, 0.511, 0.4], 0.01) == 1
    assert evaluations_since_best([0.0], 0.01) == 0


@pytest.mark.parametrize(
    ("psnr", "length"),
    [
        ([8.0, 25.0, 25.2, 25.3, 25.35, 25.4, 25.4, 25.4], 1),
        ([8.0, 20.0, 25.0, 25.2, 25.3, 25.35, 25.4, 25.4], 2),
        ([25.0, 25.2, 25.3, 25.35, 25.4, 25.4, 25.4, 25.4], 0),
        ([23 - 2 * math.exp(-i / 3) for i in range(20)], 0),
        ([25.0, 24.0, 24.0, 24.0, 24.0, 24.0, 24.0, 24.0], 0),
        ([8.0, 25.0], 0),
        ([8.0], 0),
    ],
)
def test_leap_length_sees_an_untrained_start_and_no_ordinary_rise(psnr: list[float], length: int) -> None:
    assert leap_length(psnr, 0.5) == length


def test_find_elbow_of_an_exponential_rise_is_where_its_slope_is_one() -> None:
    # 1 - exp(-x / tau) over [0, 1] is steeper than the diagonal up to x = tau ln(1 / (tau (1 - exp(-1 / tau)))).
    count, tau = 400, 0.2
    steps = [100 * i for i in range(count + 1)]
    scores = [1 - math.exp(-i / count / tau) for i in range(count + 1)]
    wanted = tau * math.log(1 / (tau * (1 - math.exp(-1 / tau))))
    assert find_elbow(steps, scores, range(count + 1)) / count == pytest.approx(wanted, abs=2 / count)
    assert find_elbow(steps, scores, [5, 300, 350]) in (5, 300)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_elbow_and_knee_stand_above_all_before_them(scores: list[float]) -> None:
    """So checkpoints that are not better than all before may be deleted."""
    elbow = find_elbow(range(len(scores)), scores, range(len(scores)))
    sure = knee_weights({len(scores): scores}, {len(scores): 1.0}, 0.05)
    knee = sure.index(max(sure))
    for chosen in (elbow, knee):
        assert all(score < scores[chosen] or chosen == 0 for score in scores[:chosen])


def test_knee_weights_with_one_onset_point_to_the_first_that_is_good_enough() -> None:
    scores = [0.0, 0.5, 0.94, 0.96, 0.9, 1.0, 0.97]
    assert knee_weights({7: scores}, {7: 1.0}, 0.05) == [0, 0, 0, 1, 1, 1, 1]
    assert knee_weights({5: scores[:5]}, {5: 1.0}, 0.05) == [0, 0, 1, 1, 1]


def test_knee_weights_weigh_the_onsets() -> None:
    scores = [0.0, 0.5, 0.8, 0.9, 0.96, 1.0]
    sure = knee_weights({3: scores[:3], 6: scores}, {3: 0.3, 6: 0.7}, 0.1)
    assert sure == pytest.approx([0, 0, 0.3, 0.7, 0.7, 0.7])


@pytest.mark.parametrize(("onset", "strength"), [(20, 10.0), (25, 4.0), (28, 30.0)])
def test_onset_weights_find_where_the_swings_begin(onset: int, strength: float) -> None:
    errors = []
    for seed in range(40):
        rng = random.Random(seed)
        curves = [
            [rng.gauss(0, 1) + (strength * rng.choice((-1, 1)) if i >= onset else 0) for i in range(34)] for _ in "ab"
        ]
        weights = onset_weights(curves, (1.0, 1.0), 12, 34 - 10)
        assert sum(weights) == pytest.approx(1.0)
        assert len(weights) == 34 - 1 - 12
        errors.append(sum(weight * (12 + i - onset) for i, weight in enumerate(weights)))
    assert abs(statistics.mean(errors)) < 2.0


def test_onset_weights_do_not_depend_on_units() -> None:
    rng = random.Random(0)
    curve = [rng.gauss(0, 1) * (1 if i < 20 else 5) for i in range(30)]
    a = onset_weights([curve], [1.0], 8, 20)
    b = onset_weights([[0.003 * value + 25 for value in curve]], [0.003], 8, 20)
    assert a == pytest.approx(b, rel=1e-6)
