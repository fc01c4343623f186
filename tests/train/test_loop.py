"""The step and the loop: schedule, refusal of what is not finite, the skip rule, the log, and a loss that falls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.errors import TrainingError
from linearsr_train import loop as loop_module
from linearsr_train.config import OptimConfig
from linearsr_train.data.batches import Batch, CropDataset, batches, collate
from linearsr_train.data.sources import PhotoSet
from linearsr_train.loop import build_state, learning_rate, train, train_step
from linearsr_train.runlog import RunLog
from linearsr_train.state import CHECKPOINT_NAME, TrainState


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


@pytest.fixture
def batch(photo_set: PhotoSet, tiny_recipe: Callable) -> Batch:
    dataset = CropDataset(photo_set, tiny_recipe().data, 0)
    return collate([dataset[index] for index in range(4)])


def _autoencoder(state: TrainState) -> PixelAutoencoder:
    return PixelAutoencoder(state.config.autoencoder)


def _weights(state: TrainState) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.model.state_dict().values()])


def _shadow(state: TrainState) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.ema.shadow.values()])


# ---- schedule


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = OptimConfig(learning_rate=2.0, warmup_steps=10, decay_fraction=0.4)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0)
    assert rates[9:61] == pytest.approx([2.0] * 52)
    assert rates[80] == pytest.approx(1.0)
    assert rates[100] == 0.0
    assert learning_rate(150, 100, config) == 0.0


def test_learning_rate_without_warm_up_or_decay_is_constant() -> None:
    config = OptimConfig(learning_rate=2.0, warmup_steps=0, decay_fraction=0.0)
    assert [learning_rate(step, 50, config) for step in range(50)] == [2.0] * 50


def test_train_step_sets_the_scheduled_rate(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    for step in range(3):
        values = train_step(state, batch, _autoencoder(state))
        expected = learning_rate(step, 20, state.config.optim)
        assert values["learning_rate"] == expected
        assert {group["lr"] for group in state.optimizer.param_groups} == {expected}


# ---- one step


def test_build_state_is_seeded(tiny_recipe: Callable) -> None:
    a, b, c = (build_state(tiny_recipe(loop__seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(_weights(a), _weights(b))
    assert not torch.equal(_weights(a), _weights(c))
    assert torch.equal(_weights(a), _shadow(a))


def test_build_state_decays_matrices_only(tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe(optim__weight_decay=0.1))
    decayed, plain = state.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert all(parameter.dim() <= 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(state.model.parameters()))


def test_train_step_reports_errors_at_one_and_below(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe(flow__preconditioned="false", model__state_gate="false"))
    values = train_step(state, batch, _autoencoder(state))
    std = torch.tensor([_autoencoder(state).residual_std(float(scale)) for scale in batch.scale])
    x0 = _autoencoder(state).encode(batch.hr, batch.lr_up, std)
    squared = x0.square().mean(dim=(1, 2, 3))  # a new network predicts zero; the first half of the batch is at t = 1
    assert values["mse_one"] == pytest.approx(float(squared[:2].mean()), rel=1e-5)
    assert values["mse_below"] == pytest.approx(float(squared[2:].mean()), rel=1e-5)
    assert state.step == 1
    assert values["skipped"] == 0.0


def test_train_step_feeds_zeros_at_t_one(batch: Batch, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[torch.Tensor] = []
    inner = loop_module.apply_network

    def spy(network: torch.nn.Module, flow: object, x_t: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        fed.extend([x_t.clone(), t.clone()])
        return inner(network, flow, x_t, t, cond)

    monkeypatch.setattr(loop_module, "apply_network", spy)
    state = build_state(tiny_recipe())
    train_step(state, batch, _autoencoder(state))
    x_t, t = fed
    assert t[:2].tolist() == [1.0, 1.0]
    assert torch.equal(x_t[:2], torch.zeros_like(x_t[:2]))
    assert bool((x_t[2:].flatten(1).std(1) > 0.1).all())


def test_train_step_updates_the_average_after_the_weights(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    start = _weights(state).clone()
    train_step(state, batch, _autoencoder(state))
    decay = 2 / 11
    assert (_weights(state) - start).abs().max() > 1e-5
    assert torch.allclose(_shadow(state), decay * start + (1 - decay) * _weights(state), atol=1e-6)


@pytest.mark.parametrize("what", ["pixels", "weights"])
def test_a_loss_that_is_not_finite_stops_before_the_optimizer(batch: Batch, tiny_recipe: Callable, what: str) -> None:
    state = build_state(tiny_recipe())
    train_step(state, batch, _autoencoder(state))
    bad = batch
    if what == "pixels":
        hr = batch.hr.clone()
        hr[0, 0, 0, 0] = math.nan
        bad = Batch(hr, batch.lr_up, batch.scale, batch.tags, batch.tag_mask)
    else:
        state.model.conv_out.bias.data[0] = math.inf
    weights, shadow = _weights(state).clone(), _shadow(state).clone()
    moments = {k: v["exp_avg"].clone() for k, v in state.optimizer.state_dict()["state"].items()}
    with pytest.raises(TrainingError, match="step 1: loss is .*, expected finite numbers") as caught:
        train_step(state, bad, _autoencoder(state))
    assert "optim.learning_rate" in str(caught.value.hint)
    assert torch.equal(_weights(state), weights)
    assert torch.equal(_shadow(state), shadow)
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in state.optimizer.state_dict()["state"].items())
    assert state.step == 1


def test_a_gradient_far_above_the_median_is_skipped(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    state.grad_norms = [1e-6] * 50
    weights, shadow = _weights(state).clone(), _shadow(state).clone()
    values = train_step(state, batch, _autoencoder(state))
    assert values["skipped"] == 1.0
    assert torch.equal(_weights(state), weights)
    assert torch.equal(_shadow(state), shadow)
    assert state.step == 1
    assert state.grad_norms[-1] == values["grad_norm"]


@pytest.mark.parametrize("norms", [[1e-6] * 49, [1e3] * 50, []])
def test_a_gradient_is_not_skipped_early_or_below_the_bound(
    batch: Batch, tiny_recipe: Callable, norms: list[float]
) -> None:
    state = build_state(tiny_recipe())
    state.grad_norms = norms
    weights = _weights(state).clone()
    assert train_step(state, batch, _autoencoder(state))["skipped"] == 0.0
    assert not torch.equal(_weights(state), weights)


def test_the_history_of_norms_is_bounded(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    state.grad_norms = [float(n) for n in range(200)]
    train_step(state, batch, _autoencoder(state))
    assert len(state.grad_norms) == 200
    assert state.grad_norms[0] == 1.0


def test_gradients_are_clipped_to_the_largest_norm(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe(optim__max_grad_norm=1e-3))
    values = train_step(state, batch, _autoencoder(state))
    total = torch.sqrt(sum(p.grad.square().sum() for p in state.model.parameters() if p.grad is not None))
    assert values["grad_norm"] > 1e-3
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_twenty_steps_on_one_batch_make_the_loss_fall(batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe(optim__learning_rate=1e-2, loss__t_one_probability=1.0))
    losses = [train_step(state, batch, _autoencoder(state))["loss"] for _ in range(20)]
    assert sum(losses[-5:]) / 5 < 0.97 * losses[0], losses
    assert min(losses) == min(losses[10:])


# ---- the loop


def _train(
    state: TrainState, data: Iterator[Batch], folder: Path, **hooks: Callable
) -> tuple[bool, list[dict[str, float]]]:
    log = RunLog(folder / "log.jsonl")
    finished = train(state, data, _autoencoder(state), folder, log, **{"on_validation": lambda _: None, **hooks})
    log.close()
    lines = (folder / "log.jsonl").read_text().splitlines()
    return finished, [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]


def test_train_logs_validates_and_saves_in_its_rhythm(
    tmp_path: Path, photo_set: PhotoSet, tiny_recipe: Callable
) -> None:
    config = tiny_recipe(loop__max_steps=9, loop__validation_steps=4, loop__checkpoint_steps=6)
    state = build_state(config)
    validated: list[tuple[int, bool]] = []
    progressed: list[int] = []
    data = batches(CropDataset(photo_set, config.data, 0), 4, 0, 9, 0)
    finished, log = _train(
        state,
        data,
        tmp_path,
        on_validation=lambda s: validated.append((s.step, (tmp_path / CHECKPOINT_NAME).is_file())),
        on_progress=lambda s, values: progressed.append(s.step),
    )
    assert finished
    assert validated == [(4, False), (8, True), (9, True)]
    assert progressed == list(range(1, 10))
    assert [line["step"] for line in log] == [4, 8]
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 9


def test_train_logs_the_mean_of_its_steps_also_after_a_resume(
    tmp_path: Path, batch: Batch, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_step(state: TrainState, batch: Batch, autoencoder: PixelAutoencoder) -> dict[str, float]:
        state.step += 1
        return {"loss": float(state.step), "mse_one": math.nan if state.step % 2 else 6.0, "mse_below": math.nan}

    monkeypatch.setattr(loop_module, "train_step", fake_step)
    state = build_state(tiny_recipe(loop__max_steps=8))
    state.step = 2
    _, log = _train(state, iter([batch] * 6), tmp_path)
    assert [(line["step"], line["loss"]) for line in log] == [(4, 3.5), (8, 6.5)]
    assert [line["mse_one"] for line in log] == [6.0, 6.0]
    assert all("mse_below" not in line for line in log), "no batch had a time below 1"


def test_train_stops_when_asked_and_saves_first(tmp_path: Path, batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    finished, _ = _train(state, iter([batch] * 20), tmp_path, should_stop=lambda: state.step == 3)
    assert not finished
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 3


@pytest.mark.parametrize("stopping", [True, False])
def test_train_saves_when_a_stop_takes_the_loader_first_and_raises_otherwise(
    tmp_path: Path, batch: Batch, tiny_recipe: Callable, stopping: bool
) -> None:
    asked = False

    def broken() -> Iterator[Batch]:
        nonlocal asked
        yield batch
        asked = stopping
        raise RuntimeError("DataLoader worker exited")

    state = build_state(tiny_recipe())
    if stopping:
        finished, _ = _train(state, broken(), tmp_path, should_stop=lambda: asked)
        assert not finished and state.step == 1
        assert (tmp_path / CHECKPOINT_NAME).is_file()
    else:
        with pytest.raises(RuntimeError, match="worker exited"):
            _train(state, broken(), tmp_path, should_stop=lambda: asked)


def test_train_of_a_finished_run_does_nothing(tmp_path: Path, batch: Batch, tiny_recipe: Callable) -> None:
    state = build_state(tiny_recipe())
    state.step = 20
    finished, log = _train(state, iter([]), tmp_path)
    assert finished
    assert log == []
