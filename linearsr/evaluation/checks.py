"""What is found out before the first picture: methods that do not fit, and results that would replace an input."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from linearsr.errors import ConfigError
from linearsr.evaluation.making import Method
from linearsr.evaluation.pairing import PairedSet

__all__ = ["check_methods", "check_places", "result_folder"]


def result_folder(save: Path, dataset: str, method: str) -> Path:
    """Folder of a method's results, `DATASET/METHOD`, the method's name without what file systems dislike.

    Args:
        save: folder of all of them.
        dataset, method: names.
    """
    return save / dataset / re.sub(r"[^\w.+-]+", "-", method).strip("-.")


def check_methods(
    sets: Sequence[PairedSet], methods: Sequence[Method], baseline: str | None, *, is_degraded: bool
) -> None:
    """Find out before the first picture what would fail at each.

    Args:
        sets: pictures.
        methods: what makes results.
        baseline: name of one of them, or None.
        is_degraded: whether inputs are made, so that none need be there.

    Raises:
        ConfigError: methods do not fit one another, or the pictures.
    """
    names = [method.info.name for method in methods]
    if not names:
        raise ConfigError("there is no method to evaluate, expected at least one", hint="give `--sr` or `--model`")
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two methods are named {name!r}, expected names of their own", hint="rename one")
    if len({result_folder(Path(), "", name) for name in names}) < len(names):
        raise ConfigError(
            f"two of the methods {', '.join(map(repr, names))} have the same name for a folder", hint="rename one"
        )
    if baseline is not None and baseline not in names:
        close = difflib.get_close_matches(baseline, names, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected {', '.join(map(repr, names))}"
        raise ConfigError(f"baseline is {baseline!r}, which is none of the methods", hint=hint)
    for method in methods:
        for pair in (pair for paired in sets for pair in paired.pairs):
            if method.reads == "file" and method.info.name not in pair.srs:
                raise ConfigError(
                    f"{method.info.name!r} has no result for {pair.image!r}", hint="give a folder for each `--hr`"
                )
            if method.reads == "input" and pair.lr is None and not is_degraded:
                raise ConfigError(
                    f"{method.info.name!r} has no input for {pair.image!r}",
                    hint="give `--lr FOLDER`, or let inputs be made by `--degrade bicubic`",
                )


def check_places(sets: Sequence[PairedSet], methods: Sequence[Method], save: Path) -> None:
    """Refuse to write a result over a picture that is read.

    Args:
        sets: pictures, with names of their own.
        methods: what makes results.
        save: folder for them, as `result_folder` has it.

    Raises:
        ConfigError: naming the first result that would.
    """
    pairs = [pair for paired in sets for pair in paired.pairs]
    read = [path for pair in pairs for path in (pair.hr, pair.lr, *pair.srs.values()) if path is not None]
    taken = {os.path.realpath(path) for path in read}
    roots = {os.path.realpath(path.parent) for path in read}
    for paired in sets:
        if os.path.realpath(save / paired.name) in roots:
            raise ConfigError(f"{save / paired.name} is a folder of pictures to read", hint="use another `--save`")
        for method in methods:
            folder = result_folder(save, paired.name, method.info.name)
            for pair in paired.pairs if method.reads != "file" else ():
                place = folder / f"{pair.image}.png"
                if os.path.realpath(place) in taken:
                    raise ConfigError(f"{place} would replace an input", hint="use another folder for `--save`")
