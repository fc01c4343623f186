"""When a run should stop: a signal or a time limit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopFlag"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopFlag:
    """Set by a signal or a time limit; read by the loop before every step."""

    def __init__(self, max_hours: float | None) -> None:
        self.signal: int | None = None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self.signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals for the time of a run."""

        def handle(number: int, _: FrameType | None) -> None:
            self.signal = number

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
