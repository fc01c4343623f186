"""From public SANA weights to a LinearSR checkpoint folder: the start of paper-scale training.

The folder holds the public network under our names and a stem on low-resolution pixels that is not trained yet. Until
it is, the network makes pictures from tags and does not see what it should enlarge.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr import __version__
from linearsr.checkpoint import CONFIG_NAME, read_config, save_checkpoint
from linearsr.config import SCHEMA_VERSION, CheckpointConfig, ModelConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.sana import Layout, check_shapes, detect_layout, from_diffusers, from_nvlabs, widen_patch_embed
from linearsr.model.sana_config import plain_sana
from linearsr.model.sana_files import find_sana, read_sana
from linearsr.presets import LR_STEM, PRESETS, Preset, get_preset, preset_of_shape
from linearsr.state_dicts import some

__all__ = ["CARD_NAME", "convert_sana"]

CARD_NAME = "MODEL_CARD.md"
_CARD = """# {name}: LinearSR before training

Converted from the SANA weights in `{origin}`. **The stem that reads the low-resolution picture is not
trained**: until it is, the network makes pictures from tags as SANA does and ignores what it should enlarge.

| | |
|---|---|
| Network | {depth} blocks of width {width}, {parameters:,} parameters, of them {added:,} new |
| Origin | `{origin}` ({layout} names); public weights: {repository} |
| New | a stem of {stem} channels, random by seed {seed}, and its columns of the patch embedding, all zero |
| Autoencoder | `{autoencoder}` |
| Text encoder | `{encoder}` |
| Experts | {experts} |
| Storage | {dtype} safetensors |
| Licence | {licence} |

{note}

To train: `linearsr train --recipe paper_pretrain --init FOLDER`.
"""


def convert_sana(
    source: Path,
    out: Path,
    *,
    preset: str | None = None,
    experts: int = 1,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    autoencoder: str | None = None,
    encoder: str | None = None,
    licence: str | None = None,
    origin: str | None = None,
    overwrite: bool = False,
) -> CheckpointConfig:
    """Make a LinearSR checkpoint of SANA weights: all of it appears at once, or nothing; over an old one file by file.

    Args:
        source: a diffusers pipeline folder, its `transformer` folder, or a safetensors file with NVlabs names.
        out: folder to make.
        preset: size that it must be; None takes any, where unknown with the settings of sana-0.6b.
        experts: 1, or 4 with the paper's boundaries, which then share one file.
        dtype: of the stored weights; None keeps theirs.
        seed: of the stem.
        autoencoder, encoder: other places of these components than the preset's, as `config.check_source` takes them.
        licence: of the weights; None is the public ones'.
        origin: what config and card call the source, such as its Hub id; None is its name on the disk.
        overwrite: replace a checkpoint that is there.

    Returns:
        The config as written.

    Raises:
        ConfigError: no such preset, a number of experts that is not 1 or 4, or `out` is taken.
        WeightsError: the source is missing, incomplete, a pickle, of another size or a variant that is not run here;
            or `out` cannot be written.
    """
    wanted = None if preset is None else get_preset(preset)
    (next(iter(PRESETS.values())) if wanted is None else wanted).for_experts(experts)
    _check_out(out, overwrite)
    layout, state, model, name = _load(source, wanted)
    record = {"from": name if origin is None else origin, "layout": layout, "stem_seed": seed}
    config = _config(model, wanted if wanted is not None else preset_of_shape(model), experts, record)
    config = replace(
        config,
        autoencoder=config.autoencoder if autoencoder is None else replace(config.autoencoder, source=autoencoder),
        tags=config.tags if encoder is None else replace(config.tags, encoder=encoder),
        licence=config.licence if licence is None else licence,
    )
    stored = reduce(torch.promote_types, (value.dtype for value in state.values())) if dtype is None else dtype
    state = widen_patch_embed(state, config.model, seed=seed)
    _check_finite(state, stored)
    return _write(out, config, state, stored)


def _check_out(out: Path, overwrite: bool) -> None:
    if out.is_file():
        raise ConfigError(f"{str(out)!r} is a file, expected a folder to make", hint="choose another name")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConfigError(f"{str(out)!r} is not empty", hint="choose another folder, or replace it with `--overwrite`")
    try:
        read_config(out)
    except WeightsError as error:
        raise ConfigError(
            f"{str(out)!r} holds something else than a LinearSR checkpoint, so it is not replaced",
            hint="choose another folder",
        ) from error


# ---- reading


def _load(source: Path, wanted: Preset | None) -> tuple[Layout, dict[str, Tensor], ModelConfig, str]:
    """Naming, tensors under our names, shape and name of the source; the size is checked before tensors are read."""
    found = find_sana(source)
    if found.model is not None:
        _check_size(found.model, wanted, found.origin)
    state = read_sana(found)
    layout = detect_layout(state)
    if layout == "diffusers" and found.model is None:
        raise WeightsError(
            f"{found.origin!r} has no config.json beside it, expected diffusers' transformer folder",
            hint="give the folder, not the file",
        )
    state = from_diffusers(state) if layout == "diffusers" else from_nvlabs(state)
    model = _shape_of(state, wanted, found.origin) if found.model is None else found.model
    check_shapes(state, model)
    return layout, state, model, found.origin


def _size(model: ModelConfig) -> str:
    return (
        f"{model.depth} blocks of width {model.width} (heads of {model.head_dim} and "
        f"{model.cross_attention_head_dim}), captions of {model.caption_channels} and {model.in_channels} channels"
    )


def _check_size(model: ModelConfig, wanted: Preset | None, origin: str) -> None:
    if wanted is None or plain_sana(replace(wanted.model, qk_norm=model.qk_norm)) == model:
        return
    other = preset_of_shape(model)
    raise WeightsError(
        f"{origin!r} has {_size(model)}, expected {_size(wanted.model)} for preset {wanted.name!r}",
        hint="leave the preset out" if other is None else f"use preset {other.name!r}",
    )


def _shape_of(state: Mapping[str, Tensor], wanted: Preset | None, origin: str) -> ModelConfig:
    """Shape of an NVlabs network, whose file does not say how wide a head of cross-attention is: a preset's."""
    width = state["patch_embed.proj.weight"].shape[0]
    depth = sum(name.endswith(".attn1.to_q.weight") for name in state)
    norm = any(name.endswith(".norm_q.weight") for name in state)
    for preset in PRESETS.values() if wanted is None else (wanted,):
        if (preset.model.width, preset.model.depth) == (width, depth):
            return plain_sana(replace(preset.model, qk_norm=norm))
    raise WeightsError(
        f"{origin!r} has {depth} blocks of width {width}, expected those of "
        f"{' or '.join(map(repr, PRESETS)) if wanted is None else f'preset {wanted.name!r}'}",
        hint="take a model of other sizes in diffusers' format, which states them",
    )


def _check_finite(state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    bad = [name for name, value in state.items() if not bool(value.to(dtype).isfinite().all())]
    if bad:
        raise WeightsError(f"{some(bad)} are not finite in {dtype}", hint="store as bfloat16 or float32")


# ---- writing


def _config(model: ModelConfig, preset: Preset | None, experts: int, record: dict[str, Any]) -> CheckpointConfig:
    values = next(iter(PRESETS.values())) if preset is None else preset
    bank, sampling = values.for_experts(experts)
    return CheckpointConfig(
        schema_version=SCHEMA_VERSION,
        family="sana" if preset is None else preset.name,
        model=replace(model, lr_stem=LR_STEM, cond_channels=LR_STEM[-1]),
        autoencoder=values.autoencoder,
        flow=values.flow,
        experts=bank,
        sampling=sampling,
        tags=values.tags,
        licence=values.licence,
        files={},
        training={"converted": record, "trained": False, "linearsr": __version__, "torch": torch.__version__},
    )


def _card(config: CheckpointConfig, state: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    record = config.training["converted"]
    preset = PRESETS.get(config.family)
    public = preset is not None and config.licence == preset.licence
    columns, count = config.model.cond_channels * config.model.width, len(config.experts.files)
    return _CARD.format(
        name=config.family,
        origin=record["from"],
        layout="NVlabs" if record["layout"] == "nvlabs" else record["layout"],
        repository="unknown" if preset is None else f"`{preset.repository}`",
        depth=config.model.depth,
        width=config.model.width,
        parameters=sum(value.numel() for value in state.values()),
        added=columns + sum(value.numel() for name, value in state.items() if name.startswith("lr_stem.")),
        stem=", ".join(map(str, config.model.lr_stem)),
        seed=record["stem_seed"],
        autoencoder=config.autoencoder.source,
        encoder=config.tags.encoder,
        experts="one network for all noise levels" if count == 1 else f"{count}, all the same network so far",
        dtype=str(dtype).removeprefix("torch."),
        licence=config.licence,
        note=preset.licence_note if public and preset is not None else "The licence is as whoever converted it stated.",
    )


def _write(out: Path, config: CheckpointConfig, state: Mapping[str, Tensor], dtype: torch.dtype) -> CheckpointConfig:
    """Write beside `out`, then move: into place as a whole, or over the files of the checkpoint that is there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".linearsr-", dir=out.parent) as temporary:
            made = Path(temporary) / "model"
            written = save_checkpoint(made, config, [state] * len(config.experts.files), dtype=dtype)
            (made / CARD_NAME).write_text(_card(written, state, dtype), encoding="utf-8")
            if out.is_dir() and any(out.iterdir()):
                _replace_files(made, out)
            else:
                with contextlib.suppress(FileNotFoundError):
                    out.rmdir()
                shutil.move(made, out)
    except OSError as error:
        raise WeightsError(
            f"{str(out)!r} cannot be written: {error.strerror}", hint="free some space, or choose another folder"
        ) from error
    return written


def _replace_files(made: Path, out: Path) -> None:
    old = set(read_config(out).files)
    names = sorted((path.name for path in made.iterdir()), key=lambda name: name == CONFIG_NAME)  # the config last
    for name in names:
        os.replace(made / name, out / name)
    for name in old.difference(names):
        if "/" not in name:  # components of the old checkpoint stay
            (out / name).unlink(missing_ok=True)
