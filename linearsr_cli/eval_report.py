"""What an evaluation found, written out: the table on stdout, files beside it, and the exit code."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.errors import ImageError
from linearsr_cli.errors import ExitCode
from linearsr_cli.eval_settings import EvalOptions
from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from linearsr.evaluation.results import Evaluation
    from linearsr.evaluation.statistics import Row
    from linearsr.evaluation.thresholds import Threshold

__all__ = ["report_evaluation"]

FORMATS = {".json": "json", ".csv": "csv", ".md": "md", ".tex": "latex", ".txt": "table"}


def report_evaluation(
    evaluation: Evaluation, thresholds: Sequence[Threshold], options: EvalOptions, out: Output
) -> ExitCode:
    """Print and write what was asked for, then say what is missing or too low.

    Returns:
        0; 3 if pictures failed, a threshold is missed or a file cannot be written, which loses nothing else; 4 if
        nothing could be scored.
    """
    from linearsr.evaluation.statistics import summarise

    rows = summarise(evaluation, resamples=options.bootstrap) if evaluation.images else ()
    kind = options.format
    if kind == "auto":
        kind = "table" if sys.stdout.isatty() else "json"
    written = True
    for path in options.output:
        if rows or path.suffix.lower() == ".json":  # which holds the failures as well
            written &= _write(path, _text(FORMATS[path.suffix.lower()], evaluation, rows, options), out)
    if options.per_image is not None and rows:
        written &= _write(options.per_image, _per_image(evaluation, options.per_image), out)
    _tell(evaluation, out, kind)
    code = _exit_code(evaluation, rows, thresholds, out)
    if code is ExitCode.DONE and not written:
        code = ExitCode.SOME_FAILED
    try:
        if rows or kind == "json":
            out.data(_text(kind, evaluation, rows, options).rstrip("\n"))
    except BrokenPipeError:
        if code is ExitCode.DONE:  # else the verdict counts for more than a reader that went away
            raise
    return code


def _text(kind: str, evaluation: Evaluation, rows: Sequence[Row], options: EvalOptions) -> str:
    from linearsr.evaluation import records, tables

    if kind == "json":
        return json.dumps(records.to_json(evaluation, rows, _facts(options)), indent=2, allow_nan=False) + "\n"
    if kind == "csv":
        return records.to_csv(evaluation, rows)
    shown = {"intervals": options.bootstrap > 0, "differences": options.differences}
    if kind == "md":
        return tables.to_markdown(evaluation, rows, _facts(options), **shown)
    if kind == "latex":
        return tables.to_latex(evaluation, rows, _facts(options), **shown)
    plain = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    width = shutil.get_terminal_size((120, 24)).columns
    return tables.to_text(evaluation, rows, _facts(options), width=width, ascii=plain, **shown)


def _facts(options: EvalOptions) -> dict[str, Any]:
    """Versions, machine, date and command."""
    import torch

    from linearsr import __version__

    return {
        "command": shlex.join(["linearsr", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "linearsr": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "device": options.device,
        **({"environment": list(options.environment)} if options.environment else {}),
    }


def _per_image(evaluation: Evaluation, path: Path) -> str:
    from linearsr.evaluation import records

    if path.suffix.lower() == ".csv":
        return records.per_image_csv(evaluation)
    return json.dumps(records.per_image_json(evaluation), indent=2, allow_nan=False) + "\n"


def _write(path: Path, text: str, out: Output) -> bool:
    """Write one file; whether it is there now."""
    from linearsr.atomic import write_bytes

    try:
        write_bytes(path, text.encode("utf-8"))
    except ImageError as error:
        out.failure(str(path), error)
        return False
    out.info(f"wrote {clean(path)}")
    return True


def _tell(evaluation: Evaluation, out: Output, kind: str) -> None:
    """Say on stderr what a machine's format would hide from people."""
    if kind == "table":  # the table ends with the same lines
        return
    for note in evaluation.notes:
        out.info(f"note: {note}")
    by_reason: dict[tuple[str, str | None], list[str]] = {}
    for skipped in evaluation.skipped:
        by_reason.setdefault((skipped.reason, skipped.hint), []).append(skipped.name)
    for (reason, hint), names in by_reason.items():
        out.info(f"note: skipped {', '.join(names)}: {reason}" + ("" if hint is None else f"; {hint}"))


def _exit_code(evaluation: Evaluation, rows: Sequence[Row], thresholds: Sequence[Threshold], out: Output) -> ExitCode:
    from linearsr.evaluation.thresholds import check

    failed = len({(failure.dataset, failure.image) for failure in evaluation.failures})
    if not rows:
        out.alarm(f"nothing could be scored: {failed} of {failed} pictures failed")
        return ExitCode.NOTHING_DONE
    violations = check(rows, thresholds, evaluation.methods)
    for violation in violations:
        out.alarm(f"misses --fail-under: {violation.text}")
    if failed:
        total = failed + len({(image.dataset, image.image) for image in evaluation.images})
        out.alarm(f"{failed} of {total} pictures could not be scored and count in no mean")
    return ExitCode.SOME_FAILED if violations or evaluation.failures else ExitCode.DONE
