"""Everything a stage needs to go on as if it had never stopped, in one file written atomically.

The file is a torch archive read back with `weights_only=True`: tensors, numbers and strings, no objects. It holds full
tensors under plain names, whatever the number of processes, so that a run may go on on another number of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from linearsr.config import from_dict, to_dict
from linearsr.errors import ConfigError, TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.ema import Ema
from linearsr_train.esgf import Esgf
from linearsr_train.experts import Stage
from linearsr_train.shards import full_model_state, full_optimizer_state, full_tensors, load_full_state

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "CHECKPOINT_NAME",
    "TrainState",
    "changed_fields",
    "check_unchanged",
    "load_state",
    "plain_config",
    "save_state",
]

CHECKPOINT_NAME = "last.pt"
FREE_TO_CHANGE = (
    "loop.log_steps",
    "loop.checkpoint_steps",
    "loop.compile",
    "loop.strategy",
    "loop.gradient_checkpointing",
    "data.num_workers",
    "data.cache_gib",
    "stages.pretrain.max_steps",
    "stages.experts.max_steps",
    "stages.sft.max_steps",
    "tagger.num_workers",
    "tagger.checkpoint_steps",
    "tagger.calibration_samples",
    "tagger.report_samples",
    "tagger.target_precision",
)
"""Settings that a resumed run may change: none alters a step that was already taken. With a decaying learning rate the
length of a stage decides the steps still to come, not those behind."""


@dataclass(slots=True)
class TrainState:
    """A stage in memory."""

    config: TrainConfig
    stage: Stage
    accelerator: Accelerator
    model: nn.Module
    """As prepared for the devices."""
    ema: Ema
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    """Draws times and noise of whole batches, alike on every process; the data have their own, by index."""
    esgf: Esgf
    step: int = 0
    """Optimizer steps taken in this stage; also the data position."""
    grad_norms: list[float] = field(default_factory=list)
    """Last gradient norms, for the skip rule."""
    nonfinite: int = 0
    """Steps skipped for a non-finite gradient."""


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


def plain_config(config: TrainConfig) -> dict[str, Any]:
    """The config as JSON gives it back."""
    return json.loads(json.dumps(to_dict(config)))


def _completed(before: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the settings that came after it, whose defaults are what it was trained with."""
    try:
        return plain_config(from_dict(TrainConfig, before))
    except ConfigError:  # of a later version, or damaged: compared as it is
        return before


def check_unchanged(before: dict[str, Any], config: TrainConfig) -> None:
    """Refuse to go on with settings that change what was already trained.

    Raises:
        TrainingError: names every such setting.
    """
    changed = [name for name in changed_fields(_completed(before), plain_config(config)) if name not in FREE_TO_CHANGE]
    if changed:
        raise TrainingError(
            f"the recipe differs from the run to resume in {', '.join(changed)}",
            hint="use the run's own recipe, or another `--output-dir` for a new run",
        )


def save_state(state: TrainState, folder: Path) -> None:
    """Write the state from the main process; an older file stays whole until the new one is complete."""
    saved = {
        "config": json.dumps(plain_config(state.config)),
        "stage": state.stage.name,
        "step": state.step,
        "grad_norms": list(state.grad_norms),
        "nonfinite": state.nonfinite,
        "esgf": json.dumps(state.esgf.state_dict()),
        "model": full_model_state(state.model),
        "ema": full_tensors(state.ema.state_dict()),
        "optimizer": full_optimizer_state(state.optimizer),
        "generator": state.generator.get_state(),
        "scaler": None if state.accelerator.scaler is None else state.accelerator.scaler.state_dict(),
    }
    if not state.accelerator.is_main_process:
        return
    path = folder / CHECKPOINT_NAME
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(saved, temporary)
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's archive writer says RuntimeError when a disk is full
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"checkpoint {str(path)!r} cannot be written: {error}",
            hint="free some space and run the same command again; the checkpoint before it is whole",
        ) from error
    os.replace(temporary, path)


def load_state(state: TrainState, folder: Path) -> None:
    """Take up a saved stage in place.

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
    check_unchanged(before, state.config)
    load_full_state(state.model, state.optimizer, saved["model"], saved["optimizer"])
    state.ema.load_state_dict(saved["ema"])
    state.generator.set_state(saved["generator"])
    state.esgf.load_state_dict(json.loads(saved["esgf"]))
    if state.accelerator.scaler is not None and saved["scaler"] is not None:
        state.accelerator.scaler.load_state_dict(saved["scaler"])
    state.step, state.grad_norms, state.nonfinite = saved["step"], list(saved["grad_norms"]), saved["nonfinite"]
