"""Linear attention against its definition in float64, and what each input may and may not influence."""

from __future__ import annotations

import pytest
import torch

from linearsr.model.attention import CrossAttention, LinearAttention, linear_attention, quadratic_attention

SHAPES = [(1, 5, 1, 8), (2, 64, 2, 16), (1, 1024, 4, 32), (3, 1, 2, 4)]


def _qkv(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for _ in range(3))


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def _reference(qkv: tuple[torch.Tensor, ...], eps: float = 1e-15) -> torch.Tensor:
    return quadratic_attention(*(x.double() for x in qkv), eps)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_attention_equals_the_quadratic_reference_in_float32(shape: tuple[int, ...]) -> None:
    qkv = _qkv(shape)
    assert _distance(linear_attention(*qkv), _reference(qkv)) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_attention_of_bfloat16_inputs_stays_within_a_hundredth(shape: tuple[int, ...]) -> None:
    qkv = _qkv(shape)
    out = linear_attention(*(x.bfloat16() for x in qkv))
    assert out.dtype == torch.float32
    assert _distance(out, _reference(qkv)) <= 1e-2


def test_linear_attention_of_float16_inputs_does_not_overflow() -> None:
    qkv = tuple(x * 30 for x in _qkv((1, 4096, 1, 32)))  # the key-value sums pass 65,504 many times over
    out = linear_attention(*(x.half() for x in qkv))
    assert torch.isfinite(out).all()
    assert _distance(out, _reference(qkv)) <= 1e-2


def test_linear_attention_keeps_float32_inside_autocast() -> None:
    qkv = _qkv((1, 256, 2, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_attention(*qkv)
    assert torch.equal(inside, linear_attention(*qkv))


def test_quadratic_attention_has_the_values_done_by_hand() -> None:
    q = torch.tensor([[1.0, 2.0]]).view(1, 1, 1, 2)
    k = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-5.0, 0.5]]).view(1, 3, 1, 2)
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]]).view(1, 3, 1, 2)
    expected = torch.tensor([(3 * 1 + 1 * 4) / 7, (3 * 1 + 1 * 4) / 7])  # weights 3, 3, 1
    assert torch.allclose(quadratic_attention(q.expand(1, 3, 1, 2), k, v)[0, 0, 0], expected)
    assert torch.allclose(linear_attention(q, k, v)[0, 0, 0], expected)


def test_linear_attention_of_equal_features_is_the_mean_of_the_values() -> None:
    v = _qkv((1, 50, 1, 4))[2]
    ones = torch.ones_like(v)
    assert torch.allclose(linear_attention(ones, ones, v)[0, :, 0], v[0, :, 0].mean(0).expand(50, 4), atol=1e-6)


def test_linear_attention_adds_eps_to_the_denominator() -> None:
    ones = torch.ones(1, 3, 1, 4)
    assert torch.allclose(linear_attention(ones, ones, ones, eps=4.0), torch.full((1, 3, 1, 4), 12 / 16))
    assert torch.allclose(quadratic_attention(ones, ones, ones, eps=4.0), torch.full((1, 3, 1, 4), 12 / 16))


def test_linear_attention_of_a_dead_query_is_exactly_zero() -> None:
    q, k, v = _qkv((2, 40, 2, 8))
    q[0, 7, 1] = -q[0, 7, 1].abs()
    out = linear_attention(q, k, v)
    assert torch.equal(out[0, 7, 1], torch.zeros(8))
    assert out[0, 7, 0].abs().min() > 0


def test_linear_attention_of_dead_keys_is_zero_and_not_nan() -> None:
    q, k, v = _qkv((1, 20, 1, 8))
    assert torch.equal(linear_attention(q, -k.abs(), v), torch.zeros(1, 20, 1, 8))


def test_linear_attention_follows_a_permutation_of_the_tokens() -> None:
    qkv = _qkv((2, 100, 2, 16))
    order = torch.randperm(100)
    permuted = linear_attention(*(x[:, order] for x in qkv))
    assert _distance(permuted, linear_attention(*qkv)[:, order]) <= 1e-5


@pytest.mark.parametrize(("axis", "name"), [(0, "batch"), (2, "head")])
def test_linear_attention_keeps_batches_and_heads_apart(axis: int, name: str) -> None:
    qkv, other = _qkv((2, 60, 2, 16)), _qkv((2, 60, 2, 16), seed=1)
    mixed = [torch.cat([a.narrow(axis, 0, 1), b.narrow(axis, 1, 1)], dim=axis) for a, b in zip(qkv, other, strict=True)]
    before, after = linear_attention(*qkv), linear_attention(*mixed)
    assert _distance(after.narrow(axis, 0, 1), before.narrow(axis, 0, 1)) <= 1e-6, name
    assert _distance(after.narrow(axis, 1, 1), before.narrow(axis, 1, 1)) > 0.1, name


@pytest.mark.parametrize("qk_norm", [False, True])
def test_linear_attention_module_equals_its_definition_in_float64(qk_norm: bool) -> None:
    module = LinearAttention(32, 8, qk_norm=qk_norm, eps=1e-15)
    if qk_norm:
        for norm in (module.norm_q, module.norm_k):
            torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
    x = torch.randn(2, 50, 32)
    weights = {name: value.double() for name, value in module.state_dict().items()}
    q, k, v = (x.double() @ weights[f"to_{name}.weight"].T for name in "qkv")
    if qk_norm:
        q = q / (q.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights["norm_q.weight"]
        k = k / (k.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights["norm_k.weight"]
    heads = quadratic_attention(*(z.view(2, 50, 4, 8) for z in (q, k, v)))
    expected = heads.reshape(2, 50, 32) @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]
    assert _distance(module(x).detach(), expected) <= 1e-5


def _cross(qk_norm: bool = False) -> CrossAttention:
    return CrossAttention(16, 8, qk_norm=qk_norm).requires_grad_(False)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_cross_attention_equals_softmax_in_float64(qk_norm: bool) -> None:
    module, x, tokens = _cross(qk_norm), torch.randn(2, 12, 16), torch.randn(2, 4, 16)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    weights = {name: value.double() for name, value in module.state_dict().items()}
    q, k, v = (
        source.double() @ weights[f"to_{name}.weight"].T + weights[f"to_{name}.bias"]
        for name, source in (("q", x), ("k", tokens), ("v", tokens))
    )
    if qk_norm:
        q, k = (z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() for z in (q, k))
    q, k, v = (z.view(2, -1, 2, 8).transpose(1, 2) for z in (q, k, v))
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~mask[:, None, None, :], -torch.inf)
    out = (scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 12, 16)
    assert _distance(module(x, tokens, mask), out @ weights["to_out.0.weight"].T + weights["to_out.0.bias"]) <= 1e-5


@pytest.mark.parametrize("autocast", [False, True])
def test_cross_attention_ignores_masked_tokens(autocast: bool) -> None:
    module, x, tokens = _cross(), torch.randn(2, 12, 16), torch.randn(2, 4, 16)
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    junk = torch.where(mask[..., None], tokens, 50 * torch.randn(2, 4, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert torch.equal(module(x, tokens, mask), module(x, junk, mask))
        assert not torch.allclose(module(x, tokens, mask), module(x, tokens, torch.ones_like(mask)), atol=1e-3)


def test_cross_attention_of_one_token_is_its_value_for_every_query() -> None:
    module, tokens = _cross(), torch.randn(1, 3, 16)
    out = module(torch.randn(1, 9, 16), tokens, torch.tensor([[True, False, False]]))
    expected = module.to_out[0](module.to_v(tokens[:, :1]))
    assert torch.allclose(out, expected.expand(1, 9, 16), atol=1e-6)


def test_cross_attention_is_finite_when_every_token_is_masked() -> None:
    out = _cross()(torch.randn(1, 9, 16), torch.randn(1, 3, 16), torch.zeros(1, 3, dtype=torch.bool))
    assert torch.isfinite(out).all()
