"""Range checks that the sections of a recipe share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from linearsr.errors import ConfigError

if TYPE_CHECKING:
    from linearsr_train.config import TrainConfig

__all__ = ["NATIVE_SCALES", "check_family", "check_scales", "within"]

NATIVE_SCALES = {"4": 1.0}
"""What `data.fixed_scales` must be where the network reads native pixels: its grid is a quarter of the output's."""


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


def check_family(config: TrainConfig) -> None:
    """Refuse parts of a recipe that do not belong to one family.

    The compact family has the pixel autoencoder, the enlarged input and closed tags; the paper-scale one a learned
    autoencoder, a stem on native low-resolution pixels at x4 alone, and text tags.

    Raises:
        ConfigError: names the setting that does not fit the autoencoder.
    """
    kind, tags, none = config.autoencoder.kind, config.tags, "none"
    refused: dict[str, tuple[object, str]]
    if kind == "pixel":
        tags_kind = "closed"
        refused = {
            "model.lr_stem": (config.model.lr_stem, none),
            "tags.vocabulary": (tags.vocabulary, "none, as data.content_tags lists what is beyond the degradations"),
        }
    else:
        tags_kind = "text"
        refused = {
            "model.num_tags": (config.model.num_tags, "0"),
            "data.content_tags": (config.data.content_tags, "none, as the sidecar files may say anything"),
            "tagger.max_steps": (config.tagger.max_steps, "0, as the tagger names the closed vocabulary alone"),
            "experts.perceptual_weight": (config.experts.perceptual_weight, "0, as the autoencoder gives no gradient"),
        }
        _check_native(config)
    if tags.kind != tags_kind:
        raise ConfigError(f"tags.kind is {tags.kind!r} with autoencoder.kind {kind!r}, expected {tags_kind!r}")
    for name, (value, expected) in refused.items():
        if value:
            raise ConfigError(f"{name} is {value!r} with autoencoder.kind {kind!r}, expected {expected}")


def _check_native(config: TrainConfig) -> None:
    """The low-resolution pixels lie on a grid of their own: four times as coarse as the output, whatever the crop."""
    if config.data.fixed_scales != NATIVE_SCALES:
        raise ConfigError(
            f"data.fixed_scales is {config.data.fixed_scales} with model.lr_stem, expected {NATIVE_SCALES}",
            hint="the network reads low-resolution pixels as they are, and its latent fixes the scale at 4",
        )
    factor = 4 * config.model.lr_factor
    if not config.model.lr_stem or config.autoencoder.factor != factor:
        raise ConfigError(
            f"autoencoder.factor is {config.autoencoder.factor} with {len(config.model.lr_stem)} convolutions in "
            f"model.lr_stem, expected 4 * 2^convolutions = {factor}"
        )
