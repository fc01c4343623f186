"""What SANA models run here, and the shape of one from the config.json that diffusers writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from linearsr.config import ModelConfig
from linearsr.errors import WeightsError

__all__ = ["GET_OTHER", "model_config_from_diffusers", "plain_sana"]

GET_OTHER = "use a 512 or 1024 px model of SANA 1.0 or 1.5, such as Efficient-Large-Model/Sana_600M_1024px_diffusers"
"""Hint of every refusal."""
_SIZES = (
    "in_channels",
    "num_attention_heads",
    "attention_head_dim",
    "num_layers",
    "num_cross_attention_heads",
    "cross_attention_head_dim",
    "cross_attention_dim",
    "caption_channels",
)
_FIXED: dict[str, tuple[Any, str]] = {
    "patch_size": (1, "one latent pixel a token"),
    "attention_bias": (False, "self-attention without bias"),
    "norm_elementwise_affine": (False, "norms without weights of their own"),
    "norm_eps": (1e-6, "SANA's epsilon of the norms"),
    "interpolation_scale": (None, "no positional embedding, which only the models for 2K and 4K pictures have"),
    "guidance_embeds": (False, "no embedded guidance, which only SANA-Sprint has"),
    "timestep_scale": (1.0, "times of 0 to 1000"),
}
"""Setting of diffusers' class -> the one value that this network runs, which is also diffusers' default, and why."""
_QK_NORM = "rms_norm_across_heads"


def _whole_number(config_json: Mapping[str, Any], name: str) -> int:
    value = config_json.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WeightsError(f"{name} is {value!r} in config.json, expected a whole number from 1", hint=GET_OTHER)
    return value


def model_config_from_diffusers(config_json: Mapping[str, Any]) -> ModelConfig:
    """Shape of the network that a diffusers folder holds, without our condition.

    Args:
        config_json: config.json of a `SanaTransformer2DModel`.

    Raises:
        WeightsError: another class, a size that is missing or not a whole number, or a variant that is not run here.
    """
    kind = config_json.get("_class_name")
    if kind != "SanaTransformer2DModel":
        raise WeightsError(f"config.json describes {kind!r}, expected 'SanaTransformer2DModel'", hint=GET_OTHER)
    for name, (wanted, meaning) in _FIXED.items():
        if (value := config_json.get(name, wanted)) != wanted:
            raise WeightsError(f"{name} is {value!r}, expected {wanted!r}: {meaning}", hint=GET_OTHER)
    if (norm := config_json.get("qk_norm")) not in (None, _QK_NORM):
        raise WeightsError(f"qk_norm is {norm!r}, expected null or {_QK_NORM!r}", hint=GET_OTHER)
    sizes = {name: _whole_number(config_json, name) for name in _SIZES}
    ratio = config_json.get("mlp_ratio")
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not ratio > 0:
        raise WeightsError(f"mlp_ratio is {ratio!r} in config.json, expected a number above 0", hint=GET_OTHER)
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    cross = sizes["num_cross_attention_heads"] * sizes["cross_attention_head_dim"]
    out = config_json.get("out_channels")
    if not width == cross == sizes["cross_attention_dim"] or out not in (None, sizes["in_channels"]):
        raise WeightsError(
            f"widths are {width} for self-attention, {cross} and {sizes['cross_attention_dim']} for cross-attention, "
            f"channels {sizes['in_channels']} in and {out} out, expected equal widths and equal channels",
            hint=GET_OTHER,
        )
    return ModelConfig(
        in_channels=sizes["in_channels"],
        cond_channels=0,
        width=width,
        depth=sizes["num_layers"],
        head_dim=sizes["attention_head_dim"],
        cross_attention_head_dim=sizes["cross_attention_head_dim"],
        caption_channels=sizes["caption_channels"],
        mlp_ratio=float(ratio),
        patch_size=1,
        stem="patch",
        stem_width=0,
        stem_depth=0,
        head_depth=0,
        long_skip=False,
        qk_norm=norm is not None,
        state_gate=False,
        scale_embedding=False,
        num_tags=0,
        norm_eps=1e-6,
        attention_eps=1e-15,
    )


def plain_sana(model: ModelConfig) -> ModelConfig:
    """The network without our condition: shape of the public weights."""
    return replace(model, cond_channels=0, lr_stem=())
