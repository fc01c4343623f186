"""Typed, frozen, strict configuration of a checkpoint. Standard library only.

`from_dict` refuses unknown keys, missing fields and wrong types with a `ConfigError` that names the closest match, so
a misspelt setting is never ignored. What describes an architecture has no default.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from linearsr.errors import ConfigError

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
    "check_state_gate",
    "from_dict",
    "to_dict",
]

SCHEMA_VERSION = 1
MAX_CFG_SCALE = 20.0
T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Turn a config into plain dicts and lists that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: object, *, where: str = "") -> T:
    """Build a config dataclass from plain data, strictly.

    Args:
        cls: a dataclass of this project.
        data: mapping as from JSON or TOML.
        where: path of the section, for messages.

    Raises:
        ConfigError: unknown or missing key, or a value of another type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where or cls.__name__} is {data!r}, expected a table of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            known = f"known here: {', '.join(sorted(fields))}"
            raise ConfigError(
                f"unknown setting {_join(where, key)!r}",
                hint=f"did you mean {_join(where, close[0])!r}?" if close else known,
            )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(where, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"setting {_join(where, name)!r} is missing, and it has no default")
    return cls(**values)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """Check `value` against a type hint; lists become tuples, integers become floats where a float is asked for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(args, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(args[1], item, _join(where, key)) for key, item in value.items()}
    if hint is Any:
        return value
    return _convert_plain(hint if origin is None else origin, value, where)


def _convert_plain(kind: type, value: Any, where: str) -> Any:  # noqa: ANN401
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_bool:
        return float(value)
    if not isinstance(value, kind) or (is_bool and kind is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {kind.__name__}")
    return value


def _at_least(config: object, section: str, least: int, names: str) -> None:
    for name in names.split():
        if getattr(config, name) < least:
            raise ConfigError(f"{section}.{name} is {getattr(config, name)}, expected at least {least}")


def _convert_tuple(args: tuple[Any, ...], value: list[Any] | tuple[Any, ...], where: str) -> tuple[Any, ...]:
    kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} is {list(value)}, expected {len(kinds)} values")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_convert(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)


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

    def __post_init__(self) -> None:
        _at_least(self, "model", 1, "in_channels width head_dim cross_attention_head_dim caption_channels patch_size")
        _at_least(self, "model", 0, "cond_channels depth stem_width stem_depth head_depth num_tags")
        for divisor in ("head_dim", "cross_attention_head_dim"):
            if self.width % getattr(self, divisor) != 0:
                raise ConfigError(
                    f"model.width is {self.width}, expected a multiple of {divisor} = {getattr(self, divisor)}"
                )
        if self.stem == "conv" and (self.stem_width < 1 or self.stem_depth < 1):
            raise ConfigError("model.stem is 'conv', expected stem_width and stem_depth of at least 1")
        if self.state_gate and self.stem != "conv":
            raise ConfigError(f"model.state_gate is true with stem {self.stem!r}, expected stem 'conv'")


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """Between pixels and the network's latent."""

    kind: typing.Literal["pixel", "dcae"]
    """`pixel`: lossless space-to-depth of the residual against the enlarged input."""
    factor: int
    """Downsampling along one side."""
    residual_std: dict[str, float] = field(default_factory=dict)
    """`pixel`: standard deviation of HR minus enlarged LR by scale ("1", "2", "4"), interpolated in log2(scale)."""

    def __post_init__(self) -> None:
        _at_least(self, "autoencoder", 1, "factor")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowConfig:
    """What the network predicts."""

    prediction: typing.Literal["x0", "v"]
    preconditioned: bool = False
    """The network gives F in x0_hat = c_skip x_t + c_out F (`flow.precondition`); needs prediction `x0`."""
    shift: float = 2.0
    """Timestep shift of the sampling grid for a number of steps without a published one."""

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


def check_cfg_scale(value: float, name: str = "cfg_scale") -> None:
    """Refuse a guidance weight out of range; beyond the upper end every published one has long been too much.

    Raises:
        ConfigError: not 0 to `MAX_CFG_SCALE`, or not a number.
    """
    if not 0.0 <= value <= MAX_CFG_SCALE:
        raise ConfigError(f"{name} is {value:g}, expected 0 to {MAX_CFG_SCALE:g}", hint="1 is off")


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

    def __post_init__(self) -> None:
        check_cfg_scale(self.cfg_scale, "sampling.cfg_scale")
        _at_least(self, "sampling", 1, "steps tile")
        _at_least(self, "sampling", 0, "tile_overlap")
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
    vocabulary: tuple[str, ...] = ()
    """Closed vocabulary in embedding order; the null tag is not listed."""
    tagger: str | None = None
    """File of the tagger that names the tags of a picture; None where there is none."""

    def __post_init__(self) -> None:
        if self.tagger is not None and self.kind != "closed":
            raise ConfigError(f"tags.tagger is {self.tagger!r} with kind {self.kind!r}, expected kind 'closed'")


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
        if self.tags.kind == "closed" and self.model.num_tags != len(self.tags.vocabulary):
            raise ConfigError(
                f"model.num_tags is {self.model.num_tags}, "
                f"expected {len(self.tags.vocabulary)}, the size of tags.vocabulary"
            )
