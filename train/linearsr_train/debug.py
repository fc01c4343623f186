"""A recipe cut down to a few steps on four photographs, to see that every part of it works.

The compact family keeps its network, which is small. A paper-scale recipe gets a tiny one and tiny random components
in the run folder; with a model to start from it keeps that model's network, whatever its size.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from linearsr.config import to_dict
from linearsr.errors import TrainingError
from linearsr.hub import open_model
from linearsr.model_files import component_sources
from linearsr_train.config import TrainConfig
from linearsr_train.data.sources import list_photos

__all__ = ["debug_recipe", "debug_split", "write_stand_ins"]

PHOTOS, HELD_BACK = 4, 2
STAND_INS = "stand_ins"
SHORT: dict[str, Any] = {
    "stages": {
        "pretrain": {"max_steps": 6, "validation_steps": 3},
        "experts": {"max_steps": 4, "validation_steps": 2},
        "sft": {"max_steps": 2, "validation_steps": 2},
    },
    "data": {"num_workers": 1},
    "loop": {"checkpoint_steps": 2, "log_steps": 2, "validation_photos": 1, "batch_size": 4},
}
LARGEST = {"data": ("crop", 96), "loop": ("validation_crop", 128)}
"""Crops of a recipe are made no larger than these."""
SHORT_TAGGER = {
    "max_steps": 10,
    "num_samples": 32,
    "batch_size": 8,
    "calibration_samples": 16,
    "report_samples": 16,
}
PAPER: dict[str, Any] = {
    "data": {"crop": 64, "num_workers": 0, "cache_gib": 1.0},
    "loop": {"validation_crop": 64, "mixed_precision": "auto"},
    # Twelve evaluations, and a controller that takes three without progress for a plateau: it has a word to say.
    "stages": {"pretrain": {"max_steps": 12, "validation_steps": 1}},
    "esgf": {"least_evaluations": 6, "patience": 3, "plateau_gain": 10.0, "restless_factor": 100.0, "keep_last": 10},
}
TINY_NETWORK = {"width": 64, "depth": 2, "cross_attention_head_dim": 32, "caption_channels": 16}
"""Two blocks of two heads; the shape of `stand_ins.write_sana` too."""


def _merge(data: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            _merge(data.setdefault(name, {}), value)
        else:
            data[name] = value


def debug_recipe(data: Mapping[str, Any], folder: Path, init: str = "") -> dict[str, Any]:
    """Plain data of a recipe, shortened.

    Args:
        data: as `config.read_toml` gives it.
        folder: of the run, where the stand-ins of components will be.
        init: model to start from; empty for none.

    Raises:
        WeightsError: no such model.
    """
    short = copy.deepcopy(dict(data))
    stages = short.setdefault("stages", {})
    skipped = [name for name, stage in stages.items() if stage.get("max_steps") == 0]
    _merge(short, SHORT)
    for section, (name, largest) in LARGEST.items():
        short[section][name] = min(largest, short[section].get(name, largest))
    if short.get("autoencoder", {}).get("kind") != "dcae":
        _merge(short, {"tagger": SHORT_TAGGER})
        return short
    _merge(short, PAPER)
    for name in skipped:
        if name == "pretrain" and not init:  # there is nothing to start from
            stages[name]["learning_rate"] = 1e-4
        else:
            stages[name]["max_steps"] = 0
    _merge(short, _small_parts(folder, init))
    return short


def _small_parts(folder: Path, init: str) -> dict[str, Any]:
    """Network and components: the start's own as far as it has them, else tiny ones."""
    stand_ins = folder / STAND_INS
    parts: dict[str, Any] = {
        "model": TINY_NETWORK,
        "autoencoder": {"source": str(stand_ins / "autoencoder"), "decoder": ""},
        "tags": {"encoder": str(stand_ins / "text_encoder")},
    }
    if init:
        checkpoint = open_model(init).config
        own = component_sources(checkpoint)
        parts["model"] = to_dict(checkpoint.model)
        if own.get("autoencoder", "").startswith("./"):
            parts["autoencoder"] = {"source": own["autoencoder"], "decoder": own.get("decoder", "")}
        if own.get("text_encoder", "").startswith("./"):
            parts["tags"] = {"encoder": own["text_encoder"]}
    return parts


def write_stand_ins(config: TrainConfig, folder: Path) -> None:
    """Write the components that a shortened recipe names, as far as they are not there.

    Args:
        config: from `debug_recipe`, with whatever was set over it.
        folder: of the run.

    Raises:
        ConfigError: diffusers or transformers is not installed.
    """
    from linearsr_train.stand_ins.autoencoder import write_autoencoder
    from linearsr_train.stand_ins.text import write_text_encoder

    def write_text(place: Path) -> None:
        write_text_encoder(place, hidden=config.model.caption_channels)

    for source, write in ((config.autoencoder.source, write_autoencoder), (config.tags.encoder, write_text)):
        if source and Path(source).parent == folder / STAND_INS:
            _write_whole(Path(source), write)


def _write_whole(place: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under another name first: a kill or a process beside this one leaves it whole or not there."""
    if place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        write(beside)
        beside.chmod(0o755)
        os.rename(beside, place)
    except OSError:
        if not place.is_dir():
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def debug_split(folder: Path) -> tuple[list[Path], list[Path]]:
    """A few photographs to train on and to validate with, the same ones every time.

    Raises:
        TrainingError: the folder does not exist, or holds fewer than two.
    """
    paths = sorted(list_photos(folder), key=lambda path: hashlib.sha256(path.name.encode("utf-8")).digest())
    if len(paths) < 2:
        raise TrainingError(
            f"{str(folder)!r} holds {len(paths)} photographs, expected at least two: one is held back to validate with",
            hint="add photographs (PNG, JPEG, WebP, TIFF)",
        )
    held_back = paths[: min(HELD_BACK, len(paths) - 1)]
    return sorted(paths[len(held_back) :][:PHOTOS]), sorted(held_back)
