"""Transformer blocks kept on the host, one at a time on the device: a network larger than the device's memory.

The time of a copy hides behind the computation where the device copies beside it (CUDA, pinned host memory); else the
two take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from linearsr.errors import ConfigError
from linearsr.model.transformer import LinearDiT

__all__ = ["SequentialOffload"]

Move = Callable[[Tensor, torch.device], Tensor]
"""Copies a tensor to a device; by default without waiting for it."""


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, non_blocking=True)


class SequentialOffload:
    """Runs a network with at most two of its transformer blocks on the device: the current one and the next.

    The rest of the network, a tenth of it, is moved to the device for good. Results equal those of the whole network
    there. For inference: weights must not change, and a block's own copy stays on the host, so nothing is copied back.

    Args:
        network: with weights loaded, fused and cast before, not packed. The hooks in it keep this object alive.
        device: to compute on.
        prefetch: copy the next block while one computes; off, one block less is on the device.
        move: copies one tensor to the device; for tests.

    Raises:
        ConfigError: the network is packed.
    """

    def __init__(
        self, network: LinearDiT, device: torch.device | str, *, prefetch: bool = True, move: Move = _copy
    ) -> None:
        self.device = torch.device(device)
        self._blocks = list(network.transformer_blocks)
        if network.is_packed:
            raise ConfigError("a packed network cannot be offloaded, expected plain weights", hint="do not pack it")
        self._move, self._prefetch = move, prefetch
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._host = [self._take_to_host(block) for block in self._blocks]
        self._ready: dict[int, Any] = {}
        self._handles: list[RemovableHandle] = []
        for tensor in _beside_blocks(network):
            tensor.data = move(tensor.data, self.device)
        for index, block in enumerate(self._blocks):
            self._handles.append(block.register_forward_pre_hook(self._before(index)))
            self._handles.append(block.register_forward_hook(self._after(index), always_call=True))

    @property
    def resident(self) -> tuple[int, ...]:
        """Blocks whose weights are on the device now, rising."""
        return tuple(sorted(self._ready))

    def _take_to_host(self, block: nn.Module) -> list[Tensor]:
        """The block's tensors on the host, pinned for CUDA; its parameters refer to them until it runs."""
        tensors = []
        for tensor in _tensors(block):
            host = tensor.detach().to("cpu")
            tensors.append(host.pin_memory() if self._stream is not None else host)
            tensor.data = tensors[-1]
        return tensors

    def _fetch(self, index: int) -> None:
        """Start copying a block to the device, unless it is there."""
        if index in self._ready:
            return
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            copies = [self._move(host, self.device) for host in self._host[index]]
            event = self._stream.record_event() if self._stream is not None else None
        self._ready[index] = (copies, event)

    def _before(self, index: int) -> Callable[[nn.Module, Any], None]:
        def hook(block: nn.Module, _: object) -> None:
            self._fetch(index)
            copies, event = self._ready[index]
            if event is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_event(event)
                for copy in copies:
                    copy.record_stream(current)  # else its memory could be handed out before the block has run
            for tensor, copy in zip(_tensors(block), copies, strict=True):
                tensor.data = copy
            if self._prefetch and len(self._blocks) > 1:
                self._fetch((index + 1) % len(self._blocks))  # after the last the first, for the next step

        return hook

    def _after(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(block: nn.Module, _: object, __: object) -> None:
            self._ready.pop(index, None)
            self._put_back(index)

        return hook

    def _put_back(self, index: int) -> None:
        for tensor, host in zip(_tensors(self._blocks[index]), self._host[index], strict=True):
            tensor.data = host

    def remove(self) -> None:
        """Leave the whole network on the host, without hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._ready.clear()
        for index in range(len(self._blocks)):
            self._put_back(index)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _beside_blocks(network: LinearDiT) -> list[Tensor]:
    """Every tensor of the network that belongs to no transformer block."""
    inside = {id(tensor) for tensor in _tensors(network.transformer_blocks)}
    return [tensor for tensor in _tensors(network) if id(tensor) not in inside]
