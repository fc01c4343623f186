"""`linearsr train` from flags to a usable export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_cli.app import main

TINY = [
    "model.width=16", "model.depth=1", "model.head_dim=8", "model.cross_attention_head_dim=8",
    "model.caption_channels=8", "model.stem_width=8", "model.stem_depth=1", "model.head_depth=1",
    "data.crop=32", "data.num_workers=0", "data.validation_fraction=0.3", "loop.validation_crop=32",
    "loop.mixed_precision=no", "loop.batch_size=4", "loop.validation_photos=2",
    "loop.validation_steps=6", "loop.checkpoint_steps=3", "loop.log_steps=3",
]  # fmt: skip


def command(photos: Path, run: Path, *more: str) -> list[str]:
    sets = [word for setting in TINY for word in ("--set", setting)]
    return ["train", "--data", str(photos), "--output-dir", str(run), "--max-train-steps", "6", *sets, *more]


def test_train_writes_an_export_that_upscale_uses(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run, "--licence", "CC0-1.0")) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "export")
    assert "step 3 of 6, loss" in err
    assert json.loads((run / "export" / "config.json").read_text())["licence"] == "CC0-1.0"
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(tmp_path / "small.png")
    arguments = [str(tmp_path / "small.png"), "-o", str(tmp_path / "large.png"), "--model", str(run / "export")]
    assert main(["upscale", *arguments, "--steps", "1", "-q"]) == 0
    with Image.open(tmp_path / "large.png") as large:
        assert large.size == (48, 32)


def test_train_goes_on_where_a_time_limit_stopped_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run, "--max-hours", "0")) == 0
    assert "stopped at step 0" in capsys.readouterr().err
    assert main(command(photos, run, "--resume", "latest")) == 0
    assert "from step 0 of 6" in capsys.readouterr().err
    assert main(command(photos, run)) == 0
    assert "from step 6 of 6" in capsys.readouterr().err


def test_train_refuses_to_mix_runs_and_to_resume_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run, "--resume", "latest")) == 4
    assert "nothing to resume" in capsys.readouterr().err
    assert main(command(photos, run)) == 0
    capsys.readouterr()
    assert main(command(photos, run, "--resume", "never")) == 4
    assert "already holds a run" in capsys.readouterr().err
    assert main(command(photos, run, "--set", "optim.learning_rate=0.5")) == 4
    assert "optim.learning_rate" in capsys.readouterr().err


def test_train_prints_the_resolved_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--print-config", "--set", "loop.batch_size=3", "--seed", "9"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["loop"]["batch_size"] == 3
    assert config["loop"]["seed"] == 9


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "loop.batch_sise=3"], "did you mean 'loop.batch_size'?"),
        (["--recipe", "compakt"], "recipe 'compakt' is neither a file nor one of compact_cpu"),
        ([], "--data is missing"),
        (["--max-hours", "nan"], "--max-hours is nan, expected a number of hours"),
    ],
)
def test_train_explains_wrong_settings(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "Traceback" not in err


def test_train_names_a_folder_without_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--output-dir", str(tmp_path / "run")]) == 4
    assert "0 training and 0 validation photographs" in capsys.readouterr().err
