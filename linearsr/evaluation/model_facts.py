"""Settings that say which weights of a model compute, and where; its name in a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import linearsr
from linearsr.catalogue import cached_folder, hub_address
from linearsr.checkpoint import CONFIG_NAME
from linearsr.evaluation.cache import key_of
from linearsr.hub_repo import is_hub_id, split_hub_id
from linearsr.model_files import component_sources
from linearsr.model_folder import file_sha256

if TYPE_CHECKING:
    from linearsr.pipeline import Upscaler

__all__ = ["model_facts", "model_title"]

_DTYPES = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def model_title(model: str | Path) -> str:
    """Last part of a model's name, or of its folder."""
    return Path(model).resolve().name if Path(model).exists() else Path(model).name


def model_facts(upscaler: Upscaler, title: str) -> dict[str, Any]:
    """Settings of all that is made with a model; equal ones mean equal weights, and equal order of sums.

    Args:
        upscaler: the model.
        title: its name where it has no address on the Hub.

    Raises:
        WeightsError: a file of it cannot be read.
    """
    source = upscaler.model.source
    address = hub_address(source)
    outside = {
        name: _version_of(component)
        for name, component in component_sources(upscaler.config).items()
        if not component.startswith("./")  # those lie in the checkpoint, whose config.json has digests of its files
    }
    return {
        "model": title if address is None else address[0],
        "revision": None if address is None else address[1],
        "config_sha256": file_sha256(source.fetch(CONFIG_NAME)),
        **outside,
        "device": upscaler.device.type,
        "dtype": _DTYPES[upscaler.engine.dtype],
        "threads": torch.get_num_threads(),
        "linearsr": linearsr.__version__,
    }


def _version_of(source: str) -> str:
    """Digest of a folder's files, or id and commit on the Hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return key_of({path.relative_to(folder).as_posix(): file_sha256(path) for path in files})
    cached = cached_folder(*split_hub_id(source)) if is_hub_id(source) else None
    return source if cached is None else f"{source.partition('@')[0]} {cached.name}"
