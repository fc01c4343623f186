"""What an evaluation found, written out: the table on stdout, files beside it, and the exit code."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.errors import ImageError, WeightsError
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
    facts = _facts(evaluation, options)
    written = True
    for path in options.output:
        if rows or path.suffix.lower() == ".json":  # which holds the failures as well
            written &= _write(path, _text(FORMATS[path.suffix.lower()], evaluation, rows, facts, options), out)
    for path in options.per_image:
        if rows or path.suffix.lower() == ".json":
            written &= _write(path, _per_image(evaluation, facts, path), out)
    _tell(evaluation, out, kind)
    code = _exit_code(evaluation, rows, thresholds, out)
    if code is ExitCode.DONE and not written:
        code = ExitCode.SOME_FAILED
    try:
        if rows or kind == "json":
            out.data(_text(kind, evaluation, rows, facts, options).rstrip("\n"))
    except BrokenPipeError:
        if code is ExitCode.DONE:  # else the verdict counts for more than a reader that went away
            raise
    return code


def _text(
    kind: str, evaluation: Evaluation, rows: Sequence[Row], facts: Mapping[str, Any], options: EvalOptions
) -> str:
    from linearsr.evaluation import latex, records, tables

    if kind == "json":
        return json.dumps(records.to_json(evaluation, rows, facts), indent=2, allow_nan=False) + "\n"
    if kind == "csv":
        return records.to_csv(evaluation, rows)
    shown = {"intervals": options.bootstrap > 0, "differences": options.differences}
    if kind == "md":
        return tables.to_markdown(evaluation, rows, facts, **shown)
    if kind == "latex":
        return latex.to_latex(evaluation, rows, facts, **shown)
    plain = (sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8"
    width = shutil.get_terminal_size((120, 24)).columns
    return tables.to_text(evaluation, rows, facts, width=width, ascii=plain, **shown)


def _facts(evaluation: Evaluation, options: EvalOptions) -> dict[str, Any]:
    """Versions, machine, date, command, and which weights LPIPS is of."""
    import torch

    from linearsr import __version__
    from linearsr.device import resolve_device

    return {
        "command": shlex.join(["linearsr", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "linearsr": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "versions": _versions(evaluation, options),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "device": str(resolve_device(options.device)),
        **_lpips_weights(evaluation, options),
        **({"environment": list(options.environment)} if options.environment else {}),
    }


def _versions(evaluation: Evaluation, options: EvalOptions) -> dict[str, str]:
    """Of installed packages that pixels and these scores depend on, by the names that pip knows."""
    from linearsr.evaluation.cache import OPENCV
    from linearsr.metrics import METRICS

    of_metrics = {METRICS[name].package for name in evaluation.metrics} - {""}
    if options.lpips_weights is not None:
        of_metrics.discard("lpips")
    found = {}
    for name in ("numpy", "pillow", *OPENCV, *sorted(of_metrics)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _lpips_weights(evaluation: Evaluation, options: EvalOptions) -> dict[str, str]:
    """Name and digest of the file, where there is one."""
    from linearsr.model_folder import file_sha256

    path = options.lpips_weights
    if path is None or "lpips" not in evaluation.metrics:
        return {}
    try:
        digest = f"sha256 {file_sha256(path.expanduser())}"
    except WeightsError:  # removed since: no reason to lose the scores
        digest = "which is not there any more"
    return {"lpips_weights": f"{path.name}, {digest}"}


def _per_image(evaluation: Evaluation, facts: Mapping[str, Any], path: Path) -> str:
    from linearsr.evaluation import records

    if path.suffix.lower() == ".csv":
        return records.per_image_csv(evaluation)
    return json.dumps(records.per_image_json(evaluation, facts), indent=2, allow_nan=False) + "\n"


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
    from linearsr.evaluation.legend import not_computed

    if kind == "table":  # the table ends with the same lines
        return
    for note in evaluation.notes:
        out.info(f"note: {note}")
    for line in not_computed(evaluation):
        out.info(f"note: not computed: {line}")


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
    if evaluation.unsaved:
        count = len(evaluation.unsaved)
        out.alarm(f"{count} result{'s' if count > 1 else ''} could not be saved; all scores count")
    return ExitCode.SOME_FAILED if violations or evaluation.failures or evaluation.unsaved else ExitCode.DONE
