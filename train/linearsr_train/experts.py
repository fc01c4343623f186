"""Which expert trains on which times, from which weights, in which order; and what remains of a stage.

Expert 0 has the highest SNR (least noise), as in `linearsr.model.experts`. They are trained from noise to picture, so
that the watch of each one sees the finished experts before it in the sampler.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linearsr.flow import log_snr
from linearsr_train.config import TrainConfig
from linearsr_train.stage_config import ExpertSplitConfig, StageConfig

__all__ = ["Stage", "boundaries_log_snr", "expert_interval", "plan_stages", "read_json", "stage_folder"]

LATEST = 0.999
"""End of an inner interval at most; continuous draws go no further either."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run: a network, an interval of times, a budget."""

    name: str
    kind: Literal["pretrain", "expert", "sft"]
    settings: StageConfig
    expert: int
    """Index of the expert; 0 for the one network of the pretraining."""
    interval: tuple[float, float]
    """Times it draws, widened; (0, 1) for a single network."""
    index: int
    """Place in the full pipeline; keys the stage's own draws, whatever stages are left out."""

    @property
    def holds_one(self) -> bool:
        """Whether the one-step result is this network's."""
        return self.interval[1] >= 1.0


def boundaries_log_snr(config: ExpertSplitConfig) -> tuple[float, ...]:
    """Falling log-SNR values of the rising boundaries in t."""
    return tuple(round(float(log_snr(t)), 6) for t in config.boundaries)


def expert_interval(expert: int, config: ExpertSplitConfig) -> tuple[float, float]:
    """Times on which an expert is trained: its interval, widened by `widen` at inner boundaries.

    Only the noisiest one reaches 1: the share of a batch at exactly that time is its own.

    Args:
        expert: 0 (cleanest) to the number of boundaries (noisiest).
        config: boundaries and widening.

    Returns:
        (low, high) in [0, 1].
    """
    ends = (0.0, *config.boundaries, 1.0)
    highest = 1.0 if expert == len(config.boundaries) else LATEST
    return max(0.0, ends[expert] - config.widen), min(highest, ends[expert + 1] + config.widen)


def plan_stages(config: TrainConfig) -> list[Stage]:
    """All stages with steps to take, in order: pretraining, experts, their fine-tuning; from noise to picture."""
    num_experts = len(config.experts.boundaries) + 1
    stages = [Stage("pretrain", "pretrain", config.stages.pretrain, 0, (0.0, 1.0), 0)]
    kinds: list[tuple[Literal["expert", "sft"], StageConfig]] = [
        ("expert", config.stages.experts),
        ("sft", config.stages.sft),
    ]
    for kind, settings in kinds:
        for expert in reversed(range(num_experts)):
            interval = expert_interval(expert, config.experts)
            stages.append(Stage(f"{kind}-{expert}", kind, settings, expert, interval, len(stages)))
    return [stage for stage in stages if stage.settings.max_steps > 0]


def stage_folder(run_folder: Path, stage: Stage) -> Path:
    """Where a stage keeps its checkpoints, curve and result."""
    return run_folder / "stages" / stage.name


def read_json(path: Path) -> dict[str, Any]:
    """Contents of a small JSON file; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
