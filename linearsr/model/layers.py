"""Layers of the SANA block around attention, and the residual convolutions of the compact stem and head.

Letters: B batch, C channels, H W rows and columns, N = H * W tokens in row-major order, D width. Image tensors are
(B, C, H, W) in channels-last memory, where turning them into tokens is free.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.model.attention import CrossAttention, LinearAttention
from linearsr.model.chunked import Remembered, cross_attend_, feed_forward_, row_spans, self_attend_
from linearsr.model.dense import PackedLinear

__all__ = [
    "GLUMBConv",
    "ModulatedResBlock",
    "TimestepEmbedding",
    "TransformerBlock",
    "image_from_tokens",
    "modulated_norm",
    "sinusoidal_embedding",
    "tokens_from_image",
]


def tokens_from_image(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C); a view in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def image_from_tokens(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W) in channels-last memory; a view."""
    return x.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def sinusoidal_embedding(value: Tensor, dim: int = 256) -> Tensor:
    """Cosines and sines of `value` at falling frequencies, cosines first: (B,) -> (B, dim) float32.

    Source: SANA in diffusers (flip_sin_to_cos, shift 0): frequencies exp(-ln(10^4) i / (dim / 2)).
    """
    half = dim // 2
    frequency = torch.exp(-math.log(1e4) / half * torch.arange(half, dtype=torch.float32, device=value.device))
    angle = value.float()[:, None] * frequency[None, :]  # (B, dim / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, dim)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, in float32.

    Args:
        x: (B, N, D).
        shift, scale: (B or 1, D). With one row both are folded into the norm's own affine, which saves two passes
            over memory.
    """
    if scale.shape[0] == 1:
        return F.layer_norm(x.float(), x.shape[-1:], 1.0 + scale[0].float(), shift[0].float(), eps)
    normed = F.layer_norm(x.float(), x.shape[-1:], None, None, eps)
    return torch.addcmul(shift[:, None].float(), normed, 1.0 + scale[:, None].float())


class TimestepEmbedding(nn.Module):
    """Two-layer MLP over a sinusoidal embedding."""

    def __init__(self, dim: int, in_dim: int = 256) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim) -> (B, dim)."""
        return self.linear_2(F.silu(self.linear_1(x)))


class GLUMBConv(nn.Module):
    """Gated feed-forward with a 3x3 depth-wise convolution, the only place where tokens see their neighbours.

    Source: SANA, arXiv:2410.10629, section 2.2 (Mix-FFN); tensor names as in diffusers.
    """

    def __init__(self, dim: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.conv_inverted: nn.Module = nn.Conv2d(dim, 2 * hidden, 1)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point: nn.Module = nn.Conv2d(hidden, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)."""
        h = F.silu(self.conv_inverted(x))  # (B, 2 hidden, H, W)
        if h.device.type == "cpu":
            # Depth-wise convolution on a CPU is 1.6x faster in float32 channels-last than in bfloat16.
            with torch.autocast("cpu", enabled=False):
                weight, bias = self.conv_depth.weight.float(), self.conv_depth.bias.float()  # type: ignore[union-attr]
                h = F.conv2d(h.float(), weight, bias, padding=1, groups=h.shape[1])
        else:
            h = self.conv_depth(h)
        value, gate = h.chunk(2, dim=1)  # (B, hidden, H, W) each
        return self.conv_point(value * F.silu(gate))  # (B, D, H, W)


def _packed(layer: nn.Module) -> PackedLinear:
    return PackedLinear(layer.weight, layer.bias)  # type: ignore[arg-type]


class TransformerBlock(nn.Module):
    """The SANA block: modulated linear attention, plain cross-attention, modulated gated feed-forward."""

    def __init__(
        self,
        dim: int,
        head_dim: int,
        cross_head_dim: int,
        mlp_ratio: float,
        *,
        qk_norm: bool,
        norm_eps: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.attn1 = LinearAttention(dim, head_dim, qk_norm=qk_norm, eps=eps)
        self.attn2 = CrossAttention(dim, cross_head_dim, qk_norm=qk_norm)
        self.ff = GLUMBConv(dim, mlp_ratio)
        self.scale_shift_table = nn.Parameter(torch.randn(6, dim) / dim**0.5)
        self._tag_keys: Remembered | None = None

    def fuse(self) -> None:
        """Join projections that read the same tokens, and compute keys and values of tags once; for inference."""
        self.attn1.fuse()
        self.attn2.fuse()
        self._tag_keys = Remembered()

    def pack(self) -> None:
        """Replace the dense layers by packed ones; needs `fuse` before and a processor."""
        for module, name in ((self.attn1, "to_qkv"), (self.attn2, "to_q"), (self.attn2, "to_kv")):
            setattr(module, name, _packed(getattr(module, name)))
        for module in (self.attn1, self.attn2):
            module.to_out[0] = _packed(module.to_out[0])
        for name in ("conv_inverted", "conv_point"):
            setattr(self.ff, name, _packed(getattr(self.ff, name)))

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        tags: Tensor,
        tag_mask: Tensor | None,
        size: tuple[int, int],
        row_chunks: int | None = None,
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, N, D).
            modulation: (B or 1, 6, D), shared by all blocks (AdaLN-single).
            tags, tag_mask: (B, K, D) and (B, K) bool; in place, None where all count.
            size: (H, W) with N = H * W.
            row_chunks: given, x is float32 and changed in place, by this many chunks of rows; without gradients.
        """
        if row_chunks is not None:
            return self._in_place(x, modulation, tags, tag_mask, size, row_chunks)
        assert tag_mask is not None, "the plain forward pass is given a mask"
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + modulation).unbind(1)  # (B, D) each
        x = x + gate1[:, None] * self.attn1(modulated_norm(x, shift1, scale1, self.norm_eps))  # (B, N, D)
        x = x + self.attn2(x, tags, tag_mask)  # (B, N, D): neither normed nor gated, as SANA
        h = modulated_norm(x, shift2, scale2, self.norm_eps)
        h = tokens_from_image(self.ff(image_from_tokens(h, *size)))
        return x + gate2[:, None] * h  # (B, N, D)

    def _in_place(
        self,
        x: Tensor,
        modulation: Tensor,
        tags: Tensor,
        tag_mask: Tensor | None,
        size: tuple[int, int],
        row_chunks: int,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + modulation).float().unbind(1)
        rows = row_spans(size[0], row_chunks)
        tokens = [(start * size[1], end * size[1]) for start, end in rows]

        def keys_values() -> tuple[Tensor, Tensor, Tensor | None]:
            return self.attn2.keys_values(tags, tag_mask)

        inputs = (tags,) if tag_mask is None else (tags, tag_mask)
        cross = keys_values() if self._tag_keys is None else self._tag_keys.get(inputs, keys_values)
        norm1 = partial(modulated_norm, shift=shift1, scale=scale1, eps=self.norm_eps)
        self_attend_(x, self.attn1, norm1, gate1[:, None], tokens)
        cross_attend_(x, self.attn2, cross, tokens)
        norm2 = partial(modulated_norm, shift=shift2, scale=scale2, eps=self.norm_eps)
        feed_forward_(x, self.ff, norm2, gate2[:, None], rows, size[1])
        return x


class ModulatedResBlock(nn.Module):
    """Two 3x3 convolutions with a time-modulated SiLU between them and a gated residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        self.scale_shift_table = nn.Parameter(torch.zeros(3, dim))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Compute x + (1 + gate) conv2(silu((1 + scale) conv1(x) + shift)).

        Args:
            x: (B, C, H, W).
            modulation: (B or 1, 3, C). With one row it is folded into the weights: the convolutions then do all the
                work and no extra pass over memory is made.
        """
        scale, shift, gate = (self.scale_shift_table + modulation).float().unbind(1)  # (B or 1, C) each
        if modulation.shape[0] == 1:
            scale, shift, gate = 1.0 + scale[0], shift[0], 1.0 + gate[0]
            bias1, bias2 = self.conv1.bias * scale + shift, self.conv2.bias * gate  # type: ignore[operator]
            h = F.conv2d(x, self.conv1.weight * scale.view(-1, 1, 1, 1), bias1, padding=1)
            h = F.silu(h, inplace=not h.requires_grad)
            h = F.conv2d(h, self.conv2.weight * gate.view(-1, 1, 1, 1), bias2, padding=1)
            return x + h
        h = self.conv1(x)
        h = F.silu(torch.addcmul(shift[:, :, None, None].to(h.dtype), h, 1.0 + scale[:, :, None, None].to(h.dtype)))
        h = self.conv2(h)
        return torch.addcmul(x, h, 1.0 + gate[:, :, None, None].to(h.dtype))
