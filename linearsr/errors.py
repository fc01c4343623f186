"""The errors LinearSR raises on purpose. Standard library only.

Every message names the value, what was expected and, as `hint`, what to do next. The command line prints both on one
line each and maps the type to an exit code; a library user catches `LinearSRError`.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DeviceError",
    "ImageError",
    "LinearSRError",
    "OutOfMemoryError",
    "ShapeError",
    "TrainingError",
    "WeightsError",
]


class LinearSRError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what is wrong, with the value, and what was expected. One line, no full stop at the end.
        hint: what to do next; shown after `hint:`.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LinearSRError, ValueError):
    """A setting is unknown, of the wrong type or out of range. Found before any weights load."""


class ShapeError(LinearSRError, ValueError):
    """A tensor or array has the wrong number of axes, channels or elements."""


class ImageError(LinearSRError):
    """One picture cannot be read or written. The other pictures of a run are unaffected."""


class WeightsError(LinearSRError):
    """Weights are missing, damaged or do not fit the network."""


class DeviceError(LinearSRError):
    """The requested device or precision is not available."""


class OutOfMemoryError(DeviceError):
    """The work does not fit into memory at the smallest tile."""


class TrainingError(LinearSRError):
    """Training cannot go on: no data, a non-finite loss, a checkpoint that does not match."""
