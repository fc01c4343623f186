"""What a stage leaves: the weights of the chosen step, its curve, the checkpoints that may still be needed."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from linearsr_train.experts import plan_stages
from linearsr_train.watch import Watch, keep_path, ranked_steps
from linearsr_train.weights import DONE_NAME, RESULT_NAME, averaged, read_tensors

LENGTHS = {"pretrain": [0, 10, 20], "expert": [0, 2, 4], "sft": [0, 2]}


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "curve.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_curve_has_a_row_for_every_evaluation(finished: Any) -> None:
    for stage in plan_stages(finished.config):
        rows = _rows(finished.folder / "stages" / stage.name)
        assert [int(row["step"]) for row in rows] == LENGTHS[stage.kind], stage.name
        assert {row["status"] for row in rows} == {"running"}
        count = 1 if stage.holds_one else 4
        for row in rows:
            psnr = [float(row[f"{task}/psnr_{count}"]) for task in ("x4", "x2", "real4")]
            perceptual = [float(row[f"{task}/perceptual_4"]) for task in ("x4", "x2", "real4")]
            assert float(row["psnr"]) == pytest.approx(sum(psnr) / 3, abs=1e-9)
            assert float(row["perceptual"]) == pytest.approx(sum(perceptual) / 3, abs=1e-9)
            assert float(row["attn/effective_rank"]) >= 1.0
            assert 0.0 <= float(row["attn/dead_queries"]) <= 1.0
            assert float(row["attn/min_denominator"]) > 0.0


def test_a_stage_begins_where_the_sampler_saw_the_one_before_it(finished: Any) -> None:
    """The first evaluation of an expert is of the whole bank as users would run it: experts not yet trained are the
    pretrained network, finished ones their results."""
    folder = finished.folder / "stages"
    pretrain = finished.result.stages["pretrain"]["scores"]
    first = _rows(folder / "expert-3")[0]
    for key in ("x4/psnr_1", "x2/psnr_4", "real4/perceptual_4"):
        assert float(first[key]) == pytest.approx(pretrain[key], abs=2e-4), key
    for before, after in (("expert-3", "expert-2"), ("expert-1", "expert-0"), ("sft-3", "sft-2")):
        chosen = finished.result.stages[before]["scores"]
        assert float(_rows(folder / after)[0]["x4/psnr_4"]) == pytest.approx(chosen["x4/psnr_4"], abs=2e-4)


def test_the_result_is_the_average_of_the_chosen_step(finished: Any) -> None:
    for stage in plan_stages(finished.config):
        folder = finished.folder / "stages" / stage.name
        done = json.loads((folder / DONE_NAME).read_text())
        assert done["chosen"] in LENGTHS[stage.kind]
        kept = averaged(read_tensors(keep_path(folder, done["chosen"])))
        result = read_tensors(folder / RESULT_NAME)
        assert all(bool((value == kept[name]).all()) for name, value in result.items())
        assert [path.name for path in (folder / "keep").iterdir()] == [keep_path(folder, done["chosen"]).name]


def test_what_a_stage_says_of_itself(finished: Any) -> None:
    done = json.loads((finished.folder / "stages" / "expert-3" / DONE_NAME).read_text())
    assert (done["stage"], done["ending"], done["steps"]) == ("expert-3", "budget", 4)
    row = next(r for r in _rows(finished.folder / "stages" / "expert-3") if int(r["step"]) == done["chosen"])
    assert done["psnr"] == pytest.approx(float(row["psnr"]))
    assert done["perceptual"] == pytest.approx(float(row["perceptual"]))
    assert done["scores"] == {
        name: float(value) for name, value in row.items() if "/" in name and not name.startswith("attn/")
    }
    assert done["seconds"] > 0


def test_a_budget_ends_with_the_best_by_both_metrics(finished: Any) -> None:
    for stage in plan_stages(finished.config):
        rows = _rows(finished.folder / "stages" / stage.name)
        gains = [
            (float(r["psnr"]) - float(rows[0]["psnr"]), float(rows[0]["perceptual"]) - float(r["perceptual"]))
            for r in rows
        ]
        floors = finished.config.esgf.least_psnr_gain, finished.config.esgf.least_perceptual_gain
        up, down = (max(floors[kind], max(gain[kind] for gain in gains)) for kind in (0, 1))
        best = max(range(len(rows)), key=lambda i: gains[i][0] / up + gains[i][1] / down)
        assert finished.result.stages[stage.name]["chosen"] == int(rows[best]["step"]), stage.name


def test_ranked_steps_weigh_both_gains_alike_and_leave_out_what_is_not_finite(make_state: Callable) -> None:
    state = make_state()
    assert ranked_steps(state) == []
    for step, psnr, perceptual in ((0, 20.0, 0.30), (10, 22.0, 0.20), (20, 24.0, 0.28), (30, 23.0, 0.10)):
        state.esgf.update(step, psnr, perceptual)
    # Gains over the largest: 0 + 0, 0.5 + 0.5, 1 + 0.1, 0.75 + 1.
    assert ranked_steps(state) == [30, 20, 10, 0]


def test_ranked_steps_weigh_a_loss_by_what_counts_as_a_gain_where_one_metric_never_rose(make_state: Callable) -> None:
    state = make_state()
    for step, psnr, perceptual in ((0, 26.735, 0.2472), (140, 26.700, 0.2353), (400, 26.696, 0.2341)):
        state.esgf.update(step, psnr, perceptual)
    # PSNR lost 0.039 of the 0.1 dB that count as a gain, the perceptual score gained its whole 0.0131.
    assert ranked_steps(state)[-1] == 0


def test_ranked_steps_of_a_stage_that_gained_nothing_prefer_its_start(make_state: Callable) -> None:
    state = make_state()
    for step in (0, 10, 20):
        state.esgf.update(step, 20.0, 0.3)
    assert ranked_steps(state) == [0, 10, 20]


class _Run:
    """As much of a run as rotating checkpoints asks for."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.book = None


def test_checkpoints_are_rotated_but_for_those_that_may_be_chosen(tmp_path: Path, make_state: Callable) -> None:
    state = make_state()
    watch = Watch(_Run(state.config), state.stage, tmp_path)
    (tmp_path / "keep").mkdir()
    for number in range(60):
        step = 10 * number
        state.step = step
        state.esgf.update(step, 30.0 - 10.0 * 0.9**number, 0.1 + 0.2 * 0.9**number)
        keep_path(tmp_path, step).touch()
        watch._rotate(state)
        kept = {int(path.stem.removeprefix("step-")) for path in (tmp_path / "keep").iterdir()}
        assert kept >= {*state.esgf.kept_steps(), step, *ranked_steps(state)[:1]}
        if state.esgf.verdict.status != "running":
            break
    assert len(kept) < number / 2 + 16
    assert {state.esgf.verdict.knee, state.esgf.verdict.elbow} - {None} <= kept
