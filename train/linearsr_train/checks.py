"""Range checks that the sections of a recipe share."""

from __future__ import annotations

import math

from linearsr.errors import ConfigError

__all__ = ["within"]


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
