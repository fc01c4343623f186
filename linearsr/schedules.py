"""Time grids: where a sampler evaluates the network. Each is a float64 tensor of steps + 1 falling times ending at 0.

Two families. `compact` models start at t = 1 exactly, where half of their training was: it makes the one-step result;
their grids for few steps are published constants, one step in each expert's interval. Paper-scale models use the grid
of SANA's DPM-Solver++ (shift 3), which starts just below 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from linearsr.config import FlowConfig
from linearsr.errors import ConfigError
from linearsr.flow import shift_t

__all__ = ["COMPACT_T_GRIDS", "compact_grid", "dpm_flow_grid", "shifted_grid", "time_grid"]

COMPACT_SHIFT = 2.0
"""Shift of the compact family's grids of more than four steps; puts at least one of 8 steps below t = 0.223."""

COMPACT_T_GRIDS: dict[int, tuple[float, ...]] = {
    1: (1.0, 0.0),
    2: (1.0, 0.85, 0.0),
    3: (1.0, 0.9, 0.5, 0.0),
    4: (1.0, 0.9, 0.65, 0.22, 0.0),
}
"""Published grids, chosen by LPIPS on 16 validation photographs, one seed, among two to six candidates for each number
of steps, with the weights of training step 8,000. Those of four steps differed by 2 %, too little to call one better;
those of two steps by 6 %. Four steps visit each interval of the paper's boundaries (0.939, 0.875, 0.223) once.
"""


def _check_steps(steps: int) -> None:
    if steps < 1 or steps > 1000:
        raise ConfigError(f"steps is {steps}, expected 1 to 1000", hint="1 is the most faithful, 4 adds detail")


def shifted_grid(steps: int, shift: float) -> Tensor:
    """Uniform grid from 1 to 0, shifted towards noise."""
    _check_steps(steps)
    return shift_t(torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64), shift)


def compact_grid(
    steps: int, published: dict[int, tuple[float, ...]] | None = None, shift: float = COMPACT_SHIFT
) -> Tensor:
    """Grid of the compact family: a published one where there is one, else `shifted_grid`.

    Args:
        steps: number of network evaluations.
        published: grids of a checkpoint's own config; `COMPACT_T_GRIDS` when left out.
        shift: of the other grids, as the checkpoint's `flow.shift`.
    """
    _check_steps(steps)
    grids = COMPACT_T_GRIDS if published is None else published
    if steps in grids:
        return torch.tensor(grids[steps], dtype=torch.float64)
    return shifted_grid(steps, shift)


def dpm_flow_grid(steps: int, shift: float = 3.0, train_steps: int = 1000) -> Tensor:
    """Grid of diffusers' DPMSolverMultistepScheduler with flow sigmas: 1 - linspace(1, 1/N, steps + 1), shifted.

    Twenty steps at shift 3 begin 0.9997, 0.9824, 0.9639 and end 0.2498, 0.1362, 0.
    """
    _check_steps(steps)
    alphas = torch.linspace(1.0, 1.0 / train_steps, steps + 1, dtype=torch.float64)
    return shift_t(1.0 - alphas, shift).flip(0)


def time_grid(steps: int, flow: FlowConfig, published: dict[int, tuple[float, ...]]) -> Tensor:
    """Grid of a checkpoint: its published one for this number of steps, else the one that its flow names.

    Args:
        steps: number of steps.
        flow: of the checkpoint.
        published: its grids by number of steps.

    Raises:
        ConfigError: steps out of range.
    """
    if flow.grid == "dpm" and steps not in published:
        return dpm_flow_grid(steps, flow.shift)
    return compact_grid(steps, published, flow.shift)
