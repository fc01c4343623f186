"""From training state to a checkpoint folder that `linearsr upscale --model` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from linearsr import __version__
from linearsr.checkpoint import save_checkpoint
from linearsr.config import SCHEMA_VERSION, CheckpointConfig, ExpertsConfig, SamplingConfig, TagsConfig, to_dict
from linearsr.schedules import compact_grid
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.state import TrainState

__all__ = ["PUBLISHED_STEPS", "export_compact"]

PUBLISHED_STEPS = (1, 2, 3, 4, 8, 20)
"""Numbers of steps whose time grid the config states."""


def export_compact(state: TrainState, folder: Path, *, summary: dict[str, Any], licence: str) -> CheckpointConfig:
    """Write the averaged weights of a single-network run as a checkpoint folder.

    Args:
        state: the run; its EMA is what ships.
        folder: the export.
        summary: goes into the config's `training` section beside versions and the recipe.
        licence: of the weights.
    """
    config = CheckpointConfig(
        schema_version=SCHEMA_VERSION,
        family="compact",
        model=state.config.model,
        autoencoder=state.config.autoencoder,
        flow=state.config.flow,
        experts=ExpertsConfig(boundaries_log_snr=(), files=("expert-0.safetensors",)),
        sampling=SamplingConfig(
            sampler="euler",
            steps=4,
            t_grids={str(steps): tuple(compact_grid(steps).tolist()) for steps in PUBLISHED_STEPS},
            tile=768,
            tile_overlap=32,
            color_fix="none",
        ),
        tags=TagsConfig(kind="closed", vocabulary=COMPACT_VOCABULARY),
        licence=licence,
        files={},
        training={
            "recipe": to_dict(state.config),
            "step": state.step,
            "linearsr": __version__,
            "torch": torch.__version__,
            **summary,
        },
    )
    return save_checkpoint(folder, config, [state.ema.shadow])
