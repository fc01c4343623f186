"""What the families see and condition on; the latent family whole, in tiles and at any scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linearsr.config import AutoencoderConfig
from linearsr.errors import ConfigError
from linearsr.families import LatentFamily, PixelFamily
from linearsr.resize import resize
from linearsr.sizing import OutputSize
from linearsr.tiling import Tile

PIXEL = AutoencoderConfig(kind="pixel", factor=4, residual_std={"4": 0.05})


def _never() -> None:
    raise AssertionError("the autoencoder is not needed yet")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from linearsr_train.stand_ins.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("families") / "stand-in"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def upscaler(stand_in: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    from linearsr.pipeline import Upscaler

    monkeypatch.setenv("LINEARSR_CACHE", str(tmp_path))
    return lambda **settings: Upscaler.from_pretrained(
        stand_in, **{"device": "cpu", "dtype": "fp32", "tagger": "none", **settings}
    )


def test_the_pixel_family_sees_the_enlarged_input_and_its_cells_are_pixels() -> None:
    family, lr = PixelFamily(PIXEL), torch.rand(3, 9, 11)
    out = OutputSize(width=44, height=36, scale=4.0)
    assert torch.allclose(family.view(lr, out, Tile(8, 12, 16, 20)), resize(lr, (36, 44))[:, 8:24, 12:32], atol=1e-6)
    latent = torch.rand(2, 48, 4, 5)
    assert torch.equal(family.latent(family.cells(latent)), latent) and family.cells(latent).shape == (2, 3, 16, 20)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.integers(0, 4))
def test_the_latent_family_sees_native_pixels_and_repeats_the_last_beyond_them(h: int, w: int, r: int, c: int) -> None:
    family = object.__new__(LatentFamily)  # its view needs no model
    lr = torch.arange(3 * h * w, dtype=torch.float32).view(3, h, w)
    view = family.view(lr, OutputSize(width=4 * w, height=4 * h, scale=4.0), Tile(32 * r, 32 * c, 64, 96))
    rows = torch.arange(8 * r, 8 * r + 16).clamp(max=h - 1)
    cols = torch.arange(8 * c, 8 * c + 24).clamp(max=w - 1)
    assert torch.equal(view, lr[:, rows][:, :, cols])


def test_the_autoencoder_loads_at_the_first_picture_and_goes_when_told(upscaler: Callable) -> None:
    up = upscaler()
    family = up.engine.family
    assert isinstance(family, LatentFamily) and "autoencoder" not in vars(family)
    up.upscale_tensor(torch.rand(3, 8, 8), size=(32, 32), steps=1)
    assert "autoencoder" in vars(family)
    family.free()
    assert "autoencoder" not in vars(family)


def test_a_stem_that_does_not_reach_the_latent_grid_is_refused(upscaler: Callable) -> None:
    config = upscaler().config

    model = replace(config.model, lr_stem=(8, 32))
    with pytest.raises(ConfigError, match="2 convolutions for an autoencoder factor of 32"):
        LatentFamily(replace(config, model=model), _never)


def test_one_tile_equals_the_whole_canvas_and_blends_do_not_matter_then(upscaler: Callable) -> None:
    up, lr = upscaler(), torch.rand(3, 24, 16, generator=torch.Generator().manual_seed(0))
    settings = {"size": (64, 96), "steps": 3, "color_fix": "none"}
    whole = up.upscale_tensor(lr, **settings)
    assert torch.equal(up.upscale_tensor(lr, tile=128, **settings), whole)
    assert torch.allclose(up.upscale_tensor(lr, blend="tiles", **settings), whole, atol=1e-5)


def test_tiles_of_the_network_cover_the_canvas_and_batches_change_nothing(upscaler: Callable) -> None:
    up, lr = upscaler(), torch.rand(3, 40, 72, generator=torch.Generator().manual_seed(1))
    settings = {"size": (288, 160), "steps": 2, "color_fix": "none", "tile": 128, "tile_overlap": 64}
    one, three = (up.upscale_tensor(lr, batch_size=count, **settings) for count in (1, 3))
    assert one.shape == (3, 160, 288) and bool(torch.isfinite(one).all())
    assert torch.allclose(one, three, atol=1e-4)


def test_the_latent_family_in_row_chunks_gives_the_same_picture(upscaler: Callable, monkeypatch) -> None:
    from linearsr import enlarge

    lr = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(2))
    settings = {"size": (160, 96), "steps": 2, "color_fix": "none"}
    whole = upscaler().upscale_tensor(lr, **settings)
    monkeypatch.setattr(enlarge, "auto_row_chunks", lambda *_: 3)
    up = upscaler()
    chunked = up.upscale_tensor(lr, **settings)
    assert up.bank.row_chunks == 3
    assert torch.allclose(chunked, whole, atol=1e-4)


def test_noise_of_the_latent_family_does_not_depend_on_tiles(upscaler: Callable) -> None:
    from linearsr.enlarge import Enlargement
    from linearsr.noise import NoiseField

    engine = upscaler().engine
    job = Enlargement(
        engine=engine,
        lr=torch.rand(3, 24, 40),
        out=OutputSize(width=160, height=96, scale=4.0),
        ts=engine.time_grid(4),
        noise=NoiseField(0, "x", (96, 160), channels=32, cell=32),
        tokens=engine.words.tokens((), None, engine.device),
    )
    whole = job.start([Tile(0, 0, 96, 160)])
    assert whole.shape == (1, 32, 3, 5)
    assert torch.equal(job.start([Tile(32, 64, 64, 96)])[0], whole[0, :, 1:3, 2:5])


def test_out_of_memory_halves_the_tile_and_ends_with_the_setting_to_use(upscaler: Callable, monkeypatch) -> None:
    from linearsr import enlarge
    from linearsr.errors import OutOfMemoryError

    sides, run_tiled = [], enlarge.run_tiled

    def limited(fn, plan, **settings):
        sides.append(plan.tile_height * 32)
        if plan.tile_height > 2:
            raise torch.cuda.OutOfMemoryError("no room")
        return run_tiled(fn, plan, **settings)

    monkeypatch.setattr(enlarge, "run_tiled", limited)
    up = upscaler()
    assert up.upscale_tensor(torch.rand(3, 64, 64), size=(256, 256), steps=1).shape == (3, 256, 256)
    assert sides[0] == 256 and min(sides) <= 64
    monkeypatch.setattr(enlarge, "MIN_TILE", 96)
    with pytest.raises(OutOfMemoryError, match="even with") as failure:
        up.upscale_tensor(torch.rand(3, 64, 64), size=(256, 256), steps=1)
    assert "--offload expert" in str(failure.value.hint)
