"""The log: one JSON object a line, whole after any kill; curves with one row a step; TensorBoard if asked."""

from __future__ import annotations

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linearsr.errors import ConfigError, TrainingError
from linearsr_train import runlog
from linearsr_train.runlog import RunLog, read_log, wants_tensorboard


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


# ---- lines


def test_run_log_lines_are_there_as_soon_as_they_are_written(folder: Path) -> None:
    log = RunLog(folder)
    log.write("step", step=3, loss=0.5)
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["event"], entry["step"], entry["loss"]) == ("step", 3, 0.5)
    assert abs(entry["time"] - time.time()) < 60
    log.close()


def test_run_log_appends_to_an_earlier_run(folder: Path) -> None:
    for event in ("start", "end"):
        log = RunLog(folder)
        log.write(event, name="Sørensen\nand a second line")
        log.close()
        log.close()
    entries = read_log(folder / "log.jsonl")
    assert [entry["event"] for entry in entries] == ["start", "end"]
    assert entries[0]["name"] == "Sørensen\nand a second line"


def test_run_log_writes_what_is_not_finite_as_null(folder: Path) -> None:
    log = RunLog(folder)
    values = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": np.float32("nan"), "e": np.float32(0.25)}}
    log.write("step", **values, flag=True, count=np.int64(3), path=Path("a") / "b", nothing=None)
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    entry = json.loads((folder / "log.jsonl").read_text(encoding="utf-8"), parse_constant=refuse)
    assert entry["a"] is None
    assert entry["b"] == [None, 1.5, [None]]
    assert entry["c"] == {"d": None, "e": 0.25}
    assert (entry["flag"], entry["count"], entry["path"], entry["nothing"]) == (True, 3, str(Path("a/b")), None)


WHOLE = b'{"event": "step", "time": 1.5, "note": "\\u00e9 {}"}\n'


@settings(deadline=None)
@given(st.integers(0, 3), st.integers(0, len(WHOLE)))
def test_run_log_cut_at_any_byte_is_whole_again(tmp_path_factory: pytest.TempPathFactory, lines: int, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "log.jsonl"
    path.write_bytes(WHOLE * lines + WHOLE[:cut])
    # Only the newline may be missing from a line that counts.
    expected = lines + (cut >= len(WHOLE) - 1)
    assert len(read_log(path)) == expected
    log = RunLog(folder)
    log.write("resume")
    log.close()
    assert path.read_bytes().startswith(WHOLE * expected + b'{"event": "resume"')
    assert [entry["event"] for entry in read_log(path)] == ["step"] * expected + ["resume"]


def test_run_log_drops_a_torn_line_longer_than_a_block(folder: Path) -> None:
    folder.mkdir()
    path = folder / "log.jsonl"
    path.write_bytes(WHOLE + b'{"event": "' + b"x" * (2 * runlog._BLOCK + 17))
    RunLog(folder).close()
    assert path.read_bytes() == WHOLE


def test_run_log_drops_the_zeros_of_a_power_cut(folder: Path) -> None:
    folder.mkdir()
    path = folder / "log.jsonl"
    path.write_bytes(WHOLE + b"\0" * 900)
    assert len(read_log(path)) == 1
    RunLog(folder).close()
    assert path.read_bytes() == WHOLE


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_run_log_survives_kills(folder: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from linearsr_train.runlog import RunLog\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "log = RunLog(folder)\n"
        "print('open', flush=True)\n"
        "for step in range(10**9):\n"
        "    log.write('step', step=step, padding='x' * 20000)\n"
        "    log.curve(folder / 'stages' / 'pretrain', step, {'loss': step / 8})\n"
    )
    before = 0
    for delay in (0.0, 0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        time.sleep(0.05 + delay)
        process.kill()
        process.wait()
        process.stdout.close()
        RunLog(folder).close()
        lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
        assert all(line.endswith(b"\n") and json.loads(line)["event"] == "step" for line in lines)
        assert len(lines) > before
        before = len(lines)
        rows = table(folder / "stages" / "pretrain" / "curve.csv")
        assert [int(row["step"]) for row in rows] == list(range(len(rows)))
        assert all(float(row["loss"]) == int(row["step"]) / 8 for row in rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_run_log_on_a_full_disk_is_an_error_that_names_the_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "log.jsonl").symlink_to("/dev/full")
    log = RunLog(folder)
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be written: No space left"):
        log.write("step", step=1)
    log.close()


def test_run_log_in_place_of_a_file_is_an_error(folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be written"):
        RunLog(folder)


@pytest.mark.parametrize("make", [lambda _: RunLog.off(), lambda folder: RunLog(folder, enabled=False)])
def test_run_log_that_is_off_leaves_no_trace(folder: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)
    log = make(folder / "run")
    log.write("step", step=1)
    log.curve(folder / "run" / "stages" / "pretrain", 1, {"loss": 1.0})
    log.close()
    assert list(folder.iterdir()) == []


def test_read_log_names_a_damaged_line_and_a_missing_file(folder: Path) -> None:
    folder.mkdir()
    path = folder / "log.jsonl"
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        read_log(path)
    path.write_bytes(WHOLE + b"[1, 2]\n" + WHOLE)
    with pytest.raises(TrainingError, match="line 2: .* is not a JSON object"):
        read_log(path)
    path.write_bytes(b"")
    assert read_log(path) == []


# ---- curves


def test_curve_has_a_row_for_each_step(folder: Path) -> None:
    log = RunLog(folder)
    stage = folder / "stages" / "pretrain"
    for step in (100, 200, 300):
        log.curve(stage, step, {"x4/psnr_1": 25.0 + step / 3000, "verdict": "running"})
    log.close()
    assert (stage / "curve.csv").read_text().splitlines()[0] == "step,x4/psnr_1,verdict"
    rows = table(stage / "curve.csv")
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert [float(row["x4/psnr_1"]) for row in rows] == [25.0 + step / 3000 for step in (100, 200, 300)]
    assert {row["verdict"] for row in rows} == {"running"}


@settings(max_examples=25, deadline=None)  # every row waits for the disk
@given(st.lists(st.integers(0, 20), min_size=1, max_size=15))
def test_curve_after_any_restarts_rises_and_keeps_the_last_word(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("curve")
    expected: list[tuple[int, int]] = []
    for turn, step in enumerate(steps):
        log = RunLog(folder)
        log.curve(folder / "stages" / "a", step, {"turn": turn})
        log.close()
        expected = [*(row for row in expected if row[0] < step), (step, turn)]
    rows = table(folder / "stages" / "a" / "curve.csv")
    assert [(int(row["step"]), int(row["turn"])) for row in rows] == expected


def test_curve_has_the_columns_of_all_rows(folder: Path) -> None:
    log = RunLog(folder)
    stage = folder / "stages" / "expert-1"
    log.curve(stage, 1, {"b": 1.0, "gone": 2.0})
    log.curve(stage, 2, {"new, quoted": 0.1, "b": math.nan})
    log.curve(stage, 3, {"b": math.inf, "step": 99.0})
    log.close()
    assert (stage / "curve.csv").read_text() == 'step,b,gone,"new, quoted"\n1,1.0,2.0,\n2,,,0.1\n3,,,\n'


def test_curve_opened_by_a_spreadsheet_goes_on(folder: Path) -> None:
    stage = folder / "stages" / "a"
    stage.mkdir(parents=True)
    (stage / "curve.csv").write_bytes(b"\xef\xbb\xbfstep,loss\r\n1,0.5\r\n")
    log = RunLog(folder)
    log.curve(stage, 2, {"loss": 0.25})
    log.close()
    assert (stage / "curve.csv").read_bytes() == b"step,loss\n1,0.5\n2,0.25\n"


@pytest.mark.parametrize("text", ["loss\n1\n", "step,loss\nfirst,1\n", "step,loss\n1,2,3\n", "loss\n", "step\n\xff\n"])
def test_curve_refuses_a_table_that_is_not_its_own(folder: Path, text: str) -> None:
    stage = folder / "stages" / "a"
    stage.mkdir(parents=True)
    (stage / "curve.csv").write_bytes(text.encode("latin-1"))
    log = RunLog(folder)
    with pytest.raises(TrainingError, match=r"curve\.csv is not a table of numbers by step"):
        log.curve(stage, 9, {"loss": 0.5})
    log.close()
    assert (stage / "curve.csv").read_bytes() == text.encode("latin-1")


def test_curve_where_no_folder_can_be_is_an_error(folder: Path) -> None:
    log = RunLog(folder)
    (folder / "stages").write_text("a file in the way")
    with pytest.raises(TrainingError, match=r"curve\.csv cannot be written"):
        log.curve(folder / "stages" / "a", 1, {})
    log.close()


# ---- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_run_log_writes_tensorboard_scalars_that_a_resume_continues(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(folder, tensorboard=True)
    for step in (10, 20, 30):  # broken off here; the checkpoint was that of step 10
        log.write("step", stage="pretrain", step=step, loss=1.0 / step, note="text", bad=math.nan)
    log.write("start", photos=3)
    log.close()
    log = RunLog(folder, tensorboard=True)
    for step in (20, 30):
        log.write("step", stage="pretrain", step=step, loss=2.0 / step)
    log.curve(folder / "stages" / "expert-0", 5, {"x4/psnr_1": 27.5})
    log.close()
    found = scalars(folder / "tensorboard" / "pretrain")
    assert set(found) == {"step/loss"}
    assert found["step/loss"] == [(10, pytest.approx(0.1)), (20, pytest.approx(0.1)), (30, pytest.approx(2 / 30))]
    assert scalars(folder / "tensorboard" / "expert-0") == {"curve/x4/psnr_1": [(5, 27.5)]}


def test_run_log_hides_the_scalars_of_a_stage_that_starts_again(folder: Path) -> None:
    pytest.importorskip("tensorboard")
    log = RunLog(folder, tensorboard=True)
    for offset in (0.0, 100.0):  # the second time from the start, in the same process
        for step in (0, 10, 20):
            if step:
                log.write("step", stage="expert-0", step=step, loss=offset + step)
            log.curve(folder / "stages" / "expert-0", step, {"psnr": offset + step})
    log.write("step", stage="sft-0", step=10, loss=7.0)
    log.close()
    found = scalars(folder / "tensorboard" / "expert-0")
    assert found == {"curve/psnr": [(0, 100), (10, 110), (20, 120)], "step/loss": [(10, 110), (20, 120)]}
    assert scalars(folder / "tensorboard" / "sft-0") == {"step/loss": [(10, 7)]}


def test_run_log_without_tensorboard_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # importing it fails as if it were not there
    with pytest.raises(ConfigError, match="tensorboard is not installed") as caught:
        RunLog(folder, tensorboard=True)
    assert 'pip install "linearsr[train]"' in str(caught.value.hint)
    assert not folder.exists()
    assert not wants_tensorboard("auto")


def test_wants_tensorboard_follows_the_setting() -> None:
    pytest.importorskip("tensorboard")
    assert [wants_tensorboard(name) for name in ("auto", "tensorboard", "none")] == [True, True, False]


def test_run_log_leaves_torch_unloaded_without_tensorboard(folder: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from linearsr_train.runlog import RunLog\n"
        "RunLog(pathlib.Path(sys.argv[1])).close()\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(folder)]).returncode == 0
