"""What one model is made of: experts and their times, parameters, components, files; and fetching all of it."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from linearsr.catalogue import hub_address, local_folder, present_experts
from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.flow import t_from_log_snr
from linearsr.hub import Model, ModelSource
from linearsr.model.transformer import LinearDiT

__all__ = [
    "component_sources",
    "count_parameters",
    "describe_model",
    "expert_intervals",
    "fetch_files",
    "missing_bytes",
    "wanted_files",
]


def expert_intervals(config: CheckpointConfig) -> tuple[tuple[float, float], ...]:
    """Times (low, high) that each expert serves, expert 0 first; together they are 0 to 1."""
    cuts = [0.0, *(float(t_from_log_snr(value)) for value in config.experts.boundaries_log_snr), 1.0]
    return tuple(zip(cuts, cuts[1:], strict=False))


def count_parameters(config: CheckpointConfig) -> int:
    """Parameters of one expert. Built without memory, so no weights are needed."""
    with torch.device("meta"):
        network = LinearDiT(config.model)
    return sum(math.prod(value.shape) for value in network.parameters())


def component_sources(config: CheckpointConfig) -> dict[str, str]:
    """Where autoencoder, decoder, text encoder and tagger come from, by the sub-folder a copy puts them into."""
    sources = {"autoencoder": config.autoencoder.source, "decoder": config.autoencoder.decoder}
    if config.tags.kind == "text":
        sources["text_encoder"] = config.tags.encoder
        sources["tagger"] = "" if config.tags.tagger is None else config.tags.tagger.partition(":")[2]
    return {name: source for name, source in sources.items() if source}


def wanted_files(config: CheckpointConfig, experts: Collection[int] | None = None) -> tuple[str, ...]:
    """Files that config.json lists, without the weights of experts that are not asked for.

    Args:
        config: of the model.
        experts: numbers to keep; None for all.

    Raises:
        ConfigError: there is no such expert.
    """
    last = len(config.experts.files) - 1
    chosen = range(last + 1) if experts is None else experts
    for index in chosen:
        if not 0 <= index <= last:
            raise ConfigError(f"expert {index} does not exist, expected 0 to {last}", hint="expert 0 is the cleanest")
    weights = {*config.experts.files, *config.experts.loras}
    kept = {
        name for index in chosen for name in (config.experts.files[index], *config.experts.loras[index : index + 1])
    }
    return tuple(name for name in config.files if name not in weights or name in kept)


def _present_folder(source: ModelSource) -> Path | None:
    try:
        return local_folder(source)
    except WeightsError:
        return None


def describe_model(model: Model) -> dict[str, Any]:
    """Everything that config.json says and what of it is here, as plain data. Fetches nothing."""
    config, folder = model.config, _present_folder(model.source)
    here = () if folder is None else present_experts(config, folder)
    address = hub_address(model.source)
    experts = [
        {"expert": index, "t": [round(low, 6), round(high, 6)], "file": name, "present": index in here}
        for index, (name, (low, high)) in enumerate(zip(config.experts.files, expert_intervals(config), strict=True))
    ]
    files = [
        {"name": name, "bytes": entry.bytes, "present": folder is not None and (folder / name).is_file()}
        for name, entry in config.files.items()
    ]
    return {
        "model": model.source.name,
        "revision": None if address is None else address[1],
        "family": config.family,
        "licence": config.licence,
        "parameters": count_parameters(config),
        "experts": experts,
        "autoencoder": {
            "kind": config.autoencoder.kind,
            "factor": config.autoencoder.factor,
            "source": config.autoencoder.source,
            "decoder": config.autoencoder.decoder,
        },
        "tags": {
            "kind": config.tags.kind,
            "vocabulary": list(config.tags.vocabulary),
            "encoder": config.tags.encoder,
            "tagger": config.tags.tagger,
        },
        "sampler": config.sampling.sampler,
        "steps": config.sampling.steps,
        "cfg_scale": config.sampling.cfg_scale,
        "folder": None if folder is None else str(folder),
        "bytes": sum(entry.bytes for entry in config.files.values()),
        "files": files,
    }


def missing_bytes(model: Model, experts: Collection[int] | None = None) -> dict[str, int]:
    """Sizes of the files that would be fetched, by the name under which `on_download` tells of them.

    Raises:
        ConfigError: there is no such expert.
    """
    wanted, address = wanted_files(model.config, experts), hub_address(model.source)
    if address is None:
        return {}
    folder = _present_folder(model.source)
    names = [name for name in wanted if folder is None or not (folder / name).is_file()]
    return {f"{address[0]}/{name}": model.config.files[name].bytes for name in names}


def fetch_files(
    model: Model,
    *,
    experts: Collection[int] | None = None,
    components: bool = True,
) -> Path:
    """Bring a model's files into the Hub cache, whole; those that are whole already are not fetched.

    Args:
        model: as `open_model` gives it.
        experts: numbers to fetch; None for all.
        components: also what the config names by Hub id: autoencoder, text encoder, tagger.

    Returns:
        The folder that holds them.

    Raises:
        ConfigError: there is no such expert.
        WeightsError: a file cannot be had or is damaged.
    """
    for name in wanted_files(model.config, experts):
        model.file(name)
    if components:
        for what, source in component_sources(model.config).items():
            if not source.startswith("./"):
                model.component(source, what=what)
    return local_folder(model.source)
