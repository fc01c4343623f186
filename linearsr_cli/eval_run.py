"""Runs an evaluation and shows how far it is."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from linearsr.errors import ImageError
from linearsr_cli.eval_pictures import NAMED, still_known
from linearsr_cli.eval_plan import EvalPlan, make_eval_plan
from linearsr_cli.eval_protocol import describe_inputs
from linearsr_cli.eval_settings import EvalOptions
from linearsr_cli.output import Output, clean, quiet_library

if TYPE_CHECKING:
    from tqdm import tqdm

    from linearsr.evaluation.results import Evaluation, Failure

__all__ = ["score"]

EVERY_SECONDS = 10.0
"""Between lines of progress where there is no terminal."""


class _Steps:
    """Progress by results: a bar on a terminal, else a line now and then, or for each."""

    def __init__(self, choice: str, out: Output) -> None:
        terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._out = out
        if choice == "bar" and not terminal:
            out.warn("--progress bar needs a terminal on stderr, so there is a line now and then instead")
        self._silent = choice == "none" or (choice == "auto" and out.quiet)
        self._wants_bar = terminal and choice in ("auto", "bar")
        self._wants_all = choice == "plain"
        self._last, self._label = 0, ""
        self._bar: tqdm[None] | None = None
        self._told = time.monotonic()
        self._fetched: set[str] = set()

    def __enter__(self) -> _Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int, label: str) -> None:
        if self._silent:
            return
        if self._wants_bar:
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(total=total, file=sys.stderr, unit=" results", leave=False)
            self._bar.set_postfix_str(clean(label), refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._wants_all:
            if done > self._last:
                self._out.info(f"[{done}/{total}] {clean(self._label)}")
            self._last, self._label = done, label
        elif time.monotonic() - self._told > EVERY_SECONDS:
            self._told = time.monotonic()
            self._out.info(f"[{done}/{total}] {clean(label)}")

    def clear(self) -> None:
        """Make room on the terminal for a line."""
        if self._bar is not None:
            self._bar.clear()

    def download(self, name: str, done: int, total: int | None) -> None:
        """Weights `name` are being fetched: told once for each file."""
        if not self._silent and name not in self._fetched:
            self._fetched.add(name)
            self._out.info(f"fetching {clean(name)}" + ("" if total is None else f", {total / 1e6:.0f} MB"))


def score(options: EvalOptions, out: Output) -> tuple[EvalPlan, Evaluation]:
    """Plan and score.

    Args:
        options: checked.
        out: takes failures as they happen.

    Raises:
        LinearSRError: as `eval_plan.make_eval_plan` and `evaluation.run.evaluate`.
    """
    from linearsr.evaluation.cache import ScoreCache, default_eval_cache
    from linearsr.evaluation.run import evaluate

    def failed(failure: Failure) -> None:
        steps.clear()
        of = "" if failure.method is None else f" ({failure.method})"
        out.failure(f"{failure.dataset}/{failure.image}{of}", ImageError(failure.message, hint=failure.hint))

    with quiet_library(out.quiet), _Steps(options.progress, out) as steps:
        plan = make_eval_plan(options, out, steps.download)
        evaluation = evaluate(
            plan.sets,
            plan.methods,
            metrics=plan.metrics,
            explicit=plan.explicit,
            settings=plan.settings,
            scale=plan.scale,
            degrade=plan.degrade,
            baseline=plan.baseline,
            cache=ScoreCache(default_eval_cache()) if options.cache else None,
            save=options.save,
            on_progress=steps,
            on_failure=failed,
            protocol=plan.protocol,
        )
    evaluation = _believed(evaluation, plan, options)
    return plan, replace(evaluation, notes=(*evaluation.notes, *plan.notes, *_remarks(evaluation)))


def _believed(evaluation: Evaluation, plan: EvalPlan, options: EvalOptions) -> Evaluation:
    """Take the recipe back from inputs that turned out to be other pictures than those that it made."""
    if not evaluation.other_inputs:
        return evaluation
    left = still_known(plan.written_down, plan.sets, evaluation.other_inputs)
    inputs = describe_inputs(options, None, left)
    return replace(evaluation, protocol={**evaluation.protocol, "inputs": inputs})


def _remarks(evaluation: Evaluation) -> list[str]:
    """What a reader of the means must know: pictures without a value of a score, and times that are not of this run."""
    from linearsr.metrics import METRICS

    remarks = []
    others = evaluation.other_inputs
    if others:
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        named = ", ".join(f"{dataset}/{image}" for dataset, image in others[:NAMED])
        of = "1 input is" if len(others) == 1 else f"{len(others)} inputs are"
        remarks.append(f"{of} not as the table beside it says, so neither recipe nor tags are known: {named}{more}")
    for name in (name for name in evaluation.metrics if METRICS[name].needs != "tiles"):
        lacking = {(image.dataset, image.image) for image in evaluation.images if name not in image.scores}
        if lacking:
            remarks.append(f"{METRICS[name].title}: too small for it, so in none of its means: {_pictures(lacking)}")
    for name in evaluation.metrics:
        same = {(image.dataset, image.image) for image in evaluation.images if math.isinf(image.scores.get(name, 0.0))}
        if same:
            text = f"{METRICS[name].title}: infinite for {_pictures(same)}, equal to what it is compared with"
            remarks.append(f"{text}; --fail-under judges the others")
    timed = [image for image in evaluation.images if image.seconds is not None]
    kept = sum(image.cached for image in timed)
    if kept:
        remarks.append(f"seconds of {kept} of {len(timed)} results are those of the run that made them")
    return remarks


def _pictures(found: set[tuple[str, str]]) -> str:
    return "1 picture" if len(found) == 1 else f"{len(found)} pictures"
