"""The DC-AE against diffusers' own encode and decode, tiles against the whole, and weights that do not fit."""

from __future__ import annotations

import importlib
import json
import logging
import math
import shutil
import socket
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from linearsr.autoencoders.dcae import SMALLEST_RETRY, DcaeAutoencoder, decode_memory, load_dcae  # noqa: E402
from linearsr.autoencoders.dcae_weights import build_autoencoder  # noqa: E402
from linearsr.config import AutoencoderConfig  # noqa: E402
from linearsr.errors import ConfigError, ImageError, OutOfMemoryError, ShapeError, WeightsError  # noqa: E402
from linearsr.tiling import plan_tiles  # noqa: E402
from linearsr_train.stand_ins.autoencoder import write_autoencoder  # noqa: E402 - after the skip

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = AutoencoderConfig(kind="dcae", factor=32, source="./autoencoder", scaling_factor=0.41407)
F32C32 = {
    "_class_name": "AutoencoderDC",
    "_diffusers_version": "0.32.0",
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3],
    "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "upsample_block_type": "interpolate",
    "downsample_block_type": "conv",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}
"""The published sana-1.0 and 1.1 autoencoder."""
EXACT = 1e-5
"""Largest `_error` of what is the same sum."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcae")
    write_autoencoder(folder / "full")
    write_autoencoder(folder / "lite", seed=1, lite=True)
    return folder


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(stored / "full", tmp_path / "vae"))


@pytest.fixture(scope="module")
def reference(stored: Path) -> nn.Module:
    """Loaded by diffusers itself."""
    return diffusers.AutoencoderDC.from_pretrained(stored / "full", local_files_only=True).eval()


@pytest.fixture(scope="module")
def autoencoder(stored: Path) -> DcaeAutoencoder:
    return load_dcae(stored / "full", CONFIG)


def _convolutional(**tiling: int) -> DcaeAutoencoder:
    """A DC-AE without its blocks that see everything: what it makes of a place depends on some 200 pixels around."""
    torch.manual_seed(0)
    widths, layers = (4, 4, 4, 8, 8, 32), (1,) * 6
    model = diffusers.AutoencoderDC(
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        encoder_layers_per_block=layers,
        decoder_layers_per_block=layers,
        upsample_block_type="interpolate",
        downsample_block_type="conv",
    )
    return DcaeAutoencoder(model, CONFIG, **tiling)


# --- against diffusers


def _error(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value; where tensors lie in memory decides the last digits of a sum."""
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def test_encode_and_decode_equal_diffusers(autoencoder: DcaeAutoencoder, reference: nn.Module) -> None:
    hr = torch.rand(2, 3, 96, 160)
    expected = reference.encode(hr * 2 - 1).latent * 0.41407
    latent = autoencoder.encode(hr)
    assert _error(latent, expected) < EXACT
    assert latent.shape == (2, autoencoder.latent_channels, 3, 5)
    pictures = reference.decode(expected / 0.41407).sample * 0.5 + 0.5
    assert _error(autoencoder.decode(expected), pictures) < EXACT
    assert _error(autoencoder.reconstruct(hr), pictures) < EXACT


def test_load_gives_the_tensors_that_diffusers_gives(autoencoder: DcaeAutoencoder, reference: nn.Module) -> None:
    for part, own in (("encoder", autoencoder._encoder), ("decoder", autoencoder._decoder)):
        expected, found = reference.get_submodule(part).state_dict(), own.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
        assert not own.training and not any(parameter.requires_grad for parameter in own.parameters())


def test_stand_in_is_deterministic_and_of_the_usual_range(stored: Path, tmp_path: Path) -> None:
    write_autoencoder(tmp_path / "again")
    write_autoencoder(tmp_path / "other", seed=2)
    first, again, other = (load_file(f / WEIGHTS) for f in (stored / "full", tmp_path / "again", tmp_path / "other"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["decoder.conv_in.weight"], other["decoder.conv_in.weight"])
    assert any("attn.to_qkv_multiscale" in key for key in first)
    out = load_dcae(stored / "full", CONFIG).decode(torch.randn(1, 32, 8, 8))
    assert 0.05 < float(out.std()) < 0.5
    assert abs(float(out.mean()) - 0.5) < 0.2


@given(height=st.integers(1, 100), width=st.integers(1, 100))
@settings(deadline=None, max_examples=25)
def test_any_size_is_reflected_to_the_grid_and_cropped_back(
    autoencoder: DcaeAutoencoder, reference: nn.Module, height: int, width: int
) -> None:
    hr = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 101 + width))
    padded = hr.numpy()
    for axis, side in ((2, height), (3, width)):
        pad = [(0, 0)] * 4
        pad[axis] = (0, -side % 32)
        padded = np.pad(padded, pad, mode="reflect" if -side % 32 < side else "edge")
    with torch.no_grad():
        expected = reference.encode(torch.from_numpy(padded) * 2 - 1).latent * 0.41407
    latent = autoencoder.encode(hr)
    assert latent.shape == (1, 32, math.ceil(height / 32), math.ceil(width / 32))
    assert _error(latent, expected) < EXACT
    whole = autoencoder.decode(latent)
    assert _error(autoencoder.decode(latent, (height, width)), whole[..., :height, :width]) < EXACT
    assert autoencoder.reconstruct(hr).shape == hr.shape


def test_scaling_factor_is_the_configs(stored: Path, autoencoder: DcaeAutoencoder, caplog) -> None:
    hr, latent = torch.rand(1, 3, 64, 64), torch.randn(1, 32, 2, 2)
    with caplog.at_level(logging.WARNING):
        load_dcae(stored / "full", CONFIG)
        assert not caplog.records
        other = load_dcae(
            stored / "full", AutoencoderConfig(kind="dcae", factor=32, source="./vae", scaling_factor=2.0)
        )
    assert "scaling factor of 0.41407, the model uses 2" in caplog.text
    assert _error(other.encode(hr) / 2.0, autoencoder.encode(hr) / 0.41407) < EXACT
    assert _error(other.decode(latent * 2.0), autoencoder.decode(latent * 0.41407)) < EXACT


def test_bfloat16_computes_in_bfloat16_and_returns_float32(stored: Path, autoencoder: DcaeAutoencoder) -> None:
    half = load_dcae(stored / "full", CONFIG, dtype=torch.bfloat16)
    hr = torch.rand(1, 3, 64, 96)
    latent, expected = half.encode(hr), autoencoder.encode(hr)
    assert half.dtype == torch.bfloat16 and autoencoder.dtype == torch.float32
    assert latent.dtype == half.decode(latent).dtype == torch.float32
    assert 1e-4 < float((latent - expected).abs().max() / expected.abs().max()) < 0.1
    with torch.autocast("cpu", torch.bfloat16):  # of the caller: gives float32 weights less than they can do
        assert autoencoder.encode(hr).dtype == torch.float32


def test_a_batch_is_its_pictures_one_by_one_and_carries_no_gradient(autoencoder: DcaeAutoencoder) -> None:
    hr = torch.rand(3, 3, 64, 64, requires_grad=True)
    latent = autoencoder.encode(hr)
    assert not latent.requires_grad and not latent.is_inference()
    singles = torch.cat([autoencoder.encode(picture[None]) for picture in hr])
    assert _error(latent, singles) < EXACT


def test_nothing_touches_the_network(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_dcae(stored / "full", CONFIG, decoder_folder=stored / "lite").reconstruct(torch.rand(1, 3, 40, 40))


def test_the_lite_decoder_is_really_used(stored: Path, autoencoder: DcaeAutoencoder) -> None:
    both = load_dcae(stored / "full", CONFIG, decoder_folder=stored / "lite")
    lite = load_dcae(stored / "lite", CONFIG)
    hr = torch.rand(1, 3, 64, 64)
    latent = both.encode(hr)
    assert _error(latent, autoencoder.encode(hr)) < EXACT
    assert _error(both.decode(latent), lite.decode(latent)) < EXACT
    assert (both.decode(latent) - autoencoder.decode(latent)).abs().max() > 0.01


# --- the published shape


class _LiveBytes(TorchDispatchMode):
    """Largest sum of storages alive at once among those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.known:
                self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone() -> None:
            self.known.discard(key)
            self.live -= size

        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, gone)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp("f32c32")
    (folder / "config.json").write_text(json.dumps(F32C32))
    return build_autoencoder(folder)


def test_published_config_has_the_published_parameters(published: nn.Module) -> None:
    counts = [sum(p.numel() for p in part.parameters()) for part in (published, published.encoder, published.decoder)]
    assert counts[0] == 312_250_275 == counts[1] + counts[2]
    assert published.device.type == "meta"
    assert DcaeAutoencoder(published, CONFIG).factor == 32


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_decode_memory_is_what_lives_at_once_in_the_published_shape(
    published: nn.Module, dtype: torch.dtype | None
) -> None:
    precision = torch.float32 if dtype is None else dtype
    parts = [(published.decoder, (1, 32, 32, 16)), (published.encoder, (1, 3, 1024, 512))]
    for part, shape in parts:
        part.to(precision)
        with torch.no_grad(), _LiveBytes() as counter:
            part(torch.empty(shape, device="meta", dtype=precision))
        part.to(torch.float32)
        assert 0.9 < decode_memory(1024, 512, dtype) / counter.peak < 1.15


# --- tiles


def _smooth(height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def test_tiles_of_local_layers_equal_the_whole_where_the_overlap_is_wide() -> None:
    """A quarter of an overlap of 896 is out of sight of the tile's edge: nothing is left of the cut at all."""
    hr = _smooth(64, 2560)
    whole = _convolutional(tile=None)
    tiled = _convolutional(tile=1792, overlap=896, whole=1792)
    latent, tiled_latent = whole.encode(hr), tiled.encode(hr)
    assert _error(tiled_latent, latent) < EXACT
    picture = whole.decode(latent)
    assert _error(tiled.decode(latent), picture) < EXACT


def test_tiles_of_local_layers_equal_the_whole_away_from_seams() -> None:
    """With a small overlap the cut shows near the seams, and nowhere else."""
    hr = _smooth(64, 2048)
    whole, tiled = _convolutional(tile=None), _convolutional(tile=1056, overlap=64, whole=1056)
    latent = whole.encode(hr)
    difference = (tiled.decode(latent) - whole.decode(latent)).abs().amax(dim=(0, 1, 2))
    seam = slice(2048 // 2 - 256, 2048 // 2 + 256)
    away = torch.cat([difference[: seam.start], difference[seam.stop :]])
    assert float(away.max()) < EXACT
    assert float(difference[seam].max()) > 1e-4
    difference = (tiled.encode(hr) - latent).abs().amax(dim=(0, 1, 2))
    assert float(torch.cat([difference[:24], difference[40:]]).max()) < EXACT
    assert float(difference[24:40].max()) > 1e-4


@given(height=st.integers(1, 12), width=st.integers(1, 12), tile=st.sampled_from([64, 96, 160, 256]))
@settings(deadline=None, max_examples=15)
def test_windows_keep_a_constant_constant(height: int, width: int, tile: int) -> None:
    autoencoder = _convolutional(tile=tile, overlap=64, whole=64)
    for layer, bias in ((autoencoder._decoder.conv_out, (0.2, -0.4, 0.6)), (autoencoder._encoder.conv_out, [0.5] * 32)):
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(bias)
    autoencoder._encoder.out_shortcut = False
    latent = autoencoder.encode(torch.rand(1, 3, 32 * height, 32 * width))
    assert (latent - 0.5 * 0.41407).abs().max() < 1e-6
    out = autoencoder.decode(latent)
    assert out.shape == (1, 3, 32 * height, 32 * width)
    assert (out - torch.tensor([0.6, 0.3, 0.8]).view(1, 3, 1, 1)).abs().max() < 1e-6


def test_tiles_of_the_real_blocks_differ_from_the_whole_but_show_no_seams(stored: Path) -> None:
    """Steps across tile borders and the middles of overlaps, over those of the whole picture; a hard cut has 3.6."""
    whole = load_dcae(stored / "full", CONFIG, tile=None)
    latent = whole.encode(_smooth(96, 1536))
    expected = whole.decode(latent)
    ratios = {}
    for overlap in (0, 128):
        out = load_dcae(stored / "full", CONFIG, tile=512, overlap=overlap, whole=512).decode(latent)
        assert _error(out, expected) > 0.01  # each tile attends to itself only
        plan = plan_tiles(96, 1536, 512, overlap, 32)
        ends = [start + plan.tile_width for start in plan.col_starts[:-1]]
        middles = [(end + start) // 2 for end, start in zip(ends, plan.col_starts[1:], strict=True)]
        places = torch.tensor([*plan.col_starts[1:], *ends, *middles])
        steps = [float((x[..., places] - x[..., places - 1]).square().mean()) for x in (out, expected)]
        ratios[overlap] = steps[0] / steps[1]
    assert ratios[0] > 2
    assert 0.9 < ratios[128] < 1.1


def test_decode_reports_every_tile(stored: Path) -> None:
    seen: list[tuple[int, int]] = []
    tiled = load_dcae(stored / "full", CONFIG, tile=128, overlap=32, whole=128)
    tiled.decode(torch.randn(1, 32, 4, 7), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_pictures_up_to_whole_are_not_tiled(stored: Path) -> None:
    autoencoder = load_dcae(stored / "full", CONFIG)
    assert autoencoder.choose_tile(2048, 2048) is None
    assert autoencoder.choose_tile(2049, 64) == 1024
    autoencoder.tile = None
    assert autoencoder.choose_tile(9000, 9000) is None


@pytest.mark.parametrize(
    ("free", "expected"), [(2 * 10.5 * 2**30, None), (9 * 2**30, 1024), (2 * 2**30, 512), (1, 256)]
)
def test_tiles_shrink_to_what_half_of_the_free_memory_holds(
    published: nn.Module, free: float, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linearsr.autoencoders.dcae.free_memory", lambda _: int(free))
    assert DcaeAutoencoder(published, CONFIG).choose_tile(2048, 2048) == expected


@pytest.mark.parametrize("tile", [0, 32, 100, 1000, -64])
def test_a_tile_off_the_grid_is_refused_with_one_that_works(stored: Path, tile: int) -> None:
    with pytest.raises(ConfigError, match=f"tile of the autoencoder is {tile}") as caught:
        load_dcae(stored / "full", CONFIG, tile=tile)
    named = int(str(caught.value.hint).split("--vae-tile ")[1].split("`")[0])
    load_dcae(stored / "full", CONFIG, tile=named)


@pytest.mark.parametrize("overlap", [-32, 16, 100])
def test_an_overlap_off_the_grid_is_refused(stored: Path, overlap: int) -> None:
    with pytest.raises(ConfigError, match=f"overlap of the autoencoder is {overlap}"):
        load_dcae(stored / "full", CONFIG, overlap=overlap)


# --- memory and numbers


def _limit(module: nn.Module, most: int, log: list[tuple[int, ...]]) -> None:
    """Make a module run out of memory above a number of input elements, as the CPU's allocator says it."""

    def check(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        log.append(tuple(inputs[0].shape))
        if inputs[0].numel() > most:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    module.register_forward_pre_hook(check)


def test_out_of_memory_retries_one_by_one_then_with_half_the_tile(stored: Path) -> None:
    autoencoder, log = load_dcae(stored / "full", CONFIG), []
    latent = torch.randn(2, 32, 8, 24)
    expected = load_dcae(stored / "full", CONFIG, tile=384, whole=384).decode(latent)
    _limit(autoencoder._decoder, 32 * 8 * 12, log)
    assert _error(autoencoder.decode(latent), expected) < EXACT
    assert log[:3] == [(2, 32, 8, 24), (1, 32, 8, 24), (1, 32, 8, 12)]


def test_out_of_memory_of_encode_retries_too(stored: Path) -> None:
    autoencoder, log = load_dcae(stored / "full", CONFIG), []
    hr = torch.rand(1, 3, 64, 1024)
    expected = load_dcae(stored / "full", CONFIG, tile=512, whole=512).encode(hr)
    _limit(autoencoder._encoder, 3 * 64 * 512, log)
    assert _error(autoencoder.encode(hr), expected) < EXACT


def test_out_of_memory_at_the_smallest_tile_names_the_setting(stored: Path) -> None:
    autoencoder, log = load_dcae(stored / "full", CONFIG), []
    _limit(autoencoder._decoder, 0, log)
    with pytest.raises(OutOfMemoryError, match="cpu is out of memory even with 256-pixel tiles") as caught:
        autoencoder.decode(torch.randn(1, 32, 4, 33))
    assert caught.value.hint == "use `--offload expert`, or close other programs that use it"
    assert [shape[-1] for shape in log] == [33, 15, 8]
    assert SMALLEST_RETRY == 256


def test_another_runtime_error_is_not_taken_for_want_of_memory(stored: Path) -> None:
    autoencoder = load_dcae(stored / "full", CONFIG)

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    autoencoder._decoder.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        autoencoder.decode(torch.randn(1, 32, 16, 16))


def test_values_that_are_not_finite_are_an_error(autoencoder: DcaeAutoencoder) -> None:
    with pytest.raises(ImageError, match="not finite"):
        autoencoder.decode(torch.full((1, 32, 2, 2), math.nan))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64), (0, 3, 64, 64)])
def test_pictures_of_another_shape_are_refused(autoencoder: DcaeAutoencoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="pictures are"):
        autoencoder.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(32, 2, 2), (1, 16, 2, 2), (1, 32, 0, 2)])
def test_latents_of_another_shape_are_refused(autoencoder: DcaeAutoencoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="latent is"):
        autoencoder.decode(torch.zeros(shape))


@pytest.mark.parametrize("size", [(65, 64), (64, 65), (0, 10), (-3, 10)])
def test_a_size_that_the_latent_does_not_hold_is_refused(autoencoder: DcaeAutoencoder, size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=f"size is {size[0]}x{size[1]}, expected at most 64x64"):
        autoencoder.decode(torch.zeros(1, 32, 2, 2), size)


# --- weights that do not fit


def _edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("key", ["encoder.conv_in.weight", "decoder.norm_out.bias"])
def test_a_missing_tensor_is_named(folder: Path, key: str) -> None:
    _edit_weights(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(WeightsError, match=f"'vae' do not fit its config.json: missing {key}"):
        load_dcae(folder, CONFIG)


def test_extra_and_wrongly_shaped_tensors_are_named_together(folder: Path) -> None:
    _edit_weights(
        folder, lambda t: t.update({"quant_conv.weight": torch.zeros(1), "decoder.conv_out.bias": torch.zeros(4)})
    )
    with pytest.raises(
        WeightsError, match=r"extra quant_conv.weight; decoder.conv_out.bias is \(4,\), expected \(3,\)"
    ):
        load_dcae(folder, CONFIG)


def test_the_part_that_is_not_used_is_checked_too(folder: Path, stored: Path) -> None:
    _edit_weights(folder, lambda tensors: tensors.pop("decoder.conv_in.weight"))
    with pytest.raises(WeightsError, match="missing decoder.conv_in.weight"):
        load_dcae(folder, CONFIG, decoder_folder=stored / "lite")


def test_damaged_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(WeightsError, match="is not a safetensors file"):
        load_dcae(folder, CONFIG)


def test_a_pickle_is_refused_as_file_and_in_a_folder(folder: Path) -> None:
    pickle = folder / "diffusion_pytorch_model.bin"
    (folder / WEIGHTS).rename(pickle)
    with pytest.raises(WeightsError, match="only diffusion_pytorch_model.bin, a pickle"):
        load_dcae(folder, CONFIG)
    with pytest.raises(WeightsError, match="is a pickle, which can run code"):
        load_dcae(pickle, CONFIG)
    pickle.unlink()
    with pytest.raises(WeightsError, match=f"has no {WEIGHTS}"):
        load_dcae(folder, CONFIG)


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match="has no config.json"):
        load_dcae(folder, CONFIG)
    with pytest.raises(WeightsError, match="has no config.json"):
        load_dcae(folder / "missing", CONFIG)


def test_a_config_of_another_class_or_none_at_all_is_refused(folder: Path) -> None:
    _edit_config(folder, _class_name="AutoencoderKL")
    with pytest.raises(WeightsError, match="config of 'AutoencoderKL', expected 'AutoencoderDC'"):
        load_dcae(folder, CONFIG)
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(WeightsError, match="holds no settings"):
        load_dcae(folder, CONFIG)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="is not valid JSON"):
        load_dcae(folder, CONFIG)


def test_settings_that_diffusers_does_not_know_are_refused(folder: Path) -> None:
    _edit_config(folder, decoder_magic=True)
    with pytest.raises(WeightsError, match="does not know: decoder_magic") as caught:
        load_dcae(folder, CONFIG)
    assert "pip install -U diffusers" in str(caught.value.hint)


def test_settings_that_make_no_network_are_refused(folder: Path) -> None:
    _edit_config(folder, encoder_block_types=["ResBlock"] * 5 + ["Swin"])
    with pytest.raises(WeightsError, match="makes no AutoencoderDC: .*Swin"):
        load_dcae(folder, CONFIG)


def test_another_factor_than_the_configs_is_refused(stored: Path) -> None:
    with pytest.raises(WeightsError, match="downsamples by 32, expected 64"):
        load_dcae(stored / "full", AutoencoderConfig(kind="dcae", factor=64, source="./vae"))


def test_a_decoder_for_other_latents_is_refused(stored: Path, tmp_path: Path) -> None:
    narrow = diffusers.AutoencoderDC(
        latent_channels=16,
        encoder_block_out_channels=(4, 4, 16),
        decoder_block_out_channels=(4, 4, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    )
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(WeightsError, match="'narrow' takes latents of 16 channels at 1/4, expected 32 at 1/32"):
        load_dcae(stored / "full", CONFIG, decoder_folder=tmp_path / "narrow")


def test_without_diffusers_the_error_names_what_to_install(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match="the DC-AE autoencoder needs diffusers") as caught:
        load_dcae(stored / "full", CONFIG)
    assert 'pip install "linearsr[full]"' in str(caught.value.hint)


# --- the benchmark of the autoencoder alone


def test_ceiling_measures_the_reconstruction_and_says_what_it_is_worth(
    stored: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from linearsr.metrics import psnr, quantise

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    program, common = importlib.import_module("run_ceiling"), importlib.import_module("_common")
    output = tmp_path / "ceiling.json"
    words = ["--autoencoder", str(stored / "full"), "--data", str(photos), "--limit", "2", "--output", str(output)]
    assert program.main(words) == 0
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert list(row["images"]) == ["bridge.png", "forest.png"]
    hr = common.read_picture(photos / "bridge.png")
    sr = quantise(load_dcae(stored / "full", CONFIG).reconstruct(hr[None])[0])
    assert row["images"]["bridge.png"]["psnr_y"] == pytest.approx(psnr(sr, hr, border=4))
    assert row["psnr_y"] == pytest.approx(sum(image["psnr_y"] for image in row["images"].values()) / 2)
    assert "mean nothing" in result["protocol"]["note"]
    printed = capsys.readouterr().out
    assert "with random weights these numbers mean nothing" in printed
    assert "these weights look random" in printed
    assert str(tmp_path) not in output.read_text()
