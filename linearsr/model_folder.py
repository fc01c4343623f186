"""Reading what a model's folder holds: settings, weights, sizes and hashes; with errors that name the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from linearsr.config import FileEntry
from linearsr.errors import LinearSRError, WeightsError

__all__ = ["PICKLE_SUFFIXES", "file_entry", "file_sha256", "pickles_in", "read_json"]

PICKLE_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".pkl"}
"""Weights that can run code when they are loaded; refused everywhere."""


def read_json(path: Path, *, hint: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: that is there.
        hint: what to do if it is damaged.

    Raises:
        WeightsError: it cannot be read, or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror}", hint="check its permissions") from error
    except ValueError as error:
        raise WeightsError(f"{str(path)!r} is not valid JSON: {error}", hint=hint) from error
    if not isinstance(data, dict):
        raise WeightsError(f"{str(path)!r} holds no settings, expected a JSON object", hint=hint)
    return data


def pickles_in(folder: Path) -> list[str]:
    """Names of the pickles in a folder, for the message when there is nothing else."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES)


def file_sha256(path: Path, error_kind: type[LinearSRError] = WeightsError) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        WeightsError: it cannot be read; or another kind, as asked for.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise error_kind(f"{str(path)!r} cannot be read: {error.strerror}", hint="check its permissions") from error


def file_entry(path: Path) -> FileEntry:
    """Size and hash of a file, as a checkpoint's config lists it."""
    return FileEntry(bytes=path.stat().st_size, sha256=file_sha256(path))
