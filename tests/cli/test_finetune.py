"""`linearsr finetune` from flags to a model that `upscale` uses, and what it says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_cli.app import main

SMALL = [
    "data.crop=32", "loop.validation_crop=32", "data.num_workers=0", "loop.mixed_precision=no", "loop.batch_size=4",
    "loop.validation_photos=1", "stages.experts.validation_steps=4", "stages.experts.warmup_steps=1",
]  # fmt: skip


def command(model: Path, data: Path, run: Path, *more: str) -> list[str]:
    sets = [word for setting in SMALL for word in ("--set", setting)]
    flags = ["--max-train-steps", "8", "--learning-rate", "0.01", "--device", "cpu", *sets, *more]
    return ["finetune", "--from", str(model), "--data", str(data), "-o", str(run), *flags]


def pictures(folder: Path, count: int, paint) -> Path:
    folder.mkdir()
    for index in range(count):
        paint(np.random.default_rng(index)).save(folder / f"{folder.name}-{index}.png")
    return folder


def discs(rng: np.random.Generator) -> Image.Image:
    """Hard edges, which a model learns to sharpen."""
    y, x = np.mgrid[0:48, 0:48]
    picture = np.full((48, 48, 3), 128, np.uint8)
    for _ in range(12):
        picture[(x - rng.uniform(0, 48)) ** 2 + (y - rng.uniform(0, 48)) ** 2 < rng.uniform(3, 9) ** 2] = rng.integers(
            0, 256, 3
        )
    return Image.fromarray(picture)


def grain(rng: np.random.Generator) -> Image.Image:
    """Nothing that could be known from a smaller picture, so that sharpening is wrong."""
    return Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))


def test_finetune_writes_a_model_and_a_lora_that_upscale_uses(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(tiny_checkpoint, photos, run, "--rank", "4", "--licence", "CC-BY-4.0")) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "export")
    assert "4 photographs to train on, 1 watched, 2 held back" in err
    assert "x4/psnr_1" in err
    assert "no clear change" in err
    assert "too few photographs to say" in err
    assert json.loads((run / "export" / "config.json").read_text())["licence"] == "CC-BY-4.0"
    comparison = json.loads((run / "comparison.json").read_text())
    row = comparison["rows"]["x4/psnr_1"]
    assert len(comparison["photographs"]) == len(row["before"]) == 2
    assert row["difference"] == pytest.approx(np.mean(row["after"]) - np.mean(row["before"]))
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(tmp_path / "small.png")
    uses = {
        "export": ["--model", str(run / "export")],
        "lora": ["--model", str(tiny_checkpoint), "--lora", str(run / "lora.safetensors")],
        "none": ["--model", str(tiny_checkpoint), "--lora", f"{run / 'lora.safetensors'}:0"],
        "base": ["--model", str(tiny_checkpoint)],
    }
    made = {}
    for name, flags in uses.items():
        large = tmp_path / f"{name}.png"
        assert main(["upscale", str(tmp_path / "small.png"), "-o", str(large), "-q", "--device", "cpu", *flags]) == 0
        with Image.open(large) as image:
            made[name] = np.asarray(image).astype(int)
    assert np.abs(made["export"] - made["lora"]).max() <= 1
    assert np.array_equal(made["none"], made["base"])
    assert not np.array_equal(made["lora"], made["base"])


@pytest.mark.slow
def test_a_model_that_got_worse_is_written_and_ends_with_3(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of discs, taught grain: better on the watched grain, worse on the discs that judge it."""
    edges, grains = pictures(tmp_path / "discs", 8, discs), pictures(tmp_path / "grain", 8, grain)
    longer = ["--full", "--max-train-steps", "60", "--set", "stages.experts.validation_steps=60"]
    assert main(command(tiny_checkpoint, edges, tmp_path / "first", *longer)) == 0
    first, run = tmp_path / "first" / "export", tmp_path / "second"
    capsys.readouterr()
    assert main(command(first, grains, run, *longer, "--val-data", str(edges))) == 3
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "export")
    assert "warning: the model got worse: x4/psnr_1 -" in err
    assert (run / "export" / "config.json").is_file()
    assert json.loads((run / "comparison.json").read_text())["rows"]["x4/psnr_1"]["verdict"] == "worse"
    assert main(command(first, grains, run, *longer)) == 4
    assert "held_back differ from the run to resume" in capsys.readouterr().err


def test_finetune_goes_on_where_a_time_limit_stopped_it(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(tiny_checkpoint, photos, run, "--max-hours", "0")) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopped in expert-0, step 0; the same command goes on from there" in err
    assert main(command(tiny_checkpoint, photos, run, "--resume", "latest", "-q")) == 0
    out, err = capsys.readouterr()
    assert (out.strip(), err) == (str(run / "export"), "")


def test_finetune_prints_the_resolved_recipe(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--print-config", "--rank", "4", "--seed", "9", "--set", "loop.batch_size=3"]
    assert main(["finetune", "--from", str(tiny_checkpoint), *flags]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["experts"]["mode"], config["experts"]["lora_rank"], config["experts"]["lora_alpha"]) == (
        "lora",
        4,
        4,
    )
    assert (config["loop"]["seed"], config["loop"]["batch_size"]) == (9, 3)
    assert config["model"]["width"] == 16
    assert main(["finetune", "--from", str(tiny_checkpoint), "--print-config", "--full", "--debug"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["experts"]["mode"], config["stages"]["experts"]["max_steps"]) == ("full", 4)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--rank", "0"], "experts.lora_rank is 0, expected 1 to 4096"),
        (["--full", "--rank", "4"], "--rank and --alpha are given with --full"),
        (["--experts", "3"], "expert 3 is unknown, expected 0, as the model has one network"),
        (["--experts", "last"], "--experts is 'last', expected numbers with commas between"),
        (["--judge", "x4/ssim_1"], "--judge is 'x4/ssim_1', expected one of x4/psnr_1"),
        (["--max-hours", "nan"], "--max-hours is nan"),
        (["--set", "loop.batch_sise=3"], "did you mean 'loop.batch_size'?"),
        (["--set", "model.width=8"], "model.width cannot be set"),
    ],
)
def test_finetune_explains_wrong_settings(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tiny_checkpoint, photos, tmp_path / "run", *flags)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_finetune_explains_wrong_folders_and_models(
    tiny_checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, run = tmp_path / "empty", tmp_path / "run"
    empty.mkdir()
    cases = [
        (["finetune"], 2, "--data is missing"),
        (command(tiny_checkpoint, empty, run), 4, "no usable photograph"),
        (
            command(tiny_checkpoint, photos, run, "--val-data", str(photos)),
            4,
            "6 of the held-back photographs are among",
        ),
        (command(tiny_checkpoint / "expert-0.safetensors", photos, run), 5, "is a file, expected a folder"),
        (command(tmp_path / "gone", photos, run), 5, "hint: use `--from compact`"),
    ]
    for words, code, text in cases:
        assert main(words) == code, text
        out, err = capsys.readouterr()
        assert out == ""
        assert text in err
