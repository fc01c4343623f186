"""A checkpoint folder: config.json, safetensors files of experts, LoRAs and tagger; no pickles, everything strict.

`config.json` lists size and SHA-256 of every file, so a truncated download or a flipped byte is found before the
network is built. Weights may be stored as float16; they are used as float32 and cast by autocast.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from linearsr.config import (
    SCHEMA_VERSION,
    CheckpointConfig,
    FileEntry,
    ModelConfig,
    check_file_name,
    from_dict,
    to_dict,
)
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.lora import LoraInfo, check_fit, load_lora, merge_lora
from linearsr.model.transformer import LinearDiT
from linearsr.model_folder import PICKLE_SUFFIXES, file_entry, file_sha256
from linearsr.state_dicts import some, tensor_problems

__all__ = [
    "CONFIG_NAME",
    "LoadedLora",
    "checked_file",
    "load_network",
    "read_config",
    "save_checkpoint",
    "verify_file",
]

CONFIG_NAME = "config.json"
_verified: set[tuple[Path, int, int, str]] = set()
"""Files whose hash was right: path, time of change, size, hash. An expert may be loaded again for every picture."""
LoadedLora = tuple[LoraInfo, Mapping[int, Mapping[str, Tensor]], float]
"""What `load_lora` gave, and how much of it to add: 1 as trained."""


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
        sana = (folder / "transformer").is_dir()  # diffusers' layout
        raise WeightsError(
            f"model folder {str(folder)!r} has no {CONFIG_NAME}",
            hint=f"if it holds SANA, run `linearsr models convert --from-sana {folder} -o OUT`"
            if sana
            else "give a folder made by `linearsr train` (its export/), or `--model compact`",
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
    """Check presence, size and hash of one file; a hash is formed once in a process while the file does not change.

    Raises:
        WeightsError: missing, of another size, or of another hash.
    """
    try:
        path = folder / check_file_name(name)
    except ConfigError as error:
        raise WeightsError(error.message, hint=error.hint) from error
    if not path.is_file():
        raise WeightsError(f"weights file {name!r} is missing from {str(folder)!r}", hint="fetch the model again")
    state = path.stat()
    size, key = state.st_size, (path, state.st_mtime_ns, state.st_size, entry.sha256)
    if key in _verified:
        return path
    if size != entry.bytes:
        raise WeightsError(f"{name!r} has {size} bytes, expected {entry.bytes}", hint="fetch the model again")
    digest = file_sha256(path)
    if digest != entry.sha256:
        raise WeightsError(
            f"{name!r} has sha256 {digest[:12]}..., expected {entry.sha256[:12]}...",
            hint="the file was changed or damaged; fetch the model again",
        )
    _verified.add(key)
    return path


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name!r} is not a safetensors file: {error}", hint="fetch the model again") from error


def checked_file(folder: Path, config: CheckpointConfig, name: str) -> Path:
    """Path of a file that the config names, after `verify_file`.

    Raises:
        WeightsError: as `verify_file`, or the config says neither size nor hash.
    """
    if name not in config.files:
        raise WeightsError(f"config.json lists no size and hash for {name!r}", hint="fetch the model again")
    return verify_file(folder, name, config.files[name])


def load_network(
    folder: Path,
    config: CheckpointConfig,
    index: int,
    device: torch.device | str = "cpu",
    *,
    loras: Sequence[LoadedLora] = (),
    dense_dtype: torch.dtype | None = None,
) -> LinearDiT:
    """Build one expert with its weights, strictly, LoRAs merged.

    Args:
        folder: checkpoint folder.
        config: from `read_config`.
        index: expert number.
        device: that the network is put on.
        loras: merged after the checkpoint's own, in this order; those without this expert change nothing.
        dense_dtype: as `LinearDiT.cast_dense_`, without a float32 copy in between; None leaves all in float32.

    Raises:
        WeightsError: a file is missing, damaged, or a tensor is missing, extra or of another shape (all listed).
    """
    name = config.experts.files[index]
    tensors: Mapping[str, Tensor] = _read_tensors(checked_file(folder, config, name))
    with torch.device("meta"):
        network = LinearDiT(config.model)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if problems := tensor_problems(expected, {key: tuple(value.shape) for key, value in tensors.items()}):
        raise WeightsError(f"{name!r} does not fit the network: {problems}", hint="fetch the model again")
    own = [_own_lora(folder, config, index)] if config.experts.loras else []
    for info, additions, weight in (*own, *loras):
        tensors = merge_lora(tensors, additions[index], info, weight) if index in additions else tensors
    if dense_dtype is not None:
        network.cast_dense_(dense_dtype)
    dtypes = {key: value.dtype for key, value in network.state_dict().items()}
    network.load_state_dict({key: value.to(dtypes[key]) for key, value in tensors.items()}, strict=True, assign=True)
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _own_lora(folder: Path, config: CheckpointConfig, index: int) -> LoadedLora:
    """The LoRA that the checkpoint keeps apart from an expert's weights."""
    name = config.experts.loras[index]
    info, additions = load_lora(checked_file(folder, config, name))
    check_fit(info, config.model, config.experts.boundaries_log_snr, lora=name, name=folder.name)
    if index not in additions:
        raise WeightsError(
            f"{name!r} holds a LoRA of the experts {list(info.experts)}, expected one of expert {index}",
            hint="fetch the model again",
        )
    return info, additions, 1.0


def _model_metadata(model: ModelConfig) -> dict[str, str]:
    # One entry: safetensors writes several in a random order, and equal exports shall be equal files.
    return {"linearsr_model": json.dumps(to_dict(model), sort_keys=True)}


def save_checkpoint(
    folder: Path,
    config: CheckpointConfig,
    experts: list[Mapping[str, Tensor]],
    *,
    dtype: torch.dtype = torch.float16,
    extra: Mapping[str, Path] | None = None,
) -> CheckpointConfig:
    """Write weights and config.json; the config comes last, so a broken-off export is never taken for a whole one.

    All is written beside the old files first and renamed at the end, so that a full disk leaves them as they were.

    Args:
        folder: created if need be; files of the same names are replaced atomically.
        config: its `files` is filled in here.
        experts: state dict of each expert, expert 0 first; equal where the config names one file several times.
        dtype: of the stored weights.
        extra: ready-made files to copy into the folder, by the name they get: tagger and LoRAs.

    Returns:
        The config as written.

    Raises:
        ConfigError: the config names a file that is not given, or experts of one file differ.
    """
    extra = {} if extra is None else extra
    states = _states_by_file(config, experts)
    _check_names(config, states, extra)
    folder.mkdir(parents=True, exist_ok=True)
    for name, state in states.items():
        stored = {key: value.detach().to("cpu", dtype).contiguous() for key, value in state.items()}
        # Not save_file, whose files none but their owner may read.
        (folder / f".{name}.tmp").write_bytes(save(stored, metadata=_model_metadata(config.model)))
    for name, source in extra.items():
        shutil.copyfile(source, folder / f".{name}.tmp")
    names = (*states, *extra)
    written = replace(config, files={**config.files, **{name: file_entry(folder / f".{name}.tmp") for name in names}})
    (folder / f".{CONFIG_NAME}.tmp").write_text(json.dumps(to_dict(written), indent=2) + "\n", encoding="utf-8")
    for name in (*names, CONFIG_NAME):
        os.replace(folder / f".{name}.tmp", folder / name)
    return written


def _states_by_file(config: CheckpointConfig, experts: list[Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Weights by the file that holds them, each file once."""
    states: dict[str, Mapping[str, Tensor]] = {}
    for name, state in zip(config.experts.files, experts, strict=True):
        first = states.setdefault(name, state)
        same = first.keys() == state.keys() and all(torch.equal(first[key], state[key]) for key in first)
        if first is not state and not same:
            raise ConfigError(f"experts.files names {name!r} for experts of different weights, expected equal ones")
    return states


def _check_names(config: CheckpointConfig, states: Mapping[str, object], extra: Mapping[str, Path]) -> None:
    """Refuse files that would replace one another, and a config that names one that is not there."""
    for name in extra:
        if name in states or name == CONFIG_NAME or Path(name).name != name:
            raise ConfigError(f"extra file is named {name!r}, expected a plain name that no other file has")
    tagger = config.tags.tagger if config.tags.kind == "closed" else None  # of text tags it is no file
    named = (*config.experts.loras, *(() if tagger is None else (tagger,)))
    missing = [name for name in named if name not in extra and name not in config.files]
    if missing:
        raise ConfigError(f"the config names {some(missing)}, expected each among the extra files")
