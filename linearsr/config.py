"""Typed, frozen, strict configuration of a checkpoint. Standard library only.

What describes an architecture has no default, but for settings that came later: their defaults are what checkpoints
written before them mean.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import Any

from linearsr.config_checks import at_least, check_cfg_scale, check_file_name, check_source
from linearsr.errors import ConfigError
from linearsr.strict import from_dict, to_dict

__all__ = [
    "SCHEMA_VERSION",
    "AutoencoderConfig",
    "CheckpointConfig",
    "ExpertsConfig",
    "FileEntry",
    "FlowConfig",
    "ModelConfig",
    "SamplingConfig",
    "TagsConfig",
    "check_cfg_scale",
    "check_file_name",
    "check_source",
    "check_state_gate",
    "from_dict",
    "to_dict",
]

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of a `LinearDiT`."""

    in_channels: int
    """Channels of the latent the network predicts."""
    cond_channels: int
    """Channels of the low-resolution condition that is concatenated to the latent; 0 for none."""
    width: int
    """Token width D of the trunk; a multiple of head_dim."""
    depth: int
    """Number of transformer blocks."""
    head_dim: int
    """Width of one linear-attention head (SANA: 32)."""
    cross_attention_head_dim: int
    """Width of one cross-attention head; divides width."""
    caption_channels: int
    """Width of the tag embeddings before their projection."""
    mlp_ratio: float
    """Hidden width of the gated feed-forward over D (SANA: 2.5)."""
    patch_size: int
    """Latent pixels a token covers along one side (SANA: 1)."""
    stem: typing.Literal["patch", "conv"]
    """`patch`: tokens straight from the latent, as SANA. `conv`: residual 3x3 convolutions around the trunk."""
    stem_width: int
    """Channels of the convolutional stem and head; 0 with stem `patch`."""
    stem_depth: int
    """Residual blocks in the stem; 0 with stem `patch`."""
    head_depth: int
    """Residual blocks in the head; 0 with stem `patch`."""
    long_skip: bool
    """Add the stem's features to the trunk's output before the head."""
    qk_norm: bool
    """RMSNorm over q and k before the heads are split (SANA 1.5)."""
    state_gate: bool
    """Also predict, for every element, how much of the state to take off before it passes to x0_hat."""
    scale_embedding: bool
    """Embed log2(scale) beside the time."""
    num_tags: int
    """Size of the closed tag vocabulary; 0 where tags come as text embeddings."""
    norm_eps: float = 1e-6
    attention_eps: float = 1e-15
    """Added to the attention denominator (diffusers' SANA: 1e-15)."""
    lr_stem: tuple[int, ...] = ()
    """Widths of stride-2 convolutions over the low-resolution pixels, which make the condition; the last is
    cond_channels. Empty where the condition comes on the latent grid ready-made."""

    @property
    def lr_factor(self) -> int:
        """Low-resolution pixels along one side that the stem turns into one pixel of the condition."""
        return 2 ** len(self.lr_stem)

    def lr_shape(self, latent: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Shape (B, C, H, W) of the condition for a latent of shape (B, C, H, W)."""
        channels = 3 if self.lr_stem else self.cond_channels
        return latent[0], channels, latent[2] * self.lr_factor, latent[3] * self.lr_factor

    def __post_init__(self) -> None:
        at_least(self, "model", 1, "in_channels width head_dim cross_attention_head_dim caption_channels patch_size")
        at_least(self, "model", 0, "cond_channels depth stem_width stem_depth head_depth num_tags")
        for divisor in ("head_dim", "cross_attention_head_dim"):
            if self.width % getattr(self, divisor) != 0:
                raise ConfigError(
                    f"model.width is {self.width}, expected a multiple of {divisor} = {getattr(self, divisor)}"
                )
        if self.stem == "conv" and (self.stem_width < 1 or self.stem_depth < 1):
            raise ConfigError("model.stem is 'conv', expected stem_width and stem_depth of at least 1")
        if self.state_gate and self.stem != "conv":
            raise ConfigError(f"model.state_gate is true with stem {self.stem!r}, expected stem 'conv'")
        if self.lr_stem and (self.stem != "patch" or self.lr_stem[-1] != self.cond_channels or min(self.lr_stem) < 1):
            raise ConfigError(
                f"model.lr_stem is {self.lr_stem} with stem {self.stem!r}, expected stem 'patch' and widths that end "
                f"with cond_channels = {self.cond_channels}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """Between pixels and the network's latent."""

    kind: typing.Literal["pixel", "dcae"]
    """`pixel`: lossless space-to-depth of the residual against the enlarged input."""
    factor: int
    """Downsampling along one side."""
    residual_std: dict[str, float] = field(default_factory=dict)
    """`pixel`: standard deviation of HR minus enlarged LR by scale ("1", "2", "4"), interpolated in log2(scale)."""
    source: str = ""
    """`dcae`: where its weights are, as `check_source` takes it."""
    decoder: str = ""
    """`dcae`: another autoencoder whose decoder is used instead, such as a lighter one; empty for its own."""
    scaling_factor: float = 1.0
    """`dcae`: the network's latent is the autoencoder's times this."""

    def __post_init__(self) -> None:
        at_least(self, "autoencoder", 1, "factor")
        if self.kind == "dcae":
            check_source(self.source, "autoencoder.source")
            if self.decoder:
                check_source(self.decoder, "autoencoder.decoder")
            if not self.scaling_factor > 0:
                raise ConfigError(f"autoencoder.scaling_factor is {self.scaling_factor:g}, expected more than 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """What the network predicts."""

    prediction: typing.Literal["x0", "v"]
    preconditioned: bool = False
    """The network gives F in x0_hat = c_skip x_t + c_out F (`flow.precondition`); needs prediction `x0`."""
    shift: float = 2.0
    """Timestep shift of the sampling grid for a number of steps without a published one."""
    grid: typing.Literal["uniform", "dpm"] = "uniform"
    """That grid: `uniform` from t = 1, or `dpm`, diffusers' flow sigmas, which begin just below 1."""

    def __post_init__(self) -> None:
        if self.preconditioned and self.prediction != "x0":
            raise ConfigError(f"flow.preconditioned is true with prediction {self.prediction!r}, expected 'x0'")


def check_state_gate(model: ModelConfig, flow: FlowConfig) -> None:
    """Refuse a gate on a state that is not passed on.

    Raises:
        ConfigError: the network has a state gate, but the flow is not preconditioned.
    """
    if model.state_gate and not flow.preconditioned:
        raise ConfigError("model.state_gate is true, expected flow.preconditioned to be true as well")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertsConfig:
    """Which network serves which noise level."""

    boundaries_log_snr: tuple[float, ...]
    """E - 1 falling log-SNR values between E experts; expert 0 has the highest SNR. Empty for a single network."""
    files: tuple[str, ...]
    """E weight files, expert 0 first; with `loras` several may be the same file."""
    loras: tuple[str, ...] = ()
    """Empty, or E LoRA files (`model/lora.py`), each merged into its expert's weights when that is loaded."""

    def __post_init__(self) -> None:
        if len(self.files) != len(self.boundaries_log_snr) + 1:
            raise ConfigError(
                f"experts.files names {len(self.files)} files, "
                f"expected {len(self.boundaries_log_snr) + 1} for {len(self.boundaries_log_snr)} boundaries"
            )
        if self.loras and len(self.loras) != len(self.files):
            raise ConfigError(
                f"experts.loras names {len(self.loras)} files, expected none or {len(self.files)}, one for each expert"
            )
        if list(self.boundaries_log_snr) != sorted(self.boundaries_log_snr, reverse=True):
            raise ConfigError(f"experts.boundaries_log_snr is {self.boundaries_log_snr}, expected falling values")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Defaults of the sampler, as measured for these weights."""

    sampler: typing.Literal["euler", "heun", "dpmpp_2m"]
    steps: int
    t_grids: dict[str, tuple[float, ...]]
    """Published time grids by number of steps."""
    tile: int
    """Tile side in output pixels."""
    tile_overlap: int
    """Overlap of neighbouring tiles in output pixels."""
    color_fix: typing.Literal["none", "wavelet", "adain"]
    cfg_scale: float = 1.0
    """Weight of classifier-free guidance towards the tags; 1 is off."""
    expert_cfg_scales: tuple[float, ...] = ()
    """Weight of each expert, expert 0 first, instead of the common one; empty for the common one."""

    def __post_init__(self) -> None:
        for value in (self.cfg_scale, *self.expert_cfg_scales):
            check_cfg_scale(value, "sampling.cfg_scale")
        at_least(self, "sampling", 1, "steps tile")
        at_least(self, "sampling", 0, "tile_overlap")
        for steps, grid in self.t_grids.items():
            falling = all(0.0 <= b < a <= 1.0 for a, b in zip(grid, grid[1:], strict=False))
            if not steps.isdecimal() or len(grid) != int(steps) + 1 or len(grid) < 2 or not falling:
                raise ConfigError(
                    f"sampling.t_grids.{steps} is {grid}, expected one time more than steps, falling within [0, 1]"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class TagsConfig:
    """Tags the network was trained with."""

    kind: typing.Literal["closed", "text", "none"]
    """`closed`: learned embeddings of a vocabulary. `text`: any words, through a frozen text encoder."""
    vocabulary: tuple[str, ...] = ()
    """`closed`: names in embedding order; the null tag is not listed. `text`: unused."""
    tagger: str | None = None
    """What names the tags of a picture; None where nothing does. `closed`: a file of the checkpoint. `text`:
    `KIND:SOURCE`, such as `siglip:owner/name`, where KIND is siglip, clip, florence2 or ram."""
    encoder: str = ""
    """`text`: where tokenizer and text encoder are, as `check_source` takes it."""
    max_tokens: int = 300
    """`text`: longest prompt in tokens; longer ones are cut (SANA: 300)."""
    suffix: str = ""
    """`text`: words added to every prompt, such as `clean, high-resolution`."""
    negative: str = ""
    """`text`: what guidance leads away from; empty is the empty prompt."""

    def __post_init__(self) -> None:
        if self.tagger is not None and self.kind == "none":
            raise ConfigError(f"tags.tagger is {self.tagger!r} with kind {self.kind!r}, expected 'closed' or 'text'")
        at_least(self, "tags", 1, "max_tokens")
        if self.kind == "text":
            check_source(self.encoder, "tags.encoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A file of the checkpoint as it must arrive."""

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """config.json of a checkpoint folder."""

    schema_version: int
    family: str
    """`compact` or a paper-scale preset name."""
    model: ModelConfig
    autoencoder: AutoencoderConfig
    flow: FlowConfig
    experts: ExpertsConfig
    sampling: SamplingConfig
    tags: TagsConfig
    licence: str
    files: dict[str, FileEntry]
    training: dict[str, Any] = field(default_factory=dict)
    """Summary of the run that made the weights; free form."""

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ConfigError(
                f"schema_version is {self.schema_version}, expected {SCHEMA_VERSION}",
                hint="update LinearSR with `pip install -U linearsr`" if self.schema_version > SCHEMA_VERSION else None,
            )
        check_state_gate(self.model, self.flow)
        for name in self.files:
            check_file_name(name)
        for name in (*self.experts.files, *self.experts.loras):
            if "/" in check_file_name(name):
                raise ConfigError(f"weights file {name!r} lies in a sub-folder, expected it beside config.json")
        if self.sampling.expert_cfg_scales and len(self.sampling.expert_cfg_scales) != len(self.experts.files):
            raise ConfigError(
                f"sampling.expert_cfg_scales has {len(self.sampling.expert_cfg_scales)} values, "
                f"expected {len(self.experts.files)}, one for each expert"
            )
        if self.tags.kind == "closed" and self.model.num_tags != len(self.tags.vocabulary):
            raise ConfigError(
                f"model.num_tags is {self.model.num_tags}, "
                f"expected {len(self.tags.vocabulary)}, the size of tags.vocabulary"
            )
