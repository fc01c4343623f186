"""Where SANA weights lie on a disk: diffusers' folders and NVlabs' files, read without unpickling anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from linearsr.config import ModelConfig, check_file_name
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.sana_config import model_config_from_diffusers
from linearsr.model_folder import PICKLE_SUFFIXES, read_json
from linearsr.state_dicts import some

__all__ = ["SanaFiles", "find_sana", "read_sana"]

_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model"
_FETCH = "fetch the model again"


@dataclass(frozen=True, kw_only=True, slots=True)
class SanaFiles:
    """What was found, before any tensor is read."""

    origin: str
    """Names of folder and file, without this machine's path."""
    files: tuple[Path, ...]
    keys: Mapping[str, str] | None
    """Tensor -> file name of an index; None without one."""
    model: ModelConfig | None
    """Of config.json; None for an NVlabs file, which has none."""


def find_sana(source: Path) -> SanaFiles:
    """Find the weights and read their config, no tensor yet.

    Args:
        source: a diffusers pipeline folder, its `transformer` folder, or a safetensors file with NVlabs names or the
            folder around it.

    Raises:
        WeightsError: nothing there, files are missing, a pickle, or a config that is not run here.
    """
    if not source.exists():
        raise WeightsError(f"{str(source)!r} does not exist", hint="give a diffusers folder of SANA")
    if source.is_file():
        if source.suffix.lower() != ".safetensors":
            raise _no_safetensors(source)
        return SanaFiles(origin=source.name, files=(source,), keys=None, model=None)
    for folder in (source / "transformer", source):
        if (folder / _CONFIG).is_file():
            return _find_diffusers(folder, source.absolute().name)
    return _find_nvlabs(source)


def _find_nvlabs(source: Path) -> SanaFiles:
    """One safetensors file in a folder without config, or where NVlabs' repositories have theirs."""
    files = [path for folder in (source, source / "checkpoints") for path in sorted(folder.glob("*.safetensors"))]
    if len(files) == 1:
        return SanaFiles(origin=f"{source.absolute().name}/{files[0].name}", files=tuple(files), keys=None, model=None)
    if files:
        raise WeightsError(
            f"{str(source)!r} holds {len(files)} safetensors files and no {_CONFIG}, expected one file",
            hint="give the file itself",
        )
    _refuse_pickles(source, source / "checkpoints")
    raise WeightsError(
        f"{str(source)!r} holds neither transformer/{_CONFIG} nor a safetensors file, expected SANA weights",
        hint="give a diffusers folder of SANA, such as Efficient-Large-Model/Sana_600M_1024px_diffusers",
    )


def _refuse_pickles(*folders: Path) -> None:
    for path in (path for folder in folders for path in sorted(folder.glob("*"))):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise _no_safetensors(path)


def _no_safetensors(path: Path) -> WeightsError:
    kind = "a pickle, which can run code when loaded" if path.suffix.lower() in PICKLE_SUFFIXES else "another file"
    return WeightsError(
        f"{str(path)!r} is {kind}, expected safetensors",
        hint="take the same model in diffusers' format, or write the file's `state_dict`, read by "
        "`torch.load(..., weights_only=True)`, with `safetensors.torch.save_file`",
    )


def _find_diffusers(folder: Path, origin: str) -> SanaFiles:
    data = read_json(folder / _CONFIG, hint=_FETCH)
    if "schema_version" in data:
        raise WeightsError(f"{str(folder)!r} is a LinearSR checkpoint already", hint="use it as it is")
    model = model_config_from_diffusers(data)
    for variant in ("", ".fp16", ".bf16"):  # the most precise first
        single = folder / f"{_WEIGHTS}{variant}.safetensors"
        if single.is_file():
            return SanaFiles(origin=origin, files=(single,), keys=None, model=model)
        index = folder / f"{_WEIGHTS}.safetensors.index{variant}.json"
        if index.is_file():
            keys = _read_index(index)
            files = tuple(folder / name for name in sorted(set(keys.values())))
            if missing := [path.name for path in files if not path.is_file()]:
                raise WeightsError(f"{some(missing)} are missing from {str(folder)!r}", hint=_FETCH)
            return SanaFiles(origin=origin, files=files, keys=keys, model=model)
    _refuse_pickles(folder)
    raise WeightsError(f"{str(folder)!r} has no {_WEIGHTS}.safetensors, expected the weights there", hint=_FETCH)


def _read_index(path: Path) -> dict[str, str]:
    keys = read_json(path, hint=_FETCH).get("weight_map")
    if not isinstance(keys, dict) or not keys or not all(isinstance(name, str) for name in keys.values()):
        raise WeightsError(f"{str(path)!r} has no weight_map, expected the file of each tensor", hint=_FETCH)
    try:
        return {key: check_file_name(name) for key, name in keys.items()}
    except ConfigError as error:
        raise WeightsError(f"{str(path)!r}: {error.message}", hint=error.hint) from error


def read_sana(found: SanaFiles) -> dict[str, Tensor]:
    """All tensors of the files, under the names they have there.

    Raises:
        WeightsError: a file is damaged, or lacks a tensor that the index promises.
    """
    state: dict[str, Tensor] = {}
    for path in found.files:
        try:
            with safe_open(path, framework="pt") as file:
                state.update((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{str(path)!r} is not a safetensors file: {error}", hint=_FETCH) from error
    if found.keys is not None and (lost := sorted(found.keys.keys() - state.keys())):
        raise WeightsError(f"the index of {found.origin!r} lists {some(lost)}, which no file holds", hint=_FETCH)
    return state
