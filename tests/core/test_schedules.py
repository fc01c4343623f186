"""Published time grids, the experts they visit, and SANA's sigma table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.config import FlowConfig
from linearsr.errors import ConfigError
from linearsr.flow import log_snr
from linearsr.model.experts import PAPER_BOUNDARIES, expert_index
from linearsr.schedules import COMPACT_T_GRIDS, compact_grid, dpm_flow_grid, shifted_grid, time_grid

SANA_20 = (
    "0.9997 .9824 .9639 .9441 .9227 .8996 .8746 .8475 .8178 .7853 .7496 .7102 .6663 .6173 .5621 .4997 .4283 .3459 "
    ".2498 .1362 0"
)


def test_dpm_flow_grid_reproduces_the_published_table() -> None:
    assert dpm_flow_grid(20).tolist() == pytest.approx([float(s) for s in SANA_20.split()], abs=1e-4)


def test_dpm_flow_grid_of_one_step_spans_everything() -> None:
    assert dpm_flow_grid(1).tolist() == pytest.approx([2.997 / 2.998, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "experts"),
    [
        (1, [3]),
        (2, [3, 1]),
        (3, [3, 2, 1]),
        (4, [3, 2, 1, 0]),
        (8, [3, 2, 1, 1, 1, 1, 1, 0]),
        (20, [3] * 3 + [2] * 2 + [1] * 13 + [0] * 2),
    ],
)
def test_compact_grid_visits_the_published_experts(steps: int, experts: list[int]) -> None:
    boundaries = tuple(float(log_snr(t)) for t in PAPER_BOUNDARIES)
    assert [expert_index(float(t), boundaries) for t in compact_grid(steps)[:-1]] == experts


@given(st.integers(1, 200))
def test_grids_fall_from_noise_to_zero(steps: int) -> None:
    for grid, start in ((compact_grid(steps), 1.0), (shifted_grid(steps, 3.0), 1.0), (dpm_flow_grid(steps), 0.9997)):
        assert grid.dtype == torch.float64
        assert len(grid) == steps + 1
        assert float(grid[0]) == pytest.approx(start, abs=1e-4)
        assert float(grid[-1]) == 0.0
        assert bool((grid.diff() < 0).all())


def test_compact_grids_start_at_exactly_one() -> None:
    assert all(grid[0] == 1.0 for grid in COMPACT_T_GRIDS.values())
    assert all(float(compact_grid(steps)[0]) == 1.0 for steps in (1, 5, 8, 20, 1000))


def test_compact_grid_takes_a_checkpoints_own_grids() -> None:
    own = {3: (1.0, 0.7, 0.2, 0.0)}
    assert compact_grid(3, own).tolist() == [1.0, 0.7, 0.2, 0.0]
    assert compact_grid(4, own).tolist() == shifted_grid(4, 2.0).tolist()


def test_shifted_grid_is_uniform_before_the_shift() -> None:
    assert shifted_grid(4, 1.0).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert shifted_grid(2, 3.0).tolist() == [1.0, 0.75, 0.0]


@pytest.mark.parametrize("steps", [0, -1, 1001])
@pytest.mark.parametrize("grid", [compact_grid, dpm_flow_grid, lambda steps: shifted_grid(steps, 2.0)])
def test_grids_refuse_a_number_of_steps_out_of_range(grid, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}, expected 1 to 1000"):
        grid(steps)


def test_time_grid_takes_the_published_grid_first_and_then_the_one_its_flow_names() -> None:
    dpm = FlowConfig(prediction="v", shift=3.0, grid="dpm")
    own = {2: (1.0, 0.5, 0.0)}
    assert time_grid(2, dpm, own).tolist() == [1.0, 0.5, 0.0]
    assert time_grid(20, dpm, own).tolist() == dpm_flow_grid(20, 3.0).tolist()
    assert time_grid(5, FlowConfig(prediction="x0"), own).tolist() == shifted_grid(5, 2.0).tolist()
