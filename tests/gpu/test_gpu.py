"""The same numbers on an accelerator as on the CPU. Skipped without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from linearsr import Upscaler
from linearsr.device import autocast_dtype, describe_devices, resolve_device
from linearsr.model.attention import linear_attention, quadratic_attention
from linearsr.model.conditioning import Conditioning, pad_tag_ids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, torch sees none"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """No TF32, which rounds float32 products to ten bits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.ascontiguousarray(astronaut()[90:143, 190:237]) / np.float32(255)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double().cpu() - b.double().cpu()).abs().max() / b.double().abs().max())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)])
def test_linear_attention_on_cuda_equals_the_quadratic_reference(dtype: torch.dtype, bound: float) -> None:
    qkv = [torch.randn(2, 2048, 4, 32) for _ in range(3)]
    out = linear_attention(*(x.to(CUDA, dtype) for x in qkv))
    assert out.dtype == torch.float32
    assert _distance(out, quadratic_attention(*(x.double() for x in qkv))) <= bound


def _inputs(network: torch.nn.Module, device: torch.device) -> tuple[Tensor, Tensor, Conditioning]:
    generator = torch.Generator().manual_seed(0)
    tags, mask = pad_tag_ids([[1, 4], []])
    cond = Conditioning(
        lr=torch.randn(2, 48, 16, 24, generator=generator).to(device),
        tags=tags.to(device),
        tag_mask=mask.to(device),
        log2_scale=torch.tensor([1.0, 2.0], device=device),
    )
    x_t = torch.randn(2, 48, 16, 24, generator=generator).to(device)
    return x_t, torch.tensor([0.9, 0.3], device=device), cond


def test_lineardit_on_cuda_equals_the_cpu(tiny_model: Callable, tiny_network: Callable) -> None:
    network = tiny_network(tiny_model(depth=2)).to(memory_format=torch.channels_last)
    expected = network(*_inputs(network, torch.device("cpu")))
    network.to(CUDA)
    assert _distance(network(*_inputs(network, CUDA)), expected) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lineardit_in_half_precision_on_cuda_is_close(
    tiny_model: Callable, tiny_network: Callable, dtype: torch.dtype
) -> None:
    network = tiny_network(tiny_model(depth=2)).to(CUDA, memory_format=torch.channels_last)
    inputs = _inputs(network, CUDA)
    expected = network(*inputs)
    with torch.autocast("cuda", dtype=dtype):
        out = network(*inputs)
    assert out.dtype == torch.float32
    assert 0 < _distance(out, expected) <= 3e-2


@pytest.mark.parametrize("steps", [1, 4])
def test_upscaler_on_cuda_equals_the_cpu(tiny_checkpoint: Path, photo: np.ndarray, steps: int) -> None:
    settings = {"scale": 3, "steps": steps, "seed": 3, "tile": 64, "tile_overlap": 16}
    cpu, cuda = (
        Upscaler.from_pretrained(tiny_checkpoint, device=device, dtype="fp32")(photo, **settings)
        for device in ("cpu", "cuda")
    )
    assert np.mean(np.abs(cpu - cuda) > 1 / 255) <= 1e-3
    assert np.abs(cpu - cuda).max() <= 2 / 255


def test_upscaler_in_bfloat16_on_cuda_is_close(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    full, half = (
        Upscaler.from_pretrained(tiny_checkpoint, device="cuda", dtype=dtype)(photo, scale=2, steps=1)
        for dtype in ("fp32", "bf16")
    )
    assert 0 < np.abs(full - half).max() < 0.02


def test_tile_batches_on_cuda_change_rounding_only(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    upscaler = Upscaler.from_pretrained(tiny_checkpoint, device="cuda", dtype="fp32")
    settings = {"scale": 3, "steps": 4, "tile": 64, "tile_overlap": 16}
    one, four = (upscaler(photo, batch_size=size, **settings) for size in (1, 4))
    assert np.abs(one - four).max() <= 1 / 255


def test_result_comes_back_to_the_device_of_a_tensor(tiny_checkpoint: Path) -> None:
    out = Upscaler.from_pretrained(tiny_checkpoint, device="cuda")(torch.rand(3, 9, 9, device=CUDA), scale=2, steps=1)
    assert out.device.type == "cuda"
    assert out.shape == (3, 18, 18)


def test_devices_are_found_and_described() -> None:
    assert resolve_device("auto") == CUDA
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    assert any(name.startswith("cuda:0 (") for name in describe_devices())
    assert autocast_dtype("fp16", CUDA) == torch.float16
