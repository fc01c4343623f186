"""What leaves a run: the averaged weights, with everything a user's sampler needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from linearsr import Upscaler, __version__
from linearsr.checkpoint import load_network, read_config
from linearsr.schedules import compact_grid
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.export import PUBLISHED_STEPS, export_compact
from linearsr_train.loop import build_state
from linearsr_train.state import TrainState


@pytest.fixture
def state(tiny_recipe: Callable) -> TrainState:
    state = build_state(tiny_recipe())
    state.step = 17
    for value in state.ema.shadow.values():
        value += 0.01 * torch.randn(value.shape)
    return state


def test_export_holds_the_average_and_not_the_raw_weights(tmp_path: Path, state: TrainState) -> None:
    config = export_compact(state, tmp_path, summary={}, licence="CC0-1.0")
    weights = load_network(tmp_path, config, 0).state_dict()
    raw = state.model.state_dict()
    assert weights.keys() == raw.keys()
    for name, value in weights.items():
        assert torch.equal(value, state.ema.shadow[name].half().float()), name
        assert not torch.equal(value, raw[name].half().float()), name


def test_export_states_grids_tags_and_where_it_came_from(tmp_path: Path, state: TrainState) -> None:
    export_compact(state, tmp_path, summary={"validation": {"x4/psnr_1": 30.0}}, licence="CC-BY-SA-4.0")
    config = read_config(tmp_path)
    assert config.model == state.config.model
    assert config.flow == state.config.flow
    assert config.tags.vocabulary == COMPACT_VOCABULARY
    assert set(config.sampling.t_grids) == {str(steps) for steps in PUBLISHED_STEPS}
    for steps in PUBLISHED_STEPS:
        assert config.sampling.t_grids[str(steps)] == tuple(compact_grid(steps).tolist())
    assert config.licence == "CC-BY-SA-4.0"
    assert config.training["step"] == 17
    assert config.training["linearsr"] == __version__
    assert config.training["recipe"]["loop"]["batch_size"] == 4
    assert config.training["validation"] == {"x4/psnr_1": 30.0}


def test_export_runs_in_the_upscaler(tmp_path: Path, state: TrainState) -> None:
    export_compact(state, tmp_path, summary={}, licence="CC0-1.0")
    upscaler = Upscaler.from_pretrained(tmp_path, device="cpu", dtype="fp32")
    upscaler.validate()
    out = upscaler(torch.rand(3, 11, 9), scale=2.5, steps=4, tags="clean")
    assert out.shape == (3, 28, 22)
    assert torch.isfinite(out).all()
