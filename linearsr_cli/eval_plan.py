"""From the options of `linearsr eval` to what the engine takes: sets of pairs, methods, scores and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.errors import ConfigError
from linearsr_cli.eval_protocol import apply_protocol, describe_protocol
from linearsr_cli.eval_settings import CEILING, INTERPOLATIONS, EvalOptions, folder_label, split_label
from linearsr_cli.output import Output, clean
from linearsr_cli.plan_checks import why_not_writable

if TYPE_CHECKING:
    from linearsr.evaluation.cases import Degrade
    from linearsr.evaluation.methods import Method
    from linearsr.evaluation.pairing import PairedSet
    from linearsr.evaluation.thresholds import Threshold
    from linearsr.hub_repo import OnDownload
    from linearsr.metrics import ScoreSettings

__all__ = ["EvalPlan", "make_eval_plan"]

SCALE = 4.0


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
    for text in differs:
        out.warn(text)
    recipe = None
    if options.degrade is not None:
        from linearsr_train.data.pairs import load_recipe

        recipe = load_recipe(options.degrade)
    folders = _result_folders(options)
    sets = _pair(options, folders)
    scale = _scale(sets, options)
    notes: tuple[str, ...] = ()
    if options.makes_inputs:
        options = replace(options, scale=scale)
    elif options.scale is None and options.crop_border is None:
        notes = (
            f"the scale of these results is not known, so a border of {round(scale)} pixel is left out; "
            "say `--scale 4` for scores that compare with others",
        )
        out.warn(notes[0])
    metrics, settings = _scores(options, scale)
    thresholds = _thresholds(options, metrics, settings)
    methods = _methods(options, folders, out, on_download)
    degrade: Degrade | None = None
    if recipe is not None:
        from linearsr_train.data.pairs import degrader

        degrade = degrader(recipe, scale=scale, seed=options.degrade_seed)
    return EvalPlan(
        sets=sets,
        methods=methods,
        metrics=metrics,
        explicit=explicit,
        settings=settings,
        scale=scale,
        degrade=degrade,
        baseline=_baseline(methods, options),
        thresholds=thresholds,
        protocol=describe_protocol(options, sets, settings, recipe, differs),
        notes=notes,
    )


def _pair(options: EvalOptions, folders: Mapping[str, Sequence[Path]]) -> tuple[PairedSet, ...]:
    from linearsr.evaluation.pairing import distinct_names, pair_folders

    pairs = [
        pair_folders(
            hr,
            lr=options.lr[index] if options.lr else None,
            srs={label: paths[index] for label, paths in folders.items()},
            by=options.pair_by,
            recursive=options.recursive,
            limit=options.limit,
        )
        for index, hr in enumerate(options.hr)
    ]
    return distinct_names(pairs)


def _result_folders(options: EvalOptions) -> dict[str, list[Path]]:
    """Folders of results by name, as many under each name as there are sets.

    Raises:
        ConfigError: a folder that is not there, or other counts.
    """
    found: dict[str, list[Path]] = {}
    for text in options.sr:
        path = Path(split_label(text)[1])
        if not path.exists():
            raise ConfigError(f"sr is {str(path)!r}, which does not exist", hint="check the path")
        found.setdefault(folder_label(text, len(options.hr)), []).append(path)
    for label, paths in found.items():
        if len(options.hr) == 1 and len(paths) > 1:
            raise ConfigError(f"{len(paths)} folders of results are called {label!r}", hint="`--sr NAME=DIR` for each")
        if len(paths) != len(options.hr):
            raise ConfigError(
                f"{len(paths)} folders of results called {label!r} for {len(options.hr)} --hr, expected one for each",
                hint="`--sr NAME=DIR`, once for every --hr, in their order",
            )
    return found


def _scale(sets: tuple[PairedSet, ...], options: EvalOptions) -> float:
    """The scale of all pictures: given, or found from the sizes of inputs and clean pictures.

    Raises:
        ConfigError: the sets differ, or sizes do not fit.
    """
    from linearsr.evaluation.pairing import check_sizes

    wanted = options.scale
    if wanted is None and options.degrade is not None:
        wanted = SCALE
    found = {paired.name: check_sizes(paired, wanted, options.degrade is not None) for paired in sets}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{clean(name)} x{scale:g}" for name, scale in found.items())
        raise ConfigError(f"the sets have different scales: {listed}", hint="evaluate them one by one")
    return next(iter(found.values()))


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


def _methods(
    options: EvalOptions, folders: Mapping[str, Sequence[Path]], out: Output, on_download: OnDownload
) -> tuple[Method, ...]:
    """Baselines, then folders, then models.

    Raises:
        ConfigError: two of one name.
    """
    from linearsr.evaluation.methods import folder_method, interpolation
    from linearsr.evaluation.models import autoencoder_ceiling

    names = (("bicubic",) if options.makes_inputs else ()) if options.baseline is None else options.baseline
    methods: list[Method] = [interpolation(name) for name in names if name in INTERPOLATIONS]
    if CEILING in names:
        label, model = split_label(options.model[0])
        methods.append(
            autoencoder_ceiling(model, device=options.device, dtype=options.dtype, label=label, on_download=on_download)
        )
    methods += [folder_method(label, paths) for label, paths in folders.items()]
    for text in options.model:
        methods += _models(text, options, out, on_download)
    called = [method.info.name for method in methods]
    if len(set(called)) < len(called):
        raise ConfigError(
            f"two rows are called {max(called, key=called.count)!r}, expected a name of its own for each",
            hint="`--model NAME=MODEL`, `--sr NAME=DIR`",
        )
    return tuple(methods)


def _models(text: str, options: EvalOptions, out: Output, on_download: OnDownload) -> tuple[Method, ...]:
    from linearsr.evaluation.models import model_methods

    label, model = split_label(text)
    return model_methods(
        model,
        options.steps,
        seed=options.seed,
        tags=None if options.tags == "auto" else options.tags,
        cfg_scale=options.cfg_scale,
        tile=options.tile,
        color_fix=None if options.color_fix == "auto" else options.color_fix,
        device=options.device,
        dtype=options.dtype,
        offload=options.offload,
        label=label,
        on_download=on_download,
        on_licence=lambda name, licence: out.info(f"licence of {clean(name)}: {clean(licence)}"),
    )


def _baseline(methods: Sequence[Method], options: EvalOptions) -> str | None:
    """What differences are taken from: the first baseline asked for, else the first row if there are others."""
    names = [method.info.name for method in methods]
    fixed = [method.info.name for method in methods if method.info.kind == "baseline"]
    for name in () if options.baseline is None else options.baseline:
        if name == CEILING:  # the one baseline that is called after its model, and the last of them
            return fixed[-1]
        if name in names:
            return name
    if fixed:
        return fixed[0]
    return names[0] if len(names) > 1 else None
