"""Result files: the newest of each kind, and what a page says of how one was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _common import RESULTS

__all__ = ["Result", "newest_result", "place", "provenance", "read_newest"]

Result = Mapping[str, Any]


def newest_result(name: str, folder: Path = RESULTS) -> Path | None:
    """The newest `DATE-NAME.json`, else `NAME.json`, which no program here makes; None where there is neither."""
    found = sorted(path for path in folder.glob(f"*-{name}.json") if re.fullmatch(r"\d{4}-\d\d-\d\d", path.stem[:10]))
    found = [path for path in found if path.stem[11:] == name]
    undated = folder / f"{name}.json"
    return found[-1] if found else (undated if undated.is_file() else None)


def read_newest(names: Sequence[str], folder: Path = RESULTS) -> list[Result] | None:
    """The newest result of each name; None if one is not there."""
    paths = [newest_result(name, folder) for name in names]
    return None if None in paths else [json.loads(path.read_text(encoding="utf-8")) for path in paths if path]


def place(result: Result) -> str:
    """Commit and machine of a result."""
    machine, git = result["machine"], result["git"]
    commit = "no commit known" if git["commit"] is None else f"commit {git['commit'][:7]}"
    changed = " with changes" if git["dirty"] else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
    return f"{commit}{changed}; {where}"


def provenance(result: Result) -> str:
    """Command, date, commit and machine of a result."""
    return f"```\n{result['command']}\n```\n\n{result['date']}, LinearSR {result['linearsr']}, {place(result)}."
