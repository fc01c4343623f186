"""Attention health: features of known rank and known dead queries, and real networks against float64 references."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from linearsr.errors import TrainingError
from linearsr.model.attention import LinearAttention, quadratic_attention
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.transformer import LinearDiT
from linearsr_train import instruments
from linearsr_train.instruments import attention_health, effective_rank

NAMES = {"min_denominator", "dead_queries", "unmatched_queries", "effective_rank", "max_activation"}


def plain_attention(dim: int, head_dim: int) -> LinearAttention:
    """An attention whose projections are all the identity: q = k = v = x."""
    attention = LinearAttention(dim, head_dim, qk_norm=False, eps=1e-15).requires_grad_(False)
    for linear in (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]):
        nn.init.eye_(linear.weight)
    nn.init.zeros_(attention.to_out[0].bias)
    return attention


def small_network(tiny_model: Callable, tiny_network: Callable, **changes: object) -> tuple[LinearDiT, Callable]:
    """A network of three layers, and a function that runs it on a batch drawn from a seed."""
    config = tiny_model(depth=3, **changes)
    network = tiny_network(config)

    def run(seed: int = 0, size: tuple[int, int] = (8, 12)) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        tags, mask = pad_tag_ids([[1, 4], []])
        lr = torch.randn(2, config.cond_channels, *size, generator=generator)
        x_t = torch.randn(2, config.in_channels, *size, generator=generator)
        cond = Conditioning(lr=lr, tags=tags, tag_mask=mask, log2_scale=torch.tensor([1.0, 2.0]))
        return network(x_t, torch.tensor([0.9, 0.2]), cond)

    return network, run


def inputs_of(network: nn.Module, run: Callable) -> list[list[Tensor]]:
    """Inputs of every attention layer, by layer and pass."""
    layers = [module for module in network.modules() if isinstance(module, LinearAttention)]
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.register_forward_pre_hook(lambda _, args, store=store: store.append(args[0]))
        for layer, store in zip(layers, seen, strict=True)
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def reference(layer: LinearAttention, inputs: list[Tensor]) -> dict[str, float]:
    """The numbers of a layer in float64, by the quadratic form and the singular values of all tokens."""
    smallest, dead, unmatched, queries, largest, features = math.inf, 0, 0, 0, 0.0, []
    for x in inputs:
        q, k, v = layer.to_q(x), layer.to_k(x), layer.to_v(x)
        if layer.qk_norm:
            q, k = layer.norm_q(q.float()), layer.norm_k(k.float())
        largest = max(largest, *(float(z.abs().max()) for z in (q, k, v, layer(x))))
        q, k, v = (z.double().unflatten(-1, (-1, layer.head_dim)) for z in (q, k, v))
        scores = F.relu(q).transpose(1, 2) @ F.relu(k).transpose(1, 2).transpose(-1, -2)  # (B, h, N, N)
        live = (F.relu(q) > 0).any(-1).transpose(1, 2)  # (B, h, N)
        sums = scores.sum(-1)  # (B, h, N)
        smallest = min(smallest, float(sums[sums > 0].min()))
        unmatched += int((live & (sums == 0)).sum())
        dead, queries = dead + int((~live).sum()), queries + live.numel()
        features.append(quadratic_attention(q, k, v).flatten(2).flatten(0, 1))
    share = torch.linalg.svdvals(torch.cat(features)) ** 2
    share = share / share.sum()
    rank = math.exp(-sum(float(p) * math.log(float(p)) for p in share if p > 0))
    return {
        "min_denominator": smallest,
        "dead_queries": dead / queries,
        "unmatched_queries": unmatched / queries,
        "effective_rank": rank,
        "max_activation": largest,
    }


# ---- effective rank


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=8), st.integers(0, 5), st.integers(0, 1000))
def test_effective_rank_is_the_entropy_of_the_energies_in_any_basis(energies: list[float], zeros: int, seed: int):
    spectrum = torch.tensor(energies + [0.0] * zeros, dtype=torch.float64)
    basis = torch.linalg.qr(
        torch.randn(len(spectrum), len(spectrum), generator=torch.Generator().manual_seed(seed)).double()
    )[0]
    shares = [energy / sum(energies) for energy in energies]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(basis @ spectrum.diag() @ basis.T) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    assert effective_rank(torch.diag(torch.tensor([7.0] * rank + [0.0] * (16 - rank)).double())) == pytest.approx(rank)


def test_effective_rank_of_nothing_is_zero_and_of_a_nan_is_nan() -> None:
    assert effective_rank(torch.zeros(4, 4).double()) == 0.0
    assert math.isnan(effective_rank(torch.full((4, 4), math.inf).double()))


# ---- one layer with known tokens


def test_attention_health_of_hand_made_tokens() -> None:
    # Two heads of width 2. Head 0 has the queries (1, 0), (0, 2), dead; head 1 has dead, (3, 0), (0, 0.5).
    tokens = torch.tensor([[[1.0, 0.0, -1.0, -2.0], [0.0, 2.0, 3.0, 0.0], [-4.0, -1.0, 0.0, 0.5]]])
    attention = plain_attention(4, 2)
    health = attention_health(attention, lambda: attention(tokens))
    # Sums of keys: (1, 2) and (3, 0.5); denominators 1, 4 and 9, 0.25.
    assert health["attn/0/min_denominator"] == 0.25
    assert health["attn/0/dead_queries"] == pytest.approx(2 / 6)
    assert health["attn/0/max_activation"] == 4.0
    expected = reference(attention, [tokens])["effective_rank"]
    assert health["attn/0/effective_rank"] == pytest.approx(expected, rel=1e-6)
    assert {key: health[f"attn/{key}"] for key in NAMES} == {key: health[f"attn/0/{key}"] for key in NAMES}


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_attention_health_sees_how_many_kinds_of_tokens_there_are(rank: int) -> None:
    # Tokens of `rank` orthogonal kinds attend to their own kind alone, so the output is the input.
    tokens = 3.0 * torch.eye(8)[:rank].repeat(4, 1)[None]
    attention = plain_attention(8, 8)
    assert torch.allclose(attention(tokens), tokens)
    assert attention_health(attention, lambda: attention(tokens))["attn/0/effective_rank"] == pytest.approx(rank)


def test_attention_health_of_features_collapsed_onto_one_vector_is_rank_one() -> None:
    # All keys are alike, so every query reads the mean of the values.
    attention = plain_attention(8, 8)
    nn.init.zeros_(attention.to_k.weight)
    attention.to_k.weight[0].fill_(1.0)
    tokens = torch.rand(2, 50, 8) + 0.1
    tokens = tokens / tokens.sum(-1, keepdim=True)
    health = attention_health(attention, lambda: attention(tokens[:1]))
    assert health["attn/0/effective_rank"] == pytest.approx(1.0, abs=1e-5)


def test_attention_health_of_a_layer_with_only_dead_queries() -> None:
    attention = plain_attention(4, 2)
    health = attention_health(attention, lambda: attention(-torch.ones(1, 5, 4)))
    assert health["attn/0/dead_queries"] == 1.0
    assert health["attn/0/min_denominator"] == math.inf
    assert health["attn/0/effective_rank"] == 0.0


def test_attention_health_counts_queries_that_meet_no_key_apart() -> None:
    # Queries (1, 0, 0), (0, 1, 0), dead; the keys (1), (2), (-3) in the second feature only: sum 3.
    attention = plain_attention(3, 3)
    nn.init.zeros_(attention.to_k.weight)
    attention.to_k.weight[1] = 1.0
    tokens = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [-1.0, -1.0, -1.0]]])
    health = attention_health(attention, lambda: attention(tokens))
    assert health["attn/0/min_denominator"] == 6.0
    assert health["attn/0/dead_queries"] == health["attn/0/unmatched_queries"] == pytest.approx(1 / 3)
    assert torch.equal(attention(tokens)[0, [0, 2]], torch.zeros(2, 3))  # both give exactly nothing


def test_attention_health_passes_a_nan_on() -> None:
    attention = plain_attention(4, 2)
    tokens = torch.ones(1, 5, 4)
    tokens[0, 3, 1] = math.nan
    health = attention_health(attention, lambda: [attention(tokens), attention(torch.ones(1, 5, 4))])
    for name in ("min_denominator", "effective_rank", "max_activation"):
        assert math.isnan(health[f"attn/0/{name}"]), name
        assert math.isnan(health[f"attn/{name}"]), name


# ---- whole networks


@pytest.mark.parametrize("qk_norm", [True, False])
def test_attention_health_agrees_with_the_quadratic_reference(
    tiny_model: Callable, tiny_network: Callable, qk_norm: bool
) -> None:
    # Two heads of width 2 rather than 8: every fourth query or so is dead.
    network, run = small_network(tiny_model, tiny_network, qk_norm=qk_norm, head_dim=2)

    def twice() -> None:
        run(0)
        run(1, (6, 4))

    health = attention_health(network, twice)
    layers = [module for module in network.modules() if isinstance(module, LinearAttention)]
    expected = [reference(*pair) for pair in zip(layers, inputs_of(network, twice), strict=True)]
    assert all(0.0 < layer["dead_queries"] < 1.0 for layer in expected)
    for index, layer in enumerate(expected):
        for name in NAMES:
            assert health[f"attn/{index}/{name}"] == pytest.approx(layer[name], rel=1e-4), (index, name)
    overall = {name: [layer[name] for layer in expected] for name in NAMES}
    assert health["attn/min_denominator"] == pytest.approx(min(overall["min_denominator"]), rel=1e-4)
    assert health["attn/max_activation"] == pytest.approx(max(overall["max_activation"]), rel=1e-4)
    for name in ("dead_queries", "unmatched_queries", "effective_rank"):
        assert health[f"attn/{name}"] == pytest.approx(sum(overall[name]) / 3, rel=1e-4)
    assert len(health) == len(NAMES) * (3 + 1)


def test_attention_health_in_bfloat16_reads_what_the_core_reads() -> None:
    torch.manual_seed(3)
    attention = LinearAttention(16, 4, qk_norm=False, eps=1e-15).requires_grad_(False)
    x = torch.randn(1, 300, 16)
    projected: dict[str, Tensor] = {}

    def run() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            projected.update(q=attention.to_q(x), k=attention.to_k(x))
            return attention(x)

    health = attention_health(attention, run)
    assert projected["q"].dtype == torch.bfloat16
    q, k = (F.relu(projected[name].double()).unflatten(-1, (-1, 4)) for name in ("q", "k"))
    live = (q > 0).any(-1)
    denominator = (q * k.sum(1, keepdim=True)).sum(-1)[live]
    # In bfloat16 the sum of 300 keys would be off in the third digit.
    assert health["attn/0/min_denominator"] == pytest.approx(float(denominator[denominator > 0].min()), rel=1e-5)
    assert health["attn/0/dead_queries"] == pytest.approx(float((~live).double().mean()), rel=1e-6)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_health_leaves_the_output_as_it_is(
    tiny_model: Callable, tiny_network: Callable, precision: torch.dtype
) -> None:
    network, run = small_network(tiny_model, tiny_network)
    outputs: list[Tensor] = []

    def store() -> None:
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            outputs.append(run())

    store()
    attention_health(network, store)
    store()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_attention_health_lets_gradients_through(tiny_model: Callable, tiny_network: Callable) -> None:
    network, run = small_network(tiny_model, tiny_network)
    network.requires_grad_(True)
    run().square().sum().backward()
    before = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    network.zero_grad()
    attention_health(network, lambda: run().square().sum().backward())
    after = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(before) > 20
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def hooks_of(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_attention_health_takes_its_hooks_away(tiny_model: Callable, tiny_network: Callable) -> None:
    network, run = small_network(tiny_model, tiny_network)
    during: list[int] = []

    def broken() -> None:
        during.append(hooks_of(network))
        run()
        raise RuntimeError("out of luck")

    attention_health(network, run)
    assert hooks_of(network) == 0
    with pytest.raises(RuntimeError, match="out of luck"):
        attention_health(network, broken)
    assert during[0] > 0
    assert hooks_of(network) == 0


def test_attention_health_is_the_same_in_parts(
    tiny_model: Callable, tiny_network: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, run = small_network(tiny_model, tiny_network)
    whole = attention_health(network, run)
    monkeypatch.setattr(instruments, "ROWS", 7)  # no divisor of the tokens
    assert attention_health(network, run) == pytest.approx(whole, rel=1e-9)


def test_guide_explains_every_number_of_the_attention() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "reading-a-run.md"
    section = guide.read_text(encoding="utf-8").split("## The attention's health")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE)) == NAMES


def test_attention_health_refuses_a_run_that_shows_nothing(tiny_model: Callable, tiny_network: Callable) -> None:
    network, _ = small_network(tiny_model, tiny_network)
    _, other = small_network(tiny_model, tiny_network)
    with pytest.raises(TrainingError, match="none of the 3 attention layers ran"):
        attention_health(network, other)
    assert attention_health(nn.Linear(2, 2), lambda: None) == {}
