"""The recipe of a run: frozen, strict dataclasses read from TOML.

A recipe is complete: every number that changes the result is in it. `--set section.field=value` overrides single
fields with TOML values; unknown fields are refused with the closest match.
"""

from __future__ import annotations

import math
import tomllib
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from linearsr.config import AutoencoderConfig, FlowConfig, ModelConfig, check_state_gate, from_dict
from linearsr.errors import ConfigError
from linearsr_train.data.degradation import DegradationConfig

__all__ = ["DataConfig", "LoopConfig", "LossConfig", "OptimConfig", "TrainConfig", "load_recipe", "recipe_names"]


def _within(section: str, config: object, low: float, high: float, *names: str) -> None:
    """Refuse values outside [low, high]; NaN is outside."""
    for name in names:
        value = getattr(config, name)
        if not low <= value <= high:
            expected = f"at least {low:g}" if high == math.inf else f"{low:g} to {high:g}"
            raise ConfigError(f"{section}.{name} is {value:g}, expected {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which crops are shown, and what is done to them."""

    crop: int
    """Side of a high-resolution crop in pixels; a multiple of the latent factor times the patch size."""
    real_probability: float
    """Share of crops degraded by the second-order chain; the others are bicubic."""
    fixed_scales: dict[str, float]
    """Probability of each named scale ("4", "2", ...); what is left over is log-uniform in [1, 4]."""
    tag_dropout: float
    """Share of crops shown without their tags, for guidance and for use without a tagger."""
    validation_fraction: float = 0.05
    """Share of photographs held back, chosen by hash of the file name."""
    cache_gib: float = 4.0
    """Decoded photographs kept in memory, at most."""
    num_workers: int = 1
    """Loader processes; 0 degrades in the training process."""
    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    def __post_init__(self) -> None:
        _within("data", self, 0.0, 1.0, "real_probability", "tag_dropout", "validation_fraction")
        _within("data", self, 1, math.inf, "crop")
        _within("data", self, 0, math.inf, "num_workers", "cache_gib")
        for scale, probability in self.fixed_scales.items():
            try:
                fits = 1.0 <= float(scale) <= 4.0 and 0.0 <= probability <= 1.0
            except ValueError:
                fits = False
            if not fits:
                raise ConfigError(
                    f"data.fixed_scales.{scale} is {probability:g}, expected scales from 1 to 4 with a probability each"
                )
        if sum(self.fixed_scales.values()) > 1 + 1e-9:
            raise ConfigError(f"data.fixed_scales sums to {sum(self.fixed_scales.values()):g}, expected at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the x0 loss and draws of t."""

    t_one_probability: float
    """Share of each batch at exactly t = 1, a point a continuous draw never hits."""
    t_logit_mean: float
    """Mean of logit(t) for the other draws."""
    t_logit_std: float
    """Standard deviation of logit(t) for the other draws."""
    max_weight: float
    """Bound of the 1 / t^2 weight of the squared x0 error; 1 weighs all times alike."""

    def __post_init__(self) -> None:
        _within("loss", self, 0.0, 1.0, "t_one_probability")
        _within("loss", self, 0.0, math.inf, "t_logit_std", "max_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimizer, schedule and averaging."""

    learning_rate: float
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup_steps: int = 200
    decay_fraction: float = 0.4
    """Last share of the run over which the learning rate falls linearly to zero."""
    max_grad_norm: float = 1.0
    skip_grad_ratio: float = 10.0
    """A step whose gradient norm is above this many times the running median is skipped."""
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _within("optim", self, 0.0, math.inf, "learning_rate", "weight_decay", "warmup_steps", "max_grad_norm")
        _within("optim", self, 0.0, 1.0, "decay_fraction", "ema_decay")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optim.betas is {self.betas}, expected two numbers in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """Length and rhythm of a run."""

    max_steps: int
    batch_size: int
    seed: int = 0
    mixed_precision: typing.Literal["no", "bf16"] = "bf16"
    checkpoint_steps: int = 500
    validation_steps: int = 1000
    validation_photos: int = 24
    validation_crop: int = 256
    log_steps: int = 20

    def __post_init__(self) -> None:
        names = ("max_steps", "batch_size", "checkpoint_steps", "validation_steps", "validation_photos", "log_steps")
        _within("loop", self, 1, math.inf, *names, "validation_crop")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One complete run."""

    name: str
    model: ModelConfig
    autoencoder: AutoencoderConfig
    flow: FlowConfig
    data: DataConfig
    loss: LossConfig
    optim: OptimConfig
    loop: LoopConfig

    def __post_init__(self) -> None:
        check_state_gate(self.model, self.flow)
        grid = self.autoencoder.factor * self.model.patch_size
        if self.data.crop % grid or self.loop.validation_crop % grid:
            raise ConfigError(
                f"data.crop is {self.data.crop} and loop.validation_crop {self.loop.validation_crop}, "
                f"expected multiples of {grid} (latent factor times patch size)"
            )


def recipe_names() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("linearsr_train") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _read_toml(recipe: str | Path) -> dict[str, Any]:
    if str(recipe) in recipe_names():
        source = resources.files("linearsr_train") / "recipes" / f"{recipe}.toml"
    elif Path(recipe).is_file():
        source = Path(recipe)
    else:
        raise ConfigError(
            f"recipe {str(recipe)!r} is neither a file nor one of {', '.join(recipe_names())}",
            hint="name a packaged recipe, or give the path of a TOML file",
        )
    try:
        return tomllib.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:  # TOML's own, or bytes that are no UTF-8
        raise ConfigError(f"recipe {str(recipe)!r} is not valid TOML: {error}") from error


def _override(data: dict[str, Any], assignment: str) -> None:
    """Apply one `section.field=value`, the value written as TOML; a bare word is taken as a string."""
    path, separator, text = assignment.partition("=")
    if not separator or not path.strip():
        raise ConfigError(f"override is {assignment!r}, expected section.field=value", hint="for example loop.seed=3")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, leaf = path.strip().split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"override {assignment!r}: {parent!r} is no section")
    data[leaf] = value


def load_recipe(recipe: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Read a packaged recipe or a TOML file and apply overrides.

    Raises:
        ConfigError: no such recipe, invalid TOML, or a setting that does not exist or does not fit.
    """
    data = _read_toml(recipe)
    for assignment in overrides:
        _override(data, assignment)
    return from_dict(TrainConfig, data)
