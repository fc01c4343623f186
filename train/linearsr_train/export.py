"""From the results of a run to a checkpoint folder that `linearsr upscale --model` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr import __version__
from linearsr.checkpoint import save_checkpoint
from linearsr.config import SCHEMA_VERSION, CheckpointConfig, ExpertsConfig, SamplingConfig, TagsConfig
from linearsr.local_copy import with_sources
from linearsr.model.lora import LoraInfo, save_lora
from linearsr.presets import PRESETS, PUBLISHED_STEPS, Preset, preset_of_shape
from linearsr.tags.compact import TAGGER_NAME
from linearsr_train.components import Components
from linearsr_train.config import TrainConfig
from linearsr_train.evaluate import time_grid
from linearsr_train.experts import boundaries_log_snr
from linearsr_train.state import plain_config
from linearsr_train.weights import WeightBook

__all__ = ["PUBLISHED_STEPS", "export_experts", "export_run", "lora_info"]

CUSTOM = "sana"
"""Family of a paper-scale network whose shape is no preset's."""


def _recipe(config: TrainConfig) -> dict[str, Any]:
    """The recipe for the record; what lies on this machine's disk is told by its name alone."""
    recipe = plain_config(config)
    for section, name in (
        (recipe, "init"),
        (recipe["autoencoder"], "source"),
        (recipe["autoencoder"], "decoder"),
        (recipe["tags"], "encoder"),
    ):
        if section[name] and Path(section[name]).exists():
            section[name] = "/".join(Path(section[name]).absolute().parts[-2:])
    return recipe


def _sampling(config: TrainConfig, num_experts: int) -> SamplingConfig:
    """Defaults for users: measured ones of the compact family, published ones of SANA's."""
    grids = {str(steps): tuple(time_grid(config.flow, steps).tolist()) for steps in PUBLISHED_STEPS}
    if config.autoencoder.kind == "pixel":
        return SamplingConfig(sampler="euler", steps=4, t_grids=grids, tile=768, tile_overlap=32, color_fix="none")
    preset = _preset(config)
    scales = preset.sampling.expert_cfg_scales
    is_split_so = num_experts == len(scales) and config.experts.boundaries == preset.boundaries
    return replace(preset.sampling, t_grids=grids, expert_cfg_scales=scales if is_split_so else ())


def _preset(config: TrainConfig) -> Preset:
    """The preset of the network's shape; of another shape, the smallest, as they sample alike."""
    preset = preset_of_shape(config.model)
    return next(iter(PRESETS.values())) if preset is None else preset


def _family(config: TrainConfig) -> str:
    if config.autoencoder.kind == "pixel":
        return "compact"
    preset = preset_of_shape(config.model)
    return CUSTOM if preset is None else preset.name


def _tags(config: TrainConfig, tagger: Path | None) -> TagsConfig:
    if config.tags.kind == "text":
        return config.tags
    return TagsConfig(kind="closed", vocabulary=config.vocabulary, tagger=None if tagger is None else TAGGER_NAME)


def _checkpoint_config(
    config: TrainConfig, experts: ExpertsConfig, summary: Mapping[str, Any], licence: str, tagger: Path | None
) -> CheckpointConfig:
    return CheckpointConfig(
        schema_version=SCHEMA_VERSION,
        family=_family(config),
        model=config.model,
        autoencoder=config.autoencoder,
        flow=config.flow,
        experts=experts,
        sampling=_sampling(config, len(experts.files)),
        tags=_tags(config, tagger),
        licence=licence,
        files={},
        training={
            "recipe": _recipe(config),
            "linearsr": __version__,
            "torch": torch.__version__,
            **summary,
        },
    )


def export_experts(
    config: TrainConfig,
    networks: Sequence[Mapping[str, Tensor]],
    folder: Path,
    *,
    summary: Mapping[str, Any],
    licence: str,
    tagger: Path | None = None,
    loras: Mapping[int, Mapping[str, Tensor]] | None = None,
    components: Components | None = None,
) -> CheckpointConfig:
    """Write networks as a checkpoint folder.

    Args:
        config: of the run.
        networks: one for all noise levels, or one for each expert, expert 0 first; with `loras` their common base.
        folder: the export.
        summary: goes into the config's `training` section beside versions and the recipe.
        licence: of the weights.
        tagger: file to ship beside them.
        loras: low-rank parts by expert, kept in files of their own.
        components: frozen parts that the config names; those in folders are copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    boundaries = boundaries_log_snr(config.experts) if len(networks) > 1 or loras else ()
    names = [f"expert-{index}.safetensors" for index in range(len(boundaries) + 1)]
    extra = {} if tagger is None else {TAGGER_NAME: tagger}
    if not loras:
        experts = ExpertsConfig(boundaries_log_snr=boundaries, files=tuple(names))
        written = _with_components(_checkpoint_config(config, experts, summary, licence, tagger), components, folder)
        return save_checkpoint(folder, written, list(networks), extra=extra)
    for index, part in loras.items():
        path = folder / f"lora-{index}.safetensors"
        save_lora(path, {index: part}, lora_info(config, (index,), summary))
        extra[path.name] = path
    files, parts = ("base.safetensors",) * len(names), tuple(f"lora-{index}.safetensors" for index in range(len(names)))
    experts = ExpertsConfig(boundaries_log_snr=boundaries, files=files, loras=parts)
    written = _with_components(_checkpoint_config(config, experts, summary, licence, tagger), components, folder)
    return save_checkpoint(folder, written, [networks[0]] * len(names), extra=extra)


def _with_components(config: CheckpointConfig, components: Components | None, folder: Path) -> CheckpointConfig:
    """The config with the frozen parts as the export has them, after copying those that it carries."""
    if components is None:
        return config
    return replace(with_sources(config, components.sources), files=components.copy_into(folder))


def lora_info(config: TrainConfig, experts: tuple[int, ...], summary: Mapping[str, Any]) -> LoraInfo:
    """What a LoRA file of this run says about itself."""
    return LoraInfo(
        rank=config.experts.lora_rank,
        alpha=config.experts.lora_alpha,
        experts=experts,
        boundaries_log_snr=boundaries_log_snr(config.experts),
        model=config.model,
        training={"name": config.name, **summary},
    )


def export_run(
    config: TrainConfig,
    book: WeightBook,
    folder: Path,
    *,
    summary: dict[str, Any],
    licence: str,
    tagger: Path | None,
    components: Components | None = None,
) -> CheckpointConfig | None:
    """Export the best networks that a run has now; None before there is any."""
    settings: dict[str, Any] = dict(summary=summary, licence=licence, tagger=tagger, components=components)
    written = _export_best(config, book, folder, settings)
    for path in folder.glob("*.safetensors"):
        if written is not None and path.name not in written.files:
            path.unlink()  # of an export before this one
    return written


def _export_best(
    config: TrainConfig, book: WeightBook, folder: Path, settings: dict[str, Any]
) -> CheckpointConfig | None:
    if not book.has_experts:
        network = book.shared(0)
        return None if network is None else export_experts(config, [network], folder, **settings)
    if config.experts.mode == "lora" and config.experts.lora_export == "separate":
        parts = {expert: book.lora(expert) for expert in range(book.num_experts)}
        base = book.common_base()
        if base is not None and all(part is not None for part in parts.values()):
            found = {expert: part for expert, part in parts.items() if part is not None}
            return export_experts(config, [base], folder, loras=found, **settings)
    networks = [book.best(expert) for expert in range(book.num_experts)]
    return export_experts(config, [network for network in networks if network is not None], folder, **settings)
