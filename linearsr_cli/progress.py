"""How far the whole job is, on stderr: one bar by output pixels on a terminal, else one line a file, or nothing."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

__all__ = ["Progress", "open_progress"]


class Progress(Protocol):
    """What a job tells its progress display. Used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(self, *_: object) -> None: ...

    def begin(self, name: str, pixels: int) -> None:
        """A file is started; it will have `pixels` output pixels."""

    def tagging(self, number: int, files: int) -> None:
        """The tagger looks at a picture, before the first is started."""

    def fraction(self, done: float) -> None:
        """The current file is done to this part, 0 to 1."""

    def end(self, line: str) -> None:
        """The current file is finished, well or not; `line` says how."""

    def download(self, name: str, done: int, total: int | None) -> None:
        """Weights `name` are being fetched: bytes so far, and in all where that is known."""


class _Silent:
    """No display."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, name: str, pixels: int) -> None:
        return None

    def tagging(self, number: int, files: int) -> None:
        return None

    def fraction(self, done: float) -> None:
        return None

    def end(self, line: str) -> None:
        return None

    def download(self, name: str, done: int, total: int | None) -> None:
        return None


class _Plain(_Silent):
    """One line a finished file."""

    def __init__(self, out: Output, files: int) -> None:
        self._out = out
        self._files = files
        self._count = 0
        self._fetched: set[str] = set()
        self._told = time.monotonic()

    def end(self, line: str) -> None:
        self._count += 1
        self._out.info(f"[{self._count}/{self._files}] {line}")

    def tagging(self, number: int, files: int) -> None:
        if time.monotonic() - self._told > 10.0:  # a line for each would be as many as results
            self._told = time.monotonic()
            self._out.info(f"tagging {number} of {files}")

    def download(self, name: str, done: int, total: int | None) -> None:
        if name not in self._fetched:
            self._fetched.add(name)
            self._out.info(f"fetching {clean(name)}" + ("" if total is None else f", {total / 1e6:.0f} MB"))


class _Bar(_Silent):
    """One bar for the whole job; rich is imported here only."""

    def __init__(self, files: int, pixels: int) -> None:
        self._files = files
        self._count = 0
        self._pixels_before = 0
        self._pixels_now = 0
        self._display, self._task = _rich_bar(files, pixels)

    def __enter__(self) -> _Bar:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._display.stop()

    def begin(self, name: str, pixels: int) -> None:
        self._pixels_now = pixels
        self._display.update(self._task, name=_short(clean(os.path.basename(name))))

    def tagging(self, number: int, files: int) -> None:
        self._display.update(self._task, name=f"tagging {number}/{files}")

    def fraction(self, done: float) -> None:
        completed = self._pixels_before + self._pixels_now * min(max(done, 0.0), 1.0)
        self._display.update(self._task, completed=completed / 1e6)

    def download(self, name: str, done: int, total: int | None) -> None:
        part = f"{done / 1e6:.0f} MB" if not total else f"{100 * done // total} %"
        self._display.update(self._task, name=f"fetching {_short(clean(os.path.basename(name)))} {part}")

    def end(self, line: str) -> None:
        self._count += 1
        self.fraction(1.0)
        self._pixels_before += self._pixels_now
        self._pixels_now = 0
        self._display.update(self._task, files=f"{self._count}/{self._files}")


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else f"{name[: limit - 9]}...{name[-6:]}"


def _rich_bar(files: int, pixels: int) -> tuple[RichProgress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    display = RichProgress(
        TextColumn("{task.fields[files]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:.1f}/{task.total:.1f} MP", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
        console=Console(stderr=True),
        # On one terminal, paths go above the bar; when stdout is a pipe they must reach it.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
        speed_estimate_period=120.0,
    )
    return display, display.add_task("", total=pixels / 1e6, files=f"0/{files}", name="loading the model")


def open_progress(choice: str, out: Output, *, files: int, pixels: int) -> Progress:
    """The display for `--progress`.

    Args:
        choice: auto, bar, plain or none; `bar` without a terminal becomes plain, with a warning.
        out: for plain lines; `-q` silences them and turns `auto` into none.
        files: pictures to do.
        pixels: their output pixels together.
    """
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if choice == "bar" and not terminal:
        out.warn("--progress bar needs a terminal on stderr, so there is one line a file instead")
    if choice == "none" or files == 0 or (choice == "auto" and out.quiet):
        return _Silent()
    if terminal and choice in ("auto", "bar"):
        return _Bar(files, pixels)
    return _Plain(out, files)
