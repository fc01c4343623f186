"""A tiny random SANA in the folder layout that diffusers writes and the Hub holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from linearsr.extras import require

__all__ = ["CAPTION_CHANNELS", "write_sana"]

CAPTION_CHANNELS = 16
"""Width of the captions it attends to: the hidden size of the text encoder beside it."""
_SHAPE = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 32,
    "cross_attention_dim": 64,
    "caption_channels": CAPTION_CHANNELS,
}


def write_sana(folder: Path, *, style: Literal["1.0", "1.5"] = "1.0", seed: int = 0) -> Path:
    """Write a pipeline folder that holds a transformer and nothing else.

    Every tensor is random, those that a new network has constant as well (norms, biases), so that a tensor which is
    lost or swapped changes the output.

    Args:
        folder: created if need be.
        style: `1.5` has an RMSNorm over q and k in both attentions.
        seed: equal seeds give equal files.

    Returns:
        `folder`.

    Raises:
        ConfigError: diffusers is not installed.
    """
    diffusers = require("diffusers", "full", "a SANA stand-in")
    with torch.device("meta"):  # draws no random numbers that the caller may count on
        model = diffusers.SanaTransformer2DModel(
            **_SHAPE, sample_size=8, qk_norm="rms_norm_across_heads" if style == "1.5" else None
        )
    generator = torch.Generator().manual_seed(seed)
    state = {name: _random(name, value.shape, generator) for name, value in model.state_dict().items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.save_pretrained(folder / "transformer")
    parts = {name: [None, None] for name in ("scheduler", "text_encoder", "tokenizer", "vae")}
    index = {
        "_class_name": "SanaPipeline",
        "_diffusers_version": diffusers.__version__,
        **parts,
        "transformer": ["diffusers", "SanaTransformer2DModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return folder


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Normal weights at the scale that keeps variance; norms around 1; everything else of a tenth."""
    value = torch.randn(shape, generator=generator)
    if "norm" in name:
        return 1.0 + 0.2 * value
    if name.endswith("scale_shift_table"):
        return 0.3 * value
    return value / shape[1:].numel() ** 0.5 if len(shape) > 1 else 0.1 * value
