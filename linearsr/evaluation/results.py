"""What an evaluation found: the data that engine, statistics, tables and reports share. Standard library only.

An `Evaluation` is complete: whoever reads its JSON knows the pictures, how their inputs were made, what made the
results, how they were scored, what could not be scored and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["SEES_REFERENCE", "Evaluation", "Failure", "ImageScores", "MethodInfo", "SkippedMetric"]

SEES_REFERENCE: Mapping[str, str] = {"sees": "the clean picture"}
"""Among the settings of a method that makes its results of the clean pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodInfo:
    """One row of the table: what makes results."""

    name: str
    """Unique in an evaluation, such as `bicubic`, `compact, 4 steps` or the name of a folder."""
    kind: Literal["baseline", "model", "folder"]
    """`baseline` is an interpolation or the autoencoder alone; `folder` are results that lay there already."""
    steps: int | None = None
    """Network evaluations of a model."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that decides its results: of a model also revision, digest of its weights, seed, tags, guidance and tile."""

    @property
    def competes(self) -> bool:
        """Whether it may be called the best: not if it is given what the others must find."""
        return not SEES_REFERENCE.items() <= self.settings.items()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScores:
    """Scores of one result."""

    dataset: str
    """Name of the folder of clean pictures."""
    image: str
    """Name of the clean picture without its ending, with its place below the folder."""
    method: str
    """`MethodInfo.name`."""
    scores: Mapping[str, float]
    """Metric -> value; a metric that has no value here (seams of an untiled picture) is left out. May be infinite."""
    seconds: float | None = None
    """Time from input to result without reading, writing and scoring; None where nothing was made."""
    megapixels: float = 0.0
    """Of the result."""
    cached: bool = False
    """Whether the scores were kept from an earlier run; `seconds` are of that run then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A picture that could not be scored. It counts in no mean, of no method."""

    dataset: str
    image: str
    method: str | None
    """None where the clean picture or the input is at fault."""
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SkippedMetric:
    """A metric that was not computed."""

    name: str
    reason: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything one run of `evaluate` found."""

    datasets: tuple[str, ...]
    """In the order given."""
    methods: tuple[MethodInfo, ...]
    """In the order of the table, baselines first."""
    metrics: tuple[str, ...]
    """Keys of `linearsr.metrics.METRICS`, in the order of the table."""
    baseline: str | None
    """Method that differences are taken from; None for none."""
    images: tuple[ImageScores, ...]
    """By dataset, picture and method. Every picture in it has been scored for every method."""
    failures: tuple[Failure, ...] = ()
    unsaved: tuple[Failure, ...] = ()
    """Results that are scored, but could not be saved."""
    skipped: tuple[SkippedMetric, ...] = ()
    other_inputs: tuple[tuple[str, str], ...] = ()
    """Inputs, as (set, image), whose pixels are not those that the table beside them tells of."""
    notes: tuple[str, ...] = ()
    """What was done to pictures, once each, in plain words: cropped to the scale, rounded to 8 bits, gray repeated."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Scale, degradation with its parameters and seed, border crop, range of luma, rounding, pairing."""
