"""SANA's tensors under three namings: ours, diffusers' and that of the original NVlabs files.

A `LinearDiT` with stem `patch` uses diffusers' names (`SanaTransformer2DModel`), so that way is a check rather than a
change. NVlabs keeps the query, key and value of one attention in one tensor. All functions are pure, strict and
bit-exact in both directions; none reads files.

Source: NVlabs/Sana `diffusion/model/nets/sana_multi_scale.py`; diffusers `scripts/convert_sana_to_diffusers.py` and
`models/transformers/sana_transformer.py` (0.42.1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from linearsr.config import ModelConfig
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.sana_config import GET_OTHER
from linearsr.model.transformer import LinearDiT
from linearsr.state_dicts import some

__all__ = [
    "Layout",
    "check_shapes",
    "detect_layout",
    "from_diffusers",
    "from_nvlabs",
    "to_diffusers",
    "to_nvlabs",
    "widen_patch_embed",
]

Layout = Literal["diffusers", "nvlabs"]
_WEIGHT_AND_BIAS = {
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
    "t_block.1": "time_embed.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
}
_BLOCK = {
    "scale_shift_table": ("scale_shift_table",),
    "attn.qkv.weight": ("attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"),
    "attn.proj.weight": ("attn1.to_out.0.weight",),
    "attn.proj.bias": ("attn1.to_out.0.bias",),
    "cross_attn.q_linear.weight": ("attn2.to_q.weight",),
    "cross_attn.q_linear.bias": ("attn2.to_q.bias",),
    "cross_attn.kv_linear.weight": ("attn2.to_k.weight", "attn2.to_v.weight"),
    "cross_attn.kv_linear.bias": ("attn2.to_k.bias", "attn2.to_v.bias"),
    "cross_attn.proj.weight": ("attn2.to_out.0.weight",),
    "cross_attn.proj.bias": ("attn2.to_out.0.bias",),
    "mlp.inverted_conv.conv.weight": ("ff.conv_inverted.weight",),
    "mlp.inverted_conv.conv.bias": ("ff.conv_inverted.bias",),
    "mlp.depth_conv.conv.weight": ("ff.conv_depth.weight",),
    "mlp.depth_conv.conv.bias": ("ff.conv_depth.bias",),
    "mlp.point_conv.conv.weight": ("ff.conv_point.weight",),
}
_BLOCK_NORMS = {
    f"{theirs}.{name}_norm.weight": (f"{ours}.norm_{name}.weight",)
    for theirs, ours in (("attn", "attn1"), ("cross_attn", "attn2"))
    for name in "qk"
}
_NORM_ENDINGS = (".norm_q.weight", ".norm_k.weight", ".q_norm.weight", ".k_norm.weight")
_UNUSED = {"y_embedder.y_embedding", "pos_embed", "logvar_linear.weight", "logvar_linear.bias"}
"""NVlabs tensors that are left out: a learned empty caption that sampling does not use, and training's leftovers."""
_NOPE_TOKENS = 1024
"""Largest grid (32 x 32) of the models without positional embedding; those for 2K and 4K pictures have larger ones."""


def _names(keys: Collection[str]) -> dict[str, tuple[str, ...]]:
    """NVlabs name -> our names, whose tensors lie in it one after another along the rows.

    Depth and q/k norm are read from `keys`, in either naming; a gap between blocks then shows as missing tensors.
    """
    blocks = {match[1] for key in keys if (match := re.match(r"(?:transformer_)?blocks\.(\d+)\.", key))}
    block = {**_BLOCK, **(_BLOCK_NORMS if any(key.endswith(_NORM_ENDINGS) for key in keys) else {})}
    names: dict[str, tuple[str, ...]] = {
        f"{a}.{kind}": (f"{b}.{kind}",) for a, b in _WEIGHT_AND_BIAS.items() for kind in ("weight", "bias")
    }
    names |= {"attention_y_norm.weight": ("caption_norm.weight",)}
    names |= {"final_layer.scale_shift_table": ("scale_shift_table",)}
    for index in range(max(1, len(blocks))):
        for theirs, ours in block.items():
            names[f"blocks.{index}.{theirs}"] = tuple(f"transformer_blocks.{index}.{name}" for name in ours)
    return names


def _check_keys(keys: Collection[str], expected: Iterable[str], what: str, hint: str) -> None:
    wanted, there = set(expected), set(keys)
    missing, extra = sorted(wanted - there), sorted(there - wanted)
    problems = [f"{word} {some(names)}" for word, names in (("missing", missing), ("extra", extra)) if names]
    if problems:
        raise WeightsError(f"{what} do not fit SANA: {'; '.join(problems)}", hint=hint)


def detect_layout(keys: Collection[str]) -> Layout:
    """Whose names a state dict has.

    Args:
        keys: of the state dict.

    Raises:
        WeightsError: neither's; or those of SANA-Sprint, which is distilled for another time and sampler.
    """
    if any("guidance_embedder" in key or key.startswith("cfg_embedder.") for key in keys):
        raise WeightsError("these are weights of SANA-Sprint, expected SANA 1.0 or 1.5", hint=GET_OTHER)
    if "x_embedder.proj.weight" in keys:
        return "nvlabs"
    if "patch_embed.proj.weight" in keys and "time_embed.emb.timestep_embedder.linear_1.weight" in keys:
        return "diffusers"
    raise WeightsError(f"tensors are named {some(sorted(keys))}, expected those of a SANA transformer", hint=GET_OTHER)


def _ours(state: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    expected = [name for group in _names(state).values() for name in group]
    _check_keys(state, expected, what, "fetch the model again, or check that it is SANA 1.0 or 1.5")
    return {name: state[name] for name in expected}


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a diffusers `SanaTransformer2DModel` under our names, which are the same; only checked.

    Args:
        state: its state dict; depth and q/k norm (1.5) are read from the names.

    Returns:
        State dict of a `LinearDiT` without condition, in one fixed order, sharing memory with `state`.

    Raises:
        WeightsError: tensors are missing or unknown; all are listed.
    """
    return _ours(state, "diffusers tensors")


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_diffusers`.

    Raises:
        WeightsError: as there; a stem on low-resolution pixels, which SANA has not, counts as unknown.
    """
    return _ours(state, "our tensors")


def from_nvlabs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an original NVlabs file under our names.

    Args:
        state: its `state_dict`; depth and q/k norm (1.5) are read from the names.

    Returns:
        State dict of a `LinearDiT` without condition; tensors that were joined are copies.

    Raises:
        WeightsError: tensors are missing or unknown; a joined one does not split; or the model uses a positional
            embedding, as those for 2K and 4K pictures do.
    """
    names = _names(state)
    kept = [key for key in state if key not in _UNUSED]
    _check_keys(kept, names, "NVlabs tensors", "fetch the model again, or check that it is SANA 1.0 or 1.5")
    position = state.get("pos_embed")
    if position is not None and position.dim() == 3 and position.shape[1] > _NOPE_TOKENS and bool(position.any()):
        side = 32 * round(position.shape[1] ** 0.5)
        raise WeightsError(
            f"the model adds a positional embedding for {side} px pictures, expected one without", hint=GET_OTHER
        )
    ours: dict[str, Tensor] = {}
    for theirs, group in names.items():
        rows = state[theirs].shape[0] if state[theirs].dim() else 0
        if rows % len(group) or rows == 0:
            raise WeightsError(f"{theirs} has {rows} rows, expected a multiple of {len(group)}", hint=GET_OTHER)
        parts = [state[theirs]] if len(group) == 1 else [part.clone() for part in state[theirs].chunk(len(group))]
        ours.update(zip(group, parts, strict=True))
    return ours


def to_nvlabs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_nvlabs`, without the tensors that it leaves out.

    Raises:
        WeightsError: as `to_diffusers`.
    """
    checked = to_diffusers(state)
    return {
        theirs: checked[group[0]] if len(group) == 1 else torch.cat([checked[name] for name in group])
        for theirs, group in _names(state).items()
    }


def check_shapes(state: Mapping[str, Tensor], model: ModelConfig) -> None:
    """Refuse a state dict that is not that of the network.

    Args:
        state: under our names.
        model: shape of the network.

    Raises:
        WeightsError: tensors are missing, unknown or of another shape; all are listed.
    """
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in LinearDiT(model).state_dict().items()}
    hint = "is it the size that its config or the preset says?"
    _check_keys(state, expected, "tensors", hint)
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if tuple(state[name].shape) != shape
    ]
    if wrong:
        raise WeightsError(f"tensors do not fit the network: {some(wrong)}", hint=hint)


def widen_patch_embed(state: Mapping[str, Tensor], model: ModelConfig, *, seed: int = 0) -> dict[str, Tensor]:
    """Add the stem on low-resolution pixels; the network then computes what it did before, whatever the picture.

    The patch embedding gets a zero column for each channel of the condition, so training starts at pretrained SANA.
    The stem's own weights are normal with He's gain and zero bias: on photographs its output then has a standard
    deviation of 0.15 a channel, where PyTorch's default convolutions leave 0.008 and the zero columns would hardly
    learn.

    Args:
        state: of a `LinearDiT` without condition.
        model: with `lr_stem` and `cond_channels`.
        seed: of the stem.

    Raises:
        ConfigError: the config has no stem.
        WeightsError: the patch embedding does not have the latent's channels alone.
    """
    if not model.lr_stem:
        raise ConfigError("model.lr_stem is empty, expected the widths of the stem to add", hint="(64, 128, 32)")
    name = "patch_embed.proj.weight"
    weight = state[name]
    if weight.dim() != 4 or weight.shape[1] != model.in_channels or any(key.startswith("lr_stem.") for key in state):
        raise WeightsError(
            f"{name} is {tuple(weight.shape)}, expected {model.in_channels} columns and no stem yet",
            hint="give the weights of SANA itself",
        )
    generator = torch.Generator().manual_seed(seed)
    wide = torch.cat([weight, weight.new_zeros(weight.shape[0], model.cond_channels, *weight.shape[2:])], dim=1)
    stem: dict[str, Tensor] = {}
    for index, (a, b) in enumerate(zip((3, *model.lr_stem), model.lr_stem, strict=False)):
        kernel = nn.init.kaiming_normal_(torch.empty(b, a, 3, 3), nonlinearity="relu", generator=generator)
        stem[f"lr_stem.{index}.weight"] = kernel.to(weight.dtype)
        stem[f"lr_stem.{index}.bias"] = weight.new_zeros(b)
    return {**state, name: wide, **stem}
