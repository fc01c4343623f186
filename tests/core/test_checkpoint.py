"""Checkpoint folders: what is saved comes back bit for bit, and anything that does not fit is named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from linearsr.checkpoint import CONFIG_NAME, load_network, read_config, save_checkpoint, verify_file
from linearsr.config import ExpertsConfig, FileEntry, to_dict
from linearsr.errors import WeightsError
from linearsr.model.conditioning import Conditioning, pad_tag_ids

EXPERT = "expert-0.safetensors"


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / CONFIG_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _restate(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the tensors and make size and hash agree with them."""
    config = read_config(folder)
    save_file(tensors, folder / EXPERT)
    data = (folder / EXPERT).read_bytes()
    entry = FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / CONFIG_NAME).write_text(json.dumps(to_dict(replace(config, files={EXPERT: entry}))))


def _load(folder: Path) -> Any:
    return load_network(folder, read_config(folder), 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_checkpoint_keeps_config_and_bits(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable, dtype: torch.dtype
) -> None:
    config = tiny_config(training={"step": 7})
    network = tiny_network(config.model)
    written = save_checkpoint(tmp_path / "new" / "model", config, [network.state_dict()], dtype=dtype)
    assert read_config(tmp_path / "new" / "model") == written
    assert replace(written, files={}) == config
    loaded = load_network(tmp_path / "new" / "model", written, 0)
    for name, value in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).float()), name
    assert sorted(path.name for path in (tmp_path / "new" / "model").iterdir()) == [CONFIG_NAME, EXPERT]


def test_loaded_network_computes_what_the_saved_one_did(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable
) -> None:
    config = tiny_config()
    network = tiny_network(config.model)
    save_checkpoint(tmp_path, config, [network.state_dict()], dtype=torch.float32)
    tags, mask = pad_tag_ids([[2]])
    cond = Conditioning(lr=torch.randn(1, 48, 4, 4), tags=tags, tag_mask=mask, log2_scale=torch.ones(1))
    inputs = torch.randn(1, 48, 4, 4), torch.tensor([0.5]), cond
    out = _load(tmp_path)(*inputs)
    assert torch.allclose(out, network(*inputs), atol=1e-5)


def test_expert_file_carries_its_model_config(tiny_checkpoint: Path) -> None:
    with safe_open(tiny_checkpoint / EXPERT, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["linearsr_model"]) == to_dict(read_config(tiny_checkpoint).model)


def test_checkpoint_holds_an_expert_for_each_file(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable
) -> None:
    files = tuple(f"expert-{index}.safetensors" for index in range(2))
    config = tiny_config(experts=ExpertsConfig(boundaries_log_snr=(-3.9,), files=files))
    networks = [tiny_network(config.model, seed) for seed in (1, 2)]
    written = save_checkpoint(tmp_path, config, [network.state_dict() for network in networks], dtype=torch.float32)
    for index, network in enumerate(networks):
        loaded = load_network(tmp_path, written, index)
        assert torch.equal(loaded.proj_out.weight, network.proj_out.weight)


def test_saving_again_replaces_files_and_leaves_no_leftovers(
    tiny_checkpoint: Path, tiny_config: Callable, tiny_network: Callable
) -> None:
    config = tiny_config()
    other = tiny_network(config.model, seed=9)
    save_checkpoint(tiny_checkpoint, config, [other.state_dict()])
    assert torch.equal(_load(tiny_checkpoint).proj_out.weight, other.proj_out.weight.half().float())
    assert len(list(tiny_checkpoint.iterdir())) == 2


# ---- what does not fit


def test_every_missing_extra_and_misshapen_tensor_is_listed(tiny_checkpoint: Path) -> None:
    tensors = load_file(tiny_checkpoint / EXPERT)
    del tensors["proj_out.bias"]
    tensors["surplus.weight"] = torch.zeros(2)
    tensors["conv_in.weight"] = torch.zeros(4, 3)
    _restate(tiny_checkpoint, tensors)
    with pytest.raises(WeightsError) as caught:
        _load(tiny_checkpoint)
    message = str(caught.value)
    assert "missing proj_out.bias" in message
    assert "extra surplus.weight" in message
    assert "conv_in.weight is (4, 3), expected (8, 96, 3, 3)" in message


def test_a_long_list_of_tensors_is_cut_with_its_count(tiny_checkpoint: Path) -> None:
    tensors = load_file(tiny_checkpoint / EXPERT)
    kept = {name: value for name, value in tensors.items() if not name.startswith("transformer_blocks")}
    _restate(tiny_checkpoint, kept)
    with pytest.raises(WeightsError, match=rf"and {len(tensors) - len(kept) - 4} more"):
        _load(tiny_checkpoint)


def test_a_flipped_byte_is_found_by_the_hash(tiny_checkpoint: Path) -> None:
    data = bytearray((tiny_checkpoint / EXPERT).read_bytes())
    data[-1] ^= 1
    (tiny_checkpoint / EXPERT).write_bytes(data)
    with pytest.raises(WeightsError, match="has sha256 .* expected"):
        _load(tiny_checkpoint)


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_file_is_found_by_its_size(tiny_checkpoint: Path, keep: int) -> None:
    data = (tiny_checkpoint / EXPERT).read_bytes()
    (tiny_checkpoint / EXPERT).write_bytes(data[:keep])
    with pytest.raises(WeightsError, match=rf"has {len(data[:keep])} bytes, expected {len(data)}"):
        _load(tiny_checkpoint)


def test_a_missing_file_is_named(tiny_checkpoint: Path) -> None:
    (tiny_checkpoint / EXPERT).unlink()
    with pytest.raises(WeightsError, match=f"weights file '{EXPERT}' is missing"):
        _load(tiny_checkpoint)


def test_a_file_without_size_and_hash_is_not_read(tiny_checkpoint: Path) -> None:
    _edit(tiny_checkpoint, lambda data: data["files"].clear())
    with pytest.raises(WeightsError, match="lists no size and hash"):
        _load(tiny_checkpoint)


def test_a_pickle_under_the_name_of_weights_is_refused_unread(tiny_checkpoint: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the pickle was run",))

    data = pickle.dumps(Trap())
    (tiny_checkpoint / EXPERT).write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _edit(tiny_checkpoint, lambda config: config["files"].update({EXPERT: entry}))
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        _load(tiny_checkpoint)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl"])
def test_a_pickle_offered_as_a_model_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04")
    with pytest.raises(WeightsError, match="a pickle, which can run code when loaded"):
        read_config(path)


@pytest.mark.parametrize("name", ["../expert-0.safetensors", "/etc/passwd", "sub/expert.safetensors", ".."])
def test_file_names_that_leave_the_folder_are_refused(tiny_checkpoint: Path, name: str) -> None:
    (tiny_checkpoint.parent / EXPERT).write_bytes(b"outside")
    entry = {"bytes": 7, "sha256": "0"}
    _edit(
        tiny_checkpoint,
        lambda data: data.update(files={name: entry}, experts={"boundaries_log_snr": [], "files": [name]}),
    )
    with pytest.raises(WeightsError, match="plain name inside the folder|is missing"):
        _load(tiny_checkpoint)
    with pytest.raises(WeightsError, match="plain name inside the folder|is missing"):
        verify_file(tiny_checkpoint, name, FileEntry(bytes=7, sha256="0"))


# ---- config.json


def test_a_newer_schema_asks_for_an_update_even_with_unknown_settings(tiny_checkpoint: Path) -> None:
    _edit(tiny_checkpoint, lambda data: data.update(schema_version=2, router={"kind": "learned"}))
    with pytest.raises(WeightsError, match="schema_version is 2, expected at most 1") as caught:
        read_config(tiny_checkpoint)
    assert "pip install -U linearsr" in str(caught.value.hint)


def test_an_unknown_setting_is_an_error_with_the_closest_name(tiny_checkpoint: Path) -> None:
    _edit(tiny_checkpoint, lambda data: data["model"].update(widht=3))
    with pytest.raises(WeightsError, match="unknown setting 'model.widht'") as caught:
        read_config(tiny_checkpoint)
    assert caught.value.hint == "did you mean 'model.width'?"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_config_that_is_no_table_is_a_weights_error(tiny_checkpoint: Path, text: str) -> None:
    (tiny_checkpoint / CONFIG_NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=CONFIG_NAME):
        read_config(tiny_checkpoint)


def test_a_folder_without_config_or_no_folder_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(WeightsError, match=f"has no {CONFIG_NAME}") as caught:
            read_config(folder)
        assert "--model compact" in str(caught.value.hint)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(WeightsError, match="is a file, expected a folder"):
        read_config(tmp_path / "weights.safetensors")
