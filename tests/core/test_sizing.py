"""From a request to an exact size, and to passes whose product is that size."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from linearsr.errors import ConfigError
from linearsr.sizing import MAX_PASS_SCALE, MAX_SCALE, OutputSize, check_scale, parse_size, pass_sizes, resolve_size

sides = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1920x1080", (1920, 1080)),
        ("1920x", (1920, None)),
        ("x1080", (None, 1080)),
        (" 64X48 ", (64, 48)),
        ("1x1", (1, 1)),
    ],
)
def test_parse_size_reads_both_or_either_side(text: str, expected: tuple[int | None, int | None]) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "1920", "0x10", "10x0", "-5x10", "10x20x30", "axb", "1.5x2", "10 20", "nanx1"]
)
def test_parse_size_refuses_other_forms_and_says_what_works(text: str) -> None:
    with pytest.raises(ConfigError, match="expected WxH") as caught:
        parse_size(text)
    assert "1920x1080" in str(caught.value.hint)


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.99, 64.01, math.nan, math.inf, -math.inf])
def test_check_scale_refuses_what_lies_outside(scale: float) -> None:
    with pytest.raises(ConfigError, match=f"scale is {scale:g}, expected a number from 1 to 64") as caught:
        check_scale(scale)
    assert caught.value.hint is not None
    with pytest.raises(ConfigError):
        resolve_size(100, 80, scale=scale)


@given(sides, sides, st.floats(1.0, MAX_SCALE))
def test_resolve_size_rounds_the_scaled_sides(width: int, height: int, scale: float) -> None:
    out = resolve_size(width, height, scale=scale)
    assert abs(out.width - width * scale) <= 0.5
    assert abs(out.height - height * scale) <= 0.5
    assert out.scale == pytest.approx(math.sqrt(out.width * out.height / (width * height)), rel=1e-12)


@given(sides, sides, st.floats(1.0, 8.0))
def test_resolve_size_gives_the_long_side_exactly(width: int, height: int, factor: float) -> None:
    long_side = math.ceil(max(width, height) * factor)
    out = resolve_size(width, height, long_side=long_side)
    assert max(out.width, out.height) == long_side
    assert out.width / out.height == pytest.approx(width / height, rel=1.0 / min(out.width, out.height))


@given(sides, sides, st.floats(1.0, 8.0), st.floats(1.0, 8.0))
def test_resolve_size_gives_both_sides_exactly(width: int, height: int, a: float, b: float) -> None:
    size = (math.ceil(width * a), math.ceil(height * b))
    assume(size[0] <= 64 * width and size[1] <= 64 * height)
    out = resolve_size(width, height, size=size)
    assert (out.width, out.height) == size


def test_resolve_size_fills_in_the_missing_side() -> None:
    assert resolve_size(640, 480, size=(1280, None)) == OutputSize(width=1280, height=960, scale=2.0)
    assert resolve_size(640, 480, size=(None, 960)) == OutputSize(width=1280, height=960, scale=2.0)
    assert resolve_size(1, 5000, scale=4).height == 20000


def test_resolve_size_is_four_times_when_nothing_is_asked() -> None:
    assert resolve_size(25, 17) == OutputSize(width=100, height=68, scale=4.0)


def test_resolve_size_of_scale_one_is_the_input() -> None:
    assert resolve_size(25, 17, scale=1.0) == OutputSize(width=25, height=17, scale=1.0)


@pytest.mark.parametrize(
    "requests",
    [{"scale": 2.0, "size": (50, 50)}, {"scale": 2.0, "long_side": 90}, {"size": (50, None), "long_side": 90}],
)
def test_resolve_size_refuses_two_requests(requests: dict) -> None:
    with pytest.raises(ConfigError, match=" and .* are both given"):
        resolve_size(20, 20, **requests)


@pytest.mark.parametrize(
    "requests",
    [
        {"size": (10, 40)},
        {"size": (40, 10)},
        {"size": (0, None)},
        {"long_side": 10},
        {"long_side": 0},
        {"long_side": -3},
    ],
)
def test_resolve_size_refuses_to_shrink(requests: dict) -> None:
    with pytest.raises(ConfigError, match="smaller than the 20x20 input"):
        resolve_size(20, 20, **requests)


def test_resolve_size_refuses_more_than_the_largest_scale() -> None:
    with pytest.raises(ConfigError, match="expected a number from 1 to 64"):
        resolve_size(10, 10, size=(650, 10))
    with pytest.raises(ConfigError, match="names no side"):
        resolve_size(10, 10, size=(None, None))


@given(sides, sides, st.floats(1.0, MAX_SCALE), st.floats(1.0, MAX_SCALE))
def test_pass_sizes_end_at_the_target_in_steps_of_at_most_four(width: int, height: int, a: float, b: float) -> None:
    target = OutputSize(width=round(width * a), height=round(height * b), scale=math.sqrt(a * b))
    sizes = pass_sizes(width, height, target)
    assert (sizes[-1].width, sizes[-1].height) == (target.width, target.height)
    before, product = (width, height), 1.0
    for size in sizes:
        for old, new in zip(before, (size.width, size.height), strict=True):
            assert old <= new <= MAX_PASS_SCALE * old
        product *= size.scale
        before = (size.width, size.height)
    exact = math.sqrt((target.width / width) * (target.height / height))
    assert product == pytest.approx(exact, rel=1e-9)
    assert len(sizes) == max(1, math.ceil(math.log(max(target.width / width, target.height / height), 4) - 1e-9))


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(1, [1]), (4, [4]), (4.01, [2.0025, 2.0025]), (6, [2.449, 2.45]), (16, [4, 4]), (64, [4, 4, 4])],
)
def test_pass_sizes_have_equal_factors(scale: float, expected: list[float]) -> None:
    sizes = pass_sizes(1000, 1000, resolve_size(1000, 1000, scale=scale))
    assert [size.scale for size in sizes] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("width", "target"), [(1, 61), (2, 125), (20, 1277)])
def test_pass_sizes_stay_within_four_when_rounding_would_not(width: int, target: int) -> None:
    sizes = pass_sizes(width, width, OutputSize(width=target, height=target, scale=target / width))
    assert len(sizes) == 3
    assert max(size.scale for size in sizes) <= MAX_PASS_SCALE
