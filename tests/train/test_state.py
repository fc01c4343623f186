"""The checkpoint of a stage: what is in it, that it is written whole or not at all, and what is refused."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from linearsr.errors import TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.state import (
    CHECKPOINT_NAME,
    TrainState,
    changed_fields,
    check_unchanged,
    load_state,
    plain_config,
    save_state,
)


def _numbers(state: TrainState) -> list[torch.Tensor]:
    return [value.clone() for value in (*state.model.state_dict().values(), *state.ema.shadow.values())]


def test_state_comes_back_with_generator_controller_and_counts(tmp_path: Path, make_state: Callable) -> None:
    state = make_state()
    torch.randn(7, generator=state.generator)
    state.step, state.nonfinite, state.grad_norms = 12, 2, [0.25, 4.0]
    for step, psnr in ((0, 20.0), (6, 24.0), (12, 25.0)):
        state.esgf.update(step, psnr, 0.1)
    save_state(state, tmp_path)
    again = make_state()
    load_state(again, tmp_path)
    assert (again.step, again.nonfinite, again.grad_norms) == (12, 2, [0.25, 4.0])
    assert again.esgf.evaluations == state.esgf.evaluations
    assert again.esgf.state_dict() == state.esgf.state_dict()
    assert torch.equal(torch.randn(5, generator=again.generator), torch.randn(5, generator=state.generator))


def test_save_state_leaves_one_file_readable_without_objects(tmp_path: Path, make_state: Callable) -> None:
    for _ in range(2):
        save_state(make_state(), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [CHECKPOINT_NAME]
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 0


@pytest.mark.parametrize("room", [0, 1000, 100_000])
def test_a_full_disk_keeps_the_older_checkpoint_whole(tmp_path: Path, make_state: Callable, room: int) -> None:
    """The kernel itself cuts the file off: at its first byte, in the middle of the archive, and at its end."""
    state = make_state()
    save_state(state, tmp_path)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    assert len(before) > 100_000
    state.step = 5
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full disk sends no signal
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(TrainingError, match="last.pt' cannot be written") as caught:
            save_state(state, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free some space" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [CHECKPOINT_NAME]
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before
    load_state(state, tmp_path)
    assert state.step == 0


def test_a_save_that_cannot_be_synced_keeps_the_older_state(
    tmp_path: Path, make_state: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    save_state(state, tmp_path)
    state.step = 5

    def full_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("linearsr_train.state.os.fsync", full_disk)
    with pytest.raises(TrainingError, match="No space left"):
        save_state(state, tmp_path)
    load_state(state, tmp_path)
    assert state.step == 0


# ---- refusals


def test_nothing_to_resume_is_an_error(tmp_path: Path, make_state: Callable) -> None:
    with pytest.raises(TrainingError, match="nothing to resume in .*: no last.pt"):
        load_state(make_state(), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, make_state: Callable, damage: str) -> None:
    state = make_state()
    save_state(state, tmp_path)
    path = tmp_path / CHECKPOINT_NAME
    data, before = path.read_bytes(), _numbers(state)
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    with pytest.raises(TrainingError, match="last.pt' cannot be read"):
        load_state(state, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(_numbers(state), before, strict=True))


def test_a_checkpoint_with_code_inside_is_refused_unrun(tmp_path: Path, make_state: Callable) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the pickle was run",))

    torch.save({"config": Trap()}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(TrainingError, match="cannot be read"):
        load_state(make_state(), tmp_path)


def test_a_changed_recipe_is_refused_with_its_fields(tmp_path: Path, make_state: Callable) -> None:
    save_state(make_state(), tmp_path)
    state = make_state(
        stages__experts__learning_rate=3e-4,
        data__degradation__sinc_prob=0.2,
        stages__pretrain__max_steps=40,
        esgf__patience=9,
    )
    before = _numbers(state)
    with pytest.raises(TrainingError) as caught:
        load_state(state, tmp_path)
    assert "in data.degradation.sinc_prob, esgf.patience, stages.experts.learning_rate" in str(caught.value)
    assert "max_steps" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(_numbers(state), before, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"stages__pretrain__max_steps": 40},
        {"loop__log_steps": 1},
        {"loop__checkpoint_steps": 3},
        {"data__num_workers": 1},
        {"data__cache_gib": 1.0},
        {"stages__experts__max_steps": 1, "stages__sft__max_steps": 0},
        {"loop__strategy": "ddp"},
        {"tagger__num_workers": 1},
    ],
    ids=str,
)
def test_a_resumed_run_may_change_its_length_and_rhythm(tmp_path: Path, make_state: Callable, change: dict) -> None:
    state = make_state()
    state.step = 4
    save_state(state, tmp_path)
    again = make_state(**change)
    load_state(again, tmp_path)
    assert again.step == 4


def test_changed_fields_names_what_differs_on_either_side() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "gone": 0}
    new = {"a": {"b": 2, "c": [1, 2]}, "d": 1, "fresh": 0}
    assert changed_fields(old, new) == ["a.b", "fresh", "gone"]
    assert changed_fields(old, old) == []


def test_a_config_is_compared_as_json_gives_it_back(tiny_recipe: Callable) -> None:
    config: TrainConfig = tiny_recipe()
    before = json.loads(json.dumps(plain_config(config)))
    check_unchanged(before, config)
    check_unchanged(before, tiny_recipe(loop__log_steps=1))
    with pytest.raises(TrainingError, match="differs from the run to resume in loop.seed"):
        check_unchanged(before, tiny_recipe(loop__seed=1, loop__log_steps=1))
