"""Several processes as one: device and precision, DDP and FSDP, and the few numbers that ranks tell one another.

Every rank holds the same model and draws the times and noise of the whole batch from the same generator; `rank_slice`
says which rows are its own. The loss is a mean over equal slices, so that the mean of the gradients over the ranks is
the gradient of one process with the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linearsr.device import autocast_dtype, resolve_device
from linearsr.errors import ConfigError, DeviceError, TrainingError
from linearsr.model.layers import TransformerBlock
from linearsr_train.shards import (
    copy_full_,
    full_model_state,
    full_optimizer_state,
    full_tensors,
    is_sharded,
    load_full_state,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "any_rank",
    "build_accelerator",
    "clip_gradients",
    "copy_full_",
    "full_model_state",
    "full_optimizer_state",
    "full_tensors",
    "load_full_state",
    "mean_over_ranks",
    "prepare",
    "rank_slice",
    "unwrap",
]

Precision = Literal["no", "bf16", "fp16", "auto"]
Strategy = Literal["auto", "ddp", "fsdp"]
PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16", "auto": "auto"}
"""Our names of precisions, and those of `linearsr.device`."""
USE_FSDP = "ACCELERATE_USE_FSDP"


def _wants_fsdp(strategy: Strategy) -> bool:
    return strategy == "fsdp" or (strategy == "auto" and os.environ.get(USE_FSDP, "false").lower() == "true")


@contextmanager
def _fsdp_variable(value: bool) -> Iterator[None]:
    """Set what accelerate reads, and put it back: accelerate leaves it set, so the next run would shard too."""
    before = os.environ.pop(USE_FSDP, None)
    if value:
        os.environ[USE_FSDP] = "true"
    try:
        yield
    finally:
        os.environ.pop(USE_FSDP, None)
        if before is not None:
            os.environ[USE_FSDP] = before


def _check_device(device: torch.device) -> None:
    """Refuse devices that accelerate would quietly replace or share between ranks."""
    if "LOCAL_RANK" not in os.environ:
        return
    if device.index is not None:
        raise ConfigError(f"device is '{device}', expected 'cuda' where each process has its own", hint="leave it out")
    ranks, count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device.type == "cuda" and ranks > count:
        raise DeviceError(f"{ranks} processes on a machine with {count} GPUs", hint=f"use `--nproc-per-node {count}`")


def _mixed_precision(name: Precision, device: torch.device, fsdp: bool) -> str:
    if name not in PRECISIONS:
        raise ConfigError(f"mixed_precision is {name!r}, expected {', '.join(PRECISIONS)}")
    if name == "fp16" and fsdp:
        raise ConfigError("mixed_precision is 'fp16' with strategy 'fsdp', expected 'bf16' or 'no'")
    # Also refuses float16 on a CPU, which accelerate would quietly run in float32.
    dtype = autocast_dtype(PRECISIONS[name], device)
    return {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def _fsdp_plugin() -> Any:  # noqa: ANN401 - a class that older versions lack
    try:
        from accelerate.utils import FullyShardedDataParallelPlugin
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # Without a policy accelerate makes one of bfloat16 weights and inputs: times would be rounded and no part of
        # the network could stay in float32. Autocast decides layer by layer, as it does without FSDP.
        return FullyShardedDataParallelPlugin(
            fsdp_version=2,
            reshard_after_forward=True,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=[TransformerBlock.__name__],
            mixed_precision_policy=MixedPrecisionPolicy(),
            cpu_ram_efficient_loading=False,
        )
    except (ImportError, TypeError) as error:
        raise ConfigError("strategy is 'fsdp', which needs torch 2.6 and accelerate 1.6 or later") from error


def build_accelerator(
    *,
    mixed_precision: Precision = "auto",
    accumulation: int = 1,
    strategy: Strategy = "auto",
    device: str = "auto",
    timeout_s: float = 7200.0,
) -> Accelerator:
    """Join the processes that a launcher started, or be a single one.

    Ends an earlier accelerator of this process: accelerate keeps one state for all of them and would go on with the
    old device and precision.

    Args:
        mixed_precision: `auto` is bf16 where the device multiplies it in hardware, else no.
        accumulation: micro-batches per optimizer step.
        strategy: `auto` is fsdp when `accelerate launch` says so, else ddp; with a single process both are neither.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; with several processes each takes the GPU of its local rank.
        timeout_s: how long a rank waits for the others; longer than anything that only one of them does.

    Raises:
        ConfigError: a setting is unknown or does not fit the others, or accelerate is missing or too old.
        DeviceError: the device or precision is not available.
        TrainingError: the processes did not find each other.
    """
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ConfigError(f"strategy is {strategy!r}, expected auto, ddp or fsdp")
    if accumulation < 1:
        raise ConfigError(f"accumulation is {accumulation}, expected at least 1")
    where, fsdp = resolve_device(device), _wants_fsdp(strategy)
    _check_device(where)
    precision = _mixed_precision(mixed_precision, where, fsdp)
    if where.index is not None:
        torch.cuda.set_device(where)  # accelerate takes the current GPU and no other
    accelerator = _accelerator(where.type, precision, accumulation, fsdp and where.type == "cuda", timeout_s)
    _check_joined(accelerator, where)
    return accelerator


def _accelerator(device_type: str, precision: str, accumulation: int, fsdp: bool, timeout_s: float) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
        from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
    except ImportError as error:
        raise ConfigError(
            "training needs accelerate", hint='install it with `pip install "linearsr[train]"`'
        ) from error
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with _fsdp_variable(fsdp):
        return Accelerator(
            mixed_precision=precision,
            # Without this, ranks on a machine without a GPU would each train alone: accelerate joins them only then.
            cpu=device_type == "cpu",
            fsdp_plugin=_fsdp_plugin() if fsdp else None,
            # As a plugin, for the plain number gives way to an environment variable.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation, sync_with_dataloader=False),
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s)),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )


def _check_joined(accelerator: Accelerator, device: torch.device) -> None:
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise TrainingError(
            f"{accelerator.num_processes} process joined on {device.type}, expected {expected} (WORLD_SIZE)",
            hint="launch with torchrun, on CUDA GPUs or with `device` cpu",
        )
    if accelerator.device.type != device.type:
        raise DeviceError(f"accelerate chose {accelerator.device.type}, expected {device.type}")


def prepare(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer_factory: Callable[[nn.Module], Optimizer],
    strategy: Strategy = "auto",
) -> tuple[nn.Module, Optimizer]:
    """Place a model on its device, wrap or shard it, and make its optimizer.

    Under FSDP every rank must bring the same weights: each keeps its share of its own. DDP sends those of rank 0.

    Args:
        accelerator: from `build_accelerator` with the same strategy.
        model: plain; changed in place. FSDP stores weights contiguously, so channels-last weights lose that layout.
        optimizer_factory: called once, with the model on its device.

    Returns:
        What to call and to step; `accelerator.backward` and `clip_gradients` go between.
    """
    model.to(accelerator.device)
    sharded = _wants_fsdp(strategy) and accelerator.num_processes > 1
    if not (sharded or _is_accelerate_fsdp(accelerator)):
        return cast("tuple[nn.Module, Optimizer]", accelerator.prepare(model, optimizer_factory(model)))
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if _is_accelerate_fsdp(accelerator):
        return cast("tuple[nn.Module, Optimizer]", accelerator.prepare(model, optimizer_factory(model)))
    _shard(model, accelerator.device.type)
    return model, cast(Optimizer, accelerator.prepare_optimizer(optimizer_factory(model)))


def _is_accelerate_fsdp(accelerator: Accelerator) -> bool:
    return str(accelerator.distributed_type.value) == "FSDP"


def _shard(model: nn.Module, device_type: str) -> None:
    """What accelerate does on GPUs; on CPUs it ignores the request for FSDP and uses DDP."""
    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError as error:
        raise ConfigError("strategy is 'fsdp', which needs torch 2.6 or later") from error
    mesh = torch.distributed.device_mesh.init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    for module in model.modules():
        if isinstance(module, TransformerBlock):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def unwrap(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The network inside DDP and `torch.compile`; its parameters have their plain names, and stay sharded with FSDP."""
    inner = accelerator.unwrap_model(model)
    return cast(nn.Module, getattr(inner, "_orig_mod", inner))


def rank_slice(accelerator: Accelerator, batch_size: int) -> slice:
    """Rows of a batch that are this rank's: contiguous, of equal number.

    Raises:
        ConfigError: the batch does not divide.
    """
    ranks = accelerator.num_processes
    if batch_size % ranks:
        raise ConfigError(f"batch size is {batch_size}, expected a multiple of the {ranks} processes")
    share = batch_size // ranks
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


def clip_gradients(accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, max_norm: float) -> float:
    """Scale the gradients to a global norm of at most `max_norm`; call it once they are summed over the micro-batches.

    Returns:
        Norm before, the same on every rank. With fp16 it may be infinite: the scaler then skips the step by itself.
    """
    accelerator.unscale_gradients(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    # With shards the norm is a sum of squares that no rank has yet.
    return float(norm.full_tensor() if is_sharded(norm) else norm)  # type: ignore[attr-defined]


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank gets the same answer."""
    if accelerator.num_processes == 1:
        return flag
    seen = torch.tensor(int(flag), device=accelerator.device)
    torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
    return bool(seen.item())


def mean_over_ranks(accelerator: Accelerator, value: Tensor | float) -> float:
    """Mean of one number over the ranks, the same on every rank."""
    if accelerator.num_processes == 1:
        return float(value)
    total = torch.tensor(float(value), dtype=torch.float64, device=accelerator.device)
    torch.distributed.all_reduce(total)
    return float(total) / accelerator.num_processes
