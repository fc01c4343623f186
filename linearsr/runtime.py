"""How a model computes: device, precision, what stays in memory; and its experts made ready for that."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from functools import partial

import torch

from linearsr.device import autocast_dtype, resolve_device
from linearsr.errors import ConfigError
from linearsr.hub import Model
from linearsr.model.experts import ExpertBank
from linearsr.model.transformer import LinearDiT

__all__ = ["OFFLOADS", "Offload", "Runtime", "make_bank", "resolve_runtime"]

Offload = typing.Literal["none", "expert", "sequential"]
OFFLOADS: tuple[Offload, ...] = typing.get_args(Offload)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Where and how to compute. Only tiles of the autoencoder change a result by more than rounding."""

    device: torch.device
    dtype: torch.dtype | None = None
    """Precision of the dense layers; None is float32."""
    offload: Offload = "none"
    """`none`: every expert used stays on the device. `expert`: one at most, the next one is read meanwhile.
    `sequential`: one transformer block at a time."""
    compile: bool = False
    """Compile networks with torch.compile; on CUDA with graphs."""
    vae_tile: str | int = "auto"
    """Tile of a learned autoencoder in pixels: `auto`, `off` or a side."""


def resolve_runtime(
    device: str = "auto",
    dtype: str = "auto",
    offload: str = "none",
    *,
    compile: bool = False,
    vae_tile: str | int = "auto",
) -> Runtime:
    """Turn settings as typed into a runtime.

    Raises:
        ConfigError: an unknown offload or autoencoder tile.
        DeviceError: device or precision is not available.
    """
    if offload not in OFFLOADS:
        raise ConfigError(f"offload is {offload!r}, expected {', '.join(OFFLOADS)}", hint="use `--offload none`")
    if offload == "sequential" and compile:
        raise ConfigError(
            "compile and offload sequential are both given, expected one of them",
            hint="compiled networks stay on the device; use `--offload expert`",
        )
    if isinstance(vae_tile, str) and vae_tile not in ("auto", "off"):
        raise ConfigError(f"vae-tile is {vae_tile!r}, expected auto, off or pixels", hint="use `--vae-tile auto`")
    target = resolve_device(device)
    return Runtime(
        device=target,
        dtype=autocast_dtype(dtype, target),
        offload=offload,
        compile=compile,
        vae_tile=vae_tile,
    )


def _load(model: Model, runtime: Runtime, index: int) -> LinearDiT:
    """One expert, on the host unless it is to stay on the device, with its projections fused and weights cast."""
    if model.config.model.stem == "conv":
        return model.load_expert(index, runtime.device if runtime.offload == "none" else torch.device("cpu"))
    network = model.load_expert(index, torch.device("cpu"), runtime.dtype)
    if runtime.device.type == "cpu" and runtime.offload != "sequential" and not runtime.compile:
        network.pack_()
    else:  # a packed network can neither be moved by blocks nor compiled
        network.fuse_qkv()
    return network


def _place(runtime: Runtime, network: LinearDiT) -> LinearDiT:
    """Put a network where it computes."""
    if runtime.offload == "sequential":
        from linearsr.model.offload import SequentialOffload

        SequentialOffload(network, runtime.device)
        return network
    network = network.to(runtime.device)
    if runtime.compile:
        network.compile(mode="reduce-overhead" if runtime.device.type == "cuda" else "default")
    return network


def make_bank(model: Model, runtime: Runtime) -> ExpertBank:
    """The experts of a model, loaded as the runtime says."""
    # Small networks are all kept: their tiles are sampled one by one, and each would load every expert anew.
    one = runtime.offload != "none" and model.config.model.stem == "patch"
    return ExpertBank(
        model.config.experts.boundaries_log_snr,
        partial(_load, model, runtime),
        keep=1 if one else 4,
        place=partial(_place, runtime),
        ahead=one and runtime.offload == "expert",
    )
