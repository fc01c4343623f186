"""A whole copy of a model in a plain folder, its autoencoder, text encoder and tagger included, for use offline.

Every file is written under another name, hashed on the way and renamed, and config.json comes last; so a copy that was
broken off is never taken for a whole one, and the same call again only copies what is missing or wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from linearsr.atomic import atomic_file, write_bytes
from linearsr.catalogue import hub_address, local_folder
from linearsr.checkpoint import CONFIG_NAME, read_config, verify_file
from linearsr.config import CheckpointConfig, FileEntry, to_dict
from linearsr.errors import ConfigError, ImageError, WeightsError
from linearsr.hub import Model
from linearsr.hub_repo import FOLDER_SUFFIXES, HubRepo
from linearsr.model_files import component_sources, wanted_files

__all__ = ["DOCUMENTS", "CopyResult", "copy_model", "with_sources"]

DOCUMENTS = ("README.md", "MODEL_CARD.md", "LICENSE", "LICENSE-WEIGHTS.md", "ATTRIBUTION.md", "NOTICE")
"""What may lie beside the weights without being listed in config.json; licences ask that they go along."""
ORIGIN = "copied_from"
"""Key of the config's free-form `training` section under which a copy says where it is from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyResult:
    """What one call of `copy_model` did."""

    folder: Path
    copied: tuple[str, ...]
    kept: tuple[str, ...]
    """Already whole in the folder."""


def with_sources(config: CheckpointConfig, sources: Mapping[str, str]) -> CheckpointConfig:
    """The config with the sources of components changed; names as in `component_sources`, others stay."""
    old = component_sources(config)
    new = {**old, **{name: source for name, source in sources.items() if name in old}}
    autoencoder = replace(
        config.autoencoder, source=new.get("autoencoder", ""), decoder=new.get("decoder", config.autoencoder.decoder)
    )
    tags = config.tags
    if "text_encoder" in new:
        tags = replace(tags, encoder=new["text_encoder"])
    if "tagger" in new and tags.tagger is not None:
        tags = replace(tags, tagger=f"{tags.tagger.partition(':')[0]}:{new['tagger']}")
    return replace(config, autoencoder=autoencoder, tags=tags)


def copy_model(
    model: Model,
    folder: Path,
    *,
    experts: Collection[int] | None = None,
    components: bool = True,
) -> CopyResult:
    """Copy a model into a plain folder that `--model` takes.

    Args:
        model: as `open_model` gives it; what is not here is fetched.
        folder: created if need be. What is whole there stays; experts copied before and not asked for now stay too.
        experts: numbers to copy; None for all.
        components: also copy what the config names by Hub id or folder, into sub-folders, and point the config there.
            Without them the copy still needs the Hub, or its cache.

    Raises:
        ConfigError: the folder holds something else, or there is no such expert.
        WeightsError: a file cannot be had or is damaged.
        ImageError: the disk is full, or refuses the name.
    """
    before = _earlier_copy(model, folder)
    copy = _Copy(folder)
    for name in wanted_files(model.config, experts):
        copy.take(name, model.config.files[name], partial(model.source.fetch, name))
    files, sources = dict(model.config.files), {}
    outside = {n: s for n, s in component_sources(model.config).items() if not s.startswith("./")} if components else {}
    for name, source in outside.items():
        listed = _kept_component(before, folder, name, source)
        if listed is None:
            listed = copy.take_component(name, model.component(source, what=name))
        else:
            copy.kept += listed
        files |= listed
        sources[name] = f"./{name}"
    _copy_documents(model, folder)
    name, revision = _origin(model)
    origin = {"model": name, "revision": revision, **outside}
    written = with_sources(model.config, sources)
    written = replace(written, files=files, training={**model.config.training, ORIGIN: origin})
    write_bytes(folder / CONFIG_NAME, (json.dumps(to_dict(written), indent=2) + "\n").encode())
    return CopyResult(folder=folder, copied=tuple(copy.copied), kept=tuple(copy.kept))


class _Copy:
    """One copy under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copied: list[str] = []
        self.kept: list[str] = []

    def take(self, name: str, entry: FileEntry | None, fetch: Callable[[], Path]) -> FileEntry:
        """Copy one file unless it is whole in the folder.

        Args:
            name: in the folder.
            entry: size and hash it must have; None where nobody states them.
            fetch: gives the file to copy.

        Returns:
            Size and hash of what is in the folder now.
        """
        target = self.folder / name
        if entry is None and target.is_file():
            entry = _entry(fetch())
        if entry is not None and _is_whole(self.folder, name, entry):
            self.kept.append(name)
            return entry
        source = fetch()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(
                f"the folder {str(target.parent)!r} cannot be made: {error.strerror}", hint="choose another folder"
            ) from error
        with atomic_file(target) as stream:
            written = _copy_hashed(source, stream)
            if entry is not None and written != entry:
                raise WeightsError(
                    f"{name!r} has {written.bytes} bytes and sha256 {written.sha256[:12]}..., expected {entry.bytes} "
                    f"and {entry.sha256[:12]}...",
                    hint="fetch or copy the model again; `linearsr models verify ID --repair` mends the Hub cache",
                )
        self.copied.append(name)
        return written

    def take_component(self, name: str, source: Path) -> dict[str, FileEntry]:
        """Copy settings, tokenizer and weights of a component's folder; gives their sizes and hashes."""
        listed = {}
        for path in sorted(source.iterdir()):
            if path.is_file() and path.suffix in FOLDER_SUFFIXES and not path.name.startswith("."):
                target = f"{name}/{path.name}"
                listed[target] = self.take(target, None, partial(Path, path))
        return listed


def _copy_hashed(source: Path, stream: BinaryIO | None) -> FileEntry:
    """Copy a file into a stream, or only read it; gives its size and hash."""
    digest, size = hashlib.sha256(), 0
    try:
        file = source.open("rb")
    except OSError as error:
        raise WeightsError(f"{str(source)!r} cannot be read: {error.strerror}", hint="fetch the model again") from error
    with file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
            if stream is not None:
                stream.write(block)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _entry(path: Path) -> FileEntry:
    return _copy_hashed(path, None)


def _is_whole(folder: Path, name: str, entry: FileEntry) -> bool:
    try:
        verify_file(folder, name, entry)
    except WeightsError:
        return False
    return True


def _origin(model: Model) -> tuple[str, str | None]:
    """Name and commit of a model as a copy of it tells them; no path of this machine."""
    address = hub_address(model.source)
    return (model.source.name, None) if address is None else address


def _earlier_copy(model: Model, folder: Path) -> CheckpointConfig | None:
    """Config of a copy of the same model in the folder; None where there is none yet.

    Raises:
        ConfigError: the folder is a file, or holds another model, which must not be overwritten.
    """
    hint = "give a new folder"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to is {str(folder)!r}, which is a file, expected a folder", hint=hint)
    if not (folder / CONFIG_NAME).exists():
        return None
    try:
        before = read_config(folder)
    except WeightsError as error:
        raise ConfigError(f"--to is {str(folder)!r}, which holds something else: {error.message}", hint=hint) from error
    name, _ = _origin(model)
    origin = before.training.get(ORIGIN)
    found = origin.get("model") if isinstance(origin, dict) else None
    if found != name:
        told = "a model that was not copied there" if found is None else f"a copy of {found!r}"
        raise ConfigError(f"--to is {str(folder)!r}, which holds {told}, expected a copy of {name!r}", hint=hint)
    return before


def _kept_component(
    before: CheckpointConfig | None, folder: Path, name: str, source: str
) -> dict[str, FileEntry] | None:
    """Files of a component that an earlier call copied from the same place, if all are whole."""
    origin = None if before is None else before.training.get(ORIGIN)
    if before is None or not isinstance(origin, dict) or origin.get(name) != source:
        return None
    listed = {file: entry for file, entry in before.files.items() if file.startswith(f"{name}/")}
    return listed if listed and all(_is_whole(folder, *item) for item in listed.items()) else None


def _copy_documents(model: Model, folder: Path) -> None:
    """Copy card and licence texts as far as there are any; weights work without them."""
    with contextlib.suppress(WeightsError):
        names: Collection[str] = DOCUMENTS
        if isinstance(model.source, HubRepo):
            names = set(DOCUMENTS).intersection(model.source.listing(local_folder(model.source)))
        for name in names:
            path = model.source.fetch(name)
            if path.is_file():
                write_bytes(folder / name, path.read_bytes())
