"""Weights on their way through a run: what is looked up where, what a model to start from must be, whole files."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.checkpoint import save_checkpoint
from linearsr.config import ExpertsConfig
from linearsr.errors import ConfigError, TrainingError, WeightsError
from linearsr_train.config import TrainConfig
from linearsr_train.experts import boundaries_log_snr, plan_stages
from linearsr_train.weights import (
    DONE_NAME,
    LORA_NAME,
    RESULT_NAME,
    START_NAME,
    WeightBook,
    averaged,
    read_init,
    read_tensors,
    write_tensors,
)


def _one(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 3), value)}


def _value(tensors: dict[str, torch.Tensor] | None) -> float | None:
    return None if tensors is None else float(tensors["w"][0, 0])


def _leave(run: Path, stage: str, value: float, lora: float | None = None) -> None:
    """A finished stage, as `run_stage` leaves it."""
    folder = run / "stages" / stage
    folder.mkdir(parents=True)
    write_tensors(folder / RESULT_NAME, _one(value))
    if lora is not None:
        write_tensors(folder / LORA_NAME, _one(lora))
    (folder / DONE_NAME).write_text("{}")


def _fell_back(run: Path, stage: str, value: float) -> None:
    folder, keep = run / "stages" / stage, run / "stages" / "pretrain" / "keep"
    folder.mkdir(parents=True, exist_ok=True)
    keep.mkdir(parents=True, exist_ok=True)
    write_tensors(keep / "step-00000005.safetensors", {"ema/w": _one(value)["w"], "model/w": _one(-1.0)["w"]})
    (folder / START_NAME).write_text(json.dumps({"elbow_file": "keep/step-00000005.safetensors", "elbow": 5}))


def _stage(config: TrainConfig, name: str) -> Any:
    return {stage.name: stage for stage in plan_stages(config)}[name]


# ---- the book


def test_an_empty_run_has_nothing(tmp_path: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe()
    book = WeightBook(config, tmp_path)
    assert book.num_experts == 4
    assert not book.has_experts
    assert [book.shared(0), book.best(3), book.lora(1), book.common_base()] == [None] * 4
    assert book.start(_stage(config, "pretrain")) is None


def test_each_stage_starts_from_the_one_before_it(tmp_path: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe()
    book = WeightBook(config, tmp_path)
    _leave(tmp_path, "pretrain", 1.0)
    assert [_value(book.start(_stage(config, f"expert-{e}"))) for e in range(4)] == [1.0] * 4
    assert _value(book.start(_stage(config, "sft-2"))) == 1.0
    assert not book.has_experts
    _leave(tmp_path, "expert-2", 2.0)
    assert book.has_experts
    assert _value(book.start(_stage(config, "sft-2"))) == 2.0
    assert _value(book.start(_stage(config, "sft-1"))) == 1.0
    assert [_value(book.best(e)) for e in range(4)] == [1.0, 1.0, 2.0, 1.0]
    _leave(tmp_path, "sft-2", 3.0)
    assert _value(book.best(2)) == 3.0
    assert _value(book.common_base()) == 1.0


def test_a_stage_without_its_last_word_is_not_finished(tmp_path: Path, tiny_recipe: Callable) -> None:
    book = WeightBook(tiny_recipe(), tmp_path)
    _leave(tmp_path, "pretrain", 1.0)
    (tmp_path / "stages" / "pretrain" / DONE_NAME).unlink()
    assert not book.is_done("pretrain")
    assert book.shared(0) is None


def test_an_expert_that_fell_back_starts_from_the_average_of_the_elbow(tmp_path: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe()
    book = WeightBook(config, tmp_path)
    _leave(tmp_path, "pretrain", 1.0)
    _fell_back(tmp_path, "expert-1", 0.5)
    assert set(book.start(_stage(config, "expert-1"))) == {"w"}
    assert [_value(book.start(_stage(config, f"expert-{e}"))) for e in range(4)] == [1.0, 0.5, 1.0, 1.0]
    assert book.common_base() is None, "four LoRAs on one base would be wrong now"


def test_a_lora_stage_keeps_its_base_and_goes_on_with_its_part(tmp_path: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe(experts__mode="lora")
    book = WeightBook(config, tmp_path)
    _leave(tmp_path, "pretrain", 1.0)
    assert book.start_lora(_stage(config, "expert-1"))[1] is None
    _leave(tmp_path, "expert-1", 2.0, lora=0.25)
    _leave(tmp_path, "expert-0", 2.0, lora=0.75)
    _fell_back(tmp_path, "expert-0", 0.5)
    found = {e: tuple(map(_value, book.start_lora(_stage(config, f"sft-{e}")))) for e in (2, 1, 0)}
    assert found == {2: (1.0, None), 1: (1.0, 0.25), 0: (0.5, 0.75)}
    assert [_value(book.lora(e)) for e in range(4)] == [0.75, 0.25, None, None]
    _leave(tmp_path, "sft-1", 2.5, lora=0.3)
    assert _value(book.lora(1)) == pytest.approx(0.3)


# ---- a model to start from


@pytest.fixture
def models(tmp_path: Path, tiny_config: Callable, tiny_network: Callable) -> Callable[..., Path]:
    """Folder of a tiny model with as many experts as asked for."""

    def make(count: int = 1, boundaries: tuple[float, ...] = (), **changes: Any) -> Path:
        files = tuple(f"expert-{e}.safetensors" for e in range(count))
        config = tiny_config(experts=ExpertsConfig(boundaries_log_snr=boundaries, files=files), **changes)
        states = [tiny_network(config.model, seed).state_dict() for seed in range(count)]
        save_checkpoint(tmp_path / f"model-{count}", config, states, dtype=torch.float32)
        return tmp_path / f"model-{count}"

    return make


def test_a_run_starts_from_the_one_network_of_a_model(
    tmp_path: Path, models: Callable, tiny_recipe: Callable, tiny_network: Callable
) -> None:
    config = tiny_recipe(init=str(models()))
    book = WeightBook(config, tmp_path / "run")
    expected = tiny_network(config.model, 0).state_dict()
    for stage in ("pretrain", "expert-3", "sft-0"):
        start = book.start(_stage(config, stage))
        assert start.keys() == expected.keys()
        assert all(torch.equal(start[name], value) for name, value in expected.items()), stage
    assert not book.has_experts
    assert book.common_base() is not None


def test_a_run_starts_each_expert_from_its_own(
    tmp_path: Path, models: Callable, tiny_recipe: Callable, tiny_network: Callable
) -> None:
    config = tiny_recipe(init="placeholder", stages__pretrain__max_steps=0)
    folder = models(4, boundaries_log_snr(config.experts))
    config = tiny_recipe(init=str(folder), stages__pretrain__max_steps=0)
    book = WeightBook(config, tmp_path / "run")
    assert book.has_experts
    assert book.common_base() is None
    for expert in range(4):
        expected = tiny_network(config.model, expert).state_dict()
        start = book.start(_stage(config, f"expert-{expert}"))
        assert all(torch.equal(start[name], value) for name, value in expected.items()), expert


def test_experts_are_no_start_for_a_pretraining(tmp_path: Path, models: Callable, tiny_recipe: Callable) -> None:
    config = tiny_recipe(init=str(models(4, boundaries_log_snr(tiny_recipe().experts))))
    with pytest.raises(ConfigError, match="has 4 experts, expected one network to pretrain"):
        WeightBook(config, tmp_path).start(_stage(config, "pretrain"))


def test_a_model_of_another_shape_is_refused_with_its_fields(models: Callable, tiny_recipe: Callable) -> None:
    folder = models()
    with pytest.raises(ConfigError, match="differs from the recipe in model.depth, model.width") as caught:
        read_init(tiny_recipe(init=str(folder), model__width=24, model__depth=2))
    assert "linearsr finetune" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="differs from the recipe in autoencoder.residual_std.4$"):
        read_init(tiny_recipe(init=str(folder), autoencoder__residual_std__4=0.05))


def test_a_model_with_other_boundaries_is_refused(models: Callable, tiny_recipe: Callable) -> None:
    with pytest.raises(ConfigError, match=r"has 2 experts cut at log-SNR \(1.5,\), the recipe cuts at \(2.49"):
        read_init(tiny_recipe(init=str(models(2, (1.5,)))))


def test_a_model_that_is_nowhere_is_refused(tmp_path: Path, tiny_recipe: Callable) -> None:
    with pytest.raises(WeightsError):
        read_init(tiny_recipe(init=str(tmp_path / "nothing")))


# ---- files


def test_tensors_come_back_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"ema/w": torch.rand(3, 2), "model/w": torch.rand(3, 2)}
    write_tensors(path, tensors)
    assert all(torch.equal(value, tensors[name]) for name, value in read_tensors(path).items())
    assert torch.equal(averaged(read_tensors(path))["w"], tensors["ema/w"])
    assert len(averaged(tensors)) == 1
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TrainingError, match="a.safetensors' cannot be read"):
        read_tensors(path)
    with pytest.raises(TrainingError, match="b.safetensors' cannot be read"):
        read_tensors(tmp_path / "b.safetensors")


def test_a_full_disk_keeps_the_older_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": torch.ones(1000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(TrainingError, match="cannot be written") as caught:
            write_tensors(path, {"w": torch.zeros(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free some space" in str(caught.value.hint)
    assert torch.equal(read_tensors(path)["w"], torch.ones(1000))
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["a.safetensors"]


def test_a_finished_run_is_read_as_it_lies(finished: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.folder / "stages", tmp_path / "stages")
    book = WeightBook(finished.config, tmp_path)
    assert book.has_experts
    for expert in range(4):
        expected = read_tensors(finished.folder / "stages" / f"sft-{expert}" / RESULT_NAME)
        assert all(torch.equal(value, expected[name]) for name, value in book.best(expert).items())
