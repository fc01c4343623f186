"""`linearsr train` from flags to a usable export."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linearsr_cli.app import main

TINY = [
    "model.width=16", "model.depth=1", "model.head_dim=8", "model.cross_attention_head_dim=8",
    "model.caption_channels=8", "model.stem_width=8", "model.stem_depth=1", "model.head_depth=1",
    "data.crop=32", "data.validation_fraction=0.3", "loop.validation_crop=32", "loop.batch_size=4",
    "loop.validation_photos=1", "tagger.crop=32", "tagger.margin=4", "tagger.widths=[4, 8]", "tagger.hidden=8",
]  # fmt: skip
PRETRAIN = [
    "stages.pretrain.validation_steps=6", "stages.experts.max_steps=0", "stages.sft.max_steps=0", "tagger.max_steps=0",
    "loop.checkpoint_steps=3", "loop.log_steps=3",
]  # fmt: skip
"""The first stage alone."""


def command(photos: Path, run: Path, *more: str, sets: list[str] = PRETRAIN) -> list[str]:
    words = [word for setting in (*TINY, *sets) for word in ("--set", setting)]
    fixed = ["--num-workers", "0", "--mixed-precision", "no"]
    return ["train", "--data", str(photos), "--output-dir", str(run), *fixed, *words, *more]


def six(photos: Path, run: Path, *more: str) -> list[str]:
    return command(photos, run, "--max-train-steps", "6", *more)


@pytest.fixture(autouse=True)
def _no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed: drawing takes seconds."""
    if "tiny_cpu" not in request.node.name:
        monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- the whole pipeline


def _photographs(folder: Path) -> Path:
    """Sixteen photographs, one or more of which is held back for validation."""
    folder.mkdir()
    data = os.environ.get("LINEARSR_DATA")
    if data and (Path(data) / "train").is_dir():
        from linearsr_train.data.sources import is_validation

        paths = sorted((Path(data) / "train").iterdir())
        held_back = [path for path in paths if is_validation(path.name, 0.05)]
        for path in [*held_back[:2], *[path for path in paths if path not in held_back][::40][:14]]:
            (folder / path.name).symlink_to(path)
        return folder
    skimage = pytest.importorskip("skimage.data", reason="no LINEARSR_DATA and no scikit-image")
    pictures = [getattr(skimage, name)() for name in ("astronaut", "cat", "coffee", "rocket")]
    for index in range(16):  # by their names, 03 and 06 are held back
        pixels = pictures[index % 4]
        top, left = (index * 37 % (side - 280) for side in pixels.shape[:2])
        Image.fromarray(pixels[top : top + 280, left : left + 280].copy()).save(folder / f"{index:02d}.png")
    return folder


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@pytest.mark.slow
def test_tiny_cpu_goes_through_all_stages_within_its_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages, the tagger and the export in 90 s on two cores; on a machine that is busy, in 180 s of their time."""
    run, photos = tmp_path / "run", _photographs(tmp_path / "photos")
    began, cpu = time.monotonic(), _cpu_seconds()
    code = main(["train", "--recipe", "tiny_cpu", "--data", str(photos), "--output-dir", str(run)])
    seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
    out, err = capsys.readouterr()
    assert code == 0, err
    print(f"tiny_cpu: {seconds:.1f} s, {cpu:.1f} s of processor time, load {os.getloadavg()[0]:.1f}")
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        assert cpu <= 180
    else:
        assert seconds <= 90
    assert out.strip() == str(run / "export")
    assert "Traceback" not in err
    config = json.loads((run / "export" / "config.json").read_text())
    assert len(config["experts"]["files"]) == 4
    assert config["tags"]["tagger"] == "tagger.safetensors"
    assert (run / "curves.png").is_file()

    source = next(path for path in sorted(photos.iterdir()))
    with Image.open(source) as picture:
        picture.convert("RGB").crop((0, 0, 90, 60)).save(tmp_path / "small.png")
    for steps in ("1", "4"):
        large = tmp_path / f"large-{steps}.png"
        assert main(["upscale", str(tmp_path / "small.png"), "-o", str(large), "--model", str(run / "export"),
                     "--steps", steps, "-q"]) == 0  # fmt: skip
        with Image.open(large) as picture:
            assert picture.size == (360, 240)
            bicubic = Image.open(tmp_path / "small.png").resize((360, 240), Image.Resampling.BICUBIC)
            apart = np.abs(np.asarray(picture, float) - np.asarray(bicubic, float)).mean()
        assert apart < 20, "a picture of the same thing"


def test_debug_goes_through_all_stages(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(command(photos, run, "--debug", "--licence", "CC0-1.0", sets=["experts.boundaries=[0.6]"])) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "export")
    for stage, steps in (("pretrain", 6), ("expert-1", 4), ("expert-0", 4), ("sft-1", 2), ("sft-0", 2), ("tagger", 10)):
        assert (run / "stages" / stage).is_dir()
        assert f"{stage} step {steps}" in err
    config = json.loads((run / "export" / "config.json").read_text())
    assert config["licence"] == "CC0-1.0"
    assert sorted(config["files"]) == ["expert-0.safetensors", "expert-1.safetensors", "tagger.safetensors"]


def test_expert_mode_lora_keeps_a_shared_network(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, small = tmp_path / "run", tmp_path / "small.png"
    sets = [
        "experts.boundaries=[0.6]", "experts.lora_rank=4", "experts.lora_export=separate",
        "stages.experts.max_steps=2", "stages.experts.validation_steps=2", "stages.sft.max_steps=0",
        "stages.pretrain.validation_steps=2", "tagger.max_steps=0",
    ]  # fmt: skip
    assert main(command(photos, run, "--max-train-steps", "2", "--expert-mode", "lora", "-q", sets=sets)) == 0
    assert capsys.readouterr().err == ""
    files = sorted(path.name for path in (run / "export").glob("*.safetensors"))
    assert files == ["base.safetensors", "lora-0.safetensors", "lora-1.safetensors"]
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(small)
    large = tmp_path / "large.png"
    assert main(["upscale", str(small), "-o", str(large), "--model", str(run / "export"), "-q"]) == 0
    with Image.open(large) as picture:
        assert picture.size == (48, 32)


# ---- stopping, resuming, refusing


def test_train_goes_on_where_a_time_limit_stopped_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(six(photos, run, "--max-hours", "0")) == 0
    assert "stopped in stage pretrain, step 0; the same command goes on from there" in capsys.readouterr().err
    assert main(six(photos, run, "--resume", "latest")) == 0
    err = capsys.readouterr().err
    assert "pretrain: from step 0 of 6" in err
    assert "pretrain step 3 of 6, loss" in err
    assert main(six(photos, run)) == 0
    captured = capsys.readouterr()
    assert "from step" not in captured.err
    assert captured.out.strip() == str(run / "export")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_tells_its_exit_code(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    number: int, code: int,
) -> None:  # fmt: skip
    from linearsr_cli.commands import train as train_module

    inner = train_module.show_progress

    @contextmanager
    def interrupting(log_steps: int, out: object) -> Iterator:
        with inner(log_steps, out) as progress:

            def tell(stage: str, step: int, steps: int, values: dict[str, float]) -> None:
                progress(stage, step, steps, values)
                if step == 2:
                    os.kill(os.getpid(), number)

            yield tell

    monkeypatch.setattr(train_module, "show_progress", interrupting)
    assert main(six(photos, tmp_path / "run")) == code
    out, err = capsys.readouterr()
    assert "stopped in stage pretrain, step 2; the same command goes on from there" in err
    assert "Traceback" not in err
    assert (tmp_path / "run" / "stages" / "pretrain" / "last.pt").is_file()


def test_train_refuses_to_mix_runs_and_to_resume_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(six(photos, run, "--resume", "latest")) == 4
    assert "nothing to resume" in capsys.readouterr().err
    assert main(six(photos, run, "--max-hours", "0")) == 0
    capsys.readouterr()
    assert main(six(photos, run, "--resume", "never")) == 4
    assert "already holds a run" in capsys.readouterr().err
    assert main(six(photos, run, "--set", "stages.pretrain.learning_rate=0.5")) == 4
    assert "stages.pretrain.learning_rate" in capsys.readouterr().err


def test_train_names_a_folder_without_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(tmp_path), "--output-dir", str(tmp_path / "run")]) == 4
    assert "0 training and 0 validation photographs" in capsys.readouterr().err


# ---- flags


def _resolved(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert main(["train", "--print-config", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flag", "value", "where"),
    [
        ("--init", "compact", {"init": "compact"}),
        ("--max-train-steps", 77, {"stages.pretrain.max_steps": 77}),
        ("--expert-mode", "lora", {"experts.mode": "lora"}),
        ("--batch-size", 6, {"loop.batch_size": 6}),
        ("--gradient-accumulation-steps", 4, {"loop.gradient_accumulation_steps": 4}),
        ("--learning-rate", 1.5e-4, {"stages.pretrain.learning_rate": 1.5e-4}),
        ("--mixed-precision", "bf16", {"loop.mixed_precision": "bf16"}),
        ("--num-workers", 3, {"data.num_workers": 3, "tagger.num_workers": 3}),
        ("--seed", 9, {"loop.seed": 9}),
    ],
)
def test_a_flag_is_over_the_recipe_and_over_set(
    capsys: pytest.CaptureFixture[str], flag: str, value: object, where: dict
) -> None:
    def flat(data: dict, prefix: str = "") -> dict:
        pairs = [flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in data.items()]
        return {key: value for pair in pairs for key, value in pair.items()}

    plain = flat(_resolved(capsys, "--recipe", "tiny_cpu"))
    other = {"init": "elsewhere", "experts.mode": "full", "loop.mixed_precision": "no"}
    sets = [word for name in where for word in ("--set", f"{name}={other.get(name, 8)}")]
    resolved = flat(_resolved(capsys, "--recipe", "tiny_cpu", *sets, flag, str(value)))
    assert {name: entry for name, entry in resolved.items() if plain[name] != entry} == where


def test_train_prints_the_resolved_recipe_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import resources

    text = (resources.files("linearsr_train") / "recipes" / "tiny_cpu.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(text.replace("batch_size = 8", "batch_size = 12"), encoding="utf-8")
    config = _resolved(capsys, "--recipe", str(tmp_path / "mine.toml"), "--set", "loop.log_steps=3")
    assert (config["loop"]["batch_size"], config["loop"]["log_steps"]) == (12, 3)
    assert _resolved(capsys)["name"] == "compact_cpu"


def test_debug_shortens_every_stage_and_set_is_over_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = _resolved(capsys, "--debug", "--set", "stages.sft.max_steps=1", "--max-train-steps", "5")
    assert {name: stage["max_steps"] for name, stage in config["stages"].items()} == {
        "pretrain": 5, "experts": 4, "sft": 1
    }  # fmt: skip
    assert config["tagger"]["max_steps"] == 10


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--set", "loop.batch_sise=3"], "did you mean 'loop.batch_size'?"),
        (["--set", "stages.expert.max_steps=3"], "did you mean 'stages.experts'?"),
        (["--recipe", "compakt"], "recipe 'compakt' is neither a file nor one of compact_cpu, compact_gpu"),
        (["--batch-size", "6", "--gradient-accumulation-steps", "4"], "expected a multiple of"),
        (["--max-train-steps", "0"], "name a model with `--init compact`"),
        (["--expert-mode", "moe"], "full"),
        ([], "--data is missing"),
        (["--max-hours", "nan"], "--max-hours is nan, expected a number of hours"),
        (["--max-hours", "-1"], "--max-hours is -1, expected a number of hours"),
    ],
)
def test_train_explains_wrong_settings(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert "Traceback" not in err
