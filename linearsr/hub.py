"""Where a model's files come from: inside the package, a folder, or the Hugging Face Hub.

Files are fetched one by one, when they are first needed: the config first, an expert when a step falls into its
interval. Hub access honours `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`, which huggingface_hub reads at
import; it is imported only when a Hub id is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import torch

from linearsr.checkpoint import CONFIG_NAME, LoadedLora, checked_file, load_network, read_config
from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.lora import check_fit, load_lora
from linearsr.model.transformer import LinearDiT
from linearsr.tags.tagger import Tagger

__all__ = ["BUNDLED", "Model", "ModelSource", "find_model", "open_model"]

BUNDLED = "compact"
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class ModelSource(Protocol):
    """Gives local paths of a model's files."""

    name: str

    def fetch(self, filename: str) -> Path:
        """Local path of one file, fetched if need be.

        Raises:
            WeightsError: it cannot be had.
        """


class _Folder:
    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def fetch(self, filename: str) -> Path:
        return self.folder / filename


class _HubRepo:
    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo, self.revision = repo, revision
        self.name = repo if revision is None else f"{repo}@{revision}"

    def fetch(self, filename: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if Path(filename).name != filename:
            raise WeightsError(f"{self.name}: file name {filename!r} leaves the repository's folder, refused")
        try:
            path = Path(hf_hub_download(self.repo, filename, revision=self.revision))
        except GatedRepoError as error:
            raise WeightsError(
                f"model {self.name!r} needs its licence accepted first",
                hint="accept it on the model's page, then set HF_TOKEN or run `hf auth login`",
            ) from error
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise WeightsError(f"model {self.name!r} does not exist on the Hub", hint="check the id") from error
        except LocalEntryNotFoundError as error:
            raise WeightsError(
                f"{filename!r} of model {self.name!r} is not cached and the Hub cannot be reached",
                hint="connect once, or use `--model compact`, which needs no network",
            ) from error
        except EntryNotFoundError as error:
            raise WeightsError(
                f"model {self.name!r} has no file {filename!r}", hint="is it a LinearSR model?"
            ) from error
        except HFValidationError as error:
            raise WeightsError(f"model {self.name!r} is no valid Hub id: {error}", hint="check the id") from error
        except Exception as error:  # transport errors have other types in other versions of huggingface_hub
            raise WeightsError(f"fetching {filename!r} of {self.name!r} failed: {error}", hint="try again") from error
        if COMMIT.fullmatch(path.parent.name):  # all files of one model come from one commit
            self.revision = path.parent.name
        return path


def find_model(model: str | Path) -> ModelSource:
    """Turn a model name into a source: `compact`, an existing folder, or `owner/name[@revision]` on the Hub.

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
    if not looks_local and HUB_ID.fullmatch(text):
        repo, _, revision = text.partition("@")
        return _HubRepo(repo, revision if revision else None)
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

    def load_expert(self, index: int, device: torch.device) -> LinearDiT:
        """One expert with LoRAs merged, on a device.

        Raises:
            WeightsError: its files cannot be had, or do not fit.
        """
        experts = self.config.experts
        for name in experts.loras[index : index + 1]:
            self.source.fetch(name)
        path = self.source.fetch(experts.files[index])
        return load_network(path.parent, self.config, index, device, loras=self.loras)

    def load_tagger(self) -> Tagger | None:
        """The model's own tagger, if it has one.

        Raises:
            WeightsError: it cannot be had, or is not one.
        """
        name = self.config.tags.tagger
        if name is None:
            return None
        from linearsr.tags.compact import load_tagger

        path = checked_file(self.source.fetch(name).parent, self.config, name)
        return load_tagger(path, self.config.tags.vocabulary)


def open_model(model: str | Path, loras: Sequence[tuple[str | Path, float]] = ()) -> Model:
    """Find a model and read its config; weights load later, but LoRA files are read and checked here.

    Args:
        model: as `find_model`.
        loras: path and weight of LoRA files for this model; 1 is as trained.

    Raises:
        WeightsError: no such model or LoRA, or one that does not fit.
        ConfigError: a weight is no finite number.
    """
    source = find_model(model)
    config = read_config(source.fetch(CONFIG_NAME).parent)
    return Model(source=source, config=config, loras=_read_loras(loras, config, source.name))


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
