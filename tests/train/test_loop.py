"""The step and the loop: schedule, parts of a batch, what is not finite, the skip rule, the log, a loss that falls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.errors import TrainingError
from linearsr.model.lora import base_state_dict, lora_state_dict
from linearsr_train import loop as loop_module
from linearsr_train.config import TrainConfig
from linearsr_train.data.batches import Batch, CropDataset, batches, collate
from linearsr_train.data.sources import PhotoSet
from linearsr_train.loop import LossTerms, learning_rate, train, train_step
from linearsr_train.runlog import RunLog
from linearsr_train.stage_config import StageConfig
from linearsr_train.state import CHECKPOINT_NAME, TrainState, load_state


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


@pytest.fixture
def batch(photo_set: PhotoSet, tiny_recipe: Callable) -> Batch:
    dataset = CropDataset(photo_set, tiny_recipe().data, 0)
    return collate([dataset[index] for index in range(4)])


def _terms(config: TrainConfig) -> LossTerms:
    return LossTerms(PixelAutoencoder(config.autoencoder))


def _step(state: TrainState, batch: Batch) -> dict[str, float]:
    return train_step(state, batch, _terms(state.config))


def _weights(state: TrainState) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.model.state_dict().values()])


def _shadow(state: TrainState) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.ema.shadow.values()])


# ---- schedule


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    stage = StageConfig(max_steps=100, learning_rate=2.0, warmup_steps=10, decay_fraction=0.4)
    rates = [learning_rate(step, stage) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(1.0)
    assert rates[9:61] == pytest.approx([2.0] * 52)
    assert rates[80] == pytest.approx(1.0)
    assert rates[100] == 0.0
    assert learning_rate(150, stage) == 0.0


def test_learning_rate_without_warm_up_or_decay_is_constant() -> None:
    stage = StageConfig(max_steps=50, learning_rate=2.0, warmup_steps=0, decay_fraction=0.0)
    assert [learning_rate(step, stage) for step in range(50)] == [2.0] * 50


def test_train_step_sets_the_scheduled_rate(batch: Batch, make_state: Callable) -> None:
    state = make_state()
    for step in range(3):
        values = _step(state, batch)
        expected = learning_rate(step, state.stage.settings)
        assert values["learning_rate"] == expected
        assert {group["lr"] for group in state.optimizer.param_groups} == {expected}


# ---- one step


def test_build_state_is_seeded(make_state: Callable) -> None:
    a, b, c = (make_state(loop__seed=seed) for seed in (1, 1, 2))
    assert torch.equal(_weights(a), _weights(b))
    assert not torch.equal(_weights(a), _weights(c))
    assert torch.equal(_weights(a), _shadow(a))


def test_build_state_decays_matrices_only(make_state: Callable) -> None:
    state = make_state(optim__weight_decay=0.1)
    decayed, plain = state.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert all(parameter.dim() <= 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(state.model.parameters()))


def test_train_step_reports_errors_at_one_and_below(batch: Batch, make_state: Callable) -> None:
    state = make_state(flow__preconditioned="false", model__state_gate="false")
    values = _step(state, batch)
    autoencoder = _terms(state.config).autoencoder
    std = torch.tensor([autoencoder.residual_std(float(scale)) for scale in batch.scale])
    x0 = autoencoder.encode(batch.hr, batch.lr_up, std)
    squared = x0.square().mean(dim=(1, 2, 3))  # a new network predicts zero; the first half of the batch is at t = 1
    assert values["mse_one"] == pytest.approx(float(squared[:2].mean()), rel=1e-5)
    assert values["mse_below"] == pytest.approx(float(squared[2:].mean()), rel=1e-5)
    assert state.step == 1
    assert values["skipped"] == 0.0


def test_train_step_feeds_zeros_at_t_one(batch: Batch, make_state: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[torch.Tensor] = []
    inner = loop_module.apply_network

    def spy(network: torch.nn.Module, flow: object, x_t: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        fed.extend([x_t.clone(), t.clone()])
        return inner(network, flow, x_t, t, cond)

    monkeypatch.setattr(loop_module, "apply_network", spy)
    state = make_state()
    _step(state, batch)
    x_t, t = fed
    assert t[:2].tolist() == [1.0, 1.0]
    assert torch.equal(x_t[:2], torch.zeros_like(x_t[:2]))
    assert bool((x_t[2:].flatten(1).std(1) > 0.1).all())


def test_train_step_updates_the_average_after_the_weights(batch: Batch, make_state: Callable) -> None:
    state = make_state()
    start = _weights(state).clone()
    _step(state, batch)
    decay = 2 / 11
    assert (_weights(state) - start).abs().max() > 1e-5
    assert torch.allclose(_shadow(state), decay * start + (1 - decay) * _weights(state), atol=1e-6)


@pytest.mark.parametrize("what", ["pixels", "weights"])
def test_a_loss_that_is_not_finite_stops_before_the_optimizer(batch: Batch, make_state: Callable, what: str) -> None:
    state = make_state()
    _step(state, batch)
    bad = batch
    if what == "pixels":
        hr = batch.hr.clone()
        hr[0, 0, 0, 0] = math.nan
        bad = replace(batch, hr=hr)
    else:
        state.model.conv_out.bias.data[0] = math.inf
    weights, shadow = _weights(state).clone(), _shadow(state).clone()
    moments = {k: v["exp_avg"].clone() for k, v in state.optimizer.state_dict()["state"].items()}
    values = _step(state, bad)
    assert math.isnan(values["loss"])
    assert torch.equal(_weights(state), weights)
    assert torch.equal(_shadow(state), shadow)
    assert all(torch.equal(v["exp_avg"], moments[k]) for k, v in state.optimizer.state_dict()["state"].items())
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert (state.step, state.nonfinite, len(state.grad_norms)) == (1, 0, 1)


def test_a_gradient_that_is_not_finite_is_skipped_and_counted(
    batch: Batch, make_state: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    weights, shadow = _weights(state).clone(), _shadow(state).clone()
    with _broken_gradients(state):
        values = _step(state, batch)
    assert math.isfinite(values["loss"]) and not math.isfinite(values["grad_norm"])
    assert (values["skipped"], state.nonfinite, state.step, state.grad_norms) == (1.0, 1, 1, [])
    assert torch.equal(_weights(state), weights)
    assert torch.equal(_shadow(state), shadow)
    assert not state.optimizer.state_dict()["state"]
    assert _step(state, batch)["skipped"] == 0.0
    assert state.nonfinite == 1


@contextmanager
def _broken_gradients(state: TrainState) -> Iterator[None]:
    """One gradient becomes infinite, as where a square root meets zero; the loss stays finite."""
    handle = state.model.conv_out.bias.register_hook(lambda grad: grad * math.inf)
    try:
        yield
    finally:
        handle.remove()


# ---- a batch in parts


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_makes_the_same_step(batch: Batch, make_state: Callable, parts: int) -> None:
    whole = make_state(optim__max_grad_norm=0.05)
    divided = make_state(optim__max_grad_norm=0.05, loop__gradient_accumulation_steps=parts)
    for _ in range(4):
        a, b = _step(whole, batch), _step(divided, batch)
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-4)
        assert b["mse_one"] == pytest.approx(a["mse_one"], rel=1e-5)
        assert b["mse_below"] == pytest.approx(a["mse_below"], rel=1e-5)
    assert torch.allclose(_weights(divided), _weights(whole), atol=1e-5)
    assert torch.allclose(_shadow(divided), _shadow(whole), atol=1e-5)
    assert not torch.equal(_weights(divided), _weights(make_state()))


def test_a_later_part_that_is_not_finite_takes_the_earlier_ones_with_it(batch: Batch, make_state: Callable) -> None:
    state = make_state(loop__gradient_accumulation_steps=4)
    weights = _weights(state).clone()
    hr = batch.hr.clone()
    hr[3] = math.inf
    assert math.isnan(_step(state, replace(batch, hr=hr))["loss"])
    assert torch.equal(_weights(state), weights)
    assert all(parameter.grad is None for parameter in state.model.parameters())


# ---- the stage of a step


def test_an_expert_is_fed_times_of_its_interval_alone(
    batch: Batch, make_state: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = loop_module.apply_network
    seen: dict[str, list[float]] = {}
    for name, (low, high) in {"expert-0": (0.0, 0.243), "expert-2": (0.855, 0.959), "expert-3": (0.919, 1.0)}.items():

        def spy(network, flow, x_t, t, cond, name=name):
            seen.setdefault(name, []).extend(t.tolist())
            return inner(network, flow, x_t, t, cond)

        monkeypatch.setattr(loop_module, "apply_network", spy)
        state = make_state(name)
        for _ in range(3):
            _step(state, batch)
        assert all(low - 1e-6 <= t <= high + 1e-6 for t in seen[name]), name
        assert seen[name].count(1.0) == (6 if name == "expert-3" else 0)


def test_frozen_parts_of_an_expert_keep_the_shared_values(
    batch: Batch, make_state: Callable, tiny_network: Callable, tiny_recipe: Callable
) -> None:
    config = tiny_recipe(experts__frozen='["transformer_blocks", "caption"]')
    before = tiny_network(config.model).state_dict()
    state = make_state("expert-1", config=config, start=before)
    frozen = [name for name in before if name.startswith(("transformer_blocks", "caption"))]
    for _ in range(3):
        _step(state, batch)
    changed = {name for name, value in state.model.state_dict().items() if not torch.equal(value, before[name])}
    assert frozen and changed
    assert not changed & set(frozen)
    assert all(torch.equal(state.ema.shadow[name], before[name]) for name in frozen)


def test_a_lora_expert_trains_its_low_rank_part_alone(batch: Batch, make_state: Callable) -> None:
    start = make_state().model.state_dict()
    state = make_state("expert-1", start=start, experts__mode="lora")
    for _ in range(3):
        _step(state, batch)
    after = state.model.state_dict()
    assert {name: value for name, value in base_state_dict(after).items()}.keys() == start.keys()
    assert all(torch.equal(value, start[name]) for name, value in base_state_dict(after).items())
    ups = [value for name, value in lora_state_dict(after).items() if name.endswith("lora_up")]
    assert ups and all(bool((up != 0).any()) for up in ups)


def test_the_perceptual_term_joins_the_loss_with_its_weight(batch: Batch, make_state: Callable) -> None:
    def difference(weight: float) -> float:
        state = make_state("expert-0", experts__perceptual_weight=weight)
        plain = make_state("expert-0")
        terms = replace(_terms(state.config), perceptual=lambda sr, hr: torch.full((len(sr),), 0.5) + 0 * sr.sum())
        return train_step(state, batch, terms)["loss"] - _step(plain, batch)["loss"]

    assert difference(0.3) == pytest.approx(0.15, abs=1e-5)


def test_a_gradient_far_above_the_median_is_skipped(batch: Batch, make_state: Callable) -> None:
    state = make_state()
    state.grad_norms = [1e-6] * 50
    weights, shadow = _weights(state).clone(), _shadow(state).clone()
    values = _step(state, batch)
    assert values["skipped"] == 1.0
    assert torch.equal(_weights(state), weights)
    assert torch.equal(_shadow(state), shadow)
    assert state.step == 1
    assert state.grad_norms[-1] == values["grad_norm"]


@pytest.mark.parametrize("norms", [[1e-6] * 49, [1e3] * 50, []])
def test_a_gradient_is_not_skipped_early_or_below_the_bound(
    batch: Batch, make_state: Callable, norms: list[float]
) -> None:
    state = make_state()
    state.grad_norms = norms
    weights = _weights(state).clone()
    assert _step(state, batch)["skipped"] == 0.0
    assert not torch.equal(_weights(state), weights)


def test_the_history_of_norms_is_bounded(batch: Batch, make_state: Callable) -> None:
    state = make_state()
    state.grad_norms = [float(n) for n in range(200)]
    _step(state, batch)
    assert len(state.grad_norms) == 200
    assert state.grad_norms[0] == 1.0


def test_gradients_are_clipped_to_the_largest_norm(batch: Batch, make_state: Callable) -> None:
    state = make_state(optim__max_grad_norm=1e-3)
    values = _step(state, batch)
    total = torch.sqrt(sum(p.grad.square().sum() for p in state.model.parameters() if p.grad is not None))
    assert values["grad_norm"] > 1e-3
    assert float(total) == pytest.approx(1e-3, rel=1e-3)


def test_twenty_steps_on_one_batch_make_the_loss_fall(batch: Batch, make_state: Callable) -> None:
    state = make_state(stages__pretrain__learning_rate=1e-2, loss__t_one_probability=1.0)
    losses = [_step(state, batch)["loss"] for _ in range(20)]
    assert sum(losses[-5:]) / 5 < 0.97 * losses[0], losses
    assert min(losses) == min(losses[10:])


# ---- the loop


def _unexpected(state: TrainState, batch: Batch) -> None:
    pytest.fail(f"not finite at step {state.step}")


def _train(
    state: TrainState, data: Iterator[Batch], folder: Path, **hooks: Callable
) -> tuple[str, list[dict[str, float]]]:
    log = RunLog(folder)
    hooks = {"on_validation": lambda _: None, "on_nonfinite": _unexpected, **hooks}
    ending = train(state, data, _terms(state.config), folder, log, **hooks)
    log.close()
    lines = (folder / "log.jsonl").read_text().splitlines()
    return ending, [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) for line in lines]


def test_train_logs_validates_and_saves_in_its_rhythm(
    tmp_path: Path, photo_set: PhotoSet, make_state: Callable
) -> None:
    rhythm = {"stages__pretrain__max_steps": 9, "stages__pretrain__validation_steps": 4, "loop__checkpoint_steps": 6}
    state = make_state(**rhythm)
    validated: list[tuple[int, bool]] = []
    progressed: list[int] = []
    data = batches(CropDataset(photo_set, state.config.data, 0), 4, 0, 9, 0)
    ending, log = _train(
        state,
        data,
        tmp_path,
        on_validation=lambda s: validated.append((s.step, (tmp_path / CHECKPOINT_NAME).is_file())),
        on_progress=lambda s, values: progressed.append(s.step),
    )
    assert ending == "budget"
    assert validated == [(0, False), (4, False), (8, True), (9, True)]
    assert progressed == list(range(1, 10))
    assert [line["step"] for line in log] == [4, 8]
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 9


def test_train_logs_the_mean_of_its_steps_also_after_a_resume(
    tmp_path: Path, batch: Batch, make_state: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_step(state: TrainState, batch: Batch, terms: LossTerms) -> dict[str, float]:
        state.step += 1
        return {"loss": float(state.step), "mse_one": math.nan if state.step % 2 else 6.0, "mse_below": math.nan}

    monkeypatch.setattr(loop_module, "train_step", fake_step)
    state = make_state(stages__pretrain__max_steps=8)
    state.step = 2
    _, log = _train(state, iter([batch] * 6), tmp_path)
    assert [(line["step"], line["loss"]) for line in log] == [(4, 3.5), (8, 6.5)]
    assert [line["mse_one"] for line in log] == [6.0, 6.0]
    assert all("mse_below" not in line for line in log), "no batch had a time below 1"


def test_train_stops_when_asked_and_saves_first(tmp_path: Path, batch: Batch, make_state: Callable) -> None:
    state = make_state()
    ending, _ = _train(state, iter([batch] * 20), tmp_path, should_stop=lambda: state.step == 3)
    assert ending == "stopped"
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 3


@pytest.mark.parametrize("stopping", [True, False])
def test_train_saves_when_a_stop_takes_the_loader_first_and_raises_otherwise(
    tmp_path: Path, batch: Batch, make_state: Callable, stopping: bool
) -> None:
    asked = False

    def broken() -> Iterator[Batch]:
        nonlocal asked
        yield batch
        asked = stopping
        raise RuntimeError("DataLoader worker exited")

    state = make_state()
    if stopping:
        ending, _ = _train(state, broken(), tmp_path, should_stop=lambda: asked)
        assert ending == "stopped" and state.step == 1
        assert (tmp_path / CHECKPOINT_NAME).is_file()
    else:
        with pytest.raises(RuntimeError, match="worker exited"):
            _train(state, broken(), tmp_path, should_stop=lambda: asked)


def test_train_of_a_finished_stage_does_nothing(tmp_path: Path, make_state: Callable) -> None:
    state = make_state()
    state.step = 20
    ending, log = _train(state, iter([]), tmp_path)
    assert ending == "budget"
    assert log == []


def test_train_ends_with_what_the_controller_says_and_saves_it(
    tmp_path: Path, batch: Batch, make_state: Callable
) -> None:
    """A curve that rises and then lies flat is a plateau to the real controller, well before the budget is spent."""
    settings = ["esgf__least_evaluations=6", "esgf__patience=3", "esgf__restless_factor=100", "esgf__plateau_gain=10"]
    state = make_state(
        stages__pretrain__validation_steps=1,
        loop__checkpoint_steps=100,
        **dict(setting.split("=") for setting in settings),
    )
    curve = [20.0, 24.0, 26.0, 27.0, 27.5, 27.6, *[27.6] * 40]

    def watch(state: TrainState) -> None:
        state.esgf.update(state.step, curve[state.step], 0.2 - 0.1 * (curve[state.step] - 20) / 8)

    ending, _ = _train(state, iter([batch] * 20), tmp_path, on_validation=watch)
    assert ending == "plateau" == state.esgf.verdict.status
    assert 6 <= state.step < 20
    saved = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert saved["step"] == state.step
    assert json.loads(saved["esgf"]) == state.esgf.state_dict()


# ---- what is not finite, in the loop


def _collapse(state: TrainState, batch: Batch) -> None:
    state.esgf.update(state.step + 1, math.nan, math.nan, finite=False)


def test_a_loss_that_is_not_finite_ends_the_stage_as_a_collapse(
    tmp_path: Path, batch: Batch, make_state: Callable
) -> None:
    state, told = make_state(loop__checkpoint_steps=2), []
    bad = replace(batch, hr=batch.hr * math.inf, first_index=20)

    def on_nonfinite(state: TrainState, batch: Batch) -> None:
        told.append((state.step, batch.first_index))
        _collapse(state, batch)

    ending, _ = _train(state, iter([*[batch] * 5, bad]), tmp_path, on_nonfinite=on_nonfinite)
    assert (ending, told) == ("collapse", [(5, 20)])
    assert torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)["step"] == 4, "the last good one stays"


def test_three_gradients_that_are_not_finite_are_survived_and_a_fourth_is_a_collapse(
    tmp_path: Path, batch: Batch, make_state: Callable
) -> None:
    state, seen = make_state(), []
    state.model.conv_out.bias.register_hook(lambda grad: grad * math.inf if state.step in (1, 3, 4, 7) else grad)

    def progress(state: TrainState, values: dict[str, float]) -> None:
        seen.append((state.step, values["skipped"], _weights(state).clone()))

    ending, _ = _train(state, iter([batch] * 20), tmp_path, on_nonfinite=_collapse, on_progress=progress)
    assert ending == "collapse"
    assert (state.step, state.nonfinite) == (8, 4)
    assert [step for step, skipped, _ in seen if skipped] == [2, 4, 5]
    assert torch.equal(_weights(state), seen[-1][2]), "the fourth changed nothing either"


def test_an_error_on_what_is_not_finite_leaves_weights_and_checkpoint_whole(
    tmp_path: Path, batch: Batch, make_state: Callable
) -> None:
    state = make_state(loop__checkpoint_steps=2)
    weights: list[torch.Tensor] = []

    def give_up(state: TrainState, batch: Batch) -> None:
        raise TrainingError("nothing to go back to")

    bad = replace(batch, lr_up=batch.lr_up * math.nan)
    with pytest.raises(TrainingError, match="nothing to go back to"):
        _train(
            state, iter([batch, batch, batch, bad]), tmp_path, on_nonfinite=give_up,
            on_progress=lambda s, _: weights.append(_weights(s).clone()),
        )  # fmt: skip
    assert torch.equal(_weights(state), weights[-1])
    again = make_state(loop__checkpoint_steps=2)
    load_state(again, tmp_path)
    assert again.step == 2
    assert torch.equal(_weights(again), weights[1])
