"""Validation on a fixed set of crops, by the sampler that users run and with the averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.denoiser import velocity_fn
from linearsr.metrics import gmsd, psnr, quantise
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.experts import ExpertBank
from linearsr.resize import resize
from linearsr.samplers import sample_euler
from linearsr.schedules import compact_grid
from linearsr.tags.vocabulary import tag_ids
from linearsr_train.config import TrainConfig
from linearsr_train.data.degradation import degrade_bicubic, degrade_real_fixed
from linearsr_train.data.sources import PhotoSet

__all__ = ["PerceptualFn", "ValidationSet", "build_validation", "sample_rows", "validate"]

PerceptualFn = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Fixed pictures by task; their noise is drawn anew from one seed at every validation."""

    tasks: dict[str, list[tuple[Tensor, Tensor, float, list[int]]]]
    """(hr, lr_up, scale, tag ids) of each picture; both tensors (1, 3, H, W)."""


def build_validation(photos: PhotoSet, config: TrainConfig) -> ValidationSet:
    """Central crops of the first validation photographs: bicubic x4 and x2, and the second-order chain at x4.

    The chain's draws depend on the file name alone, so that every run sees the same pictures.
    """
    crop = config.loop.validation_crop
    tasks: dict[str, list[tuple[Tensor, Tensor, float, list[int]]]] = {"x4": [], "x2": [], "real4": []}
    for index in range(min(len(photos), config.loop.validation_photos)):
        pixels = photos.pixels(index)
        top, left = (pixels.shape[0] - crop) // 2, (pixels.shape[1] - crop) // 2
        hr = pixels[top : top + crop, left : left + crop].astype(np.float32) / 255.0
        for task, scale in (("x4", 4.0), ("x2", 2.0), ("real4", 4.0)):
            size = (round(crop / scale), round(crop / scale))
            if task == "real4":
                degraded = degrade_real_fixed(hr, scale, photos.name(index), config.data.degradation)
            else:
                degraded = degrade_bicubic(hr, size)
            lr = torch.from_numpy(degraded.lr.transpose(2, 0, 1).copy())
            entry = (
                torch.from_numpy(hr.transpose(2, 0, 1).copy())[None],
                resize(lr, (crop, crop))[None],
                scale,
                tag_ids(degraded.tags, config.vocabulary),
            )
            tasks[task].append(entry)
    return ValidationSet(tasks)


def _condition(
    entry: tuple[Tensor, Tensor, float, list[int]], autoencoder: PixelAutoencoder, device: torch.device
) -> tuple[Tensor, Tensor, Conditioning]:
    """(hr, lr_up, condition) of a validation picture on a device."""
    hr, lr_up, scale, ids = entry
    hr, lr_up = hr.to(device), lr_up.to(device)
    tags, mask = pad_tag_ids([ids], device)
    log2_scale = torch.tensor([scale], device=device).log2()
    return hr, lr_up, Conditioning(lr=autoencoder.condition(lr_up), tags=tags, tag_mask=mask, log2_scale=log2_scale)


@torch.no_grad()
def validate(
    bank: ExpertBank,
    autoencoder: PixelAutoencoder,
    data: ValidationSet,
    config: TrainConfig,
    *,
    steps: tuple[int, ...] = (1, 4),
    perceptual: PerceptualFn = gmsd,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """PSNR-Y in dB and a perceptual distance (lower is better) by task and number of steps.

    Args:
        bank: the networks, as users sample with them.
        autoencoder, data, config: of the run.
        steps: numbers of steps.
        perceptual: (1, 3, H, W) twice, in [0, 1], to a distance.
        device: where the networks are.
        autocast_dtype: precision of the dense layers; None is float32.

    Returns:
        Keys such as `x4/psnr_1`, `x4/perceptual_4`, and `x4/psnr_bicubic` as the neighbour.
    """
    device = torch.device(device)
    sums: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(1234)
    for task, entries in data.tasks.items():
        for entry in entries:
            hr, lr_up, cond = _condition(entry, autoencoder, device)
            scale = entry[2]
            noise = torch.randn(cond.lr.shape, generator=generator).to(device)
            v_fn = velocity_fn(bank, config.flow, cond, autocast_dtype=autocast_dtype)
            sums.setdefault(f"{task}/psnr_bicubic", []).append(psnr(quantise(lr_up), hr, border=round(scale)))
            for count in steps:
                latent = sample_euler(v_fn, noise, compact_grid(count, shift=config.flow.shift))
                sr = quantise(autoencoder.decode(latent, lr_up, scale))
                sums.setdefault(f"{task}/psnr_{count}", []).append(psnr(sr, hr, border=round(scale)))
                sums.setdefault(f"{task}/perceptual_{count}", []).append(perceptual(sr, hr))
    return {key: round(float(np.mean(values)), 4) for key, values in sums.items()}


@torch.no_grad()
def sample_rows(
    bank: ExpertBank,
    autoencoder: PixelAutoencoder,
    data: ValidationSet,
    config: TrainConfig,
    *,
    count: int = 2,
    steps: tuple[int, ...] = (1, 4),
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
) -> list[tuple[str, list[tuple[str, Tensor]]]]:
    """Labelled pictures for a contact sheet: input, results, original of the first pictures of each task."""
    device = torch.device(device)
    rows = []
    for task, entries in data.tasks.items():
        for index, entry in enumerate(entries[:count]):
            hr, lr_up, cond = _condition(entry, autoencoder, device)
            generator = torch.Generator().manual_seed(index)
            noise = torch.randn(cond.lr.shape, generator=generator).to(device)
            v_fn = velocity_fn(bank, config.flow, cond, autocast_dtype=autocast_dtype)
            cells = [("input", quantise(lr_up)[0])]
            for number in steps:
                latent = sample_euler(v_fn, noise, compact_grid(number, shift=config.flow.shift))
                name = "1 step" if number == 1 else f"{number} steps"
                cells.append((name, quantise(autoencoder.decode(latent, lr_up, entry[2]))[0]))
            rows.append((f"{task} {index + 1}", [*cells, ("original", hr[0])]))
    return rows
