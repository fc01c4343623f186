"""The stages of a run: how long each is, how fast it learns, and how the experts divide the noise levels."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass

from linearsr.errors import ConfigError
from linearsr_train.checks import within

__all__ = ["ExpertSplitConfig", "SftConfig", "StageConfig", "StagesConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One stage. The knee controller may end it before its last step."""

    max_steps: int
    """Optimizer steps at most; 0 leaves the stage out."""
    learning_rate: float
    warmup_steps: int = 200
    """Steps over which the learning rate rises linearly from nothing; every stage has a fresh optimizer."""
    decay_fraction: float = 0.0
    """Last share of the stage over which the learning rate falls linearly to zero; 0 keeps it constant."""
    validation_steps: int = 500

    def __post_init__(self) -> None:
        within("stages", self, 0, math.inf, "max_steps", "learning_rate", "warmup_steps")
        within("stages", self, 0.0, 1.0, "decay_fraction")
        within("stages", self, 1, math.inf, "validation_steps")


@dataclass(frozen=True, kw_only=True, slots=True)
class StagesConfig:
    """The three stages of the method, in order."""

    pretrain: StageConfig
    """One network for all noise levels."""
    experts: StageConfig
    """Each expert on its own interval, from the knee of the pretraining; the lengths are those of one expert."""
    sft: StageConfig
    """Each expert on the most detailed, cleanest photographs."""

    def __post_init__(self) -> None:
        if self.pretrain.max_steps + self.experts.max_steps + self.sft.max_steps == 0:
            raise ConfigError(
                "every stage has max_steps 0, expected at least one stage with steps",
                hint="for example `--set stages.experts.max_steps=1000`",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertSplitConfig:
    """Which networks divide the noise levels, and how they are trained apart."""

    boundaries: tuple[float, ...] = (0.223, 0.875, 0.939)
    """Rising times between the experts; empty keeps one network. The paper's triple is the default."""
    widen: float = 0.02
    """Each interval is drawn from this much beyond its boundaries in t, so that no expert meets a time it never saw."""
    mode: typing.Literal["full", "lora"] = "full"
    """`full`: a copy of the network each. `lora`: low-rank differences to the shared network (arXiv:2503.07416)."""
    lora_rank: int = 16
    lora_alpha: float = 16.0
    lora_export: typing.Literal["merged", "separate"] = "merged"
    """`merged`: full networks in the export. `separate`: the shared network once, and one LoRA file for each expert."""
    frozen: tuple[str, ...] = ()
    """Parameters whose name begins with one of these keep the values of the shared network."""
    fall_back_steps: int = 2000
    """An expert that collapses or gets worse within this many steps starts again from the elbow checkpoint."""
    perceptual_weight: float = 0.0
    """Weight of an LPIPS term in the loss of the experts below `perceptual_below`; needs `--lpips-weights`."""
    perceptual_below: float = 0.875
    """Experts whose interval ends at or below this time get the LPIPS term."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        if not rising or not all(0.0 < t < 1.0 for t in self.boundaries):
            raise ConfigError(f"experts.boundaries is {self.boundaries}, expected rising times between 0 and 1")
        within("experts", self, 0.0, 0.2, "widen")
        within("experts", self, 1, 4096, "lora_rank")
        within("experts", self, 0.0, math.inf, "lora_alpha", "perceptual_weight", "fall_back_steps")
        within("experts", self, 0.0, 1.0, "perceptual_below")


@dataclass(frozen=True, kw_only=True, slots=True)
class SftConfig:
    """Choice of the photographs of the last stage."""

    best_fraction: float = 0.25
    """Share of the photographs, best first by `data.quality.detail_score`."""

    def __post_init__(self) -> None:
        within("sft", self, 1e-6, 1.0, "best_fraction")
