"""The seam score: 1 where there is none, more with every step, the same whatever the picture shows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut, coffee

from linearsr.errors import ShapeError
from linearsr.metrics import quantise, seam_score
from linearsr.resize import resize
from linearsr.tiling import TilePlan, plan_tiles

_DATA = os.environ.get("LINEARSR_DATA")
needs_data = pytest.mark.skipif(_DATA is None, reason="set LINEARSR_DATA to the folder with train/")


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255.0


def _stepped(x: torch.Tensor, plan: TilePlan, levels: float) -> torch.Tensor:
    """Every other tile brighter, like a chessboard, with hard borders where tiles start."""
    height, width = x.shape[1:]
    row = sum((torch.arange(height) >= start).int() for start in plan.row_starts)
    col = sum((torch.arange(width) >= start).int() for start in plan.col_starts)
    return quantise(x + (row[:, None] + col[None, :]) % 2 * levels / 255)


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[1:]
    return quantise(resize(quantise(resize(x, (height // 4, width // 4))), (height, width)))


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (96, 16), (128, 32), (160, 64)])
def test_a_clean_picture_has_no_seam_and_a_step_of_two_levels_shows(tile: int, overlap: int) -> None:
    for picture in (astronaut(), coffee()):
        x = _enlarged(_tensor(picture[:384, :384]))
        plan = plan_tiles(384, 384, tile, overlap, 8)
        clean, stepped = seam_score(x, plan), seam_score(_stepped(x, plan, 2), plan)
        assert clean == pytest.approx(1.0, abs=0.25)
        assert stepped is not None and stepped > 1.5


def test_the_score_rises_with_the_step() -> None:
    x = _enlarged(_tensor(coffee()[:384, :384]))
    plan = plan_tiles(384, 384, 128, 16, 8)
    scores = [seam_score(_stepped(x, plan, levels), plan) for levels in (0, 1, 2, 4, 8)]
    assert scores == sorted(scores)
    assert len(set(scores)) == 5


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    tile=st.sampled_from([64, 72, 96, 128]),
    overlap=st.sampled_from([0, 8, 16, 32]),
    grain=st.floats(0.0, 0.015),
)
def test_any_step_on_any_grid_raises_the_score(seed: int, tile: int, overlap: int, grain: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = resize(torch.rand(3, 9, 11, generator=generator), (208, 240)) * 0.5 + 0.25
    x = quantise(shapes + grain * torch.randn(shapes.shape, generator=generator))
    plan = plan_tiles(208, 240, tile, overlap, 8)
    scores = [seam_score(_stepped(x, plan, levels), plan) for levels in (0, 4, 12)]
    assert scores[0] < scores[1] < scores[2]


def test_blocks_of_8_pixels_are_no_seams() -> None:
    x = _tensor(astronaut()[:256, :256])
    blocks = torch.randint(-3, 4, (3, 32, 32), generator=torch.Generator().manual_seed(6)).float() / 255
    blocky = quantise(x + blocks.repeat_interleave(8, 1).repeat_interleave(8, 2))
    for tile, overlap in ((64, 0), (96, 16), (128, 32)):
        assert seam_score(blocky, plan_tiles(256, 256, tile, overlap, 8)) == pytest.approx(1.0, abs=0.25)


def test_an_edge_of_what_is_shown_decides_little() -> None:
    x = torch.full((3, 256, 256), 0.3)
    x[:, :20, 128:] = 0.9  # a border runs along a strong edge for a tenth of its way
    x = quantise(x + 0.005 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    plan = plan_tiles(256, 256, 128, 0, 8)
    edge, step_of_one = seam_score(x, plan), seam_score(_stepped(x, plan, 1), plan)
    assert edge == pytest.approx(1.0, abs=0.15)
    assert step_of_one is not None and step_of_one > 1.5


def test_a_flat_picture_has_no_seam_and_an_untiled_one_no_score() -> None:
    flat = torch.full((3, 128, 192), 0.5)
    assert seam_score(flat, plan_tiles(128, 192, 64, 0, 8)) == 1.0
    assert seam_score(flat, plan_tiles(128, 192, None, 0, 8)) is None


def test_seams_in_one_direction_are_enough() -> None:
    flat = torch.full((3, 64, 192), 0.4)
    plan = plan_tiles(64, 192, 64, 0, 8)
    assert len(plan.row_starts) == 1
    assert seam_score(_stepped(flat, plan, 1), plan) > 100


def test_the_canvas_may_reach_beyond_the_picture_but_not_the_other_way() -> None:
    x = _enlarged(_tensor(coffee()[:200, :252]))
    plan = plan_tiles(200, 256, 64, 16, 8)
    assert seam_score(x, plan) == pytest.approx(1.0, abs=0.3)
    with pytest.raises(ShapeError, match=r"\(3, 200, 252\).*W to 248"):
        seam_score(x, plan_tiles(200, 248, 64, 16, 8))
    with pytest.raises(ShapeError):
        seam_score(x[:1], plan)


@needs_data
def test_clean_photographs_score_about_1_and_stepped_ones_more() -> None:
    paths = sorted((Path(str(_DATA)) / "train").glob("*.webp"))
    clean, raised = [], []
    for path in paths[:: len(paths) // 10][:10]:
        with Image.open(path) as photo:
            x = _tensor(np.asarray(photo.convert("RGB").crop((0, 0, 512, 512))))
        plan = plan_tiles(512, 512, 192, 32, 8)
        scores = [seam_score(_stepped(x, plan, levels), plan) for levels in (0, 2)]
        clean.append(scores[0])
        raised.append(scores[1] > scores[0])
    assert np.mean(clean) == pytest.approx(1.0, abs=0.05)
    assert np.std(clean) < 0.1
    assert all(raised)
