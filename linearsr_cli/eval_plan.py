"""From the options of `linearsr eval` to what the engine takes: sets of pairs, methods, scores and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linearsr.errors import ConfigError
from linearsr_cli.eval_settings import CEILING, EvalOptions
from linearsr_cli.output import Output, clean
from linearsr_cli.values import Tile

if TYPE_CHECKING:
    from linearsr.evaluation.cases import Degrade
    from linearsr.evaluation.methods import Method
    from linearsr.evaluation.pairing import PairedSet
    from linearsr.evaluation.thresholds import Threshold
    from linearsr.metrics.scorers import ScoreSettings

__all__ = ["EvalPlan", "apply_protocol", "make_eval_plan"]

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
    thresholds: tuple[Threshold, ...]
    protocol: Mapping[str, Any]


def apply_protocol(options: EvalOptions, out: Output) -> EvalOptions:
    """Fill in what a protocol says and the user does not; what differs from the protocol is told.

    Raises:
        ConfigError: no such protocol, or it needs inputs that are not given.
    """
    if options.protocol is None:
        return options
    from linearsr.evaluation.protocols import get_protocol

    protocol = get_protocol(options.protocol)
    wanted: dict[str, Any] = {
        "scale": protocol.scale,
        "metrics": ",".join(protocol.metrics),
        "crop_border": protocol.crop_border,
        "color": protocol.color,
        "y_range": protocol.y_range,
    }
    if protocol.degradation is not None and not options.lr:
        wanted["degrade"] = protocol.degradation
    elif protocol.degradation is None and not options.lr and options.degrade is None and not options.sr:
        raise ConfigError(
            f"protocol {protocol.name} needs its own inputs, expected --lr DIR for each --hr",
            hint="docs/benchmarks.md tells where they are published",
        )
    given = {name: getattr(options, name) for name in wanted}
    for name, value in wanted.items():
        if given[name] is not None and given[name] != value:
            out.warn(f"{name.replace('_', '-')} is {given[name]}, not {value} as in protocol {protocol.name}")
    return replace(options, **{name: value for name, value in wanted.items() if given[name] is None})


def make_eval_plan(options: EvalOptions, out: Output) -> EvalPlan:
    """Pair the files, check their sizes by their headers, and open the models' configs.

    Args:
        options: checked by `check_eval_options`.
        out: takes warnings and licences.

    Raises:
        ConfigError: pictures do not pair or fit, or an option does not fit the model.
        WeightsError: a model, or a metric asked for by name, cannot be had.
    """
    explicit = options.metrics is not None
    options = apply_protocol(options, out)
    folders = _result_folders(options)
    sets = _pair(options, folders)
    scale = _scale(sets, options)
    metrics, settings = _scores(options, scale)
    thresholds = _thresholds(options, metrics, settings)
    methods = _methods(options, folders, out)
    return EvalPlan(
        sets=sets,
        methods=methods,
        metrics=metrics,
        explicit=explicit,
        settings=settings,
        scale=scale,
        degrade=_degrader(options, scale),
        baseline=next((method.info.name for method in methods if method.info.kind == "baseline"), None),
        thresholds=thresholds,
        protocol=_protocol(options, sets, scale, settings),
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
        name, equals, rest = text.partition("=")
        labelled = bool(equals and name and rest) and not Path(text).exists()
        path = Path(rest if labelled else text)
        if not path.exists():
            raise ConfigError(f"sr is {str(path)!r}, which does not exist", hint="check the path")
        label = name if labelled else ("results" if len(options.hr) > 1 else path.resolve().name)
        found.setdefault(label, []).append(path)
    for label, paths in found.items():
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
    from linearsr.metrics import DEFAULT_METRICS, ScoreSettings, parse_metrics

    text = ",".join(DEFAULT_METRICS) if options.metrics is None else options.metrics
    metrics = parse_metrics(text, "y" if options.color is None else options.color)
    settings = ScoreSettings(
        crop_border=round(scale) if options.crop_border is None else options.crop_border,
        y_range="limited" if options.y_range is None else options.y_range,
        lpips_weights=options.lpips_weights,
        device="cpu" if options.device == "auto" else options.device,
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
    make_scorers(named, settings, has=frozenset({"reference", "input", "tiles"}), explicit=True)
    return thresholds


def _methods(options: EvalOptions, folders: Mapping[str, Sequence[Path]], out: Output) -> tuple[Method, ...]:
    """Baselines, then folders, then models.

    Raises:
        ConfigError: two of one name.
    """
    from linearsr.evaluation.methods import autoencoder_ceiling, folder_method, interpolation

    has_inputs = options.makes_inputs
    names = (("bicubic",) if has_inputs else ()) if options.baseline is None else options.baseline
    methods: list[Method] = []
    for name in names:
        if name == CEILING:
            methods.append(autoencoder_ceiling(options.model[0], device=options.device, dtype=options.dtype))
        else:
            methods.append(interpolation(name))
    methods += [folder_method(label, paths) for label, paths in folders.items()]
    for model in options.model:
        methods += _models(model, options, out)
    called = [method.info.name for method in methods]
    if len(set(called)) < len(called):
        raise ConfigError(
            f"two rows are called {max(called, key=called.count)!r}, expected a name of its own for each",
            hint="rename a folder, or `--sr NAME=DIR`",
        )
    return tuple(methods)


def _models(model: str, options: EvalOptions, out: Output) -> tuple[Method, ...]:
    from linearsr.evaluation.methods import model_methods

    tile: Tile = options.tile
    return model_methods(
        model,
        options.steps,
        seed=options.seed,
        tags=None if options.tags == "auto" else options.tags,
        cfg_scale=options.cfg_scale,
        tile=tile,
        color_fix=None if options.color_fix == "auto" else options.color_fix,
        device=options.device,
        dtype=options.dtype,
        offload=options.offload,
        on_licence=lambda name, licence: out.info(f"licence of {clean(name)}: {clean(licence)}"),
    )


def _degrader(options: EvalOptions, scale: float) -> Degrade | None:
    """What makes inputs of clean pictures."""
    if options.degrade is None:
        return None
    from linearsr_train.data.pairs import degrader, load_recipe

    return degrader(load_recipe(options.degrade), scale=scale, seed=options.degrade_seed)


def _protocol(options: EvalOptions, sets: Sequence[PairedSet], scale: float, settings: ScoreSettings) -> dict[str, Any]:
    """What is printed beside the numbers."""
    inputs: dict[str, Any] = {"kind": "none" if not options.lr else "given"}
    if options.degrade is not None:
        from linearsr_train.data.pairs import load_recipe

        inputs = {"kind": "made", "recipe": load_recipe(options.degrade).as_dict(), "seed": options.degrade_seed}
    return {
        "name": options.protocol,
        "scale": scale,
        "inputs": inputs,
        "crop_border": settings.crop_border,
        "color": "y" if options.color is None else options.color,
        "y_range": settings.y_range,
        "rounding": "inputs, results and clean pictures are rounded to 8 bits",
        "pairing": f"by {options.pair_by}",
        **_published(options.protocol, sets),
    }


def _published(name: str | None, sets: Sequence[PairedSet]) -> dict[str, Any]:
    """What a published protocol says beyond the settings, and where the pictures are not as it has them."""
    if name is None:
        return {}
    from linearsr.evaluation.pairing import picture_size
    from linearsr.evaluation.protocols import get_protocol, note_sizes

    protocol = get_protocol(name)
    sizes = []
    for pair in (pair for paired in sets for pair in paired.pairs if protocol.hr_px is not None):
        hr = picture_size(pair.hr)
        if hr is not None:
            sizes.append((picture_size(pair.lr), hr))
    remarks = [*protocol.notes, *note_sizes(protocol, sizes)]
    return {"luma": protocol.luma, "source": protocol.source, "remarks": remarks}
