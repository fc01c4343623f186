"""Settings of the tagger's training and of its thresholds: frozen and strict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from linearsr.errors import ConfigError
from linearsr.tags.compact import TaggerModelConfig
from linearsr_train.checks import check_scales

__all__ = ["TaggerConfig"]


def _scales() -> dict[str, float]:
    return {"4": 0.62, "2": 0.10, "3": 0.08, "1": 0.04}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaggerConfig:
    """The network, what it is shown, and how sure it must be."""

    max_steps: int = 2500
    """Optimizer steps; 0 for no tagger in a run of the whole pipeline."""
    batch_size: int = 32
    """Pieces a step, at least 2."""
    learning_rate: float = 2e-3
    """At its highest; AdamW."""
    weight_decay: float = 0.02
    """Of matrices."""
    warmup_steps: int = 50
    """Steps over which the learning rate rises from zero."""
    decay_fraction: float = 0.6
    """Last share of the run over which the learning rate falls linearly to zero."""
    mixed_precision: Literal["no", "bf16"] = "bf16"
    """Precision of the network in training; it is calibrated and used in float32."""
    crop: int = 96
    """Side of a piece in low-resolution pixels, even."""
    margin: int = 16
    """A sample is this much larger than a piece, so that pieces start anywhere on the grid of JPEG blocks."""
    widths: tuple[int, ...] = (16, 32, 48, 64, 96)
    """Channels of the convolutions."""
    hidden: int = 96
    """Width of the layer before the answers."""
    num_samples: int = 8000
    """Distinct samples; they are kept in memory (37 kB each) and shown again as other pieces, turned and mirrored."""
    real_probability: float = 0.6
    """Share of samples degraded by the second-order chain; the others are bicubic and clean."""
    fixed_scales: dict[str, float] = field(default_factory=_scales)
    """Probability of each named scale; what is left over is log-uniform in [1, 4]."""
    num_workers: int = 1
    """Loader processes; 0 degrades in the training process."""
    checkpoint_steps: int = 100
    """Steps between saved states, and between reports."""
    calibration_fraction: float = 0.08
    """Share of the training photographs that only the thresholds are picked on; at least one photograph."""
    calibration_samples: int = 2000
    """Samples that the thresholds are picked on."""
    report_samples: int = 1200
    """Samples of the held-back photographs that the reported numbers are measured on."""
    target_precision: float = 0.93
    """Precision that a threshold must reach on the calibration samples."""

    def __post_init__(self) -> None:
        self.model()
        names = ["batch_size", "num_samples", "checkpoint_steps", "calibration_samples", "report_samples"]
        for name in (*names, "max_steps", "margin", "num_workers", "warmup_steps"):
            least = 2 if name == "batch_size" else int(name in names)
            if getattr(self, name) < least:
                raise ConfigError(f"tagger.{name} is {getattr(self, name)}, expected at least {least}")
        for name in ("real_probability", "calibration_fraction", "target_precision", "decay_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"tagger.{name} is {getattr(self, name):g}, expected 0 to 1")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ConfigError(
                f"tagger.learning_rate is {self.learning_rate:g} and tagger.weight_decay {self.weight_decay:g}, "
                "expected more than 0, and at least 0"
            )
        check_scales("tagger", self.fixed_scales)

    def model(self) -> TaggerModelConfig:
        """Shape of the network."""
        return TaggerModelConfig(crop=self.crop, widths=self.widths, hidden=self.hidden)
