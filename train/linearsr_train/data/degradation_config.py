"""Parameters of the second-order degradation chain: SeeSR's numbers as the default, strict, each documented."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linearsr.errors import ConfigError

__all__ = ["KERNEL_KINDS", "REAL_V1", "DegradationConfig", "Range"]

Range = tuple[float, float]

KERNEL_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")


@dataclass(frozen=True, kw_only=True, slots=True)
class DegradationConfig:
    """Parameters of the second-order chain; the defaults are the recipe "real".

    They are SeeSR's numbers, but for the three stage probabilities, which are ours.
    """

    blur_stage_prob: float = 0.75
    """Probability that a sample is blurred at all (first, second and final filter), in [0, 1]. Published: 1."""
    noise_stage_prob: float = 0.75
    """Probability that a sample gets noise at all (both noises), in [0, 1]. Published: 1."""
    jpeg_stage_prob: float = 0.75
    """Probability that a sample is JPEG-compressed at all (both times), in [0, 1]. Published: 1."""
    kernel_size: tuple[int, int] = (7, 21)
    """Smallest and largest odd side of the random kernels, in pixels."""
    kernel_probs: tuple[float, float, float, float, float, float] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    """Probabilities of the shapes in `KERNEL_KINDS`, summing to 1; both blurs."""
    sinc_prob: float = 0.1
    """Probability that the first kernel is a sinc filter (ringing) instead, in [0, 1]."""
    sinc_prob2: float = 0.1
    """As `sinc_prob`, second blur."""
    blur_sigma: Range = (0.2, 3.0)
    """Standard deviation of the first blur in high-resolution pixels at x4, above 0."""
    blur_sigma2: Range = (0.2, 1.5)
    """Standard deviation of the second blur in pixels of the resized picture at x4, above 0."""
    betag: Range = (0.5, 4.0)
    """Exponent of the generalized Gaussian kernels, above 0; 1 is Gaussian. Half of the draws lie below 1."""
    betap: Range = (1.0, 2.0)
    """Exponent of the plateau kernels, above 0. Half of the draws are the lower end when that is 1."""
    second_blur_prob: float = 0.5
    """Probability of the second blur within the blur stage, in [0, 1]."""
    final_sinc_prob: float = 0.8
    """Probability of the final sinc filter (cut-off from pi / 3 to pi) within the blur stage, in [0, 1]."""
    resize_prob: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, shrinking and keeping in the first resize, summing to 1."""
    resize_range: Range = (0.3, 1.5)
    """Factors of the first resize against the high-resolution size at x4; lower end in (0, 1], upper at least 1."""
    resize_prob2: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """As `resize_prob`, second resize."""
    resize_range2: Range = (0.6, 1.2)
    """Factors of the second resize against the final size; lower end in (0, 1], upper at least 1."""
    gaussian_prob: float = 0.5
    """Probability that the first noise is Gaussian; Poisson otherwise."""
    gaussian_prob2: float = 0.5
    """As `gaussian_prob`, second noise."""
    noise_sigma: Range = (1.0, 15.0)
    """Standard deviation of the first Gaussian noise in 8-bit levels, at least 0."""
    noise_sigma2: Range = (1.0, 12.0)
    """As `noise_sigma`, second noise."""
    poisson_scale: Range = (0.05, 2.0)
    """Factor on the first Poisson noise, at least 0."""
    poisson_scale2: Range = (0.05, 1.0)
    """As `poisson_scale`, second noise."""
    gray_noise_prob: float = 0.4
    """Probability that the first noise is the same in all channels, in [0, 1]."""
    gray_noise_prob2: float = 0.4
    """As `gray_noise_prob`, second noise."""
    jpeg_quality: Range = (60.0, 95.0)
    """Quality of the first JPEG, 1 to 100."""
    jpeg_quality2: Range = (60.0, 100.0)
    """Quality of the second JPEG, 1 to 100."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_field(field.name, getattr(self, field.name), field.default)
        if self.blur_stage_prob + self.noise_stage_prob + self.jpeg_stage_prob <= 0:
            raise ConfigError(
                "blur_stage_prob, noise_stage_prob and jpeg_stage_prob are all 0, expected at least one above 0",
                hint="for clean pictures use the bicubic recipe",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DegradationConfig:
        """Build from plain data such as a TOML table; lists become tuples, missing keys take the defaults.

        Raises:
            ConfigError: a key is unknown (the message's hint names the closest one) or a value is wrong.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean `{close[0]}`?" if close else "known keys: " + ", ".join(known)
                raise ConfigError(f"degradation has no setting `{key}`", hint=hint)
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back: numbers and lists of numbers."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _check_field(name: str, value: object, default: object) -> None:
    """One setting of `DegradationConfig`: type, count and range, told from its name."""
    is_tuple, count = isinstance(default, tuple), len(default) if isinstance(default, tuple) else 1
    expected = f"{count} numbers" if is_tuple else "one number"
    numbers = value if isinstance(value, tuple) else (value,)
    is_number = all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    if not is_number or isinstance(value, tuple) != is_tuple or len(numbers) != count:
        raise ConfigError(f"{name} is {value!r}, expected {expected}")
    low, high = min(numbers), max(numbers)
    if "prob" in name:
        expected += " from 0 to 1 that sum to 1" if is_tuple else " from 0 to 1"
        ok = low >= 0 and high <= 1 and (not is_tuple or abs(sum(numbers) - 1) < 1e-6)
    elif name == "kernel_size":
        expected = "two odd whole numbers, at least 3"
        ok = low >= 3 and all(isinstance(x, int) and x % 2 == 1 for x in numbers)
    elif name.startswith("resize"):
        expected, ok = "a lower end in (0, 1] and an upper end of at least 1", 0 < low <= 1 <= high
    elif name.startswith("jpeg"):
        expected, ok = "numbers from 1 to 100", 1 <= low <= high <= 100
    elif name.startswith(("noise", "poisson")):
        expected, ok = "numbers of at least 0", low >= 0
    else:
        expected, ok = "numbers above 0", low > 0
    if not ok or ("prob" not in name and numbers[0] > numbers[-1]):
        order = "" if "prob" in name else ", the smaller first"
        raise ConfigError(f"{name} is {value!r}, expected {expected}{order}")


REAL_V1 = DegradationConfig()
"""The recipe "real" of published numbers. A change of its values, or of what they mean, needs a new name."""
