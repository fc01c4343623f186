"""Writing a file so that its name never stands for half a file.

Owns the temporary file, the rename and the words for what a disk can refuse. Knows nothing about pictures.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from linearsr.errors import ImageError

__all__ = ["atomic_file", "make_folder", "write_bytes"]

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or write to another disk with `-o`"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or write to another disk with `-o`"),
    errno.EFBIG: ("the file is too large for this file system", "write to another disk with `-o`"),
    errno.EACCES: ("permission denied", "choose a folder you may write to with `-o`"),
    errno.EPERM: ("operation not permitted", "choose a folder you may write to with `-o`"),
    errno.EROFS: ("the file system is read-only", "choose another folder with `-o`"),
    errno.ENOENT: ("the folder does not exist", "create the folder first"),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "choose another folder with `-o`"),
    errno.EISDIR: ("a folder of that name is in the way", "choose another output name"),
    errno.ENAMETOOLONG: ("the file name is too long", "choose a shorter name"),
}


def _refusal(path: Path, error: OSError) -> ImageError:
    reason, hint = _REASONS.get(
        error.errno if error.errno is not None else 0,
        (error.strerror if error.strerror is not None else str(error), "check the output folder and its disk"),
    )
    return ImageError(f"{path} cannot be written: {reason}", hint=hint)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; Windows and some network disks cannot, which is no failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _existing_mode(target: Path) -> int | None:
    """Permission bits of the file to be replaced, or None; a file the user may not write is not replaced either."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return stat.S_IMODE(mode)


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Give a stream to write to; on leaving the block without an error it becomes `path`, otherwise it is removed.

    The stream is a dot file beside `path`, so that the rename stays within one file system. It is made by `os.open`
    with mode 0666, which lets the kernel apply the umask: reading the umask means setting it, which would race with
    other threads. A file that is replaced hands its permissions on. A symbolic link is written through.

    Args:
        path: of the file.
        sync: wait until the disk has it, so that a power cut leaves the old file or the whole new one. False is for
            what carries a digest of its own and can be made again.

    Raises:
        ImageError: the disk is full, read-only or refuses the name; whatever was at `path` is untouched.
    """
    try:
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = _existing_mode(target)
        temporary = target.parent / f".linearsr-{secrets.token_hex(8)}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        if mode is not None:
            # Some network disks keep no permission bits; the file is complete, so that is no reason to fail.
            with contextlib.suppress(OSError):
                os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _refusal(path, error) from error
        raise
    if sync:
        _sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder for results, and those above it.

    Raises:
        ImageError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(
            f"the folder {folder} cannot be made: {error.strerror}", hint="choose another folder with `-o`"
        ) from error


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` as one step: the old file or the whole new one, never a part; arguments of `atomic_file`.

    Raises:
        ImageError: as `atomic_file`.
    """
    with atomic_file(path, sync=sync) as stream:
        stream.write(data)
