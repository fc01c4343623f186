"""What is told while files come from the Hub: one bar for all of them on a terminal, and licences before weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from linearsr_cli.output import Output, clean

__all__ = ["DownloadBar", "tell_licence"]


class DownloadBar:
    """One bar on stderr for a whole download; silent where stderr is no terminal, and when quiet.

    Used as a context manager; nothing is shown before the first byte.
    """

    def __init__(self, out: Output) -> None:
        is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not out.quiet
        self._make: Callable[[], Any] | None = _rich_bar if is_shown else None
        self._display: Any = None
        self._task: Any = None
        self._sizes: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> DownloadBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.stop()

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Add files that will come, by name, with their bytes; others join when they begin."""
        self._sizes.update(sizes)

    def update(self, name: str, done: int, total: int | None) -> None:
        """So many bytes of one file have come; as `open_model` calls its `on_download`."""
        if self._make is None:
            return
        if self._display is None:
            self._display = self._make()
            self._task = self._display.add_task("", name="")
            self._display.start()
        self._done[name] = done
        self._sizes[name] = max(done, self._sizes.get(name, 0) if total is None else total)
        self._display.update(
            self._task,
            completed=sum(self._done.values()),
            total=sum(self._sizes.values()),
            name=clean(name.rpartition("/")[2]),
        )


def _rich_bar() -> Any:  # noqa: ANN401 - rich is imported here only
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
    )


def tell_licence(out: Output, known: str = "") -> Callable[[str, str], None]:
    """A function that says the licence of a repository, but not of `known`, which was told already."""

    def tell(name: str, licence: str) -> None:
        if name != known:
            out.info(f"licence of {clean(name)}: {clean(licence)}")

    return tell
