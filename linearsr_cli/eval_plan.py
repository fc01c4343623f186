"""From the options of `linearsr eval` to what the engine takes: sets of pairs, methods, scores and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from linearsr_cli.eval_methods import choose_baseline, make_methods
from linearsr_cli.eval_pictures import find_scale, pair_sets, recognise_inputs, result_folders
from linearsr_cli.eval_protocol import apply_protocol, describe_inputs, describe_protocol
from linearsr_cli.eval_settings import EvalOptions
from linearsr_cli.output import Output
from linearsr_cli.plan_checks import why_not_writable

if TYPE_CHECKING:
    from linearsr.evaluation.cases import Degrade
    from linearsr.evaluation.methods import Method
    from linearsr.evaluation.pairing import PairedSet
    from linearsr.evaluation.thresholds import Threshold
    from linearsr.hub_repo import OnDownload
    from linearsr.metrics import ScoreSettings
    from linearsr_train.data.pairs import Recipe

__all__ = ["EvalPlan", "make_eval_plan"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """One evaluation, checked, with no picture read and no network loaded."""

    sets: tuple[PairedSet, ...]
    methods: tuple[Method, ...]
    metrics: tuple[str, ...]
    explicit: bool
    """Whether the metrics were asked for by name, so that a missing one is an error."""
    settings: ScoreSettings
    scale: float
    degrade: Degrade | None
    baseline: str | None
    """Method that differences are taken from."""
    thresholds: tuple[Threshold, ...]
    protocol: Mapping[str, Any]
    written_down: Mapping[str, Mapping[str, Any]]
    """By set, recipe and seed of inputs that `linearsr degrade` made, as far as its tables tell."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers must know."""


def make_eval_plan(options: EvalOptions, out: Output, on_download: OnDownload) -> EvalPlan:
    """Pair the files, check their sizes by their headers, and open the models' configs.

    Args:
        options: checked by `check_eval_options`.
        out: takes warnings and licences.
        on_download: shows what is fetched.

    Raises:
        ConfigError: pictures do not pair or fit, or an option does not fit the model.
        WeightsError: a model, or a metric asked for by name, cannot be had.
        DeviceError: the device is not there.
        ImageError: the folder of `--save` cannot be written.
    """
    if options.save is not None and (problem := why_not_writable(options.save)) is not None:
        raise problem
    explicit = options.metrics is not None
    options, differs = apply_protocol(options)
    recipe = _recipe(options)
    folders = result_folders(options)
    sets, written_down = recognise_inputs(pair_sets(options, folders), options, out)
    scale = find_scale(sets, options)
    options, notes = _say_scale(options, scale)
    for text in differs:
        out.warn(text)
    metrics, settings = _scores(options, scale)
    thresholds = _thresholds(options, metrics, settings)
    methods = make_methods(options, folders, out, on_download)
    return EvalPlan(
        sets=sets,
        methods=methods,
        metrics=metrics,
        explicit=explicit,
        settings=settings,
        scale=scale,
        degrade=_degrade(recipe, scale, options.degrade_seed),
        baseline=choose_baseline(methods, options),
        thresholds=thresholds,
        protocol=describe_protocol(options, sets, settings, describe_inputs(options, recipe, written_down), differs),
        written_down=written_down,
        notes=notes,
    )


def _recipe(options: EvalOptions) -> Recipe | None:
    """How inputs are made here; None where they are not."""
    if options.degrade is None:
        return None
    from linearsr_train.data.pairs import load_recipe

    return load_recipe(options.degrade)


def _degrade(recipe: Recipe | None, scale: float, seed: int) -> Degrade | None:
    if recipe is None:
        return None
    from linearsr_train.data.pairs import degrader

    return degrader(recipe, scale=scale, seed=seed)


def _say_scale(options: EvalOptions, scale: float) -> tuple[EvalOptions, tuple[str, ...]]:
    """Options with the scale, where it is known, and what a reader must know where it is not."""
    if options.makes_inputs:
        return replace(options, scale=scale), ()
    if options.scale is not None or options.crop_border is not None:
        return options, ()
    return options, (
        f"the scale of these results is not known, so a border of {round(scale)} pixel is left out; "
        "say `--scale 4` for scores that compare with others",
    )


def _scores(options: EvalOptions, scale: float) -> tuple[tuple[str, ...], ScoreSettings]:
    from linearsr.device import resolve_device
    from linearsr.metrics import DEFAULT_METRICS, ScoreSettings, parse_metrics

    text = ",".join(DEFAULT_METRICS) if options.metrics is None else options.metrics
    metrics = parse_metrics(text, "y" if options.color is None else options.color)
    settings = ScoreSettings(
        crop_border=round(scale) if options.crop_border is None else options.crop_border,
        y_range="limited" if options.y_range is None else options.y_range,
        lpips_weights=options.lpips_weights,
        device=str(resolve_device(options.device)),
    )
    return metrics, settings


def _thresholds(options: EvalOptions, metrics: tuple[str, ...], settings: ScoreSettings) -> tuple[Threshold, ...]:
    """Thresholds on metrics that are computed; one that cannot be is an error now and not after the work."""
    if options.fail_under is None:
        return ()
    from linearsr.evaluation.thresholds import check_known, parse_thresholds
    from linearsr.metrics import make_scorers

    thresholds = parse_thresholds(options.fail_under, "y" if options.color is None else options.color)
    check_known(thresholds, metrics)
    named = tuple(dict.fromkeys(threshold.metric for threshold in thresholds))
    has = {"reference"} | ({"input"} if options.makes_inputs else set()) | ({"tiles"} if options.model else set())
    make_scorers(named, settings, has=frozenset(has), explicit=True)
    return thresholds
