"""The benchmark programs: options, small real runs, and what a result file may hold."""

from __future__ import annotations

import importlib
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut, coffee

from linearsr.checkpoint import load_network, read_config, save_checkpoint
from linearsr.config import (
    SCHEMA_VERSION,
    AutoencoderConfig,
    CheckpointConfig,
    ExpertsConfig,
    FlowConfig,
    ModelConfig,
    SamplingConfig,
    TagsConfig,
)
from linearsr.errors import ConfigError
from linearsr.evaluation.pictures import read_picture
from linearsr.evaluation.records import from_json
from linearsr.metrics import mod_crop, psnr, quantise, ssim
from linearsr.model.transformer import LinearDiT
from linearsr.pipeline import Upscaler
from linearsr.resize import resize
from linearsr.tags.vocabulary import COMPACT_VOCABULARY
from linearsr_train.data.degradation import degrade_real_fixed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCALE = 2


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Import a benchmark program as Python does when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load_module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load_module


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "private" / "Photos"
    folder.mkdir(parents=True)
    Image.fromarray(astronaut()[:91, 180:271]).save(folder / "a.png")
    Image.fromarray(coffee()[60:140, 200:300]).save(folder / "b.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


class _Sharpener:
    """A stand-in for the model: bicubic plus a constant that depends on the steps, remembering its calls."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def upscale_tensor(self, lr: torch.Tensor, *, size, steps, seed, tags, tile) -> torch.Tensor:
        self.calls.append({"size": size, "steps": steps, "seed": seed, "tags": tags, "tile": tile})
        return resize(lr, (size[1], size[0])) + 0.01 * steps


def _reference_values(path: Path) -> tuple[float, float]:
    hr = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float() / 255
    hr = mod_crop(hr, SCALE)
    lr = quantise(resize(hr, (hr.shape[1] // SCALE, hr.shape[2] // SCALE)))
    sr = quantise(resize(lr, (hr.shape[1], hr.shape[2])))
    return psnr(sr, hr, border=SCALE), ssim(sr, hr, border=SCALE)


def test_quality_run_measures_the_baselines_and_writes_them(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "quality.json"
    command = [sys.executable, str(BENCHMARKS / "run_quality.py"), "--data", str(photos), "--scales", str(SCALE)]
    command += ["--model", "none", "--threads", "1", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    result = json.loads(text)
    rows = {row["method"]: row for row in result["rows"]}
    expected = np.mean([_reference_values(photos / name) for name in ("a.png", "b.png")], axis=0)
    assert set(rows) == {"bicubic", "lanczos"}
    assert rows["bicubic"]["num_images"] == 2
    assert rows["bicubic"]["psnr_y"] == pytest.approx(expected[0], abs=1e-4)
    assert rows["bicubic"]["ssim_y"] == pytest.approx(expected[1], abs=1e-6)
    assert rows["lanczos"]["psnr_y"] != pytest.approx(expected[0], abs=0.05)
    assert f"| {expected[0]:.2f} " in done.stdout
    assert str(tmp_path) not in text
    assert "private" not in text
    assert socket.gethostname() not in text
    assert result["command"].startswith("python benchmarks/run_quality.py --data Photos --scales 2")
    assert result["definitions"]["psnr_y"]["direction"] == "higher"
    assert set(result["machine"]) >= {"cpu", "cores", "torch", "threads"}


def test_quality_gives_the_model_its_settings_and_measures_its_result(
    load, photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    program, output = load("run_quality"), tmp_path / "q.json"
    words = [
        "--data",
        str(photos),
        "--scales",
        "2",
        "--steps",
        "1,4",
        "--tags",
        "clean",
        "--tile",
        "64",
        "--dtype",
        "fp32",
    ]
    words += ["--limit", "1", "--seed", "5", "--per-image", "--model", str(tiny_model), "--output", str(output)]
    assert program.main(words) == 0
    hr = mod_crop(torch.from_numpy(np.array(Image.open(photos / "a.png"))).permute(2, 0, 1).float() / 255, 2)
    upscaler, lr = Upscaler.from_pretrained(tiny_model, dtype="fp32"), quantise(resize(hr, (45, 45)))
    result = json.loads(output.read_text())
    rows = {(row["method"], row["steps"]): row for row in result["rows"]}
    for steps in (1, 4):
        sr = upscaler.upscale_tensor(lr, size=(90, 90), steps=steps, seed=5, tags=("clean",), tile=64)
        assert rows["tiny", steps]["psnr_y"] == pytest.approx(psnr(quantise(sr), hr, border=2), abs=1e-4)
        assert rows["tiny", steps]["nfe"] == steps
    assert rows["tiny", 1]["images"]["a.png"]["psnr_y"] == rows["tiny", 1]["psnr_y"]
    assert rows["tiny", 1]["tags"] == "clean"
    assert rows["bicubic", None]["tags"] is rows["bicubic", None]["nfe"] is None


def test_quality_at_scale_one_counts_a_clean_picture_as_its_own_reference(load, photos: Path, tmp_path: Path) -> None:
    program, output = load("run_quality"), tmp_path / "q.json"
    program.main(["--data", str(photos), "--scales", "1", "--model", "none", "--output", str(output)])
    row = json.loads(output.read_text())["rows"][0]
    assert row["psnr_y"] is None  # infinite
    assert row["ssim_y"] == pytest.approx(1.0, abs=1e-12)
    assert row["gmsd"] == 0.0


def test_real_inputs_are_those_of_the_fixed_set_and_carry_their_tags(load, photos: Path) -> None:
    hr = mod_crop(read_picture(photos / "a.png"), 2)
    real, bicubic = (load("run_quality").degrade_with(name, 2)(hr, "a.png") for name in ("real", "bicubic"))
    fixed = degrade_real_fixed(hr.permute(1, 2, 0).contiguous().numpy(), 2, "a.png")
    assert np.array_equal(real.lr.permute(1, 2, 0).numpy(), fixed.lr)
    assert real.tags == fixed.tags
    assert torch.equal(bicubic.lr, quantise(resize(hr, (45, 45))))
    assert bicubic.tags == ("clean",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scales", "0,2"], "--scales is '0,2'"),
        (["--steps", "one"], "--steps is 'one'"),
        (["--limit", "0"], "limit is 0"),
        (["--tags", "clena"], "did you mean 'clean'"),
        (["--tile", "huge"], "--tile is 'huge'"),
        (["--degradation", "jpeg"], "invalid choice"),
        (["--lpips-weights", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_quality_refuses_bad_settings_with_exit_code_2(
    load, photos: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        load("run_quality").main(["--data", str(photos), "--model", "none", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_quality_refuses_a_folder_without_pictures(load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load("run_quality").main(["--data", str(tmp_path), "--model", "none"])
    assert stop.value.code == 2
    assert "holds no picture" in capsys.readouterr().err


def test_speed_run_times_cases_in_their_own_processes(load, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, output = load("run_speed"), tmp_path / "speed.json"
    words = ["--sides", "512,64", "--steps", "1", "--tiles", "auto", "--repeats", "2", "--model", "none"]
    assert program.main([*words, "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    small, large = result["rows"]
    assert (small["side"], large["side"]) == (64, 512)
    assert small["runs"] == large["runs"] == 2
    assert large["seconds_median"] > small["seconds_median"]
    assert large["seconds_per_output_megapixel"] == pytest.approx(large["seconds_median"] / 0.262144)
    assert large["seconds_min"] <= large["seconds_median"] <= large["seconds_max"]
    if sys.platform == "linux":
        assert 20 < large["peak_anonymous_mib"] < large["peak_resident_mib"]
    assert "512x512" in capsys.readouterr().out
    assert str(tmp_path) not in output.read_text()


def test_speed_reports_a_case_that_fails_and_goes_on(load, tmp_path: Path) -> None:
    program, output = load("run_speed"), tmp_path / "speed.json"
    words = ["--sides", "64", "--steps", "1", "--tiles", "auto", "--model", str(tmp_path / "absent")]
    assert program.main([*words, "--output", str(output)]) == 1
    assert "absent" in json.loads(output.read_text())["rows"][0]["error"]
    assert str(tmp_path) not in output.read_text()


def test_scaling_compares_equal_steps_and_tiles_only(load) -> None:
    rows = [
        {"side": 1024, "steps": 1, "tile": "auto", "seconds_median": 1.0},
        {"side": 1024, "steps": 4, "tile": "auto", "seconds_median": 4.0},
        {"side": 2048, "steps": 1, "tile": "auto", "seconds_median": 4.2},
        {"side": 2048, "steps": 1, "tile": "off", "seconds_median": 9.0},
        {"side": 2048, "steps": 4, "tile": "auto", "error": "out of memory"},
    ]
    assert load("run_speed").scaling(rows) == [{"steps": 1, "tile": "auto", "ratio_2048_over_1024": 4.2}]


def test_time_runs_stops_at_the_budget_but_never_before_one_warm_run(load) -> None:
    calls: list[int] = []
    first, warm = load("run_speed").time_runs(lambda: calls.append(1), 5, budget_s=-1.0)
    assert len(warm) == 1
    assert len(calls) == 2
    assert first >= 0
    assert len(load("run_speed").time_runs(lambda: None, 5, budget_s=60.0)[1]) == 5


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    """A checkpoint folder of the compact kind, small and untrained."""
    torch.manual_seed(0)
    shape = ModelConfig(
        in_channels=48,
        cond_channels=48,
        width=32,
        depth=1,
        head_dim=16,
        cross_attention_head_dim=16,
        caption_channels=16,
        mlp_ratio=2.0,
        patch_size=2,
        stem="conv",
        stem_width=16,
        stem_depth=1,
        head_depth=1,
        long_skip=True,
        qk_norm=False,
        state_gate=False,
        scale_embedding=True,
        num_tags=len(COMPACT_VOCABULARY),
    )
    network = LinearDiT(shape)
    torch.nn.init.normal_(network.conv_out.weight, std=0.05)
    config = CheckpointConfig(
        schema_version=SCHEMA_VERSION,
        family="compact",
        model=shape,
        autoencoder=AutoencoderConfig(kind="pixel", factor=4, residual_std={"1": 0.02, "2": 0.03, "4": 0.045}),
        flow=FlowConfig(prediction="x0"),
        experts=ExpertsConfig(boundaries_log_snr=(), files=("expert-0.safetensors",)),
        sampling=SamplingConfig(sampler="euler", steps=4, t_grids={}, tile=512, tile_overlap=64, color_fix="none"),
        tags=TagsConfig(kind="closed", vocabulary=COMPACT_VOCABULARY),
        licence="none",
        files={},
    )
    save_checkpoint(tmp_path / "tiny", config, [network.state_dict()])
    return tmp_path / "tiny"


def test_quality_run_with_a_real_checkpoint(load, photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "q.json"
    words = ["--data", str(photos), "--scales", "1,3", "--steps", "1,4", "--tags", "true", "--model", str(tiny_model)]
    assert load("run_quality").main([*words, "--degradation", "real", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    rows = {(row["scale"], row["method"], row["steps"]): row for row in result["rows"]}
    parameters = sum(p.numel() for p in load_network(tiny_model, read_config(tiny_model), 0).parameters())
    assert result["model"]["parameters_active"] == parameters
    assert result["model"]["flops_per_output_megapixel_and_evaluation"] > 2 * parameters * 1e6 / 64
    assert [rows[3, "tiny", steps]["nfe"] for steps in (1, 4)] == [1, 4]
    assert (
        len({rows[3, method, steps]["psnr_y"] for method, steps in (("bicubic", None), ("tiny", 1), ("tiny", 4))}) == 3
    )
    assert all(15 < row["psnr_y"] < 60 for row in result["rows"])
    assert str(tmp_path) not in output.read_text()


@pytest.fixture
def eval_words(photos: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    """Options of `run_eval.py` for a small real run, with random weights for LPIPS."""
    torch.manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    weights = {f"features.{index}.weight": 0.05 * torch.randn(shape) for index, shape in shapes.items()}
    weights |= {f"features.{index}.bias": torch.zeros(shape[0]) for index, shape in shapes.items()}
    weights |= {f"lin{i}.weight": torch.rand(1, shape[0], 1, 1) for i, shape in enumerate(shapes.values())}
    save_file(weights, tmp_path / "lpips.safetensors")
    words = ["--data", str(photos.parent), "--sets", "Photos", "--steps", "1,2", "--model", str(tiny_model)]
    return [*words, "--lpips-weights", str(tmp_path / "lpips.safetensors"), "--output", str(tmp_path / "eval.json")]


def test_eval_run_keeps_the_evaluation_and_no_folder(load, eval_words: list[str], tmp_path: Path) -> None:
    assert load("run_eval").main(eval_words) == 0
    text = (tmp_path / "eval.json").read_text()
    result = json.loads(text)
    found = from_json(result["evaluation"])
    assert [method.name for method in found.methods] == ["bicubic", "lanczos", "tiny, 1 step", "tiny, 2 steps"]
    assert (len(found.images), found.failures, found.metrics) == (8, (), ("psnr_y", "ssim_y", "lpips"))
    assert (found.protocol["name"], found.protocol["tags"]) == ("classical-x4", "clean")
    assert not any(image.cached for image in found.images)
    assert result["command"].startswith("python benchmarks/run_eval.py --data private --sets Photos")
    assert str(tmp_path) not in text
    assert socket.gethostname() not in text


def test_eval_run_writes_nothing_where_a_picture_cannot_be_scored(
    load, eval_words: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "c.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stop:
        load("run_eval").main(eval_words)
    assert stop.value.code == 2
    assert not (tmp_path / "eval.json").exists()
    assert "1 results could not be scored" in capsys.readouterr().err


def test_speed_case_with_a_real_checkpoint(load, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--case", "128:4:off", "--repeats", "2", "--model", str(tiny_model)]
    assert load("run_speed").main(words) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["side"], row["steps"], row["tile"], row["runs"]) == (128, 4, "off", 2)
    assert 0 < row["seconds_median"] < 20


def test_model_cost_counts_operations_and_evaluations(load, monkeypatch: pytest.MonkeyPatch) -> None:
    common = load("_cost")

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    class Model:
        network = Tiny()

        def upscale_tensor(self, lr: torch.Tensor, *, size, steps, seed, tags, tile) -> torch.Tensor:
            x = resize(lr, (size[1], size[0]))
            for _ in range(steps):
                x = self.network(x)
            return x

    monkeypatch.setattr(common, "LinearDiT", Tiny)
    cost = common.model_cost(Model(), side=64)
    assert cost["parameters_active"] == 3 * 3 * 9 + 3
    assert cost["flops_per_output_megapixel_and_evaluation"] == pytest.approx(2 * 3 * 3 * 9 * 1e6)
    assert common.num_evaluations(Model(), 3) == 3


def test_contact_sheet_cuts_the_same_place_of_every_method(
    load, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, sheet = load("contact_sheet"), tmp_path / "sheet.png"
    monkeypatch.setattr(program, "load_upscaler", lambda *_: _Sharpener())
    words = [str(photos), "-o", str(sheet), "--scale", "2", "--crop", "64", "--steps", "1,4", "--rows", "3"]
    assert program.main(words) == 0
    image = np.array(Image.open(sheet)).astype(int)
    second = np.array(Image.open(tmp_path / "sheet-2.png"))
    label, gap = 2 * program.LABEL_PX, program.GAP_PX
    assert image.shape == (3 * (label + 64 + gap), 3 * 64 + 2 * gap, 3)
    assert second.shape[0] == label + 64 + gap
    bicubic, one = image[label : label + 64, :64], image[label : label + 64, 64 + gap : 128 + gap]
    middle = (bicubic > 10) & (bicubic < 240)
    assert np.median((one - bicubic)[middle]) in (2, 3)  # 0.01 * 255
    assert "colour shift" in capsys.readouterr().out


def test_find_places_sees_detail_and_flatness(load) -> None:
    picture = torch.full((3, 40, 60), 0.5)
    picture[:, 20:32, 30:42] = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    places = load("contact_sheet").find_places(picture, 10, ("detail", "flat"))
    assert 20 <= places["detail"][0] <= 22
    assert 30 <= places["detail"][1] <= 32
    row, column = places["flat"]
    assert float(picture[:, row : row + 10, column : column + 10].std()) == 0.0


def test_command_line_hides_folders(load) -> None:
    line = load("_common").command_line(
        "benchmarks/x.py", ["--data", "/home/me/Set 5", "--output=/a/b.json", "-o", "c"]
    )
    assert line == "python benchmarks/x.py --data 'Set 5' --output=b.json -o c"


def test_parse_numbers_and_tiles_take_what_they_say(load) -> None:
    common = load("_common")
    assert common.parse_numbers("2,3,4", "--scales", 1, 8) == (2, 3, 4)
    assert [common.parse_tile(text) for text in ("auto", "off", "512")] == ["auto", "off", 512]
    with pytest.raises(ConfigError, match="from 1 to 8"):
        common.parse_numbers("9", "--scales", 1, 8)


def test_result_files_hold_null_for_what_is_not_finite(load, tmp_path: Path) -> None:
    load("_common").write_json(tmp_path / "r.json", {"a": math.inf, "b": [math.nan, 1.5]})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["r.json"]
