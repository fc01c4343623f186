"""A whole run on six small photographs: data, training, validation, export, resuming, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from linearsr import Upscaler
from linearsr.config import to_dict
from linearsr.errors import TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.run import RunResult, run_training
from linearsr_train.state import CHECKPOINT_NAME

CHILD = """
import json, sys
from pathlib import Path
from linearsr.config import from_dict
from linearsr_train.config import TrainConfig
from linearsr_train.run import run_training

config = from_dict(TrainConfig, json.loads(sys.argv[1]))
print("ready", flush=True)
result = run_training(
    config, Path(sys.argv[2]), Path(sys.argv[3]), progress=lambda step, total, values: print(step, flush=True)
)
print(json.dumps([result.finished, result.step, result.stop_signal]), flush=True)
"""


def _log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(
    photos: Path, tiny_recipe: Callable, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunResult, list]:
    folder = tmp_path_factory.mktemp("finished")
    seen: list = []
    result = run_training(
        tiny_recipe(),
        photos,
        folder / "run",
        licence="CC0-1.0",
        progress=lambda *step: seen.append(step),
        report=seen.append,
    )
    return folder / "run", result, seen


def test_run_training_reaches_the_end_and_leaves_its_files(finished: tuple) -> None:
    folder, result, seen = finished
    assert (result.finished, result.step, result.stop_signal) == (True, 20, None)
    assert result.export == folder / "export"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "export", CHECKPOINT_NAME, "log.jsonl"]
    assert [step[:2] for step in seen if isinstance(step, tuple)] == [(n, 20) for n in range(1, 21)]
    assert "4 photographs, from step 0 of 20" in seen


def test_run_training_logs_start_steps_validations_and_end(finished: tuple, tiny_recipe: Callable) -> None:
    folder, result, _ = finished
    log = _log(folder)
    assert [line["event"] for line in log] == ["start", *["step"] * 2, "validation", *["step"] * 3, "validation", "end"]
    assert log[0]["perceptual"] == "gmsd", "no LPIPS weights were given, and the log says so"
    assert log[0]["photos"] == 4
    assert log[-1]["finished"] is True
    assert {key: value for key, value in log[-2].items() if "/" in key} == result.validation
    assert json.loads((folder / "config.json").read_text()) == json.loads(json.dumps(to_dict(tiny_recipe())))


def test_run_training_exports_the_best_average(finished: tuple) -> None:
    folder, result, _ = finished
    saved = torch.load(folder / CHECKPOINT_NAME, weights_only=True)
    validations = [line for line in _log(folder) if line["event"] == "validation"]
    scores = [sum(line[f"{task}/psnr_1"] for task in ("x4", "x2", "real4")) for line in validations]
    assert saved["best"] == pytest.approx(max(scores), abs=1e-9)
    exported = json.loads((folder / "export" / "config.json").read_text())
    assert exported["training"]["step"] == validations[scores.index(max(scores))]["step"]
    assert exported["licence"] == "CC0-1.0"
    assert exported["training"]["photographs"] == 4


def test_export_of_a_run_is_what_the_upscaler_loads(finished: tuple) -> None:
    folder, _, _ = finished
    upscaler = Upscaler.from_pretrained(folder / "export", device="cpu", dtype="fp32")
    picture = torch.rand(3, 13, 10)
    out = upscaler(picture, scale=3, steps=1)
    assert out.shape == (3, 39, 30)
    assert (out - upscaler(picture, scale=3, steps=1, tags="clean")).abs().max() > 0


def test_a_finished_run_resumed_does_nothing_more(finished: tuple, photos: Path, tiny_recipe: Callable) -> None:
    folder, _, _ = finished
    before = (folder / CHECKPOINT_NAME).read_bytes()
    result = run_training(tiny_recipe(), photos, folder, resume="latest")
    assert (result.finished, result.step) == (True, 20)
    assert (folder / CHECKPOINT_NAME).read_bytes() == before


def test_a_run_may_be_made_longer(finished: tuple, photos: Path, tiny_recipe: Callable, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished[0], tmp_path / "run")
    result = run_training(tiny_recipe(loop__max_steps=23), photos, tmp_path / "run")
    assert (result.finished, result.step) == (True, 23)
    assert _log(tmp_path / "run")[-1]["step"] == 23


# ---- refusals


def test_resume_latest_of_nothing_is_an_error(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        run_training(tiny_recipe(), photos, tmp_path / "run", resume="latest")
    assert not (tmp_path / "run" / "config.json").exists()


def test_resume_never_refuses_to_mix_runs(finished: tuple, photos: Path, tiny_recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="already holds a run"):
        run_training(tiny_recipe(), photos, finished[0], resume="never")


def test_another_recipe_leaves_the_run_as_it_was(finished: tuple, photos: Path, tiny_recipe: Callable) -> None:
    before = (finished[0] / "config.json").read_bytes()
    with pytest.raises(TrainingError, match="differs from the run to resume in optim.learning_rate"):
        run_training(tiny_recipe(optim__learning_rate=1e-4), photos, finished[0])
    assert (finished[0] / "config.json").read_bytes() == before


def test_too_few_or_too_small_photographs_are_errors(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="0 training and 0 validation"):
        run_training(tiny_recipe(), tmp_path / "empty", tmp_path / "run")
    with pytest.raises(
        TrainingError, match="no usable photograph among 4 files, for example .* smaller than the 104-pixel"
    ):
        run_training(tiny_recipe(data__crop=104), photos, tmp_path / "run")


def test_weights_for_the_metric_that_do_not_fit_are_an_error(
    tmp_path: Path, photos: Path, tiny_recipe: Callable
) -> None:
    from linearsr.errors import WeightsError

    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "lpips.safetensors")
    with pytest.raises(WeightsError):
        run_training(tiny_recipe(), photos, tmp_path / "run", lpips_weights=tmp_path / "lpips.safetensors")


# ---- stopping


def test_a_time_limit_saves_and_stops(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    result = run_training(tiny_recipe(), photos, tmp_path / "run", max_hours=0.0)
    assert (result.finished, result.step, result.stop_signal, result.export) == (False, 0, None, None)
    assert (tmp_path / "run" / CHECKPOINT_NAME).is_file()


def test_signal_handlers_are_put_back(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run_training(tiny_recipe(), photos, tmp_path / "run", max_hours=0.0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def _interrupted(config: TrainConfig, photos: Path, folder: Path, number: int, *, group: bool) -> list:
    """Result of a run in its own process that gets a signal after its third step."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, json.dumps(to_dict(config)), str(photos), str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() == "3":
                    (os.killpg if group else os.kill)(child.pid, number)
                    break
            out, err = child.communicate(timeout=60)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("number", "workers", "group"),
    [(signal.SIGTERM, 0, False), (signal.SIGINT, 1, True), (signal.SIGTERM, 1, True)],
    ids=["kill", "ctrl-c", "timeout"],
)
def test_a_signal_saves_and_stops(
    tmp_path: Path, photos: Path, tiny_recipe: Callable, number: int, workers: int, group: bool
) -> None:
    """Ctrl-C and `timeout` signal the group of the loader processes too; the run must still end in order."""
    config = tiny_recipe(loop__max_steps=100_000, loop__validation_steps=50_000, data__num_workers=workers)
    began = time.monotonic()
    finished, step, stop_signal = _interrupted(config, photos, tmp_path / "run", number, group=group)
    assert time.monotonic() - began < 60
    assert (finished, stop_signal) == (False, int(number))
    assert step >= 3
    assert torch.load(tmp_path / "run" / CHECKPOINT_NAME, weights_only=True)["step"] == step
    assert _log(tmp_path / "run")[-1]["finished"] is False
    resumed = run_training(config, photos, tmp_path / "run", resume="latest", max_hours=0.0)
    assert resumed.step == step
