"""From names of metrics to functions that score one result: parse the names, find what can be computed, load it once.

Whatever is missing is found by `make_scorers`, before any work: a package, weights, an original or an input.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from linearsr.errors import ConfigError, ImageError, ShapeError, WeightsError
from linearsr.metrics.definitions import COLOR_FREE, DEFAULT_METRICS, METRICS, Metric
from linearsr.metrics.fidelity import lr_psnr, psnr
from linearsr.metrics.gradients import gmsd
from linearsr.metrics.packages import load_lpips, load_pyiqa
from linearsr.metrics.planes import YRange, crop_pair
from linearsr.metrics.seams import Tiles, seam_score
from linearsr.metrics.structure import ms_ssim, ssim

__all__ = ["DEFAULT_METRICS", "Sample", "ScoreSettings", "Scorer", "Skipped", "make_scorers", "parse_metrics", "score"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """What the caller chooses about scoring."""

    crop_border: int = 0
    """Pixels cut from every side before a comparison with the original; the classical benchmarks use the scale."""
    y_range: YRange = "limited"
    """Range of luma; `limited` is what papers print."""
    lpips_weights: Path | None = None
    """Safetensors file; None for the one that LINEARSR_LPIPS_WEIGHTS names, else the `lpips` package."""
    device: str = "cpu"
    """Where LPIPS and the metrics of pyiqa are computed; the others are computed where the pictures are."""

    def __post_init__(self) -> None:
        """Check what a user may have typed."""
        if self.crop_border < 0:
            raise ConfigError(f"crop border is {self.crop_border}, expected 0 or more pixels")
        if self.y_range not in ("limited", "full"):
            raise ConfigError(f"range of luma is {self.y_range!r}, expected limited or full")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One result and what it is compared with; every picture (3, H, W) RGB in [0, 1], rounded to 8 bits."""

    sr: Tensor
    """The result."""
    hr: Tensor | None = None
    """The original, of the result's size."""
    lr: Tensor | None = None
    """The input, (3, h, w)."""
    tiles: Tiles | None = None
    """Where the tiles of the result lie; None where that is not known."""


Scorer = Callable[[Sample], float | None]
"""Value of a metric for one result; None where it has none, as the seams of an untiled picture.

Raises ShapeError, with the metric's name, where the pictures do not fit or are too small, and ImageError where nothing
comes out.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A metric that cannot be computed."""

    name: str
    reason: str
    hint: str | None = None


def parse_metrics(text: str, color: Literal["y", "rgb"]) -> tuple[str, ...]:
    """Keys of `METRICS` from a list that a user typed.

    Args:
        text: names parted by commas; case, blanks and `-` for `_` do not matter, repetitions are dropped.
        color: what `psnr`, `ssim` and `ms_ssim` without an ending mean.

    Raises:
        ConfigError: a name is unknown, or there is none.
    """
    known = (*COLOR_FREE, *METRICS)
    names: dict[str, None] = {}
    for word in text.split(","):
        name = word.strip().lower().replace("-", "_")
        if not name:
            continue
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"metric {word.strip()!r} is unknown", hint=hint)
        names[f"{name}_{color}" if name in COLOR_FREE else name] = None
    if not names:
        raise ConfigError(
            f"metrics are {text!r}, expected names parted by commas", hint=f"known are {', '.join(known)}"
        )
    return tuple(names)


def make_scorers(
    names: Iterable[str], settings: ScoreSettings, *, has: frozenset[str], explicit: bool
) -> tuple[dict[str, Scorer], tuple[Skipped, ...]]:
    """Functions for all metrics that can be computed, and why the others cannot.

    Args:
        names: keys of `METRICS`, as `parse_metrics` gives them.
        settings: how to score.
        has: which of `reference`, `input` and `tiles` the samples will bring.
        explicit: whether the user asked for these metrics by name: then one that cannot be computed is an error, and
            so is a picture that is too small for one. Else such a picture has no value of it.

    Returns:
        Name -> scorer in the order of `names`, and the rest.

    Raises:
        ConfigError: a name is unknown; or, if explicit, a metric needs what the samples lack.
        WeightsError: a weights file in the settings cannot be read; or, if explicit, weights or a package are missing.
    """
    scorers: dict[str, Scorer] = {}
    skipped = []
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=3)
            raise ConfigError(f"metric {name!r} is unknown", hint=f"known are {', '.join(close or METRICS)}")
        metric = METRICS[name]
        try:
            if metric.needs != "nothing" and metric.needs not in has:
                raise _lacking(metric)
            scorers[name] = _named(metric, _build(name, settings), explicit)
        except (ConfigError, WeightsError) as error:
            if explicit or (name == "lpips" and settings.lpips_weights is not None and "reference" in has):
                raise
            skipped.append(Skipped(name=name, reason=error.message, hint=error.hint))
    return scorers, tuple(skipped)


def score(scorers: Mapping[str, Scorer], sample: Sample) -> dict[str, float]:
    """Values of all metrics that have one for this result.

    Raises:
        ShapeError: pictures do not fit or are too small for a metric, which is named.
        ImageError: nothing comes out of one.
    """
    values = {name: scorer(sample) for name, scorer in scorers.items()}
    return {name: value for name, value in values.items() if value is not None}


_LACKING = {
    "reference": ("no original to compare with", "give the originals by `--hr DIR`"),
    "input": ("no input to compare with", "give the inputs by `--lr DIR`, or let them be made by `--degrade`"),
    "tiles": ("no tiles: these results were made elsewhere or in one piece", "give a model and `--tile`"),
}


def _lacking(metric: Metric) -> ConfigError:
    """What to say of a metric whose needs the samples do not meet."""
    problem, hint = _LACKING[metric.needs]
    return ConfigError(f"{metric.title} has {problem}", hint=hint)


def _named(metric: Metric, scorer: Scorer, explicit: bool) -> Scorer:
    """The scorer with the metric's name in its errors, and none of the values that are no numbers."""

    def checked(sample: Sample) -> float | None:
        try:
            value = scorer(sample)
        except ShapeError as error:
            if not explicit:
                return None
            raise ShapeError(f"{metric.title}: {error.message}", hint=error.hint) from error
        if value is not None and value != value:
            raise ImageError(
                f"{metric.title} of this picture is not a number", hint="leave the picture or the metric out"
            )
        return value

    return checked


def _build(name: str, settings: ScoreSettings) -> Scorer:
    """Scorer of one metric, its weights loaded."""
    border, y_range = settings.crop_border, settings.y_range
    stem, _, color = name.rpartition("_")
    measure = {"psnr": psnr, "ssim": ssim, "ms_ssim": ms_ssim}.get(stem)
    if measure is not None and color in ("y", "rgb"):
        return lambda s: measure(s.sr, _original(s), border=border, luma_only=color == "y", y_range=y_range)
    if name == "lr_psnr":
        return lambda s: lr_psnr(s.sr, _input(s))
    if name == "seam":
        return lambda s: None if s.tiles is None else seam_score(s.sr, s.tiles)
    if name == "gmsd":
        return lambda s: gmsd(*crop_pair(s.sr, _original(s), border))
    if name == "lpips":
        distance = load_lpips(settings.lpips_weights, settings.device)
        return lambda s: distance(*crop_pair(s.sr, _original(s), border))
    value = load_pyiqa(name, settings.device)
    if METRICS[name].needs_reference:
        return lambda s: value(*crop_pair(s.sr, _original(s), border))
    return lambda s: value(s.sr, None)


def _original(sample: Sample) -> Tensor:
    if sample.hr is None:
        raise ShapeError("this result has no original", hint="leave the metric out")
    return sample.hr


def _input(sample: Sample) -> Tensor:
    if sample.lr is None:
        raise ShapeError("this result has no input", hint="leave the metric out")
    return sample.lr
