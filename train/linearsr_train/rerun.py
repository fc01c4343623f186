"""Taking up a run folder again: whether it fits, and what a stop or a larger budget has left to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from linearsr.errors import TrainingError
from linearsr_train.config import TrainConfig
from linearsr_train.experts import plan_stages, read_json, stage_folder
from linearsr_train.state import check_unchanged
from linearsr_train.weights import DONE_NAME

__all__ = ["Resume", "check_folder", "reopen_longer", "sweep"]

Resume = Literal["auto", "latest", "never"]


def check_folder(config: TrainConfig, folder: Path, resume: Resume) -> None:
    """Refuse a run folder that does not fit; writes nothing.

    Raises:
        TrainingError: nothing to resume, a run where none is wanted, another run's or another program's folder.
    """
    path = folder / "config.json"
    exists = (folder / "log.jsonl").is_file() and path.is_file()
    if resume == "latest" and not exists:
        raise TrainingError(f"nothing to resume in {str(folder)!r}: no run", hint="use `--resume auto`")
    if exists and resume == "never":
        raise TrainingError(
            f"{str(folder)!r} already holds a run", hint="use `--resume auto` to go on, or another `--output-dir`"
        )
    if path.exists() and not exists:
        raise TrainingError(
            f"{str(folder)!r} holds a config.json that is not of a run, expected a folder for this run alone",
            hint="use another `--output-dir`",
        )
    if exists:
        check_unchanged(read_json(path), config)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written; the finished files stand under their own names."""
    for path in folder.rglob(".linearsr-*.tmp"):
        path.unlink(missing_ok=True)


def reopen_longer(config: TrainConfig, folder: Path) -> None:
    """Take up again a stage that ended by a budget that is larger now, as long as nothing was built on it."""
    stages = plan_stages(config)
    for stage, after in zip(stages, [*stages[1:], None], strict=True):
        done = read_json(stage_folder(folder, stage) / DONE_NAME)
        is_last = after is None or not stage_folder(folder, after).exists()
        if is_last and done.get("ending") == "budget" and done["steps"] < stage.settings.max_steps:
            (stage_folder(folder, stage) / DONE_NAME).unlink()
