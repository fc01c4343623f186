"""From what was typed to a list of picture files: files, folders, globs, lists and stdin. Opens no picture."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linearsr.errors import ConfigError, ImageError, LinearSRError
from linearsr_cli.errors import NoInputError
from linearsr_cli.settings import UpscaleOptions

__all__ = ["Source", "expand_inputs", "is_glob", "read_tokens"]

SYSTEM_FILES = ("thumbs.db", "desktop.ini", ".ds_store")
"""Left by file managers in picture folders; never pictures, even when a shell glob names them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One picture to do, or one input that cannot be done."""

    name: str
    """As typed or found, for messages; `-` for stdin."""
    path: Path
    """File to read."""
    relative: Path
    """Place below the output folder."""
    root: Path | None = None
    """The folder it was found in; None if it was named itself."""
    error: LinearSRError | None = None
    """Why there is nothing to read."""


def is_glob(token: str) -> bool:
    """Whether a token that is no file is a pattern."""
    return glob.has_magic(token) and not os.path.lexists(token)


def read_tokens(options: UpscaleOptions) -> list[str]:
    """All inputs as typed, then those of `--files-from`.

    Raises:
        ConfigError: the list cannot be read.
    """
    tokens = list(options.inputs)
    if options.files_from is None:
        return tokens
    try:
        data = sys.stdin.buffer.read() if options.files_from == "-" else Path(options.files_from).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"files-from is {options.files_from!r}, which cannot be read: {error.strerror}",
            hint="expected a text file with one path a line, or - for stdin",
        ) from error
    if b"\0" in data and not options.null:
        raise ConfigError("the list of files holds zero bytes, expected one path a line", hint="add `-0`")
    lines = data.split(b"\0") if options.null else data.splitlines()
    return tokens + [os.fsdecode(line) for line in lines if line.strip()]


def expand_inputs(
    tokens: list[str], *, recursive: bool, stdin_file: Path | None, leave_out: tuple[Path, ...] = ()
) -> list[Source]:
    """Find the pictures behind the inputs, in the order given, folders sorted by name, every file once.

    Args:
        tokens: files, folders, globs or `-`.
        recursive: look into sub-folders.
        stdin_file: what `-` stands for.
        leave_out: folders that are not looked into, such as the output folder.
    """
    found: list[Source] = []
    seen: set[str] = set()
    skip = {os.path.realpath(folder) for folder in leave_out}
    for token in tokens:
        for source in _expand_one(token, recursive, stdin_file, skip):
            key = os.path.normcase(os.path.abspath(source.path))
            if key not in seen:
                seen.add(key)
                found.append(source)
    return found


def _expand_one(token: str, recursive: bool, stdin_file: Path | None, skip: set[str]) -> Iterator[Source]:
    if token == "-" and stdin_file is not None:
        yield Source(name="-", path=stdin_file, relative=Path("stdin"))
    elif os.path.isdir(token):
        yield from _expand_folder(token, recursive, skip)
    elif is_glob(token):
        yield from _expand_glob(token, recursive, skip)
    elif os.path.basename(token).lower() not in SYSTEM_FILES:
        path = Path(token)
        yield Source(name=token, path=path, relative=Path(path.name), error=_why_missing(token))


def _why_missing(token: str) -> LinearSRError | None:
    """The error of a named file that is not there or is no plain file."""
    if os.path.isfile(token):
        return None
    if os.path.lexists(token):
        kind = "a broken link" if os.path.islink(token) else "no regular file"
        return ImageError(f"{token} is {kind}, expected a picture", hint="name a picture file or a folder")
    hint = "`-` alone reads stdin" if token.startswith("-") else "check the spelling; quote names that hold blanks"
    return ImageError(f"{token} does not exist, expected a picture, a folder or a glob", hint=hint)


def _picture_suffixes() -> frozenset[str]:
    """Endings taken from folders and patterns. Camera raw files are among them, so that each is refused by name."""
    from linearsr.image_headers import IMAGE_SUFFIXES, RAW_SUFFIXES

    return IMAGE_SUFFIXES | RAW_SUFFIXES


def _expand_glob(pattern: str, recursive: bool, skip: set[str]) -> Iterator[Source]:
    wanted = _picture_suffixes()
    empty = True
    for match in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(match):
            if "**" in pattern:
                continue  # its files match by themselves
            sources = list(_expand_folder(match, recursive, skip))
        elif os.path.splitext(match)[1].lower() in wanted:
            sources = list(_expand_one(match, recursive, None, skip))
        else:
            continue
        empty = empty and not sources
        yield from sources
    if empty:
        error = NoInputError(f"no picture matches {pattern}", hint="check the pattern and the folder")
        yield Source(name=pattern, path=Path(pattern), relative=Path(), error=error)


def _expand_folder(folder: str, recursive: bool, skip: set[str]) -> Iterator[Source]:
    root = Path(folder)
    empty = True
    refused: list[OSError] = []
    for path in _walk(root, recursive, skip, refused):
        empty = False
        yield Source(name=str(path), path=path, relative=path.relative_to(root), root=root)
    for problem in refused:
        place = str(problem.filename)
        message = f"{place} cannot be looked into: {problem.strerror}"
        error: LinearSRError = ImageError(message, hint="check the permissions of the folder")
        yield Source(name=place, path=Path(place), relative=Path(), root=root, error=error)
    if empty and not refused:
        hint = "check the folder" if recursive else "add `-r` to look into sub-folders"
        error = NoInputError(f"{folder} holds no picture", hint=hint)
        yield Source(name=folder, path=root, relative=Path(), root=root, error=error)


def _walk(root: Path, recursive: bool, skip: set[str], refused: list[OSError]) -> Iterator[Path]:
    """Picture files below a folder, sorted; hidden ones and `skip` are left out, linked folders not followed.

    Folders that the system does not open are added to `refused`.
    """
    wanted = _picture_suffixes()
    for here, folders, files in os.walk(root, onerror=refused.append):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) not in skip
        )
        if not recursive:
            folders.clear()
        for name in sorted(files):
            path = Path(here, name)
            # A pipe in a folder would be waited for without end.
            if not name.startswith(".") and path.suffix.lower() in wanted and not path.is_fifo():
                yield path
