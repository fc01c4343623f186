r"""Doing a plan of `linearsr degrade`: picture after picture; one bad file does not end the run.

With `--json`, stdout holds one object a line. For every input, as soon as it is finished:

    {"event": "file", "input": "a.jpg", "output": "LR/a.png", "hr_output": null, "status": "done", "width": 160,
     "height": 120, "hr_width": 640, "hr_height": 480, "seconds": 0.1, "tags": ["blur", "jpeg:weak"], "notes": []}

`status` is `done`, `skipped` (it was there), `failed`, which adds `error` and mostly `hint`, or with `--dry-run`
`planned`. Last comes

    {"event": "summary", "done": 1, "skipped": 0, "failed": 0, "seconds": 0.3, "megapixels": 0.307, "exit_code": 0,
     "table": "LR/degradation.csv"}

with the megapixels of the originals; `table` is null where none was written.
"""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING

from linearsr.errors import LinearSRError
from linearsr_cli.degrade_plan import DegradeItem, DegradeOptions, DegradePlan
from linearsr_cli.errors import ExitCode, debug_wanted, exit_code_of, exit_code_of_files
from linearsr_cli.output import Output, clean
from linearsr_cli.progress import Progress, open_progress
from linearsr_cli.signals import Stopped, hold

if TYPE_CHECKING:
    from linearsr_train.data.pair_files import PairFiles
    from linearsr_train.data.pair_table import PairRow

__all__ = ["run_degrade", "show_degrade_plan"]


class _Run:
    """One run: its plan, its output and what became of the pictures so far."""

    def __init__(self, plan: DegradePlan, out: Output, progress: Progress) -> None:
        self.plan, self.out, self.progress = plan, out, progress
        self.items = {item.pair.name: item for item in plan.todo if item.pair is not None}
        self.failures: list[tuple[str, BaseException]] = []
        self.done = self.pixels = 0
        self.started = self.file_started = time.perf_counter()

    @property
    def skipped(self) -> int:
        return sum(item.action == "skip" for item in self.plan.items)

    def exit_code(self) -> ExitCode:
        return exit_code_of_files([error for _, error in self.failures], self.done > 0 or self.skipped > 0)

    def settle(self, item: DegradeItem) -> None:
        """Report an item that the plan has decided already."""
        if item.action == "skip" and item.pair is not None:
            self.out.result(item.pair.lr, item.event("skipped", tags=item.tags))
        elif item.error is not None:
            self.fail(item, item.error)

    def fail(self, item: DegradeItem, error: BaseException, seconds: float = 0.0) -> None:
        if debug_wanted():
            self.out.info("".join(traceback.format_exception(error)).rstrip())
        self.failures.append((item.source.name, error))
        self.out.failure(item.source.name, error)
        failed = replace(item, action="fail", error=error)
        self.out.event(failed.event("failed", seconds=seconds))

    def on_start(self, pair: PairFiles) -> None:
        self.file_started = time.perf_counter()
        self.progress.begin(self.items[pair.name].source.name, self.items[pair.name].pixels)

    def on_made(self, pair: PairFiles, row: PairRow, notes: tuple[str, ...]) -> None:
        item, seconds = self.items[pair.name], time.perf_counter() - self.file_started
        self.done += 1
        self.pixels += item.pixels
        for note in notes:
            self.out.info(f"note: {clean(item.source.name)}: {note}")
        self.progress.end(f"{clean(item.source.name)} -> {clean(pair.lr)} {row.width}x{row.height}: {row.tags}")
        tags = tuple(row.tags.split(", "))
        self.out.result(pair.lr, item.event("done", seconds=seconds, tags=tags, notes=notes))

    def on_failed(self, pair: PairFiles, error: Exception) -> None:
        item = self.items[pair.name]
        self.progress.end(f"{clean(item.source.name)} failed")
        self.fail(item, error, time.perf_counter() - self.file_started)

    def summarise(self, code: ExitCode) -> None:
        seconds, table = time.perf_counter() - self.started, self.table()
        counts = {"done": self.done, "skipped": self.skipped, "failed": len(self.failures)}
        self.out.event(
            {
                "event": "summary",
                **counts,
                "seconds": round(seconds, 3),
                "megapixels": round(self.pixels / 1e6, 3),
                "exit_code": int(code),
                "table": table,
            }
        )
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        self.out.info(f"{said}; {self.pixels / 1e6:.1f} MP in {seconds:.1f} s")
        if table is not None:
            self.out.info(f"what was done to each: {clean(table)}")

    def table(self) -> str | None:
        from linearsr_train.data.pair_table import TABLE

        return str(self.plan.folder.path / TABLE) if self.plan.folder.is_there else None


def run_degrade(plan: DegradePlan, options: DegradeOptions, out: Output) -> ExitCode:
    """Do a plan and report it, picture by picture and as a whole.

    Raises:
        Stopped, LinearSRError: a signal, or the tables cannot be written; pictures finished so far are complete and
            the summary is out.
    """
    from linearsr_train.data.pair_files import make_pairs

    pixels = sum(item.pixels for item in plan.todo)
    with open_progress("auto", out, files=len(plan.todo), pixels=pixels) as progress:
        run = _Run(plan, out, progress)
        try:
            for item in plan.items:
                run.settle(item)
            make_pairs(
                [item.pair for item in plan.todo if item.pair is not None],
                plan.folder,
                overwrite=options.on_exists == "overwrite",
                on_start=run.on_start,
                on_made=run.on_made,
                on_failed=run.on_failed,
                guard=hold,
            )
        except (Stopped, LinearSRError) as error:
            run.summarise(ExitCode(error.exit_code) if isinstance(error, Stopped) else exit_code_of(error))
            raise
    code = run.exit_code()
    run.summarise(code)
    return code


def show_degrade_plan(plan: DegradePlan, out: Output) -> ExitCode:
    """Print the plan to stdout, as lines for people or as JSON lines.

    Returns:
        The exit code the run would end with if no picture failed later.
    """
    status = {"make": "planned", "skip": "skipped", "fail": "failed"}
    for item in plan.items:
        if out.json:
            out.event(item.event(status[item.action], tags=item.tags))
        elif item.error is not None:
            out.failure(item.source.name, item.error)
        elif item.pair is not None:
            sizes = f"{item.hr_size[0]}x{item.hr_size[1]} -> {item.size[0]}x{item.size[1]}"
            out.data(f"{item.action:5} {clean(item.source.name)} -> {clean(item.pair.lr)}  {sizes}")
    failures = [item.error for item in plan.items if item.error is not None]
    planned = len(plan.todo)
    skipped = len(plan.items) - planned - len(failures)
    code = exit_code_of_files(failures, len(failures) < len(plan.items))
    counts = {"planned": planned, "done": 0, "skipped": skipped, "failed": len(failures)}
    megapixels = sum(item.pixels for item in plan.todo) / 1e6
    summary = {"seconds": 0.0, "megapixels": round(megapixels, 3), "exit_code": int(code), "table": None}
    out.event({"event": "summary", **counts, **summary})
    if not out.json:
        out.data(f"{planned} to make, {skipped} skipped, {len(failures)} failed; {megapixels:.1f} MP")
    return code
