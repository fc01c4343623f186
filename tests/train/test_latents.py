"""The two families' way between batches and network, and what training makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from linearsr.autoencoders.pixel import PixelAutoencoder
from linearsr.flow import add_noise
from linearsr.metrics import gmsd, psnr, quantise
from linearsr.model.conditioning import Conditioning
from linearsr.model.experts import ExpertBank
from linearsr.resize import resize
from linearsr.schedules import compact_grid, dpm_flow_grid
from linearsr.tags.encoder import pad_embeddings
from linearsr_train.build import build_state
from linearsr_train.components import find_components
from linearsr_train.config import TrainConfig
from linearsr_train.context import open_latents
from linearsr_train.data.batches import Batch, CropDataset, collate
from linearsr_train.data.prompts import Prompts
from linearsr_train.data.sources import PhotoSet
from linearsr_train.distributed import build_accelerator
from linearsr_train.evaluate import autoencoder_ceiling, build_validation, sample_rows, time_grid, validate
from linearsr_train.latents import LearnedLatents, PixelLatents, latents_of
from linearsr_train.loop import LossTerms, train_step
from linearsr_train.losses import draw_times


@pytest.fixture(scope="module")
def photo_set(told_photos: Path) -> PhotoSet:
    return PhotoSet(sorted(told_photos.glob("*.png")), 64, 1.0)


@pytest.fixture
def config(paper_recipe: Callable) -> TrainConfig:
    return paper_recipe(loop__validation_photos=2)


@pytest.fixture
def opened(config: TrainConfig, photo_set: PhotoSet) -> tuple[LearnedLatents, Prompts]:
    accelerator = build_accelerator(mixed_precision="no", device="cpu")
    latents, prompts = open_latents(config, find_components(config), accelerator, [photo_set], lambda _: None)
    assert isinstance(latents, LearnedLatents) and prompts is not None
    return latents, prompts


@pytest.fixture
def batch(config: TrainConfig, opened: tuple[LearnedLatents, Prompts], photo_set: PhotoSet) -> Batch:
    dataset = CropDataset(photo_set, config.data, 0, prompts=opened[1], native=True)
    return collate([dataset[index] for index in range(2)], dataset.vocabulary)


def test_the_pixel_autoencoder_stands_for_its_family(tiny_recipe: Callable, photo_set: PhotoSet) -> None:
    config = tiny_recipe()
    autoencoder = PixelAutoencoder(config.autoencoder)
    dataset = CropDataset(photo_set, config.data, 0)
    batch = collate([dataset[index] for index in range(3)])
    latents = latents_of(autoencoder)
    assert isinstance(latents, PixelLatents) and latents_of(latents) is latents
    std = torch.tensor([autoencoder.residual_std(float(scale)) for scale in batch.scale])
    x0 = latents.encode(batch)
    assert torch.equal(x0, autoencoder.encode(batch.hr, batch.lr_up, std))
    assert torch.allclose(latents.decode(x0, batch), batch.hr, atol=1e-6)
    cond = latents.condition(batch)
    assert torch.equal(cond.lr, autoencoder.condition(batch.lr_up))
    assert torch.equal(cond.tags, batch.tags) and torch.equal(cond.log2_scale, batch.scale.log2())


def test_learned_latents_are_the_autoencoders_and_the_condition_is_native_pixels(
    opened: tuple[LearnedLatents, Prompts], batch: Batch
) -> None:
    latents, prompts = opened
    assert latents.factor == 32
    x0 = latents.encode(batch)
    assert x0.shape == (2, 32, 2, 2)
    assert torch.equal(x0, latents.autoencoder.encode(batch.hr))
    assert torch.equal(latents.decode(x0, batch), latents.autoencoder.decode(x0))
    cond = latents.condition(batch)
    assert torch.equal(cond.lr, batch.lr * 2 - 1)
    assert float(cond.lr.min()) < 0 < float(cond.lr.max())
    tags, mask = pad_embeddings(latents.embeddings(batch.tags[:, 1].tolist()))
    assert torch.equal(cond.tags, tags) and torch.equal(cond.tag_mask, mask)
    assert cond.tags.shape[2] == 16 and cond.log2_scale is None
    assert len(prompts.vocabulary) == 2


def test_a_training_step_has_the_loss_of_the_velocity(
    config: TrainConfig, opened: tuple[LearnedLatents, Prompts], batch: Batch, make_state: Callable
) -> None:
    state, latents = make_state(config=config), opened[0]
    generator = torch.Generator()
    generator.set_state(state.generator.get_state())
    t = draw_times(2, config.loss, generator)
    x0 = latents.encode(batch)
    eps = torch.randn(x0.shape, generator=generator)
    with torch.no_grad():
        v_hat = state.model(add_noise(x0, eps, t), t, latents.condition(batch))
    expected = float(((v_hat - (eps - x0)) ** 2).mean())
    values = train_step(state, batch, LossTerms(latents))
    assert values["loss"] == pytest.approx(expected, rel=1e-5)
    assert values["mse_below"] == pytest.approx(expected, rel=1e-5)
    assert 0.5 < expected < 50


def test_the_stem_and_the_new_columns_are_trained_with_the_rest(
    config: TrainConfig, opened: tuple[LearnedLatents, Prompts], batch: Batch, make_state: Callable
) -> None:
    state = make_state(config=config)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    for _ in range(2):
        train_step(state, batch, LossTerms(opened[0]))
    after = state.model.state_dict()
    still = [name for name, value in after.items() if torch.equal(value, before[name])]
    assert any(name.startswith("lr_stem.0") for name in after)
    assert still == []


def test_gradient_checkpointing_of_the_recipe_reaches_the_network_and_changes_nothing(
    paper_recipe: Callable, opened: tuple[LearnedLatents, Prompts], batch: Batch, make_state: Callable
) -> None:
    losses = []
    for on in ("true", "false"):
        state = make_state(config=paper_recipe(loop__gradient_checkpointing=on))
        assert state.model.gradient_checkpointing is (on == "true")
        losses.append([train_step(state, batch, LossTerms(opened[0]))["grad_norm"] for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# ---- validation


class Oracle(nn.Module):
    """Knows the latent of whichever picture the condition shows, and gives the velocity that leads to it."""

    def __init__(self, known: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.known = known
        self.times: list[float] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        self.times.append(float(t))
        x0 = next(x0 for lr, x0 in self.known if torch.equal(lr, cond.lr))
        return (x_t - x0) / t.view(-1, 1, 1, 1)


def test_validation_shows_native_pixels_at_x4_alone(
    config: TrainConfig, opened: tuple[LearnedLatents, Prompts], photo_set: PhotoSet, tiny_recipe: Callable
) -> None:
    data = build_validation(photo_set, config, opened[1])
    assert list(data.tasks) == ["x4", "real4"]
    hr, lr, scale, ids = data.tasks["x4"][0]
    assert (hr.shape, lr.shape, scale) == ((1, 3, 64, 64), (1, 3, 16, 16), 4.0)
    compact = build_validation(photo_set, tiny_recipe(loop__validation_crop=64)).tasks["x4"][0]
    assert torch.equal(hr, compact[0]) and torch.equal(resize(lr[0], (64, 64))[None], compact[1])
    assert [entry[3] for entry in data.tasks["x4"]] == [[2], []], "bridge has the second prompt, forest none"


def test_validation_of_an_oracle_reaches_the_autoencoders_ceiling(
    config: TrainConfig, opened: tuple[LearnedLatents, Prompts], photo_set: PhotoSet
) -> None:
    latents, prompts = opened
    data = build_validation(photo_set, config, prompts)
    known = [
        (lr * 2 - 1, latents.autoencoder.encode(hr)) for entries in data.tasks.values() for hr, lr, _, _ in entries
    ]
    oracle = Oracle(known)
    scores = validate(ExpertBank((), lambda _: oracle), latents, data, config, steps=(1, 4))
    ceiling = autoencoder_ceiling(latents, data)
    pictures = [quantise(latents.autoencoder.reconstruct(hr)) for hr, *_ in data.tasks["x4"]]
    expected = [psnr(sr, hr, border=4) for sr, (hr, *_) in zip(pictures, data.tasks["x4"], strict=True)]
    assert ceiling["psnr"] == pytest.approx(sum(expected) / 2, abs=1e-4)
    assert ceiling["perceptual"] == pytest.approx(
        sum(gmsd(sr, entry[0]) for sr, entry in zip(pictures, data.tasks["x4"], strict=True)) / 2, abs=1e-4
    )
    for task in ("x4", "real4"):
        for steps in (1, 4):
            assert scores[f"{task}/psnr_{steps}"] == pytest.approx(ceiling["psnr"], abs=0.02)
    expected = [*dpm_flow_grid(1, 3.0).tolist()[:-1], *dpm_flow_grid(4, 3.0).tolist()[:-1]]
    assert oracle.times[:5] == pytest.approx(expected, rel=1e-6)
    rows = sample_rows(ExpertBank((), lambda _: oracle), latents, data, config, count=1, steps=(4,))
    assert [label for label, _ in rows[0][1]] == ["input", "4 steps", "original"]
    assert all(picture.shape == (3, 64, 64) for _, picture in rows[0][1])


def test_the_grid_of_a_flow_is_its_familys(config: TrainConfig, tiny_recipe: Callable) -> None:
    assert torch.equal(time_grid(config.flow, 20), dpm_flow_grid(20, 3.0))
    assert torch.equal(time_grid(tiny_recipe().flow, 4), compact_grid(4))


def test_a_state_of_the_family_is_built_from_nothing_and_from_weights(
    config: TrainConfig, make_state: Callable
) -> None:
    state = make_state(config=config)
    again = build_state(config, state.stage, state.accelerator, state.model.state_dict())
    pairs = zip(again.model.state_dict().items(), state.model.state_dict().values(), strict=True)
    assert [name for (name, a), b in pairs if not torch.equal(a, b)] == []
