"""Reading validation curves back: from a table, from a run's folder, or from the log of a run without stages.

Owns the names of columns and files, and the errors of tables written by others. Judges nothing: `replay` hands the
evaluations to `Esgf` as the trainer does.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linearsr.config import from_dict
from linearsr.errors import ConfigError, TrainingError
from linearsr_train.esgf import Esgf, EsgfConfig, Evaluation
from linearsr_train.runlog import CURVE_NAME, LOG_NAME, read_log

__all__ = ["PERCEPTUAL_COLUMNS", "Curve", "read_curves", "read_esgf_config", "read_table", "replay"]

PERCEPTUAL_COLUMNS = ("perceptual", "lpips", "gmsd", "dists")
"""Columns that are taken for the perceptual score, in this order. Lower is better in all of them."""
LOG_COLUMNS = ("x4/psnr_1", "x4/perceptual_4")
"""Values of a log's validation events that are taken where no column is named."""
CONFIG_NAME = "config.json"
STAGES_NAME = "stages"


@dataclass(frozen=True, slots=True)
class Curve:
    """The evaluations of one stage as they were written down."""

    name: str
    """Of the stage, or of the file."""
    perceptual_name: str
    evaluations: tuple[Evaluation, ...]
    """Steps rise; a value that was not finite is NaN."""


def _number(text: str | None, where: str) -> float:
    """A cell as a number; an empty one is how the trainer writes what was not finite."""
    try:
        return float(text) if text is not None and text.strip() else math.nan
    except ValueError:
        raise ConfigError(f"{where} is {text!r}, expected a number") from None


def _step(text: str | None, where: str) -> int:
    value = _number(text, where)
    if not (math.isfinite(value) and value == int(value) and value >= 0):
        raise ConfigError(f"{where} is {text!r}, expected a whole number of steps, 0 or more")
    return int(value)


def _find_column(path: Path, header: list[str], wanted: str | None, usual: tuple[str, ...], option: str) -> str:
    """Name of a column as it stands in the header; capitals and spaces around do not matter."""
    names = {name.strip().lower(): name for name in reversed(header)}
    choices = usual if wanted is None else (wanted.strip().lower(),)
    for name in choices:
        if name in names:
            return names[name]
    expected = repr(choices[0]) if len(choices) == 1 else f"one of {', '.join(map(repr, choices))}"
    raise ConfigError(
        f"{path} has no column {expected}, it has {', '.join(map(repr, header)) or 'none'}",
        hint=f"name a column with `{option}`" if option else "the first line must name the columns",
    )


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a table; the first thing given is the header, as a row of line 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, None)
            if not header:
                raise ConfigError(f"{path} is empty, expected a table with a header")
            yield 1, dict(zip(header, header, strict=False))
            for cells in reader:
                if len(cells) > len(header):
                    raise ConfigError(f"{path}, line {reader.line_num}: {len(cells)} cells, expected {len(header)}")
                if cells:
                    yield reader.line_num, dict(zip(header, cells, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no table: {error}", hint="save it as CSV in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def read_table(
    path: Path, *, name: str | None = None, psnr_column: str | None = None, perceptual_column: str | None = None
) -> Curve:
    """Read a CSV file with a header.

    Args:
        path: columns `step`, `psnr` and one of `PERCEPTUAL_COLUMNS`; others are ignored. An empty cell or `nan` is a
            value that was not finite.
        name: of the curve; the file's by default.
        psnr_column: another column for PSNR.
        perceptual_column: another column for the perceptual score.

    Raises:
        ConfigError: no such file, no table, no such column, no row, a cell that is no number, steps that do not rise.
    """
    rows = _rows(path)
    header = list(next(rows)[1])
    step_name = _find_column(path, header, None, ("step",), "")
    psnr_name = _find_column(path, header, psnr_column, ("psnr",), "--psnr-column")
    perceptual_name = _find_column(path, header, perceptual_column, PERCEPTUAL_COLUMNS, "--perceptual-column")
    evaluations: list[Evaluation] = []
    for line, row in rows:
        where = f"{path}, line {line}, column"
        step = _step(row.get(step_name), f"{where} {step_name!r}")
        if evaluations and step <= evaluations[-1].step:
            raise ConfigError(f"{where} {step_name!r} is {step} after {evaluations[-1].step}, expected steps to rise")
        psnr = _number(row.get(psnr_name), f"{where} {psnr_name!r}")
        evaluations.append(Evaluation(step, psnr, _number(row.get(perceptual_name), f"{where} {perceptual_name!r}")))
    if not evaluations:
        raise ConfigError(f"{path} has a header and no row, expected at least one evaluation")
    return Curve(path.name if name is None else name, perceptual_name.strip(), tuple(evaluations))


def _read_log_curve(path: Path, psnr_column: str | None, perceptual_column: str | None) -> Curve:
    """The validation events of a log. After a resume steps appear again: the later ones count."""
    psnr_name = LOG_COLUMNS[0] if psnr_column is None else psnr_column
    perceptual_name = LOG_COLUMNS[1] if perceptual_column is None else perceptual_column
    points: dict[int, Evaluation] = {}
    for entry in _read_entries(path):
        if entry.get("event") != "validation":
            continue
        for column, option in ((psnr_name, "--psnr-column"), (perceptual_name, "--perceptual-column")):
            if column not in entry:
                raise ConfigError(f"{path}: a validation has no {column!r}", hint=f"name a value with `{option}`")
        step = _step(str(entry.get("step")), f"{path}: the step of a validation")
        points = {old: point for old, point in points.items() if old < step}
        values = (entry[name] for name in (psnr_name, perceptual_name))
        points[step] = Evaluation(
            step, *(math.nan if v is None else _number(str(v), f"{path}: a value") for v in values)
        )
    if not points:
        raise ConfigError(f"{path} holds no validation, expected at least one", hint="wait for the first one")
    return Curve(path.parent.name, perceptual_name, tuple(points.values()))


def _read_entries(path: Path) -> list[dict[str, object]]:
    try:
        return read_log(path)
    except TrainingError as error:
        raise ConfigError(error.message, hint=error.hint) from error


def _with_failure(curve: Curve, step: int | None) -> Curve:
    """The curve ended by a loss that was not finite, which a table of validations does not show."""
    if step is None or step < curve.evaluations[-1].step:
        return curve
    return Curve(curve.name, curve.perceptual_name, (*curve.evaluations, Evaluation(step, math.nan, math.nan)))


def _stages_in(folder: Path) -> dict[str, int | None]:
    """Stages in the order they began, with the step of a loss that was not finite if nothing came after it."""
    stages: dict[str, int | None] = {}
    for entry in _read_entries(folder / LOG_NAME) if (folder / LOG_NAME).is_file() else []:
        stage, step = entry.get("stage"), entry.get("step")
        if isinstance(stage, str) and isinstance(step, int) and entry.get("event") in ("validation", "nonfinite"):
            stages[stage] = step if entry["event"] == "nonfinite" else None
    return stages


def read_curves(source: Path, *, psnr_column: str | None = None, perceptual_column: str | None = None) -> list[Curve]:
    """Read all curves of a run's folder, in the order they began, or the one of a table.

    Args:
        source: a folder with `stages/*/curve.csv` or a `log.jsonl` with validations, or a CSV file.
        psnr_column: as in `read_table`; for a log, the value of a validation (default `x4/psnr_1`).
        perceptual_column: likewise (default `x4/perceptual_4`).

    Raises:
        ConfigError: as `read_table`; or nothing of the kind is there.
    """
    if not source.is_dir():
        if not source.exists():
            raise ConfigError(f"{source} does not exist, expected a run's folder or a CSV file")
        return [read_table(source, psnr_column=psnr_column, perceptual_column=perceptual_column)]
    tables = list((source / STAGES_NAME).glob(f"*/{CURVE_NAME}"))
    if not tables and (source / LOG_NAME).is_file():
        return [_read_log_curve(source / LOG_NAME, psnr_column, perceptual_column)]
    if not tables:
        raise ConfigError(
            f"{source} holds neither {STAGES_NAME}/*/{CURVE_NAME} nor {LOG_NAME}, expected the folder of a run",
            hint="give the folder that `linearsr train --output-dir` named, or a CSV file",
        )
    stages = _stages_in(source)
    order = {name: place for place, name in enumerate(stages)}
    tables.sort(key=lambda table: (order.get(table.parent.name, len(order)), table.parent.name))
    columns = {"psnr_column": psnr_column, "perceptual_column": perceptual_column}
    curves = [read_table(table, name=table.parent.name, **columns) for table in tables]
    return [_with_failure(curve, stages.get(curve.name)) for curve in curves]


def read_esgf_config(source: Path) -> EsgfConfig:
    """The rule's settings that a run was made with; the defaults for a table or an older run.

    Raises:
        ConfigError: the settings do not exist any more, or the file is damaged.
    """
    path = source / CONFIG_NAME
    if not path.is_file():
        return EsgfConfig()
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return from_dict(EsgfConfig, settings.get("esgf", {}) if isinstance(settings, dict) else {}, where="esgf")


def replay(curve: Curve, config: EsgfConfig | None = None) -> Esgf:
    """Feed a curve to the controller until it says stop; the rest of the curve is left out."""
    watch = Esgf(EsgfConfig() if config is None else config)
    for evaluation in curve.evaluations:
        if watch.update(evaluation.step, evaluation.psnr, evaluation.perceptual).status != "running":
            break
    return watch
