"""Whole runs on six small photographs: stages in order, refusals, what goes wrong on the way, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from linearsr.config import to_dict
from linearsr.errors import ConfigError, TrainingError, WeightsError
from linearsr_train import loop as loop_module
from linearsr_train import run as run_module
from linearsr_train.config import TrainConfig, load_recipe
from linearsr_train.run import run_training
from linearsr_train.state import CHECKPOINT_NAME, plain_config
from linearsr_train.weights import DONE_NAME, RESULT_NAME, START_NAME, averaged, read_tensors, write_tensors

STAGES = ["pretrain", *(f"{kind}-{expert}" for kind in ("expert", "sft") for expert in (3, 2, 1, 0))]
SHORT = {
    "loop__validation_photos": 1,
    "stages__pretrain__max_steps": 4,
    "stages__pretrain__validation_steps": 4,
    "stages__experts__max_steps": 0,
    "stages__sft__max_steps": 0,
    "tagger__max_steps": 0,
}
"""The pretraining alone."""
CHILD = """
import json, sys
from pathlib import Path
from linearsr.config import from_dict
from linearsr_train.config import TrainConfig
from linearsr_train.run import run_training

config = from_dict(TrainConfig, json.loads(sys.argv[1]))
result = run_training(
    config, Path(sys.argv[2]), Path(sys.argv[3]), progress=lambda stage, step, total, values: print(step, flush=True)
)
print(json.dumps([result.finished, result.stage, result.step, result.stop_signal]), flush=True)
"""


def _log(folder: Path, event: str | None = None) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if event in (None, line["event"])]


def _same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def _result(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "stages" / stage / RESULT_NAME)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where matplotlib is not installed: drawing takes seconds. The shared run has its plot."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


# ---- a run from its beginning to its end


def test_a_run_goes_through_all_stages_and_leaves_its_files(finished: Any) -> None:
    folder, result = finished.folder, finished.result
    assert (result.finished, result.stage, result.step, result.stop_signal) == (True, None, 0, None)
    assert result.export == folder / "export"
    names = {path.name for path in folder.iterdir()} - {"tensorboard"}
    assert names == {"config.json", "curves.png", "export", "log.jsonl", "samples", "stages"}
    assert sorted(path.name for path in (folder / "stages").iterdir()) == sorted([*STAGES, "tagger"])
    for stage in STAGES:
        assert {path.name for path in (folder / "stages" / stage).iterdir()} == {
            CHECKPOINT_NAME, "curve.csv", "keep", RESULT_NAME, DONE_NAME
        }, stage  # fmt: skip
        with Image.open(folder / "samples" / f"{stage}.png") as sheet:
            assert min(sheet.size) > 32
    with Image.open(folder / "curves.png") as curves:
        curves.load()
        assert min(curves.size) > 300


def test_a_run_takes_every_step_of_every_stage_once(finished: Any) -> None:
    lengths = {"pretrain": 20, "expert": 4, "sft": 2}
    expected = [(name, n, lengths[name.split("-")[0]]) for name in STAGES for n in range(1, 99)]
    assert finished.steps == [entry for entry in expected if entry[1] <= entry[2]]
    assert finished.said[0].startswith(
        "4 photographs, 1 process(es) on cpu, precision no; the perceptual score is gmsd"
    )
    assert [line for line in finished.said if "from step 0 of" in line and "tagger" not in line] == [
        f"{name}: from step 0 of {lengths[name.split('-')[0]]}" for name in STAGES
    ]


def test_a_run_logs_start_stages_tagger_and_end(finished: Any) -> None:
    log = _log(finished.folder)
    assert (log[0]["event"], log[-1]["event"], log[-2]["event"]) == ("start", "end", "tagger")
    assert log[0]["perceptual"] == "gmsd", "no LPIPS weights were given, and the log says so"
    assert (log[0]["photos"], log[0]["left_out"]) == (4, 0)
    assert log[-1]["finished"] is True
    assert [line["stage"] for line in log if line["event"] == "stage_end"] == STAGES
    assert {line["stage"] for line in log if line["event"] == "throughput"} == {"pretrain", *STAGES[1:5]}
    assert json.loads((finished.folder / "config.json").read_text()) == plain_config(finished.config)
    assert not (finished.folder / "tensorboard" / "None").exists()


def test_each_stage_starts_from_the_result_of_the_one_before_it(finished: Any) -> None:
    starts = finished.starts
    assert starts["pretrain"] == (None, None)
    for expert in range(4):
        assert _same(starts[f"expert-{expert}"][0], _result(finished.folder, "pretrain")), expert
        assert _same(starts[f"sft-{expert}"][0], _result(finished.folder, f"expert-{expert}")), expert
    keep = finished.folder / "stages" / "pretrain" / "keep" / f"step-{finished.result.stages['pretrain']['chosen']:08d}"
    assert _same(averaged(read_tensors(keep.with_suffix(".safetensors"))), _result(finished.folder, "pretrain"))


def test_each_lora_stage_starts_from_the_shared_network_and_the_part_before_it(finished_lora: Any) -> None:
    shared = _result(finished_lora.folder, "pretrain")
    for expert in range(2):
        assert _same(finished_lora.starts[f"expert-{expert}"][0], shared)
        assert finished_lora.starts[f"expert-{expert}"][1] is None
        base, part = finished_lora.starts[f"sft-{expert}"]
        assert _same(base, shared)
        assert _same(part, read_tensors(finished_lora.folder / "stages" / f"expert-{expert}" / "lora.safetensors"))
        assert not _same(_result(finished_lora.folder, f"expert-{expert}"), shared)


def test_a_finished_run_resumed_does_nothing_more(finished: Any, photos: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    before = {path: read_tensors(path) for path in run.rglob("*.safetensors")}
    steps: list = []
    result = run_training(finished.config, photos, run, resume="latest", progress=lambda *step: steps.append(step))
    assert result.finished
    assert steps == []
    assert result.stages == finished.result.stages
    assert result.validation == finished.result.validation
    assert set(run.rglob("*.safetensors")) == set(before)
    assert all(_same(read_tensors(path), tensors) for path, tensors in before.items())


def test_the_last_stage_of_a_run_may_be_made_longer(finished: Any, photos: Path, tmp_path: Path) -> None:
    from linearsr_train.config import parse_recipe

    run = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    longer = parse_recipe(plain_config(finished.config), ["stages.sft.max_steps=3"])
    steps: list = []
    result = run_training(longer, photos, run, progress=lambda *step: steps.append(step[:2]))
    assert result.finished
    assert steps == [("sft-0", 3)], "the stages before it are built upon"
    assert result.stages["sft-0"]["steps"] == 3


# ---- where a run starts


def test_a_run_starts_its_experts_from_a_given_model(photos: Path, tmp_path: Path, watched_run: Callable) -> None:
    from linearsr.checkpoint import load_network, read_config
    from linearsr.hub import find_model

    bundled = find_model("compact").fetch("config.json").parent
    boundaries = len(read_config(bundled).experts.boundaries_log_snr)
    small = [
        "init=compact", "data.crop=32", "data.num_workers=0", "data.validation_fraction=0.3", "loop.batch_size=2",
        "loop.validation_photos=1", "loop.validation_crop=32", "loop.mixed_precision=no", "tagger.max_steps=0",
        "stages.pretrain.max_steps=0", "stages.experts.max_steps=1", "stages.sft.max_steps=0",
    ]  # fmt: skip
    small += ["experts.boundaries=[]"] if boundaries == 0 else []
    done = watched_run(load_recipe("compact_cpu", small), photos, tmp_path / "run")
    assert done.result.finished
    for expert in range(boundaries + 1):
        weights = load_network(bundled, read_config(bundled), expert).state_dict()
        assert _same(done.starts[f"expert-{expert}"][0], dict(weights))
    recipe = read_config(tmp_path / "run" / "export").training["recipe"]
    assert recipe["init"] == "compact"


def test_a_model_of_another_shape_is_refused_before_any_step(
    photos: Path, tmp_path: Path, tiny_recipe: Callable
) -> None:
    config = tiny_recipe(init="compact", **{**SHORT, "stages__pretrain__max_steps": 0, "stages__experts__max_steps": 1})
    with pytest.raises(ConfigError, match="model 'compact' differs from the recipe in model.*model.width"):
        run_training(config, photos, tmp_path / "run")


# ---- refusals


def test_resume_latest_of_nothing_is_an_error(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    with pytest.raises(TrainingError, match="nothing to resume"):
        run_training(tiny_recipe(), photos, tmp_path / "run", resume="latest")
    assert not (tmp_path / "run").exists()


def test_resume_never_refuses_to_mix_runs(finished: Any, photos: Path) -> None:
    with pytest.raises(TrainingError, match="already holds a run"):
        run_training(finished.config, photos, finished.folder, resume="never")


def test_another_recipe_leaves_the_run_as_it_was(finished: Any, photos: Path, tiny_recipe: Callable) -> None:
    before = (finished.folder / "config.json").read_bytes()
    other = tiny_recipe(loop__validation_photos=1, stages__experts__learning_rate=1e-4, experts__widen=0.05)
    with pytest.raises(TrainingError, match="to resume in experts.widen, stages.experts.learning_rate$"):
        run_training(other, photos, finished.folder)
    assert (finished.folder / "config.json").read_bytes() == before


def test_another_programs_folder_is_left_alone(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="holds a config.json that is not of a run"):
        run_training(tiny_recipe(), photos, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["config.json"]


@pytest.mark.parametrize("fault", ["empty", "small", "missing"])
def test_photographs_that_do_not_do_are_refused_and_the_folder_stays_usable(
    tmp_path: Path, photos: Path, tiny_recipe: Callable, fault: str
) -> None:
    (tmp_path / "empty").mkdir()
    data = {"empty": tmp_path / "empty", "small": photos, "missing": tmp_path / "nowhere"}[fault]
    config = tiny_recipe(**SHORT, **({"data__crop": 104} if fault == "small" else {}))
    message = {
        "empty": "0 training and 0 validation",
        "small": "no usable photograph among 4 files, for example .* smaller than the 104-pixel",
        "missing": "nowhere' does not exist",
    }[fault]
    with pytest.raises(TrainingError, match=message):
        run_training(config, data, tmp_path / "run")
    result = run_training(tiny_recipe(**SHORT), photos, tmp_path / "run", max_hours=0.0)
    assert (result.finished, result.stage) == (False, "pretrain")


def test_weights_for_the_metric_that_do_not_fit_or_are_missing_are_errors(
    tmp_path: Path, photos: Path, tiny_recipe: Callable
) -> None:
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "lpips.safetensors")
    with pytest.raises(WeightsError):
        run_training(tiny_recipe(), photos, tmp_path / "run", lpips_weights=tmp_path / "lpips.safetensors")
    with pytest.raises(ConfigError, match="experts.perceptual_weight is 0.1, which needs LPIPS weights"):
        run_training(tiny_recipe(experts__perceptual_weight=0.1), photos, tmp_path / "run")


# ---- what goes wrong on the way


def test_a_damaged_photograph_is_left_out_counted_and_listed(
    tmp_path: Path, photos: Path, tiny_recipe: Callable
) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    whole = (data / "river.png").read_bytes()
    (data / "river.png").write_bytes(whole[: len(whole) // 2])
    said: list[str] = []
    result = run_training(tiny_recipe(**SHORT), data, tmp_path / "run", report=said.append)
    assert result.finished
    assert [line for line in said if line.startswith("left out")][0].startswith("left out river.png: ")
    assert len([line for line in said if line.startswith("left out")]) == 1
    start = _log(tmp_path / "run", "start")[0]
    assert (start["photos"], start["left_out"]) == (3, 1)


def _poison(monkeypatch: pytest.MonkeyPatch, stage: str, from_step: int) -> None:
    """Make the loss of a stage infinite from a step on."""
    inner = loop_module._forward

    def forward(state, *args):
        loss, squared = inner(state, *args)
        return (loss * float("inf") if state.stage.name == stage and state.step >= from_step else loss), squared

    monkeypatch.setattr(loop_module, "_forward", forward)


def test_a_loss_that_is_not_finite_without_a_knee_ends_the_run_and_names_the_batch(
    tmp_path: Path, photos: Path, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_recipe(**{**SHORT, "loop__checkpoint_steps": 2})
    with monkeypatch.context() as patch:
        _poison(patch, "pretrain", 3)
        with pytest.raises(TrainingError) as caught:
            run_training(config, photos, tmp_path / "run")
    text = str(caught.value)
    assert "pretrain step 3: the loss or its gradient is not finite on the batch of sample 12: " in text
    assert any(f"{name}.png, 32x32 at column" in text for name in ("bridge", "forest", "river", "roofs"))
    assert "lower learning rate" in str(caught.value.hint)
    entry = _log(tmp_path / "run", "nonfinite")[0]
    assert [sample.split(":")[0] for sample in entry["samples"]] == [f"sample {n}" for n in (12, 13, 14, 15)]
    saved = torch.load(tmp_path / "run" / "stages" / "pretrain" / CHECKPOINT_NAME, weights_only=True)
    assert saved["step"] == 2
    assert all(bool(torch.isfinite(value).all()) for value in saved["model"].values())
    result = run_training(config, photos, tmp_path / "run")
    assert result.finished, "the checkpoint before it is whole"


def test_an_expert_whose_loss_is_not_finite_goes_back_to_its_knee(
    tmp_path: Path, photos: Path, tiny_recipe: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_recipe(**{**SHORT, "stages__experts__max_steps": 4, "experts__boundaries": [0.6]})
    _poison(monkeypatch, "expert-1", 3)
    said: list[str] = []
    result = run_training(config, photos, tmp_path / "run", report=said.append)
    assert result.finished
    done = result.stages["expert-1"]
    assert (done["ending"], done["steps"], done["verdict"]["status"]) == ("collapse", 3, "collapse")
    assert done["chosen"] == done["verdict"]["knee"] in (0, 2)
    assert any("expert-1 step 3" in line and f"going back to step {done['chosen']}" in line for line in said)
    keep = tmp_path / "run" / "stages" / "expert-1" / "keep" / f"step-{done['chosen']:08d}.safetensors"
    assert _same(_result(tmp_path / "run", "expert-1"), averaged(read_tensors(keep)))
    assert result.stages["expert-0"]["ending"] == "budget"


def test_a_pretraining_that_breaks_down_from_nothing_is_an_error(
    tmp_path: Path, photos: Path, tiny_recipe: Callable
) -> None:
    """A learning rate that no network survives: there is nothing that an expert could start from."""
    config = tiny_recipe(
        **{**SHORT, "stages__pretrain__max_steps": 12, "stages__pretrain__validation_steps": 2},
        stages__pretrain__learning_rate=3.0, optim__ema_decay=0.0,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="pretrain step") as caught:
        run_training(config, photos, tmp_path / "run")
    assert "lower learning rate" in str(caught.value.hint)
    assert not (tmp_path / "run" / "stages" / "pretrain" / DONE_NAME).exists()


@pytest.fixture
def bent(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> tuple[TrainConfig, Path, dict[str, torch.Tensor]]:
    """A run whose pretraining is done and had an elbow before its end, and whose experts are bound to collapse."""
    config = tiny_recipe(
        **{**SHORT, "stages__experts__max_steps": 8, "experts__boundaries": [0.6]},
        stages__experts__learning_rate=3.0, optim__ema_decay=0.0,
    )  # fmt: skip
    run = tmp_path / "run"

    class EnoughError(Exception):
        """The pretraining is done."""

    def stop(stage: str, *_: Any) -> None:
        if stage != "pretrain":
            raise EnoughError

    with pytest.raises(EnoughError):
        run_training(config, photos, run, progress=stop)
    shutil.rmtree(run / "stages" / "expert-1")
    pretrain = run / "stages" / "pretrain"
    done = json.loads((pretrain / DONE_NAME).read_text())
    elbow = {name: value + 1e-3 for name, value in _result(run, "pretrain").items()}
    write_tensors(pretrain / "keep" / "step-00000002.safetensors", {f"ema/{k}": v for k, v in elbow.items()})
    done["chosen"], done["verdict"]["elbow"] = 4, 2
    (pretrain / DONE_NAME).write_text(json.dumps(done))
    return config, run, elbow


def test_an_expert_that_collapses_starts_again_from_the_elbow_once(
    bent: tuple, photos: Path, watched_run: Callable
) -> None:
    """The experts' learning rate is one that no network survives, so the second attempt collapses too and is kept."""
    config, run, elbow = bent
    done = watched_run(config, photos, run)
    assert done.result.finished
    falls = _log(run, "fall_back")
    assert [(entry["stage"], entry["ending"], entry["elbow"]) for entry in falls] == [
        ("expert-1", "collapse", 2), ("expert-0", "collapse", 2)
    ]  # fmt: skip
    for stage in ("expert-1", "expert-0"):
        assert json.loads((run / "stages" / stage / START_NAME).read_text())["elbow"] == 2
        assert _same(done.starts[stage][0], elbow), "the second start"
        assert done.result.stages[stage]["ending"] == "collapse"
        assert done.result.stages[stage]["chosen"] == 0
        assert _same(_result(run, stage), elbow)


def test_a_fall_back_is_not_forgotten_by_a_kill_before_it(
    bent: tuple, photos: Path, watched_run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, elbow = bent

    class KilledError(Exception):
        """Stands for the kill."""

    def killed(*_: Any) -> bool:
        if (run / "stages" / "expert-1" / DONE_NAME).is_file():
            raise KilledError
        return False

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(run_module, "_fall_back", killed)
        run_training(config, photos, run)
    assert not (run / "stages" / "expert-1" / START_NAME).exists()
    done = watched_run(config, photos, run)
    assert done.result.finished
    assert _same(_result(run, "expert-1"), elbow)


# ---- stopping


def test_a_time_limit_saves_and_stops_and_the_run_goes_on(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe(**SHORT)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    result = run_training(config, photos, tmp_path / "run", max_hours=0.0)
    assert (result.finished, result.stage, result.step, result.stop_signal) == (False, "pretrain", 0, None)
    assert (tmp_path / "run" / "stages" / "pretrain" / CHECKPOINT_NAME).is_file()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    steps: list[int] = []
    assert run_training(config, photos, tmp_path / "run", progress=lambda *step: steps.append(step[1])).finished
    assert steps == [1, 2, 3, 4]


def test_a_time_limit_stops_the_tagger_too(tmp_path: Path, photos: Path, tiny_recipe: Callable) -> None:
    config = tiny_recipe(**{**SHORT, "tagger__max_steps": 4})

    def interrupt(line: str) -> None:
        if line.startswith("tagger step 2"):
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = run_training(config, photos, tmp_path / "run", report=interrupt)
    assert (stopped.finished, stopped.stage, stopped.stop_signal) == (False, "tagger", signal.SIGTERM)
    assert not (tmp_path / "run" / "export" / "tagger.safetensors").exists()
    said: list[str] = []
    assert run_training(config, photos, tmp_path / "run", report=said.append).finished
    assert any("from step 2 of 4" in line for line in said)
    assert (tmp_path / "run" / "export" / "tagger.safetensors").is_file()


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
            out, err = child.communicate(timeout=120)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(
    ("number", "workers", "group"), [(signal.SIGTERM, 0, False), (signal.SIGINT, 1, True)], ids=["kill", "ctrl-c"]
)
def test_a_signal_saves_and_stops(
    tmp_path: Path, photos: Path, tiny_recipe: Callable, number: int, workers: int, group: bool
) -> None:
    """Ctrl-C and `timeout` signal the group of the loader processes too; the run must still end in order."""
    long = {**SHORT, "stages__pretrain__max_steps": 100_000, "stages__pretrain__validation_steps": 50_000}
    config = tiny_recipe(**long, data__num_workers=workers)
    began = time.monotonic()
    finished, stage, step, stop_signal = _interrupted(config, photos, tmp_path / "run", number, group=group)
    assert time.monotonic() - began < 180
    assert (finished, stage, stop_signal) == (False, "pretrain", int(number))
    assert step >= 3
    saved = torch.load(tmp_path / "run" / "stages" / "pretrain" / CHECKPOINT_NAME, weights_only=True)
    assert saved["step"] == step
    assert _log(tmp_path / "run")[-1]["finished"] is False
    resumed = run_training(config, photos, tmp_path / "run", resume="latest", max_hours=0.0)
    assert resumed.step == step
