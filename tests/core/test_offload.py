"""Sequential offload: the same results, with at most two blocks' weights away from the host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from linearsr.errors import ConfigError
from linearsr.model.conditioning import Conditioning
from linearsr.model.dense import can_pack
from linearsr.model.offload import SequentialOffload
from linearsr.model.transformer import LinearDiT

DEPTH = 4


class _Copier:
    """Copies as a device would, into memory of its own, and knows which copies are still alive."""

    def __init__(self) -> None:
        self.copies: list[Tensor] = []

    def __call__(self, tensor: Tensor, device: torch.device) -> Tensor:
        self.copies.append(tensor.clone())
        return self.copies[-1]


@pytest.fixture
def network(tiny_model: Callable, tiny_network: Callable) -> LinearDiT:
    return tiny_network(tiny_model("patch", depth=DEPTH, qk_norm=True))


def _inputs() -> tuple[Tensor, Tensor, Conditioning]:
    tags, mask = torch.tensor([[0, 3]]), torch.tensor([[True, True]])
    cond = Conditioning(lr=torch.randn(1, 48, 4, 6), tags=tags, tag_mask=mask)
    return torch.randn(1, 48, 4, 6), torch.tensor([0.4]), cond


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_sequential_offload_changes_no_result(network: LinearDiT, prefetch: bool, fused: bool) -> None:
    inputs = _inputs()
    if fused:
        network.fuse_qkv()
    with torch.no_grad():
        expected = network(*inputs)
        SequentialOffload(network, "cpu", prefetch=prefetch, move=_Copier())
        assert torch.equal(network(*inputs), expected)
        assert torch.equal(network(*inputs), expected), "a second step"


@pytest.mark.parametrize(("prefetch", "most"), [(True, 2), (False, 1)])
def test_sequential_offload_keeps_few_blocks_on_the_device(network: LinearDiT, prefetch: bool, most: int) -> None:
    offload = SequentialOffload(network, "cpu", prefetch=prefetch, move=_Copier())
    seen: list[tuple[int, tuple[int, ...]]] = []
    for index, block in enumerate(network.transformer_blocks):
        block.attn2.register_forward_hook(lambda *_, index=index: seen.append((index, offload.resident)))
    with torch.no_grad():
        network(*_inputs())
    assert [index for index, _ in seen] == list(range(DEPTH))
    assert all(index in resident for index, resident in seen)
    assert max(len(resident) for _, resident in seen) == most
    assert offload.resident == ((0,) if prefetch else ()), "the first block is ready for the next step"


def test_sequential_offload_copies_each_block_once_a_step_and_holds_no_copy(network: LinearDiT) -> None:
    copier = _Copier()
    blocks = sum(1 for _ in network.transformer_blocks.parameters())
    rest = sum(1 for _ in network.parameters()) - blocks
    offload = SequentialOffload(network, "cpu", move=copier)
    host = [tensor.data_ptr() for tensor in network.transformer_blocks.parameters()]
    assert len(copier.copies) == rest
    with torch.no_grad():
        network(*_inputs())
        network(*_inputs())
    assert len(copier.copies) == rest + 2 * blocks + blocks // DEPTH, "and the first block of a third step"
    assert [tensor.data_ptr() for tensor in network.transformer_blocks.parameters()] == host
    offload.remove()
    copies = len(copier.copies)
    with torch.no_grad():
        network(*_inputs())
    assert len(copier.copies) == copies


def test_sequential_offload_computes_with_the_copies(network: LinearDiT) -> None:
    inputs = _inputs()
    with torch.no_grad():
        expected = network(*inputs)
        SequentialOffload(network, "cpu", move=lambda tensor, _: tensor * 1.5)
        assert (network(*inputs) - expected).abs().max() > 1e-2


def test_sequential_offload_puts_a_block_back_when_it_fails(network: LinearDiT) -> None:
    offload = SequentialOffload(network, "cpu", prefetch=False, move=_Copier())
    x_t, t, cond = _inputs()
    hook = network.transformer_blocks[1].ff.register_forward_pre_hook(lambda *_: 1 / 0)
    with torch.no_grad():
        with pytest.raises(ZeroDivisionError):
            network(x_t, t, cond)
        hook.remove()
        assert offload.resident == ()
        assert torch.isfinite(network(x_t, t, cond)).all()


@pytest.mark.skipif(not can_pack(torch.device("cpu")), reason="this torch has no oneDNN")
def test_sequential_offload_refuses_a_packed_network(network: LinearDiT) -> None:
    with pytest.raises(ConfigError, match="packed network cannot be offloaded"):
        SequentialOffload(network.pack_(), "cpu")
