"""Means, intervals and the sign test against fractions, scipy, normal theory and each other."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from linearsr.errors import ConfigError
from linearsr.evaluation import statistics
from linearsr.evaluation.results import Evaluation, ImageScores, MethodInfo
from linearsr.evaluation.statistics import Bootstrap, Row, bootstrap_interval, compare_pairs, sign_test, summarise

METHODS = (
    MethodInfo(name="bicubic", kind="baseline"),
    MethodInfo(name="compact, 4 steps", kind="model", steps=4),
)


def evaluation_of(
    scores: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]], metrics: tuple[str, ...], **changes: object
) -> Evaluation:
    """From dataset -> method -> scores of picture 0, 1, ..."""
    images = tuple(
        ImageScores(dataset=dataset, image=str(index), method=method, scores=found, seconds=index + 1.0, megapixels=0.5)
        for dataset, by_method in scores.items()
        for method, of_pictures in by_method.items()
        for index, found in enumerate(of_pictures)
    )
    evaluation = Evaluation(datasets=tuple(scores), methods=METHODS, metrics=metrics, baseline="bicubic", images=images)
    return replace(evaluation, **changes)


def find(rows: Sequence[Row], dataset: str, method: str) -> Row:
    return next(row for row in rows if (row.dataset, row.method) == (dataset, method))


@pytest.mark.parametrize(
    ("better", "worse", "numerator", "exponent"),
    [
        (5, 0, 1, 4),
        (0, 5, 1, 4),
        (9, 1, 22, 10),
        (8, 2, 112, 10),
        (1, 0, 1, 0),
        (3, 3, 1, 0),
        (0, 0, 1, 0),
        (6, 0, 1, 5),
    ],
)
def test_sign_test_equals_fractions_counted_by_hand(better: int, worse: int, numerator: int, exponent: int) -> None:
    assert sign_test(better, worse) == numerator / 2**exponent


def test_sign_test_equals_scipys_binomial_test() -> None:
    for better in range(26):
        for worse in range(26 - better):
            if better + worse:
                expected = binomtest(better, better + worse, 0.5).pvalue
                assert sign_test(better, worse) == pytest.approx(expected, rel=1e-9), (better, worse)


def test_sign_test_stays_exact_where_floats_underflow() -> None:
    assert sign_test(1000, 0) == math.ldexp(1.0, -999)


def test_bootstrap_interval_covers_the_mean_of_normal_samples() -> None:
    generator = np.random.default_rng(7)
    trials, num = 600, 50
    inside = 0
    for _ in range(trials):
        low, high = bootstrap_interval(generator.normal(30.0, 2.0, num).tolist(), Bootstrap(resamples=500))
        assert low is not None and high is not None
        inside += low <= 30.0 <= high

    # At 50 values the percentile interval covers 0.935 of the time; 3.5 standard deviations of 600 trials are 0.035.
    assert 0.90 <= inside / trials <= 0.97


def test_bootstrap_interval_equals_normal_theory_for_many_values() -> None:
    values = np.random.default_rng(3).normal(0.0, 1.0, 2000)
    error = values.std() / math.sqrt(len(values))

    low, high = bootstrap_interval(values.tolist(), Bootstrap(resamples=4000, seed=5))

    # The 2.5th percentile of 4000 draws scatters by 0.04 of the standard error.
    assert low == pytest.approx(values.mean() - 1.95996 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.95996 * error, abs=0.2 * error)


def test_bootstrap_interval_does_not_depend_on_how_draws_are_bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(1).normal(size=23).tolist()
    whole = bootstrap_interval(values, Bootstrap(resamples=300))

    monkeypatch.setattr(statistics, "_DRAWS_AT_ONCE", 23 * 7)

    assert bootstrap_interval(values, Bootstrap(resamples=300)) == whole


def test_bootstrap_interval_changes_with_seed_and_narrows_with_level() -> None:
    values = np.random.default_rng(1).normal(size=40).tolist()
    wide = bootstrap_interval(values, Bootstrap())
    narrow = bootstrap_interval(values, Bootstrap(level=0.5))

    assert bootstrap_interval(values, Bootstrap(seed=1)) != wide
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("values", [[], [31.0], [31.0, math.inf], [31.0, math.nan, 30.0]])
def test_bootstrap_interval_is_none_where_it_would_mean_nothing(values: list[float]) -> None:
    assert bootstrap_interval(values, Bootstrap()) == (None, None)


def test_compare_pairs_counts_by_the_metrics_direction() -> None:
    pairs = [(0.1, 0.3), (0.2, 0.3), (0.4, 0.3), (0.3, 0.3)]

    lower = compare_pairs(pairs, lower_better=True, bootstrap=None)
    higher = compare_pairs(pairs, lower_better=False, bootstrap=None)

    assert (lower.better, lower.worse, lower.ties) == (2, 1, 1)
    assert (higher.better, higher.worse, higher.ties) == (1, 2, 1)
    assert lower.mean == higher.mean == pytest.approx(-0.05, abs=1e-12)
    assert lower.p_value == 1.0  # 2 of 3


def test_compare_pairs_takes_two_infinities_for_equal() -> None:
    both = compare_pairs([(math.inf, math.inf), (31.0, 30.0)], lower_better=False, bootstrap=Bootstrap())
    one = compare_pairs([(math.inf, 40.0), (31.0, 30.0)], lower_better=False, bootstrap=Bootstrap())

    assert (both.mean, both.better, both.ties) == (0.5, 1, 1)
    assert (one.mean, one.better, one.low, one.high) == (math.inf, 2, None, None)


def test_compare_pairs_does_not_count_what_is_not_a_number() -> None:
    paired = compare_pairs([(math.nan, 1.0), (2.0, 1.0)], lower_better=False, bootstrap=None)

    assert math.isnan(paired.mean)
    assert (paired.better, paired.worse, paired.ties) == (1, 0, 0)


def test_compare_pairs_of_one_constant_gain_has_an_interval_of_no_width() -> None:
    paired = compare_pairs([(base + 0.5, base) for base in range(20, 30)], lower_better=False, bootstrap=Bootstrap())

    assert (paired.mean, paired.low, paired.high) == (0.5, 0.5, 0.5)
    assert paired.p_value == 2 / 2**10


def test_summarise_takes_means_of_each_set_and_differences_from_the_baseline() -> None:
    evaluation = evaluation_of(
        {
            "Set5": {
                "bicubic": [{"psnr_y": 28.0, "lpips": 0.4}, {"psnr_y": 29.0, "lpips": 0.3}],
                "compact, 4 steps": [{"psnr_y": 30.0, "lpips": 0.1}, {"psnr_y": 30.0, "lpips": 0.2}],
            },
            "Set14": {
                "bicubic": [{"psnr_y": 20.0, "lpips": 0.5}],
                "compact, 4 steps": [{"psnr_y": 19.0, "lpips": 0.6}],
            },
        },
        ("psnr_y", "lpips"),
    )

    rows = summarise(evaluation)

    assert [(row.dataset, row.method, row.steps, row.num_images) for row in rows] == [
        ("Set5", "bicubic", None, 2),
        ("Set5", "compact, 4 steps", 4, 2),
        ("Set14", "bicubic", None, 1),
        ("Set14", "compact, 4 steps", 4, 1),
    ]
    ours = find(rows, "Set5", "compact, 4 steps")
    assert ours.scores["psnr_y"].mean == 30.0
    assert ours.differences["psnr_y"].mean == 1.5
    assert ours.differences["lpips"].mean == pytest.approx(-0.2, abs=1e-12)
    assert ours.differences["lpips"].better == 2
    assert find(rows, "Set14", "compact, 4 steps").differences["lpips"].worse == 1
    assert find(rows, "Set5", "bicubic").differences == {}
    assert ours.seconds_per_megapixel == 3.0  # median of 1 s and 2 s for half a megapixel


def test_summarise_leaves_out_what_no_picture_has() -> None:
    seams = [{"seam": 1.2}, {}, {"seam": 1.0}]
    evaluation = evaluation_of({"Kodak24": {"bicubic": [{}, {}, {}], "compact, 4 steps": seams}}, ("psnr_y", "seam"))

    rows = summarise(evaluation)

    ours = find(rows, "Kodak24", "compact, 4 steps")
    assert set(ours.scores) == {"seam"}
    assert (ours.scores["seam"].num, ours.num_images) == (2, 3)
    assert ours.differences == {}
    assert find(rows, "Kodak24", "bicubic").scores == {}


def test_summarise_gives_an_infinite_mean_no_interval() -> None:
    found = [{"psnr_y": math.inf}, {"psnr_y": 30.0}]
    row = summarise(evaluation_of({"Set5": {"bicubic": found, "compact, 4 steps": found}}, ("psnr_y",)))[1]

    assert (row.scores["psnr_y"].mean, row.scores["psnr_y"].low, row.scores["psnr_y"].high) == (math.inf, None, None)
    assert (row.differences["psnr_y"].mean, row.differences["psnr_y"].ties) == (0.0, 2)


def test_summarise_keeps_a_row_for_a_set_without_pictures() -> None:
    rows = summarise(evaluation_of({"Set5": {}}, ("psnr_y",)))

    assert [(row.method, row.num_images, row.scores, row.seconds_per_megapixel) for row in rows] == [
        ("bicubic", 0, {}, None),
        ("compact, 4 steps", 0, {}, None),
    ]


def test_summarise_without_resamples_or_baseline_leaves_them_out() -> None:
    found = [{"psnr_y": 30.0}, {"psnr_y": 32.0}]
    scores = {"Set5": {"bicubic": found, "compact, 4 steps": found}}

    row = summarise(evaluation_of(scores, ("psnr_y",), baseline=None), resamples=0)[1]

    assert (row.scores["psnr_y"].mean, row.scores["psnr_y"].low, row.bootstrap) == (31.0, None, None)
    assert row.differences == {}


def test_summarise_pools_pictures_and_not_sets() -> None:
    scores = {
        name: {method.name: [{"psnr_y": value} for value in values] for method in METHODS}
        for name, values in {"Set5": [30.0], "Set14": [20.0, 21.0, 25.0]}.items()
    }
    evaluation = evaluation_of(scores, ("psnr_y",))

    assert [row.dataset for row in summarise(evaluation)].count("all") == 0
    pooled = find(summarise(evaluation, pooled=True), "all", "bicubic")
    assert (pooled.scores["psnr_y"].mean, pooled.num_images) == (24.0, 4)
    assert find(summarise(evaluation, pooled=True), "all", "compact, 4 steps").differences["psnr_y"].ties == 4


def test_summarise_of_one_set_has_no_pooled_row() -> None:
    evaluation = evaluation_of({"Set5": {"bicubic": [{"psnr_y": 30.0}]}}, ("psnr_y",))

    assert summarise(evaluation, pooled=True) == summarise(evaluation)


def test_summarise_refuses_numbers_out_of_range_and_a_set_called_all() -> None:
    evaluation = evaluation_of({"all": {}, "Set5": {}}, ("psnr_y",))

    with pytest.raises(ConfigError, match="'all'"):
        summarise(evaluation, pooled=True)
    with pytest.raises(ConfigError, match="resamples is -1"):
        summarise(evaluation, resamples=-1)
    with pytest.raises(ConfigError, match="level is 1"):
        summarise(evaluation, level=1.0)


values = st.one_of(st.floats(0.0, 60.0, allow_nan=False), st.just(math.inf))


@given(
    pairs=st.lists(st.tuples(values, values), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_summarise_does_not_depend_on_the_order_of_pictures(pairs: list[tuple[float, float]], seed: int) -> None:
    scores = {
        "Set5": {
            "bicubic": [{"psnr_y": base} for _, base in pairs],
            "compact, 4 steps": [{"psnr_y": ours} for ours, _ in pairs],
        }
    }
    evaluation = evaluation_of(scores, ("psnr_y",))
    shuffled = list(evaluation.images)
    random.Random(seed).shuffle(shuffled)

    rows = summarise(evaluation, resamples=50)
    again = summarise(replace(evaluation, images=tuple(shuffled)), resamples=50)

    assert str(rows) == str(again)  # as text: a difference of infinities is not a number, which equals nothing


@given(st.lists(st.floats(0.0, 1e6, allow_nan=False), min_size=2, max_size=30))
def test_bootstrap_interval_lies_between_the_extremes(found: list[float]) -> None:
    low, high = bootstrap_interval(found, Bootstrap(resamples=40))

    assert low is not None and high is not None
    slack = 1e-9 * max(found)
    assert min(found) - slack <= low <= high <= max(found) + slack
