"""Everything a run needs to go on as if it had never stopped, in one file written atomically.

The file is a torch archive read back with `weights_only=True`: tensors, numbers and strings, no objects.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linearsr.config import to_dict
from linearsr.errors import TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.ema import Ema

__all__ = ["CHECKPOINT_NAME", "TrainState", "changed_fields", "load_state", "save_state"]

CHECKPOINT_NAME = "last.pt"
FREE_TO_CHANGE = ("loop.max_steps", "loop.log_steps", "loop.checkpoint_steps", "data.num_workers", "data.cache_gib")
"""Settings that a resumed run may change: none alters a step that was already taken."""


@dataclass(slots=True)
class TrainState:
    """A run in memory."""

    config: TrainConfig
    model: nn.Module
    ema: Ema
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    """Draws times and noise; the data have their own, by index."""
    step: int = 0
    """Optimizer steps taken; also the data position."""
    best: float = float("-inf")
    """Best validation score so far."""
    grad_norms: list[float] | None = None
    """Last gradient norms, for the skip rule."""


def changed_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of settings that differ between two resolved configs."""
    names: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            names += changed_fields(a, b, f"{name}.")
        elif a != b:
            names.append(name)
    return names


def _plain(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


def save_state(state: TrainState, folder: Path) -> Path:
    """Write the state; an older file stays whole until the new one is complete."""
    path = folder / CHECKPOINT_NAME
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "config": json.dumps(_plain(state.config)),
            "step": state.step,
            "best": state.best,
            "grad_norms": list(state.grad_norms or []),
            "model": state.model.state_dict(),
            "ema": state.ema.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "generator": state.generator.get_state(),
        },
        temporary,
    )
    with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def load_state(state: TrainState, folder: Path) -> None:
    """Take up a saved run in place.

    Raises:
        TrainingError: no checkpoint, a damaged one, or a config that changes what was already trained.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        raise TrainingError(f"nothing to resume in {str(folder)!r}: no {CHECKPOINT_NAME}", hint="use `--resume never`")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(saved["config"])
    except Exception as error:
        raise TrainingError(
            f"checkpoint {str(path)!r} cannot be read: {error}", hint="use another `--output-dir` for a new run"
        ) from error
    changed = [name for name in changed_fields(before, _plain(state.config)) if name not in FREE_TO_CHANGE]
    if changed:
        raise TrainingError(
            f"the recipe differs from the run to resume in {', '.join(changed)}",
            hint="use the run's own recipe, or another `--output-dir` for a new run",
        )
    state.model.load_state_dict(saved["model"])
    state.ema.load_state_dict(saved["ema"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.generator.set_state(saved["generator"])
    state.step, state.best, state.grad_norms = saved["step"], saved["best"], list(saved["grad_norms"])
