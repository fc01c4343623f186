"""Whole states to and from shards: what FSDP divides is saved as one plain state, for any number of processes.

Everything here also takes plain and DDP models, so that a training loop need not ask which it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linearsr.errors import TrainingError

__all__ = [
    "copy_full_",
    "full_model_state",
    "full_optimizer_state",
    "full_tensors",
    "is_sharded",
    "load_full_state",
]


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "").removeprefix("module.")


def is_sharded(value: object) -> bool:
    """Whether a tensor is a rank's part of a whole (a DTensor)."""
    return hasattr(value, "full_tensor")


def full_tensors(value: Any, *, rank0_only: bool = False) -> Any:  # noqa: ANN401 - any nest of dicts and lists
    """A copy with every tensor whole and on the CPU; shards are gathered, one after the other.

    All ranks must call it, with the same structure.

    Args:
        value: tensors in any nest of dicts, lists and tuples; other values are kept.
        rank0_only: other ranks take part but keep empty tensors, to save memory.
    """
    if isinstance(value, Tensor):
        whole = value.detach().full_tensor() if is_sharded(value) else value.detach()  # type: ignore[attr-defined]
        if rank0_only and torch.distributed.is_initialized() and torch.distributed.get_rank() != 0:
            return torch.empty(0)
        return whole.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: full_tensors(item, rank0_only=rank0_only) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(full_tensors(item, rank0_only=rank0_only) for item in value)
    return value


def full_model_state(model: nn.Module, *, rank0_only: bool = False) -> dict[str, Tensor]:
    """Weights of a plain, DDP, FSDP or compiled model under their plain names: full CPU copies on every rank.

    All ranks must call it. With `rank0_only` the others get empty tensors.
    """
    state = full_tensors(model.state_dict(), rank0_only=rank0_only)
    return {_plain_name(name): value for name, value in state.items()}


def full_optimizer_state(optimizer: Optimizer, *, rank0_only: bool = False) -> dict[str, Any]:
    """An optimizer's `state_dict` with full CPU copies; parameters are numbered as in the plain model.

    Nothing but tensors, numbers and strings, so that `weights_only` reads it. All ranks must call it.
    """
    return cast("dict[str, Any]", full_tensors(optimizer.state_dict(), rank0_only=rank0_only))


def _like(value: Tensor, target: Tensor) -> Tensor:
    """A full tensor as `target` is: its device, dtype, memory layout, and this rank's shard where it is sharded."""
    value = value.to(target.device, target.dtype)
    if not is_sharded(target):
        return torch.empty_like(target).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.contiguous(), target.device_mesh, target.placements)  # type: ignore[attr-defined]


@torch.no_grad()
def copy_full_(target: Tensor, value: Tensor) -> None:
    """Copy a full tensor into one that may be sharded, such as an EMA's. All ranks must call it."""
    target.detach().copy_(_like(value, target.detach()))


@torch.no_grad()
def load_full_state(
    model: nn.Module,
    optimizer: Optimizer | None,
    model_state: dict[str, Tensor],
    optimizer_state: dict[str, Any] | None,
) -> None:
    """Take up what `full_model_state` and `full_optimizer_state` gave, at any number of processes.

    Moments are laid out as their parameters: fused AdamW walks both in memory order, so a moment saved contiguously
    would be added to the wrong elements of a channels-last weight.

    Args:
        model, optimizer: from `prepare`, or plain.
        model_state, optimizer_state: whole, on every rank.

    Raises:
        TrainingError: missing or unexpected tensors, or other shapes.
    """
    targets = {_plain_name(name): (name, value) for name, value in model.state_dict().items()}
    if wrong := sorted(targets.keys() ^ model_state.keys()):
        raise TrainingError(f"weights do not fit the network: {', '.join(wrong[:5])} on one side only")
    for plain, (_, value) in targets.items():
        if model_state[plain].shape != value.shape:
            found, expected = tuple(model_state[plain].shape), tuple(value.shape)
            raise TrainingError(f"weights of {plain} are {found}, expected {expected}")
    model.load_state_dict({name: _like(model_state[plain], value) for plain, (name, value) in targets.items()})
    if optimizer is not None and optimizer_state is not None:
        _load_optimizer(optimizer, optimizer_state)


def _load_optimizer(optimizer: Optimizer, optimizer_state: dict[str, Any]) -> None:
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    found, expected = (
        [len(group["params"]) for group in groups]
        for groups in (optimizer_state["param_groups"], optimizer.param_groups)
    )
    if found != expected:
        raise TrainingError(f"optimizer state has groups of {found} parameters, expected {expected}")
    state = {
        index: {key: _moment(key, value, parameters[index]) for key, value in values.items()}
        for index, values in optimizer_state["state"].items()
    }
    optimizer.load_state_dict({**optimizer_state, "state": state})


def _moment(key: str, value: Any, parameter: Tensor) -> Any:  # noqa: ANN401 - as in an optimizer's state
    if not isinstance(value, Tensor):
        return value
    # The optimizer keeps what it is given and counts in place: uncopied, the caller's state would count along.
    return value.clone() if key == "step" else _like(value, parameter)
