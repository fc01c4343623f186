"""What `linearsr eval` was asked to do, typed and checked before anything heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from linearsr.errors import ConfigError
from linearsr.sizing import check_scale
from linearsr_cli.plan_checks import why_not_there
from linearsr_cli.values import Tile

__all__ = [
    "CEILING",
    "INTERPOLATIONS",
    "EvalOptions",
    "check_eval_options",
    "folder_label",
    "parse_steps",
    "split_label",
    "split_names",
]

INTERPOLATIONS = ("bicubic", "lanczos", "bilinear", "nearest")
CEILING = "autoencoder"
"""Baseline: what the learned autoencoder of the first model leaves of the clean picture."""
ENDINGS = (".json", ".csv", ".md", ".tex", ".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalOptions:
    """Every option of one run, one field a flag; `None` means not given."""

    hr: tuple[Path, ...]
    """Folders of clean pictures, one set each."""
    sr: tuple[str, ...] = ()
    """Folders of results, `NAME=DIR` or `DIR`."""
    lr: tuple[Path, ...] = ()
    degrade: str | None = None
    """`bicubic`, `real` or a file."""
    degrade_seed: int = 0
    scale: float | None = None
    pair_by: Literal["name", "order"] = "name"
    recursive: bool = False
    limit: int | None = None
    """At most this many pictures of each set, in order."""
    save: Path | None = None

    model: tuple[str, ...] = ()
    """Models, `NAME=MODEL` or `MODEL`."""
    steps: tuple[int, ...] | None = None
    seed: int = 0
    tags: str = "auto"
    cfg_scale: float | tuple[float, ...] | None = None
    color_fix: str = "auto"
    baseline: tuple[str, ...] | None = None
    """Interpolations, `autoencoder` and names of `sr`, or empty for none."""

    metrics: str | None = None
    color: Literal["y", "rgb"] | None = None
    y_range: Literal["limited", "full"] | None = None
    crop_border: int | None = None
    lpips_weights: Path | None = None
    protocol: str | None = None
    fail_under: str | None = None
    bootstrap: int = 10_000

    tile: Tile = "auto"
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "none"
    cache: bool = True

    format: str = "auto"
    output: tuple[Path, ...] = ()
    per_image: tuple[Path, ...] = ()
    differences: bool = False
    progress: str = "auto"
    quiet: bool = False
    environment: tuple[str, ...] = ()
    """What variables have set of the above, as `NAME=value`; printed with the table."""

    @property
    def makes_inputs(self) -> bool:
        """Whether there is something for a model or an interpolation to work on."""
        return bool(self.lr) or self.degrade is not None


def split_names(text: str) -> tuple[str, ...]:
    """Words between commas; `none` alone is no word."""
    names = tuple(word.strip() for word in text.split(",") if word.strip())
    return () if names == ("none",) else names


def split_label(text: str) -> tuple[str | None, str]:
    """Read `NAME=WHAT`, or `WHAT` alone; a path that is there is never taken apart."""
    name, equals, what = text.partition("=")
    return (name, what) if equals and name and what and not Path(text).exists() else (None, text)


def folder_label(text: str, num_sets: int) -> str:
    """Name of a folder's row: the one given, else the folder's own, else `results` for those of several sets."""
    label, path = split_label(text)
    if label is not None:
        return label
    return "results" if num_sets > 1 else Path(path).absolute().name


def parse_steps(text: str) -> tuple[int, ...]:
    """Read `1,2,4,8`.

    Raises:
        ConfigError: something else, or a number twice.
    """
    try:
        steps = tuple(int(word) for word in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise ConfigError(
            f"steps is {text!r}, expected different whole numbers from 1 with commas between", hint="`--steps 1,4`"
        )
    return steps


def check_eval_options(options: EvalOptions) -> None:
    """Refuse values out of range and options that exclude one another, before any file is looked at.

    Raises:
        ConfigError: the first problem found, with the value and the nearest valid command.
    """
    _check_sources(options)
    _check_inputs(options)
    _check_baseline(options)
    _check_numbers(options)
    _check_reporting(options)


def _check_sources(options: EvalOptions) -> None:
    if not options.model and not options.sr and not _interpolates(options):
        raise ConfigError(
            "nothing to score: neither --model nor --sr is given, nor --baseline with inputs",
            hint="`linearsr eval --model compact --hr DIR --degrade bicubic` or `linearsr eval --sr DIR --hr DIR`",
        )
    if options.fail_under is not None and not options.model and not options.sr:
        raise ConfigError(
            "--fail-under has nothing to judge, expected a model or a folder of results beside the baselines",
            hint="add `--model NAME` or `--sr DIR`",
        )
    for folder in options.hr:
        if not folder.exists():
            raise ConfigError(f"hr is {str(folder)!r}, which does not exist", hint="check the path")


def _interpolates(options: EvalOptions) -> bool:
    """Whether rows of interpolations are asked for by name, and there are inputs to enlarge, or may be."""
    named = any(name in INTERPOLATIONS for name in options.baseline or ())
    return named and (options.makes_inputs or options.protocol is not None)


def _check_inputs(options: EvalOptions) -> None:
    if options.lr and options.degrade is not None:
        raise ConfigError("--lr and --degrade are both given, expected one of them", hint="drop one of them")
    if options.lr and len(options.lr) != len(options.hr):
        raise ConfigError(
            f"{len(options.lr)} --lr for {len(options.hr)} --hr, expected one for each",
            hint="`--lr A --hr A_clean`",
        )
    if options.model and not options.makes_inputs and options.protocol is None:
        raise ConfigError(
            "--model needs inputs, expected --lr DIR or --degrade",
            hint="`--degrade bicubic` makes them from the clean pictures",
        )
    if options.degrade_seed and options.degrade is None and options.protocol is None:
        raise ConfigError("--degrade-seed needs --degrade", hint="`--degrade real`")
    if options.scale is not None:
        check_scale(options.scale)


def _check_baseline(options: EvalOptions) -> None:
    """What can be told before models are looked at; `choose_baseline` knows their names."""
    labels = tuple(dict.fromkeys(folder_label(text, len(options.hr)) for text in options.sr))
    known = (*INTERPOLATIONS, CEILING, *labels)
    for name in () if options.baseline is None else options.baseline:
        if name not in known and not options.model:
            raise ConfigError(
                f"baseline is {name!r}, expected {', '.join(known)} or none",
                hint="a folder is given by `--sr NAME=DIR`, then `--baseline NAME`",
            )
        if name == CEILING and not options.model:
            raise ConfigError("--baseline autoencoder needs --model", hint="the autoencoder is the model's")
        if name in INTERPOLATIONS and not options.makes_inputs and options.protocol is None:
            raise ConfigError(f"--baseline {name} needs inputs to enlarge", hint="`--lr DIR` or `--degrade bicubic`")


def _check_numbers(options: EvalOptions) -> None:
    for name, low in (("limit", 1), ("crop_border", 0), ("bootstrap", 0), ("degrade_seed", 0), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < low:
            raise ConfigError(f"{name.replace('_', '-')} is {value}, expected at least {low}", hint="leave it out")
    if 0 < options.bootstrap < 100:
        raise ConfigError(f"bootstrap is {options.bootstrap}, expected 0 or at least 100", hint="10000 is the default")


def _check_reporting(options: EvalOptions) -> None:
    for path in options.output:
        if path.suffix.lower() not in ENDINGS:
            raise ConfigError(f"output is {str(path)!r}, expected a name that ends in {', '.join(ENDINGS)}")
    for path in options.per_image:
        if path.suffix.lower() not in (".csv", ".json"):
            raise ConfigError(f"per-image is {str(path)!r}, expected a name that ends in .csv or .json")
    written = [path.absolute() for path in (*options.output, *options.per_image)]
    if len(set(written)) < len(written):
        twice = str(max(written, key=written.count))
        raise ConfigError(f"{twice!r} is to be written twice", hint="name each file once")
    for path in (*options.output, *options.per_image):
        if (refusal := why_not_there(path)) is not None:
            raise refusal
    if options.save is not None and not options.model and not _interpolates(options):
        raise ConfigError("--save needs --model: what is in a folder is there already", hint="drop `--save`")
