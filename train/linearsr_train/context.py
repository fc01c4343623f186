"""What all stages of a run share, and the crops that a stage is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.metrics import Lpips
from linearsr_train.components import Components
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import CropDataset
from linearsr_train.data.prompts import Prompts, read_prompts
from linearsr_train.data.quality import select_best
from linearsr_train.data.sources import PhotoSet
from linearsr_train.evaluate import PerceptualFn, ValidationSet
from linearsr_train.experts import Stage
from linearsr_train.latents import Latents, LearnedLatents, PixelLatents
from linearsr_train.loop import LossTerms
from linearsr_train.runlog import RunLog
from linearsr_train.weights import WeightBook

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Progress", "Run", "open_latents", "stage_dataset"]

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
    prompts: Prompts | None = None
    """Of the photographs, where the model takes any words."""
    components: Components = field(default_factory=Components)
    """Frozen parts that the export names or carries."""

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
    native = bool(config.model.lr_stem)
    return CropDataset(
        run.photos, config.data, seed, subset=subset, content=run.content, prompts=run.prompts, native=native
    )


def open_latents(
    config: TrainConfig,
    components: Components,
    accelerator: Accelerator,
    sets: Iterable[PhotoSet],
    report: Callable[[str], None],
) -> tuple[Latents, Prompts | None]:
    """The family's way between batches and network, and the prompts of the photographs if it has any.

    Frozen parts compute in bfloat16 where the network's dense layers do, else in float32; float16 is too narrow for
    both of them. The text encoder is on the device only until all prompts are embedded.

    Raises:
        WeightsError, ConfigError: a part cannot be loaded.
        TrainingError: a sidecar file that is no text.
    """
    if config.autoencoder.kind == "pixel":
        return PixelLatents(PixelAutoencoder(config.autoencoder)), None
    from linearsr.autoencoders.dcae import load_dcae
    from linearsr.tags.encoder import make_embedder
    from linearsr_train.prompt_table import PromptTable

    folders, device = components.folders, accelerator.device
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    prompts = read_prompts(sets, config.tags)
    embedder = make_embedder(
        folders["text_encoder"], config.tags, config.model.caption_channels, device=device, dtype=dtype
    )
    table = PromptTable(embedder, prompts.vocabulary)
    with accelerator.main_process_first():  # the others find what it has cached
        table.fill()
    if prompts.vocabulary:
        report(f"{len(prompts.vocabulary)} distinct prompts of {len(prompts.by_photo)} photographs are embedded")
    else:
        report("no photograph has a text file with tags beside it: the network learns the empty prompt alone")
    autoencoder = load_dcae(folders["autoencoder"], config.autoencoder, device, dtype, folders.get("decoder"))
    return LearnedLatents(autoencoder, table), prompts
