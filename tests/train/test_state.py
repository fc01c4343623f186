"""A run that stops and goes on ends bit for bit where one ends that never stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.errors import TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import CropDataset, batches
from linearsr_train.data.sources import PhotoSet
from linearsr_train.loop import build_state, train
from linearsr_train.runlog import RunLog
from linearsr_train.state import CHECKPOINT_NAME, TrainState, changed_fields, load_state, save_state


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


def _run(state: TrainState, photo_set: PhotoSet, folder: Path, stop_at: int | None = None, workers: int = 0) -> None:
    config = state.config
    data = batches(
        CropDataset(photo_set, config.data, config.loop.seed),
        config.loop.batch_size,
        state.step,
        config.loop.max_steps,
        workers,
    )
    folder.mkdir(exist_ok=True)
    train(
        state,
        data,
        PixelAutoencoder(config.autoencoder),
        folder,
        RunLog(folder / "log.jsonl"),
        on_validation=lambda _: None,
        should_stop=lambda: state.step == stop_at,
    )


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


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_twenty_steps_are_ten_and_ten_bit_for_bit(
    tmp_path: Path, photo_set: PhotoSet, tiny_recipe: Callable, precision: str
) -> None:
    config = tiny_recipe(loop__mixed_precision=precision, loop__checkpoint_steps=20)
    whole = build_state(config)
    _run(whole, photo_set, tmp_path / "whole")

    first = build_state(config)
    _run(first, photo_set, tmp_path / "parts", stop_at=10)
    assert first.step == 10
    torch.rand(5)  # whatever the process does in between
    second = build_state(config)
    assert _differences_in_memory(second, first)
    load_state(second, tmp_path / "parts")
    assert (second.step, second.grad_norms) == (10, first.grad_norms)
    assert not _differences_in_memory(second, first)
    _run(second, photo_set, tmp_path / "parts", workers=1)

    assert second.step == 20
    assert _differences(tmp_path / "whole", tmp_path / "parts") == []


def _differences_in_memory(a: TrainState, b: TrainState) -> list[str]:
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True)
    names = [name for (name, x), y in pairs if not torch.equal(x, y)]
    return names + [name for name in a.ema.shadow if not torch.equal(a.ema.shadow[name], b.ema.shadow[name])]


def test_a_run_with_another_data_position_ends_elsewhere(
    tmp_path: Path, photo_set: PhotoSet, tiny_recipe: Callable
) -> None:
    """The comparison above can fail: two steps on other crops already differ."""
    config = tiny_recipe(loop__max_steps=2)
    for name, seed in (("a", 0), ("b", 1)):
        state = build_state(config)
        data = batches(CropDataset(photo_set, config.data, seed), 4, 0, 2, 0)
        (tmp_path / name).mkdir()
        log = RunLog(tmp_path / name / "log.jsonl")
        train(state, data, PixelAutoencoder(config.autoencoder), tmp_path / name, log, on_validation=lambda _: None)
    assert any(name.startswith("/model") for name in _differences(tmp_path / "a", tmp_path / "b"))


def test_state_comes_back_with_generator_score_and_norms(tmp_path: Path, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    torch.randn(7, generator=state.generator)
    state.step, state.best, state.grad_norms = 12, 31.5, [0.25, 4.0]
    save_state(state, tmp_path)
    again = build_state(tiny_recipe())
    load_state(again, tmp_path)
    assert (again.step, again.best, again.grad_norms) == (12, 31.5, [0.25, 4.0])
    assert torch.equal(torch.randn(5, generator=again.generator), torch.randn(5, generator=state.generator))


def test_save_state_leaves_one_file_readable_without_objects(tmp_path: Path, tiny_recipe: Callable) -> None:
    for _ in range(2):
        save_state(build_state(tiny_recipe()), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [CHECKPOINT_NAME]
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 0


def test_a_broken_off_save_keeps_the_older_state(
    tmp_path: Path, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = build_state(tiny_recipe())
    save_state(state, tmp_path)
    state.step = 5

    def full_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("linearsr_train.state.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_state(state, tmp_path)
    load_state(state, tmp_path)
    assert state.step == 0


# ---- refusals


def test_nothing_to_resume_is_an_error(tmp_path: Path, tiny_recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="nothing to resume in .*: no last.pt"):
        load_state(build_state(tiny_recipe()), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, tiny_recipe: Callable, damage: str) -> None:
    state = build_state(tiny_recipe())
    path = save_state(state, tmp_path)
    data = path.read_bytes()
    if damage == "other":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    with pytest.raises(TrainingError, match="last.pt' cannot be read"):
        load_state(state, tmp_path)


def test_a_checkpoint_with_code_inside_is_refused_unrun(tmp_path: Path, tiny_recipe: Callable) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the pickle was run",))

    torch.save({"config": Trap()}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(TrainingError, match="cannot be read"):
        load_state(build_state(tiny_recipe()), tmp_path)


def test_a_changed_recipe_is_refused_with_its_fields(tmp_path: Path, tiny_recipe: Callable) -> None:
    save_state(build_state(tiny_recipe()), tmp_path)
    other = tiny_recipe(optim__learning_rate=5e-4, data__degradation__sinc_prob=0.2, loop__max_steps=40)
    state = build_state(other)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    with pytest.raises(TrainingError) as caught:
        load_state(state, tmp_path)
    assert "in data.degradation.sinc_prob, optim.learning_rate" in str(caught.value)
    assert "max_steps" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"loop__max_steps": 40},
        {"loop__log_steps": 1},
        {"loop__checkpoint_steps": 3},
        {"data__num_workers": 1},
        {"data__cache_gib": 1.0},
    ],
    ids=str,
)
def test_a_resumed_run_may_change_its_length_and_rhythm(tmp_path: Path, tiny_recipe: Callable, change: dict) -> None:
    state = build_state(tiny_recipe())
    state.step = 4
    save_state(state, tmp_path)
    again = build_state(tiny_recipe(**change))
    load_state(again, tmp_path)
    assert again.step == 4


def test_changed_fields_names_what_differs_on_either_side() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "gone": 0}
    new = {"a": {"b": 2, "c": [1, 2]}, "d": 1, "fresh": 0}
    assert changed_fields(old, new) == ["a.b", "fresh", "gone"]
    assert changed_fields(old, old) == []


def test_state_holds_the_config_it_was_made_with(tiny_recipe: Callable) -> None:
    config: TrainConfig = tiny_recipe()
    assert build_state(config).config == config
