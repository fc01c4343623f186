"""The SANA block at inference: in place on the residual stream, by chunks of image rows, at bounded memory.

Equal to `TransformerBlock.forward` but for rounding. Linear attention goes over the chunks twice: first the sums over
keys are added up in float32 and the queries kept, then the queries read the sums. The 3x3 depth-wise convolution of the
feed-forward needs one row on either side of a chunk; the last two rows of the hidden layer are carried over to the
next chunk, so that nothing is computed twice.

Letters: B batch, N tokens, n tokens of one chunk, D width, h heads, d head width, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.config import ModelConfig
from linearsr.model.attention import CrossAttention, LinearAttention, read_sums, sum_keys_values
from linearsr.model.dense import dense, dense_silu

__all__ = ["Remembered", "auto_row_chunks", "cross_attend_", "feed_forward_", "row_spans", "self_attend_"]

T = TypeVar("T")
Norm = Callable[[Tensor], Tensor]
"""Modulated norm of some tokens, (B, n, D) -> (B, n, D)."""


class GatedFeedForward(Protocol):
    """The layers of `GLUMBConv`; packed or not."""

    conv_inverted: nn.Module
    conv_depth: nn.Conv2d
    conv_point: nn.Module


def row_spans(height: int, row_chunks: int) -> list[tuple[int, int]]:
    """Cut rows into at most `row_chunks` spans (start, end) whose lengths differ by one at most."""
    count = max(1, min(row_chunks, height))
    edges = [height * index // count for index in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def auto_row_chunks(config: ModelConfig, tokens: int, budget_bytes: int) -> int:
    """Smallest number of row chunks whose activations fit a budget, for one picture in float32.

    Counts the residual stream and the kept queries, which no number of chunks makes smaller, and for each token of a
    chunk the hidden layer of the feed-forward before and after its depth-wise convolution, and its gated half.

    Args:
        config: of the network.
        tokens: of the whole picture.
        budget_bytes: for activations, weights left out.

    Returns:
        A power of two from 1 to the rows of a square picture; that largest one too where the budget is too small.
    """
    hidden = int(config.mlp_ratio * config.width)
    whole = 4 * 2 * config.width * tokens
    part = 4 * (5 * hidden + 3 * config.width) * tokens
    rows = max(1, int(tokens**0.5))
    chunks = 1
    while chunks * 2 <= rows and whole + part / chunks > budget_bytes:
        chunks *= 2
    return chunks


class Remembered:
    """What was made of the last inputs, known again by identity: tags and picture stay the same from step to step.

    Args:
        keep: how many; two serve guidance, which alternates between tags and none.
    """

    def __init__(self, keep: int = 2) -> None:
        self._keep = keep
        self._entries: list[tuple[tuple[Tensor, ...], object, object]] = []

    def get(self, inputs: tuple[Tensor, ...], make: Callable[[], T]) -> T:
        """`make()`, or what it gave before for these very tensors, unchanged since, in the same precision."""
        kind = inputs[0].device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        state = (precision, *(None if tensor.is_inference() else tensor._version for tensor in inputs))
        for known, known_state, value in self._entries:
            if (
                len(known) == len(inputs)
                and known_state == state
                and all(a is b for a, b in zip(known, inputs, strict=True))
            ):
                return value  # type: ignore[return-value]
        made = make()
        self._entries = [(inputs, state, made), *self._entries][: self._keep]
        return made

    def clear(self) -> None:
        """Forget everything, as after a change of the weights."""
        self._entries.clear()


def self_attend_(x: Tensor, attention: LinearAttention, norm: Norm, gate: Tensor, spans: list[tuple[int, int]]) -> None:
    """Add gate * attention(norm(x)) to x, in place.

    Args:
        x: (B, N, D) float32.
        gate: (B or 1, 1, D).
        spans: of tokens, (start, end).
    """
    sums: Tensor | None = None
    queries: Tensor | None = None
    for start, end in spans:
        q, k, v = attention.project(norm(x[:, start:end]))  # (B, n, D)
        part = sum_keys_values(_heads(k, attention.head_dim), _heads(v, attention.head_dim))
        sums = part if sums is None else sums.add_(part)  # (B, h, d, d + 1)
        if len(spans) == 1:
            queries = q
        else:
            queries = q.new_empty(x.shape) if queries is None else queries
            queries[:, start:end] = q
    assert sums is not None and queries is not None, "a picture has at least one row"
    for start, end in spans:
        q = _heads(queries[:, start:end], attention.head_dim)
        read = read_sums(q, sums, attention.eps).flatten(2)  # (B, n, D) float32
        x[:, start:end].addcmul_(attention.to_out[0](read.to(v.dtype)), gate)


def _heads(z: Tensor, head_dim: int) -> Tensor:
    return z.unflatten(-1, (-1, head_dim))  # (B, n, h, d)


def cross_attend_(
    x: Tensor,
    attention: CrossAttention,
    keys_values: tuple[Tensor, Tensor, Tensor | None],
    spans: list[tuple[int, int]],
) -> None:
    """Add the attention to tag tokens to x, (B, N, D) float32, in place; `keys_values` as the layer gives them."""
    keys = keys_values[0]
    # On a processor in bfloat16 the fused kernel takes 11.3 ms for 1,024 tokens by 300 tags, plain products 7.6 ms.
    plain = keys.dtype == torch.bfloat16 and keys.device.type == "cpu"
    for start, end in spans:
        part = x[:, start:end]
        part += attention.read(part, *keys_values, plain=plain)


def feed_forward_(
    x: Tensor, ff: GatedFeedForward, norm: Norm, gate: Tensor, spans: list[tuple[int, int]], width: int
) -> None:
    """Add gate * ff(norm(x)) to x, in place.

    Args:
        x: (B, N, D) float32, N = H * width.
        gate: (B or 1, 1, D).
        spans: of rows, (start, end).
    """

    def hidden() -> Iterator[Tensor]:  # (B, rows, W, 2 hidden) each
        for start, end in spans:  # no name holds on to a chunk while the next one is made
            yield dense_silu(ff.conv_inverted, norm(x[:, start * width : end * width])).unflatten(1, (-1, width))

    done = 0
    for gated in _depthwise_gated(hidden(), ff.conv_depth, len(spans)):  # (B, n, hidden)
        x[:, done : done + gated.shape[1]].addcmul_(dense(ff.conv_point, gated), gate)
        done += gated.shape[1]


def _depthwise_gated(chunks: Iterator[Tensor], conv: nn.Conv2d, count: int) -> Iterator[Tensor]:
    """Depth-wise convolution and gate over chunks of rows; what comes out lags one row behind what went in.

    A row is written by the caller only after the rows that read it as a neighbour are in: the iterator asks for the
    next chunk when the last was taken.
    """
    if count == 1:
        yield _gated([_rows_convolved(next(chunks), conv, 1)])
        return
    carry: Tensor | None = None
    for h in chunks:
        if carry is None:
            carry = torch.zeros_like(h[:, :1])  # the padding above the picture
        edge = torch.cat([carry, h[:, :2]], dim=1)  # the carried rows with the first ones of this chunk
        parts = [rows for rows in (edge, h) if rows.shape[1] >= 3]
        carry = torch.cat([carry, h[:, -2:]], dim=1)[:, -2:].clone()
        gated = _gated([_rows_convolved(rows, conv, 0) for rows in parts]) if parts else None
        del h, edge, parts
        if gated is not None:
            yield gated
    assert carry is not None, "a picture has at least one row"
    yield _gated([_rows_convolved(torch.cat([carry, torch.zeros_like(carry[:, :1])], dim=1), conv, 0)])


def _rows_convolved(h: Tensor, conv: nn.Conv2d, padding: int) -> Tensor:
    """The convolution with `padding` rows above and below: (B, rows, W, C) -> (B, rows or rows - 2, W, C)."""
    out = F.conv2d(h.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=(padding, 1), groups=conv.groups)
    return out.permute(0, 2, 3, 1)


def _gated(parts: list[Tensor]) -> Tensor:
    """Value * silu(gate) of both halves of the channels, the parts one after another: (B, n, hidden)."""
    rows, hidden = sum(part.shape[1] for part in parts), parts[0].shape[3] // 2
    out = parts[0].new_empty(parts[0].shape[0], rows, parts[0].shape[2], hidden)
    done = 0
    for part in parts:
        value, gate = part.chunk(2, dim=3)  # (B, rows, W, hidden)
        torch.mul(value, F.silu(gate, inplace=True), out=out[:, done : done + part.shape[1]])
        done += part.shape[1]
    return out.flatten(1, 2)
