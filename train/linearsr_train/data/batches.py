"""Training samples and batches. A sample is a pure function of (seed, index), which makes resuming exact.

Sample `index` of step s in a run of batch size B is s * B + position, whatever the number of loader processes; the
data position of a run is its step and nothing else. Several training processes share a batch: each makes the samples
of its own part.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from linearsr.errors import ConfigError, TrainingError
from linearsr.model.conditioning import pad_tag_ids
from linearsr.tags.vocabulary import COMPACT_VOCABULARY, closed_vocabulary, parse_tags, tag_ids
from linearsr_train.config import DataConfig
from linearsr_train.data.degradation import draw_plan
from linearsr_train.data.prompts import Prompts
from linearsr_train.data.samples import Lost, Sample, lr_size, make_sample
from linearsr_train.data.sources import PhotoSet

__all__ = ["Batch", "CropDataset", "batches", "collate", "init_worker"]

logger = logging.getLogger(__name__)

MAX_REPLACEMENTS = 16
"""Photographs tried for one sample before the data folder is taken to be gone."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one step."""

    hr: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    lr_up: Tensor
    """(B, 3, H, W) float32, enlarged by antialiased bicubic; not clamped."""
    scale: Tensor
    """(B,) float32 enlargement."""
    tags: Tensor
    """(B, 1 + K) int64 ids of the dataset's vocabulary, as `pad_tag_ids` lays them out; prompts are its names too."""
    tag_mask: Tensor
    first_index: int = 0
    """Global index of the first sample; the others follow on. `CropDataset.describe` says what a sample is."""
    lost: Lost = ()
    lr: Tensor | None = None
    """(B, 3, h, w) low-resolution pixels in [0, 1] as they are; None unless the network reads them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Crop:
    """A cut-out, and what is to be done to it."""

    hr: NDArray[np.float32]
    photo: int
    top: int
    left: int
    turns: int
    mirrored: bool
    scale: float
    real: bool
    lost: Lost


class CropDataset(Dataset[Sample]):
    """Random crops of photographs, each determined by its index alone.

    Args:
        photos: what is cut from.
        config: the recipe.
        seed: of all draws.
        subset: photographs to use, as positions in `photos`; default all.
        content: file name -> content tags, names of `config.content_tags`. They join the tags of the degradation, and
            are dropped together with them.
        prompts: of the photographs, in place of all these tags.
        native: keep the low-resolution pixels as they are beside the enlarged ones.

    Raises:
        ConfigError: a photograph of `subset` or a tag of `content` does not exist.
    """

    def __init__(
        self,
        photos: PhotoSet,
        config: DataConfig,
        seed: int,
        *,
        subset: tuple[int, ...] | None = None,
        content: Mapping[str, tuple[str, ...]] | None = None,
        prompts: Prompts | None = None,
        native: bool = False,
    ) -> None:
        self.photos = photos
        self.config = config
        self.seed = seed
        self.prompts = prompts
        self.native = native
        self.vocabulary = closed_vocabulary(config.content_tags) if prompts is None else prompts.vocabulary
        self._content = {name: parse_tags(tags, config.content_tags) for name, tags in (content or {}).items()}
        self._indices = tuple(range(len(photos))) if subset is None else tuple(subset)
        if not self._indices or not all(0 <= index < len(photos) for index in self._indices):
            raise ConfigError(f"subset is {self._indices}, expected positions from 0 to {len(photos) - 1}")
        areas = np.array([photos.area(index) for index in self._indices], float)
        # Between uniform over photographs and uniform over pixels: large pictures hold more, but not in proportion.
        self._photo_cdf = np.cumsum(np.sqrt(areas)) / np.sqrt(areas).sum()
        self._scales = np.array([float(scale) for scale in config.fixed_scales])
        self._scale_cdf = np.cumsum(list(config.fixed_scales.values()))

    def _draw_scale(self, rng: np.random.Generator) -> float:
        u = rng.random()
        slot = int(np.searchsorted(self._scale_cdf, u, side="right"))
        return float(self._scales[slot]) if slot < len(self._scales) else float(4.0 ** rng.random())

    def _draw_photo(self, index: int, rng: np.random.Generator) -> tuple[int, NDArray[np.uint8], Lost]:
        """Photograph and its pixels; one that cannot be read any more gives way to another, not drawn by `rng`."""
        photo = self._indices[min(int(np.searchsorted(self._photo_cdf, rng.random())), len(self._indices) - 1)]
        lost: dict[int, str] = {}
        while True:
            try:
                return photo, self.photos.pixels(photo), tuple((self.photos.name(i), why) for i, why in lost.items())
            except TrainingError as error:
                lost[photo] = str(error)
            others = [other for other in self._indices if other not in lost]
            if not others or len(lost) == MAX_REPLACEMENTS:
                raise TrainingError(
                    f"{len(lost)} photographs tried for sample {index} cannot be read any more, for example: "
                    f"{lost[photo]}",
                    hint="check that the data folder and its disk are still there, then resume",
                )
            spare = np.random.default_rng((self.seed, index, len(lost)))
            photo = others[int(spare.integers(len(others)))]

    def _cut(self, index: int, rng: np.random.Generator) -> _Crop:
        photo, pixels, lost = self._draw_photo(index, rng)
        crop = self.config.crop
        top = int(rng.integers(0, pixels.shape[0] - crop + 1))
        left = int(rng.integers(0, pixels.shape[1] - crop + 1))
        view = pixels[top : top + crop, left : left + crop]
        turns = int(rng.integers(0, 4))
        view = np.rot90(view, turns)
        mirrored = bool(rng.random() < 0.5)
        if mirrored:
            view = view[:, ::-1]
        hr = view.astype(np.float32) / 255.0
        scale = self._draw_scale(rng)
        real = bool(rng.random() < self.config.real_probability)
        return _Crop(hr, photo, top, left, turns, mirrored, scale, real, lost)

    def __getitem__(self, index: int) -> Sample:
        """Sample of a global index; any index is valid.

        Raises:
            TrainingError: the photographs cannot be read any more.
        """
        rng = np.random.default_rng((self.seed, index))
        crop = self._cut(index, rng)
        sample = make_sample(crop.hr, crop.scale, crop.real, self.config, rng, native=self.native)
        name, dropped = self.photos.name(crop.photo), rng.random() < self.config.tag_dropout
        if self.prompts is None:
            tags = (*sample.tags, *self._content.get(name, ()))
        else:
            tags = self.prompts.of(name)
        tags = () if dropped else tags
        return replace(sample, tags=tags, index=index, lost=crop.lost)

    def describe(self, index: int) -> str:
        """Say what the sample of a global index is, for messages: photograph, place, scale and chain."""
        rng = np.random.default_rng((self.seed, index))
        crop = self._cut(index, rng)
        side, chain = self.config.crop, "bicubic"
        if crop.real:
            plan = draw_plan((side, side), lr_size(side, side, crop.scale), self.config.degradation, rng)
            chain = f"real with {', '.join(sorted(plan.active))}"
        turned = f", turned by {90 * crop.turns} degrees" if crop.turns else ""
        return (
            f"sample {index}: {self.photos.name(crop.photo)}, {side}x{side} at column {crop.left}, row {crop.top}"
            f"{turned}{', mirrored' if crop.mirrored else ''}, scale {crop.scale:.4g}, {chain}"
        )


def collate(samples: list[Sample], vocabulary: tuple[str, ...] = COMPACT_VOCABULARY) -> Batch:
    """Stack samples of consecutive indices into a batch."""
    tags, mask = pad_tag_ids([tag_ids(s.tags, vocabulary) for s in samples])
    pixels = [s.lr for s in samples if s.lr is not None]
    return Batch(
        hr=torch.stack([s.hr for s in samples]),
        lr_up=torch.stack([s.lr_up for s in samples]),
        scale=torch.tensor([s.scale for s in samples], dtype=torch.float32),
        tags=tags,
        tag_mask=mask,
        first_index=samples[0].index,
        lost=tuple(dict.fromkeys(entry for s in samples for entry in s.lost)),
        lr=torch.stack(pixels) if pixels else None,
    )


class _StepSampler:
    """Global indices of one process's part of each step's batch, from a first step on."""

    def __init__(self, batch_size: int, first_step: int, last_step: int, rank: int, world_size: int) -> None:
        self.batch_size, self.first_step, self.last_step = batch_size, first_step, last_step
        self.part = batch_size // world_size
        self.offset = rank * self.part

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            first = step * self.batch_size + self.offset
            yield list(range(first, first + self.part))

    def __len__(self) -> int:
        return self.last_step - self.first_step


def init_worker(_: int) -> None:
    """One thread a worker, as the network needs the other cores; a signal to stop is for the training process alone.

    Ctrl-C and `timeout` signal the whole process group; a loader that died of it would break the run off unsaved.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Some schedulers signal every process they know of. A quiet exit leaves it to the loop to save and stop.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _reported(source: Iterator[Batch], photos: PhotoSet) -> Iterator[Batch]:
    """Pass batches on; say once of each photograph that it was lost, and list it with those left out."""
    known = {name for name, _ in photos.skipped}
    for batch in source:
        for name, reason in batch.lost:
            if name not in known:
                known.add(name)
                photos.skipped.append((name, reason))
                logger.warning("left out from now on: %s", reason)
        yield batch


def batches(
    dataset: CropDataset,
    batch_size: int,
    first_step: int,
    last_step: int,
    workers: int,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Batches of steps first_step to last_step - 1, in order.

    Args:
        dataset: where samples come from.
        batch_size: samples of a step over all processes.
        first_step, last_step: of the run, whatever was done before.
        workers: loader processes; 0 makes the samples here.
        rank, world_size: gives the contiguous part `rank` of `world_size` of each batch; all parts in the order of
            their ranks are the batch that a single process would get.

    Raises:
        ConfigError: the batch cannot be divided equally.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank} of {world_size} processes, expected 0 or more and less than that")
    if batch_size % world_size:
        raise ConfigError(
            f"loop.batch_size is {batch_size}, expected a multiple of the number of processes, {world_size}",
            hint=f"for example `--set loop.batch_size={math.ceil(batch_size / world_size) * world_size}`",
        )
    loader = DataLoader(
        dataset,
        batch_sampler=_StepSampler(batch_size, first_step, last_step, rank, world_size),  # type: ignore[arg-type]
        collate_fn=partial(collate, vocabulary=dataset.vocabulary),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=init_worker,
    )
    return _reported(iter(loader), dataset.photos)
