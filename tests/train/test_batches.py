"""Samples as a pure function of (seed, index), the same for any number of loader processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from linearsr.model.conditioning import pad_tag_ids
from linearsr.resize import resize
from linearsr.tags.vocabulary import tag_ids
from linearsr_train.config import DataConfig
from linearsr_train.data.batches import Batch, CropDataset, batches, collate, make_sample
from linearsr_train.data.degradation import degrade_bicubic
from linearsr_train.data.sources import PhotoSet


@pytest.fixture(scope="module")
def photo_set(photos: Path) -> PhotoSet:
    return PhotoSet(sorted(photos.iterdir()), 32, 1.0)


@pytest.fixture
def config(tiny_recipe: Callable) -> DataConfig:
    return tiny_recipe().data


def _equal(a: object, b: object) -> bool:
    pairs = zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_sample_is_a_pure_function_of_seed_and_index(photo_set: PhotoSet, config: DataConfig) -> None:
    forward = [CropDataset(photo_set, config, 3)[index] for index in range(6)]
    dataset = CropDataset(photo_set, config, 3)
    np.random.seed(99)
    torch.manual_seed(99)
    backward = [dataset[index] for index in reversed(range(6))][::-1]
    assert all(_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not any(_equal(a, b) for a, b in zip(forward, forward[1:], strict=False))
    other = [CropDataset(photo_set, config, 4)[index] for index in range(6)]
    assert not any(_equal(a, b) for a, b in zip(forward, other, strict=True))


def test_crops_are_pieces_of_the_photographs_in_any_of_eight_views(photo_set: PhotoSet, config: DataConfig) -> None:
    dataset = CropDataset(photo_set, config, 0)
    views = set()
    for index in range(24):
        hr = dataset[index].hr
        assert hr.shape == (3, 32, 32)
        pixels = np.rint(hr.numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
        np.testing.assert_array_equal(pixels.astype(np.float32) / 255, hr.numpy().transpose(1, 2, 0))
        views.add(_find(pixels, photo_set))
    assert None not in views
    assert len({view for _, view in views}) >= 6
    assert len({photo for photo, _ in views}) >= 4


def _find(crop: np.ndarray, photo_set: PhotoSet) -> tuple[int, int] | None:
    """(photograph, view) that a crop was cut from."""
    for view in range(8):
        turned = np.rot90(crop[:, ::-1] if view >= 4 else crop, -(view % 4))
        for index in range(len(photo_set)):
            windows = np.lib.stride_tricks.sliding_window_view(photo_set.pixels(index)[:, :, 0], (32, 32))
            if (windows[:, :, ::8, ::8] == turned[::8, ::8, 0]).all((2, 3)).any():
                return index, view
    return None


def test_scales_are_drawn_with_their_probabilities(photo_set: PhotoSet, config: DataConfig) -> None:
    fixed = dataclasses.replace(config, fixed_scales={"4": 0.5, "2": 0.2, "1": 0.1})
    dataset = CropDataset(photo_set, fixed, 0)
    rng = np.random.default_rng(0)
    drawn = np.array([dataset._draw_scale(rng) for _ in range(20_000)])
    for scale, probability in ((4.0, 0.5), (2.0, 0.2), (1.0, 0.1)):
        assert np.mean(drawn == scale) == pytest.approx(probability, abs=0.015)
    rest = np.log2(drawn[(drawn != 4.0) & (drawn != 2.0) & (drawn != 1.0)])
    assert rest.min() > 0 and rest.max() < 2
    assert np.histogram(rest, bins=4, range=(0, 2))[0] / len(rest) == pytest.approx([0.25] * 4, abs=0.03)


def test_a_bicubic_sample_is_the_photograph_shrunk_and_enlarged(config: DataConfig) -> None:
    hr = np.random.default_rng(0).random((32, 32, 3), dtype=np.float32)
    sample = make_sample(hr, 3.0, False, config, np.random.default_rng(1))
    lr = degrade_bicubic(hr, (11, 11)).lr
    assert torch.equal(sample.lr_up, resize(torch.from_numpy(lr.transpose(2, 0, 1).copy()), (32, 32)))
    assert torch.equal(sample.hr, torch.from_numpy(hr.transpose(2, 0, 1)))
    assert sample.tags == ("clean",)


@pytest.mark.parametrize(("scale", "exact"), [(4.0, 4.0), (3.0, 32 / 11), (1.0, 1.0), (1.7, 32 / 19), (40.0, 32.0)])
def test_a_sample_states_the_exact_ratio_of_the_rounded_sizes(config: DataConfig, scale: float, exact: float) -> None:
    hr = np.zeros((32, 32, 3), np.float32)
    assert make_sample(hr, scale, False, config, np.random.default_rng(0)).scale == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("dropout", "real"), [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)])
def test_tags_follow_the_degradation_and_the_dropout(
    photo_set: PhotoSet, config: DataConfig, dropout: float, real: float
) -> None:
    dataset = CropDataset(photo_set, dataclasses.replace(config, tag_dropout=dropout, real_probability=real), 0)
    tags = [dataset[index].tags for index in range(12)]
    if dropout:
        assert tags == [()] * 12
    elif real:
        assert len(set(tags)) > 3
    else:
        assert tags == [("clean",)] * 12


def test_dropping_the_tags_changes_nothing_else(photo_set: PhotoSet, config: DataConfig) -> None:
    kept, dropped = (CropDataset(photo_set, dataclasses.replace(config, tag_dropout=p), 0)[5] for p in (0.0, 1.0))
    assert torch.equal(kept.lr_up, dropped.lr_up)
    assert kept.scale == dropped.scale


def test_collate_stacks_and_numbers_the_tags(photo_set: PhotoSet, config: DataConfig) -> None:
    samples = [CropDataset(photo_set, config, 0)[index] for index in range(4)]
    batch = collate(samples)
    assert torch.equal(batch.hr[2], samples[2].hr)
    assert torch.equal(batch.lr_up[3], samples[3].lr_up)
    assert batch.scale.tolist() == pytest.approx([sample.scale for sample in samples])
    ids, mask = pad_tag_ids([tag_ids(sample.tags) for sample in samples])
    assert torch.equal(batch.tags, ids)
    assert torch.equal(batch.tag_mask, mask)


def _steps(photo_set: PhotoSet, config: DataConfig, first: int, last: int, workers: int) -> list[Batch]:
    return list(batches(CropDataset(photo_set, config, 0), 4, first, last, workers))


def test_batches_are_equal_for_any_number_of_loader_processes(photo_set: PhotoSet, config: DataConfig) -> None:
    alone, loaded = _steps(photo_set, config, 0, 3, 0), _steps(photo_set, config, 0, 3, 1)
    assert len(alone) == len(loaded) == 3
    assert all(_equal(a, b) for a, b in zip(alone, loaded, strict=True))


def test_batches_from_a_later_step_go_on_where_the_earlier_ended(photo_set: PhotoSet, config: DataConfig) -> None:
    whole, rest = _steps(photo_set, config, 0, 4, 0), _steps(photo_set, config, 2, 4, 0)
    assert all(_equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    expected = collate([CropDataset(photo_set, config, 0)[index] for index in range(8, 12)])
    assert _equal(rest[0], expected)


def test_batches_leave_the_global_generator_of_the_network_alone(photo_set: PhotoSet, config: DataConfig) -> None:
    state = np.random.get_state()[1].copy()
    _steps(photo_set, config, 0, 1, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
