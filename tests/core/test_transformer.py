"""LinearDiT against SANA's published forward math, its tensor names and sizes, and stored outputs.

`python tests/core/test_transformer.py` writes the stored outputs anew; do so only for an intended change of the
forward pass, as it makes all older weights give other pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from linearsr.config import ModelConfig
from linearsr.errors import ShapeError
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.transformer import LinearDiT

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-5
STEMS = ("patch", "conv")
SANA = {
    "cond_channels": 0,
    "head_dim": 32,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "patch_size": 1,
    "num_tags": 0,
    "in_channels": 32,
}


def _inputs(config: ModelConfig, batch: int = 2, size: tuple[int, int] = (4, 6)) -> tuple[Tensor, Tensor, Conditioning]:
    x_t = torch.randn(batch, config.in_channels, *size)
    tags, mask = pad_tag_ids(([[1, 4], [], [7]] * batch)[:batch])
    cond = Conditioning(
        lr=torch.randn(batch, config.cond_channels, *size),
        tags=tags if config.num_tags else torch.randn(batch, 4, config.caption_channels),
        tag_mask=mask,
        log2_scale=torch.linspace(0.3, 2.0, batch),
    )
    return x_t, torch.linspace(0.9, 0.2, batch), cond


# ---- SANA


def test_lineardit_has_the_tensors_of_sana(tiny_model: Callable) -> None:
    dim = 64
    config = tiny_model("patch", **{**SANA, "width": dim, "depth": 2, "cross_attention_head_dim": 16})
    expected = {
        "patch_embed.proj.weight": (dim, 32, 1, 1),
        "patch_embed.proj.bias": (dim,),
        "time_embed.emb.timestep_embedder.linear_1.weight": (dim, 256),
        "time_embed.emb.timestep_embedder.linear_1.bias": (dim,),
        "time_embed.emb.timestep_embedder.linear_2.weight": (dim, dim),
        "time_embed.emb.timestep_embedder.linear_2.bias": (dim,),
        "time_embed.linear.weight": (6 * dim, dim),
        "time_embed.linear.bias": (6 * dim,),
        "caption_projection.linear_1.weight": (dim, 2304),
        "caption_projection.linear_1.bias": (dim,),
        "caption_projection.linear_2.weight": (dim, dim),
        "caption_projection.linear_2.bias": (dim,),
        "caption_norm.weight": (dim,),
        "scale_shift_table": (2, dim),
        "proj_out.weight": (32, dim),
        "proj_out.bias": (32,),
    }
    for index in range(2):
        block = f"transformer_blocks.{index}"
        expected[f"{block}.scale_shift_table"] = (6, dim)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            expected[f"{block}.attn1.{name}.weight"] = (dim, dim)
            expected[f"{block}.attn2.{name}.weight"] = (dim, dim)
            expected[f"{block}.attn2.{name}.bias"] = (dim,)
        expected[f"{block}.attn1.to_out.0.bias"] = (dim,)
        expected[f"{block}.ff.conv_inverted.weight"] = (5 * dim, dim, 1, 1)
        expected[f"{block}.ff.conv_inverted.bias"] = (5 * dim,)
        expected[f"{block}.ff.conv_depth.weight"] = (5 * dim, 1, 3, 3)
        expected[f"{block}.ff.conv_depth.bias"] = (5 * dim,)
        expected[f"{block}.ff.conv_point.weight"] = (dim, 5 * dim // 2, 1, 1)
    actual = {name: tuple(value.shape) for name, value in LinearDiT(config).state_dict().items()}
    assert actual == expected
    normed = LinearDiT(dataclasses.replace(config, qk_norm=True)).state_dict()
    assert normed.keys() - expected.keys() == {
        f"transformer_blocks.{index}.{attention}.norm_{name}.weight"
        for index in range(2)
        for attention in ("attn1", "attn2")
        for name in "qk"
    }


@pytest.mark.parametrize(
    ("width", "depth", "cross_dim", "published"), [(1152, 28, 72, 591_747_872), (2240, 20, 112, 1_604_462_752)]
)
def test_lineardit_at_paper_scale_has_the_published_number_of_parameters(
    tiny_model: Callable, width: int, depth: int, cross_dim: int, published: int
) -> None:
    config = tiny_model("patch", **{**SANA, "width": width, "depth": depth, "cross_attention_head_dim": cross_dim})
    with torch.device("meta"):
        network = LinearDiT(config)
    assert sum(p.numel() for p in network.parameters()) == published


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def _sana_by_formula(w: dict[str, Tensor], config: ModelConfig, x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
    """The forward pass as published, in float64, with attention by its quadratic definition."""

    def linear(name: str, z: Tensor) -> Tensor:
        bias = w.get(f"{name}.bias")
        return z @ w[f"{name}.weight"].T + (0 if bias is None else bias)

    def heads(z: Tensor, dim: int) -> Tensor:
        return z.unflatten(-1, (-1, dim)).transpose(1, 2)

    (batch, _, height, width), depth = x.shape, config.depth
    angle = 1000 * t[:, None] * torch.exp(-math.log(1e4) * torch.arange(128, dtype=torch.float64) / 128)
    e = linear("time_embed.emb.timestep_embedder.linear_1", torch.cat([angle.cos(), angle.sin()], -1))
    e = linear("time_embed.emb.timestep_embedder.linear_2", F.silu(e))
    shared = linear("time_embed.linear", F.silu(e)).unflatten(-1, (6, -1))
    y = F.gelu(linear("caption_projection.linear_1", cond.tags.double()), approximate="tanh")
    y = _rms(linear("caption_projection.linear_2", y), w["caption_norm.weight"])
    h = F.conv2d(torch.cat([x, cond.lr.double()], 1), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"])
    h = h.flatten(2).transpose(1, 2)
    for block in (f"transformer_blocks.{index}" for index in range(depth)):
        table = w[f"{block}.scale_shift_table"] + shared
        shift1, scale1, gate1, shift2, scale2, gate2 = (z[:, None] for z in table.unbind(1))
        normed = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
        q, k, v = (linear(f"{block}.attn1.to_{name}", normed) for name in "qkv")
        if config.qk_norm:
            q, k = _rms(q, w[f"{block}.attn1.norm_q.weight"]), _rms(k, w[f"{block}.attn1.norm_k.weight"])
        scores = F.relu(heads(q, config.head_dim)) @ F.relu(heads(k, config.head_dim)).transpose(-1, -2)
        out = scores / (scores.sum(-1, keepdim=True) + 1e-15) @ heads(v, config.head_dim)
        h = h + gate1 * linear(f"{block}.attn1.to_out.0", out.transpose(1, 2).flatten(2))
        q, k, v = (linear(f"{block}.attn2.to_{name}", z) for name, z in (("q", h), ("k", y), ("v", y)))
        if config.qk_norm:
            q, k = _rms(q, w[f"{block}.attn2.norm_q.weight"]), _rms(k, w[f"{block}.attn2.norm_k.weight"])
        cross = config.cross_attention_head_dim
        scores = heads(q, cross) @ heads(k, cross).transpose(-1, -2) / cross**0.5
        scores = scores + torch.where(cond.tag_mask, 0.0, -1e4)[:, None, None]
        h = h + linear(f"{block}.attn2.to_out.0", (scores.softmax(-1) @ heads(v, cross)).transpose(1, 2).flatten(2))
        z = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
        z = z.transpose(1, 2).unflatten(-1, (height, width))
        z = F.silu(F.conv2d(z, w[f"{block}.ff.conv_inverted.weight"], w[f"{block}.ff.conv_inverted.bias"]))
        depthwise = w[f"{block}.ff.conv_depth.weight"], w[f"{block}.ff.conv_depth.bias"]
        value, gate = F.conv2d(z, *depthwise, padding=1, groups=z.shape[1]).chunk(2, 1)
        z = F.conv2d(value * F.silu(gate), w[f"{block}.ff.conv_point.weight"])
        h = h + gate2 * z.flatten(2).transpose(1, 2)
    shift, scale = (w["scale_shift_table"] + e[:, None]).unbind(1)
    h = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    return linear("proj_out", h).transpose(1, 2).reshape(batch, -1, height, width)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_lineardit_equals_the_published_forward_pass(
    tiny_model: Callable, tiny_network: Callable, qk_norm: bool
) -> None:
    config = tiny_model("patch", patch_size=1, num_tags=0, depth=2, mlp_ratio=2.5, qk_norm=qk_norm)
    network = tiny_network(config)
    x_t, t, cond = _inputs(config)
    weights = {name: value.double() for name, value in network.state_dict().items()}
    expected = _sana_by_formula(weights, config, x_t.double(), t.double(), cond)
    out = network(x_t, t, cond)
    assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_lineardit_unpatchifies_rows_then_columns_then_channels(tiny_model: Callable) -> None:
    config = tiny_model("patch", in_channels=3, depth=0)
    network = LinearDiT(config).requires_grad_(False)
    network.proj_out.weight.zero_()
    network.proj_out.bias.copy_(torch.arange(12.0))
    out = network(*_inputs(config))
    for row in range(2):
        for col in range(2):
            assert out[1, :, 2 + row, 4 + col].tolist() == [(row * 2 + col) * 3 + c for c in range(3)]


# ---- stored outputs


def _golden_config(stem: str, make: Callable) -> ModelConfig:
    return make(stem, depth=2, qk_norm=stem == "conv")


def _stored(stem: str) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Conditioning], Tensor]:
    stored = load_file(GOLDEN / f"lineardit-{stem}.safetensors")
    weights = {name.removeprefix("w."): value for name, value in stored.items() if name.startswith("w.")}
    names = ("lr", "tags", "tag_mask", "log2_scale")
    return weights, (stored["x_t"], stored["t"], Conditioning(**{name: stored[name] for name in names})), stored["out"]


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("stem", STEMS)
def test_lineardit_reproduces_its_stored_output(tiny_model: Callable, stem: str) -> None:
    weights, inputs, expected = _stored(stem)
    network = LinearDiT(_golden_config(stem, tiny_model)).requires_grad_(False)
    network.load_state_dict(weights, strict=True)
    assert _distance(network(*inputs), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("stem", "change"),
    [
        ("patch", {"norm_eps": 1e-2}),
        ("patch", {"head_dim": 4}),
        ("patch", {"attention_eps": 0.1}),
        ("conv", {"long_skip": False}),
        ("conv", {"head_dim": 4}),
    ],
    ids=str,
)
def test_lineardit_ablated_misses_the_stored_output(tiny_model: Callable, stem: str, change: dict[str, float]) -> None:
    weights, inputs, expected = _stored(stem)
    network = LinearDiT(dataclasses.replace(_golden_config(stem, tiny_model), **change)).requires_grad_(False)
    network.load_state_dict(weights, strict=True)
    assert _distance(network(*inputs), expected) > 20 * TOLERANCE


# ---- behaviour


def test_lineardit_with_a_conv_stem_starts_at_exactly_zero(tiny_model: Callable) -> None:
    config = tiny_model()
    network = LinearDiT(config).requires_grad_(False)
    out = network(*_inputs(config))
    assert torch.equal(out, torch.zeros(2, 96, 4, 6)), "prediction and state gate"
    plain = LinearDiT(tiny_model(state_gate=False)).requires_grad_(False)
    assert torch.equal(plain(*_inputs(config)), torch.zeros(2, 48, 4, 6))


@pytest.mark.parametrize("stem", STEMS)
def test_lineardit_is_the_same_when_channels_last(tiny_model: Callable, tiny_network: Callable, stem: str) -> None:
    network = tiny_network(tiny_model(stem))
    x_t, t, cond = _inputs(network.config)
    expected = network(x_t, t, cond)
    network.to(memory_format=torch.channels_last)
    moved = dataclasses.replace(cond, lr=cond.lr.contiguous(memory_format=torch.channels_last))
    out = network(x_t.contiguous(memory_format=torch.channels_last), t, moved)
    assert _distance(out, expected) <= TOLERANCE


@pytest.mark.parametrize("stem", STEMS)
def test_lineardit_with_one_time_for_all_equals_a_time_for_each(
    tiny_model: Callable, tiny_network: Callable, stem: str
) -> None:
    network = tiny_network(tiny_model(stem))
    x_t, _, cond = _inputs(network.config)
    one = dataclasses.replace(cond, log2_scale=torch.tensor([1.3]))
    each = dataclasses.replace(cond, log2_scale=torch.tensor([1.3, 1.3]))
    expected = network(x_t, torch.tensor([0.4, 0.4]), each)
    assert _distance(network(x_t, torch.tensor([0.4]), one), expected) <= TOLERANCE


@pytest.mark.parametrize("stem", STEMS)
def test_lineardit_keeps_the_rows_of_a_batch_apart(tiny_model: Callable, tiny_network: Callable, stem: str) -> None:
    network = tiny_network(tiny_model(stem))
    x_t, t, cond = _inputs(network.config, batch=3)
    whole = network(x_t, t, cond)
    for row in range(3):
        one = slice(row, row + 1)
        alone = Conditioning(
            lr=cond.lr[one], tags=cond.tags[one], tag_mask=cond.tag_mask[one], log2_scale=cond.log2_scale[one]
        )
        assert _distance(network(x_t[one], t[one], alone), whole[one]) <= TOLERANCE


@pytest.mark.parametrize("stem", STEMS)
def test_lineardit_reads_time_condition_tags_and_state(tiny_model: Callable, tiny_network: Callable, stem: str) -> None:
    network = tiny_network(tiny_model(stem))
    x_t, t, cond = _inputs(network.config)
    before = network(x_t, t, cond)
    after = {
        "time": network(x_t, t - 0.1, cond),
        "state": network(x_t + 0.1, t, cond),
        "condition": network(x_t, t, dataclasses.replace(cond, lr=cond.lr + 0.1)),
        "tags": network(x_t, t, cond.without_tags()),
    }
    if stem == "conv":
        after["scale"] = network(x_t, t, dataclasses.replace(cond, log2_scale=cond.log2_scale + 0.2))
    for name, out in after.items():
        assert (out[0] - before[0]).abs().max() > 1e-4, name
    assert torch.equal(after["tags"][1], before[1]), "the second row had no tags to lose"


def test_lineardit_ignores_the_ids_of_masked_tags(tiny_model: Callable, tiny_network: Callable) -> None:
    network = tiny_network(tiny_model())
    x_t, t, cond = _inputs(network.config)
    junk = torch.where(cond.tag_mask, cond.tags, torch.full_like(cond.tags, 5))
    assert torch.equal(network(x_t, t, dataclasses.replace(cond, tags=junk)), network(x_t, t, cond))


def test_lineardit_in_bfloat16_autocast_stays_close(tiny_model: Callable, tiny_network: Callable) -> None:
    network = tiny_network(tiny_model())
    inputs = _inputs(network.config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert 1e-6 < _distance(out, network(*inputs)) < 3e-2


@pytest.mark.parametrize(
    ("shape", "lr_shape"),
    [
        ((1, 47, 4, 4), (1, 48, 4, 4)),
        ((1, 48, 5, 4), (1, 48, 5, 4)),
        ((1, 48, 4, 3), (1, 48, 4, 3)),
        ((48, 4, 4), (1, 48, 4, 4)),
        ((1, 48, 4, 4), (1, 3, 4, 4)),
        ((1, 48, 4, 4), (1, 48, 4, 6)),
        ((2, 48, 4, 4), (1, 48, 4, 4)),
    ],
)
def test_lineardit_refuses_wrong_shapes_and_names_them(
    tiny_model: Callable, shape: tuple[int, ...], lr_shape: tuple[int, ...]
) -> None:
    network = LinearDiT(tiny_model())
    tags, mask = pad_tag_ids([[]])
    cond = Conditioning(lr=torch.zeros(lr_shape), tags=tags, tag_mask=mask, log2_scale=torch.zeros(1))
    with pytest.raises(ShapeError, match="expected"):
        network(torch.zeros(shape), torch.ones(1), cond)


def test_lineardit_needs_a_scale_for_its_scale_embedding(tiny_model: Callable) -> None:
    config = tiny_model()
    x_t, t, cond = _inputs(config)
    with pytest.raises(ShapeError, match="log2_scale"):
        LinearDiT(config)(x_t, t, dataclasses.replace(cond, log2_scale=None))


def _write_golden(stem: str, make: Callable, build: Callable) -> None:
    network = build(_golden_config(stem, make))
    x_t, t, cond = _inputs(network.config)
    tensors = {f"w.{name}": value for name, value in network.state_dict().items()}
    tensors |= {"x_t": x_t, "t": t, "out": network(x_t, t, cond).contiguous()}
    tensors |= {name: getattr(cond, name) for name in ("lr", "tags", "tag_mask", "log2_scale")}
    GOLDEN.mkdir(exist_ok=True)
    save_file(tensors, GOLDEN / f"lineardit-{stem}.safetensors")


if __name__ == "__main__":
    import runpy

    fixtures = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))
    for name in STEMS:
        _write_golden(name, *(fixtures[key].__wrapped__() for key in ("tiny_model", "tiny_network")))
