"""Protocols on the command line: what they fill in, what the user does otherwise, and what is printed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from linearsr.errors import ConfigError
from linearsr_cli.eval_settings import INTERPOLATIONS, EvalOptions

if TYPE_CHECKING:
    from linearsr.evaluation.pairing import PairedSet
    from linearsr.evaluation.protocols import Protocol
    from linearsr.metrics import ScoreSettings
    from linearsr_train.data.pairs import Recipe

__all__ = ["apply_protocol", "describe_inputs", "describe_protocol"]


def apply_protocol(options: EvalOptions) -> tuple[EvalOptions, tuple[str, ...]]:
    """Fill in what a protocol says and the user does not.

    Returns:
        The options, and what the user does otherwise, which stands beside the numbers.

    Raises:
        ConfigError: no such protocol, or it needs inputs that are not given.
    """
    if options.protocol is None:
        return options, ()
    from linearsr.evaluation.protocols import get_protocol

    protocol = get_protocol(options.protocol)
    wanted = {name: getattr(protocol, name) for name in ("scale", "crop_border", "color", "y_range")}
    given = {name: getattr(options, name) for name in wanted}
    differs = [
        f"{name.replace('_', '-')} is {given[name]}, not {value} as in protocol {protocol.name}"
        for name, value in wanted.items()
        if given[name] not in (None, value)
    ]
    differs += [text for text in (_other_inputs(options, protocol), _other_metrics(options, protocol)) if text]
    filled: dict[str, Any] = {name: value for name, value in wanted.items() if given[name] is None}
    if options.metrics is None:
        filled["metrics"] = ",".join(protocol.metrics)
    if not options.makes_inputs:
        filled["degrade"] = protocol.degradation
    return replace(options, **filled), tuple(differs)


def _other_inputs(options: EvalOptions, protocol: Protocol) -> str | None:
    """Where the inputs are not those of the protocol."""
    wanted = "given by --lr" if protocol.degradation is None else protocol.degradation
    if not options.makes_inputs:
        if protocol.degradation is None and (options.model or set(INTERPOLATIONS) & set(options.baseline or ())):
            raise ConfigError(
                f"protocol {protocol.name} needs its own inputs, expected --lr DIR for each --hr",
                hint="docs/benchmarks.md tells where they are published",
            )
        return None
    used = "given by --lr" if options.lr else str(options.degrade)
    return None if used == wanted else f"inputs are {used}, not {wanted} as in protocol {protocol.name}"


def _other_metrics(options: EvalOptions, protocol: Protocol) -> str | None:
    """Scores that the protocol does not have; fewer of them change no number."""
    if options.metrics is None:
        return None
    from linearsr.metrics import parse_metrics

    color = protocol.color if options.color is None else options.color
    more = [name for name in parse_metrics(options.metrics, color) if name not in protocol.metrics]
    return f"{', '.join(more)} not among the scores of protocol {protocol.name}" if more else None


def describe_inputs(
    options: EvalOptions, recipe: Recipe | None, written_down: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """How the inputs were made.

    Args:
        options: of the run.
        recipe: that makes them; None where they are given or there are none.
        written_down: by the name of a set, recipe and seed that `linearsr degrade` made given inputs with.
    """
    if recipe is not None:
        return {"kind": "made", "recipe": recipe.as_dict(), "seed": options.degrade_seed}
    if not options.lr:
        return {"kind": "none"}
    found = list(written_down.values())
    if len(found) == len(options.lr) and all(facts == found[0] for facts in found):
        return {"kind": "given", "by": "linearsr degrade", **found[0]}
    return {"kind": "given", **({"by linearsr degrade": dict(written_down)} if found else {})}


def describe_protocol(
    options: EvalOptions,
    sets: Sequence[PairedSet],
    settings: ScoreSettings,
    inputs: Mapping[str, Any],
    differs: Sequence[str],
) -> dict[str, Any]:
    """What is printed beside the numbers.

    Args:
        options: with the protocol applied; a scale that is not known is None.
        sets: the pictures, whose sizes are looked at.
        settings: of scoring.
        inputs: as from `describe_inputs`.
        differs: from the protocol.
    """
    return {
        "name": options.protocol,
        "scale": options.scale,
        "inputs": dict(inputs),
        "crop_border": settings.crop_border,
        "color": "y" if options.color is None else options.color,
        "y_range": settings.y_range,
        "rounding": "inputs, results and clean pictures are rounded to 8 bits",
        "pairing": f"by {options.pair_by}",
        **_published(options.protocol, sets, differs),
    }


def _published(name: str | None, sets: Sequence[PairedSet], differs: Sequence[str]) -> dict[str, Any]:
    """What a published protocol says beyond the settings, and where these numbers are not as it has them."""
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
    remarks = [*protocol.notes, *differs, *note_sizes(protocol, sizes)]
    return {"luma": protocol.luma, "source": protocol.source, "remarks": remarks}
