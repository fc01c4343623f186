"""A repository on the Hugging Face Hub: its files one by one, all of one commit.

A cached file costs no request where the commit is known, and will do where the Hub cannot be reached. The Hub is first
asked once, with a short limit, so that a misspelt id or a missing network is told in seconds; huggingface_hub itself
would try for half a minute. It reads `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and
`HF_HUB_ETAG_TIMEOUT`, and is imported when the first file is asked for.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from linearsr.atomic import write_bytes
from linearsr.config import check_file_name
from linearsr.errors import ConfigError, ImageError, LinearSRError, WeightsError
from linearsr.hub_errors import Asked, explain, unreachable

__all__ = [
    "FOLDER_SUFFIXES",
    "HubRepo",
    "OnDownload",
    "OnLicence",
    "fetch_folder",
    "is_hub_id",
    "root_of",
    "split_hub_id",
]

COMMIT = re.compile(r"[0-9a-f]{40}")
REVISION_PART = r"[\w-][\w.-]*"
HUB_ID = re.compile(rf"[\w.-]+/[\w.-]+(@{REVISION_PART}(/{REVISION_PART})*)?")
WAIT_S = 5
"""Longest wait for the Hub's first answer where `HF_HUB_ETAG_TIMEOUT` names none."""
WEIGHTS_SUFFIX = ".safetensors"
FOLDER_SUFFIXES = {".json", ".txt", ".model", WEIGHTS_SUFFIX}
"""Files of a component that are fetched: settings, tokenizers and weights; no pickles, no code."""
UNKNOWN_LICENCE = "not stated"

OnDownload = Callable[[str, int, int | None], None]
"""Called with the file as `owner/name/file`, the bytes that have come, and all its bytes where they are known."""
OnLicence = Callable[[str, str], None]
"""Called with the repository's name and its licence."""


def is_hub_id(text: str) -> bool:
    """Whether a text has the form `owner/name[@revision]`."""
    return HUB_ID.fullmatch(text) is not None


def split_hub_id(text: str) -> tuple[str, str | None]:
    """Repository and revision of `owner/name[@revision]`; None where no revision is given."""
    repo, _, revision = text.partition("@")
    return repo, revision if revision else None


def root_of(path: Path, filename: str) -> Path:
    """Folder that a file's name, sub-folders and all, is relative to."""
    return path.parents[filename.count("/")]


class HubRepo:
    """Files of one repository.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit; None is the main branch.
        what: it holds, for messages.
        on_download: told how far each download is.
        on_licence: told the licence once, before the first weights come over the network.

    Attributes:
        revision: as given until the first file is there, then the commit it is from, which all others come from too.
        licence: told by `on_licence`; None while it is not known, then nothing is told.
    """

    def __init__(
        self,
        repo: str,
        revision: str | None = None,
        *,
        what: str = "model",
        on_download: OnDownload | None = None,
        on_licence: OnLicence | None = None,
    ) -> None:
        self.repo, self.revision, self.what = repo, revision, what
        self.name = repo if revision is None else f"{repo}@{revision}"
        self.licence: str | None = None
        self._on_download, self._on_licence = on_download, on_licence
        self._answered = False

    def fetch(self, filename: str) -> Path:
        """Local path of one file, from the cache if it is there.

        Raises:
            WeightsError: it cannot be had; says why.
        """
        asked = self._asked(filename)
        path = self._cached(asked) if COMMIT.fullmatch(self._at) else None
        if path is None and not self._answered:
            path = self._ask(asked)
        if path is None:
            path = self._download(asked)
        self.revision = root_of(path, filename).name
        return path

    def listing(self, root: Path) -> tuple[str, ...]:
        """Names of all files of the commit, and its licence along the way.

        Asked once: the answer is kept beside the cached files, so that it costs no request again. Where the Hub gives
        none, the names of the cached files, if there are weights among them.

        Args:
            root: folder of a file that `fetch` gave.

        Raises:
            WeightsError: the Hub refuses to list them, or cannot be reached.
        """
        note = root.parents[1] / "linearsr" / f"{root.name}.json"
        known = _read_note(note)
        if known is None:
            try:
                known = self._list_online(root.name)
            except Exception as error:
                asked = Asked(self.what, self.name, f"*{WEIGHTS_SUFFIX}")
                names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
                if _is_answer(error) or not any(name.endswith(WEIGHTS_SUFFIX) for name in names):
                    raise _explain_asking(error, asked) from error
                return tuple(names)
            _write_note(note, known)
        self.licence = known["licence"]
        return tuple(known["files"])

    def _asked(self, filename: str) -> Asked:
        try:
            return Asked(self.what, self.name, check_file_name(filename))
        except ConfigError as error:
            raise WeightsError(f"{self.what} {self.name!r}: {error.message}", hint=error.hint) from error

    @property
    def _at(self) -> str:
        return "main" if self.revision is None else self.revision

    def _cached(self, asked: Asked) -> Path | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(self.repo, asked.filename, revision=self._at)
        except HFValidationError as error:
            raise explain(error, asked) from error
        return Path(path) if isinstance(path, str) else None

    def _ask(self, asked: Asked) -> Path | None:
        """Ask once whether the Hub has it; the cached file will do if it is the same, or if no good answer comes."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

        try:
            url = hf_hub_url(self.repo, asked.filename, revision=self._at)
            commit = get_hf_file_metadata(url, timeout=_wait_s()).commit_hash
            if commit is None:
                raise ConnectionError("what answers is no Hub; check HF_ENDPOINT and the proxy")
        except Exception as error:
            is_gone = isinstance(error, EntryNotFoundError | RevisionNotFoundError)
            path = None if is_gone else self._cached(asked)
            if path is None:
                raise _explain_asking(error, asked) from error
            return path
        self._answered = True
        path = self._cached(asked)
        return path if path is not None and root_of(path, asked.filename).name == commit else None

    def _download(self, asked: Asked) -> Path:
        from huggingface_hub import hf_hub_download

        if asked.filename.endswith(WEIGHTS_SUFFIX):
            self._tell_licence()
        meter = _meter_class(self._on_download, f"{self.repo}/{asked.filename}")
        try:
            path = hf_hub_download(self.repo, asked.filename, revision=self._at, tqdm_class=meter)
        except LinearSRError:
            raise
        except Exception as error:
            raise explain(error, asked) from error
        self._answered = True
        return Path(path)

    def _tell_licence(self) -> None:
        if self.licence is not None and self._on_licence is not None:
            self._on_licence(self.name, self.licence)
            self._on_licence = None

    def _list_online(self, commit: str) -> dict[str, Any]:
        from huggingface_hub import HfApi

        info = HfApi().model_info(self.repo, revision=commit, timeout=_wait_s())
        files = [] if info.siblings is None else [sibling.rfilename for sibling in info.siblings]
        tags = [] if info.tags is None else info.tags
        licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
        return {"files": files, "licence": ", ".join(licences) if licences else UNKNOWN_LICENCE}


def fetch_folder(repo: HubRepo, folders: Sequence[str] = ("",)) -> Path:
    """Fetch settings, tokenizer and weights of a repository, never pickles or code.

    Args:
        repo: to fetch from.
        folders: of the repository, "" for its root; others are left out. The first holds a config.json.

    Returns:
        The folder that holds them, as the repository's root.

    Raises:
        WeightsError: as `HubRepo.fetch`; or there are no safetensors in these folders.
    """
    first = (PurePosixPath(folders[0]) / "config.json").as_posix()
    root = root_of(repo.fetch(first), first)
    names = [
        name
        for name in repo.listing(root)
        if name.rpartition("/")[0] in folders and PurePosixPath(name).suffix in FOLDER_SUFFIXES
    ]
    if not any(name.endswith(WEIGHTS_SUFFIX) for name in names):
        raise WeightsError(
            f"{repo.what} {repo.name!r} has no {WEIGHTS_SUFFIX} file, and pickled weights are never loaded",
            hint="use a repository with safetensors",
        )
    for name in names:
        repo.fetch(name)
    return root


def _wait_s() -> float:
    from huggingface_hub import constants

    wait = constants.HF_HUB_ETAG_TIMEOUT
    return WAIT_S if wait == constants.DEFAULT_ETAG_TIMEOUT else wait


def _is_answer(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return isinstance(error, HfHubHTTPError | HFValidationError)


def _explain_asking(error: Exception, asked: Asked) -> WeightsError:
    from huggingface_hub.errors import OfflineModeIsEnabled

    is_known = _is_answer(error) or isinstance(error, OfflineModeIsEnabled)
    return explain(error, asked) if is_known else unreachable(error, asked)


def _meter_class(report: OnDownload | None, label: str) -> type:
    """A progress bar for huggingface_hub that draws nothing and only passes on how far it is."""
    from tqdm import tqdm

    class Meter(tqdm):  # type: ignore[type-arg, misc]
        def __init__(self, *_: object, **settings: Any) -> None:  # noqa: ANN401
            super().__init__(disable=True, total=settings.get("total"), initial=settings.get("initial", 0))

        def update(self, n: float | None = 1) -> None:
            self.n += 0 if n is None else n
            if report is not None:
                report(label, int(self.n), None if self.total is None else int(self.total))

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes on the wire, which Xet counts apart."""

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None:
            """Speed on the wire."""

    return Meter


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(known, dict) and isinstance(known.get("files"), list) and "licence" in known
    return known if is_whole else None


def _write_note(note: Path, known: dict[str, Any]) -> None:
    with contextlib.suppress(OSError, ImageError):  # a read-only cache costs a request each time
        note.parent.mkdir(exist_ok=True)
        write_bytes(note, (json.dumps(known, indent=1) + "\n").encode())
