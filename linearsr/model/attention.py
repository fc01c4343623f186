"""ReLU linear attention, its quadratic reference, and cross-attention to tag tokens.

Precision rule, stated here once: projections run in the precision of the surrounding autocast, the attention core
always in float32. float16 overflows in the key-value sum at 1,024 tokens, and bfloat16 loses three digits.

Letters: B batch, N tokens, K tag tokens, h heads, d head width, D = h * d.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.device import autocast
from linearsr.model.dense import join_linears

__all__ = [
    "CrossAttention",
    "LinearAttention",
    "linear_attention",
    "quadratic_attention",
    "read_sums",
    "sum_keys_values",
]


def linear_attention(q_BNhd: Tensor, k_BNhd: Tensor, v_BNhd: Tensor, eps: float = 1e-15) -> Tensor:  # noqa: N803
    """Attention with relu(q) relu(k)^T as weights, in O(N) time and memory.

    The sum over keys of relu(k) v^T (d x d a head) and of relu(k) (d a head) is formed once and read by every query:
    o_i = relu(q_i) sum_j relu(k_j)^T v_j / (relu(q_i) sum_j relu(k_j)^T + eps). Scores need no 1/sqrt(d), it cancels.
    A query whose features are all zero gives exactly zero.

    Args:
        q_BNhd, k_BNhd, v_BNhd: (B, N, h, d), any float dtype; cast to float32 here.
        eps: added to the denominator.

    Returns:
        (B, N, h, d) float32.

    Source: Katharopoulos et al., arXiv:2006.16236, eq. 5; SANA, arXiv:2410.10629, section 2.2.
    """
    with autocast(q_BNhd.device.type, None):
        q = F.relu(q_BNhd).float().transpose(1, 2)  # (B, h, N, d)
        k = F.relu(k_BNhd).float().transpose(1, 2)  # (B, h, N, d)
        v = v_BNhd.float().transpose(1, 2)  # (B, h, N, d)
        state = k.transpose(-1, -2) @ v  # (B, h, d, d)
        k_sum = k.sum(dim=-2).unsqueeze(-1)  # (B, h, d, 1)
        numerator = q @ state  # (B, h, N, d)
        denominator = q @ k_sum  # (B, h, N, 1)
        return (numerator / (denominator + eps)).transpose(1, 2)  # (B, N, h, d)


def sum_keys_values(k_BNhd: Tensor, v_BNhd: Tensor) -> Tensor:  # noqa: N803
    """What all queries read of some tokens; the sums of parts of a picture add up to those of the whole.

    Args:
        k_BNhd, v_BNhd: (B, N, h, d), any float dtype; cast to float32 here.

    Returns:
        (B, h, d, d + 1) float32: the sum of relu(k)^T v, and that of relu(k) in the last column.
    """
    with autocast(k_BNhd.device.type, None):
        k = F.relu(k_BNhd).float().transpose(1, 2)  # (B, h, N, d)
        v = v_BNhd.float().transpose(1, 2)  # (B, h, N, d)
        return torch.cat([k.transpose(-1, -2) @ v, k.sum(dim=-2).unsqueeze(-1)], dim=-1)  # (B, h, d, d + 1)


def read_sums(q_BNhd: Tensor, sums_Bhde: Tensor, eps: float = 1e-15) -> Tensor:  # noqa: N803
    """`linear_attention` of some queries from the sums over all keys.

    Returns:
        (B, N, h, d) float32, contiguous.
    """
    with autocast(q_BNhd.device.type, None):
        q = F.relu(q_BNhd).float().transpose(1, 2)  # (B, h, N, d)
        read = (q @ sums_Bhde).transpose(1, 2)  # (B, N, h, d + 1)
        out = torch.empty(q_BNhd.shape, dtype=torch.float32, device=q.device)
        return torch.div(read[..., :-1], read[..., -1:] + eps, out=out)


def quadratic_attention(q_BNhd: Tensor, k_BNhd: Tensor, v_BNhd: Tensor, eps: float = 1e-15) -> Tensor:  # noqa: N803
    """The same map as `linear_attention` by its O(N^2) definition; the reference that tests compare with.

    Works in the dtype of its inputs, so float64 inputs give a float64 reference.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BNhd, k_BNhd, v_BNhd))  # (B, h, N, d)
    scores = F.relu(q) @ F.relu(k).transpose(-1, -2)  # (B, h, N, N)
    weights = scores / (scores.sum(dim=-1, keepdim=True) + eps)
    return (weights @ v).transpose(1, 2)  # (B, N, h, d)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
    """`F.scaled_dot_product_attention` by its definition, in the dtype of its inputs, (B, h, N or K, d) each.

    Scores are rounded to that dtype. Taking the keys' mean off, which softmax does not feel, keeps them small.
    """
    with autocast(q.device.type, None):
        keys = k.float()
        keys = ((keys - keys.mean(dim=-2, keepdim=True)) * k.shape[-1] ** -0.5).to(k.dtype)  # (B, h, K, d)
        scores = q @ keys.transpose(-1, -2)  # (B, h, N, K)
        if attn_mask is not None:
            scores += attn_mask
        return scores.softmax(dim=-1) @ v  # (B, h, N, d)


class LinearAttention(nn.Module):
    """Self-attention of the SANA block; tensor names as in diffusers (`attn1`)."""

    def __init__(self, dim: int, head_dim: int, *, qk_norm: bool, eps: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.eps = eps
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        if qk_norm:
            self.norm_q = nn.RMSNorm(dim, eps=1e-5)
            self.norm_k = nn.RMSNorm(dim, eps=1e-5)
        self.qk_norm = qk_norm

    def fuse(self) -> None:
        """Make one layer, `to_qkv`, of the projections to q, k and v; for inference."""
        if hasattr(self, "to_q"):
            self.to_qkv = join_linears([self.to_q, self.to_k, self.to_v])
            del self.to_q, self.to_k, self.to_v

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of some tokens, (B, N, D) each."""
        if hasattr(self, "to_qkv"):
            q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        else:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if self.qk_norm:
            q, k = self.norm_q(q.float()), self.norm_k(k.float())
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Attend over all tokens of each batch element: (B, N, D) -> (B, N, D)."""
        q, k, v = self.project(x)
        split = (*x.shape[:2], -1, self.head_dim)
        out = linear_attention(q.view(split), k.view(split), v.view(split), self.eps)  # (B, N, h, d) float32
        return self.to_out[0](out.flatten(2).to(v.dtype))  # (B, N, D)


class CrossAttention(nn.Module):
    """Softmax attention from image tokens to tag tokens; tensor names as in diffusers (`attn2`)."""

    def __init__(self, dim: int, head_dim: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        if qk_norm:
            self.norm_q = nn.RMSNorm(dim, eps=1e-5)
            self.norm_k = nn.RMSNorm(dim, eps=1e-5)
        self.qk_norm = qk_norm

    def fuse(self) -> None:
        """Make one layer, `to_kv`, of the projections to k and v; for inference."""
        if hasattr(self, "to_k"):
            self.to_kv = join_linears([self.to_k, self.to_v])
            del self.to_k, self.to_v

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Attend to tag tokens.

        Args:
            x: (B, N, D) image tokens.
            tokens: (B, K, D) tag tokens.
            mask: (B, K) bool, True where a token counts; at least one True a row.

        Returns:
            (B, N, D).
        """
        return self.read(x, *self.keys_values(tokens, mask))

    def keys_values(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What `read` needs of the tag tokens: keys and values, (B, h, K, d) each, and the bias (B, 1, 1, K).

        Without a mask all tokens count, and there is no bias.
        """
        if hasattr(self, "to_kv"):
            k, v = self.to_kv(tokens).chunk(2, dim=-1)
        else:
            k, v = self.to_k(tokens), self.to_v(tokens)
        if self.qk_norm:
            k = self.norm_k(k.float()).to(v.dtype)
        # An additive -1e4 rather than -inf: public weights were trained with it, and it cannot make NaN.
        bias = None if mask is None else torch.where(mask, 0.0, -1e4)[:, None, None, :].to(v.dtype)
        return self._split(k), self._split(v), bias

    def read(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *, plain: bool = False) -> Tensor:
        """Attend from image tokens, (B, N, D) -> (B, N, D), to what `keys_values` gave.

        `plain` forms the scores, rounded to the dtype of k and v, rather than ask torch's fused kernel.
        """
        q = self.to_q(x)
        if self.qk_norm:
            q = self.norm_q(q.float()).to(v.dtype)
        attend = _softmax_attention if plain else F.scaled_dot_product_attention
        out = attend(self._split(q), k, v, attn_mask=bias)  # (B, h, N, d)
        return self.to_out[0](out.transpose(1, 2).flatten(2))  # (B, N, D)

    def _split(self, z: Tensor) -> Tensor:
        """(B, N or K, D) -> (B, h, N or K, d)."""
        return z.view(*z.shape[:2], -1, self.head_dim).transpose(1, 2)
