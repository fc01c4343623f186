"""From an exception to two short lines on stderr and an exit code. The only place that knows the exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum

from linearsr.errors import (
    ConfigError,
    DeviceError,
    ImageError,
    LinearSRError,
    ShapeError,
    TrainingError,
    WeightsError,
)

__all__ = [
    "ExitCode",
    "NoInputError",
    "debug_wanted",
    "describe",
    "exit_code_of",
    "exit_code_of_files",
    "is_usage_error",
    "report",
]


class ExitCode(IntEnum):
    """What the process returns; the table of `docs/reference/cli.md`."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    SOME_FAILED = 3
    NOTHING_DONE = 4
    WEIGHTS = 5
    DEVICE = 6
    INTERRUPTED = 130
    TERMINATED = 143


class NoInputError(LinearSRError):
    """No input matched, so there is nothing to do."""


_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (WeightsError, ExitCode.WEIGHTS),
    (DeviceError, ExitCode.DEVICE),
    (MemoryError, ExitCode.DEVICE),
    (ConfigError, ExitCode.USAGE),
    (ShapeError, ExitCode.USAGE),
    (ImageError, ExitCode.NOTHING_DONE),
    (TrainingError, ExitCode.NOTHING_DONE),
    (NoInputError, ExitCode.NOTHING_DONE),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """Exit code of an error that ends the run."""
    if is_usage_error(error):
        return ExitCode.USAGE
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.UNEXPECTED


def exit_code_of_files(failures: Sequence[BaseException], has_good: bool) -> ExitCode:
    """Exit code of a run that came to its end: of the failures, if all are of one telling kind and nothing else is.

    Args:
        failures: the error of each file that failed.
        has_good: whether a file was done, or rightly skipped.
    """
    if not failures:
        return ExitCode.DONE
    if has_good:
        return ExitCode.SOME_FAILED
    codes = {exit_code_of(error) for error in failures}
    telling = (ExitCode.USAGE, ExitCode.DEVICE, ExitCode.UNEXPECTED)
    return codes.pop() if len(codes) == 1 and codes <= set(telling) else ExitCode.NOTHING_DONE


def debug_wanted() -> bool:
    """Whether `LINEARSR_DEBUG` asks for tracebacks; unset, empty and 0 mean no."""
    return os.environ.get("LINEARSR_DEBUG", "") not in ("", "0")


def is_usage_error(error: BaseException) -> bool:
    """Whether Typer's parser raised `error`. Its classes are private, so they are known by their two members."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def describe(error: BaseException) -> tuple[str, str | None]:
    """Message and hint of any error, each on one line."""
    if isinstance(error, LinearSRError):
        return _one_line(error.message), None if error.hint is None else _one_line(error.hint)
    if is_usage_error(error):
        context = getattr(error, "ctx", None)
        command = "linearsr" if context is None else context.command_path.partition("[")[0].strip()
        message = error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
        return _one_line(message.rstrip(".")), f"see `{command} --help`"
    if isinstance(error, MemoryError):
        return "out of memory", "use a smaller `--tile`, or split the picture"
    if isinstance(error, OSError) and error.strerror is not None:
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _one_line(f"{place}{error.strerror}"), "check the path, its permissions and the free space"
    text = _one_line(f"unexpected {type(error).__name__}: {error}")
    return text, "set LINEARSR_DEBUG=1 to see the traceback, and please report it"


def report(error: BaseException) -> None:
    """Write an error to stderr; with `LINEARSR_DEBUG=1` its traceback first."""
    if debug_wanted() and not is_usage_error(error):
        sys.stderr.write("".join(traceback.format_exception(error)))
    message, hint = describe(error)
    sys.stderr.write(f"error: {message}\n")
    if hint is not None:
        sys.stderr.write(f"hint: {hint}\n")
    sys.stderr.flush()


def _one_line(text: str) -> str:
    """Join lines and escape control characters, which file names may hold."""
    joined = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in joined)
