"""Training judges by the numbers that `linearsr eval` prints: the same functions, the same direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.metrics import METRICS, Lpips, Sample, ScoreSettings, gmsd, make_scorers, quantise, score
from linearsr.model.experts import ExpertBank
from linearsr.model.transformer import LinearDiT
from linearsr_train.compare import Paired
from linearsr_train.config import TrainConfig
from linearsr_train.data.sources import PhotoSet
from linearsr_train.evaluate import ValidationSet, build_validation, validate
from linearsr_train.knee import Scale

REFERENCE = frozenset({"reference"})


def _lpips_file(folder: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    weights = {}
    for index, (number, (out, inner, side)) in enumerate(shapes.items()):
        weights[f"features.{number}.weight"] = torch.randn(out, inner, side, side, generator=generator) * 0.05
        weights[f"features.{number}.bias"] = torch.zeros(out)
        weights[f"lin{index}.weight"] = torch.rand(1, out, 1, 1, generator=generator)
    save_file(weights, str(folder / "lpips.safetensors"))
    return folder / "lpips.safetensors"


@pytest.fixture
def config(tiny_recipe: Callable) -> TrainConfig:
    return tiny_recipe(model__state_gate="false")


@pytest.fixture
def data(photos: Path, config: TrainConfig) -> ValidationSet:
    return build_validation(PhotoSet([photos / "lamp.png"], 32, 1.0), config)


@pytest.mark.parametrize("name", ["gmsd", "lpips"])
def test_validate_reports_what_the_scorers_say_of_the_same_result(
    name: str, config: TrainConfig, data: ValidationSet, tmp_path: Path
) -> None:
    path = _lpips_file(tmp_path)
    distance = {"gmsd": gmsd, "lpips": Lpips.from_file(path)}[name]
    results: list[tuple[Tensor, Tensor]] = []

    def watched(sr: Tensor, hr: Tensor) -> float:
        results.append((sr[0], hr[0]))
        return distance(sr, hr)

    bank = ExpertBank((), lambda _: LinearDiT(config.model))
    with torch.no_grad():
        found = validate(bank, PixelAutoencoder(config.autoencoder), data, config, perceptual=watched)

    assert len(results) == 6  # one photograph, three tasks, two numbers of steps
    for task, entries in data.tasks.items():
        border = round(entries[0][2])
        psnr_of, _ = make_scorers(("psnr_y",), ScoreSettings(crop_border=border), has=REFERENCE, explicit=True)
        # the distance is watched over the whole crop: at 32 pixels a border would leave LPIPS too few
        distance_of, _ = make_scorers((name,), ScoreSettings(lpips_weights=path), has=REFERENCE, explicit=True)
        for steps in (1, 4):
            sr, hr = results.pop(0)
            sample = Sample(sr=sr, hr=hr)
            assert torch.equal(sr, quantise(sr)) and torch.equal(hr, quantise(hr))
            assert found[f"{task}/psnr_{steps}"] == round(score(psnr_of, sample)["psnr_y"], 4)
            assert found[f"{task}/perceptual_{steps}"] == round(score(distance_of, sample)[name], 4)
        bicubic = Sample(sr=quantise(entries[0][1])[0], hr=entries[0][0][0])
        assert found[f"{task}/psnr_bicubic"] == round(score(psnr_of, bicubic)["psnr_y"], 4)


def test_the_best_evaluation_is_best_in_the_direction_of_the_table() -> None:
    """`Scale.score` picks the best weights: higher is better, whatever the metrics are."""
    scale = Scale(
        psnr_weight=0.5, psnr_start=20.0, psnr_gain=2.0, psnr_noise=0.1,
        perceptual_start=0.5, perceptual_gain=0.2, perceptual_noise=0.01,
    )  # fmt: skip
    base, more_psnr, more_distance = scale.score([22.0, 23.0, 22.0], [0.3, 0.3, 0.4])
    assert (more_psnr > base) is not METRICS["psnr_y"].lower_better
    for name in ("gmsd", "lpips"):
        assert (more_distance < base) is METRICS[name].lower_better


def test_before_and_after_are_judged_in_the_direction_of_the_table() -> None:
    before, after = [1.0] * 8, [2.0] * 8
    for key, names in (("x4/psnr_1", ("psnr_y",)), ("real4/perceptual_4", ("gmsd", "lpips"))):
        verdict = Paired.of(key, before, after).verdict
        assert all((verdict == "worse") is METRICS[name].lower_better for name in names)
