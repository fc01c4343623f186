"""LoRA files: what one says about itself, reading and writing it, and merging it into the weights of a network.

Inference knows merged weights only: a LoRA costs nothing once its expert is loaded. One file holds the additions of
one or more experts. How a network is trained with one is in `low_rank.py`, whose functions can be had here too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from linearsr.atomic import write_bytes
from linearsr.config import ModelConfig, from_dict, to_dict
from linearsr.errors import ConfigError, LinearSRError, WeightsError
from linearsr.model.low_rank import (
    DEFAULT_TARGETS,
    add_lora,
    base_state_dict,
    check_rank,
    lora_state_dict,
    merged_state_dict,
    weight_delta,
)
from linearsr.model.transformer import LinearDiT
from linearsr.state_dicts import some

__all__ = [
    "DEFAULT_TARGETS",
    "LORA_SCHEMA_VERSION",
    "LoraInfo",
    "add_lora",
    "base_state_dict",
    "check_fit",
    "load_lora",
    "lora_state_dict",
    "merge_lora",
    "merged_state_dict",
    "save_lora",
]

LORA_SCHEMA_VERSION = 1
METADATA_KEY = "linearsr_lora"
_DOWN, _UP = ".lora_down", ".lora_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraInfo:
    """What a LoRA file says about itself."""

    rank: int
    alpha: float
    """The delta is scaled by alpha / rank."""
    experts: tuple[int, ...]
    """Experts it holds additions for, rising."""
    boundaries_log_snr: tuple[float, ...]
    """Of the model it was trained on, as `ExpertsConfig`."""
    model: ModelConfig
    """Shape of the network it was trained on."""
    training: dict[str, Any] = field(default_factory=dict)
    """Summary of the run that made it; free form."""
    schema_version: int = LORA_SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_rank(self.rank, self.alpha)
        known = range(len(self.boundaries_log_snr) + 1)
        if not self.experts or list(self.experts) != sorted(set(self.experts)) or not set(self.experts) <= set(known):
            raise ConfigError(f"experts is {list(self.experts)}, expected rising numbers from 0 to {known[-1]}")


def merge_lora(
    weights: Mapping[str, Tensor], lora: Mapping[str, Tensor], info: LoraInfo, weight: float = 1.0
) -> dict[str, Tensor]:
    """Add a LoRA to plain weights.

    Args:
        weights: state dict of a `LinearDiT`.
        lora: one expert's additions, from `lora_state_dict` or `load_lora`.
        info: gives alpha and rank.
        weight: how much of it; 0 is none, 1 as trained.

    Returns:
        All of `weights`; those with an addition as new float32 tensors.

    Raises:
        WeightsError: an addition for a layer that is not there, of another shape, or without its other half.
    """
    problems = _misfits({key: tuple(value.shape) for key, value in weights.items()}, lora, info.rank)
    if problems:
        raise WeightsError(f"the LoRA does not fit the network: {some(problems)}", hint="use the model it was made for")
    merged = dict(weights)
    for key in (key for key in lora if key.endswith(_DOWN)):
        module = key.removesuffix(_DOWN)
        base = weights[f"{module}.weight"].float()
        up, down = (lora[f"{module}{end}"].to(base.device, torch.float32) for end in (_UP, _DOWN))
        merged[f"{module}.weight"] = base + weight_delta(up, down, weight * (info.alpha / info.rank), base.shape)
    return merged


def _misfits(shapes: Mapping[str, tuple[int, ...]], lora: Mapping[str, Tensor], rank: int) -> list[str]:
    """What keeps a LoRA from being merged into weights of these shapes."""
    problems = []
    for module in sorted({key.removesuffix(_DOWN).removesuffix(_UP) for key in lora}):
        found = {end: tuple(lora[f"{module}{end}"].shape) for end in (_DOWN, _UP) if f"{module}{end}" in lora}
        shape = shapes.get(f"{module}.weight")
        if shape is None or len(shape) < 2 or not found:
            problems.append(f"{module} is no layer of it")
            continue
        expected = {_DOWN: (rank, math.prod(shape[1:])), _UP: (shape[0], rank)}
        for end, wanted in expected.items():
            if end not in found:
                problems.append(f"{module}{end} is missing")
            elif found[end] != wanted:
                problems.append(f"{module}{end} is {found[end]}, expected {wanted}")
    return problems


def check_fit(
    info: LoraInfo, model: ModelConfig, boundaries_log_snr: tuple[float, ...], *, lora: str, name: str
) -> None:
    """Refuse a LoRA that was made for another model.

    Args:
        info: of the LoRA.
        model, boundaries_log_snr: of the model it is to be merged into.
        lora, name: what the LoRA and the model are called, for the message.

    Raises:
        WeightsError: names both and what differs.
    """
    theirs, ours = asdict(info.model), asdict(model)
    differing = [f"{key} {theirs[key]} instead of {ours[key]}" for key in theirs if theirs[key] != ours[key]]
    if differing:
        raise WeightsError(
            f"LoRA {lora!r} was made for a network with {some(differing)}, so it does not fit model {name!r}",
            hint="use the model it was made for",
        )
    same = len(info.boundaries_log_snr) == len(boundaries_log_snr)
    if not same or not all(
        math.isclose(a, b, abs_tol=1e-6) for a, b in zip(info.boundaries_log_snr, boundaries_log_snr, strict=True)
    ):
        raise WeightsError(
            f"LoRA {lora!r} was made for experts cut at log-SNR {_numbers(info.boundaries_log_snr)}, "
            f"model {name!r} cuts at {_numbers(boundaries_log_snr)}",
            hint="use the model it was made for",
        )


def save_lora(path: Path, loras: Mapping[int, Mapping[str, Tensor]], info: LoraInfo) -> None:
    """Write the additions of one or more experts into one safetensors file, atomically; its folder must exist.

    Args:
        path: of the file.
        loras: by expert, from `lora_state_dict`; stored in their own precision under EXPERT.MODULE.lora_down.
        info: goes into the metadata.

    Raises:
        ConfigError: `loras` holds other experts than `info` says.
        ImageError: the disk is full or refuses the name.
    """
    if tuple(sorted(loras)) != info.experts:
        raise ConfigError(f"LoRA holds the experts {sorted(loras)}, expected {list(info.experts)} as its info says")
    tensors = {
        f"{expert}.{key}": value.detach().to("cpu", copy=True).contiguous()
        for expert, lora in loras.items()
        for key, value in lora.items()
    }
    # One entry alone: safetensors keeps no order of several, and equal additions should give equal bytes.
    write_bytes(path, save(tensors, metadata={METADATA_KEY: json.dumps(to_dict(info), sort_keys=True)}))


def load_lora(path: Path) -> tuple[LoraInfo, dict[int, dict[str, Tensor]]]:
    """Read a LoRA file, strictly.

    Returns:
        What it says about itself, and the additions by expert.

    Raises:
        WeightsError: no such file, no LoRA, one of a newer LinearSR, or additions that do not fit the network that it
            names (all listed).
    """
    if not path.is_file():
        what = "is a folder, expected a safetensors file" if path.is_dir() else "does not exist"
        raise WeightsError(f"LoRA {str(path)!r} {what}", hint="give the file that `linearsr finetune` wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"LoRA {str(path)!r} is not a safetensors file: {error}", hint="fetch it again") from error
    info = _read_info(path, metadata)
    loras: dict[int, dict[str, Tensor]] = {expert: {} for expert in info.experts}
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in LinearDiT(info.model).state_dict().items()}
    problems = []
    for key, value in tensors.items():
        number, _, rest = key.partition(".")
        if number.isdecimal() and int(number) in loras:
            loras[int(number)][rest] = value
        else:
            problems.append(f"{key} belongs to none of its experts {list(info.experts)}")
    for expert, lora in loras.items():
        found = _misfits(shapes, lora, info.rank) if lora else ["holds nothing"]
        problems += [f"expert {expert}: {problem}" for problem in found]
    if problems:
        raise WeightsError(f"LoRA {str(path)!r} is not whole: {some(problems)}", hint="fetch or make it again")
    return info, loras


def _read_info(path: Path, metadata: Mapping[str, str] | None) -> LoraInfo:
    text = None if metadata is None else metadata.get(METADATA_KEY)
    if text is None:
        raise WeightsError(
            f"{str(path)!r} is no LoRA of LinearSR: its metadata has no {METADATA_KEY!r}",
            hint="`--lora` takes what `linearsr finetune` wrote; a whole model goes to `--model`",
        )
    try:
        data = json.loads(text)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > LORA_SCHEMA_VERSION:  # before its new settings are called unknown
            raise ConfigError(
                f"schema_version is {version}, expected at most {LORA_SCHEMA_VERSION}",
                hint="update LinearSR with `pip install -U linearsr`",
            )
        return from_dict(LoraInfo, data)
    except ValueError as error:
        hint = error.hint if isinstance(error, LinearSRError) else "fetch or make it again"
        raise WeightsError(f"LoRA {str(path)!r}: {error}", hint=hint) from error


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values) if values else "nothing"
