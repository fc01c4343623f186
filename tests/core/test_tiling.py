"""Plans cover every pixel with weights that sum to one; tiling a local function changes nothing."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.tiling import MIN_TILE, QUIET_FRACTION, Tile, TilePlan, check_tile, plan_tiles, run_tiled


def _weights(plan: TilePlan) -> Tensor:
    total = torch.zeros(plan.height, plan.width, dtype=torch.float64)
    for tile in plan.tiles:
        total[tile.rows, tile.cols] += plan.window(tile).double()
    return total


@given(st.integers(1, 300), st.integers(1, 300), st.integers(16, 96), st.data())
@settings(deadline=None, max_examples=60)
def test_plan_tiles_gives_every_pixel_a_weight_of_one(height: int, width: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    plan = plan_tiles(height, width, tile, overlap)
    assert (_weights(plan) - 1).abs().max() < 1e-6
    for window in (*plan.row_windows, *plan.col_windows):
        assert float(window.min()) >= 0.0


@given(st.integers(1, 500), st.integers(1, 96), st.data())
@settings(deadline=None)
def test_plan_tiles_shares_at_least_the_overlap_and_ends_at_the_border(
    size: int, tile: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    plan = plan_tiles(size, 1, tile, overlap)
    starts = plan.row_starts
    assert starts[0] == 0
    assert starts[-1] + plan.tile_height == size
    assert plan.tile_height <= min(tile, size)
    assert len(starts) == (1 if size <= tile else math.ceil((size - overlap) / (tile - overlap)))
    for first, second in zip(starts, starts[1:], strict=False):
        assert first < second
        assert first + plan.tile_height - second >= overlap


def test_plan_tiles_without_a_tile_is_the_whole_canvas() -> None:
    plan = plan_tiles(33, 57, None, 16)
    assert plan.tiles == [Tile(0, 0, 33, 57)]
    assert torch.equal(plan.window(plan.tiles[0]), torch.ones(33, 57))


def test_plan_tiles_are_equal_and_spread_evenly() -> None:
    plan = plan_tiles(150, 64, 64, 16)
    assert [(tile.top, tile.left, tile.height) for tile in plan.tiles] == [(0, 0, 61), (44, 0, 61), (89, 0, 61)]


def test_plan_tiles_cover_2048_with_less_than_a_tenth_of_extra_work() -> None:
    plan = plan_tiles(2048, 2048, 1024, 32, 8)
    assert len(plan.tiles) * plan.tile_height * plan.tile_width < 1.1 * 2048**2


@given(size=st.integers(1, 300), tile=st.integers(8, 60), data=st.data())
def test_plan_tiles_keep_to_the_grid(size: int, tile: int, data: st.DataObject) -> None:
    overlap = 8 * data.draw(st.integers(0, tile // 2))
    plan = plan_tiles(8 * size, 8, 8 * tile, overlap, 8)
    assert plan.tile_height % 8 == 0 and all(start % 8 == 0 for start in plan.row_starts)
    assert plan.tile_height <= 8 * min(tile, size)
    for first, second in zip(plan.row_starts, plan.row_starts[1:], strict=False):
        assert first + plan.tile_height - second >= overlap


def test_windows_rise_as_a_cosine_and_are_silent_at_the_edge() -> None:
    plan = plan_tiles(112, 64, 64, 16)
    first, second = plan.row_windows
    quiet = int(16 * QUIET_FRACTION)
    assert torch.equal(second[:quiet], torch.zeros(quiet))
    assert torch.equal(first[-quiet:], torch.zeros(quiet))
    assert float(second[5]) == pytest.approx(0.5 - 0.5 * torch.cos(torch.tensor(torch.pi * 1.5 / 8)).item(), abs=1e-6)
    assert torch.allclose(first[-16:] + second[:16], torch.ones(16))
    assert torch.equal(first[:48], torch.ones(48))


def _blur(x: Tensor) -> Tensor:
    """3x3 mean with zeros around, as a network's convolutions see the end of their tile."""
    return F.conv2d(x[:, None], torch.full((1, 1, 3, 3), 1 / 9), padding=1)[:, 0]


def test_run_tiled_of_a_local_function_equals_the_whole_at_every_size() -> None:
    for size in range(1, 60):
        height, width = size, size * 3 % 47 + 1
        image = torch.rand(2, height, width)

        def run(tiles: list[Tile], image: Tensor = image) -> Tensor:
            return torch.stack([_blur(image[:, tile.rows, tile.cols]) for tile in tiles])

        out = run_tiled(run, plan_tiles(height, width, 16, 8), batch_size=1 + size % 3)
        assert out.shape == image.shape
        assert (out - _blur(image)).abs().max() < 1e-6, (height, width)


def test_run_tiled_without_the_quiet_edge_would_show_seams() -> None:
    """The same function with an overlap too small for a silent edge does differ: the test above can fail."""
    image = torch.rand(1, 61, 61)
    out = run_tiled(
        lambda tiles: torch.stack([_blur(image[:, tile.rows, tile.cols]) for tile in tiles]), plan_tiles(61, 61, 16, 0)
    )
    assert (out - _blur(image)).abs().max() > 0.05


def test_run_tiled_of_a_pointwise_function_needs_no_overlap() -> None:
    image = torch.rand(3, 50, 41)
    out = run_tiled(
        lambda tiles: torch.stack([image[:, t.rows, t.cols] ** 2 for t in tiles]), plan_tiles(50, 41, 16, 0)
    )
    assert torch.allclose(out, image**2, atol=1e-7)


def test_run_tiled_batches_and_reports_every_tile() -> None:
    plan = plan_tiles(64, 100, 32, 8)
    batches: list[int] = []
    seen: list[tuple[int, int]] = []

    def run(tiles: list[Tile]) -> Tensor:
        batches.append(len(tiles))
        return torch.zeros(len(tiles), 3, plan.tile_height, plan.tile_width, dtype=torch.bfloat16)

    out = run_tiled(run, plan, batch_size=5, progress=lambda done, total: seen.append((done, total)))
    assert len(plan.tiles) == 12
    assert batches == [5, 5, 2]
    assert seen == [(5, 12), (10, 12), (12, 12)]
    assert out.dtype == torch.float32


@pytest.mark.parametrize("batch_size", [0, -1])
def test_run_tiled_refuses_an_empty_batch(batch_size: int) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size}"):
        run_tiled(lambda tiles: torch.zeros(1), plan_tiles(8, 8, None, 0), batch_size=batch_size)


@pytest.mark.parametrize("tile", [0, 7, -64, 63, 100])
@pytest.mark.parametrize("multiple", [8, 32, 48])
def test_check_tile_refuses_a_tile_and_names_one_that_works(tile: int, multiple: int) -> None:
    with pytest.raises(ConfigError, match=f"tile is {tile}, expected a multiple of {multiple} pixels") as caught:
        check_tile(tile, 0, multiple)
    named = re.search(r"--tile (\d+)", str(caught.value.hint))
    assert named is not None
    check_tile(int(named[1]), 0, multiple)
    assert int(named[1]) >= max(tile, MIN_TILE)


@pytest.mark.parametrize("overlap", [-8, 7, 56, 1000])
def test_check_tile_refuses_an_overlap_and_names_one_that_works(overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"tile overlap is {overlap}") as caught:
        check_tile(96, overlap, 8)
    named = re.search(r"--tile-overlap (\d+)", str(caught.value.hint))
    assert named is not None
    check_tile(96, int(named[1]), 8)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 32), (512, 32), (1000, 496)])
def test_check_tile_accepts_what_fits(tile: int, overlap: int) -> None:
    check_tile(tile, overlap, 8)
