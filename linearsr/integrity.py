"""Whether the files of a model are whole, and mending those in the Hub cache that are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from linearsr.catalogue import cached_folder, hub_address, local_folder
from linearsr.checkpoint import read_config
from linearsr.errors import ConfigError
from linearsr.hub import ModelSource
from linearsr.hub_repo import HubRepo, OnDownload, is_hub_id, split_hub_id
from linearsr.model_files import component_sources
from linearsr.model_folder import file_sha256

__all__ = ["FileCheck", "check_files", "repair_file"]

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileCheck:
    """What was found of one file."""

    name: str
    """In its folder."""
    folder: Path
    """Of the model, or of a cached commit."""
    repo: str | None
    """That the file can be fetched from again; None outside the cache."""
    part: str = ""
    """Repository of the component that the file belongs to; empty for the model itself."""
    bytes: int | None = None
    """As it must be; None where only the hash is known."""
    sha256: str = ""
    status: Literal["ok", "missing", "damaged"] = "ok"
    problem: str = ""

    @property
    def title(self) -> str:
        """Name for people, with the component's repository."""
        return "/".join(text for text in (self.part, self.name) if text)


def check_files(source: ModelSource) -> Iterator[FileCheck]:
    """Size and SHA-256 of each file that is here, one after another as they are read.

    First those that config.json lists, then weights of components in the Hub cache, which names them by their hash.

    Args:
        source: of the model.

    Raises:
        WeightsError: nothing of it is here, or it is no LinearSR model.
    """
    folder, address = local_folder(source), hub_address(source)
    config, repo = read_config(folder), None if address is None else address[0]
    for name, entry in config.files.items():
        yield _look(FileCheck(name=name, folder=folder, repo=repo, bytes=entry.bytes, sha256=entry.sha256))
    for place in component_sources(config).values():
        if is_hub_id(place) and not place.startswith("./") and not Path(place).is_dir():
            yield from _check_component(*split_hub_id(place))


def _check_component(repo: str, revision: str | None) -> Iterator[FileCheck]:
    folder = cached_folder(repo, revision)
    if folder is None:
        yield FileCheck(name="", folder=Path(), repo=repo, part=repo, status="missing")
        return
    for path in sorted(folder.rglob("*")):
        digest = path.readlink().name if path.is_symlink() else ""
        if SHA256.fullmatch(digest):  # small files go by another hash
            name = path.relative_to(folder).as_posix()
            yield _look(FileCheck(name=name, folder=folder, repo=repo, part=repo, sha256=digest))


def _look(check: FileCheck) -> FileCheck:
    """The check with what is on the disk now."""
    path = check.folder / check.name
    if not path.is_file():
        return replace(check, status="missing", problem="")
    size = path.stat().st_size
    if check.bytes is not None and size != check.bytes:
        return replace(check, status="damaged", problem=f"{size} bytes, expected {check.bytes}")
    digest = file_sha256(path)
    if digest != check.sha256:
        return replace(check, status="damaged", problem=f"sha256 {digest[:12]}..., expected {check.sha256[:12]}...")
    return replace(check, status="ok", problem="")


def repair_file(check: FileCheck, *, on_download: OnDownload | None = None) -> FileCheck:
    """Delete a damaged file of the Hub cache and fetch it again, at the commit it belongs to.

    Args:
        check: that found it.
        on_download: as `open_model`.

    Returns:
        What the file is now.

    Raises:
        ConfigError: it is not from the Hub.
        WeightsError: it cannot be had.
    """
    if check.repo is None:
        raise ConfigError(
            f"{check.name!r} of {str(check.folder)!r} is not in the Hub cache, so it cannot be fetched again",
            hint="copy the model again, by `linearsr models download MODEL --to FOLDER` or by `pip install linearsr`",
        )
    _delete_cached(check.folder / check.name)
    HubRepo(check.repo, check.folder.name, on_download=on_download).fetch(check.name)
    return _look(check)


def _delete_cached(path: Path) -> None:
    """Delete a link of a snapshot and what it leads to; the cache keeps the bytes in a blob, named by their hash."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
