"""Where text goes: results (paths, JSON lines, picture bytes) to stdout, everything else to stderr.

`sys.stdout` and `sys.stderr` are looked up at every write, so that a live progress bar can put lines above itself.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linearsr_cli.errors import describe

__all__ = ["Output", "clean", "quiet_library"]


def clean(text: str | Path) -> str:
    """A path or text for people: on one line, printable, any odd character escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in str(text)
    )


def _write(stream: Any, text: str) -> None:  # noqa: ANN401 - a text stream or what replaces one
    """Write and flush; a file name that is not valid Unicode goes out as the bytes it was read from."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.buffer.write(os.fsencode(text))
    stream.flush()


@contextmanager
def quiet_library(quiet: bool) -> Iterator[None]:
    """Let the library's own warnings be silent as well where only errors are wanted."""
    import logging

    logger = logging.getLogger("linearsr")
    level = logger.level
    if quiet:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One run's choice of what to say and where."""

    json: bool = False
    """One JSON object a line instead of paths."""
    quiet: bool = False
    """On stderr only errors."""
    verbose: int = 0
    """1 adds details, 2 adds the library's own log."""
    print0: bool = False
    """Paths end in a zero byte instead of a line end."""
    stdout_is_picture: bool = False
    """The picture itself goes to stdout: no paths, and JSON lines move to stderr."""

    def result(self, path: Path, event: dict[str, Any]) -> None:
        """Announce one complete file: its path, or `event` as a JSON line."""
        if self.json:
            self.event(event)
        elif not self.stdout_is_picture:
            _write(sys.stdout, f"{path}\0" if self.print0 else f"{path}\n")

    def event(self, event: dict[str, Any]) -> None:
        """Write one JSON line; nothing without `--json`."""
        if self.json:
            _write(sys.stderr if self.stdout_is_picture else sys.stdout, json.dumps(event, allow_nan=False) + "\n")

    def data(self, text: str) -> None:
        """Write one line of a product that is text, such as a plan, to stdout."""
        _write(sys.stdout, f"{text}\n")

    def info(self, text: str) -> None:
        """Say something on stderr unless quiet."""
        if not self.quiet:
            _write(sys.stderr, f"{text}\n")

    def detail(self, text: str) -> None:
        """Say something on stderr with `-v`."""
        if self.verbose > 0:
            self.info(text)

    def warn(self, text: str) -> None:
        """Say what is not as asked but does no harm."""
        self.info(f"warning: {text}")

    def alarm(self, text: str) -> None:
        """Say what makes the run end badly; quiet does not hide it."""
        _write(sys.stderr, f"error: {text}\n")

    def failure(self, name: str, error: BaseException) -> None:
        """Report that one file failed: one line, and the next step on a second one. Quiet does not hide it."""
        message, hint = describe(error)
        said = message if message.startswith(clean(name)) else f"{clean(name)}: {message}"
        _write(sys.stderr, f"error: {said}\n")
        if hint is not None:
            _write(sys.stderr, f"hint: {hint}\n")
