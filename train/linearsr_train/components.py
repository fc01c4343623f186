"""Frozen parts beside the network: autoencoder and text encoder, where a run finds them and how its export names them.

What comes from the Hub is named by its id in the export, so that it is neither stored nor uploaded again. What lies in
a folder is copied into the export, which is then whole by itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from linearsr.atomic import atomic_file
from linearsr.config import FileEntry
from linearsr.errors import WeightsError
from linearsr.hub import open_model
from linearsr.hub_repo import FOLDER_SUFFIXES, HubRepo, fetch_folder, is_hub_id, split_hub_id
from linearsr.model_files import component_sources
from linearsr.model_folder import file_entry
from linearsr_train.config import TrainConfig

__all__ = ["Components", "find_components"]

WHAT = {"autoencoder": "autoencoder", "decoder": "autoencoder.decoder", "text_encoder": "text encoder"}
"""Sub-folder of an export -> what messages call it."""


@dataclass(slots=True)
class Components:
    """Folders of the parts, by the sub-folder that an export has them in."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    """How the export's config names them: a Hub id, or `./` and the sub-folder."""
    _entries: dict[str, FileEntry] | None = None

    def _own(self) -> dict[str, Path]:
        """Files to copy, by their name in the export."""
        return {
            f"{name}/{path.relative_to(folder).as_posix()}": path
            for name, folder in self.folders.items()
            if self.sources[name].startswith("./")
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix in FOLDER_SUFFIXES
        }

    def copy_into(self, export: Path) -> dict[str, FileEntry]:
        """Copy what the export is to carry, unless it is there; gives sizes and hashes for its config.

        Raises:
            ImageError, WeightsError: the disk is full, or a file cannot be read.
        """
        files = self._own()
        if self._entries is None:
            self._entries = {name: file_entry(path) for name, path in files.items()}
        for name, path in files.items():
            target = export / name
            if target.is_file() and target.stat().st_size == self._entries[name].bytes:
                continue  # only whole files get their name
            target.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, atomic_file(target) as copy:
                shutil.copyfileobj(source, copy)
        return self._entries


def find_components(config: TrainConfig) -> Components:
    """Find the frozen parts of a run, fetched if need be.

    A folder that the recipe names is used; else those of the model that the run starts from, which its network was
    trained with; else the recipe's Hub ids.

    Raises:
        WeightsError: a part cannot be had.
    """
    if config.autoencoder.kind == "pixel":
        return Components()
    recipe = {
        "autoencoder": config.autoencoder.source,
        "decoder": config.autoencoder.decoder,
        "text_encoder": config.tags.encoder,
    }
    start = open_model(config.init) if config.init else None
    theirs = {} if start is None else component_sources(start.config)
    folders, sources = {}, {}
    for name, what in WHAT.items():
        source = recipe[name] if _is_local(recipe[name]) else theirs.get(name, recipe[name])
        if not source:
            continue
        if start is not None and source == theirs.get(name):
            folders[name] = start.component(source, what=what)
        else:
            folders[name] = _find(source, what)
        sources[name] = source if _is_hub(source) else f"./{name}"
    return Components(folders, sources)


def _is_local(source: str) -> bool:
    """Whether it is a folder of this machine; `./` is one of a model's."""
    return bool(source) and not source.startswith("./") and Path(source).expanduser().is_dir()


def _is_hub(source: str) -> bool:
    return not source.startswith("./") and not _is_local(source) and is_hub_id(source)


def _find(source: str, what: str) -> Path:
    if _is_local(source):
        return Path(source).expanduser()
    if not _is_hub(source):
        raise WeightsError(
            f"{what} {source!r} is neither a folder nor a Hub id, expected one of them in the recipe",
            hint="`./folder` is of the model given with `--init`, which has none of this name",
        )
    repo, revision = split_hub_id(source)
    return fetch_folder(HubRepo(repo, revision, what=what))
