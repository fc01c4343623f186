"""Which models this machine knows: the bundled one, the presets, and what lies in the Hub cache. Asks no network.

Owns reading and clearing the cache of huggingface_hub as far as LinearSR models go; other repositories in it belong to
other programs and are never touched. huggingface_hub is imported inside functions, when its cache is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from linearsr.checkpoint import CONFIG_NAME, read_config
from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub import BUNDLED, ModelSource, find_model
from linearsr.hub_repo import HubRepo
from linearsr.presets import PRESETS

__all__ = [
    "CacheListing",
    "ListedModel",
    "Removal",
    "cached_folder",
    "hub_address",
    "list_models",
    "local_folder",
    "plan_removal",
    "present_experts",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedModel:
    """One line of the list of models."""

    name: str
    """As `--model` takes it; for a preset, as `models convert --preset` takes it."""
    kind: Literal["bundled", "cached", "preset"]
    family: str
    licence: str
    num_experts: int
    experts: tuple[int, ...] = ()
    """Those whose files are here."""
    bytes: int = 0
    """On this disk."""
    revision: str | None = None
    """Commit of a cached one."""
    refs: tuple[str, ...] = ()
    """Branches and tags that stand for that commit in the cache."""
    sources: tuple[str, ...] = ()
    """Public weights that a preset is made of."""
    folder: Path | None = None
    """Where its files are; None for a preset."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheListing:
    """What there is, and what could not be read."""

    models: tuple[ListedModel, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """Cached revisions of one model that may be deleted."""

    names: tuple[str, ...]
    """`owner/name@commit` of each."""
    bytes: int
    """That would be freed; a file that another revision shares is kept."""
    execute: Callable[[], None]


def present_experts(config: CheckpointConfig, folder: Path) -> tuple[int, ...]:
    """Experts whose files all lie in a folder; whether they are whole is not checked."""
    experts = config.experts
    needed = [(name, *experts.loras[index : index + 1]) for index, name in enumerate(experts.files)]
    return tuple(index for index, names in enumerate(needed) if all((folder / name).is_file() for name in names))


def _cache_folder() -> Path:
    from huggingface_hub import constants  # looked up late: it is what HF_HOME said at its import

    return Path(constants.HF_HUB_CACHE)


def _scan() -> Any:  # noqa: ANN401 - huggingface_hub's HFCacheInfo
    """What is in the cache; None where there is no cache yet."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return scan_cache_dir(_cache_folder())
    except CacheNotFound:
        return None


def _is_ours(path: Path) -> bool:
    """Whether a config.json is one of LinearSR's, readable by this version or not; diffusers has files of that name."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"schema_version", "family", "experts"} <= data.keys()


def _cached_models() -> tuple[list[ListedModel], list[str]]:
    """LinearSR models of the cache in alphabetic order, and what is wrong with those that cannot be read."""
    found: list[ListedModel] = []
    problems: list[str] = []
    cache = _scan()
    for repo in () if cache is None else sorted(cache.repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.last_modified, reverse=True):
            folder = Path(revision.snapshot_path)
            if repo.repo_type != "model" or not _is_ours(folder / CONFIG_NAME):
                continue
            try:
                config = read_config(folder)
            except WeightsError as error:
                problems.append(f"{repo.repo_id}@{revision.commit_hash[:12]} cannot be read: {error.message}")
                continue
            found.append(
                ListedModel(
                    name=repo.repo_id,
                    kind="cached",
                    family=config.family,
                    licence=config.licence,
                    num_experts=len(config.experts.files),
                    experts=present_experts(config, folder),
                    bytes=revision.size_on_disk,
                    revision=revision.commit_hash,
                    refs=tuple(sorted(revision.refs)),
                    folder=folder,
                )
            )
    return found, problems


def _bundled() -> ListedModel:
    folder = find_model(BUNDLED).fetch(CONFIG_NAME).parent
    config = read_config(folder)
    return ListedModel(
        name=BUNDLED,
        kind="bundled",
        family=config.family,
        licence=config.licence,
        num_experts=len(config.experts.files),
        experts=present_experts(config, folder),
        bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        folder=folder,
    )


def list_models() -> CacheListing:
    """The bundled model, cached ones, then presets. Reads configs only; a damaged weights file is not noticed here."""
    cached, problems = _cached_models()
    presets = [
        ListedModel(
            name=preset.name,
            kind="preset",
            family=preset.name,
            licence=preset.licence,
            num_experts=len(preset.boundaries) + 1,
            sources=(preset.repository, preset.autoencoder.source, preset.tags.encoder),
        )
        for preset in PRESETS.values()
    ]
    return CacheListing(models=(_bundled(), *cached, *presets), problems=tuple(problems))


def hub_address(source: ModelSource) -> tuple[str, str | None] | None:
    """Repository and revision of a model on the Hub; None for a folder."""
    return (source.repo, source.revision) if isinstance(source, HubRepo) else None


def cached_folder(repo: str, revision: str | None) -> Path | None:
    """Folder of a cached commit that has a config.json; None where there is none.

    Raises:
        WeightsError: no repository can have that name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo, CONFIG_NAME, cache_dir=_cache_folder(), revision=revision)
    except HFValidationError as error:
        raise WeightsError(f"{repo!r} is no valid Hub id: {error}", hint="check the id") from error
    return Path(found).parent if isinstance(found, str) else None


def local_folder(source: ModelSource) -> Path:
    """Folder that holds what is here of a model: its own, or that of a cached commit.

    Raises:
        WeightsError: it is not in the cache, or no LinearSR model.
    """
    address = hub_address(source)
    folder = source.fetch(CONFIG_NAME).parent if address is None else cached_folder(*address)
    if folder is None:
        raise WeightsError(
            f"model {source.name!r} is not in the Hub cache {str(_cache_folder())!r}",
            hint=f"run `linearsr models download {source.name}`",
        )
    read_config(folder)
    return folder


def plan_removal(model: str) -> Removal:
    """Find what `models rm` would delete; nothing is deleted before `execute`.

    Args:
        model: `owner/name` for all cached revisions, `owner/name@revision` for one.

    Raises:
        ConfigError: the bundled model or a folder, which are not in the cache.
        WeightsError: not cached, or no LinearSR model.
    """
    source = find_model(model)
    address = hub_address(source)
    if address is None:
        what = "comes with the package" if model == BUNDLED else "is a folder"
        raise ConfigError(
            f"model {model!r} {what}, expected a Hub id such as owner/name",
            hint="only models in the Hub cache are removed; `linearsr models list` shows them",
        )
    repo, revision = address
    cache = _scan()
    # A repository that was copied on the Hub has the same commits, so the others are out of sight.
    repos = [] if cache is None else [r for r in cache.repos if (r.repo_type, r.repo_id) == ("model", repo)]
    revisions = [cached for item in repos for cached in item.revisions]
    found = [r for r in revisions if revision is None or revision == r.commit_hash or revision in r.refs]
    if not found:
        raise WeightsError(
            f"model {model!r} is not in the Hub cache {str(_cache_folder())!r}",
            hint="`linearsr models list` shows what is there",
        )
    if not any(_is_ours(Path(cached.snapshot_path) / CONFIG_NAME) for cached in found):
        raise WeightsError(
            f"{model!r} is cached, but it is no LinearSR model, so another program may need it",
            hint="`hf cache rm` removes any repository",
        )
    commits = sorted(cached.commit_hash for cached in found)
    strategy = replace(cache, repos=frozenset(repos)).delete_revisions(*commits)
    return Removal(
        names=tuple(f"{repo}@{commit}" for commit in commits),
        bytes=strategy.expected_freed_size,
        execute=strategy.execute,
    )
