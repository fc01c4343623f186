"""The division of the noise levels: intervals, order of the stages, and what the sampler asks of each expert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linearsr.flow import t_from_log_snr
from linearsr.model.experts import PAPER_BOUNDARIES, expert_index
from linearsr_train.experts import boundaries_log_snr, expert_interval, plan_stages, read_json, stage_folder
from linearsr_train.stage_config import ExpertSplitConfig

NAMES = ["pretrain", *(f"{kind}-{expert}" for kind in ("expert", "sft") for expert in (3, 2, 1, 0))]
SPLITS = st.builds(
    lambda times, widen: ExpertSplitConfig(boundaries=tuple(sorted(times)), widen=widen),
    st.lists(st.floats(0.01, 0.995), min_size=0, max_size=7, unique=True),
    st.floats(0.0, 0.2),
)


def _intervals(config: ExpertSplitConfig) -> list[tuple[float, float]]:
    return [expert_interval(expert, config) for expert in range(len(config.boundaries) + 1)]


def test_the_papers_boundaries_make_four_widened_intervals() -> None:
    config = ExpertSplitConfig(boundaries=PAPER_BOUNDARIES, widen=0.02)
    expected = [(0.0, 0.243), (0.203, 0.895), (0.855, 0.959), (0.919, 1.0)]
    assert [pytest.approx(interval, abs=1e-12) for interval in expected] == _intervals(config)


@given(SPLITS)
def test_intervals_cover_all_times_and_overlap_by_the_widening(config: ExpertSplitConfig) -> None:
    intervals = _intervals(config)
    assert intervals[0][0] == 0.0
    assert intervals[-1][1] == 1.0
    for boundary, (low, high), (next_low, next_high) in zip(config.boundaries, intervals, intervals[1:], strict=False):
        assert 0.0 <= low < high and next_low < next_high <= 1.0
        assert high == pytest.approx(min(0.999, boundary + config.widen))
        assert next_low == pytest.approx(max(0.0, boundary - config.widen))
        assert next_low <= boundary <= high


@given(SPLITS)
def test_only_the_noisiest_expert_holds_the_time_one(config: ExpertSplitConfig) -> None:
    """However near 1 the last boundary is and however wide the overlap."""
    assert [high >= 1.0 for _, high in _intervals(config)] == [False] * len(config.boundaries) + [True]


@given(SPLITS, st.floats(1e-3, 0.999))
def test_the_sampler_never_asks_an_expert_for_a_time_it_was_not_trained_on(config: ExpertSplitConfig, t: float) -> None:
    expert = expert_index(t, boundaries_log_snr(config))
    low, high = expert_interval(expert, config)
    assert low - 1e-6 <= t <= high + 1e-6
    assert expert_index(1.0, boundaries_log_snr(config)) == len(config.boundaries)


def test_boundaries_fall_in_log_snr_and_come_back() -> None:
    values = boundaries_log_snr(ExpertSplitConfig(boundaries=PAPER_BOUNDARIES))
    assert list(values) == sorted(values, reverse=True)
    assert [float(t_from_log_snr(value)) for value in values] == pytest.approx(PAPER_BOUNDARIES, abs=1e-6)
    assert boundaries_log_snr(ExpertSplitConfig(boundaries=())) == ()


def test_stages_run_from_noise_to_picture(tiny_recipe: Callable) -> None:
    config = tiny_recipe()
    stages = plan_stages(config)
    assert [stage.name for stage in stages] == NAMES
    assert [stage.index for stage in stages] == list(range(9))
    assert [stage.expert for stage in stages] == [0, 3, 2, 1, 0, 3, 2, 1, 0]
    assert [stage.holds_one for stage in stages] == [True, True, False, False, False, True, False, False, False]
    assert stages[0].interval == (0.0, 1.0)
    assert [stage.interval for stage in stages[1:5]] == [expert_interval(e, config.experts) for e in (3, 2, 1, 0)]
    assert {stage.kind: stage.settings for stage in stages} == {
        "pretrain": config.stages.pretrain, "expert": config.stages.experts, "sft": config.stages.sft
    }  # fmt: skip


@pytest.mark.parametrize("left_out", ["pretrain", "experts", "sft"])
def test_a_stage_keeps_its_draws_when_others_are_left_out(tiny_recipe: Callable, left_out: str) -> None:
    whole = {stage.name: stage.index for stage in plan_stages(tiny_recipe())}
    stages = plan_stages(tiny_recipe(init="compact", **{f"stages__{left_out}__max_steps": 0}))
    assert {stage.name: stage.index for stage in stages} == {
        name: index for name, index in whole.items() if not name.startswith(left_out.removesuffix("s"))
    }


def test_without_boundaries_there_is_one_expert_for_all_times(tiny_recipe: Callable) -> None:
    stages = plan_stages(tiny_recipe(experts__boundaries=[]))
    assert [(stage.name, stage.interval) for stage in stages] == [
        ("pretrain", (0.0, 1.0)), ("expert-0", (0.0, 1.0)), ("sft-0", (0.0, 1.0))
    ]  # fmt: skip


def test_a_stage_has_its_folder_and_a_missing_file_is_empty(tmp_path: Path, tiny_recipe: Callable) -> None:
    stage = plan_stages(tiny_recipe())[2]
    assert stage_folder(tmp_path, stage) == tmp_path / "stages" / "expert-2"
    assert read_json(tmp_path / "done.json") == {}
    (tmp_path / "done.json").write_text('{"steps": 3}')
    assert read_json(tmp_path / "done.json") == {"steps": 3}
