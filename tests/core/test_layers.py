"""Layers against plain formulas; folded and per-sample modulation, and memory layouts, give the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linearsr.model.layers import (
    GLUMBConv,
    ModulatedResBlock,
    TimestepEmbedding,
    TransformerBlock,
    image_from_tokens,
    modulated_norm,
    sinusoidal_embedding,
    tokens_from_image,
)


def _noisy(module: nn.Module, std: float = 0.3) -> nn.Module:
    """The module with noise on every tensor."""
    for value in module.state_dict().values():
        value += torch.randn(value.shape) * std
    return module.requires_grad_(False)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def test_tokens_are_the_pixels_row_by_row() -> None:
    image = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    tokens = tokens_from_image(image)
    assert torch.equal(tokens[1, 2 * 5 + 3], image[1, :, 2, 3])
    assert torch.equal(image_from_tokens(tokens, 4, 5), image)


def test_tokens_and_images_share_memory_when_channels_last() -> None:
    image = _channels_last(torch.randn(2, 3, 4, 5))
    tokens = tokens_from_image(image)
    assert tokens.data_ptr() == image.data_ptr()
    back = image_from_tokens(tokens, 4, 5)
    assert back.data_ptr() == image.data_ptr()
    assert back.is_contiguous(memory_format=torch.channels_last)


def test_sinusoidal_embedding_has_cosines_then_sines_at_falling_frequencies() -> None:
    out = sinusoidal_embedding(torch.tensor([0.0, 1000.0, 3.5]))
    assert out.shape == (3, 256)
    assert torch.equal(out[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert float(out[1, 64]) == pytest.approx(math.cos(1000 * 1e-2), abs=1e-4)
    assert float(out[2, 0]) == pytest.approx(math.cos(3.5), abs=1e-6)
    assert float(out[2, 128 + 127]) == pytest.approx(math.sin(3.5 * 1e4 ** (-127 / 128)), abs=1e-7)


def test_timestep_embedding_is_a_silu_mlp() -> None:
    module = _noisy(TimestepEmbedding(4, 6))
    x = torch.randn(2, 6)
    hidden = x @ module.linear_1.weight.T + module.linear_1.bias
    expected = (hidden * hidden.sigmoid()) @ module.linear_2.weight.T + module.linear_2.bias
    assert torch.allclose(module(x), expected, atol=1e-5)


def test_modulated_norm_equals_its_formula() -> None:
    x, shift, scale = torch.randn(2, 7, 16) * 3 + 1, torch.randn(2, 16), torch.randn(2, 16)
    wide = x.double()
    normed = (wide - wide.mean(-1, keepdim=True)) / (wide.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    expected = normed * (1 + scale[:, None].double()) + shift[:, None].double()
    assert torch.allclose(modulated_norm(x, shift, scale, 1e-6).double(), expected, atol=1e-5)


def test_modulated_norm_folded_equals_per_sample() -> None:
    x, shift, scale = torch.randn(3, 7, 16), torch.randn(1, 16), torch.randn(1, 16)
    rows = modulated_norm(x, shift.expand(3, 16), scale.expand(3, 16), 1e-6)
    assert torch.allclose(modulated_norm(x, shift, scale, 1e-6), rows, atol=1e-6)


def test_modulated_norm_is_float32_for_bfloat16_tokens() -> None:
    x = torch.randn(1, 7, 16).bfloat16()
    out = modulated_norm(x, torch.zeros(1, 16), torch.zeros(1, 16), 1e-6)
    assert out.dtype == torch.float32
    assert torch.allclose(out, F.layer_norm(x.float(), (16,)), atol=1e-5)


def _glumb_by_formula(module: GLUMBConv, x: Tensor) -> Tensor:
    w = {name: value.double() for name, value in module.state_dict().items()}
    h = F.conv2d(x.double(), w["conv_inverted.weight"], w["conv_inverted.bias"])
    h = h * h.sigmoid()
    h = F.conv2d(h, w["conv_depth.weight"], w["conv_depth.bias"], padding=1, groups=h.shape[1])
    value, gate = h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]
    return F.conv2d(value * gate * gate.sigmoid(), w["conv_point.weight"])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_glumbconv_equals_its_formula_in_both_layouts(layout: torch.memory_format) -> None:
    module, x = _noisy(GLUMBConv(6, 2.5)), torch.randn(2, 6, 5, 7)
    assert module.conv_inverted.weight.shape == (30, 6, 1, 1)
    expected = _glumb_by_formula(module, x)
    out = module.to(memory_format=layout)(x.contiguous(memory_format=layout))
    assert (out.double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_glumbconv_reads_one_pixel_around() -> None:
    module, x = _noisy(GLUMBConv(6, 2.0)), torch.randn(1, 6, 9, 9)
    poked = x.clone()
    poked[:, :, 4, 4] += 1
    changed = (module(poked) - module(x)).abs().amax(dim=(0, 1)) > 1e-7
    inside = torch.zeros(9, 9, dtype=torch.bool)
    inside[3:6, 3:6] = True
    assert torch.equal(changed, inside)


def _block(qk_norm: bool = True) -> TransformerBlock:
    return _noisy(TransformerBlock(16, 8, 8, 2.0, qk_norm=qk_norm, norm_eps=1e-6, eps=1e-15), 0.1)


def test_transformer_block_folded_equals_per_sample() -> None:
    block, x, modulation = _block(), torch.randn(2, 20, 16), torch.randn(1, 6, 16)
    tags, mask = torch.randn(2, 3, 16), torch.tensor([[True, False, True], [True, True, False]])
    rows = block(x, modulation.expand(2, 6, 16), tags, mask, (4, 5))
    assert torch.allclose(block(x, modulation, tags, mask, (4, 5)), rows, atol=2e-6)


def test_transformer_block_with_closed_gates_is_the_ungated_cross_attention() -> None:
    block, x = _block(), torch.randn(2, 20, 16)
    modulation = torch.randn(1, 6, 16)
    modulation[:, 2] = -block.scale_shift_table[2]
    modulation[:, 5] = -block.scale_shift_table[5]
    tags, mask = torch.randn(2, 3, 16), torch.ones(2, 3, dtype=torch.bool)
    expected = x + block.attn2(x, tags, mask)
    assert torch.allclose(block(x, modulation, tags, mask, (4, 5)), expected, atol=1e-6)


def test_transformer_block_reads_rows_and_columns_in_the_given_order() -> None:
    block, x, modulation = _block(), torch.randn(1, 20, 16), torch.randn(1, 6, 16)
    tags, mask = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool)
    assert (block(x, modulation, tags, mask, (4, 5)) - block(x, modulation, tags, mask, (5, 4))).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [1, 2])
def test_modulated_res_block_equals_its_formula(rows: int) -> None:
    block, x, modulation = _noisy(ModulatedResBlock(5)), torch.randn(2, 5, 6, 7), torch.randn(rows, 3, 5)
    w = {name: value.double() for name, value in block.state_dict().items()}
    scale, shift, gate = (w["scale_shift_table"] + modulation.double())[..., None, None].unbind(1)
    h = F.conv2d(x.double(), w["conv1.weight"], w["conv1.bias"], padding=1) * (1 + scale) + shift
    h = F.conv2d(h * h.sigmoid(), w["conv2.weight"], w["conv2.bias"], padding=1)
    expected = x.double() + (1 + gate) * h
    assert (block(x, modulation).double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_modulated_res_block_is_the_same_when_channels_last() -> None:
    block, x, modulation = _noisy(ModulatedResBlock(5)), torch.randn(2, 5, 6, 7), torch.randn(1, 3, 5)
    expected = block(x, modulation)
    assert torch.allclose(
        block.to(memory_format=torch.channels_last)(_channels_last(x), modulation), expected, atol=1e-5
    )


def test_modulated_res_block_folded_has_the_gradients_of_the_per_sample_path() -> None:
    block, x = ModulatedResBlock(5), torch.randn(2, 5, 6, 7)
    gradients = []
    for rows in (1, 2):
        modulation = torch.linspace(-1, 1, 15).view(1, 3, 5).repeat(rows, 1, 1).requires_grad_(True)
        block.zero_grad()
        block(x, modulation).square().sum().backward()
        assert modulation.grad is not None
        gradients.append(torch.cat([modulation.grad.sum(0).flatten(), block.conv1.weight.grad.flatten()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-4)
