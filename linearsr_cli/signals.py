"""Ctrl-C and SIGTERM end a run between files or drop the current one, never in the middle of writing a file."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["StopSignals", "Stopped", "hold"]

_active: list[StopSignals] = []


class Stopped(BaseException):
    """A signal asks the run to end. Not an `Exception`, so that no handler for errors of one file swallows it.

    Args:
        signum: the signal, SIGINT or SIGTERM.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class StopSignals:
    """Context in which SIGINT and SIGTERM raise `Stopped` in the main thread, at once or after `hold()`."""

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._pending: int | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._before[signum] = signal.signal(signum, self._handle)
        _active.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _active.remove(self)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self._holding and self._pending is None:
            self._pending = signum
            return
        raise Stopped(signum)  # a second signal does not wait

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let the block end before a signal takes effect: a file being written is finished."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            signum, self._pending = self._pending, None
        if signum is not None:
            raise Stopped(signum)


@contextmanager
def hold() -> Iterator[None]:
    """`StopSignals.hold` of the innermost context; without one the block simply runs."""
    if not _active:
        yield
        return
    with _active[-1].hold():
        yield
