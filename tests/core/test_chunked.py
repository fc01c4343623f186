"""The transformer at inference: by chunks of rows, fused, packed and cast, against the plain forward pass."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from linearsr.config import ModelConfig
from linearsr.errors import ConfigError, DeviceError
from linearsr.model.attention import linear_attention, read_sums, sum_keys_values
from linearsr.model.chunked import Remembered, auto_row_chunks, row_spans
from linearsr.model.conditioning import Conditioning
from linearsr.model.dense import PackedLinear, can_pack, join_linears
from linearsr.model.transformer import LinearDiT

TEXT = {
    "in_channels": 6,
    "cond_channels": 5,
    "lr_stem": (4, 5),
    "depth": 2,
    "patch_size": 1,
    "num_tags": 0,
    "mlp_ratio": 2.5,
    "cross_attention_head_dim": 4,
}
needs_packing = pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this torch has no oneDNN")


def _inputs(config: ModelConfig, size: tuple[int, int], batch: int = 1) -> tuple[Tensor, Tensor, Conditioning]:
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]][:batch])
    cond = Conditioning(
        lr=torch.randn(config.lr_shape((batch, config.in_channels, *size))),
        tags=torch.randn(batch, 5, config.caption_channels),
        tag_mask=mask,
    )
    return torch.randn(batch, config.in_channels, *size), torch.linspace(0.8, 0.3, batch), cond


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def make(tiny_model: Callable, tiny_network: Callable) -> Callable:
    """A seeded tiny network of stem `patch` with text tags and a stem on low-resolution pixels."""

    def build(**changes) -> LinearDiT:
        return tiny_network(tiny_model("patch", **{**TEXT, **changes}))

    return build


# ---- chunks of rows


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 13), st.integers(1, 6)),
    row_chunks=st.integers(2, 15),
    batch=st.integers(1, 2),
    fused=st.booleans(),
    qk_norm=st.booleans(),
)
def test_chunked_equals_unchunked(
    make: Callable, size: tuple[int, int], row_chunks: int, batch: int, fused: bool, qk_norm: bool
) -> None:
    network = make(qk_norm=qk_norm)
    inputs = _inputs(network.config, size, batch)
    expected = network(*inputs)
    if fused:
        network.fuse_qkv()
    network.row_chunks = row_chunks
    with torch.no_grad():
        assert _distance(network(*inputs), expected) <= 1e-5


@pytest.mark.parametrize("patch_size", [1, 2])
def test_chunked_equals_unchunked_with_patches_and_closed_tags(
    tiny_model: Callable, tiny_network: Callable, patch_size: int
) -> None:
    network = tiny_network(tiny_model("patch", patch_size=patch_size, depth=2))
    x_t = torch.randn(2, 48, 10, 6)
    cond = Conditioning(
        lr=torch.randn(2, 48, 10, 6), tags=torch.tensor([[0, 3], [0, 0]]), tag_mask=torch.tensor([[True, True]] * 2)
    )
    expected = network(x_t, torch.tensor([0.4]), cond)
    network.row_chunks = 3
    with torch.no_grad():
        assert _distance(network(x_t, torch.tensor([0.4]), cond), expected) <= 1e-5


def test_chunked_at_the_width_of_sana_equals_unchunked(tiny_model: Callable) -> None:
    torch.manual_seed(1)
    sana = {"width": 1152, "head_dim": 32, "cross_attention_head_dim": 72, "depth": 1, "caption_channels": 64}
    network = LinearDiT(tiny_model("patch", **{**TEXT, **sana})).eval().requires_grad_(False)
    inputs = _inputs(network.config, (17, 11))
    expected = network(*inputs)
    network.row_chunks = 5
    with torch.no_grad():
        assert _distance(network(*inputs), expected) <= 1e-5


def test_chunks_are_of_no_use_with_gradients_and_leave_them_right(make: Callable) -> None:
    network = make().requires_grad_(True)
    inputs = _inputs(network.config, (6, 4))
    network(*inputs).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    network.row_chunks = 3
    network(*inputs).square().sum().backward()
    assert all(torch.equal(network.get_parameter(name).grad, grad) for name, grad in expected.items())


def test_chunks_bound_the_memory(tiny_model: Callable, tiny_network: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    counter_of = importlib.import_module("run_memory").LiveBytes
    network = tiny_network(tiny_model("patch", **{**TEXT, "width": 64, "mlp_ratio": 2.5, "depth": 2}))
    inputs = _inputs(network.config, (64, 32))
    residual = 64 * 32 * 64 * 4
    peaks = {}
    for row_chunks in (1, 4, 16):
        network.row_chunks = row_chunks
        with torch.no_grad(), counter_of() as counter:
            network(*inputs)
        peaks[row_chunks] = counter.peak
    assert peaks[1] > 10 * residual, "twice the hidden layer, which is five times as wide"
    assert peaks[16] < 0.4 * peaks[1]
    assert peaks[4] < peaks[1]


def test_live_bytes_are_counted_to_the_last_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    given = torch.ones(1000)
    with importlib.import_module("run_memory").LiveBytes() as counter:
        counter.given([given])
        a = given * 2  # 4,000 bytes
        b = a[:500].view(5, 100)  # none of its own
        del a
        c = torch.cat([b, b])  # 4,000 more
        assert (counter.live, counter.peak) == (8000, 8000)
        del b
        assert (counter.live, counter.peak) == (4000, 8000)
        c.add_(given[:100])
        assert counter.live == 4000


def test_row_spans_cover_all_rows_once_and_evenly() -> None:
    for height in range(1, 20):
        for chunks in range(1, 25):
            spans = row_spans(height, chunks)
            assert [row for start, end in spans for row in range(start, end)] == list(range(height))
            lengths = {end - start for start, end in spans}
            assert max(lengths) - min(lengths) <= 1
            assert len(spans) == min(height, chunks)


def test_auto_row_chunks_grow_as_the_budget_shrinks(tiny_model: Callable) -> None:
    config = tiny_model("patch", **{**TEXT, "width": 1152, "head_dim": 32, "cross_attention_head_dim": 72})
    budgets = [2**exponent for exponent in range(36, 20, -1)]
    chunks = [auto_row_chunks(config, 16384, budget) for budget in budgets]
    assert chunks == sorted(chunks)
    assert (chunks[0], chunks[-1]) == (1, 128)
    assert auto_row_chunks(config, 1024, 2**30) == 1


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    q, k, v = (torch.randn(2, 31, 3, 4) for _ in range(3))
    sums = sum_keys_values(k[:, :13], v[:, :13]) + sum_keys_values(k[:, 13:], v[:, 13:])
    out = torch.cat([read_sums(q[:, :5], sums), read_sums(q[:, 5:], sums)], dim=1)
    assert _distance(out, linear_attention(q, k, v)) <= 1e-5


# ---- fused, packed, cast


def test_fuse_qkv_changes_no_result_and_can_be_repeated(make: Callable) -> None:
    network = make(qk_norm=True)
    inputs = _inputs(network.config, (5, 4), batch=2)
    names = set(network.state_dict())
    expected = network(*inputs)
    network.fuse_qkv()
    with torch.no_grad():
        assert _distance(network(*inputs), expected) <= 1e-5
        network.fuse_qkv()
        assert _distance(network(*inputs), expected) <= 1e-5
    assert _distance(network(*inputs), expected) <= 1e-5, "the path with gradients reads fused layers as well"
    gone = names - set(network.state_dict())
    assert {name.split(".", 2)[2] for name in gone} == {
        *(f"attn1.to_{name}.weight" for name in "qkv"),
        *(f"attn2.to_{name}.{end}" for name in "kv" for end in ("weight", "bias")),
    }


@pytest.mark.parametrize("bias", [False, True])
def test_join_linears_gives_the_outputs_side_by_side(bias: bool) -> None:
    layers = [torch.nn.Linear(4, out, bias=bias) for out in (3, 5)]
    x = torch.randn(2, 4)
    assert torch.allclose(join_linears(layers)(x), torch.cat([layer(x) for layer in layers], dim=1), atol=1e-6)


def test_a_fused_network_computes_tags_and_condition_once(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    network = make()
    x_t, t, cond = _inputs(network.config, (4, 4))
    null = dataclasses.replace(cond, tags=cond.tags * 0.5)
    expected = [network(x_t, time, c) for time in (t, t - 0.2) for c in (cond, null)]
    calls: list[str] = []
    for name in ("embed_tags", "_condition"):
        plain = getattr(network, name)
        monkeypatch.setattr(network, name, lambda arg, plain=plain, name=name: (calls.append(name), plain(arg))[1])
    network.fuse_qkv()
    with torch.no_grad():
        actual = [network(x_t, time, c) for time in (t, t - 0.2) for c in (cond, null)]
        assert sorted(calls) == ["_condition", "embed_tags", "embed_tags"]
        cond.tags.mul_(2.0)
        changed = network(x_t, t, cond)
    assert max(_distance(a, b) for a, b in zip(actual, expected, strict=True)) <= 1e-5
    assert _distance(changed, expected[0]) > 1e-4, "tags changed in place are other tags"


def test_remembered_knows_tensors_by_identity_version_and_precision() -> None:
    memory, made = Remembered(keep=2), []

    def get(tensor: Tensor) -> int:
        return memory.get((tensor,), lambda: made.append(tensor) or len(made))

    a, b, c = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    assert [get(a), get(b), get(a), get(b)] == [1, 2, 1, 2]
    with torch.autocast("cpu", torch.bfloat16):
        assert get(a) == 3
    a.add_(1)
    assert get(a) == 4
    get(c)
    assert get(b) == 6, "only the last two are kept"


@needs_packing
@pytest.mark.parametrize("row_chunks", [1, 3])
def test_pack_changes_no_result(make: Callable, row_chunks: int) -> None:
    network = make(qk_norm=True)
    inputs = _inputs(network.config, (7, 4), batch=2)
    expected = network(*inputs)
    network.pack_().pack_().row_chunks = row_chunks
    with torch.no_grad():
        assert _distance(network(*inputs), expected) <= 1e-5


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_linear_is_a_linear_layer_with_its_activation(dtype: torch.dtype) -> None:
    layer, x = torch.nn.Linear(24, 40), torch.randn(2, 7, 24)
    packed = PackedLinear(layer.weight.to(dtype), layer.bias)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    with torch.no_grad():
        assert packed(x).dtype == dtype
        assert _distance(packed(x).float(), layer(x)) <= tolerance
        assert _distance(packed(x, "swish").float(), F.silu(layer(x))) <= tolerance


@needs_packing
def test_a_packed_network_refuses_gradients_and_other_places(make: Callable) -> None:
    network = make().pack_()
    with pytest.raises(ConfigError, match="gradients"):
        network(*_inputs(network.config, (3, 3)))
    with pytest.raises(DeviceError, match="packed network cannot move"):
        network.to(torch.bfloat16)
    with pytest.raises(ConfigError, match="is packed"):
        network.cast_dense_(torch.bfloat16)


def test_pack_and_cast_refuse_the_compact_family(tiny_model: Callable) -> None:
    network = LinearDiT(tiny_model())
    with pytest.raises(ConfigError, match="stem 'conv'"):
        network.pack_()
    with pytest.raises(ConfigError, match="stem 'conv'"):
        network.cast_dense_(torch.bfloat16)


@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=needs_packing)])
@pytest.mark.parametrize("row_chunks", [1, 3])
def test_cast_dense_is_close_to_autocast_from_float32(make: Callable, packed: bool, row_chunks: int) -> None:
    network = make()
    inputs = _inputs(network.config, (7, 4))
    exact = network(*inputs)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast_at_work = network(*inputs)
    network.cast_dense_(torch.bfloat16)
    if packed:
        network.pack_()
    network.row_chunks = row_chunks
    with torch.no_grad():
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert 1e-6 < _distance(out, exact) <= max(2e-2, 2 * _distance(cast_at_work, exact))


def test_cast_dense_halves_the_dense_weights_and_nothing_else(make: Callable) -> None:
    network = make(qk_norm=True).cast_dense_(torch.bfloat16)
    kept = {name for name, value in network.state_dict().items() if value.dtype == torch.float32}
    assert all("norm" in name or "table" in name or name.startswith("time_embed") for name in kept)
    assert {"caption_norm.weight", "scale_shift_table", "time_embed.linear.weight"} <= kept
    dense = {name for name, value in network.state_dict().items() if value.dtype == torch.bfloat16}
    assert {"patch_embed.proj.weight", "lr_stem.0.weight", "transformer_blocks.0.ff.conv_depth.weight"} <= dense
    assert {"proj_out.bias", "caption_projection.linear_1.weight"} <= dense


# ---- training and compiling


def test_gradient_checkpointing_changes_no_gradient(make: Callable) -> None:
    network = make().requires_grad_(True)
    inputs = _inputs(network.config, (5, 4))
    gradients, saved = [], []
    for checkpointing in (False, True):
        network.zero_grad()
        network.gradient_checkpointing = checkpointing
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: (kept.append(x.numel()), x)[1], lambda x: x):
            loss = network(*inputs).square().sum()
        loss.backward()
        saved.append(sum(kept))
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], rtol=1e-5, atol=1e-5) for name in gradients[0])
    assert saved[1] < saved[0] / 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_lineardit_compiles_without_graph_breaks(make: Callable) -> None:
    network = make(depth=1)
    inputs = _inputs(network.config, (4, 4))
    with torch.no_grad():
        expected = network(*inputs)
        network.fuse_qkv()
        torch.compiler.reset()
        compiled = torch.compile(network, fullgraph=True)
        assert _distance(compiled(*inputs), expected) <= 1e-5


@pytest.mark.parametrize("row_chunks", [1, 3])
def test_lineardit_is_one_graph(make: Callable, row_chunks: int) -> None:
    network = make(depth=1)
    inputs = _inputs(network.config, (6, 4))
    with torch.no_grad():
        expected = network(*inputs)
        network.row_chunks = row_chunks
        torch.compiler.reset()
        out = torch.compile(network, fullgraph=True, backend="eager")(*inputs)
    assert _distance(out, expected) <= 1e-5
