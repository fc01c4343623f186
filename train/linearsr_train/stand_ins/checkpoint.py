"""A tiny random checkpoint of the paper's whole make-up: four experts, DC-AE, text encoder and tagger in one folder.

Its pictures are noise. It has the files, names and settings of a real one, so that every command can be tried on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from linearsr.checkpoint import save_checkpoint
from linearsr.config import CheckpointConfig, ExpertsConfig, FileEntry
from linearsr.flow import log_snr
from linearsr.model.transformer import LinearDiT
from linearsr.model_folder import file_entry
from linearsr.presets import get_preset
from linearsr_train.stand_ins.autoencoder import write_autoencoder
from linearsr_train.stand_ins.taggers import write_siglip
from linearsr_train.stand_ins.text import write_text_encoder

__all__ = ["write_checkpoint"]

HIDDEN = 16
"""Width of the text encoder."""


def _entries(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file in the sub-folders."""
    return {path.relative_to(folder).as_posix(): file_entry(path) for path in sorted(folder.glob("*/*"))}


def _network(config: CheckpointConfig, seed: int) -> LinearDiT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LinearDiT(config.model)


def write_checkpoint(folder: Path, *, seed: int = 0, experts: int = 4) -> CheckpointConfig:
    """Write the checkpoint; equal seeds give equal files.

    Args:
        folder: made if need be.
        seed: of all weights.
        experts: 1 or 4, each with weights of its own.

    Returns:
        Its config.

    Raises:
        ConfigError: diffusers or transformers is not installed.
    """
    write_autoencoder(folder / "autoencoder", seed=seed)
    write_text_encoder(folder / "text_encoder", hidden=HIDDEN, seed=seed)
    write_siglip(folder / "tagger", seed=seed)
    preset = get_preset("sana-0.6b")
    _, sampling = preset.for_experts(experts)
    cuts = tuple(float(log_snr(t)) for t in preset.boundaries) if experts > 1 else ()
    config = CheckpointConfig(
        schema_version=1,
        family="stand-in",
        model=replace(
            preset.model, width=64, depth=2, cross_attention_head_dim=32, caption_channels=HIDDEN, lr_stem=(8, 8, 32)
        ),
        autoencoder=replace(preset.autoencoder, source="./autoencoder"),
        flow=preset.flow,
        experts=ExpertsConfig(
            boundaries_log_snr=cuts, files=tuple(f"expert-{index}.safetensors" for index in range(experts))
        ),
        sampling=sampling,
        tags=replace(preset.tags, encoder="./text_encoder", tagger="siglip:./tagger"),
        licence="CC0-1.0",
        files=_entries(folder),
        training={"name": "stand-in", "trained": False},
    )
    states: list[Mapping[str, Tensor]] = [_network(config, seed + index).state_dict() for index in range(experts)]
    return save_checkpoint(folder, config, states, dtype=torch.float32)
