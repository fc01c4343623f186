"""Pictures through pipes: stdin to a temporary file before the work, a finished file to stdout after it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from linearsr.errors import ConfigError

__all__ = ["send_to_stdout", "spooled_stdin"]


@contextmanager
def spooled_stdin(wanted: bool) -> Iterator[Path | None]:
    """Copy stdin into a file, because headers are read before pictures and some formats need to seek.

    Args:
        wanted: whether `-` is among the inputs; stdin is never read without it.

    Yields:
        The file, which goes away at the end of the block, or None.

    Raises:
        ConfigError: stdin is a terminal.
    """
    if not wanted:
        yield None
        return
    if sys.stdin.isatty():
        raise ConfigError(
            "stdin is a terminal, expected a picture", hint="`curl -s URL | linearsr upscale - -o big.png`"
        )
    with tempfile.TemporaryDirectory(prefix="linearsr-") as folder:
        path = Path(folder) / "stdin"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield path


def send_to_stdout(path: Path) -> None:
    """Write the bytes of a complete file to stdout."""
    with path.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
