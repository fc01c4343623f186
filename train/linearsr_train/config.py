"""The recipe of a run: frozen, strict dataclasses read from TOML.

A recipe is complete: every number that changes the result is in it. `--set section.field=value` overrides single
fields with TOML values; unknown fields are refused with the closest match.
"""

from __future__ import annotations

import copy
import math
import tomllib
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from linearsr.config import AutoencoderConfig, FlowConfig, ModelConfig, TagsConfig, check_state_gate, from_dict
from linearsr.errors import ConfigError
from linearsr.tags.vocabulary import COMPACT_VOCABULARY, closed_vocabulary
from linearsr_train.checks import check_family, check_scales, within
from linearsr_train.data.degradation import DegradationConfig
from linearsr_train.esgf_config import EsgfConfig
from linearsr_train.stage_config import ExpertSplitConfig, SftConfig, StagesConfig
from linearsr_train.tagger_config import TaggerConfig

__all__ = [
    "DataConfig",
    "LoopConfig",
    "LossConfig",
    "OptimConfig",
    "TrainConfig",
    "load_recipe",
    "parse_recipe",
    "read_toml",
    "recipe_names",
]


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
    content_tags: tuple[str, ...] = ()
    """Names that a photograph's sidecar file (photo.txt beside photo.jpg) may carry, added to the tag vocabulary."""
    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    def __post_init__(self) -> None:
        within("data", self, 0.0, 1.0, "real_probability", "tag_dropout", "validation_fraction")
        within("data", self, 1, math.inf, "crop")
        within("data", self, 0, math.inf, "num_workers", "cache_gib")
        check_scales("data", self.fixed_scales)


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Draws of t, and the weight of the x0 loss; a network that predicts v has the plain squared error."""

    t_one_probability: float
    """Share of each batch at exactly t = 1, a point a continuous draw never hits."""
    t_logit_mean: float
    """Mean of logit(t) for the other draws."""
    t_logit_std: float
    """Standard deviation of logit(t) for the other draws."""
    max_weight: float = 1.0
    """Prediction `x0`: bound of the 1 / t^2 weight of the squared error; 1 weighs all times alike."""
    t_shift: float = 1.0
    """Shift of these draws towards noise, as `flow.shift_t`; SANA draws about 0 and shifts by 3."""

    def __post_init__(self) -> None:
        within("loss", self, 0.0, 1.0, "t_one_probability")
        within("loss", self, 0.0, math.inf, "t_logit_std", "max_weight")
        within("loss", self, 0.01, 100.0, "t_shift")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Optimizer and averaging; learning rates are each stage's own."""

    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    skip_grad_ratio: float = 10.0
    """A step whose gradient norm is above this many times the running median is skipped."""
    max_nonfinite_skips: int = 3
    """Steps with a non-finite gradient that a stage survives by skipping; one more counts as a collapse."""
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        within("optim", self, 0.0, math.inf, "weight_decay", "max_grad_norm", "skip_grad_ratio", "max_nonfinite_skips")
        within("optim", self, 0.0, 1.0, "ema_decay")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optim.betas is {self.betas}, expected two numbers in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """What all stages share: batch, precision, devices, rhythm."""

    batch_size: int
    """Crops of one optimizer step, over all processes and accumulated parts."""
    gradient_accumulation_steps: int = 1
    """Parts that a batch is computed in; the result is the same but for rounding, the memory smaller."""
    seed: int = 0
    mixed_precision: typing.Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: bfloat16 where the device multiplies it, else float32."""
    strategy: typing.Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes share the work: `ddp` copies the network, `fsdp` splits it. `auto` is `ddp`."""
    compile: bool = False
    """Compile the network with torch.compile."""
    gradient_checkpointing: bool = False
    """Compute the blocks' activations again in the backward pass: about a third more time, far less memory."""
    checkpoint_steps: int = 500
    validation_photos: int = 24
    validation_crop: int = 256
    log_steps: int = 20

    def __post_init__(self) -> None:
        names = ("batch_size", "gradient_accumulation_steps", "checkpoint_steps", "validation_photos", "log_steps")
        within("loop", self, 1, math.inf, *names, "validation_crop")
        if self.batch_size % self.gradient_accumulation_steps:
            raise ConfigError(
                f"loop.batch_size is {self.batch_size}, expected a multiple of gradient_accumulation_steps = "
                f"{self.gradient_accumulation_steps}"
            )


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
    stages: StagesConfig
    experts: ExpertSplitConfig = field(default_factory=ExpertSplitConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    esgf: EsgfConfig = field(default_factory=EsgfConfig)
    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    init: str = ""
    """Model whose weights the run starts from (`compact`, a folder or a Hub id); empty starts from nothing."""
    tags: TagsConfig = field(default_factory=lambda: TagsConfig(kind="closed"))
    """`closed`: the names of `vocabulary`. `text`: prompts of whatever the sidecar files say."""

    def __post_init__(self) -> None:
        check_state_gate(self.model, self.flow)
        check_family(self)
        grid = self.autoencoder.factor * self.model.patch_size
        if self.data.crop % grid or self.loop.validation_crop % grid:
            raise ConfigError(
                f"data.crop is {self.data.crop} and loop.validation_crop {self.loop.validation_crop}, "
                f"expected multiples of {grid} (latent factor times patch size)"
            )
        if self.model.num_tags and self.model.num_tags != len(self.vocabulary):
            raise ConfigError(
                f"model.num_tags is {self.model.num_tags}, expected {len(self.vocabulary)}: "
                f"{len(COMPACT_VOCABULARY)} degradations and {len(self.data.content_tags)} content tags"
            )
        if self.stages.pretrain.max_steps == 0 and not self.init:
            start = "compact" if self.autoencoder.kind == "pixel" else "runs/before/export"
            raise ConfigError(
                "stages.pretrain.max_steps is 0 and init is empty, expected weights to start from",
                hint=f"name a model with `--init {start}`, or give the pretraining steps",
            )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Closed tag vocabulary in embedding order."""
        return closed_vocabulary(self.data.content_tags)


def recipe_names() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files("linearsr_train") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_toml(recipe: str | Path) -> dict[str, Any]:
    """Plain data of a packaged recipe or a TOML file.

    Raises:
        ConfigError: no such recipe, or invalid TOML.
    """
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
    return parse_recipe(read_toml(recipe), overrides)


def parse_recipe(data: dict[str, Any], overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Build a config from plain data, such as a recipe whose [model] was taken from a checkpoint, and apply overrides.

    Raises:
        ConfigError: as `load_recipe`.
    """
    data = copy.deepcopy(data)
    for assignment in overrides:
        _override(data, assignment)
    return from_dict(TrainConfig, data)
