"""The moving average in closed form, and what it keeps over a save."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from linearsr_train.ema import Ema


def _model(value: float) -> nn.Module:
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.constant_(parameter, value)
    return model


def test_ema_of_changing_weights_is_the_weighted_sum() -> None:
    model = _model(1.0)
    ema = Ema(model, 0.9)
    expected = 1.0
    for update, value in enumerate([2.0, -1.0, 5.0, 0.5, 3.0], start=1):
        nn.init.constant_(model.weight, value)
        ema.update(model)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    assert ema.shadow["weight"].flatten().tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert ema.shadow["bias"].tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


def test_ema_reaches_its_full_decay() -> None:
    model = _model(0.0)
    ema = Ema(model, 0.99)
    ema.updates = 10_000
    nn.init.constant_(model.weight, 1.0)
    for _ in range(100):
        ema.update(model)
    assert float(ema.shadow["weight"][0, 0]) == pytest.approx(1 - 0.99**100, rel=1e-4)


def test_ema_forgets_the_random_start_sooner_than_its_decay_says() -> None:
    model = _model(1.0)
    ema = Ema(model, 0.999)
    nn.init.constant_(model.weight, 0.0)
    for _ in range(30):
        ema.update(model)
    assert float(ema.shadow["weight"][0, 0]) < 1e-3 < 0.999**30


def test_ema_is_a_copy_in_float32_that_leaves_the_model_alone() -> None:
    model = _model(1.0).bfloat16()
    ema = Ema(model, 0.9)
    nn.init.constant_(model.weight, 2.0)
    ema.update(model)
    assert ema.shadow["weight"].dtype == torch.float32
    assert float(ema.shadow["weight"][0, 0]) == pytest.approx(1 + 9 / 11, rel=1e-6)
    assert float(model.weight[0, 0].detach()) == 2.0


def test_ema_goes_on_after_loading_as_if_never_saved() -> None:
    model = _model(1.0)
    ema = Ema(model, 0.9)
    nn.init.constant_(model.weight, 3.0)
    ema.update(model)
    fresh = Ema(_model(7.0), 0.9)
    fresh.load_state_dict({name: value for name, value in ema.state_dict().items()})
    for average in (ema, fresh):
        average.update(model)
    assert fresh.updates == 2
    assert all(torch.equal(fresh.shadow[name], ema.shadow[name]) for name in ema.shadow)


def test_ema_keeps_its_memory_layout_over_a_save() -> None:
    model = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    ema, fresh = Ema(model, 0.9), Ema(model, 0.9)
    fresh.load_state_dict(
        {k: v.contiguous() if isinstance(v, torch.Tensor) else v for k, v in ema.state_dict().items()}
    )
    assert fresh.shadow["weight"].stride() == ema.shadow["weight"].stride()
    assert torch.equal(fresh.shadow["weight"], model.weight.detach())
