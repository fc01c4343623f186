"""Validation: fixed pictures, the sampler users run, numbers that move the right way."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.metrics import gmsd, psnr, quantise
from linearsr.model.conditioning import Conditioning
from linearsr.model.experts import ExpertBank
from linearsr.model.transformer import LinearDiT
from linearsr.resize import resize
from linearsr_train.config import TrainConfig
from linearsr_train.data.degradation import degrade_bicubic
from linearsr_train.data.sources import PhotoSet
from linearsr_train.evaluate import ValidationSet, build_validation, sample_rows, validate
from linearsr_train.experts import boundaries_log_snr


@pytest.fixture
def config(tiny_recipe: Callable) -> TrainConfig:
    return tiny_recipe(model__state_gate="false")


@pytest.fixture
def data(photos: Path, config: TrainConfig) -> ValidationSet:
    return build_validation(PhotoSet([photos / "lamp.png", photos / "street.png"], 32, 1.0), config)


def _bank(*networks: nn.Module, boundaries: tuple[float, ...] = ()) -> ExpertBank:
    return ExpertBank(boundaries, lambda index: networks[index])


class Oracle(nn.Module):
    """Knows the answer: gives the exact latent of whichever picture the condition shows."""

    def __init__(self, data: ValidationSet, autoencoder: PixelAutoencoder, error: float = 0.0) -> None:
        super().__init__()
        self.known = [
            (autoencoder.condition(lr_up), autoencoder.encode(hr, lr_up, scale))
            for entries in data.tasks.values()
            for hr, lr_up, scale, _ in entries
        ]
        self.error = error

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        return next(x0 for known, x0 in self.known if torch.equal(known, cond.lr)) + self.error


def test_build_validation_takes_central_crops_with_all_three_tasks(
    photos: Path, config: TrainConfig, data: ValidationSet
) -> None:
    assert {task: len(entries) for task, entries in data.tasks.items()} == {"x4": 2, "x2": 2, "real4": 2}
    pixels = PhotoSet([photos / "street.png"], 32, 1.0).pixels(0)  # 91 x 67
    hr, lr_up, scale, ids = data.tasks["x2"][1]
    crop = torch.from_numpy(pixels[17:49, 29:61].astype("float32").transpose(2, 0, 1) / 255)
    assert torch.equal(hr[0], crop)
    lr = degrade_bicubic(crop.numpy().transpose(1, 2, 0).copy(), (16, 16)).lr
    assert torch.equal(lr_up[0], resize(torch.from_numpy(lr.transpose(2, 0, 1).copy()), (32, 32)))
    assert (scale, ids) == (2.0, [1])


def test_build_validation_is_the_same_every_time(photos: Path, config: TrainConfig, data: ValidationSet) -> None:
    torch.manual_seed(77)
    again = build_validation(PhotoSet([photos / "lamp.png", photos / "street.png"], 32, 1.0), config)
    for task, entries in data.tasks.items():
        for a, b in zip(entries, again.tasks[task], strict=True):
            assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2:] == b[2:]


def test_build_validation_uses_at_most_that_many_photographs(photos: Path, tiny_recipe: Callable) -> None:
    photo_set = PhotoSet(sorted(photos.iterdir()), 32, 1.0)
    assert len(build_validation(photo_set, tiny_recipe(loop__validation_photos=3)).tasks["x4"]) == 3


def test_validate_of_a_new_network_is_bicubic_at_one_step(config: TrainConfig, data: ValidationSet) -> None:
    scores = validate(_bank(LinearDiT(config.model)), PixelAutoencoder(config.autoencoder), data, config)
    for task, scale in (("x4", 4), ("x2", 2), ("real4", 4)):
        expected = [psnr(quantise(lr_up), hr, border=scale) for hr, lr_up, _, _ in data.tasks[task]]
        assert scores[f"{task}/psnr_bicubic"] == pytest.approx(sum(expected) / 2, abs=1e-4)
        assert scores[f"{task}/psnr_1"] == pytest.approx(scores[f"{task}/psnr_bicubic"], abs=0.01)
        perceptual = [gmsd(quantise(lr_up), hr) for hr, lr_up, _, _ in data.tasks[task]]
        assert scores[f"{task}/perceptual_1"] == pytest.approx(sum(perceptual) / 2, abs=1e-3)


def test_validate_of_an_oracle_is_perfect_at_every_number_of_steps(tiny_recipe: Callable, data: ValidationSet) -> None:
    config = tiny_recipe(model__state_gate="false", flow__preconditioned="false")
    autoencoder = PixelAutoencoder(config.autoencoder)
    scores = validate(_bank(Oracle(data, autoencoder)), autoencoder, data, config, steps=(1, 2, 4))
    for task in data.tasks:
        assert [scores[f"{task}/psnr_{steps}"] for steps in (1, 2, 4)] == [math.inf] * 3
        assert [scores[f"{task}/perceptual_{steps}"] for steps in (1, 2, 4)] == [0.0] * 3


def test_validate_measures_an_error_of_known_size(tiny_recipe: Callable, data: ValidationSet) -> None:
    config = tiny_recipe(model__state_gate="false", flow__preconditioned="false")
    autoencoder = PixelAutoencoder(config.autoencoder)
    offset = 4 / 255  # of gray: 219/255 of it in luma
    oracle = Oracle(data, autoencoder, offset / autoencoder.residual_std(4.0))
    scores = validate(_bank(oracle), autoencoder, data, config)
    assert scores["x4/psnr_1"] == pytest.approx(-20 * math.log10(offset * 219 / 255), abs=0.3)  # some pixels are white
    assert scores["x4/psnr_4"] == pytest.approx(scores["x4/psnr_1"], abs=0.1)


def test_validate_draws_the_same_noise_every_time(
    config: TrainConfig, data: ValidationSet, tiny_network: Callable
) -> None:
    network = tiny_network(config.model)
    autoencoder = PixelAutoencoder(config.autoencoder)
    scores = [validate(_bank(network), autoencoder, data, config) for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0]["x4/psnr_4"] != scores[0]["x4/psnr_1"]


def test_validate_takes_a_perceptual_metric(config: TrainConfig, data: ValidationSet) -> None:
    network, autoencoder = LinearDiT(config.model), PixelAutoencoder(config.autoencoder)
    scores = validate(_bank(network), autoencoder, data, config, steps=(1,), perceptual=lambda sr, hr: 0.125)
    assert scores["x2/perceptual_1"] == 0.125
    assert not any(key.endswith("_4") for key in scores)


def test_validate_asks_each_expert_for_its_own_steps(tiny_recipe: Callable, data: ValidationSet) -> None:
    """One step is the noisiest expert's alone; of four steps each expert makes one."""
    config = tiny_recipe(model__state_gate="false", flow__preconditioned="false")
    autoencoder, asked = PixelAutoencoder(config.autoencoder), []

    class Listed(Oracle):
        def __init__(self, expert: int) -> None:
            super().__init__(data, autoencoder)
            self.expert = expert

        def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
            asked.append((self.expert, round(float(t[0]), 3)))
            return super().forward(x_t, t, cond)

    one = ValidationSet({"x4": data.tasks["x4"][:1]})
    bank = _bank(*map(Listed, range(4)), boundaries=boundaries_log_snr(config.experts))
    scores = validate(bank, autoencoder, one, config, steps=(1, 4))
    assert asked == [(3, 1.0), (3, 1.0), (2, 0.9), (1, 0.65), (0, 0.22)]
    assert scores["x4/psnr_4"] == math.inf


def test_sample_rows_show_input_results_and_original(tiny_recipe: Callable, data: ValidationSet) -> None:
    config = tiny_recipe(model__state_gate="false", flow__preconditioned="false")
    autoencoder = PixelAutoencoder(config.autoencoder)
    rows = sample_rows(_bank(Oracle(data, autoencoder)), autoencoder, data, config, count=1, steps=(1, 2))
    assert [title for title, _ in rows] == ["x4 1", "x2 1", "real4 1"]
    for (_, cells), entries in zip(rows, data.tasks.values(), strict=True):
        assert [label for label, _ in cells] == ["input", "1 step", "2 steps", "original"]
        hr, lr_up, _, _ = entries[0]
        assert torch.equal(cells[0][1], quantise(lr_up)[0])
        assert all(torch.allclose(picture, hr[0], atol=1e-5) for _, picture in cells[1:])
