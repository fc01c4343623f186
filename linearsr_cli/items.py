"""What a plan is made of: one item for every input, and all of them in order. Plain data, no disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from linearsr.errors import LinearSRError
from linearsr_cli.errors import describe
from linearsr_cli.inputs import Source
from linearsr_cli.naming import Place
from linearsr_cli.tags import TagRow, TagTable, UsedTags

__all__ = ["Plan", "PlanItem"]

BYTES_PER_PIXEL = {"PNG": 2.0, "JPEG": 0.7, "WEBP": 0.5, "TIFF": 2.2, "AVIF": 0.5, "BMP": 3.0, "PPM": 3.0, "HEIF": 0.5}
"""Rough size of a saved photograph by format, 8 bits a channel; only to warn of a full disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanItem:
    """One input and what is to become of it."""

    source: Source
    action: Literal["upscale", "skip", "fail"]
    width: int = 0
    """Output size in pixels."""
    height: int = 0
    scale: float = 0.0
    """Geometric mean of the two side ratios."""
    format: str = ""
    bit_depth: int = 8
    output: Path | None = None
    """None for stdout, and for items that fail before they have a name."""
    row: TagRow | None = None
    """Its tags in `--tags-from`, if it is listed there."""
    notes: tuple[str, ...] = ()
    error: LinearSRError | None = None

    @property
    def pixels(self) -> int:
        """Output pixels."""
        return self.width * self.height

    def event(
        self,
        status: str,
        *,
        seconds: float = 0.0,
        notes: tuple[str, ...] | None = None,
        tags: UsedTags | None = None,
    ) -> dict[str, object]:
        """The JSON line of this file; its fields are described in `linearsr_cli.job`."""
        line: dict[str, object] = {
            "event": "file",
            "input": self.source.name,
            "output": None if self.output is None else str(self.output),
            "status": status,
            "width": self.width,
            "height": self.height,
            "scale": round(self.scale, 4),
            "seconds": round(seconds, 3),
            "tags": None if tags is None else list(tags.names),
            "tags_from": None if tags is None else tags.origin,
            "notes": list(self.notes if notes is None else notes),
        }
        if self.error is not None:
            line["error"], hint = describe(self.error)
            if hint is not None:
                line["hint"] = hint
        return line

    def failed(self, error: LinearSRError) -> PlanItem:
        """The same item with a reason why it cannot be done."""
        path, name = str(self.source.path), "the picture on stdin"
        if self.source.name == "-" and path in error.message:  # not the temporary file that holds it
            error = type(error)(error.message.replace(path, name), hint=error.hint)
        return replace(self, action="fail", error=error)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All items in order."""

    items: tuple[PlanItem, ...]
    place: Place
    table: TagTable | None = None
    """Tags of `--tags-from`."""
    saved_tags: Mapping[str, str] = field(default_factory=dict)
    """Rows that `--save-tags` found in its file and keeps."""

    @property
    def todo(self) -> tuple[PlanItem, ...]:
        """Items to upscale."""
        return tuple(item for item in self.items if item.action == "upscale")

    @property
    def bytes(self) -> int:
        """Rough size of the results on disk."""
        return round(sum(item.pixels * BYTES_PER_PIXEL[item.format] * item.bit_depth / 8 for item in self.todo))
