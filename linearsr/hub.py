"""Where a model's files come from: inside the package, a folder, or the Hugging Face Hub.

Files are fetched one by one, when they are first needed: the config first, an expert when a step falls into its
interval. What is fetched is checked against the sizes and hashes of the config.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Protocol

import torch

from linearsr.checkpoint import CONFIG_NAME, LoadedLora, load_network, read_config, verify_file
from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub_repo import HubRepo, OnDownload, OnLicence, fetch_folder, is_hub_id, root_of, split_hub_id
from linearsr.model.lora import check_fit, load_lora
from linearsr.model.transformer import LinearDiT
from linearsr.presets import refuse_preset
from linearsr.tags.tagger import Tagger

__all__ = ["BUNDLED", "Model", "ModelSource", "find_model", "open_model"]

BUNDLED = "compact"
AGAIN = ("fetch the model again", "fetch it again")
"""Ends of the hints that `checkpoint` gives for damaged files."""


class ModelSource(Protocol):
    """Gives local paths of a model's files."""

    name: str

    def fetch(self, filename: str) -> Path:
        """Local path of one file, fetched if need be.

        Args:
            filename: as the config lists it, sub-folders separated by `/`.

        Raises:
            WeightsError: it cannot be had.
        """


class _Folder:
    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def fetch(self, filename: str) -> Path:
        return self.folder / filename


def find_model(
    model: str | Path, *, on_download: OnDownload | None = None, on_licence: OnLicence | None = None
) -> ModelSource:
    """Turn a model name into a source: `compact`, an existing folder, or `owner/name[@revision]` on the Hub.

    Args:
        model: the name.
        on_download, on_licence: as `open_model`.

    Raises:
        WeightsError: none of these.
    """
    text = str(model)
    if text == BUNDLED:
        return _Folder(Path(str(resources.files("linearsr") / "weights" / BUNDLED)), BUNDLED)
    path = Path(model)
    if path.exists():
        return _Folder(path, path.name)
    looks_local = isinstance(model, Path) or text.startswith((".", "/", "~")) or "\\" in text
    if not looks_local and is_hub_id(text):
        return HubRepo(*split_hub_id(text), on_download=on_download, on_licence=on_licence)
    refuse_preset(text)
    raise WeightsError(
        f"model {text!r} is neither {BUNDLED!r}, a folder, nor a Hub id such as owner/name",
        hint=f"use `--model {BUNDLED}`, or give a folder that holds {CONFIG_NAME}",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """An opened model: its config, and its parts when they are asked for."""

    source: ModelSource
    config: CheckpointConfig
    loras: tuple[LoadedLora, ...] = ()
    """A user's own, merged into each expert."""
    on_download: OnDownload | None = None
    on_licence: OnLicence | None = None
    _components: dict[str, Path] = field(default_factory=dict, repr=False, compare=False)
    """Folders that were found, so that the Hub is asked once for each."""

    def file(self, name: str) -> Path:
        """Local path of one file of the checkpoint, fetched and its hash found right, once in this process.

        Raises:
            WeightsError: it cannot be had, or the config does not list it, or it is damaged; says how to repair it.
        """
        if name not in self.config.files:
            raise WeightsError(f"{CONFIG_NAME} lists no size and hash for {name!r}", hint="fetch the model again")
        path = self.source.fetch(name)
        with _repair_hint(self.source):
            return verify_file(root_of(path, name), name, self.config.files[name])

    def component(self, source: str, *, what: str) -> Path:
        """Folder of a component that the config names, such as autoencoder or text encoder, with all it needs.

        Args:
            source: `./folder` of the checkpoint, a local folder, or a Hub id `owner/name[@revision]`.
            what: it is, for messages.

        Raises:
            WeightsError: no such component, or it cannot be had.
        """
        if source not in self._components:
            self._components[source] = self._find_component(source, what)
        return self._components[source]

    def _find_component(self, source: str, what: str) -> Path:
        if source.startswith("./"):
            return self._own_folder(source[2:].rstrip("/"), what)
        if Path(source).expanduser().is_dir():
            return Path(source).expanduser()
        if not is_hub_id(source):
            raise WeightsError(
                f"{what} {source!r} is neither a folder of the model (./folder), a local folder, nor a Hub id",
                hint=f"change it in {CONFIG_NAME} of model {self.source.name!r}",
            )
        repo, revision = split_hub_id(source)
        return fetch_folder(
            HubRepo(repo, revision, what=what, on_download=self.on_download, on_licence=self.on_licence)
        )

    def _own_folder(self, folder: str, what: str) -> Path:
        names = [name for name in self.config.files if name.startswith(f"{folder}/")]
        if not names:
            raise WeightsError(
                f"{what} './{folder}' of model {self.source.name!r} has no file in {CONFIG_NAME}",
                hint="fetch the model again",
            )
        roots = {root_of(self.file(name), name) for name in names}
        return roots.pop() / folder

    def load_expert(self, index: int, device: torch.device, dense_dtype: torch.dtype | None = None) -> LinearDiT:
        """One expert with LoRAs merged, on a device, its dense layers in `dense_dtype` (None: float32).

        Raises:
            WeightsError: its files cannot be had, or do not fit.
        """
        experts = self.config.experts
        for name in experts.loras[index : index + 1]:
            self.source.fetch(name)
        name = experts.files[index]
        folder = root_of(self.source.fetch(name), name)
        with _repair_hint(self.source):
            return load_network(folder, self.config, index, device, loras=self.loras, dense_dtype=dense_dtype)

    def load_tagger(self) -> Tagger | None:
        """The model's own tagger, if it has one.

        Raises:
            WeightsError: it cannot be had, or is not one.
        """
        name = self.config.tags.tagger
        if name is None:
            return None
        from linearsr.tags.compact import load_tagger

        return load_tagger(self.file(name), self.config.tags.vocabulary)


@contextmanager
def _repair_hint(source: ModelSource) -> Iterator[None]:
    """Say of damaged files of the Hub's cache how to get whole ones."""
    try:
        yield
    except WeightsError as error:
        if not isinstance(source, HubRepo) or error.hint is None or not error.hint.endswith(AGAIN):
            raise
        raise WeightsError(
            f"model {source.name!r}: {error.message}",
            hint=f"run `linearsr models verify {source.name} --repair`, or delete it from the cache",
        ) from error


def open_model(
    model: str | Path,
    loras: Sequence[tuple[str | Path, float]] = (),
    *,
    on_download: OnDownload | None = None,
    on_licence: OnLicence | None = None,
) -> Model:
    """Find a model and read its config; weights load later, but LoRA files are read and checked here.

    Args:
        model: as `find_model`.
        loras: path and weight of LoRA files for this model; 1 is as trained.
        on_download: called while a file comes from the Hub, with its name as `owner/name/file`, the bytes so far, and
            all its bytes where they are known. huggingface_hub's own bars are never drawn.
        on_licence: called with name and licence of the model, or of a component of another repository, once, before
            its first weights come over the network; what it raises stops the download.

    Raises:
        WeightsError: no such model or LoRA, or one that does not fit.
        ConfigError: a weight is no finite number.
    """
    source = find_model(model, on_download=on_download, on_licence=on_licence)
    path = source.fetch(CONFIG_NAME)
    with _repair_hint(source):
        config = read_config(path.parent)
    if isinstance(source, HubRepo):
        source.licence = config.licence
    opened = _read_loras(loras, config, source.name)
    return Model(source=source, config=config, loras=opened, on_download=on_download, on_licence=on_licence)


def _read_loras(
    loras: Sequence[tuple[str | Path, float]], config: CheckpointConfig, name: str
) -> tuple[LoadedLora, ...]:
    """Read LoRA files that a user wants merged into a model, and check that they are for this one.

    Args:
        loras: path and weight of each.
        config: of the model.
        name: of the model, for messages.

    Raises:
        WeightsError: as `load_lora` and `check_fit`.
        ConfigError: a weight is no finite number.
    """
    opened = []
    for path, weight in loras:
        if not math.isfinite(weight):
            raise ConfigError(f"weight of LoRA {str(path)!r} is {weight:g}, expected a finite number", hint="use 1")
        info, additions = load_lora(Path(path))
        check_fit(info, config.model, config.experts.boundaries_log_snr, lora=str(path), name=name)
        opened.append((info, additions, weight))
    return tuple(opened)
