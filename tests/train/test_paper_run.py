"""The paper-scale pipeline from photographs to an export, with a tiny network and tiny random components."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from linearsr.autoencoders.dcae import load_dcae
from linearsr.checkpoint import load_network, read_config
from linearsr.errors import ConfigError, WeightsError
from linearsr.hub import open_model
from linearsr.presets import PRESETS, PUBLISHED_STEPS
from linearsr.schedules import dpm_flow_grid
from linearsr.tags.encoder import load_text_encoder
from linearsr_cli.app import main
from linearsr_train.components import Components, find_components
from linearsr_train.config import TrainConfig
from linearsr_train.experts import boundaries_log_snr
from linearsr_train.export import export_experts
from linearsr_train.run import RunResult, run_training
from linearsr_train.runlog import read_log
from linearsr_train.weights import read_init

PROMPTS = ("Stone bridge, river", "red roofs, sky", "a cat")


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed: drawing takes seconds."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- --debug of each recipe, on real photographs


@pytest.fixture(scope="module")
def real_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs, half of them with tags."""
    data = Path(os.environ.get("LINEARSR_DATA", "")) / "train"
    if "LINEARSR_DATA" not in os.environ or not data.is_dir():
        pytest.skip("needs photographs: set LINEARSR_DATA to a folder with train/")
    pytest.importorskip("diffusers", reason="needs the extra full")
    pytest.importorskip("transformers", reason="needs the extra full")
    folder = tmp_path_factory.mktemp("real")
    paths = sorted(data.glob("*.webp"))[5 :: max(1, len(list(data.glob("*.webp"))) // 6)][:6]
    for path, text in zip(paths, (*PROMPTS, *[""] * 3), strict=True):
        (folder / path.name).symlink_to(path)
        if text:
            (folder / path.name).with_suffix(".txt").write_text(text, encoding="utf-8")
    return folder


def _debug(recipe: str, photos: Path, run: Path, *more: str) -> None:
    assert main(["train", "--recipe", recipe, "--debug", "--data", str(photos), "--output-dir", str(run), *more]) == 0


def _check_export(export: Path, num_experts: int) -> None:
    """Everything that the export names is in it, whole, and loads."""
    config, model = read_config(export), open_model(export)
    assert len(config.experts.files) == num_experts
    assert (config.autoencoder.source, config.tags.encoder) == ("./autoencoder", "./text_encoder")
    present = {p.relative_to(export).as_posix() for p in export.rglob("*") if p.is_file()}
    assert present == {"config.json", *config.files}
    for name, entry in config.files.items():
        assert entry.sha256 == hashlib.sha256((export / name).read_bytes()).hexdigest(), name
    autoencoder = load_dcae(model.component(config.autoencoder.source, what="autoencoder"), config.autoencoder)
    assert autoencoder.factor == 32
    encoder = load_text_encoder(model.component(config.tags.encoder, what="text encoder"), config.tags)
    assert encoder.width == config.model.caption_channels
    for expert in range(num_experts):
        network = load_network(export, config, expert)
        assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


@pytest.mark.slow
def test_debug_of_paper_moe_goes_through_every_part(
    real_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    _debug("paper_moe", real_photos, run, "--licence", "CC0-1.0")
    captured = capsys.readouterr()
    assert captured.out.strip() == str(run / "export")
    assert "4 photographs" in captured.err
    assert "the autoencoder alone: PSNR" in captured.err
    assert "distinct prompts of" in captured.err
    assert (run / "stand_ins" / "autoencoder" / "config.json").is_file()
    endings = {path.parent.name: json.loads(path.read_text())["ending"] for path in run.rglob("done.json")}
    assert endings.keys() == {"pretrain", "expert-3", "expert-2", "expert-1", "expert-0"}
    assert endings["pretrain"] in ("plateau", "knee", "budget")
    with (run / "stages" / "pretrain" / "curve.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= 6, "the controller has had enough evaluations for a verdict"
    log = read_log(run / "log.jsonl")
    ceiling = next(entry for entry in log if entry["event"] == "ceiling")
    config = read_config(run / "export")
    assert config.training["autoencoder_ceiling"] == {name: ceiling[name] for name in ("psnr", "perceptual")}
    _check_export(run / "export", 4)


@pytest.mark.slow
def test_debug_of_the_three_recipes_one_after_another(
    real_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As at full size: each starts from the export before, which brings network and components along."""
    before: list[str] = []
    for recipe, experts in (("paper_pretrain", 1), ("paper_moe", 4), ("paper_sft", 4)):
        run = tmp_path / recipe
        _debug(recipe, real_photos, run, *before, "-q")
        _check_export(run / "export", experts)
        assert (run / "stand_ins").exists() == (not before)
        before = ["--init", str(run / "export")]
        capsys.readouterr()
    assert {p.name for p in (tmp_path / "paper_sft" / "stages").iterdir()} == {f"sft-{e}" for e in range(4)}
    picture, large = tmp_path / "small.png", tmp_path / "large.png"
    from PIL import Image

    with Image.open(next(real_photos.glob("*.webp"))) as photo:
        photo.convert("RGB").crop((0, 0, 40, 24)).save(picture)
    assert main(["upscale", str(picture), "-o", str(large), *("--model", before[1]), "--steps", "2", "-q"]) == 0
    with Image.open(large) as result:
        assert result.size == (160, 96)


@pytest.mark.slow
def test_debug_of_the_compact_recipe_goes_through_every_stage(real_photos: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in real_photos.glob("*.webp"):
        (photos / path.name).symlink_to(path.resolve())
    small = ("width=32", "depth=1", "stem_width=8", "stem_depth=1", "head_depth=1")
    sets = [word for setting in small for word in ("--set", f"model.{setting}")]
    _debug("compact_cpu", photos, tmp_path / "run", "-q", "--set", "tagger.widths=[4, 8]", *sets)
    config = read_config(tmp_path / "run" / "export")
    assert config.training["photographs"] == 4
    assert len(config.experts.files) == 4 and config.tags.tagger == "tagger.safetensors"


# ---- stopping and going on


SHORT = {
    "stages__pretrain__max_steps": 6,
    "stages__pretrain__validation_steps": 3,
    "loop__checkpoint_steps": 6,
    "data__validation_fraction": 0.3,
}


def _train(config: TrainConfig, photos: Path, folder: Path, stop_at: int | None = None) -> RunResult:
    def progress(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    return run_training(config, photos, folder, device="cpu", report_to="none", progress=progress)


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {key: leaf for k, v in value.items() for key, leaf in _flat(v, f"{name}/{k}").items()}
    if isinstance(value, list | tuple):
        return {key: leaf for i, v in enumerate(value) for key, leaf in _flat(v, f"{name}/{i}").items()}
    return {name: value}


@pytest.fixture(scope="module")
def finished_paper(
    paper_recipe: Callable, told_photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, Path]:
    """A pretraining that never stopped; the tests only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        config, folder = paper_recipe(**SHORT), tmp_path_factory.mktemp("paper") / "run"
        assert _train(config, told_photos, folder).finished
    return config, folder


def test_a_run_that_stops_in_the_middle_ends_bit_for_bit_where_one_ends_that_never_stopped(
    finished_paper: tuple[TrainConfig, Path], told_photos: Path, tmp_path: Path
) -> None:
    config, whole = finished_paper
    first = _train(config, told_photos, tmp_path / "run", stop_at=4)
    assert (first.finished, first.step) == (False, 4)
    second = _train(config, told_photos, tmp_path / "run")
    assert second.finished
    a, b = (
        _flat(torch.load(f / "stages" / "pretrain" / "last.pt", weights_only=True)) for f in (whole, tmp_path / "run")
    )
    assert a.keys() == b.keys() and a["/step"] == 6
    assert [k for k, v in a.items() if not (torch.equal(v, b[k]) if torch.is_tensor(v) else v == b[k])] == []
    for name in ("stages/pretrain/curve.csv", "stages/pretrain/result.safetensors", "export/expert-0.safetensors"):
        assert (whole / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    result = json.loads((whole / "stages" / "pretrain" / "done.json").read_text())
    assert result["scores"]["x4/psnr_4"] == result["scores"]["x4/psnr_4"] > 5.0


def test_the_export_states_preset_sampling_and_grids(finished_paper: tuple[TrainConfig, Path]) -> None:
    run_config, folder = finished_paper
    config, preset = read_config(folder / "export"), PRESETS["sana-0.6b"]
    assert config.family == "sana", "a shape of no preset"
    assert (config.sampling.sampler, config.sampling.steps, config.sampling.cfg_scale) == ("dpmpp_2m", 20, 4.5)
    assert config.sampling.expert_cfg_scales == (), "one network"
    assert set(config.sampling.t_grids) == {str(steps) for steps in PUBLISHED_STEPS}
    for steps in PUBLISHED_STEPS:
        assert config.sampling.t_grids[str(steps)] == tuple(dpm_flow_grid(steps, 3.0).tolist())
    assert (config.flow, config.model) == (run_config.flow, run_config.model)
    assert (config.sampling.tile, config.sampling.color_fix) == (preset.sampling.tile, preset.sampling.color_fix)
    assert str(folder.parent) not in json.dumps(config.training), "no path of this machine"
    _check_export(folder / "export", 1)


def test_four_experts_of_the_papers_boundaries_get_their_own_guidance(
    paper_recipe: Callable, finished_paper: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    folder = finished_paper[1]
    weights = dict(load_network(folder / "export", read_config(folder / "export"), 0).state_dict())
    config = paper_recipe("paper_moe")
    components = Components(
        {"autoencoder": Path("unused"), "text_encoder": Path("unused")},
        {"autoencoder": "owner/autoencoder", "text_encoder": "owner/encoder@v1"},
    )
    written = export_experts(config, [weights] * 4, tmp_path, summary={}, licence="unstated", components=components)
    assert written.sampling.expert_cfg_scales == (1.0, 4.5, 4.5, 4.5)
    assert written.experts.boundaries_log_snr == boundaries_log_snr(config.experts)
    assert (written.autoencoder.source, written.tags.encoder) == ("owner/autoencoder", "owner/encoder@v1")
    assert sorted(written.files) == [f"expert-{expert}.safetensors" for expert in range(4)], "named, not carried"
    other = paper_recipe("paper_moe", experts__boundaries="[0.3, 0.5, 0.9]")
    written = export_experts(other, [weights] * 4, tmp_path / "other", summary={}, licence="unstated")
    assert written.sampling.expert_cfg_scales == ()


# ---- where components are found


def test_a_named_folder_wins_over_the_starts_own_and_that_over_the_hub(
    paper_recipe: Callable, finished_paper: tuple[TrainConfig, Path]
) -> None:
    export = finished_paper[1] / "export"
    own = find_components(paper_recipe())
    assert own.folders["autoencoder"] == Path(paper_recipe().autoencoder.source)
    hub = {"autoencoder__source": "owner/autoencoder", "tags__encoder": "owner/encoder"}
    start = paper_recipe(init=export, **hub)
    found = find_components(start)
    assert found.folders == {"autoencoder": export / "autoencoder", "text_encoder": export / "text_encoder"}
    assert dict(found.sources) == {"autoencoder": "./autoencoder", "text_encoder": "./text_encoder"}
    mixed = find_components(paper_recipe(init=export, tags__encoder="owner/encoder"))
    assert mixed.folders["autoencoder"] == own.folders["autoencoder"]
    assert mixed.folders["text_encoder"] == export / "text_encoder"
    assert len(read_init(start)[1]) == 1, "where parts lie does not tell two models apart"
    with pytest.raises(WeightsError, match="autoencoder './autoencoder' is neither a folder nor a Hub id"):
        find_components(paper_recipe(autoencoder__source="./autoencoder"))
    with pytest.raises(ConfigError, match="differs from the recipe in model.depth"):
        read_init(paper_recipe(init=export, model__depth=1))


def test_components_are_copied_once_and_mended_if_short(paper_recipe: Callable, tmp_path: Path) -> None:
    components = find_components(paper_recipe())
    listed = components.copy_into(tmp_path)
    weights = tmp_path / "autoencoder" / "diffusion_pytorch_model.safetensors"
    before = weights.stat().st_mtime_ns
    weights.with_name("config.json").write_bytes(b"{")
    assert components.copy_into(tmp_path) == listed
    assert weights.stat().st_mtime_ns == before
    for name, entry in listed.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == entry.sha256, name


def test_a_sidecar_that_says_too_much_names_its_file(paper_recipe: Callable, told_photos: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in told_photos.iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    (photos / "river.txt").write_text(", ".join(f"thing {index}" for index in range(20)))
    with pytest.raises(Exception, match="river.txt.*20 tags"):
        _train(paper_recipe(**SHORT), photos, tmp_path / "run")
