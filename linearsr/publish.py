"""From a checkpoint folder to a repository on the Hugging Face Hub: what is checked, what goes up, and the card.

Only files of the checkpoint and its documents go up, by an allow-list; a folder with anything else is refused, since
training state and photographs easily lie beside an export. Everything is checked before the Hub is asked anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from linearsr.checkpoint import CONFIG_NAME, read_config, verify_file
from linearsr.config import CheckpointConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub_errors import TOKEN
from linearsr.hub_repo import is_hub_id
from linearsr.local_copy import DOCUMENTS
from linearsr.model_files import component_sources, count_parameters, expert_intervals
from linearsr.model_folder import PICKLE_SUFFIXES
from linearsr.state_dicts import some

__all__ = ["Publication", "check_export", "make_card", "publish"]

REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
HUB_LICENCES = frozenset(
    (
        *("afl-3.0", "agpl-3.0", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0"),
        *("cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "creativeml-openrail-m"),
        *("gemma", "gpl-3.0", "lgpl-3.0", "mit", "mpl-2.0", "openrail", "openrail++", "unlicense"),
    )
)
"""Identifiers that the Hub's documentation of model cards lists; any other licence is `other` with a name."""
CARD, README = "MODEL_CARD.md", "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Publication:
    """A checked export, ready to go up."""

    folder: Path
    repo: str
    files: tuple[str, ...]
    """To upload, without the card."""
    card: str
    """Text of README.md."""
    bytes: int
    """All files together, with the card."""


def check_export(folder: Path, repo: str) -> Publication:
    """Check that a folder is a whole checkpoint and nothing else, and make its card.

    Args:
        folder: such as the export/ of a run.
        repo: `owner/name`.

    Raises:
        ConfigError: no such name, files that are not of the checkpoint, or a component on this machine's disk.
        WeightsError: no checkpoint, a pickle, or a file that is missing or damaged.
    """
    if not REPO_ID.fullmatch(repo):
        raise ConfigError(f"repository is {repo!r}, expected owner/name", hint="a branch is given with --revision")
    config = read_config(folder)
    _check_listing(config)
    _check_sources(config)
    present = {path.relative_to(folder).as_posix() for path in _visible_files(folder)}
    _refuse_pickles({*config.files, *present})
    documents = [name for name in DOCUMENTS if name in present]
    extra = sorted(present - {CONFIG_NAME, *config.files, *documents})
    if extra:
        raise ConfigError(
            f"{str(folder)!r} holds {some(extra)} beside the checkpoint, expected only what config.json lists and "
            f"{', '.join(DOCUMENTS)}",
            hint="move them elsewhere; give the export/ of a run, not the run",
        )
    for name, entry in config.files.items():
        verify_file(folder, name, entry)
    files = (CONFIG_NAME, *config.files, *(name for name in documents if name != README))
    card = make_card(config, _card_text(folder), repo)
    size = sum((folder / name).stat().st_size for name in files) + len(card.encode())
    return Publication(folder=folder, repo=repo, files=files, card=card, bytes=size)


def publish(
    publication: Publication, *, private: bool = False, revision: str | None = None, message: str | None = None
) -> str:
    """Create the repository if need be, and upload everything in one commit.

    Args:
        publication: from `check_export`.
        private: only for a repository that is created now; the Hub's own default without.
        revision: branch, created if need be; main without.
        message: of the commit.

    Returns:
        Address of the model's page.

    Raises:
        ConfigError: no token.
        WeightsError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    repo, login = publication.repo, "set HF_TOKEN to a token with write access, or run `hf auth login`"
    if get_token() is None:
        raise ConfigError("no token for the Hub, expected one with write access", hint=login)
    api = HfApi()
    operations = [CommitOperationAdd(README, publication.card.encode())]
    operations += [CommitOperationAdd(name, publication.folder / name) for name in publication.files]
    try:
        url = api.create_repo(repo, private=True if private else None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        text = "Upload a LinearSR model" if message is None else message
        api.create_commit(repo, operations, commit_message=text, revision=revision)
    except Exception as error:  # transport errors have other types in other versions of huggingface_hub
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise WeightsError(
                f"the Hub refuses this token to write to {repo!r} (status {status})", hint=login
            ) from error
        said = TOKEN.sub("Bearer ***", str(error)).strip()
        raise WeightsError(
            f"uploading to {repo!r} failed ({type(error).__name__}: {said})",
            hint="run the same command again; weights that are up are not sent twice",
        ) from error
    return str(url) if revision is None else f"{url}/tree/{revision}"


def _visible_files(folder: Path) -> Iterable[Path]:
    """Files of the folder and below; hidden ones are neither uploaded nor a reason to refuse."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _refuse_pickles(names: Iterable[str]) -> None:
    pickles = sorted(name for name in names if Path(name).suffix.lower() in PICKLE_SUFFIXES)
    if pickles:
        raise WeightsError(
            f"{some(pickles)}: pickles can run code when loaded, expected safetensors only",
            hint="remove them; a run's state is not needed to use its export",
        )


def _check_listing(config: CheckpointConfig) -> None:
    """Refuse a config that names a file without saying its size and hash."""
    tagger = config.tags.tagger if config.tags.kind == "closed" else None
    named = {*config.experts.files, *config.experts.loras, *(() if tagger is None else (tagger,))}
    missing = sorted(named - config.files.keys())
    for source in component_sources(config).values():
        if source.startswith("./") and not any(name.startswith(f"{source[2:]}/") for name in config.files):
            missing.append(source)
    if missing:
        raise WeightsError(f"config.json lists no size and hash for {some(missing)}", hint="export the run again")


def _check_sources(config: CheckpointConfig) -> None:
    """Refuse components that lie on this machine's disk only."""
    for name, source in component_sources(config).items():
        is_local = not is_hub_id(source) or Path(source).is_dir()
        if is_local and not source.startswith("./"):
            raise ConfigError(
                f"the {name.replace('_', ' ')} is {source!r}, a folder of this machine, expected './folder' of the "
                "checkpoint or a Hub id",
                hint="`linearsr models download EXPORT --to FOLDER` makes a copy that holds it; push that",
            )


def _card_text(folder: Path) -> str:
    for name in (CARD, README):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8")
    return ""


def make_card(config: CheckpointConfig, text: str, repo: str) -> str:
    """The Hub's README.md: its YAML head, then the model card.

    Args:
        config: of the model.
        text: the card as far as there is one; with a YAML head of its own it is kept as it is.
        repo: `owner/name`.
    """
    if text.startswith("---\n"):
        return text
    known = config.licence.lower()
    head = ["---"]
    if known in HUB_LICENCES:
        head.append(f"license: {known}")
    else:  # JSON strings are YAML strings
        head += ["license: other", f"license_name: {json.dumps(_slug(config.licence))}"]
    head += ["library_name: linearsr", "pipeline_tag: image-to-image", "tags:"]
    head += [f"- {tag}" for tag in ("super-resolution", "image-restoration", "upscaling", "linear-attention")]
    return "\n".join([*head, "---", "", text if text.strip() else _plain_card(config, repo)])


def _slug(licence: str) -> str:
    """The Hub takes a licence's name in lower case with hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")


def _plain_card(config: CheckpointConfig, repo: str) -> str:
    """A card for an export without one: only what its config says."""
    count = len(config.experts.files)
    rows = [
        ("Family", config.family),
        ("Parameters", f"{count_parameters(config):,} in each of {count} networks, one in use at any step"),
        ("Experts", ", ".join(f"t {low:.3f} to {high:.3f}" for low, high in expert_intervals(config))),
        ("Steps", f"{config.sampling.steps} ({config.sampling.sampler})"),
        ("Tags", config.tags.kind),
        *((name.replace("_", " ").capitalize(), source) for name, source in component_sources(config).items()),
        ("Licence", config.licence),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    usage = f"```console\n$ linearsr upscale photo.jpg --model {repo}\n```"
    title = f"# {repo.partition('/')[2]}\n\nA LinearSR model that enlarges photographs."
    return f"{title}\n\n| | |\n|---|---|\n{table}\n\n{usage}\n"
