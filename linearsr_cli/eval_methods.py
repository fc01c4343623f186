"""Which rows a table of scores has, and which of them differences are taken from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linearsr.errors import ConfigError
from linearsr_cli.eval_settings import CEILING, INTERPOLATIONS, EvalOptions, split_label
from linearsr_cli.output import Output, clean

if TYPE_CHECKING:
    from linearsr.evaluation.methods import Method
    from linearsr.evaluation.results import MethodInfo
    from linearsr.hub_repo import OnDownload

__all__ = ["choose_baseline", "make_methods"]


def make_methods(
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


def choose_baseline(methods: Sequence[Method], options: EvalOptions) -> str | None:
    """What differences are taken from: the first baseline asked for, else the first row if there are others.

    Raises:
        ConfigError: a baseline that is no row, or the name of a model that has several.
    """
    infos = [method.info for method in methods]
    fixed = [info.name for info in infos if info.kind == "baseline"]
    wanted = () if options.baseline is None else options.baseline
    # The autoencoder is called after its model, and is the last of the baselines.
    found = [fixed[-1] if name == CEILING else _row_called(name, infos) for name in wanted]
    if found or fixed:
        return (*found, *fixed)[0]
    return infos[0].name if len(infos) > 1 else None


def _row_called(name: str, infos: Sequence[MethodInfo]) -> str:
    """The row of an interpolation or folder of that name, or of a model, which `NAME@STEPS` tells from its others."""
    addresses: dict[str, str] = {}
    of_model: list[str] = []
    for info in infos:
        title = info.name.rpartition(", ")[0] if info.kind == "model" else info.name
        address = title if info.steps is None else f"{title}@{info.steps}"
        addresses[address] = info.name
        if name == title:
            of_model.append(address)
    if name in addresses:
        return addresses[name]
    if len(of_model) == 1:
        return addresses[of_model[0]]
    expected = ", ".join(of_model if of_model else (*INTERPOLATIONS, CEILING, *addresses))
    raise ConfigError(
        f"baseline is {name!r}, expected {expected}{'' if of_model else ' or none'}",
        hint="a model with several steps is named as `--baseline NAME@STEPS`, a folder as in `--sr NAME=DIR`",
    )
