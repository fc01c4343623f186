"""Training samples and batches. A sample is a pure function of (seed, index), which makes resuming exact.

Sample `index` of step s in a run of batch size B is s * B + position, whatever the number of loader processes; the
data position of a run is its step and nothing else.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from linearsr.model.conditioning import pad_tag_ids
from linearsr.resize import resize
from linearsr.tags.vocabulary import tag_ids
from linearsr_train.config import DataConfig
from linearsr_train.data.degradation import degrade_bicubic, degrade_real
from linearsr_train.data.sources import PhotoSet

__all__ = ["Batch", "CropDataset", "batches", "collate", "make_sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop with its degraded version, enlarged back to the crop's size."""

    hr: Tensor
    lr_up: Tensor
    scale: float
    tags: tuple[str, ...]


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
    tag_mask: Tensor


def _to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def make_sample(
    hr: NDArray[np.float32], scale: float, real: bool, config: DataConfig, rng: np.random.Generator
) -> Sample:
    """Degrade a crop at `scale` and enlarge it back.

    Args:
        hr: (H, W, 3) float32 in [0, 1].
        real: second-order chain rather than bicubic.

    Returns:
        Sample whose scale is the exact ratio of the rounded sizes.
    """
    height, width = hr.shape[:2]
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    degraded = degrade_real(hr, size, config.degradation, rng) if real else degrade_bicubic(hr, size)
    lr = _to_tensor(degraded.lr)
    exact = math.sqrt(height * width / (size[0] * size[1]))
    return Sample(_to_tensor(hr), resize(lr, (height, width)), exact, degraded.tags)


class CropDataset(Dataset[Sample]):
    """Random crops of photographs, each determined by its index alone."""

    def __init__(self, photos: PhotoSet, config: DataConfig, seed: int) -> None:
        self.photos = photos
        self.config = config
        self.seed = seed
        areas = np.array([photos.area(index) for index in range(len(photos))], float)
        # Between uniform over photographs and uniform over pixels: large pictures hold more, but not in proportion.
        self._photo_cdf = np.cumsum(np.sqrt(areas)) / np.sqrt(areas).sum()
        self._scales = np.array([float(scale) for scale in config.fixed_scales])
        self._scale_cdf = np.cumsum(list(config.fixed_scales.values()))

    def _draw_scale(self, rng: np.random.Generator) -> float:
        u = rng.random()
        slot = int(np.searchsorted(self._scale_cdf, u, side="right"))
        return float(self._scales[slot]) if slot < len(self._scales) else float(4.0 ** rng.random())

    def __getitem__(self, index: int) -> Sample:
        """Sample of a global index; any index is valid."""
        rng = np.random.default_rng((self.seed, index))
        photo = self.photos.pixels(min(int(np.searchsorted(self._photo_cdf, rng.random())), len(self.photos) - 1))
        crop = self.config.crop
        top = int(rng.integers(0, photo.shape[0] - crop + 1))
        left = int(rng.integers(0, photo.shape[1] - crop + 1))
        view = photo[top : top + crop, left : left + crop]
        view = np.rot90(view, int(rng.integers(0, 4)))
        if rng.random() < 0.5:
            view = view[:, ::-1]
        hr = view.astype(np.float32) / 255.0
        scale = self._draw_scale(rng)
        real = bool(rng.random() < self.config.real_probability)
        sample = make_sample(hr, scale, real, self.config, rng)
        if rng.random() < self.config.tag_dropout:
            return Sample(sample.hr, sample.lr_up, sample.scale, ())
        return sample


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into a batch."""
    tags, mask = pad_tag_ids([tag_ids(s.tags) for s in samples])
    return Batch(
        hr=torch.stack([s.hr for s in samples]),
        lr_up=torch.stack([s.lr_up for s in samples]),
        scale=torch.tensor([s.scale for s in samples], dtype=torch.float32),
        tags=tags,
        tag_mask=mask,
    )


class _StepSampler:
    """Global indices of each step's batch, from a first step on."""

    def __init__(self, batch_size: int, first_step: int, last_step: int) -> None:
        self.batch_size, self.first_step, self.last_step = batch_size, first_step, last_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            yield list(range(step * self.batch_size, (step + 1) * self.batch_size))

    def __len__(self) -> int:
        return self.last_step - self.first_step


def _init_worker(_: int) -> None:
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


def batches(dataset: CropDataset, batch_size: int, first_step: int, last_step: int, workers: int) -> Iterator[Batch]:
    """Batches of steps first_step to last_step - 1, in order."""
    loader = DataLoader(
        dataset,
        batch_sampler=_StepSampler(batch_size, first_step, last_step),  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_init_worker,
    )
    return iter(loader)
