"""What all stages of a run share, and the crops that a stage is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linearsr.metrics import Lpips
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import CropDataset
from linearsr_train.data.quality import select_best
from linearsr_train.data.sources import PhotoSet
from linearsr_train.evaluate import PerceptualFn, ValidationSet
from linearsr_train.experts import Stage
from linearsr_train.loop import LossTerms
from linearsr_train.runlog import RunLog
from linearsr_train.weights import WeightBook

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Progress", "Run", "stage_dataset"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass(slots=True)
class Run:
    """What all stages of a run share."""

    config: TrainConfig
    folder: Path
    photos: PhotoSet
    content: dict[str, tuple[str, ...]]
    """Content tags by photograph, from its sidecar."""
    validation: ValidationSet
    terms: LossTerms
    lpips: Lpips | None
    """Weights for the perceptual term, where it is asked for."""
    perceptual: PerceptualFn
    accelerator: Accelerator
    log: RunLog
    book: WeightBook
    should_stop: Callable[[], bool]
    progress: Progress | None
    report: Callable[[str], None]
    on_improved: Callable[[dict[str, Any], dict[str, float]], None]
    """Called with averaged weights and scores when those of the pretraining are the best so far."""
    best_photos: tuple[int, ...] | None = None
    """Photographs of the last stages, once they have been scored."""

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Precision of the dense layers; None is float32."""
        return AUTOCAST.get(self.accelerator.mixed_precision)


def stage_dataset(run: Run, stage: Stage) -> CropDataset:
    """Crops of a stage: draws of its own, and for the last stage the best photographs only."""
    config = run.config
    if stage.kind == "sft" and run.best_photos is None:
        run.best_photos = select_best(run.photos, config.sft.best_fraction)
    subset = run.best_photos if stage.kind == "sft" else None
    seed = config.loop.seed + 1000 * stage.index
    return CropDataset(run.photos, config.data, seed, subset=subset, content=run.content)
