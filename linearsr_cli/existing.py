"""Whether a result that is already there can stand: a complete picture of the planned size.

A picture of another size may be somebody's only copy, so it is never replaced unasked; a damaged one is done again.

Results are written under a temporary name and renamed, so a short file comes from elsewhere; it is still noticed,
cheaply, by how the file ends. Pixels are decoded only where the ending says nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from linearsr.errors import ImageError, LinearSRError

__all__ = ["why_not_done", "why_not_ours"]


def why_not_ours(path: Path, width: int, height: int) -> str | None:
    """Say why an existing file must not be replaced unasked: it is a picture of another size than the planned one.

    Returns:
        None if it has the planned size or is no picture that can be read.
    """
    from linearsr.image_io import probe

    try:
        info = probe(path)
    except (LinearSRError, OSError):
        return None
    if (info.width, info.height) == (width, height):
        return None
    return f"it is {info.width}x{info.height}, not {width}x{height}"


def why_not_done(path: Path) -> str | None:
    """Say why an existing file is not a finished result.

    Args:
        path: file that exists.

    Returns:
        None if it is a complete picture, else the reason in a few words.
    """
    from linearsr.image_io import probe, read

    try:
        info = probe(path)
        if not _ends_well(path, info.format):
            read(path)
    except ImageError:
        return "it is not a complete picture"
    except (LinearSRError, OSError) as error:
        return f"it cannot be read: {error}"
    return None


def _ends_well(path: Path, kind: str) -> bool:
    """Whether the last bytes are the format's own end; False also for formats without one."""
    with path.open("rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 12, 0))
        tail = file.read()
    if kind == "PNG":
        return tail == b"\0\0\0\0IEND\xaeB`\x82"
    if kind == "JPEG":
        return tail.endswith(b"\xff\xd9")
    return kind == "WEBP" and int.from_bytes(head[4:8], "little") + 8 == size
