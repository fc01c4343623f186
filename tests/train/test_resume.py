"""A stage that stops and goes on ends bit for bit where one ends that never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import Batch, CropDataset, batches
from linearsr_train.data.sources import PhotoSet
from linearsr_train.loop import LossTerms, train
from linearsr_train.runlog import RunLog
from linearsr_train.state import CHECKPOINT_NAME, TrainState, load_state

TWENTY = {
    "loop__checkpoint_steps": 20,
    **{f"stages__{stage}__max_steps": 20 for stage in ("pretrain", "experts")},
    **{f"stages__{stage}__validation_steps": 4 for stage in ("pretrain", "experts")},
}


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


def _watch(state: TrainState) -> None:
    """A curve that depends on every weight, so that the controller's state would show any difference."""
    size = sum(float(value.double().abs().sum()) for value in state.ema.shadow.values())
    state.esgf.update(state.step, 20.0 + 0.1 * state.step + 1e-3 * size, 0.2 - 1e-6 * size)


def _fail(state: TrainState, batch: Batch) -> None:
    pytest.fail(f"not finite at step {state.step}")


def _run(state: TrainState, photo_set: PhotoSet, folder: Path, stop_at: int | None = None, workers: int = 0) -> str:
    config, last = state.config, state.stage.settings.max_steps
    dataset = CropDataset(photo_set, config.data, config.loop.seed + 1000 * state.stage.index)
    data = batches(dataset, config.loop.batch_size, state.step, last, workers)
    log = RunLog(folder)
    ending = train(
        state,
        data,
        LossTerms(PixelAutoencoder(config.autoencoder)),
        folder,
        log,
        on_validation=_watch,
        on_nonfinite=_fail,
        should_stop=lambda: state.step == stop_at,
    )
    log.close()
    return ending


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every number and tensor of a nested state by its path."""
    if isinstance(value, dict):
        return {key: leaf for k, v in value.items() for key, leaf in _flat(v, f"{name}/{k}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for i, v in enumerate(value) for key, leaf in _flat(v, f"{name}/{i}").items()}
    return {name: value}


def _differences(a: Path, b: Path) -> list[str]:
    left, right = (_flat(torch.load(folder / CHECKPOINT_NAME, weights_only=True)) for folder in (a, b))
    assert left.keys() == right.keys()
    return [
        name
        for name, value in left.items()
        if not (torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name])
    ]


def _differences_in_memory(a: TrainState, b: TrainState) -> list[str]:
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True)
    names = [name for (name, x), y in pairs if not torch.equal(x, y)]
    return names + [name for name in a.ema.shadow if not torch.equal(a.ema.shadow[name], b.ema.shadow[name])]


CASES = {
    "pretrain": ("pretrain", {}),
    "bf16": ("pretrain", {"loop__mixed_precision": "bf16"}),
    "in parts": ("pretrain", {"loop__gradient_accumulation_steps": 2}),
    "expert": ("expert-3", {}),
    "frozen": ("expert-1", {"experts__frozen": '["stem_blocks", "conv_in"]'}),
    "lora": ("expert-2", {"experts__mode": "lora"}),
}


@pytest.mark.parametrize(("stage", "changes"), CASES.values(), ids=list(CASES))
def test_twenty_steps_are_ten_and_ten_bit_for_bit(
    tmp_path: Path,
    photo_set: PhotoSet,
    tiny_recipe: Callable,
    tiny_network: Callable,
    make_state: Callable,
    stage: str,
    changes: dict,
) -> None:
    config: TrainConfig = tiny_recipe(**TWENTY, **changes)
    start = None if stage == "pretrain" else tiny_network(config.model).state_dict()
    whole, first = tmp_path / "whole", tmp_path / "parts"
    state = make_state(stage, config=config, start=start)
    initial = torch.cat([value.flatten() for value in state.model.state_dict().values()]).clone()
    assert _run(state, photo_set, whole) == "budget"
    moved = torch.cat([value.flatten() for value in state.model.state_dict().values()]) - initial
    assert float(moved.abs().max()) > 1e-4, "it has learned something"

    before = make_state(stage, config=config, start=start)
    assert _run(before, photo_set, first, stop_at=10) == "stopped"
    assert before.step == 10
    torch.rand(5)  # whatever the process does in between
    after = make_state(stage, config=config, start=start)
    assert _differences_in_memory(after, before)
    load_state(after, first)
    assert (after.step, after.grad_norms, after.esgf.evaluations) == (10, before.grad_norms, before.esgf.evaluations)
    assert not _differences_in_memory(after, before)
    assert _run(after, photo_set, first, workers=1 if stage == "pretrain" and not changes else 0) == "budget"

    assert after.step == 20
    assert _differences(whole, first) == []
    saved = torch.load(whole / CHECKPOINT_NAME, weights_only=True)
    assert [row[0] for row in json.loads(saved["esgf"])["evaluations"]] == list(range(0, 21, 4))


def test_a_run_with_another_data_position_ends_elsewhere(
    tmp_path: Path, photo_set: PhotoSet, make_state: Callable
) -> None:
    """The comparison above can fail: two steps on other crops already differ."""
    for name, shift in (("a", 0), ("b", 1)):
        state = make_state(stages__pretrain__max_steps=2)
        dataset = CropDataset(photo_set, state.config.data, shift)
        terms = LossTerms(PixelAutoencoder(state.config.autoencoder))
        train(
            state, batches(dataset, 4, 0, 2, 0), terms, tmp_path / name, RunLog(tmp_path / name),
            on_validation=_watch, on_nonfinite=_fail,
        )  # fmt: skip
    changed = _differences(tmp_path / "a", tmp_path / "b")
    for part in ("/model", "/ema", "/optimizer", "/esgf", "/grad_norms"):
        assert any(name.startswith(part) for name in changed), part


def test_a_stage_draws_other_times_and_weights_than_the_stage_before(make_state: Callable) -> None:
    a, b = make_state("expert-3"), make_state("expert-2")
    assert _differences_in_memory(a, b)
    assert not torch.equal(torch.rand(4, generator=a.generator), torch.rand(4, generator=b.generator))
