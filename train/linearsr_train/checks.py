"""Range checks that the sections of a recipe share."""

from __future__ import annotations

import math
from collections.abc import Mapping

from linearsr.errors import ConfigError

__all__ = ["check_scales", "within"]


def within(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Refuse values outside [low, high]; NaN is outside.

    Raises:
        ConfigError: names the first setting that does not fit.
    """
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ConfigError(f"{section}.{name} is {value:g}, expected {expected}")


def check_scales(section: str, scales: Mapping[str, float]) -> None:
    """Refuse probabilities of named scales that do not fit: scales from 1 to 4, in all at most 1.

    Raises:
        ConfigError: names the scale, or the sum.
    """
    for scale, probability in scales.items():
        try:
            fits = 1.0 <= float(scale) <= 4.0 and 0.0 <= probability <= 1.0
        except ValueError:
            fits = False
        if not fits:
            raise ConfigError(
                f"{section}.fixed_scales.{scale} is {probability:g}, "
                "expected scales from 1 to 4 with a probability each"
            )
    if sum(scales.values()) > 1 + 1e-9:
        raise ConfigError(f"{section}.fixed_scales sums to {sum(scales.values()):g}, expected at most 1")
