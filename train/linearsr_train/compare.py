"""Two models on the same held-back photographs: paired differences, and whether they are more than chance.

Both are run by the sampler that users run, on the same inputs and with the same noise, so that every photograph is its
own control: photographs differ by ten decibels, their differences by tenths of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from linearsr.errors import ConfigError, TrainingError
from linearsr.metrics import METRICS, psnr, quantise
from linearsr.pipeline import Upscaler
from linearsr_train.data.degradation import degrade_bicubic, degrade_real_fixed
from linearsr_train.data.sources import read_photo
from linearsr_train.evaluate import PerceptualFn

__all__ = [
    "DEFAULT_JUDGE",
    "LEAST_SIDE",
    "Case",
    "Comparison",
    "Paired",
    "Verdict",
    "build_case",
    "compare_models",
    "paired_interval",
]

SCALE = 4
MAX_SIDE = 512
"""Larger photographs are judged by their central crop of this side."""
LEAST_SIDE = 32
"""Smallest side in pixels that the perceptual distances are defined for, rounded up."""
FEWEST = 5
"""Below this many photographs a 95 % interval excludes zero by chance far more often than it says."""
LEVEL, RESAMPLES, SEED = 0.95, 10_000, 0
EXACT_DB = 100.0
"""Counts for a picture without any error, whose PSNR is infinite."""
DEFAULT_JUDGE = "x4/psnr_1"
Verdict = Literal["better", "worse", "unclear"]


def paired_interval(
    differences: Sequence[float], *, seed: int = SEED, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of paired differences.

    Args:
        differences: one of each photograph, at least one.
        seed: of the draws.
        resamples: how many times the photographs are drawn anew.
        level: share of the resampled means inside.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    values, rng = np.asarray(differences, dtype=np.float64), np.random.default_rng(seed)
    means = [values[rng.integers(0, values.size, values.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """One measure of all photographs, before and after."""

    key: str
    """Such as `x4/psnr_1`: input, measure, steps."""
    before: tuple[float, ...]
    after: tuple[float, ...]
    low: float
    """Lower end of the interval of the mean difference, after less before."""
    high: float

    @classmethod
    def of(cls, key: str, before: Sequence[float], after: Sequence[float]) -> Paired:
        """Pair the values of the same photographs."""
        low, high = paired_interval([b - a for a, b in zip(before, after, strict=True)])
        return cls(key=key, before=tuple(before), after=tuple(after), low=low, high=high)

    @property
    def higher_better(self) -> bool:
        """Which way the measure points, as `linearsr.metrics.METRICS` has it."""
        return not METRICS["psnr_y" if "/psnr_" in self.key else "gmsd"].lower_better  # LPIPS points as GMSD does

    @property
    def difference(self) -> float:
        """Mean of after less before."""
        return float(np.mean(np.subtract(self.after, self.before)))

    @property
    def signs(self) -> tuple[int, int]:
        """Photographs that got better, and those that got worse."""
        gains = np.subtract(self.after, self.before) * (1 if self.higher_better else -1)
        return int((gains > 0).sum()), int((gains < 0).sum())

    @property
    def verdict(self) -> Verdict:
        """`unclear` if the interval holds zero, or if there are too few photographs to say."""
        if len(self.before) < FEWEST or self.low <= 0.0 <= self.high:
            return "unclear"
        return "better" if (self.low > 0.0) == self.higher_better else "worse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All measures of two models on the same photographs."""

    photographs: tuple[str, ...]
    perceptual: str
    """Which distance `perceptual` is: `gmsd` or `lpips-alex-0.1`."""
    rows: tuple[Paired, ...]

    def row(self, key: str) -> Paired:
        """The measure of a name.

        Raises:
            ConfigError: there is none of it.
        """
        found = [row for row in self.rows if row.key == key]
        if not found:
            raise ConfigError(f"measure {key!r} is unknown, expected one of {', '.join(row.key for row in self.rows)}")
        return found[0]

    def table(self) -> list[str]:
        """Lines of plain text, columns aligned."""
        cells = [("measure", "before", "after", "difference", "95 % interval", "better", "worse")]
        for row in self.rows:
            digits = 2 if row.higher_better else 4
            interval = f"{row.low:+.{digits + 1}f} to {row.high:+.{digits + 1}f}"
            means = (f"{np.mean(row.before):.{digits}f}", f"{np.mean(row.after):.{digits}f}")
            better, worse = row.signs
            cells.append((row.key, *means, f"{row.difference:+.{digits + 1}f}", interval, str(better), str(worse)))
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        return [
            "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
            for line in cells
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with the values of every photograph."""
        rows = {
            row.key: {
                **{k: v for k, v in asdict(row).items() if k != "key"},
                "difference": row.difference,
                "num_better": row.signs[0],
                "num_worse": row.signs[1],
                "verdict": row.verdict,
            }
            for row in self.rows
        }
        bootstrap = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "kind": "paired, percentile"}
        names = list(self.photographs)
        return {"photographs": names, "perceptual": self.perceptual, "bootstrap": bootstrap, "rows": rows}


@dataclass(frozen=True, slots=True)
class Case:
    """One clean photograph and the inputs made from it."""

    name: str
    hr: Tensor
    """(3, H, W) in [0, 1]; sides are multiples of the scale."""
    lr: dict[str, Tensor]
    """(3, H / 4, W / 4) by kind of input: `x4` is bicubic, `real4` the second-order chain, drawn by file name."""


def build_case(path: Path) -> Case:
    """Read a photograph, cut out its centre if it is large, and make its inputs.

    Raises:
        TrainingError: it cannot be read, or is smaller than `LEAST_SIDE`.
    """
    pixels = read_photo(path)
    height, width = (min(side, MAX_SIDE) // SCALE * SCALE for side in pixels.shape[:2])
    if min(height, width) < LEAST_SIDE:
        raise TrainingError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, expected {LEAST_SIDE} pixels a side")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    hr = pixels[top : top + height, left : left + width].astype(np.float32) / 255.0
    made = {
        "x4": degrade_bicubic(hr, (height // SCALE, width // SCALE)).lr,
        "real4": degrade_real_fixed(hr, SCALE, path.name).lr,
    }

    def planes(image: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    return Case(path.name, planes(hr), {task: planes(lr) for task, lr in made.items()})


def _measure(upscaler: Upscaler, case: Case, counts: Sequence[int], perceptual: PerceptualFn) -> dict[str, float]:
    """Every measure of one photograph, on pictures rounded to 8 bits as a file would be."""
    values, size = {}, (case.hr.shape[-1], case.hr.shape[-2])
    for task, lr in case.lr.items():
        for count in counts:
            sr = quantise(upscaler.upscale_tensor(lr, size=size, steps=count, seed=0))
            values[f"{task}/psnr_{count}"] = min(EXACT_DB, psnr(sr, case.hr, border=SCALE))
            values[f"{task}/perceptual_{count}"] = perceptual(sr, case.hr)
    return values


def compare_models(
    before: Upscaler,
    after: Upscaler,
    paths: Sequence[Path],
    *,
    perceptual: PerceptualFn,
    perceptual_name: str,
    report: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Measure two models at one step and at the first one's default number of steps.

    Args:
        before, after: the models, as users open them; tags are those their taggers name.
        paths: photographs that neither was adapted to. One that cannot be read is left out and reported.
        perceptual: (3, H, W) twice, in [0, 1], to a distance.
        perceptual_name: what it is, for the record.
        report: receives one-line messages for a person.

    Raises:
        TrainingError: none of the photographs can be used.
    """
    counts = sorted({1, before.config.sampling.steps})
    names: list[str] = []
    values: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for path in paths:
        try:
            case = build_case(path)
        except TrainingError as error:
            report(f"left out of the comparison: {error}")
            continue
        names.append(case.name)
        for upscaler, measured in zip((before, after), values, strict=True):
            measured.append(_measure(upscaler, case, counts, perceptual))
    if not names:
        raise TrainingError(f"none of the {len(paths)} held-back photographs can be used", hint="give others")
    rows = [Paired.of(key, *([one[key] for one in measured] for measured in values)) for key in values[0][0]]
    return Comparison(photographs=tuple(names), perceptual=perceptual_name, rows=tuple(rows))
