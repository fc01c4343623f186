"""Degraded samples with their exact tags, for the tagger. A sample is a pure function of (seed, index)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from linearsr.tags.compact import take_crop
from linearsr.tags.vocabulary import DEGRADATIONS
from linearsr_train.data.degradation import DegradationConfig, degrade_bicubic, degrade_real
from linearsr_train.data.sources import PhotoSet
from linearsr_train.tagger_config import TaggerConfig

__all__ = [
    "Pictures",
    "TagSample",
    "TagSamples",
    "TrainingPieces",
    "collate_pieces",
    "split_photos",
    "tag_targets",
]

TagSample = tuple[NDArray[np.uint8], tuple[str, ...], str]
"""(h, w, 3) pixels, their tags, and the name of the photograph."""
_AUGMENT = 1 << 20
"""Keeps the draws of pieces apart from those of samples, whose second key is the purpose."""


def split_photos(photos: PhotoSet, fraction: float) -> tuple[list[int], list[int]]:
    """Indices to train on, and to pick thresholds on, by a hash of the names other than that of the validation split.

    Each part has at least one photograph; a single photograph is in both.
    """

    def key(index: int) -> bytes:
        return hashlib.sha256(b"tagger calibration " + photos.name(index).encode("utf-8")).digest()

    order = sorted(range(len(photos)), key=key)
    count = min(max(1, round(fraction * len(order))), max(1, len(order) - 1))
    training = order[count:] if len(order) > 1 else order
    return sorted(training), sorted(order[:count])


def tag_targets(tags: Sequence[str]) -> list[float]:
    """What the network answers: `clean`, presence of each kind, strong form of each kind; 0 or 1."""
    present = [float(kind in tags or f"{kind}:weak" in tags) for kind in DEGRADATIONS]
    return [float("clean" in tags), *present, *(float(kind in tags) for kind in DEGRADATIONS)]


class TagSamples:
    """Low-resolution pictures of crop + margin pixels a side, made when first asked for and kept.

    Args:
        photos: where they are cut from.
        indices: of the photographs in use.
        config: sizes, scales and shares; `real_probability` and one scale can be set apart.
        degradation: the chain's recipe.
        seed: of the run, and a number for the purpose.
        scale: the only scale, instead of the drawn ones.
        whole: whole photographs instead of crops.
    """

    def __init__(
        self,
        photos: PhotoSet,
        indices: Sequence[int],
        config: TaggerConfig,
        degradation: DegradationConfig,
        seed: tuple[int, int],
        *,
        scale: float | None = None,
        whole: bool = False,
    ) -> None:
        self.photos, self.indices, self.config, self.degradation = photos, list(indices), config, degradation
        self.seed, self.scale, self.whole = seed, scale, whole
        roots = np.sqrt(np.array([photos.area(index) for index in self.indices], float))
        self._photo_cdf = np.cumsum(roots) / roots.sum()
        self._kept: dict[int, TagSample] = {}

    def _draw_scale(self, rng: np.random.Generator) -> float:
        u, cdf = rng.random(), np.cumsum(list(self.config.fixed_scales.values()))
        slot = int(np.searchsorted(cdf, u, side="right"))
        drawn = float(list(self.config.fixed_scales)[slot]) if slot < len(cdf) else float(4.0 ** rng.random())
        return drawn if self.scale is None else self.scale

    def _cut(self, photo: NDArray[np.uint8], scale: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        if self.whole:
            return photo
        side = min(round((self.config.crop + self.config.margin) * scale), *photo.shape[:2])
        top = int(rng.integers(0, photo.shape[0] - side + 1))
        left = int(rng.integers(0, photo.shape[1] - side + 1))
        return photo[top : top + side, left : left + side]

    def __getitem__(self, index: int) -> TagSample:
        """Sample of any index, at least 0."""
        if index not in self._kept:
            self._kept[index] = self._make(index)
        return self._kept[index]

    def _make(self, index: int) -> TagSample:
        rng = np.random.default_rng((*self.seed, index))
        slot = min(int(np.searchsorted(self._photo_cdf, rng.random())), len(self.indices) - 1)
        photo = self.photos.pixels(self.indices[slot])
        scale = self._draw_scale(rng)
        hr = self._cut(photo, scale, rng).astype(np.float32) / 255.0
        size = (max(1, round(hr.shape[0] / scale)), max(1, round(hr.shape[1] / scale)))
        real = bool(rng.random() < self.config.real_probability)
        made = degrade_real(hr, size, self.degradation, rng) if real else degrade_bicubic(hr, size)
        return np.rint(made.lr * 255).astype(np.uint8), made.tags, self.photos.name(self.indices[slot])

    def picture(self, index: int) -> tuple[Tensor, tuple[str, ...], str]:
        """(3, h, w) float32 picture of a sample, cut so that a grid of blocks may start anywhere; tags; photograph."""
        lr, tags, name = self[index]
        top, left = np.random.default_rng((*self.seed, _AUGMENT, index)).integers(0, self.config.margin // 2 + 1, 2)
        cut = lr[min(int(top), lr.shape[0] - 1) :, min(int(left), lr.shape[1] - 1) :]
        return _to_tensor(cut).float() / 255, tags, name


class Pictures(Dataset[tuple[Tensor, tuple[str, ...], str]]):
    """The first `count` pictures of samples, for a loader."""

    def __init__(self, samples: TagSamples, count: int) -> None:
        self.samples = samples
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...], str]:
        """As `TagSamples.picture`."""
        return self.samples.picture(index)


class TrainingPieces(Dataset[tuple[Tensor, Tensor]]):
    """Pieces of `num_samples` samples: piece i is a pure function of (seed, i), for any i.

    Each pass over the samples has an order, and each piece a place, a turn and a mirroring of its own. None of these
    changes what the tags say.
    """

    def __init__(self, samples: TagSamples, seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def _sample_of(self, index: int) -> int:
        turn, place = divmod(index, self.samples.config.num_samples)
        if self._order is None or self._order[0] != turn:
            self._order = turn, np.random.default_rng((self.seed, turn)).permutation(self.samples.config.num_samples)
        return int(self._order[1][place])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, crop, crop) uint8 and its (7,) targets."""
        crop = self.samples.config.crop
        lr, tags, _ = self.samples[self._sample_of(index)]
        rng = np.random.default_rng((self.seed, _AUGMENT, index))
        top, left = (int(rng.integers(0, max(0, side - crop) + 1)) for side in lr.shape[:2])
        piece = take_crop(_to_tensor(lr), top, left, crop)
        piece = torch.rot90(piece, int(rng.integers(0, 4)), (1, 2))
        return piece.flip(2) if rng.random() < 0.5 else piece, torch.tensor(tag_targets(tags))


def _to_tensor(lr: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(lr.transpose(2, 0, 1)))


def collate_pieces(pieces: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(B, 3, crop, crop) float32 in [0, 1], channels last, and (B, 7) targets."""
    x = torch.stack([piece for piece, _ in pieces]).contiguous(memory_format=torch.channels_last)
    return x.float() / 255, torch.stack([target for _, target in pieces])
