"""What is written down of a folder of low-resolution pictures: how each of them was made.

`degradation.json` holds what is common to a folder (recipe with all parameters, scale, seed, versions),
`degradation.csv` a row for each picture; its columns path and tags are what `linearsr upscale --tags-from` reads. A
folder holds pictures of one recipe, scale and seed only.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from linearsr.atomic import make_folder, write_bytes
from linearsr.errors import ConfigError
from linearsr_train.data.pairs import Recipe, load_recipe

__all__ = ["FACTS", "TABLE", "PairFolder", "PairRow", "PairSettings", "read_pairs"]

FACTS, TABLE = "degradation.json", "degradation.csv"
_NUMBERS = ("width", "height", "hr_width", "hr_height")
"""Columns that hold whole numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSettings:
    """What all pictures of a folder have in common."""

    recipe: Recipe
    scale: float = 4.0
    seed: int = 0
    command: str = ""
    """What made the folder, to be told."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `FACTS`."""
        import cv2

        import linearsr

        versions = {"linearsr": linearsr.__version__, "numpy": np.__version__, "opencv": cv2.__version__}
        return {
            "format": 1,
            "command": self.command,
            "versions": versions,
            "scale": float(self.scale),
            "seed": self.seed,
            "recipe": self.recipe.as_dict(),
            "table": TABLE,
        }

    @classmethod
    def read(cls, path: Path) -> PairSettings:
        """Read back what `as_dict` gave; versions are left aside.

        Raises:
            ConfigError: the file is something else, or a setting of it does not fit.
        """
        scale, seed, _ = _read_deciding(path)
        return cls(recipe=load_recipe(str(path)), scale=scale, seed=seed)

    def deciding(self) -> tuple[float, int, str]:
        """Scale, seed and digest of the recipe: pictures differ if these do. Bicubic ignores the seed."""
        return float(self.scale), self.seed if self.recipe.kind == "real" else 0, self.recipe.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """What is written down of one picture; one column each."""

    path: str
    """Of the low-resolution picture as it was named when it was made."""
    tags: str
    """What was done, as `--tags` takes it."""
    name: str
    """`PairFiles.name`."""
    source: str
    """The picture it was made of, as it was named."""
    width: int
    """Of the low-resolution picture."""
    height: int
    hr_width: int
    """Of the part of the source that it stands for."""
    hr_height: int
    lr_sha256: str
    """Of the 8-bit RGB values, row by row, 3 * width * height bytes."""
    hr_sha256: str
    parameters: str
    """`MadePair.parameters` as JSON."""


@dataclass(kw_only=True, slots=True)
class PairFolder:
    """The two tables of a folder."""

    path: Path
    settings: PairSettings
    rows: dict[str, PairRow] = field(default_factory=dict)
    """By name."""
    is_there: bool = False
    """Whether the folder had tables when it was opened."""
    made_with: tuple[float, int, str] | None = None
    """`PairSettings.deciding` of the rows that were there."""

    @classmethod
    def open(cls, path: Path, settings: PairSettings) -> PairFolder:
        """Look for the tables of an earlier run; rows whose picture is gone are dropped.

        Raises:
            ConfigError: files of these names are no such tables.
        """
        has_facts, has_table = (path / FACTS).exists(), (path / TABLE).exists()
        made_with = _read_deciding(path / FACTS) if has_facts else None
        found = _read_rows(path / TABLE) if has_table else {}
        rows = {name: row for name, row in found.items() if (path / name).is_file()}
        return cls(path=path, settings=settings, rows=rows, is_there=has_facts or has_table, made_with=made_with)

    def refuse_mixture(self, replaced: frozenset[str]) -> None:
        """Refuse a folder whose other pictures were made in another way.

        Args:
            replaced: names of pictures that will be made anew in any case.

        Raises:
            ConfigError: says what differs.
        """
        left = len(self.rows.keys() - replaced)
        if left == 0:
            return
        found, wanted = _read_deciding(self.path / FACTS), self.settings.deciding()
        for what, old, new in zip(("scale", "seed", "recipe with the digest"), found, wanted, strict=True):
            if old != new:
                raise ConfigError(
                    f"{self.path} holds {left} pictures made with {what} {_short(old)}, expected {_short(new)} as here",
                    hint="use another folder with `-o`, or `--on-exists overwrite` to make all of them anew",
                )

    def save(self) -> None:
        """Write both tables, each as one step.

        Raises:
            ImageError: the disk is full or refuses.
        """
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        names = [column.name for column in fields(PairRow)]
        table.writerow(names)
        for _, row in sorted(self.rows.items()):
            table.writerow([getattr(row, name) for name in names])
        facts = {**self.settings.as_dict(), "pictures": len(self.rows)}
        make_folder(self.path)
        write_bytes(self.path / FACTS, (json.dumps(facts, indent=2) + "\n").encode())
        write_bytes(self.path / TABLE, text.getvalue().encode("utf-8", "surrogateescape"))
        self.is_there = True


def read_pairs(path: Path) -> PairFolder | None:
    """What is written down of a folder of low-resolution pictures; None where nothing is.

    Raises:
        ConfigError: files of these names are no such tables, or one of the two is missing.
    """
    there = [name for name in (FACTS, TABLE) if (path / name).is_file()]
    if not there:
        return None
    if len(there) == 1:
        other = TABLE if there == [FACTS] else FACTS
        raise ConfigError(f"{path / there[0]} is there, expected {other} beside it", hint="make the pictures anew")
    return PairFolder.open(path, PairSettings.read(path / FACTS))


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:20]


def _read_deciding(path: Path) -> tuple[float, int, str]:
    try:
        facts = json.loads(path.read_bytes())
        recipe = facts["recipe"]
        seed = int(facts["seed"]) if recipe["kind"] == "real" else 0
        return float(facts["scale"]), seed, str(recipe["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not what `linearsr degrade` writes, so what lies beside it is unknown",
            hint="use another folder with `-o`, or remove it",
        ) from error


def _read_rows(path: Path) -> dict[str, PairRow]:
    names = [column.name for column in fields(PairRow)]
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if not lines or lines[0] != names:
            raise ValueError(f"its first line is not {','.join(names)}")
        rows = []
        for line in lines[1:]:
            cells: dict[str, Any] = dict(zip(names, line, strict=True))
            rows.append(PairRow(**{**cells, **{name: int(cells[name]) for name in _NUMBERS}}))
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path} is no table of `linearsr degrade`: {error}", hint="use another folder with `-o`, or remove it"
        ) from error
    return {row.name: row for row in rows}
