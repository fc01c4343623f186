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

from linearsr.checkpoint import CONFIG_NAME, checked_file, load_network, read_config, save_checkpoint, verify_file
from linearsr.config import ExpertsConfig, FileEntry, ModelConfig, from_dict, to_dict
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.lora import LoraInfo, add_lora, load_lora, lora_state_dict, merged_state_dict, save_lora

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
    assert from_dict(ModelConfig, json.loads(metadata["linearsr_model"])) == read_config(tiny_checkpoint).model


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


# ---- LoRAs, taggers and shared files


@pytest.fixture
def lora_checkpoint(tmp_path: Path, tiny_config: Callable, tiny_network: Callable) -> tuple[Path, list[Any]]:
    """A folder of two experts that are one base file and a LoRA each, and the networks they stand for."""
    names = ("lora-0.safetensors", "lora-1.safetensors")
    experts = ExpertsConfig(boundaries_log_snr=(-3.9,), files=("base.safetensors",) * 2, loras=names)
    config = tiny_config(experts=experts)
    base = tiny_network(config.model)
    networks, extra = [], {}
    for index, name in enumerate(names):
        network = tiny_network(config.model)
        torch.manual_seed(index)
        add_lora(network, 2, 4.0)
        for key, value in lora_state_dict(network).items():
            value += 0.1 * torch.randn(value.shape) if key.endswith("lora_up") else 0.0
        info = LoraInfo(
            rank=2, alpha=4.0, experts=(index,), boundaries_log_snr=experts.boundaries_log_snr, model=config.model
        )
        save_lora(tmp_path / name, {index: lora_state_dict(network)}, info)
        networks.append(network)
        extra[name] = tmp_path / name
    folder = tmp_path / "model"
    save_checkpoint(folder, config, [base.state_dict()] * 2, dtype=torch.float32, extra=extra)
    return folder, networks


def test_one_base_file_and_loras_stand_for_two_experts(lora_checkpoint: tuple[Path, list[Any]]) -> None:
    folder, networks = lora_checkpoint
    names = ["base.safetensors", CONFIG_NAME, "lora-0.safetensors", "lora-1.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    config = read_config(folder)
    assert sorted(config.files) == [name for name in names if name != CONFIG_NAME]
    for name, entry in config.files.items():
        verify_file(folder, name, entry)
    for index, network in enumerate(networks):
        loaded, expected = load_network(folder, config, index).state_dict(), merged_state_dict(network)
        assert loaded.keys() == expected.keys()
        assert all(torch.allclose(loaded[key], expected[key], atol=1e-6) for key in expected)
    assert not torch.allclose(networks[0].proj_out.weight, networks[1].proj_out.weight, atol=1e-3)


def test_a_damaged_lora_of_a_checkpoint_is_found_by_the_hash(lora_checkpoint: tuple[Path, list[Any]]) -> None:
    folder, _ = lora_checkpoint
    data = bytearray((folder / "lora-1.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "lora-1.safetensors").write_bytes(data)
    config = read_config(folder)
    load_network(folder, config, 0)
    with pytest.raises(WeightsError, match="'lora-1.safetensors' has sha256"):
        load_network(folder, config, 1)


def test_a_lora_of_another_expert_is_refused(lora_checkpoint: tuple[Path, list[Any]]) -> None:
    folder, _ = lora_checkpoint
    _edit(folder, lambda data: data["experts"].update(loras=["lora-1.safetensors", "lora-1.safetensors"]))
    with pytest.raises(WeightsError, match=r"a LoRA of the experts \[1\], expected one of expert 0"):
        load_network(folder, read_config(folder), 0)


def test_further_loras_are_added_by_weight_where_they_have_the_expert(
    tiny_checkpoint: Path, lora_checkpoint: tuple[Path, list[Any]], tmp_path: Path
) -> None:
    info, additions = load_lora(tmp_path / "lora-1.safetensors")
    folder, _ = lora_checkpoint
    config = read_config(folder)
    plain, other = load_network(folder, config, 0), load_network(folder, config, 0, loras=[(info, additions, 1.0)])
    assert torch.equal(plain.proj_out.weight, other.proj_out.weight), "it holds expert 1 only"
    weights = {
        weight: load_network(folder, config, 1, loras=[(info, additions, weight)]).proj_out.weight
        for weight in (-1.0, 0.0, 0.5, 1.0)
    }
    base = load_network(tiny_checkpoint, read_config(tiny_checkpoint), 0).proj_out.weight
    assert torch.equal(weights[0.0], load_network(folder, config, 1).proj_out.weight)
    assert torch.allclose(weights[-1.0], base, atol=1e-3), "the checkpoint's own taken off again"
    assert torch.allclose(weights[0.5], (weights[0.0] + weights[1.0]) / 2, atol=1e-6)
    assert (weights[1.0] - weights[0.0]).abs().max() > 1e-2


def test_extra_files_are_copied_and_listed(tmp_path: Path, tiny_config: Callable, tiny_network: Callable) -> None:
    (tmp_path / "made.bin").write_bytes(b"anything")
    tags = replace(tiny_config().tags, tagger="tagger.safetensors")
    config = tiny_config(tags=tags)
    state = tiny_network(config.model).state_dict()
    extra = {"tagger.safetensors": tmp_path / "made.bin"}
    written = save_checkpoint(tmp_path / "model", config, [state], extra=extra)
    entry = FileEntry(bytes=8, sha256=hashlib.sha256(b"anything").hexdigest())
    assert read_config(tmp_path / "model").files["tagger.safetensors"] == written.files["tagger.safetensors"] == entry
    assert checked_file(tmp_path / "model", written, "tagger.safetensors").read_bytes() == b"anything"
    (tmp_path / "made.bin").write_bytes(b"another")
    save_checkpoint(tmp_path / "model", written, [state], extra=extra)
    assert read_config(tmp_path / "model").files["tagger.safetensors"].bytes == 7


@pytest.mark.parametrize("name", [EXPERT, CONFIG_NAME, "sub/tagger.safetensors"])
def test_extra_files_replace_no_others(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable, name: str
) -> None:
    config = tiny_config()
    (tmp_path / "made.bin").touch()
    with pytest.raises(ConfigError, match=f"extra file is named '{name}'"):
        state = tiny_network(config.model).state_dict()
        save_checkpoint(tmp_path / "model", config, [state], extra={name: tmp_path / "made.bin"})
    assert not (tmp_path / "model").exists()


def test_a_config_that_names_files_that_are_not_given_is_not_written(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable
) -> None:
    experts = ExpertsConfig(boundaries_log_snr=(), files=(EXPERT,), loras=("lora.safetensors",))
    config = tiny_config(experts=experts, tags=replace(tiny_config().tags, tagger="tagger.safetensors"))
    with pytest.raises(ConfigError, match="names lora.safetensors, tagger.safetensors, expected"):
        save_checkpoint(tmp_path / "model", config, [tiny_network(config.model).state_dict()])


def test_experts_of_one_file_must_be_equal(tmp_path: Path, tiny_config: Callable, tiny_network: Callable) -> None:
    config = tiny_config(experts=ExpertsConfig(boundaries_log_snr=(-3.9,), files=(EXPERT, EXPERT)))
    states = [tiny_network(config.model, seed).state_dict() for seed in (0, 1)]
    with pytest.raises(ConfigError, match=f"names '{EXPERT}' for experts of different weights"):
        save_checkpoint(tmp_path / "model", config, states)
    save_checkpoint(tmp_path / "model", config, [states[0], dict(states[0])])
    assert len(list((tmp_path / "model").iterdir())) == 2


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


@pytest.mark.parametrize("name", ["../expert-0.safetensors", "/etc/passwd", "sub/../expert.safetensors", ".."])
def test_file_names_that_leave_the_folder_are_refused(tiny_checkpoint: Path, name: str) -> None:
    (tiny_checkpoint.parent / EXPERT).write_bytes(b"outside")
    entry = {"bytes": 7, "sha256": "0"}
    _edit(
        tiny_checkpoint,
        lambda data: data.update(files={name: entry}, experts={"boundaries_log_snr": [], "files": [name]}),
    )
    with pytest.raises(WeightsError, match="leaves the model.s folder"):
        _load(tiny_checkpoint)
    with pytest.raises(WeightsError, match="leaves the model.s folder"):
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
