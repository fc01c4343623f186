"""The log: one JSON object a line, readable while it grows, never cut by a second run."""

from __future__ import annotations

import json
from pathlib import Path

from linearsr_train.runlog import RunLog


def test_run_log_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run" / "log.jsonl"
    log = RunLog(path)
    log.write("step", step=3, loss=0.5)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert (entry["event"], entry["step"], entry["loss"]) == ("step", 3, 0.5)
    assert entry["time"] > 1.6e9
    log.close()


def test_run_log_appends_to_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for event in ("start", "end"):
        log = RunLog(path)
        log.write(event, name="Sørensen")
        log.close()
    assert [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()] == ["start", "end"]
