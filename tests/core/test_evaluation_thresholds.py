"""The gate: how thresholds are read, which rows miss them, and what cannot slip through."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.errors import ConfigError
from linearsr.evaluation.results import MethodInfo
from linearsr.evaluation.statistics import Row, Summary
from linearsr.evaluation.thresholds import Threshold, Violation, check, check_known, parse_thresholds

METHODS = (
    MethodInfo(name="bicubic", kind="baseline"),
    MethodInfo(name="compact, 4 steps", kind="model", steps=4),
    MethodInfo(name="mine", kind="folder"),
)


def row(dataset: str, method: str, **means: float) -> Row:
    scores = {name: Summary(mean=mean, low=None, high=None, num=5) for name, mean in means.items()}
    return Row(dataset=dataset, method=method, steps=None, num_images=5, seconds_per_megapixel=None, scores=scores)


def test_parse_thresholds_reads_every_operator_and_equals_by_direction() -> None:
    found = parse_thresholds(" psnr_y = 27 ,lpips=0.2,ssim-y>=.8,MS-SSIM-Y>9e-1,niqe<5,dists<=+0.25")

    assert [(t.metric, t.operator, t.value) for t in found] == [
        ("psnr_y", ">=", 27.0),
        ("lpips", "<=", 0.2),
        ("ssim_y", ">=", 0.8),
        ("ms_ssim_y", ">", 0.9),
        ("niqe", "<", 5.0),
        ("dists", "<=", 0.25),
    ]


def test_parse_thresholds_resolves_psnr_by_colour() -> None:
    assert parse_thresholds("psnr=27")[0].metric == "psnr_y"
    assert parse_thresholds("psnr=27", "rgb")[0].metric == "psnr_rgb"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "psnr_y",
        "psnr_y=",
        "=27",
        "psnr_y=27,",
        "psnr_y==27",
        "psnr_y=>27",
        "psnr_y=nan",
        "psnr_y<inf",
        "psnr_y=1e999",
    ]
    + ["psnr_y 27", "psnr_y!=27", "27<psnr_y", "psnr_y=2_7", "psnr_y=27;lpips<0.2"],
)
def test_parse_thresholds_refuses_nonsense_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="threshold is") as caught:
        parse_thresholds(text)

    assert caught.value.hint is not None and "psnr_y=27" in caught.value.hint


def test_parse_thresholds_refuses_an_unknown_metric_by_name() -> None:
    with pytest.raises(ConfigError, match="psnr_z") as caught:
        parse_thresholds("psnr_z=27")

    assert caught.value.hint is not None and "psnr" in caught.value.hint


def test_check_known_refuses_a_metric_that_is_not_computed() -> None:
    check_known(parse_thresholds("psnr_y=27"), ("psnr_y", "ssim_y"))

    with pytest.raises(ConfigError, match="lpips < 0.2 is on a metric that is not computed") as caught:
        check_known(parse_thresholds("psnr_y=27,lpips<0.2"), ("psnr_y", "ssim_y"))

    assert caught.value.hint == "`--metrics psnr_y,ssim_y,lpips`"


def test_check_judges_every_set_and_method_but_baselines() -> None:
    rows = [
        row("Set5", "bicubic", psnr_y=20.0),
        row("Set5", "compact, 4 steps", psnr_y=26.91),
        row("Set5", "mine", psnr_y=27.0),
        row("Set14", "bicubic", psnr_y=20.0),
        row("Set14", "compact, 4 steps", psnr_y=28.0),
        row("Set14", "mine", psnr_y=25.0),
    ]

    found = check(rows, parse_thresholds("psnr_y=27"), METHODS)

    assert [violation.text for violation in found] == [
        "Set5, compact, 4 steps: PSNR-Y 26.91, wanted >= 27",
        "Set14, mine: PSNR-Y 25.00, wanted >= 27",
    ]


@pytest.mark.parametrize("operator", ["=", ">=", ">", "<=", "<"])
@pytest.mark.parametrize("metric", ["psnr_y", "lpips"])
def test_check_never_passes_what_is_missing_or_no_number(operator: str, metric: str) -> None:
    thresholds = parse_thresholds(f"{metric}{operator}0")
    methods = (METHODS[1],)

    partly = Summary(mean=math.nan, low=None, high=None, num=2, finite_mean=1.0 if operator[0] in "=>" else -1.0)
    for rows in (
        [row("Set5", METHODS[1].name)],
        [row("Set5", METHODS[1].name, **{metric: math.nan})],
        [dataclasses.replace(row("Set5", METHODS[1].name), scores={metric: partly})],
    ):
        (violation,) = check(rows, thresholds, methods)
        assert "has no value, wanted" in violation.text


def test_check_says_that_infinite_values_are_left_out() -> None:
    scores = {"psnr_y": Summary(mean=math.inf, low=None, high=None, num=3, finite_mean=22.5)}
    found = check(
        [dataclasses.replace(row("Set5", "mine"), scores=scores)], parse_thresholds("psnr_y=23"), METHODS[-1:]
    )

    assert [violation.text for violation in found] == [
        "Set5, mine: PSNR-Y 22.50 over the pictures where it is finite, wanted >= 23"
    ]


def test_check_of_a_method_without_a_row_is_a_violation() -> None:
    found = check([row("Set5", "mine", lpips=0.1)], parse_thresholds("lpips<0.2"), METHODS)

    assert [(violation.method, violation.value) for violation in found] == [("compact, 4 steps", None)]


def test_check_refuses_to_judge_nothing() -> None:
    with pytest.raises(ConfigError, match="nothing to judge"):
        check([row("Set5", "bicubic", psnr_y=20.0)], parse_thresholds("psnr_y=27"), METHODS[:1])
    with pytest.raises(ConfigError, match="nothing to judge"):
        check([], parse_thresholds("psnr_y=27"), METHODS)

    assert check([], (), METHODS) == ()


@pytest.mark.parametrize(
    ("operator", "value", "passes"),
    [(">=", 27.0, True), (">", 27.0, False), ("<=", 27.0, True), ("<", 27.0, False), (">=", math.inf, True)],
)
def test_threshold_passes_at_its_border_as_written(operator: str, value: float, passes: bool) -> None:
    wanted = parse_thresholds(f"psnr_y{operator}27")[0]

    assert wanted.passes(value) is passes


def test_violation_shows_as_many_decimals_as_it_takes() -> None:
    wanted = Threshold(metric="psnr_y", operator=">=", value=27.0)

    text = Violation(dataset="s", method="m", metric="psnr_y", value=26.9996, wanted=wanted).text

    assert text == "s, m: PSNR-Y 26.9996, wanted >= 27"


@given(st.floats(0, 60), st.floats(0, 60), st.sampled_from([">=", ">", "<=", "<"]))
def test_violation_text_is_always_true(value: float, border: float, operator: str) -> None:
    wanted = Threshold(metric="psnr_y", operator=operator, value=border)
    if wanted.passes(value):
        return

    text = Violation(dataset="s", method="m", metric="psnr_y", value=value, wanted=wanted).text
    shown = float(text.removeprefix("s, m: PSNR-Y ").partition(", wanted ")[0])

    assert not wanted.passes(shown)
