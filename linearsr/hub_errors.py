"""What can go wrong with a repository on the Hugging Face Hub, in words that say what to do.

Knows the exceptions of huggingface_hub 1.x and 2.x by the classes they share. Those of their transports differ, and
are all taken for a Hub that cannot be reached.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from linearsr.errors import WeightsError

__all__ = ["TOKEN", "Asked", "explain", "unreachable"]

SIGN_IN = "set HF_TOKEN or run `hf auth login`"
TOKEN = re.compile(r"Bearer [^\s'\"]*")
"""What some transports quote in their errors, and nobody should see."""
BAD_TOKEN = "Invalid credentials"
"""How the Hub refuses the token itself; any other 401 stands for a repository that one may not see."""
DISK_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large for this disk",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "the file system is read-only",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A file that was asked for, as messages name it."""

    what: str
    """`model`, or the component that the repository holds."""
    name: str
    """`owner/name`, with `@revision` where one was given."""
    filename: str

    @property
    def subject(self) -> str:
        """The repository in a sentence."""
        return f"{self.what} {self.name!r}"

    @property
    def once(self) -> str:
        """Hint where a connection would help."""
        other = ", or use `--model compact`, which needs no network" if self.what == "model" else ""
        return f"connect once{other}"


def endpoint() -> str:
    """Address of the Hub, as `HF_ENDPOINT` says."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _plain(error: BaseException) -> str:
    """First line of an error's own words, without the token, which some transports quote."""
    lines = [line.strip() for line in TOKEN.sub("Bearer ***", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def unreachable(error: Exception, asked: Asked) -> WeightsError:
    """Error for a Hub that gives no answer, or one that no Hub would give."""
    return WeightsError(
        f"{asked.filename!r} of {asked.subject} is not cached, and the Hub at {endpoint()} cannot be reached "
        f"({_plain(error)})",
        hint=asked.once,
    )


def explain(error: Exception, asked: Asked) -> WeightsError:
    """Turn what huggingface_hub raised into an error that names the cause."""
    from huggingface_hub import errors as hub

    repo, _, revision = asked.name.partition("@")
    other = "is it a LinearSR model?" if asked.what == "model" else f"is there a {asked.what} in it?"
    cases: tuple[tuple[type[Exception], str, str], ...] = (
        (hub.GatedRepoError, "needs its licence accepted first", f"accept it at {endpoint()}/{repo}, then {SIGN_IN}"),
        (hub.RevisionNotFoundError, f"has no revision {revision!r}", "check what follows the @"),
        (hub.RepositoryNotFoundError, "does not exist on the Hub", f"check the id; for a private one {SIGN_IN}"),
        (hub.HFValidationError, f"is no valid Hub id: {_plain(error)}", "check the id"),
        (hub.OfflineModeIsEnabled, f"lacks {asked.filename!r} in the cache, and HF_HUB_OFFLINE is set", asked.once),
    )
    for kind, words, hint in cases:
        if isinstance(error, kind):
            return WeightsError(f"{asked.subject} {words}", hint=hint)
    if isinstance(error, hub.LocalEntryNotFoundError):
        return unreachable(error, asked)
    if isinstance(error, hub.EntryNotFoundError):
        return WeightsError(f"{asked.subject} has no file {asked.filename!r}", hint=other)
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_status(error.response, asked)
    if isinstance(error, OSError) and error.errno in DISK_REASONS:
        return _explain_disk(error, asked)
    return WeightsError(
        f"fetching {asked.filename!r} of {asked.subject} broke off ({_plain(error)})",
        hint="run the same command again; finished files are kept",
    )


def _explain_status(response: object, asked: Asked) -> WeightsError:
    """An answer that huggingface_hub has no class for."""
    status = getattr(response, "status_code", None)
    said = getattr(response, "headers", {}).get("X-Error-Message")
    if status == 401 and said is not None and said.startswith(BAD_TOKEN):
        return WeightsError(
            f"the Hub at {endpoint()} does not accept the token, asked for {asked.subject}",
            hint="make a new one, then set HF_TOKEN or run `hf auth login`; public models need none",
        )
    if status in (401, 404):  # the client names these itself, but only behind https
        return WeightsError(
            f"{asked.subject} does not exist on the Hub", hint=f"check the id; for a private one {SIGN_IN}"
        )
    words = f"status {status}" if said is None else f"status {status}: {said}"
    hint = "the token may not read it; use another" if status == 403 else "try again in a while"
    return WeightsError(
        f"the Hub at {endpoint()} answers {asked.filename!r} of {asked.subject} with {words}", hint=hint
    )


def _explain_disk(error: OSError, asked: Asked) -> WeightsError:
    from huggingface_hub import constants

    return WeightsError(
        f"{asked.filename!r} of {asked.subject} cannot be stored in {str(constants.HF_HUB_CACHE)!r}: "
        f"{DISK_REASONS[error.errno if error.errno is not None else 0]}",
        hint="free some space, or set HF_HOME to a folder on another disk that you may write to",
    )
