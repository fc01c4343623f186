"""The paper-scale presets: real shapes on the meta device, and settings that agree with their sources."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from linearsr.config import CheckpointConfig, from_dict, to_dict
from linearsr.errors import ConfigError
from linearsr.flow import t_from_log_snr
from linearsr.model.sana import to_diffusers, to_nvlabs
from linearsr.model.sana_config import model_config_from_diffusers, plain_sana
from linearsr.model.transformer import LinearDiT
from linearsr.presets import PRESETS, get_preset, preset_of_shape
from linearsr.schedules import dpm_flow_grid

NAMES = ("sana-0.6b", "sana-1.6b")
DIFFUSERS = {
    "sana-0.6b": {
        "num_attention_heads": 36,
        "num_layers": 28,
        "num_cross_attention_heads": 16,
        "cross_attention_head_dim": 72,
        "cross_attention_dim": 1152,
    },
    "sana-1.6b": {
        "num_attention_heads": 70,
        "num_layers": 20,
        "num_cross_attention_heads": 20,
        "cross_attention_head_dim": 112,
        "cross_attention_dim": 2240,
    },
}
"""Arguments of diffusers' class in its conversion script; the others are the class's defaults."""


def _network(name: str, *, plain: bool, qk_norm: bool = False) -> LinearDiT:
    model = replace(get_preset(name).model, qk_norm=qk_norm)
    with torch.device("meta"):
        return LinearDiT(plain_sana(model) if plain else model)


def test_presets_are_those_of_the_paper_scale() -> None:
    assert tuple(PRESETS) == NAMES
    assert all(name == preset.name for name, preset in PRESETS.items())


@pytest.mark.parametrize(("name", "published"), [("sana-0.6b", 591_747_872), ("sana-1.6b", 1_604_462_752)])
def test_preset_has_the_published_number_of_parameters(name: str, published: int) -> None:
    preset = get_preset(name)
    stem = sum(9 * a * b + b for a, b in ((3, 64), (64, 128), (128, 32)))

    assert sum(value.numel() for value in _network(name, plain=True).parameters()) == published == preset.parameters
    wide = sum(value.numel() for value in _network(name, plain=False).parameters())
    assert wide == published + 32 * preset.model.width + stem


@pytest.mark.parametrize("qk_norm", [False, True], ids=["1.0", "1.5"])
@pytest.mark.parametrize("name", NAMES)
def test_preset_has_the_tensors_of_diffusers_at_full_size(name: str, qk_norm: bool) -> None:
    diffusers = pytest.importorskip("diffusers")
    norm = "rms_norm_across_heads" if qk_norm else None
    with torch.device("meta"):
        theirs = diffusers.SanaTransformer2DModel(**DIFFUSERS[name], qk_norm=norm)

    ours = _network(name, plain=True, qk_norm=qk_norm)

    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in to_diffusers(ours.state_dict()).items()} == shapes
    assert model_config_from_diffusers(dict(theirs.config) | {"_class_name": "SanaTransformer2DModel"}) == ours.config
    width = ours.config.width
    assert to_nvlabs(ours.state_dict())["blocks.0.attn.qkv.weight"].shape == (3 * width, width)
    assert preset_of_shape(ours.config) is get_preset(name)


@pytest.mark.parametrize("name", NAMES)
def test_preset_condition_is_pixels_at_a_quarter_of_the_output(name: str) -> None:
    preset = get_preset(name)

    latent = (1, preset.model.in_channels, 32, 24)

    assert preset.model.lr_shape(latent) == (1, 3, 256, 192)
    assert preset.autoencoder.factor == 4 * preset.model.lr_factor == 32
    assert preset.model.cond_channels == preset.model.lr_stem[-1] == 32


@pytest.mark.parametrize("name", NAMES)
def test_preset_publishes_the_grids_of_its_flow(name: str) -> None:
    preset = get_preset(name)

    assert preset.sampling.t_grids.keys() == {"1", "2", "3", "4", "8", "20"}
    for steps, grid in preset.sampling.t_grids.items():
        assert grid == tuple(dpm_flow_grid(int(steps), preset.flow.shift).tolist())
    assert (preset.flow.grid, preset.sampling.sampler, preset.sampling.steps) == ("dpm", "dpmpp_2m", 20)
    first, last = preset.sampling.t_grids["20"][0], preset.sampling.t_grids["20"][-2]
    assert (round(first, 4), round(last, 4)) == (0.9997, 0.1362)


@pytest.mark.parametrize("count", [1, 4])
def test_preset_makes_a_checkpoint_config_that_reads_back(count: int) -> None:
    preset = get_preset("sana-0.6b")
    experts, sampling = preset.for_experts(count)
    config = CheckpointConfig(
        schema_version=1,
        family=preset.name,
        model=preset.model,
        autoencoder=preset.autoencoder,
        flow=preset.flow,
        experts=experts,
        sampling=sampling,
        tags=preset.tags,
        licence=preset.licence,
        files={},
    )

    assert from_dict(CheckpointConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert len(experts.files) == count
    times = [round(float(t_from_log_snr(value)), 4) for value in experts.boundaries_log_snr]
    assert times == ([] if count == 1 else [0.223, 0.875, 0.939])
    assert sampling.expert_cfg_scales == (() if count == 1 else (1.0, 4.5, 4.5, 4.5))


def test_preset_refuses_another_number_of_experts() -> None:
    with pytest.raises(ConfigError, match="experts is 2, expected 1 or 4"):
        get_preset("sana-0.6b").for_experts(2)


def test_get_preset_suggests_the_closest_name() -> None:
    with pytest.raises(ConfigError, match="'sana-0.6b' or 'sana-1.6b'") as caught:
        get_preset("SANA-1.6")
    assert caught.value.hint == "did you mean 'sana-1.6b'?"

    with pytest.raises(ConfigError) as caught:
        get_preset("flux")
    assert caught.value.hint == "use 'sana-0.6b', the smallest"


def test_preset_of_shape_knows_no_other_size() -> None:
    model = get_preset("sana-0.6b").model

    assert preset_of_shape(model) is get_preset("sana-0.6b")
    assert preset_of_shape(replace(model, depth=60)) is None
    assert preset_of_shape(replace(model, head_dim=64)) is None
