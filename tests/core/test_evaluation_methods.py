"""Methods: interpolations by their definition, models exactly as `linearsr upscale` runs them, and what is told."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import linearsr
from linearsr import Upscaler
from linearsr.errors import ConfigError, ImageError, WeightsError
from linearsr.evaluation import models
from linearsr.evaluation.making import Input
from linearsr.evaluation.methods import (
    FILTERS,
    autoencoder_ceiling,
    folder_method,
    interpolation,
    model_methods,
)
from linearsr.evaluation.model_facts import _version_of
from linearsr.evaluation.pictures import eight_bits, read_input, read_picture
from linearsr.resize import resize

CONFIG = Path(linearsr.__file__).parent / "weights" / "compact" / "config.json"


def picture(height: int = 16, width: int = 20, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(seed))
    return eight_bits(resize(coarse, (height, width)))


def sample(lr: torch.Tensor | None, scale: int = 4, **more) -> Input:
    size = (0, 0) if lr is None else (scale * lr.shape[2], scale * lr.shape[1])
    return Input(image="x", size=size, lr=lr, **more)


# ---- interpolations and folders


@pytest.mark.parametrize("name", FILTERS)
def test_interpolations_agree_with_their_source(name: str) -> None:
    lr = picture()
    array = (lr.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()

    made = interpolation(name)(sample(lr, 3))

    if name == "bicubic":
        expected = resize(lr, (48, 60))
    else:
        scaled = Image.fromarray(array).resize((60, 48), getattr(Image.Resampling, name.upper()))
        expected = torch.from_numpy(np.array(scaled)).permute(2, 0, 1) / 255
    assert torch.equal(made.sr, expected)
    assert made.seconds is not None and made.seconds > 0


def test_interpolations_refuse_other_names_and_no_input() -> None:
    with pytest.raises(ConfigError, match="'sinc', expected bicubic"):
        interpolation("sinc")
    with pytest.raises(ConfigError, match="'bicubic' has no input for 'x'"):
        interpolation("bicubic")(sample(None))


def test_a_folder_method_reads_its_file_and_cuts_it(tmp_path: Path) -> None:
    x = picture(9, 13)
    Image.fromarray((x.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()).save(tmp_path / "x.png")
    method = folder_method("mine", [tmp_path])

    made = method(Input(image="x", size=(12, 8), srs={"mine": tmp_path / "x.png"}))

    assert torch.equal(made.sr, x[:, :8, :12])
    assert made.seconds is None
    assert (method.info.kind, method.info.settings) == ("folder", {"folders": [tmp_path.name]})
    with pytest.raises(ConfigError, match="'mine' has no result for 'x'"):
        method(Input(image="x", size=(12, 8)))


# ---- models


@pytest.mark.parametrize(("seed", "steps", "tags"), [(0, 1, None), (3, 2, None), (3, 2, "jpeg, noise:weak")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_model_gives_the_pixels_that_upscale_writes(tmp_path: Path, seed, steps, tags, mode: str) -> None:
    from linearsr_cli.app import main

    array = (picture(16, 16).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(array).convert(mode).save(tmp_path / "in.png")
    given = [] if tags is None else ["--tags", tags]
    words = ["upscale", tmp_path / "in.png", "-o", tmp_path / "out.png", "--steps", steps, "--seed", seed, *given]
    assert main([str(word) for word in (*words, "--device", "cpu")]) == 0
    lr, is_gray = read_input(tmp_path / "in.png")

    method = model_methods("compact", [steps], seed=seed, tags=tags, device="cpu")[0]
    made = method(sample(lr, gray=is_gray))

    assert torch.equal(eight_bits(made.sr), read_picture(tmp_path / "out.png"))


def test_tags_are_none_the_taggers_own_or_the_true_ones() -> None:
    lr = picture()
    upscaler = Upscaler.from_pretrained("compact", device="cpu")

    def made(tags: str | None, true: tuple[str, ...] | None = None) -> torch.Tensor:
        return model_methods("compact", [1], tags=tags, device="cpu")[0](sample(lr, tags=true)).sr

    def expected(tags: tuple[str, ...] | None) -> torch.Tensor:
        return upscaler.upscale_tensor(lr, size=(80, 64), steps=1, tags=tags)

    assert torch.equal(made(None), expected(None))
    assert torch.equal(made("none"), expected(()))
    assert torch.equal(made("true", ("blur", "noise")), expected(("blur", "noise")))
    assert torch.equal(made("jpeg"), expected(("jpeg",)))
    assert not torch.equal(made("jpeg"), made("none"))
    with pytest.raises(ImageError, match="tags are 'true'"):
        made("true")


def test_info_says_all_that_decides_a_result() -> None:
    one, two = model_methods(
        "compact",
        [1, 2, 2],
        seed=5,
        tags="jpeg",
        cfg_scale=2.0,
        tile=128,
        color_fix="adain",
        device="cpu",
        dtype="fp32",
    )

    assert (one.info.name, two.info.name) == ("compact, 1 step", "compact, 2 steps")
    assert (one.info.kind, one.info.steps) == ("model", 1)
    assert one.info.settings == {
        "model": "compact",
        "revision": None,
        "config_sha256": hashlib.sha256(CONFIG.read_bytes()).hexdigest(),
        "device": "cpu",
        "dtype": "fp32",
        "threads": torch.get_num_threads(),
        "linearsr": linearsr.__version__,
        "seed": 5,
        "tags": "jpeg",
        "cfg_scale": 2.0,
        "tile": 128,
        "tile_px": 128,
        "color_fix": "adain",
        "steps": 1,
    }
    assert {**one.info.settings, "steps": 2} == two.info.settings


def test_defaults_are_the_models_own_and_told(tiny_checkpoint: Path) -> None:
    info = model_methods(tiny_checkpoint, device="cpu")[0].info

    assert info.name == "tiny-model, 4 steps"
    chosen = {name: info.settings[name] for name in ("steps", "seed", "tags", "cfg_scale", "tile", "color_fix")}
    assert chosen == {"steps": 4, "seed": 0, "tags": "none", "cfg_scale": 1.0, "tile": "auto", "color_fix": "none"}
    assert model_methods("compact", [1], device="cpu")[0].info.settings["tags"] == "tagger"
    assert model_methods("compact", [1], label="mine", device="cpu")[0].info.name == "mine, 1 step"


def test_tiles_are_those_of_the_result(tiny_checkpoint: Path) -> None:
    lr = picture(30, 50)
    tiled = model_methods(tiny_checkpoint, [1], tile=64, device="cpu")[0](sample(lr))
    whole = model_methods(tiny_checkpoint, [1], tile="off", device="cpu")[0](sample(lr))

    assert whole.tiles is None
    assert tiled.tiles is not None
    assert (tiled.tiles.height, tiled.tiles.width) == (120, 200)
    inside = [start for start in tiled.tiles.col_starts if start]
    assert inside, "a picture of 200 columns has several tiles of 64"
    upscaler = Upscaler.from_pretrained(tiny_checkpoint, device="cpu")
    seen = []
    view = upscaler.engine.family.view
    upscaler.engine.family.view = lambda a, b, tile: seen.append((tile.top, tile.left)) or view(a, b, tile)
    upscaler.upscale_tensor(lr, size=(200, 120), steps=1, tile=64)
    assert seen == [(tile.top, tile.left) for tile in tiled.tiles.tiles]


def test_weights_are_loaded_before_the_clock_starts_and_once(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[int, int]] = []
    upscale = Upscaler.upscale_tensor

    def watch(self: Upscaler, lr: torch.Tensor, **settings: object) -> torch.Tensor:
        loaded.append((lr.shape[2], len(self.bank.loaded)))
        return upscale(self, lr, **settings)

    monkeypatch.setattr(Upscaler, "upscale_tensor", watch)
    one, two = model_methods(tiny_checkpoint, [1, 2], device="cpu")
    for method in (one, two, one):
        method(sample(picture()))

    assert loaded == [(16, 0), (20, 1), (16, 1), (20, 1), (20, 1)]


def test_seconds_are_of_the_result_alone(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def passes(seconds: float) -> None:
        nonlocal clock
        clock += seconds

    upscale, wait = Upscaler.upscale_tensor, iter((100.0, 0.25))  # the queue is full before, and has the result after

    def slow(self: Upscaler, lr: torch.Tensor, **settings: object) -> torch.Tensor:
        passes(1000.0 if lr.shape[2] == models.WARM_UP_PX else 1.0)
        return upscale(self, lr, **settings)

    monkeypatch.setattr(models, "time", SimpleNamespace(perf_counter=lambda: clock))
    monkeypatch.setattr(models, "_wait", lambda device: passes(next(wait)))
    monkeypatch.setattr(Upscaler, "upscale_tensor", slow)

    made = model_methods(tiny_checkpoint, [1], device="cpu")[0](sample(picture()))

    assert made.seconds == 1.25


def test_settings_tell_what_the_machine_decides(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(**options) -> dict:
        return dict(model_methods("compact", [1], device="cpu", **options)[0].info.settings)

    plain = settings()
    assert plain["tile_px"] == Upscaler.from_pretrained("compact", device="cpu").config.sampling.tile
    assert (settings(tile="off")["tile_px"], settings(tile=96)["tile_px"]) == (None, 96)

    monkeypatch.setattr("linearsr.engine.free_memory", lambda device: 2**24)
    assert settings()["tile_px"] < plain["tile_px"]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert settings()["threads"] == 77


def test_components_outside_the_checkpoint_are_told_by_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, commit = tmp_path / "dc-ae", "0123456789" * 4
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "weights").write_bytes(b"1")
    first = _version_of(str(folder))
    (folder / "in" / "weights").write_bytes(b"2")
    second = _version_of(str(folder))
    (folder / "in" / "weights").rename(folder / "weights")
    assert len({first, second, _version_of(str(folder))}) == 3

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert _version_of("owner/name") == "owner/name"
    repo = tmp_path / "hub" / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    assert _version_of("owner/name") == f"owner/name {commit}"


def test_settings_that_do_not_fit_are_found_before_any_picture(tiny_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="tile is 65"):
        model_methods(tiny_checkpoint, [1], tile=65, device="cpu")
    with pytest.raises(ConfigError, match="unknown tag 'nonsense'"):
        model_methods(tiny_checkpoint, [1], tags="nonsense", device="cpu")
    with pytest.raises(ConfigError, match="steps"):
        model_methods(tiny_checkpoint, [0], device="cpu")
    with pytest.raises(WeightsError, match="gone"):
        model_methods("./gone", [1], device="cpu")


def test_a_model_without_learned_autoencoder_has_no_ceiling() -> None:
    with pytest.raises(ConfigError, match="'compact' has no learned autoencoder"):
        autoencoder_ceiling("compact", device="cpu")


# ---- models in the latent of a learned autoencoder


@pytest.fixture(scope="module")
def paper_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random stand-in with DC-AE, text encoder and tagger."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from linearsr_train.stand_ins.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("paper") / "stand-in"
    write_checkpoint(folder)
    return folder


@pytest.mark.slow
def test_the_ceiling_is_the_autoencoder_alone(paper_model: Path) -> None:
    hr = picture(70, 90)
    method = autoencoder_ceiling(paper_model, device="cpu", dtype="fp32")

    made = method(Input(image="x", size=(90, 70), hr=hr))

    family = Upscaler.from_pretrained(paper_model, device="cpu", dtype="fp32").engine.family
    assert torch.equal(made.sr, family.autoencoder.reconstruct(hr[None])[0])
    assert (method.info.name, method.info.kind, method.reads) == ("stand-in autoencoder", "baseline", "reference")
    with pytest.raises(ConfigError, match="needs the clean picture"):
        method(Input(image="x", size=(90, 70)))


@pytest.mark.slow
def test_a_component_that_changes_changes_the_settings(paper_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(paper_model, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    inside = config["autoencoder"]["source"]
    outside = shutil.copytree(folder / inside, tmp_path / "outside")

    def settings() -> dict:
        return dict(autoencoder_ceiling(folder, device="cpu").info.settings)

    assert inside.startswith("./") and "autoencoder" not in settings()
    config["autoencoder"]["source"] = str(outside)
    (folder / "config.json").write_text(json.dumps(config))
    before = settings()
    next(outside.rglob("*.safetensors")).write_bytes(b"others")
    after = settings()

    assert {name for name in before if before[name] != after[name]} == {"autoencoder"}
    assert before["sees"] == "the clean picture"


@pytest.mark.slow
def test_a_paper_style_model_is_run_as_upscale_runs_it(paper_model: Path) -> None:
    lr = picture(12, 15)
    method = model_methods(paper_model, [2], seed=4, device="cpu", dtype="fp32")[0]

    made = method(sample(lr))

    upscaler = Upscaler.from_pretrained(paper_model, device="cpu", dtype="fp32")
    assert torch.equal(made.sr, upscaler.upscale_tensor(lr, size=(60, 48), steps=2, seed=4))
    assert made.tiles is None
