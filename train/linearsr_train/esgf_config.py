"""Settings of the early-stopping rule in `esgf.py`. Standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from linearsr.errors import ConfigError

__all__ = ["EsgfConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EsgfConfig:
    """Settings of the rule. Lengths are in evaluations, and score 1 is the gain of the stage so far."""

    psnr_weight: float = 0.5
    """Share of PSNR in the score, 0 to 1; the rest is the perceptual score's."""
    least_psnr_gain: float = 0.1
    """dB, above 0. A smaller gain of the stage is scored as if it were this."""
    least_perceptual_gain: float = 0.01
    """As `least_psnr_gain`, in units of the perceptual score; above 0."""
    noise_gain: float = 10.0
    """Gains below this many standard deviations of the noise are scored as if they were that; 0 or more."""
    smoothing: float = 0.6
    """Share kept at each evaluation by the exponential average after the median of three; 0 to below 1."""
    least_evaluations: int = 8
    """No verdict but collapse before this many; at least 6."""
    improvement: float = 0.01
    """Score by which the best must be beaten to count as progress, 0 or more; at least one deviation of the noise."""
    window: int = 8
    """Last evaluations in which an oscillation is looked for; at least 4."""
    oscillation_factor: float = 2.2
    """Deviation from a straight line over the window, in deviations of the noise, that is oscillation; above 1."""
    early_caution: float = 8.0
    """That factor grows by this over the number of evaluations the noise was measured on; 0 or more."""
    confirmations: int = 2
    """Evaluations in a row that must find oscillation; at least 1."""
    stall: int = 4
    """Evaluations without progress before oscillation counts; 0 or more."""
    patience: int = 12
    """Evaluations without progress before a plateau can be declared; at least 3."""
    plateau_gain: float = 0.02
    """A plateau is where the next `patience` evaluations would gain less score than this, by a line fit; above 0."""
    plateau_caution: float = 1.0
    """Standard errors added to that estimate: noisy curves are watched for longer; 0 or more."""
    restless_factor: float = 1.6
    """Deviations from a line above this put a plateau off for up to `patience` more: it may be an oscillation."""
    collapse_fall: float = 1.0
    """Fall of the score below its best, twice in a row, that is a collapse though all is finite; above 0."""
    tolerance: float = 0.05
    """Share of the best score that the knee may lack; 0 to below 1."""
    keep_last: int = 16
    """Newest checkpoints that are kept in any case; at least the window and the confirmations together."""

    def __post_init__(self) -> None:
        whole = {"least_evaluations": 6, "window": 4, "confirmations": 1, "stall": 0, "patience": 3}
        for name, least in {**whole, "keep_last": self.window + self.confirmations}.items():
            self._within(name, least, math.inf)
        for name in ("noise_gain", "improvement", "early_caution", "plateau_caution", "restless_factor"):
            self._within(name, 0.0, math.inf)
        for name in ("least_psnr_gain", "least_perceptual_gain", "plateau_gain", "collapse_fall"):
            self._within(name, 1e-9, math.inf)
        self._within("oscillation_factor", 1.0, math.inf)
        self._within("psnr_weight", 0.0, 1.0)
        for name in ("smoothing", "tolerance"):
            self._within(name, 0.0, 0.999)

    def _within(self, name: str, low: float, high: float) -> None:
        """Refuse a value outside [low, high], NaN and infinity."""
        value = getattr(self, name)
        if not (low <= value <= high and math.isfinite(value)):
            expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ConfigError(f"esgf.{name} is {value:g}, expected {expected}")
