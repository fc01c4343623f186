"""Validation on a fixed set of crops, by the sampler that users run and with the averaged weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.config import FlowConfig
from linearsr.denoiser import velocity_fn
from linearsr.metrics import gmsd, psnr, quantise
from linearsr.model.conditioning import pad_tag_ids
from linearsr.model.experts import ExpertBank
from linearsr.resize import resize
from linearsr.samplers import VelocityFn, sample_dpmpp_2m, sample_euler
from linearsr.schedules import compact_grid, dpm_flow_grid
from linearsr.tags.vocabulary import tag_ids
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import Batch
from linearsr_train.data.degradation import degrade_bicubic, degrade_real_fixed
from linearsr_train.data.prompts import Prompts
from linearsr_train.data.sources import PhotoSet
from linearsr_train.latents import Latents, latents_of

__all__ = [
    "PerceptualFn",
    "ValidationSet",
    "autoencoder_ceiling",
    "build_validation",
    "sample_rows",
    "time_grid",
    "validate",
]

PerceptualFn = Callable[[Tensor, Tensor], float]
Entry = tuple[Tensor, Tensor, float, list[int]]
TASKS = (("x4", 4.0), ("x2", 2.0), ("real4", 4.0))


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Fixed pictures by task; their noise is drawn anew from one seed at every validation."""

    tasks: dict[str, list[Entry]]
    """(hr, lr_up, scale, tag ids) of each picture; both tensors (1, 3, H, W). Where the network reads native pixels,
    the second is (1, 3, h, w), the input as it is."""


def time_grid(flow: FlowConfig, steps: int) -> Tensor:
    """Grid that a model of this flow is watched and published with."""
    return dpm_flow_grid(steps, flow.shift) if flow.grid == "dpm" else compact_grid(steps, shift=flow.shift)


def _sample(flow: FlowConfig, v_fn: VelocityFn, noise: Tensor, steps: int) -> Tensor:
    """Latent by the solver that goes with the grid."""
    sampler = sample_dpmpp_2m if flow.grid == "dpm" else sample_euler
    return sampler(v_fn, noise, time_grid(flow, steps))


def build_validation(photos: PhotoSet, config: TrainConfig, prompts: Prompts | None = None) -> ValidationSet:
    """Central crops of the first validation photographs: bicubic x4 and x2, and the second-order chain at x4.

    The chain's draws depend on the file name alone, so that every run sees the same pictures. Prompts, where the model
    takes any words, are the photographs' own; a network on native pixels has no x2.
    """
    crop, native = config.loop.validation_crop, bool(config.model.lr_stem)
    vocabulary = config.vocabulary if prompts is None else prompts.vocabulary
    wanted = [(task, scale) for task, scale in TASKS if scale == 4.0 or not native]
    tasks: dict[str, list[Entry]] = {task: [] for task, _ in wanted}
    for index in range(min(len(photos), config.loop.validation_photos)):
        pixels = photos.pixels(index)
        top, left = (pixels.shape[0] - crop) // 2, (pixels.shape[1] - crop) // 2
        hr = pixels[top : top + crop, left : left + crop].astype(np.float32) / 255.0
        for task, scale in wanted:
            size = (round(crop / scale), round(crop / scale))
            if task == "real4":
                degraded = degrade_real_fixed(hr, scale, photos.name(index), config.data.degradation)
            else:
                degraded = degrade_bicubic(hr, size)
            lr = torch.from_numpy(degraded.lr.transpose(2, 0, 1).copy())
            tags = degraded.tags if prompts is None else prompts.of(photos.name(index))
            entry = (
                torch.from_numpy(hr.transpose(2, 0, 1).copy())[None],
                (lr if native else resize(lr, (crop, crop)))[None],
                scale,
                tag_ids(tags, vocabulary),
            )
            tasks[task].append(entry)
    return ValidationSet(tasks)


def _as_batch(entry: Entry, device: torch.device) -> Batch:
    """A validation picture as a batch of one on a device."""
    hr, lr, scale, ids = entry
    lr_up = lr if lr.shape == hr.shape else resize(lr[0], (hr.shape[2], hr.shape[3]))[None]
    tags, mask = pad_tag_ids([ids], device)
    scales = torch.tensor([scale], device=device)
    return Batch(hr.to(device), lr_up.to(device), scales, tags, mask, lr=lr.to(device))


def _noise(batch: Batch, latents: Latents, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """(1, C, H / f, W / f) start of the sampler, drawn on the host."""
    rows, cols = (side // latents.factor for side in batch.hr.shape[2:])
    return torch.randn((1, config.model.in_channels, rows, cols), generator=generator).to(batch.hr.device)


@torch.no_grad()
def validate(
    bank: ExpertBank,
    autoencoder: PixelAutoencoder | Latents,
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
        autoencoder, data, config: of the run; the autoencoder as `loop.LossTerms` takes it.
        steps: numbers of steps.
        perceptual: (1, 3, H, W) twice, in [0, 1], to a distance.
        device: where the networks are.
        autocast_dtype: precision of the dense layers; None is float32.

    Returns:
        Keys such as `x4/psnr_1`, `x4/perceptual_4`, and `x4/psnr_bicubic` as the neighbour.
    """
    latents = latents_of(autoencoder)
    sums: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(1234)
    for task, entries in data.tasks.items():
        for entry in entries:
            batch, border = _as_batch(entry, torch.device(device)), round(entry[2])
            noise = _noise(batch, latents, config, generator)
            v_fn = velocity_fn(bank, config.flow, latents.condition(batch), autocast_dtype=autocast_dtype)
            sums.setdefault(f"{task}/psnr_bicubic", []).append(psnr(quantise(batch.lr_up), batch.hr, border=border))
            for count in steps:
                sr = quantise(latents.decode(_sample(config.flow, v_fn, noise, count), batch))
                sums.setdefault(f"{task}/psnr_{count}", []).append(psnr(sr, batch.hr, border=border))
                sums.setdefault(f"{task}/perceptual_{count}", []).append(perceptual(sr, batch.hr))
    return {key: round(float(np.mean(values)), 4) for key, values in sums.items()}


@torch.no_grad()
def autoencoder_ceiling(
    latents: Latents, data: ValidationSet, *, perceptual: PerceptualFn = gmsd, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """What is left of the originals after encoding and decoding: no network in this latent can score better.

    Returns:
        `psnr` (PSNR-Y in dB, as `validate` measures it at x4) and `perceptual`, over the pictures of one task.
    """
    scores: dict[str, list[float]] = {"psnr": [], "perceptual": []}
    for entry in next(iter(data.tasks.values())):
        batch = _as_batch(entry, torch.device(device))
        hr = quantise(latents.decode(latents.encode(batch), batch))
        scores["psnr"].append(psnr(hr, batch.hr, border=round(entry[2])))
        scores["perceptual"].append(perceptual(hr, batch.hr))
    return {name: round(float(np.mean(values)), 4) for name, values in scores.items()}


@torch.no_grad()
def sample_rows(
    bank: ExpertBank,
    autoencoder: PixelAutoencoder | Latents,
    data: ValidationSet,
    config: TrainConfig,
    *,
    count: int = 2,
    steps: tuple[int, ...] = (1, 4),
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
) -> list[tuple[str, list[tuple[str, Tensor]]]]:
    """Labelled pictures for a contact sheet: input, results, original of the first pictures of each task."""
    latents = latents_of(autoencoder)
    rows = []
    for task, entries in data.tasks.items():
        for index, entry in enumerate(entries[:count]):
            batch = _as_batch(entry, torch.device(device))
            noise = _noise(batch, latents, config, torch.Generator().manual_seed(index))
            v_fn = velocity_fn(bank, config.flow, latents.condition(batch), autocast_dtype=autocast_dtype)
            cells = [("input", quantise(batch.lr_up)[0])]
            for number in steps:
                name = "1 step" if number == 1 else f"{number} steps"
                sr = latents.decode(_sample(config.flow, v_fn, noise, number), batch)
                cells.append((name, quantise(sr)[0]))
            rows.append((f"{task} {index + 1}", [*cells, ("original", batch.hr[0])]))
    return rows
