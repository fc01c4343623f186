"""LoRA: nothing at first, the same merged as put in, only its own parameters trained, and strict files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from linearsr.config import FlowConfig, ModelConfig, to_dict
from linearsr.denoiser import apply_network
from linearsr.errors import ConfigError, WeightsError
from linearsr.model.conditioning import Conditioning, pad_tag_ids
from linearsr.model.lora import (
    DEFAULT_TARGETS,
    LoraInfo,
    add_lora,
    base_state_dict,
    check_fit,
    load_lora,
    lora_state_dict,
    merge_lora,
    merged_state_dict,
    save_lora,
)
from linearsr.model.transformer import LinearDiT

FLOW = FlowConfig(prediction="x0", preconditioned=True)


def _inputs(model: ModelConfig, rows: int, batch: int = 2) -> tuple[Tensor, Tensor, Conditioning]:
    """State, time and condition: one row of time for the whole batch, or one for each element."""
    generator = torch.Generator().manual_seed(5)
    tags, mask = pad_tag_ids([[2], [5]])
    cond = Conditioning(
        lr=torch.randn(batch, model.cond_channels, 4, 4, generator=generator),
        tags=tags,
        tag_mask=mask,
        log2_scale=torch.full((rows,), 2.0),
    )
    t = torch.tensor([0.6]) if rows == 1 else torch.tensor([0.3, 0.8])
    return torch.randn(batch, model.in_channels, 4, 4, generator=generator), t, cond


def _run(network: nn.Module, rows: int = 1) -> Tensor:
    model = network.config
    flow = FLOW if model.state_gate else FlowConfig(prediction="v")
    return apply_network(network, flow, *_inputs(model, rows))


def _filled(network: nn.Module, seed: int = 1) -> nn.Module:
    """Give `up` values, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith("lora_up"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


def _plain(model: ModelConfig, weights: dict[str, Tensor]) -> LinearDiT:
    network = LinearDiT(model).eval()
    network.load_state_dict(weights, strict=True)
    return network


def _info(model: ModelConfig, **changes: object) -> LoraInfo:
    return LoraInfo(**{"rank": 2, "alpha": 3.0, "experts": (0,), "boundaries_log_snr": (), "model": model, **changes})


@pytest.fixture
def model(tiny_model: Callable) -> ModelConfig:
    return tiny_model()


@pytest.fixture
def trained(model: ModelConfig, tiny_network: Callable) -> LinearDiT:
    network = tiny_network(model)
    add_lora(network, 2, 3.0)
    return _filled(network)


# ---- in the network


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_new_lora_changes_no_bit(
    tiny_model: Callable, tiny_network: Callable, stem: str, rows: int, memory_format: torch.memory_format
) -> None:
    network = tiny_network(tiny_model(stem)).to(memory_format=memory_format)
    before = _run(network, rows)
    add_lora(network, 4, 4.0)
    assert torch.equal(_run(network, rows), before)


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("rows", [1, 2])
def test_merged_weights_compute_what_the_parametrized_network_does(
    tiny_model: Callable, tiny_network: Callable, stem: str, rows: int
) -> None:
    model = tiny_model(stem)
    network = tiny_network(model)
    plain = _run(network, rows)
    add_lora(network, 2, 3.0)
    _filled(network)
    out = _run(network, rows)
    assert (out - plain).abs().max() > 1e-2
    merged = merge_lora(base_state_dict(network), lora_state_dict(network), _info(model))
    for weights in (merged, merged_state_dict(network)):
        assert (_run(_plain(model, weights), rows) - out).abs().max() < 1e-6
    assert torch.equal(_run(_plain(model, base_state_dict(network)), rows), plain)


def test_every_layer_with_a_lora_is_felt(model: ModelConfig, tiny_network: Callable) -> None:
    """Also those whose forward reads the weight tensor past the module: each alone moves the result."""
    names = add_lora(tiny_network(model), 2, 3.0)
    assert {"stem_blocks.0.conv1", "head_blocks.0.conv2", "transformer_blocks.0.ff.conv_inverted"} <= set(names)
    for name in names:
        for rows in (1, 2):
            network = tiny_network(model)
            before = _run(network, rows)
            assert add_lora(network, 2, 3.0, (name,)) == [name]
            _filled(network)
            assert not torch.equal(_run(network, rows), before), (name, rows)


@pytest.mark.parametrize("rows", [1, 2])
def test_gradient_reaches_the_additions_alone(model: ModelConfig, trained: LinearDiT, rows: int) -> None:
    _run(trained, rows).square().mean().backward()
    for name, value in trained.named_parameters():
        if ".lora_" in name:
            assert value.grad is not None and value.grad.abs().max() > 0, name
        else:
            assert value.grad is None and not value.requires_grad, name


def test_training_moves_the_result_and_leaves_the_base(model: ModelConfig, tiny_network: Callable) -> None:
    network = tiny_network(model)
    base = {key: value.clone() for key, value in network.state_dict().items()}
    add_lora(network, 2, 3.0)
    target = _run(network).detach() + 0.1
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(20):
        loss = (_run(network) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, base[key]) for key, value in base_state_dict(network).items())


def test_state_dict_names_are_as_documented(model: ModelConfig, tiny_network: Callable) -> None:
    network = tiny_network(model)
    before = set(network.state_dict())
    names = add_lora(network, 2, 3.0)
    ours = "parametrizations.weight"
    expected = {f"{name}.{ours}.{end}" for name in names for end in ("original", "0.lora_down", "0.lora_up")}
    assert set(network.state_dict()) == before - {f"{name}.weight" for name in names} | expected
    assert set(base_state_dict(network)) == set(merged_state_dict(network)) == before
    assert set(lora_state_dict(network)) == {f"{name}.{end}" for name in names for end in ("lora_down", "lora_up")}
    assert {key: value.shape for key, value in lora_state_dict(network).items() if "conv1" in key} == {
        f"{stack}_blocks.0.conv1.{end}": shape
        for stack in ("stem", "head")
        for end, shape in (("lora_down", (2, 72)), ("lora_up", (8, 2)))
    }


def test_an_average_of_the_whole_state_splits_like_the_network(model: ModelConfig, trained: LinearDiT) -> None:
    shadow = {key: value.clone() for key, value in trained.state_dict().items()}
    assert all(torch.equal(value, lora_state_dict(trained)[key]) for key, value in lora_state_dict(shadow).items())
    merged = merge_lora(base_state_dict(shadow), lora_state_dict(shadow), _info(model))
    assert merged.keys() == merged_state_dict(trained).keys()
    assert all(torch.allclose(merged[key], value, atol=1e-6) for key, value in merged_state_dict(trained).items())


def test_a_copy_and_a_reloaded_network_compute_the_same(
    model: ModelConfig, trained: LinearDiT, tiny_network: Callable
) -> None:
    other = tiny_network(model, seed=9)
    add_lora(other, 2, 3.0)
    other.load_state_dict(trained.state_dict())
    for network in (copy.deepcopy(trained), other):
        assert torch.equal(_run(network), _run(trained))


def test_the_addition_stays_in_float32_under_autocast(trained: LinearDiT) -> None:
    layer = trained.get_submodule("transformer_blocks.0.attn1.to_q")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, merged_state_dict(trained)["transformer_blocks.0.attn1.to_q.weight"])


def test_default_targets_leave_embeddings_and_depthwise_convolutions_alone(
    tiny_model: Callable, tiny_network: Callable
) -> None:
    for stem in ("conv", "patch"):
        names = add_lora(tiny_network(tiny_model(stem)), 2, 2.0)
        assert not [name for name in names if "embed." in name and not name.startswith("patch_embed")]
        assert not [name for name in names if "conv_depth" in name or "caption" in name]
    assert "transformer_blocks.0.ff.conv_depth" not in add_lora(tiny_network(tiny_model()), 2, 2.0, ("*",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.0), "rank is 0"),
        ((2, 0.0), "alpha is 0"),
        ((2, float("nan")), "alpha is nan"),
        ((2, 2.0, ("*blocks.*", "attn9")), "'attn9' matches no layer"),
        ((2, 2.0, ("*conv_depth",)), "matches no layer"),
        ((2, 2.0, ()), "targets are empty"),
    ],
)
def test_add_lora_refuses(model: ModelConfig, tiny_network: Callable, arguments: tuple, message: str) -> None:
    network = tiny_network(model)
    with pytest.raises(ConfigError, match=message):
        add_lora(network, *arguments)
    assert "parametrizations" not in " ".join(network.state_dict())


def test_a_second_lora_is_refused(trained: LinearDiT) -> None:
    with pytest.raises(ConfigError, match="has a LoRA already"):
        add_lora(trained, 2, 2.0)


# ---- merging


@settings(max_examples=30, deadline=None)
@given(
    out=st.integers(1, 6), fan_in=st.integers(1, 6), kernel=st.sampled_from([0, 1, 3]), rank=st.integers(1, 4),
    alpha=st.floats(0.1, 10), weight=st.floats(-2, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_merging_is_the_sum_of_outer_products(
    tiny_model: Callable, out: int, fan_in: int, kernel: int, rank: int, alpha: float, weight: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (out, fan_in, kernel, kernel) if kernel else (out, fan_in)
    base = torch.randn(shape, generator=generator)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, base[0].numel(), generator=generator)
    info = _info(tiny_model(), rank=rank, alpha=alpha)
    merged = merge_lora({"a.weight": base}, {"a.lora_up": up, "a.lora_down": down}, info, weight)["a.weight"]
    expected = base.double()
    for index in range(rank):
        expected = expected + weight * alpha / rank * torch.outer(up[:, index], down[index]).double().view(shape)
    assert torch.allclose(merged.double(), expected, atol=1e-4)


def test_merge_takes_half_precision_and_leaves_its_inputs(model: ModelConfig, trained: LinearDiT) -> None:
    base = {key: value.half() for key, value in base_state_dict(trained).items()}
    before = {key: value.clone() for key, value in base.items()}
    merged = merge_lora(base, lora_state_dict(trained), _info(model))
    assert merged["proj_out.weight"].dtype == torch.float32
    assert merged["proj_out.bias"] is base["proj_out.bias"]
    assert all(torch.equal(base[key], before[key]) for key in base)
    nothing = merge_lora(base, lora_state_dict(trained), _info(model), 0.0)
    assert all(torch.equal(nothing[key].float(), base[key].float()) for key in base)


def test_merge_lists_what_does_not_fit(model: ModelConfig, trained: LinearDiT) -> None:
    lora = lora_state_dict(trained)
    lora["proj_out.lora_up"] = torch.zeros(3, 2)
    lora["nowhere.lora_up"] = torch.zeros(3, 2)
    del lora["conv_out.lora_down"]
    with pytest.raises(WeightsError) as caught:
        merge_lora(base_state_dict(trained), lora, _info(model))
    for part in (
        "conv_out.lora_down is missing",
        "nowhere is no layer",
        "proj_out.lora_up is (3, 2), expected (32, 2)",
    ):
        assert part in str(caught.value)


# ---- files


def _save(path: Path, network: LinearDiT, **changes: object) -> LoraInfo:
    info = _info(network.config, **changes)
    save_lora(path, {expert: lora_state_dict(network) for expert in info.experts}, info)
    return info


def test_a_file_keeps_every_bit_and_what_it_says(tmp_path: Path, model: ModelConfig, trained: LinearDiT) -> None:
    path = tmp_path / "a.safetensors"
    boundaries = (2.4965, -3.8918, -5.4679)
    info = _info(model, experts=(1, 3), boundaries_log_snr=boundaries, training={"steps": 7})
    loras = {1: lora_state_dict(trained), 3: lora_state_dict(_filled(copy.deepcopy(trained), 2))}
    save_lora(path, loras, info)
    loaded, tensors = load_lora(path)
    assert loaded == info
    assert tensors.keys() == loras.keys()
    for expert, lora in loras.items():
        assert tensors[expert].keys() == lora.keys()
        assert all(torch.equal(tensors[expert][key], value) for key, value in lora.items())
    assert "3.proj_out.lora_down" in load_file(path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["a.safetensors"]


def test_save_refuses_other_experts_than_the_info_names(tmp_path: Path, model: ModelConfig, trained: LinearDiT) -> None:
    with pytest.raises(ConfigError, match=r"experts \[0, 1\], expected \[0\]"):
        save_lora(tmp_path / "a", {0: lora_state_dict(trained), 1: lora_state_dict(trained)}, _info(model))


@pytest.mark.parametrize("experts", [(), (1,), (0, 0), (-1,)])
def test_info_refuses_experts_that_are_not_there(model: ModelConfig, experts: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="experts is"):
        _info(model, experts=experts)


def _restate(path: Path, info: LoraInfo, tensors: dict[str, Tensor] | None = None, **changes: object) -> None:
    data = {**to_dict(info), **changes}
    save_file(load_file(path) if tensors is None else tensors, path, metadata={"linearsr_lora": json.dumps(data)})


def test_files_that_are_no_lora_are_named(tmp_path: Path, tiny_checkpoint: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    for path, message in (
        (tmp_path / "none.safetensors", "does not exist"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.safetensors", "is not a safetensors file"),
        (tiny_checkpoint / "expert-0.safetensors", "is no LoRA of LinearSR"),
    ):
        with pytest.raises(WeightsError, match=message) as caught:
            load_lora(path)
        assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"schema_version": 2, "brand_new": 1}, "schema_version is 2, expected at most 1", "pip install -U"),
        ({"rnak": 2}, "unknown setting 'rnak'", "did you mean 'rank'"),
        ({"rank": 0}, "rank is 0", "fetch"),
        ({"experts": [4]}, r"experts is \[4\]", "fetch"),
    ],
)
def test_info_that_does_not_fit_the_schema_is_refused(
    tmp_path: Path, trained: LinearDiT, changes: dict, message: str, hint: str
) -> None:
    path = tmp_path / "a.safetensors"
    _restate(path, _save(path, trained), **changes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_lora(path)
    assert hint in str(caught.value.hint) or caught.value.hint is None


def test_every_tensor_that_does_not_fit_its_own_network_is_listed(tmp_path: Path, trained: LinearDiT) -> None:
    path = tmp_path / "a.safetensors"
    info = _save(path, trained)
    tensors = load_file(path)
    tensors["1.proj_out.lora_up"] = torch.zeros(1)
    tensors["0.proj_out.lora_up"] = torch.zeros(1)
    del tensors["0.conv_out.lora_up"]
    _restate(path, info, tensors)
    with pytest.raises(WeightsError) as caught:
        load_lora(path)
    for part in ("1.proj_out.lora_up belongs to none", "conv_out.lora_up is missing", "proj_out.lora_up is (1,)"):
        assert part in str(caught.value)


def test_a_lora_of_another_model_names_both(model: ModelConfig) -> None:
    info = _info(model, experts=(0, 1), boundaries_log_snr=(-3.9,))
    check_fit(info, model, (-3.9000001,), lora="a.safetensors", name="mine")
    with pytest.raises(WeightsError, match=r"LoRA 'a.safetensors' .* depth 1 instead of 2.* model 'mine'"):
        check_fit(info, replace(model, depth=2), (-3.9,), lora="a.safetensors", name="mine")
    for boundaries, told in (((), "nothing"), ((-4.5,), "-4.5"), ((1.0, -3.9), "1, -3.9")):
        with pytest.raises(WeightsError, match=rf"'a.safetensors' .* log-SNR -3.9, model 'mine' cuts at {told}"):
            check_fit(info, model, boundaries, lora="a.safetensors", name="mine")


def test_default_targets_take_most_of_the_weights(model: ModelConfig, tiny_network: Callable) -> None:
    network = tiny_network(model)
    names = add_lora(network, 2, 2.0, DEFAULT_TARGETS)
    layers = {
        name: module.weight.numel()
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and "embed." not in name.replace("patch_embed.", "")
    }
    assert sum(layers[name] for name in names) > 0.5 * sum(layers.values())
