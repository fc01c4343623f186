"""Choice of device and precision, and what is refused."""

from __future__ import annotations

import os

import pytest
import torch

from linearsr import device as device_module
from linearsr.device import autocast_dtype, describe_devices, free_memory, resolve_device, tile_memory
from linearsr.errors import ConfigError, DeviceError

CPU = torch.device("cpu")


def test_resolve_device_takes_the_cpu_by_name_and_something_there_by_default() -> None:
    assert resolve_device("cpu") == CPU
    assert torch.zeros(1, device=resolve_device("auto")).sum() == 0


@pytest.mark.parametrize("name", ["gpu", "tpu", "", "meta", "xpu", "cuda:x"])
def test_resolve_device_refuses_unknown_kinds(name: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["cuda:99", "cpu:1"])
def test_resolve_device_says_what_the_machine_has_when_it_is_not_there(name: str) -> None:
    with pytest.raises(DeviceError, match=r"is not available; this machine has cpu \(\d+ threads\)") as caught:
        resolve_device(name)
    assert "--device auto" in str(caught.value.hint)


@pytest.mark.parametrize("fast", [True, False])
def test_autocast_dtype_auto_takes_bf16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    monkeypatch.setattr(device_module, "cpu_has_fast_bf16", lambda: fast)
    assert autocast_dtype("auto", CPU) == (torch.bfloat16 if fast else None)


def test_autocast_dtype_by_name() -> None:
    assert autocast_dtype("fp32", CPU) is None
    assert autocast_dtype("bf16", CPU) == torch.bfloat16
    assert autocast_dtype("fp16", torch.device("cuda")) == torch.float16


def test_autocast_dtype_refuses_fp16_on_the_cpu_and_unknown_names() -> None:
    with pytest.raises(DeviceError, match="fp16 is not supported on the CPU"):
        autocast_dtype("fp16", CPU)
    with pytest.raises(ConfigError, match="dtype is 'half', expected auto, fp32, bf16, fp16"):
        autocast_dtype("half", CPU)


def test_describe_devices_begins_with_the_cpu() -> None:
    assert describe_devices()[0] == f"cpu ({torch.get_num_threads()} threads)"


def test_tile_memory_is_above_what_was_measured_and_below_twice_that() -> None:
    from linearsr.checkpoint import read_config
    from linearsr.hub import find_model

    config = read_config(find_model("compact").fetch("config.json").parent)
    measured_mb = {512: {torch.bfloat16: 59, None: 58}, 1024: {torch.bfloat16: 226, None: 239}, 2048: {None: 720}}
    for side, by_dtype in measured_mb.items():
        for dtype, megabytes in by_dtype.items():
            assert 1.0 < tile_memory(config, side, side, dtype) / (megabytes * 1e6) < 2.0


def test_free_memory_of_the_cpu_is_below_what_the_machine_has() -> None:
    free = free_memory(torch.device("cpu"))
    if free is None:
        pytest.skip("this system does not tell its free memory")
    assert 2**20 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
