"""Strictness of configs: nothing unknown, nothing missing, nothing of another type, and no loss on the way to JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from linearsr.config import (
    SCHEMA_VERSION,
    CheckpointConfig,
    ExpertsConfig,
    FlowConfig,
    SamplingConfig,
    TagsConfig,
    from_dict,
    to_dict,
)
from linearsr.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    ratio: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    pair: tuple[int, float] = (1, 2.0)
    flag: bool = False
    table: dict[str, float] = field(default_factory=dict)
    inner: Inner | None = None


def test_from_dict_converts_lists_tables_and_whole_numbers() -> None:
    data = {"count": 3, "pair": [4, 5], "table": {"a": 1}, "inner": {"ratio": 2, "names": ["x", "y"]}}
    config = from_dict(Outer, data)
    assert config == Outer(count=3, pair=(4, 5.0), table={"a": 1.0}, inner=Inner(ratio=2.0, names=("x", "y")))
    assert isinstance(config.inner.ratio, float)
    assert isinstance(config.pair[1], float)
    assert from_dict(Outer, {"count": 3, "inner": None}).inner is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"count": 3, "cuont": 4}, "unknown setting 'cuont'"),
        ({"count": 3, "inner": {"ratio": 1, "name": []}}, "unknown setting 'inner.name'"),
        ({}, "setting 'count' is missing"),
        ({"count": 3, "inner": {}}, "setting 'inner.ratio' is missing"),
        ({"count": "3"}, "count is '3', expected int"),
        ({"count": 3.0}, "count is 3.0, expected int"),
        ({"count": True}, "count is True, expected int"),
        ({"count": 3, "flag": 1}, "flag is 1, expected bool"),
        ({"count": 3, "table": {"a": "b"}}, "table.a is 'b', expected float"),
        ({"count": 3, "table": [1]}, "table is"),
        ({"count": 3, "inner": {"ratio": True}}, "inner.ratio is True, expected float"),
        ({"count": 3, "inner": {"ratio": 1, "names": "xy"}}, "inner.names is 'xy', expected tuple"),
        ({"count": 3, "inner": {"ratio": 1, "names": ["x", 2]}}, r"inner.names\[1\] is 2, expected str"),
        ({"count": 3, "pair": [1]}, r"pair is \[1\], expected 2 values"),
        ({"count": 3, "pair": [1, 2, 3]}, r"pair is \[1, 2, 3\], expected 2 values"),
        ({"count": 3, "inner": 5}, "inner is 5, expected a table of settings"),
        ([1], r"Outer is \[1\], expected a table"),
    ],
)
def test_from_dict_refuses_and_names_the_setting(data: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, data)


def test_from_dict_suggests_the_closest_setting_or_lists_them() -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, {"count": 3, "inner": {"ratio": 1, "nmaes": []}})
    assert caught.value.hint == "did you mean 'inner.names'?"
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, {"count": 3, "zzz": 1})
    assert caught.value.hint == "known here: count, flag, inner, pair, table"


def test_checkpoint_config_survives_json(tiny_config: Callable) -> None:
    config = tiny_config(training={"step": 3, "notes": ["a", None]})
    assert from_dict(CheckpointConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    "section", ["model", "autoencoder", "flow", "experts", "sampling", "tags", "licence", "files", "family"]
)
def test_checkpoint_config_has_no_default_for_a_section(tiny_config: Callable, section: str) -> None:
    data = to_dict(tiny_config())
    del data[section]
    with pytest.raises(ConfigError, match=f"setting '{section}' is missing"):
        from_dict(CheckpointConfig, data)


@pytest.mark.parametrize(("version", "update"), [(0, False), (SCHEMA_VERSION + 1, True)])
def test_checkpoint_config_refuses_another_schema(tiny_config: Callable, version: int, update: bool) -> None:
    with pytest.raises(ConfigError, match=f"schema_version is {version}, expected {SCHEMA_VERSION}") as caught:
        tiny_config(schema_version=version)
    assert (caught.value.hint is not None) is update


def test_checkpoint_config_refuses_tags_that_the_network_has_no_vectors_for(tiny_config: Callable) -> None:
    with pytest.raises(ConfigError, match="num_tags is 7, expected 1"):
        tiny_config(tags=TagsConfig(kind="closed", vocabulary=("clean",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 20}, "model.width is 20, expected a multiple of head_dim = 8"),
        ({"cross_attention_head_dim": 32}, "expected a multiple of cross_attention_head_dim = 32"),
        ({"patch_size": 0}, "model.patch_size is 0, expected at least 1"),
        ({"head_dim": 0}, "model.head_dim is 0, expected at least 1"),
        ({"depth": -1}, "model.depth is -1, expected at least 0"),
        ({"stem_depth": 0}, "expected stem_width and stem_depth of at least 1"),
        ({"stem": "patch", "state_gate": True}, "model.state_gate is true with stem 'patch'"),
    ],
)
def test_model_config_refuses_shapes_that_cannot_be(tiny_model: Callable, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model(**change)


def test_checkpoint_config_gates_a_passed_on_state_only(tiny_config: Callable, tiny_model: Callable) -> None:
    with pytest.raises(ConfigError, match="expected flow.preconditioned to be true"):
        tiny_config(flow=FlowConfig(prediction="x0"))
    tiny_config(flow=FlowConfig(prediction="x0"), model=tiny_model(state_gate=False))


def test_experts_config_counts_files_and_orders_boundaries() -> None:
    ExpertsConfig(boundaries_log_snr=(2.5, -3.9), files=("a", "b", "c"))
    with pytest.raises(ConfigError, match="names 2 files, expected 3 for 2 boundaries"):
        ExpertsConfig(boundaries_log_snr=(2.5, -3.9), files=("a", "b"))
    with pytest.raises(ConfigError, match="expected falling values"):
        ExpertsConfig(boundaries_log_snr=(-3.9, 2.5), files=("a", "b", "c"))


def test_flow_config_preconditions_x0_only() -> None:
    with pytest.raises(ConfigError, match="preconditioned is true with prediction 'v'"):
        FlowConfig(prediction="v", preconditioned=True)


@pytest.mark.parametrize(
    "grids",
    [
        {"2": (1.0, 0.0)},
        {"two": (1.0, 0.5, 0.0)},
        {"0": (1.0,)},
        {"2": (1.0, 0.5, 0.5)},
        {"1": (1.2, 0.0)},
        {"1": (1.0, -0.1)},
    ],
    ids=str,
)
def test_sampling_config_refuses_grids_that_no_sampler_takes(grids: dict[str, tuple[float, ...]]) -> None:
    settings = {"sampler": "euler", "steps": 4, "tile": 64, "tile_overlap": 16, "color_fix": "none"}
    SamplingConfig(t_grids={"2": (1.0, 0.5, 0.0)}, **settings)
    with pytest.raises(ConfigError, match="one time more than steps, falling"):
        SamplingConfig(t_grids=grids, **settings)


@pytest.mark.parametrize("loras", [("a",), ("a", "b", "c")])
def test_loras_are_none_or_one_for_each_expert(loras: tuple[str, ...]) -> None:
    one_file = {"boundaries_log_snr": (-3.9,), "files": ("base", "base")}
    assert ExpertsConfig(**one_file).loras == ()
    assert ExpertsConfig(**one_file, loras=("a", "b")).loras == ("a", "b")
    with pytest.raises(ConfigError, match=f"names {len(loras)} files, expected none or 2"):
        ExpertsConfig(**one_file, loras=loras)


def test_a_tagger_needs_a_closed_vocabulary() -> None:
    assert TagsConfig(kind="closed", vocabulary=("a",), tagger="tagger.safetensors").tagger == "tagger.safetensors"
    with pytest.raises(ConfigError, match="'tagger.safetensors' with kind 'none'"):
        TagsConfig(kind="none", tagger="tagger.safetensors")


@pytest.mark.parametrize("value", [-0.1, 20.1, float("nan"), float("inf")])
def test_guidance_out_of_range_is_refused(value: float) -> None:
    rest = {"sampler": "euler", "steps": 1, "t_grids": {}, "tile": 64, "tile_overlap": 0, "color_fix": "none"}
    assert SamplingConfig(**rest).cfg_scale == 1.0
    assert [SamplingConfig(**rest, cfg_scale=good).cfg_scale for good in (0.0, 20.0)] == [0.0, 20.0]
    with pytest.raises(ConfigError, match=f"sampling.cfg_scale is {value:g}, expected 0 to 20"):
        SamplingConfig(**rest, cfg_scale=value)


def test_a_config_without_the_newer_settings_is_read_as_before(tiny_config: Callable) -> None:
    data = to_dict(tiny_config())
    for section, name in (("experts", "loras"), ("tags", "tagger"), ("sampling", "cfg_scale")):
        del data[section][name]
    assert from_dict(CheckpointConfig, data) == tiny_config()
