"""One JSON object a line, appended and flushed, so that a run can be read while it goes on and after it broke off."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

__all__ = ["RunLog"]


class RunLog:
    """Append-only log of a run.

    Args:
        path: the `.jsonl` file; created with its folder.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:  # noqa: ANN401
        """Append an event with the wall time."""
        self._file.write(json.dumps({"event": event, "time": round(time.time(), 2), **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
