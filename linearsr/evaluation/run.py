"""Running an evaluation: every picture through every method, scored, with what is known already taken from the cache.

One picture is in memory at a time. A picture that fails is told of and left out; the rest is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linearsr.atomic import make_folder
from linearsr.device import memory_errors
from linearsr.errors import ImageError, LinearSRError, ShapeError
from linearsr.evaluation.cache import ScoreCache
from linearsr.evaluation.cases import FAULTS, Case, Degrade
from linearsr.evaluation.checks import check_methods, check_places, result_folder
from linearsr.evaluation.ledger import Ledger, Result
from linearsr.evaluation.making import Made, Method
from linearsr.evaluation.pairing import Pair, PairedSet, distinct_names
from linearsr.evaluation.pictures import eight_bits
from linearsr.evaluation.results import Evaluation, Failure, ImageScores, SkippedMetric
from linearsr.evaluation.saving import read_saved, save_result
from linearsr.metrics import METRICS, Sample, Scorer, ScoreSettings, make_scorers

__all__ = ["evaluate"]

OnProgress = Callable[[int, int, str], None]
OnFailure = Callable[[Failure], None]
MEMORY_HINT = "close other programs, use a smaller `--tile`, or leave the picture out"


def evaluate(
    sets: Sequence[PairedSet],
    methods: Sequence[Method],
    *,
    metrics: Sequence[str],
    explicit: bool,
    settings: ScoreSettings,
    scale: float,
    degrade: Degrade | None = None,
    baseline: str | None = None,
    cache: ScoreCache | None = None,
    save: Path | None = None,
    on_progress: OnProgress | None = None,
    on_failure: OnFailure | None = None,
    protocol: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Make and score results.

    With a cache, what an earlier run found of the same pixels, settings and code is taken from it; a method is called
    only where a score is missing, or a result to be saved is not there. So a metric that is asked for later makes the
    results again, unless they lie in `save`.

    Args:
        sets: pictures; sets of one name are told apart by the folder above.
        methods: with names of their own; in the evaluation baselines come first.
        metrics: keys of `METRICS`.
        explicit: whether the user named them, see `make_scorers`.
        settings: of scoring.
        scale: of input to clean picture. A whole one cuts the clean picture to its multiples.
        degrade: makes inputs of clean pictures; None takes those of the sets.
        baseline: name of the method that differences are taken from.
        cache: None scores everything anew.
        save: folder for what methods make, as `result_folder` has it.
        on_progress: called with results done, results in all, and what comes next, empty at the end.
        on_failure: called with each failure as it happens, to score or to save.
        protocol: kept in the evaluation as it is.

    Raises:
        ConfigError: methods and pictures do not fit one another, a result would replace an input, or as
            `make_scorers`.
        WeightsError, DeviceError: the next picture would fail the same way.
        ImageError: a folder of `save` cannot be made.
    """
    sets = distinct_names(sets)
    methods = sorted(methods, key=lambda method: method.info.kind != "baseline")
    check_methods(sets, methods, baseline, is_degraded=degrade is not None)
    if save is not None:
        check_places(sets, methods, save)
    has = _present(sets, methods, is_degraded=degrade is not None)
    scorers, skipped = make_scorers(metrics, settings, has=has, explicit=explicit)
    run = _Run(
        methods=methods,
        scorers=scorers,
        ledger=Ledger(cache, tuple(scorers), settings, explicit=explicit),
        scale=scale,
        degrade=degrade,
        save=save,
        total=len(methods) * sum(len(paired.pairs) for paired in sets),
        on_progress=on_progress,
        on_failure=on_failure,
    )
    with torch.no_grad():
        for paired in sets:
            run.dataset(paired)
    run.tell("")
    return Evaluation(
        datasets=tuple(paired.name for paired in sets),
        methods=tuple(method.info for method in methods),
        metrics=tuple(scorers),
        baseline=baseline,
        images=tuple(run.images),
        failures=tuple(run.failures),
        unsaved=tuple(run.unsaved),
        skipped=tuple(SkippedMetric(name=item.name, reason=item.reason, hint=item.hint) for item in skipped),
        other_inputs=tuple(run.other_inputs),
        notes=tuple(run.notes),
        protocol={} if protocol is None else dict(protocol),
    )


def _present(sets: Sequence[PairedSet], methods: Sequence[Method], *, is_degraded: bool) -> frozenset[str]:
    """What there is for metrics to look at beside the results."""
    has = {
        "reference": True,
        "input": is_degraded or all(pair.lr is not None for paired in sets for pair in paired.pairs),
        "tiles": any(method.info.kind == "model" for method in methods),
    }
    return frozenset(need for need, there in has.items() if there)


@dataclass(kw_only=True)
class _Run:
    """The settings of one evaluation, and what it has found so far."""

    methods: Sequence[Method]
    scorers: Mapping[str, Scorer]
    ledger: Ledger
    scale: float
    degrade: Degrade | None
    save: Path | None
    total: int
    on_progress: OnProgress | None
    on_failure: OnFailure | None
    done: int = 0
    images: list[ImageScores] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unsaved: list[Failure] = field(default_factory=list)
    other_inputs: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)

    def dataset(self, paired: PairedSet) -> None:
        """Score the pictures of one set."""
        for method in self.methods:
            if self.save is not None and method.reads != "file":
                make_folder(result_folder(self.save, paired.name, method.info.name))
        for pair in paired.pairs:
            done, failed = self.done + len(self.methods), len(self.failures)
            rows = self.picture(paired.name, pair)
            if len(self.failures) == failed:
                self.images += rows
            self.done = done

    def picture(self, dataset: str, pair: Pair) -> list[ImageScores]:
        """Score one picture by all methods; what fails is told of."""
        self.tell(f"{dataset}/{pair.image}")
        rows: list[ImageScores] = []
        try:
            case = Case(pair, self.scale, self.degrade)
            _ = case.origin  # an input that cannot be read is no method's fault
        except FAULTS as error:
            self.fail(dataset, pair, None, error)
            return rows
        self.notes.update(dict.fromkeys(case.notes))
        if case.is_other_input:
            self.other_inputs.append((dataset, pair.image))
        for method in self.methods:
            self.tell(f"{dataset}/{pair.image}, {method.info.name}")
            try:
                rows.append(self.row(dataset, case, method))
            except FAULTS as error:
                self.fail(dataset, pair, None if case.is_unreadable else method.info.name, error)
                if case.is_unreadable:
                    break
            self.done += 1
        return rows

    def tell(self, label: str) -> None:
        """Report progress."""
        if self.on_progress is not None:
            self.on_progress(self.done, self.total, label)

    def fail(self, dataset: str, pair: Pair, method: str | None, error: BaseException) -> None:
        """Note and report a picture that cannot be scored."""
        if not isinstance(error, LinearSRError):
            error = ImageError("out of memory", hint=MEMORY_HINT)
        self._report(self.failures, dataset, pair, method, error)

    def _report(self, to: list[Failure], dataset: str, pair: Pair, method: str | None, error: LinearSRError) -> None:
        failure = Failure(dataset=dataset, image=pair.image, method=method, message=error.message, hint=error.hint)
        to.append(failure)
        if self.on_failure is not None:
            self.on_failure(failure)

    def save_result(self, place: Path, sr: Tensor | None, dataset: str, case: Case, method: Method) -> None:
        """Save a result, None for one that lies there otherwise; a failure costs no score."""
        try:
            save_result(place, sr)
        except ImageError as error:
            self._report(self.unsaved, dataset, case.pair, method.info.name, error)

    def row(self, dataset: str, case: Case, method: Method) -> ImageScores:
        """Scores of one result, which is made only where something about it is not known."""
        place = None
        if self.save is not None and method.reads != "file":
            place = result_folder(self.save, dataset, method.info.name) / f"{case.pair.image}.png"
        known = self.ledger.result(case, method)
        scores = {} if known is None else self.ledger.scores(case, known)
        saved = None if known is None or place is None else read_saved(place, known)
        is_cached = known is not None and len(scores) == len(self.scorers) and (place is None or place.is_file())
        if is_cached and place is not None and saved is None:
            self.save_result(place, None, dataset, case, method)
        if known is None or not is_cached:
            by_tiles = any(METRICS[name].needs == "tiles" for name in self.scorers if name not in scores)
            if known is None or saved is None or (by_tiles and known.tiles is not None):
                made = _make(case, method)
                known = self.ledger.keep_result(case, method, made)
                scores = self.ledger.scores(case, known)
                if place is not None:
                    self.save_result(place, made.sr, dataset, case, method)
            else:
                made = Made(sr=saved)
            scores = {**scores, **self.score(case, made, known, scores)}
        return ImageScores(
            dataset=dataset,
            image=case.pair.image,
            method=method.info.name,
            scores={name: value for name in self.scorers if (value := scores[name]) is not None},
            seconds=known.seconds,
            megapixels=case.size[0] * case.size[1] / 1e6,
            cached=is_cached,
        )

    def score(
        self, case: Case, made: Made, known: Result, scores: Mapping[str, float | None]
    ) -> dict[str, float | None]:
        """Values of the metrics that are not among `scores`."""
        sample = Sample(sr=made.sr, hr=case.hr, lr=case.lr, tiles=made.tiles)
        with memory_errors("scoring", hint=MEMORY_HINT):
            values = {name: scorer(sample) for name, scorer in self.scorers.items() if name not in scores}
        self.ledger.keep_scores(case, known, values)
        return values


def _make(case: Case, method: Method) -> Made:
    """A method's result on the 8-bit grid.

    Raises:
        ImageError: it holds values that are not finite.
        ShapeError: it has another size.
        OutOfMemoryError: it does not fit into memory; what the method raises.
    """
    name = method.info.name
    with memory_errors(name, hint=MEMORY_HINT):
        made = method(case.sample(with_reference=method.reads == "reference"))
    expected = (3, case.size[1], case.size[0])
    if tuple(made.sr.shape) != expected:
        raise ShapeError(f"the result of {name!r} is {tuple(made.sr.shape)}, expected {expected}")
    if not bool(torch.isfinite(made.sr).all()):
        raise ImageError(f"the result of {name!r} holds values that are not finite", hint="try `--dtype fp32`")
    return replace(made, sr=eight_bits(made.sr))
