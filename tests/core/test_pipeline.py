"""`Upscaler` end to end with a tiny random checkpoint: exact sizes, all kinds of pictures, one result per setting."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.data import astronaut

from linearsr import Picture, Upscaler
from linearsr.alpha import resize_alpha
from linearsr.checkpoint import read_config, save_checkpoint
from linearsr.color import apply_color_fix
from linearsr.config import ExpertsConfig, FlowConfig
from linearsr.errors import ConfigError, DeviceError, ImageError, OutOfMemoryError, ShapeError, WeightsError
from linearsr.model.lora import LoraInfo, add_lora, load_lora, lora_state_dict, merge_lora, save_lora
from linearsr.model.transformer import LinearDiT
from linearsr.resize import resize
from linearsr.tags.compact import TagThresholds, save_tagger, tag_kinds
from linearsr.tags.compact_network import TaggerModelConfig, TaggerNetwork

EXPERT = "expert-0.safetensors"


@pytest.fixture
def upscaler(tiny_checkpoint: Path) -> Upscaler:
    return Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """(53, 47, 3) uint8: an eye and hair, odd sides."""
    return np.ascontiguousarray(astronaut()[90:143, 190:237])


def _rewrite(folder: Path, tensors: dict[str, torch.Tensor], **sections: object) -> Path:
    config = replace(read_config(folder), files={}, **sections)
    save_checkpoint(folder, config, [tensors], dtype=torch.float32)
    return folder


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(float(np.mean((a.astype(np.float64) - b) ** 2)))


# ---- sizes


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (7, 9), (17, 13)], ids=str)
@pytest.mark.parametrize("scale", [1, 1.3, 2.5, 4, 6])
def test_output_has_exactly_the_asked_size(upscaler: Upscaler, size: tuple[int, int], scale: float) -> None:
    image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    out = upscaler(image, scale=scale, steps=1)
    assert out.shape == (round(size[0] * scale), round(size[1] * scale), 3)
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1


def test_output_of_a_very_long_picture_has_the_right_size(upscaler: Upscaler) -> None:
    assert upscaler(np.zeros((1, 5000, 3), np.float32), scale=1.3, steps=1).shape == (1, 6500, 3)


def test_output_size_by_sides(upscaler: Upscaler, photo: np.ndarray) -> None:
    assert upscaler(photo, size=(101, 107), steps=1).shape == (107, 101, 3)
    assert upscaler(photo, size=(94, None), steps=1).shape == (106, 94, 3)
    assert upscaler(photo, long_side=80, steps=1).shape == (80, 71, 3)


def test_the_network_does_something_and_stays_near_the_enlarged_input(upscaler: Upscaler, photo: np.ndarray) -> None:
    out = upscaler(photo / np.float32(255), scale=2, steps=1)
    plain = resize(torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32) / 255), (106, 94)).clamp(0, 1)
    difference = np.abs(out - plain.numpy().transpose(1, 2, 0))
    assert difference.mean() > 1e-3
    assert difference.max() < 0.5


def test_zero_initialised_network_gives_the_bicubic_enlargement(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    tensors = load_file(tiny_checkpoint / EXPERT)
    for name in ("conv_out.weight", "conv_out.bias"):
        tensors[name] = torch.zeros_like(tensors[name])
    upscaler = Upscaler.from_pretrained(_rewrite(tiny_checkpoint, tensors), device="cpu", dtype="fp32")
    plain = resize(torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32) / 255), (133, 118)).clamp(0, 1)
    out = upscaler(photo / np.float32(255), size=(118, 133), steps=1)
    assert np.abs(out - plain.numpy().transpose(1, 2, 0)).max() < 1e-6


# ---- kinds of pictures


def test_every_kind_of_picture_gives_the_same_pixels(upscaler: Upscaler, photo: np.ndarray) -> None:
    settings = {"scale": 1.5, "steps": 1}
    from_bytes = upscaler(photo, **settings)
    assert from_bytes.dtype == np.uint8
    image = upscaler(Image.fromarray(photo), **settings)
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), from_bytes)
    floats = upscaler(photo.astype(np.float32) / 255, **settings)
    np.testing.assert_array_equal(np.floor(floats * 255 + 0.5), from_bytes)
    picture = upscaler(Picture.from_array(photo), **settings)
    np.testing.assert_array_equal(picture.rgb, floats)
    tensor = upscaler(torch.from_numpy(photo).permute(2, 0, 1).double() / 255, **settings)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).float().numpy(), floats)


def test_the_input_is_left_alone(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo.astype(np.float32) / 255
    before = floats.copy()
    upscaler(floats, scale=1, steps=1)
    np.testing.assert_array_equal(floats, before)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "I;16"])
def test_pil_pictures_of_other_modes_come_back_as_rgb(upscaler: Upscaler, photo: np.ndarray, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257)
        eight_bit = np.repeat(photo[:, :, :1], 3, axis=2)
    else:
        image = Image.fromarray(photo).convert(mode)
        eight_bit = np.asarray(image.convert("RGB"))
    out = upscaler(image, scale=1.5, steps=1)
    assert out.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(out), upscaler(eight_bit, scale=1.5, steps=1))


def test_pil_pictures_with_alpha_come_back_as_rgba(upscaler: Upscaler, photo: np.ndarray) -> None:
    alpha = np.tile(np.linspace(0, 255, 47).astype(np.uint8), (53, 1))
    out = np.asarray(upscaler(Image.fromarray(np.dstack([photo, alpha])), scale=2, steps=1))
    assert out.shape == (106, 94, 4)
    expected = resize_alpha(alpha.astype(np.float32) / 255, (106, 94))
    assert np.abs(out[:, :, 3] / 255 - expected).max() < 0.5 / 255 + 1e-6
    palette = Image.fromarray(photo).convert("P")
    palette.info["transparency"] = 3
    assert upscaler(palette, scale=1, steps=1).mode == "RGBA"


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 3), np.uint16),
        np.zeros((5, 5, 3), np.int64),
        torch.zeros(1, 3, 5, 5),
        torch.zeros(5, 5, 3),
        torch.zeros(3, 5, 5, dtype=torch.uint8),
        Image.new("F", (5, 5)),
        Image.new("I", (5, 5)),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', getattr(image, 'mode', ''))}",
)
def test_pictures_of_an_unclear_shape_or_range_are_refused(upscaler: Upscaler, image: object) -> None:
    with pytest.raises(ShapeError, match="expected"):
        upscaler(image, scale=2)


def test_gray_stays_gray(upscaler: Upscaler, photo: np.ndarray) -> None:
    rgb = upscaler(Picture.from_array(photo[:, :, 0]), scale=1.5, steps=4).rgb
    np.testing.assert_array_equal(rgb[:, :, 0], rgb[:, :, 1])
    np.testing.assert_array_equal(rgb[:, :, 0], rgb[:, :, 2])
    colour = upscaler(np.repeat(photo[:, :, :1], 3, axis=2), scale=1.5, steps=4)
    assert np.ptp(colour.astype(int), axis=2).max() > 0, "the network itself does not keep gray: the test can fail"


def test_alpha_modes(upscaler: Upscaler, photo: np.ndarray) -> None:
    alpha = np.zeros((53, 47), np.float32)
    alpha[10:40, 10:40] = 1
    picture = Picture.from_array(photo, alpha)
    out = {mode: upscaler(picture, scale=2, steps=1, alpha=mode) for mode in ("auto", "resize", "model", "drop")}
    expected = resize_alpha(alpha, (106, 94))
    np.testing.assert_array_equal(out["auto"].alpha, expected)
    np.testing.assert_array_equal(out["resize"].alpha, expected)
    assert out["drop"].alpha is None
    assert out["model"].alpha.shape == (106, 94)
    assert 0 < np.abs(out["model"].alpha - expected).max() < 0.5
    for other in ("resize", "model", "drop"):
        np.testing.assert_array_equal(out[other].rgb, out["auto"].rgb)


def test_colours_under_full_transparency_do_not_reach_the_visible(upscaler: Upscaler, photo: np.ndarray) -> None:
    alpha = np.ones((53, 47), np.float32)
    alpha[:, 30:] = 0
    pictures = []
    for hidden in (0, 255):
        pixels = photo.copy()
        pixels[:, 30:] = hidden
        pictures.append(upscaler(Picture.from_array(pixels, alpha), scale=2, steps=1).rgb)
    np.testing.assert_array_equal(*pictures)


def test_metadata_travels_with_the_picture(upscaler: Upscaler, photo: np.ndarray) -> None:
    picture = Picture.from_array(photo)
    picture.notes.append("kept")
    out = upscaler(picture, scale=1, steps=1)
    assert out.info == picture.info
    assert out.notes == ["kept"]
    assert out.metadata == picture.metadata


# ---- what the result depends on


@pytest.mark.parametrize("steps", [1, 4])
def test_a_picture_gives_the_same_bytes_alone_and_after_others(
    tiny_checkpoint: Path, photo: np.ndarray, steps: int
) -> None:
    settings = {"scale": 2, "steps": steps, "seed": 5}
    alone = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")(photo, **settings)
    upscaler = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")
    for other in (photo[::-1], photo[:20], photo[:, ::-1]):
        upscaler(np.ascontiguousarray(other), **settings)
        torch.rand(3)
    np.testing.assert_array_equal(upscaler(photo, **settings), alone)


def test_one_step_does_not_depend_on_the_seed(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo / np.float32(255)
    a, b = (upscaler(floats, scale=2, steps=1, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(a, b)


def test_four_steps_depend_on_the_seed(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo / np.float32(255)
    a, same, b = (upscaler(floats, scale=2, steps=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, same)
    assert np.abs(a - b).mean() > 1e-3


def test_noise_follows_the_content_and_not_the_kind_of_input(upscaler: Upscaler, photo: np.ndarray) -> None:
    out = upscaler(photo, scale=2, steps=4)
    np.testing.assert_array_equal(np.asarray(upscaler(Image.fromarray(photo), scale=2, steps=4)), out)
    brighter = np.clip(photo.astype(int) + 1, 0, 255).astype(np.uint8)
    assert np.abs(upscaler(brighter, scale=2, steps=4).astype(int) - out).max() > 3, "another content, another noise"


@pytest.mark.parametrize("steps", [1, 4])
def test_tile_batches_change_rounding_only(upscaler: Upscaler, photo: np.ndarray, steps: int) -> None:
    floats = photo / np.float32(255)
    settings = {"scale": 3, "steps": steps, "tile": 64, "tile_overlap": 16}
    one, four = (upscaler(floats, batch_size=size, **settings) for size in (1, 4))
    assert np.abs(one - four).max() <= 1 / 255
    assert np.mean(np.abs(one - four) > 1e-5) <= 1e-3


def test_tiles_do_not_depend_on_the_order_they_run_in(
    upscaler: Upscaler, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linearsr import tiling

    settings = {"scale": 3, "steps": 4, "tile": 64, "tile_overlap": 16}
    forward = upscaler(photo / np.float32(255), **settings)
    tiles = tiling.TilePlan.tiles.fget
    monkeypatch.setattr(tiling.TilePlan, "tiles", property(lambda plan: tiles(plan)[::-1]))
    backward = upscaler(photo / np.float32(255), **settings)
    assert np.abs(forward - backward).max() < 1e-6  # sums in another order


@pytest.mark.parametrize("steps", [1, 4])
def test_tiles_are_close_to_the_whole_picture(upscaler: Upscaler, photo: np.ndarray, steps: int) -> None:
    """A random network reads the statistics of its tile more than a trained one, so the bound here is a loose one."""
    floats = photo / np.float32(255)
    whole = upscaler(floats, scale=3, steps=steps, tile="off")
    tiled = upscaler(floats, scale=3, steps=steps, tile=64, tile_overlap=32)
    assert np.abs(whole - tiled).max() > 0
    assert _psnr(whole, tiled) > 34


def test_tile_auto_is_the_whole_for_small_pictures_and_tiles_beyond(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo / np.float32(255)
    settings = {"steps": 1}
    small = upscaler(floats, scale=1.5, **settings)
    np.testing.assert_array_equal(small, upscaler(floats, scale=1.5, tile="off", **settings))
    large = upscaler(floats, scale=3, **settings)
    np.testing.assert_array_equal(large, upscaler(floats, scale=3, tile=64, tile_overlap=16, **settings))


def test_blending_at_every_step_is_the_same_for_one_tile_and_close_for_many(
    upscaler: Upscaler, photo: np.ndarray
) -> None:
    lr = torch.from_numpy(photo.transpose(2, 0, 1).astype(np.float32) / 255)
    one = [
        upscaler.upscale_tensor(lr, size=(94, 106), steps=4, tile="off", blend=blend) for blend in ("tiles", "steps")
    ]
    assert (one[0] - one[1]).abs().max() < 1e-5
    settings = {"size": (141, 159), "steps": 4, "tile": 64, "tile_overlap": 32}
    many = [upscaler.upscale_tensor(lr, blend=blend, **settings) for blend in ("tiles", "steps")]
    assert _psnr(many[0].numpy(), many[1].numpy()) > 34


def test_bfloat16_is_close_to_float32(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    floats = photo / np.float32(255)
    full, half = (
        Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype=dtype)(floats, scale=2, steps=1)
        for dtype in ("fp32", "bf16")
    )
    assert 0 < np.abs(full - half).max() < 0.02


def test_tags_change_the_result_whatever_their_form(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo / np.float32(255)
    plain, tagged = (upscaler(floats, scale=2, steps=1, tags=tags) for tags in (None, "jpeg, noise:weak"))
    assert np.abs(plain - tagged).max() > 1e-4
    np.testing.assert_array_equal(upscaler(floats, scale=2, steps=1, tags=("noise:weak", "jpeg")), tagged)
    np.testing.assert_array_equal(upscaler(floats, scale=2, steps=1, tags=""), plain)


def test_two_passes_are_two_calls_the_second_without_tags(upscaler: Upscaler, photo: np.ndarray) -> None:
    floats = photo[:20, :16] / np.float32(255)
    for tags in (None, "jpeg"):  # they tell of the file; what the first pass made has no such fault
        first = upscaler(floats, size=(39, 49), steps=1, tags=tags)
        second = upscaler(first, size=(96, 120), steps=1)
        np.testing.assert_array_equal(second, upscaler(floats, scale=6, steps=1, tags=tags))


# ---- tagger, guidance, LoRA


class Contrast:
    """Calls pictures of a wide range of values noisy; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def tag(self, lr: torch.Tensor) -> tuple[str, ...]:
        self.asked.append(tuple(lr.shape))
        return ("noise",) if float(lr.max() - lr.min()) > 0.5 else ()


def _open(folder: Path, **settings: object) -> Upscaler:
    return Upscaler.from_pretrained(folder, device="cpu", dtype="fp32", **settings)


def test_one_tagger_names_the_tags_of_the_picture_and_its_alpha(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    tagger = Contrast()
    tagging, plain = _open(tiny_checkpoint, tagger=tagger), _open(tiny_checkpoint)
    picture = Picture.from_array(photo, np.full((53, 47), 0.7, np.float32))
    settings = {"scale": 2, "steps": 1, "alpha": "model"}
    assert tagging.find_tags(picture) == ("noise",)
    tagger.asked.clear()
    out = tagging(picture, **settings)
    assert tagger.asked == [(3, 53, 47)], "once a picture, at its native size"
    told = plain(picture, tags="noise", **settings)
    np.testing.assert_array_equal(out.rgb, told.rgb)
    np.testing.assert_array_equal(out.alpha, told.alpha)
    assert np.abs(out.rgb - plain(picture, **settings).rgb).max() > 1e-4
    assert tagging.find_tags(picture, "jpeg:strong, blur") == ("blur", "jpeg")
    assert tagging.find_tags(picture, ()) == ()


@pytest.mark.parametrize("tagger", ["none", None])
def test_without_a_tagger_no_tags_are_named(tiny_checkpoint: Path, photo: np.ndarray, tagger: str | None) -> None:
    assert _open(tiny_checkpoint, tagger=tagger).tagger is None
    assert _open(tiny_checkpoint, tagger=tagger).find_tags(Picture.from_array(photo)) == ()
    assert _open(tiny_checkpoint).tagger is None, "this model has none"


def test_an_unknown_tagger_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="tagger 'ram' names no model, expected ram:SOURCE"):
        _open(tiny_checkpoint, tagger="ram")


@pytest.fixture
def tagging_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny checkpoint with a tagger of its own, of random weights and low thresholds, so that it names much."""
    config = read_config(tiny_checkpoint)
    kinds = tag_kinds(config.tags.vocabulary)
    network = TaggerNetwork(TaggerModelConfig(crop=32, widths=(4, 4), hidden=4), len(kinds)).eval()
    low = dict.fromkeys(kinds, 0.01)
    save_tagger(tmp_path / "tagger.safetensors", network, TagThresholds(clean=1.0, presence=low, strong=low))
    config = replace(config, tags=replace(config.tags, tagger="tagger.safetensors"), files={})
    extra = {"tagger.safetensors": tmp_path / "tagger.safetensors"}
    save_checkpoint(tiny_checkpoint, config, [load_file(tiny_checkpoint / EXPERT)], dtype=torch.float32, extra=extra)
    return tiny_checkpoint


def test_a_models_own_tagger_is_loaded_when_first_asked(tagging_checkpoint: Path, photo: np.ndarray) -> None:
    picture = Picture.from_array(photo)
    names = _open(tagging_checkpoint).find_tags(picture)
    assert names
    floats = photo / np.float32(255)
    settings = {"scale": 2, "steps": 1}
    tagged = _open(tagging_checkpoint)(floats, **settings)
    (tagging_checkpoint / "tagger.safetensors").unlink()
    without = _open(tagging_checkpoint, tagger="none")
    np.testing.assert_array_equal(without(floats, tags=names, **settings), tagged)
    assert np.abs(without(floats, **settings) - tagged).max() > 1e-4
    told = _open(tagging_checkpoint)
    told(floats, tags="clean", **settings)
    with pytest.raises(WeightsError, match=r"tagger.safetensors' is missing"):
        told(floats, **settings)


def _runs(upscaler: Upscaler, photo: np.ndarray, **settings: object) -> tuple[np.ndarray, int]:
    """Result at x2 of one tile, and how often a network ran."""
    calls = []
    handle = upscaler.bank.at(1.0).register_forward_hook(lambda *_: calls.append(1))
    out = upscaler(photo / np.float32(255), **{"scale": 2, "steps": 4, "tile": "off", **settings})
    handle.remove()
    return out, len(calls)


def test_guidance_goes_from_no_tags_over_the_tags_beyond(upscaler: Upscaler, photo: np.ndarray) -> None:
    (none, runs), (tagged, once), (zero, twice) = (
        _runs(upscaler, photo, **settings)
        for settings in ({}, {"tags": "jpeg", "cfg_scale": 1.0}, {"tags": "jpeg", "cfg_scale": 0.0})
    )
    assert (runs, once, twice) == (4, 4, 8)
    np.testing.assert_allclose(zero, none, atol=1e-5)
    one_step = {
        scale: _runs(upscaler, photo, tags="jpeg", cfg_scale=scale, steps=1)[0] for scale in (0.0, 1.0, 2.0, 3.0)
    }
    inside = (one_step[3.0] > 0) & (one_step[3.0] < 1) & (one_step[0.0] > 0) & (one_step[0.0] < 1)
    assert inside.mean() > 0.5
    for scale in (2.0, 3.0):  # one step is linear in the weight
        line = one_step[0.0] + scale * (one_step[1.0] - one_step[0.0])
        np.testing.assert_allclose(one_step[scale][inside], line[inside], atol=1e-5)
    assert np.abs(one_step[3.0] - one_step[1.0]).max() > 1e-3
    assert np.abs(tagged - none).max() > 1e-3


@pytest.mark.parametrize("blend", ["tiles", "steps"])
def test_guidance_without_tags_is_one_run_and_changes_no_bit(upscaler: Upscaler, blend: str) -> None:
    lr = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2))
    calls = []
    handle = upscaler.bank.at(1.0).register_forward_hook(lambda *_: calls.append(1))
    settings = {"size": (40, 40), "steps": 2, "tile": "off", "blend": blend}
    plain = upscaler.upscale_tensor(lr, **settings)
    assert torch.equal(upscaler.upscale_tensor(lr, cfg_scale=5.0, **settings), plain)
    assert len(calls) == 4
    upscaler.upscale_tensor(lr, cfg_scale=5.0, tags="blur", **settings)
    assert len(calls) == 8
    handle.remove()


def test_guidance_of_the_model_is_the_default(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    plain, settings = _open(tiny_checkpoint), {"scale": 2, "steps": 1, "tags": "jpeg"}
    expected = plain(photo, cfg_scale=2.0, **settings)
    sampling = replace(read_config(tiny_checkpoint).sampling, cfg_scale=2.0)
    guided = _open(_rewrite(tiny_checkpoint, load_file(tiny_checkpoint / EXPERT), sampling=sampling))
    np.testing.assert_array_equal(guided(photo, **settings), expected)
    assert not np.array_equal(guided(photo, cfg_scale=1.0, **settings), expected)


@pytest.fixture
def lora_file(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    model = read_config(tiny_checkpoint).model
    network = LinearDiT(model)
    add_lora(network, 2, 2.0)
    lora = {key: 0.2 * torch.randn(value.shape) for key, value in lora_state_dict(network).items()}
    info = LoraInfo(rank=2, alpha=2.0, experts=(0,), boundaries_log_snr=(), model=model)
    save_lora(tmp_path / "mine.safetensors", {0: lora}, info)
    return tmp_path / "mine.safetensors"


@pytest.mark.parametrize("loras", [[1.0], [0.5], [0.75, 0.25], [-1.0, 1.5]])
def test_a_lora_is_merged_by_its_weight(
    tiny_checkpoint: Path, lora_file: Path, photo: np.ndarray, loras: list[float]
) -> None:
    out = _open(tiny_checkpoint, loras=[(lora_file, weight) for weight in loras])(photo, scale=2, steps=1)
    info, additions = load_lora(lora_file)
    plain = _open(tiny_checkpoint)(photo, scale=2, steps=1)
    merged = merge_lora(load_file(tiny_checkpoint / EXPERT), additions[0], info, sum(loras))
    expected = _open(_rewrite(tiny_checkpoint, merged))(photo, scale=2, steps=1)
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert np.abs(out.astype(int) - plain).max() > 3


def test_a_lora_of_weight_zero_changes_nothing(tiny_checkpoint: Path, lora_file: Path, photo: np.ndarray) -> None:
    plain, out = (_open(tiny_checkpoint, loras=loras)(photo, scale=1, steps=1) for loras in ((), [(lora_file, 0.0)]))
    np.testing.assert_array_equal(out, plain)


def test_a_lora_of_another_model_is_refused_when_opened(
    tmp_path: Path, lora_file: Path, tiny_config: Callable, tiny_model: Callable, tiny_network: Callable
) -> None:
    config = tiny_config(model=tiny_model(depth=2))
    save_checkpoint(tmp_path / "deep", config, [tiny_network(config.model).state_dict()])
    with pytest.raises(WeightsError, match=r"mine.safetensors' .* depth 1 instead of 2.* model 'deep'"):
        _open(tmp_path / "deep", loras=[(lora_file, 1.0)])
    files = ("a.safetensors", "b.safetensors")
    two = tiny_config(experts=ExpertsConfig(boundaries_log_snr=(-3.9,), files=files))
    save_checkpoint(tmp_path / "two", two, [tiny_network(two.model, seed).state_dict() for seed in (0, 1)])
    with pytest.raises(WeightsError, match=r"mine.safetensors' .* model 'two' cuts at -3.9"):
        _open(tmp_path / "two", loras=[(lora_file, 1.0)])


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_lora_of_no_finite_weight_is_refused(tiny_checkpoint: Path, lora_file: Path, weight: float) -> None:
    with pytest.raises(ConfigError, match=f"mine.safetensors' is {weight:g}"):
        _open(tiny_checkpoint, loras=[(lora_file, weight)])


# ---- colour fix, progress, settings


@pytest.mark.parametrize("fix", ["wavelet", "adain"])
def test_color_fix_acts_with_its_strength(upscaler: Upscaler, photo: np.ndarray, fix: str) -> None:
    floats = photo / np.float32(255)
    plain, fixed, off = (
        upscaler(floats, scale=2, steps=1, color_fix=name, color_strength=strength)
        for name, strength in (("none", 1.0), (fix, 1.0), (fix, 0.0))
    )
    reference = resize(torch.from_numpy(floats.transpose(2, 0, 1)), (106, 94)).clamp(0, 1)
    expected = apply_color_fix(fix, torch.from_numpy(plain.transpose(2, 0, 1).copy()), reference, 1.0)
    np.testing.assert_allclose(fixed, expected.numpy().transpose(1, 2, 0), atol=1e-6)
    np.testing.assert_array_equal(off, plain)
    error = [np.abs(out.mean((0, 1)) - reference.numpy().mean((1, 2))).max() for out in (plain, fixed)]
    assert error[1] < 0.5 * error[0]


@pytest.mark.parametrize("settings", [{"scale": 1}, {"scale": 3, "tile": 64}, {"scale": 6}, {"scale": 17, "steps": 2}])
def test_progress_rises_to_one(upscaler: Upscaler, photo: np.ndarray, settings: dict) -> None:
    seen: list[float] = []
    upscaler(photo[:12, :10], progress=seen.append, **{"steps": 1, **settings})
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0, abs=1e-12)
    assert seen[0] > 0


BAD_SETTINGS = [
    ({"steps": 0}, "steps is 0, expected 1 to 1000"),
    ({"steps": 1001}, "steps is 1001"),
    ({"tags": "nois"}, "unknown tag 'nois'"),
    ({"cfg_scale": -1.0}, "cfg_scale is -1, expected 0 to 20"),
    ({"cfg_scale": 21.0}, "cfg_scale is 21"),
    ({"cfg_scale": math.nan}, "cfg_scale is nan"),
    ({"tile": "big"}, "tile is 'big', expected auto, off or a number"),
    ({"tile": 0}, "tile is 0, expected a multiple of 8"),
    ({"tile": 7}, "tile is 7, expected a multiple of 8"),
    ({"tile": -64}, "tile is -64"),
    ({"tile_overlap": -8}, "tile overlap is -8"),
    ({"tile": 64, "tile_overlap": 40}, "tile overlap is 40"),
    ({"color_fix": "sepia"}, "color fix is 'sepia', expected none, wavelet, adain"),
    ({"alpha": "keep"}, "alpha is 'keep', expected auto, resize, model, drop"),
    ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
    ({"color_strength": 1.5}, "color_strength is 1.5, expected a number from 0 to 1"),
    ({"color_strength": math.nan}, "color_strength is nan"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:30])
def test_bad_settings_are_refused_before_the_weights_load(
    upscaler: Upscaler, photo: np.ndarray, settings: dict, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        upscaler.validate(**settings)
    with pytest.raises(ConfigError, match=message):
        upscaler(photo, **settings)
    assert upscaler.bank.loaded == ()


@pytest.mark.parametrize("request_", [{"scale": 0}, {"scale": -1}, {"scale": math.nan}, {"scale": 2, "long_side": 500}])
def test_bad_sizes_are_refused_before_the_weights_load(upscaler: Upscaler, photo: np.ndarray, request_: dict) -> None:
    with pytest.raises(ConfigError):
        upscaler(photo, **request_)
    assert upscaler.bank.loaded == ()


def test_good_settings_pass(upscaler: Upscaler) -> None:
    upscaler.validate()
    upscaler.validate(steps=20, tags="clean", tile=128, tile_overlap=0, color_fix="adain", alpha="model", batch_size=8)
    upscaler.validate(tile="off", tags=("blur", "noise"), color_strength=0.0, cfg_scale=20.0)


# ---- weights


def test_weights_load_at_the_first_step_and_once(upscaler: Upscaler, photo: np.ndarray) -> None:
    assert upscaler.bank.loaded == ()
    upscaler(photo, scale=1, steps=1)
    network = upscaler.bank.at(1.0)
    upscaler(photo, scale=1, steps=4)
    assert upscaler.bank.at(0.1) is network


def test_one_step_of_four_experts_needs_one_file(
    tmp_path: Path, tiny_config: Callable, tiny_network: Callable, photo: np.ndarray
) -> None:
    files = tuple(f"expert-{index}.safetensors" for index in range(4))
    config = tiny_config(experts=ExpertsConfig(boundaries_log_snr=(2.4965, -3.8918, -5.4679), files=files))
    save_checkpoint(tmp_path / "four", config, [tiny_network(config.model, seed).state_dict() for seed in range(4)])
    for name in files[:3]:
        (tmp_path / "four" / name).unlink()
    upscaler = Upscaler.from_pretrained(tmp_path / "four", device="cpu", dtype="fp32")
    upscaler(photo, scale=1, steps=1)
    assert upscaler.bank.loaded == (3,)
    with pytest.raises(WeightsError, match="expert-2.safetensors' is missing"):
        upscaler(photo, scale=1, steps=4)


def test_weights_that_are_not_finite_are_an_image_error(tiny_checkpoint: Path, photo: np.ndarray) -> None:
    tensors = load_file(tiny_checkpoint / EXPERT)
    tensors["conv_out.bias"][0] = math.nan
    upscaler = Upscaler.from_pretrained(_rewrite(tiny_checkpoint, tensors), device="cpu", dtype="fp32")
    for blend in ("tiles", "steps"):
        with pytest.raises(ImageError, match="not finite"):
            upscaler.upscale_tensor(torch.rand(3, 9, 9), size=(18, 18), steps=2, blend=blend)


def test_v_prediction_starts_from_noise_at_one_step_too(
    tmp_path: Path, tiny_config: Callable, tiny_model: Callable, tiny_network: Callable, photo: np.ndarray
) -> None:
    config = tiny_config(flow=FlowConfig(prediction="v"), model=tiny_model(state_gate=False))
    save_checkpoint(tmp_path / "v", config, [tiny_network(config.model).state_dict()])
    upscaler = Upscaler.from_pretrained(tmp_path / "v", device="cpu", dtype="fp32")
    a, b = (upscaler(photo / np.float32(255), scale=1, steps=1, seed=seed) for seed in (0, 1))
    assert np.abs(a - b).mean() > 1e-3


def test_running_out_of_memory_halves_the_tile(
    upscaler: Upscaler, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linearsr import enlarge as module

    sides: list[int] = []
    run_tiled = module.run_tiled

    def limited(fn: Callable, plan: object, **settings: object) -> torch.Tensor:
        sides.append(plan.tile_height)
        if plan.tile_height > 64:
            raise torch.cuda.OutOfMemoryError("no room")
        return run_tiled(fn, plan, **settings)

    monkeypatch.setattr(module, "run_tiled", limited)
    out = upscaler(photo, scale=4, steps=1, tile="off")
    assert out.shape == (212, 188, 3)
    assert sides == [216, 88, 56], "the whole canvas, tiles of at most 104, tiles of at most 64"
    monkeypatch.setattr(module, "MIN_TILE", 96)
    with pytest.raises(OutOfMemoryError, match="even with 96-pixel tiles"):
        upscaler(photo, scale=4, steps=1, tile="off")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"device": "tpu"}, ConfigError),
        ({"device": "cuda:99"}, DeviceError),
        ({"dtype": "fp16", "device": "cpu"}, DeviceError),
        ({"dtype": "int8", "device": "cpu"}, ConfigError),
        ({"model": "no-such-model"}, WeightsError),
    ],
    ids=str,
)
def test_from_pretrained_refuses(tiny_checkpoint: Path, settings: dict, error: type[Exception]) -> None:
    with pytest.raises(error):
        Upscaler.from_pretrained(**{"model": tiny_checkpoint, **settings})


def test_from_pretrained_refuses_another_autoencoder(tiny_checkpoint: Path) -> None:
    config = read_config(tiny_checkpoint)
    tensors = load_file(tiny_checkpoint / EXPERT)
    latent = replace(config.autoencoder, kind="dcae", factor=32, source="./autoencoder")
    _rewrite(tiny_checkpoint, tensors, autoencoder=latent)
    with pytest.raises(WeightsError, match="lr_stem has 0 convolutions for an autoencoder factor of 32"):
        Upscaler.from_pretrained(tiny_checkpoint)


def test_upscaler_takes_a_smaller_tile_when_memory_is_scarce(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from linearsr import engine

    config = json.loads((tiny_checkpoint / "config.json").read_text())
    config["sampling"]["tile"] = 256
    (tiny_checkpoint / "config.json").write_text(json.dumps(config))
    up = Upscaler.from_pretrained(tiny_checkpoint, device="cpu", dtype="fp32")
    assert engine.choose_tile(up.engine, "auto", (1024, 1024)) == 256
    monkeypatch.setattr(engine, "free_memory", lambda device: 0)
    assert engine.choose_tile(up.engine, "auto", (1024, 1024)) == 64
    monkeypatch.setattr(engine, "free_memory", lambda device: None)
    assert engine.choose_tile(up.engine, "auto", (1024, 1024)) == 256


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [("sampling", "tile", 100), ("sampling", "tile_overlap", 52), ("autoencoder", "factor", 2)],
)
def test_a_config_that_cannot_work_is_a_weights_error(
    tiny_checkpoint: Path, section: str, field: str, value: int
) -> None:
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    config[section][field] = value
    (tiny_checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config\.json of model"):
        Upscaler.from_pretrained(tiny_checkpoint, device="cpu")
