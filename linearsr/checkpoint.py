"""A checkpoint folder: config.json, one safetensors file an expert, nothing pickled, everything strict.

`config.json` lists size and SHA-256 of every file, so a truncated download or a flipped byte is found before the
network is built. Weights may be stored as float16; they are used as float32 and cast by autocast.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linearsr.config import SCHEMA_VERSION, CheckpointConfig, FileEntry, ModelConfig, from_dict, to_dict
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.transformer import LinearDiT

__all__ = ["CONFIG_NAME", "load_network", "read_config", "save_checkpoint", "verify_file"]

CONFIG_NAME = "config.json"
PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl"}


def read_config(folder: Path) -> CheckpointConfig:
    """Read and check config.json of a checkpoint folder.

    Raises:
        WeightsError: no folder, no config, or one that does not fit the schema.
    """
    if folder.is_file():
        kind = "a pickle, which can run code when loaded" if folder.suffix in PICKLE_SUFFIXES else "a file"
        raise WeightsError(
            f"model {str(folder)!r} is {kind}, expected a folder with {CONFIG_NAME} and safetensors files",
            hint="give the folder, or a Hub id such as owner/name",
        )
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise WeightsError(
            f"model folder {str(folder)!r} has no {CONFIG_NAME}",
            hint="give a folder made by `linearsr train` (its export/), or `--model compact`",
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        version = data.get("schema_version") if isinstance(data, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:  # before its new settings are called unknown
            raise ConfigError(
                f"schema_version is {version}, expected at most {SCHEMA_VERSION}",
                hint="update LinearSR with `pip install -U linearsr`",
            )
        return from_dict(CheckpointConfig, data)
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:
        hint = error.hint if isinstance(error, ConfigError) else "the file is not valid JSON; fetch it again"
        raise WeightsError(f"{str(path)!r}: {error}", hint=hint) from error


def verify_file(folder: Path, name: str, entry: FileEntry) -> Path:
    """Check presence, size and hash of one file.

    Raises:
        WeightsError: missing, of another size, or of another hash.
    """
    path = folder / name
    if Path(name).name != name:
        raise WeightsError(f"config.json names the file {name!r}, expected a plain name inside the folder")
    if not path.is_file():
        raise WeightsError(f"weights file {name!r} is missing from {str(folder)!r}", hint="fetch the model again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise WeightsError(f"{name!r} has {size} bytes, expected {entry.bytes}", hint="fetch the model again")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror}", hint="check its permissions") from error
    if digest != entry.sha256:
        raise WeightsError(
            f"{name!r} has sha256 {digest[:12]}..., expected {entry.sha256[:12]}...",
            hint="the file was changed or damaged; fetch the model again",
        )
    return path


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name!r} is not a safetensors file: {error}", hint="fetch the model again") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def load_network(folder: Path, config: CheckpointConfig, index: int, device: torch.device | str = "cpu") -> LinearDiT:
    """Build one expert with its weights, strictly.

    Args:
        folder: checkpoint folder.
        config: from `read_config`.
        index: expert number.

    Raises:
        WeightsError: the file is missing, damaged, or a tensor is missing, extra or of another shape (all listed).
    """
    name = config.experts.files[index]
    if name not in config.files:
        raise WeightsError(f"config.json lists no size and hash for {name!r}", hint="fetch the model again")
    tensors = _read_tensors(verify_file(folder, name, config.files[name]))
    with torch.device("meta"):
        network = LinearDiT(config.model)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    wrong = [
        f"{key} is {tuple(tensors[key].shape)}, expected {expected[key]}"
        for key in sorted(expected.keys() & tensors.keys())
        if tuple(tensors[key].shape) != expected[key]
    ]
    problems = [
        *([f"missing {_some(missing)}"] if missing else []),
        *([f"extra {_some(extra)}"] if extra else []),
        *([_some(wrong)] if wrong else []),
    ]
    if problems:
        raise WeightsError(f"{name!r} does not fit the network: {'; '.join(problems)}", hint="fetch the model again")
    network.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _model_metadata(model: ModelConfig) -> dict[str, str]:
    return {"format": "pt", "linearsr_model": json.dumps(to_dict(model), sort_keys=True)}


def save_checkpoint(
    folder: Path, config: CheckpointConfig, experts: list[Mapping[str, Tensor]], *, dtype: torch.dtype = torch.float16
) -> CheckpointConfig:
    """Write weights and config.json; the config comes last, so a broken-off export is never taken for a whole one.

    All is written beside the old files first and renamed at the end, so that a full disk leaves them as they were.

    Args:
        folder: created if need be; files of the same names are replaced atomically.
        config: its `files` is filled in here.
        experts: state dict of each expert, expert 0 first.
        dtype: of the stored weights.

    Returns:
        The config as written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, FileEntry] = {}
    ready: dict[Path, Path] = {}
    for name, state in zip(config.experts.files, experts, strict=True):
        stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
        temporary = folder / f".{name}.tmp"
        save_file(stored, temporary, metadata=_model_metadata(config.model))
        files[name] = FileEntry(
            bytes=temporary.stat().st_size, sha256=hashlib.sha256(temporary.read_bytes()).hexdigest()
        )
        ready[temporary] = folder / name
    written = replace(config, files={**config.files, **files})
    temporary = folder / f".{CONFIG_NAME}.tmp"
    temporary.write_text(json.dumps(to_dict(written), indent=2) + "\n", encoding="utf-8")
    ready[temporary] = folder / CONFIG_NAME
    for temporary, target in ready.items():
        os.replace(temporary, target)
    return written
