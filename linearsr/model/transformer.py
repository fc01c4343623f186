"""LinearDiT: the whole network of both model families.

The trunk is the SANA block (arXiv:2410.10629) with diffusers' tensor names, so that public weights map without
surgery. Stem `patch` is SANA's own: a 1x1 patch embedding of latent and condition. Stem `conv` is the compact
family's: residual 3x3 convolutions on the latent grid before and after the trunk, a long skip over it, and tokens
that cover `patch_size` latent pixels a side.

Letters: B batch, C latent channels, H W latent rows and columns, N tokens, D trunk width, S stem width, K tag tokens,
p patch size.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linearsr.config import ModelConfig
from linearsr.device import autocast
from linearsr.errors import ConfigError, ShapeError
from linearsr.model.chunked import Remembered, auto_row_chunks, row_spans
from linearsr.model.conditioning import Conditioning, TagEmbedding
from linearsr.model.dense import can_pack
from linearsr.model.initial import init_weights
from linearsr.model.layers import (
    ModulatedResBlock,
    TimestepEmbedding,
    TransformerBlock,
    image_from_tokens,
    modulated_norm,
    sinusoidal_embedding,
    tokens_from_image,
)

__all__ = ["LinearDiT", "auto_row_chunks"]


class _PatchEmbed(nn.Module):
    """Convolution whose kernel is its stride."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)


class _CombinedTimestep(nn.Module):
    """Holds the time MLP under the name diffusers gives it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(dim)


class _AdaLayerNormSingle(nn.Module):
    """Time embedding and its projection to the six-way modulation that all blocks share."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emb = _CombinedTimestep(dim)
        self.linear = nn.Linear(dim, 6 * dim)


class LinearDiT(nn.Module):
    """Linear-attention diffusion transformer for super-resolution.

    Args:
        config: its shape.
    """

    row_chunks: int = 1
    """Chunks of image rows that the blocks go over where no gradient is needed, stem `patch` only: more take less
    memory and give the same result (`auto_row_chunks`)."""
    gradient_checkpointing: bool = False
    """In training, keep a block's input only and compute the rest again for the gradient."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._dense_dtype: torch.dtype | None = None
        self._fused = self._packed = False
        self._embedded, self._conditions = Remembered(), Remembered()
        dim, stem = config.width, config.stem_width
        in_channels = config.in_channels + config.cond_channels
        self.time_embed = _AdaLayerNormSingle(dim)
        if config.scale_embedding:
            self.scale_embed = TimestepEmbedding(dim)
        if config.num_tags:
            self.tag_embed = TagEmbedding(config.num_tags, config.caption_channels)
        self.caption_projection = TimestepEmbedding(dim, config.caption_channels)
        self.caption_norm = nn.RMSNorm(dim, eps=1e-5)
        if config.stem == "conv":
            self.conv_in = nn.Conv2d(in_channels, stem, 3, padding=1)
            self.conv_modulation = nn.Linear(dim, 3 * stem)
            self.stem_blocks = nn.ModuleList(ModulatedResBlock(stem) for _ in range(config.stem_depth))
            self.head_blocks = nn.ModuleList(ModulatedResBlock(stem) for _ in range(config.head_depth))
            self.conv_out = nn.Conv2d(stem, (2 if config.state_gate else 1) * config.in_channels, 3, padding=1)
        if config.lr_stem:
            widths = (3, *config.lr_stem)
            self.lr_stem = nn.ModuleList(
                nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, config.lr_stem, strict=False)
            )
        trunk_channels = stem if config.stem == "conv" else in_channels
        self.patch_embed = _PatchEmbed(trunk_channels, dim, config.patch_size)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(
                dim,
                config.head_dim,
                config.cross_attention_head_dim,
                config.mlp_ratio,
                qk_norm=config.qk_norm,
                norm_eps=config.norm_eps,
                eps=config.attention_eps,
            )
            for _ in range(config.depth)
        )
        self.scale_shift_table = nn.Parameter(torch.randn(2, dim) / dim**0.5)
        out_channels = stem if config.stem == "conv" else config.in_channels
        self.proj_out = nn.Linear(dim, config.patch_size**2 * out_channels)
        init_weights(self)

    def fuse_qkv(self) -> None:
        """Join projections of the same tokens, for inference; call it once weights and LoRAs are loaded.

        The names of the joined tensors change. What depends on tags and low-resolution pixels alone is from then on
        computed once for as long as the very same tensors are given, so weights must no longer change.
        """
        for block in self._blocks():
            block.fuse()
        self._fused = True

    def cast_dense_(self, dtype: torch.dtype) -> LinearDiT:
        """Put linear layers and convolutions into `dtype`, which the forward pass then computes them in.

        Norms, tables and the embedding of time stay in float32.

        Raises:
            ConfigError: the stem is not `patch`, whose layers alone are known to bear it, or the network is packed.
        """
        if self.config.stem != "patch" or self._packed:
            what = "packed" if self._packed else f"of stem {self.config.stem!r}"
            raise ConfigError(f"the network to cast is {what}, expected one of stem 'patch' that is not packed")
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith(("time_embed", "scale_embed")):
                module.to(dtype)
        self._dense_dtype = dtype
        self._forget()
        return self

    def pack_(self) -> LinearDiT:
        """Fuse, and lay the weights of the blocks out for this processor's kernels; the last thing to be done.

        It takes no more memory. The network has no gradient, state dict or other device from then on. Where weights
        cannot be packed (a GPU, a torch without oneDNN) they are only fused.

        Raises:
            ConfigError: the stem is not `patch`.
        """
        if self.config.stem != "patch":
            raise ConfigError(f"the network to pack is of stem {self.config.stem!r}, expected 'patch'")
        self.fuse_qkv()
        if can_pack(self.proj_out.weight.device) and not self._packed:
            for block in self._blocks():
                block.pack()
            self._packed = True
        self._forget()
        return self

    def _blocks(self) -> list[TransformerBlock]:
        return list(self.transformer_blocks)  # type: ignore[arg-type]

    @property
    def is_packed(self) -> bool:
        """Whether `pack_` has laid the weights out anew."""
        return self._packed

    def _forget(self) -> None:
        """Forget what was computed with other weights."""
        self._embedded.clear()
        self._conditions.clear()
        if self._fused:
            for block in self._blocks():
                block.fuse()

    def embed_tags(self, cond: Conditioning) -> Tensor:
        """Tag tokens for cross-attention, (B, K, D)."""
        tokens = self.tag_embed(cond.tags) if self.config.num_tags else cond.tags  # (B, K, caption_channels)
        h = F.gelu(self.caption_projection.linear_1(tokens), approximate="tanh")
        return self.caption_norm(self.caption_projection.linear_2(h).float())  # (B, K, D)

    def _embed_real_tags(self, cond: Conditioning) -> tuple[Tensor, Tensor | None]:
        """Tag tokens and mask, without columns that are padding in every row; a single row then needs no mask."""
        real = cond.tag_mask.any(dim=0)  # (K,)
        kept = replace(cond, tags=cond.tags[:, real], tag_mask=cond.tag_mask[:, real])
        return self.embed_tags(kept), None if kept.tag_mask.shape[0] == 1 else kept.tag_mask

    def embed_time(self, t: Tensor, cond: Conditioning) -> Tensor:
        """Embedding of time and scale, (B or 1, D); one row when both are the same for the whole batch."""
        e = self.time_embed.emb.timestep_embedder(sinusoidal_embedding(1000.0 * t))  # (B or 1, D)
        if self.config.scale_embedding:
            if cond.log2_scale is None:
                raise ShapeError("log2_scale is missing, expected (B,) for a network with a scale embedding")
            e = e + self.scale_embed(sinusoidal_embedding(500.0 * cond.log2_scale))
        return e

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """Predict what the checkpoint's flow says: x0_hat, v_hat, or F (and the state gate) for `apply_network`.

        Args:
            x_t: (B, C, H, W) noisy latent; H and W multiples of the patch size.
            t: (B,) in (0, 1], or (1,) when one time holds for the batch; float32.
            cond: condition; its rows match B, or are 1 where they may broadcast (`log2_scale`).

        Returns:
            (B, C, H, W) float32; (B, 2 C, H, W) with a state gate, F first.

        Raises:
            ShapeError: H or W is no multiple of the patch size, or the channels do not fit.
        """
        config, p = self.config, self.config.patch_size
        if x_t.dim() != 4 or x_t.shape[-2] % p or x_t.shape[-1] % p or x_t.shape[1] != config.in_channels:
            raise ShapeError(
                f"latent is {tuple(x_t.shape)}, expected (B, {config.in_channels}, H, W) with H and W multiples of {p}"
            )
        lr_shape = config.lr_shape(tuple(x_t.shape))
        if config.cond_channels and tuple(cond.lr.shape) != lr_shape:
            raise ShapeError(f"condition is {tuple(cond.lr.shape)}, expected {lr_shape} for the latent's grid")
        if config.stem == "patch":
            return self._forward_patch(x_t, t, cond)
        e = self.embed_time(t, cond)  # (B or 1, D)
        modulation = self.time_embed.linear(F.silu(e)).unflatten(-1, (6, -1))  # (B or 1, 6, D)
        tags = self.embed_tags(cond)  # (B, K, D)
        x = torch.cat([x_t, cond.lr], dim=1) if config.cond_channels else x_t  # (B, C + Cc, H, W)
        m = self.conv_modulation(F.silu(e)).unflatten(-1, (3, -1))  # (B or 1, 3, S)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))  # (B, S, H, W)
        for block in self.stem_blocks:
            x = block(x, m)  # (B, S, H, W)
        h = self._trunk(x, e, modulation, tags, cond.tag_mask)  # (B, S, H, W)
        # The sum over the long skip stays in float32: bfloat16 would round the trunk's small correction away.
        x = x.float() + h.float() if config.long_skip else h
        for block in self.head_blocks:
            x = block(x, m)  # (B, S, H, W)
        return self.conv_out(x).float()  # (B, C, H, W)

    def _forward_patch(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        """The forward pass with stem `patch`: time in float32, all else in the precision of the network."""
        kind = x_t.device.type
        with autocast(kind, None):
            e = self.embed_time(t, cond)  # (B or 1, D)
            modulation = self.time_embed.linear(F.silu(e)).unflatten(-1, (6, -1))  # (B or 1, 6, D)
        with nullcontext() if self._dense_dtype is None else autocast(kind, self._dense_dtype):
            # Read in place and with chunks where it is asked for; otherwise as in training, where layers may be hooked.
            chosen = (self._fused and not torch.compiler.is_compiling()) or self.row_chunks > 1
            in_place = chosen and not torch.is_grad_enabled()
            if self._packed and not in_place:
                raise ConfigError("a packed network was asked for gradients", hint="run it under torch.no_grad()")
            if in_place and self._fused:
                mask: Tensor | None
                tags, mask = self._embedded.get((cond.tags, cond.tag_mask), lambda: self._embed_real_tags(cond))
                lr = self._conditions.get((cond.lr,), lambda: self._condition(cond.lr))  # (B, Cc, H, W)
            else:
                tags, mask = self.embed_tags(cond), cond.tag_mask  # (B, K, D) and (B, K)
                lr = self._condition(cond.lr)  # (B, Cc, H, W)
            x = torch.cat([x_t, lr], dim=1) if self.config.cond_channels else x_t  # (B, C + Cc, H, W)
            row_chunks = self.row_chunks if in_place else None
            return self._trunk(x, e, modulation, tags, mask, row_chunks).float()  # (B, C, H, W)

    def _condition(self, lr: Tensor) -> Tensor:
        """Condition on the latent grid: as it comes, or by the stem from low-resolution pixels in [-1, 1]."""
        if self.config.lr_stem:
            for conv in self.lr_stem:
                lr = conv(lr)  # (B, widths, H * 2^k, W * 2^k) down to (B, Cc, H, W)
                lr = F.silu(lr, inplace=not lr.requires_grad)
        return lr

    def _trunk(
        self,
        x: Tensor,
        e: Tensor,
        modulation: Tensor,
        tags: Tensor,
        tag_mask: Tensor | None,
        row_chunks: int | None = None,
    ) -> Tensor:
        """Patchify, run the transformer blocks, unpatchify: (B, C, H, W) -> (B, C', H, W)."""
        p = self.config.patch_size
        if row_chunks is not None:
            x = x.contiguous(memory_format=torch.channels_last)  # its tokens are then a view
        x = self.patch_embed.proj(x)  # (B, D, H / p, W / p)
        size = (x.shape[-2], x.shape[-1])
        x = tokens_from_image(x).float()  # (B, N, D): the residual stream stays in float32
        if row_chunks is not None:
            x = x.contiguous()
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, tags, tag_mask, size, use_reentrant=False)
            elif row_chunks is not None:
                x = block(x, modulation, tags, tag_mask, size, row_chunks)
            else:
                x = block(x, modulation, tags, tag_mask, size)  # (B, N, D)
        shift, scale = (self.scale_shift_table + e[:, None]).unbind(1)  # from the embedding itself, as SANA
        spans = row_spans(size[0], 1 if row_chunks is None else row_chunks)
        parts = (x[:, start * size[1] : end * size[1]] for start, end in spans)
        outs = [self.proj_out(modulated_norm(part, shift, scale, self.config.norm_eps)) for part in parts]
        x = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)  # (B, N, p * p * C')
        x = image_from_tokens(x, *size).unflatten(1, (p, p, -1))  # (B, p, p, C', H / p, W / p)
        return x.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)  # (B, C', H, W)
