"""What a run writes down: one JSON object a line, a table of each stage's curve, and TensorBoard scalars if asked.

The JSON lines come first and are flushed one by one, so that a run can be read while it goes on and after it broke off.
They are a history: after a resume, steps appear again. The curves are rewritten instead, one row a step.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import numbers
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from linearsr.atomic import write_bytes
from linearsr.errors import ConfigError, ImageError, TrainingError

__all__ = ["CURVE_NAME", "LOG_NAME", "RunLog", "read_log", "wants_tensorboard"]

LOG_NAME = "log.jsonl"
CURVE_NAME = "curve.csv"
TENSORBOARD_NAME = "tensorboard"
_BLOCK = 65_536
_DISK_HINT = "free some space or use another `--output-dir`"


def _plain(value: Any) -> Any:  # noqa: ANN401
    """What JSON can say of a value: a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, numbers.Integral):
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _mend(path: Path) -> None:
    """End the file with a whole line: a killed run may leave one without its newline, or half of one."""
    with path.open("r+b") as file:
        end = start = file.seek(0, os.SEEK_END)
        tail = b""
        while start > 0 and b"\n" not in tail:
            size = min(_BLOCK, start)
            start = file.seek(start - size)
            tail = file.read(size) + tail
        torn = tail.rpartition(b"\n")[2]
        if not torn:
            return
        if _is_entry(torn):
            file.seek(end)
            file.write(b"\n")
        else:
            file.truncate(end - len(torn))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Entries of a log, oldest first, also while a run is writing it.

    Args:
        path: the `log.jsonl`. A last line that is cut off is left out.

    Raises:
        TrainingError: there is no such file, or a line before the last is no JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be read: {error.strerror}", hint="name a run folder that `linearsr train` made"
        ) from error
    entries = []
    for number, line in enumerate(lines, start=1):
        if _is_entry(line):
            entries.append(json.loads(line))
        elif number < len(lines):
            raise TrainingError(f"{path}, line {number}: {line[:60]!r} is not a JSON object", hint="remove that line")
    return entries


def wants_tensorboard(report_to: Literal["auto", "tensorboard", "none"]) -> bool:
    """Whether to write TensorBoard files; `auto` does where the package is there."""
    if report_to != "auto":
        return report_to == "tensorboard"
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        return False
    return True


class _Scalars:
    """TensorBoard scalars, a sub-folder for each stage, since the steps of every stage start again."""

    def __init__(self, folder: Path) -> None:
        try:
            self._make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "TensorBoard files were asked for, but the package tensorboard is not installed",
                hint='pip install "linearsr[train]", or leave them out',
            ) from error
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._last: dict[tuple[str, str], int] = {}

    def add(self, stage: str, group: str, step: int, values: Mapping[str, Any]) -> None:
        """Write the finite numbers among `values` as `group/name`."""
        if step < self._last.get((stage, group), step):  # the stage has started again
            self._writers.pop(stage).close()
        if stage not in self._writers:
            # What was written at this step and beyond before a break or a new start is hidden, as the curve drops it.
            self._writers[stage] = self._make(str(self._folder / stage), purge_step=step)
            self._last = {key: last for key, last in self._last.items() if key[0] != stage}
        self._last[stage, group] = step
        for name, value in values.items():
            if isinstance(value, numbers.Real) and math.isfinite(value):
                self._writers[stage].add_scalar(f"{group}/{name}", float(value), step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _cell(value: object) -> str:
    """A table cell: the shortest digits that give the same number back, nothing for what is not finite or unknown."""
    plain = _plain(value)
    return "" if plain is None else str(plain)


def _rows_before(path: Path, step: int) -> tuple[list[str], list[dict[str, str]]]:
    """Columns of a curve, and its rows before a step; nothing where there is no file."""
    if not path.exists():
        return ["step"], []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # a spreadsheet may have put a mark before the text
            reader = csv.DictReader(file, restval="", strict=True)
            rows = [row for row in reader if int(row["step"]) < step]
            columns = list(reader.fieldnames if reader.fieldnames is not None else ["step"])
        if "step" not in columns or any(None in row for row in rows):
            raise ValueError("a row does not fit the columns")
    except (KeyError, ValueError, csv.Error) as error:
        raise TrainingError(
            f"{path} is not a table of numbers by step ({error})", hint="move it away; the log has all its numbers"
        ) from error
    return columns, rows


class RunLog:
    """Append-only log of a run.

    Args:
        folder: of the run; created. Gets `log.jsonl`, and `tensorboard/` if asked for. A line that a killed run left
            torn is completed or dropped.
        tensorboard: also write every number as a TensorBoard scalar.
        enabled: False writes nothing and creates nothing; for all processes but the first.

    Raises:
        ConfigError: TensorBoard was asked for and is not installed.
        TrainingError: the folder or the log cannot be written.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False, enabled: bool = True) -> None:
        self._path = folder / LOG_NAME
        self._file: io.FileIO | None = None
        self._scalars: _Scalars | None = None
        if not enabled:
            return
        if tensorboard:
            self._scalars = _Scalars(folder / TENSORBOARD_NAME)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                _mend(self._path)
            # Unbuffered, so that a line is one write and a kill between two writes leaves whole lines.
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise self._refusal(self._path, error.strerror) from error

    @classmethod
    def off(cls) -> RunLog:
        """A log that does nothing."""
        return cls(Path(), enabled=False)

    def write(self, event: str, **values: Any) -> None:  # noqa: ANN401
        """Append an event with the wall time; a number that is not finite is written as null.

        Args:
            event: its kind.
            values: what JSON can hold. With a `step` its numbers go to TensorBoard too, by the `stage` if there is one.

        Raises:
            TrainingError: the disk is full or refuses.
        """
        if self._file is None:
            return
        entry = {"event": event, "time": round(time.time(), 2), **values}
        line = (json.dumps(_plain(entry), allow_nan=False) + "\n").encode("utf-8")
        try:
            written = self._file.write(line)
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            raise self._refusal(self._path, error.strerror) from error
        if self._scalars is not None and isinstance(values.get("step"), int):
            numbers_only = {name: value for name, value in values.items() if name not in ("step", "stage")}
            self._scalars.add(str(values.get("stage", "")), event, values["step"], numbers_only)

    def curve(self, stage_folder: Path, step: int, values: Mapping[str, float | str | None]) -> None:
        """Put a row into a stage's `curve.csv`; rows of this step and later ones, left by a broken-off run, go.

        The table has the columns of all its rows, `step` first, and is replaced as a whole: a kill leaves the old one
        or the new one. A number that is not finite is an empty cell.

        Args:
            stage_folder: such as `RUN/stages/pretrain`; created.
            step: optimizer step of the stage.
            values: by column.

        Raises:
            TrainingError: the table that is there cannot be continued, or the disk is full or refuses; the old table is
                untouched.
        """
        if self._file is None:
            return
        path = stage_folder / CURVE_NAME
        columns, rows = _rows_before(path, step)
        columns += [name for name in values if name not in columns]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        writer.writerow({**{name: _cell(value) for name, value in values.items()}, "step": step})
        try:
            stage_folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.getvalue().encode("utf-8"))
        except OSError as error:
            raise self._refusal(path, error.strerror) from error
        except ImageError as error:
            raise TrainingError(error.message, hint=_DISK_HINT) from error
        if self._scalars is not None:
            self._scalars.add(stage_folder.name, "curve", step, values)

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._scalars is not None:
            self._scalars.close()

    @staticmethod
    def _refusal(path: Path, reason: str | None) -> TrainingError:
        return TrainingError(f"{path} cannot be written: {reason}", hint=_DISK_HINT)
