"""Which names belong together: equal ones, ones that differ by an ending, or one after the other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from linearsr.errors import ConfigError

__all__ = ["NAMED", "Problems", "ambiguous", "by_name", "by_order"]

Files = Mapping[str, list[Path]]
"""Files by their name without ending."""
NAMED = 20
"""Mismatches of a kind that an error names; the rest is counted."""
_SCALE = r"[_-]?x\d+(?:\.\d+)?m?"
_LABEL = r"_\d+(?:x\d+|[wh]|px)"
_MADE = re.compile(rf"(.+?)(?:{_LABEL}|{_SCALE}|[_-](?:LRBI|SRF_\d+_LR|LR|LQ|SR|out)(?:{_SCALE})?)", re.IGNORECASE)
"""Endings of inputs and results: `x4`, `_x2`, `x8m` (DIV2K), `_LRBI_x4`, `_SRF_4_LR`, `_SR`, `_out`, and what
`linearsr upscale` adds: `_x2.5`, `_1920x1080`, `_1920w`, `_1080h`, `_2048px`."""
_CLEAN = re.compile(rf"(.+?)[_-](?:HR|GT|SRF_\d+_HR)(?:{_SCALE})?", re.IGNORECASE)
"""Endings of clean pictures."""
_TAIL = re.compile(r"[-_. ][^/]*[A-Za-z][^/]*")
"""Ending that some program gives to all of its results."""
_SEPARATOR = re.compile(r"[-_. ]")

_ROUNDS = (((_CLEAN, _MADE), (_MADE, _CLEAN)), ((_MADE, _MADE),))
"""Endings that may be left off on either side, rounds in turn; the same whichever folder is named first."""


class Problems:
    """Mismatches, by kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[str]] = {}

    def add(self, kind: str, texts: Iterable[str]) -> None:
        """Note some."""
        for text in texts:
            self._kinds.setdefault(kind, []).append(text)

    def check(self, what: str, hint: str) -> None:
        """Raise what was found, if anything was.

        Raises:
            ConfigError: naming all of it.
        """
        if not self._kinds:
            return
        parts = []
        for kind, texts in self._kinds.items():
            more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
            parts.append(f"{kind}: {', '.join(texts[:NAMED])}{more}")
        raise ConfigError(f"{what}: {'; '.join(parts)}", hint=hint)


def ambiguous(files: Files) -> list[str]:
    """Names that more than one file has, with those files."""
    return [f"{name} ({' or '.join(path.name for path in some)})" for name, some in files.items() if len(some) > 1]


def by_order(clean: Files, files: Files, places: tuple[Path, Path], problems: Problems) -> dict[str, Path]:
    """Partner of every clean picture by its place among the names, digits read as numbers."""
    count, wanted = (sum(len(paths) for paths in side.values()) for side in (files, clean))
    if count != wanted:
        problems.add("wrong count", [f"{count} in {places[1]}, {wanted} in {places[0]}"])
        return {}
    ordered = [path for name in sorted(files, key=_natural) for path in files[name]]
    return dict(zip(sorted(clean, key=_natural), ordered, strict=False))


def _natural(name: str) -> tuple[list[str | int], str]:
    """Key that puts `img2` before `img10`; texts and numbers take turns, so that equal places hold equal kinds."""
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def by_name(
    clean: Files, names: Sequence[str], files: Files, places: tuple[Path, Path], problems: Problems
) -> dict[str, Path]:
    """Partner of every name that has exactly one; all else goes to `problems`.

    Equal names come first, then those that are equal without a known ending. Where fewer than half of the files have
    such a partner, and more than half have one ending, that ending is what all of them must have.

    Args:
        clean, files: of both folders.
        names: of those in `clean` that need a partner.
        places: both folders, for messages.
        problems: told of what does not pair.
    """
    found = {name: list(files[name]) for name in clean if name in files}
    rest, unclear = [name for name in files if name not in clean], []
    for endings in _ROUNDS:
        fitting = _fitting([name for name in clean if name not in found], rest, endings)
        unclear += [f"{other} (to {' or '.join(some)})" for other, some in fitting.items() if len(some) > 1]
        for other, some in fitting.items():
            for name in some:
                found.setdefault(name, []).extend(files[other])
        rest = [other for other in rest if other not in fitting]
    ending = "" if 2 * len(found) >= len(files) else _same_ending(clean, list(files))
    if ending:
        return _by_ending(ending, clean, names, files, places, problems)
    extra = [path.relative_to(places[1]).as_posix() for other in rest for path in files[other]]
    problems.add(f"only in {places[0]}, not in {places[1]}", [name for name in names if name not in found])
    problems.add(f"only in {places[1]}", extra)
    problems.add(f"ambiguous in {places[1]}", [*ambiguous({n: found[n] for n in names if n in found}), *unclear])
    return {name: paths[0] for name, paths in found.items()}


def _fitting(
    names: Sequence[str], others: Sequence[str], endings: Iterable[tuple[re.Pattern[str], re.Pattern[str]]]
) -> dict[str, dict[str, None]]:
    """For each of `others` that has some, the names that it equals when each may leave its ending off."""
    found: dict[str, dict[str, None]] = {}
    for ours, theirs in endings:
        by_short: dict[str, list[str]] = {}
        for name in names:
            for short in {name, _without(name, ours)}:
                by_short.setdefault(short, []).append(name)
        for other in others:
            for short in (other, _without(other, theirs)):
                for name in by_short.get(short, ()):
                    found.setdefault(other, {})[name] = None
    return found


def _same_ending(names: Iterable[str], others: Sequence[str]) -> str:
    """The ending, such as `_upscayl_4x`, that most of `others` have after one of `names`; empty if there is none.

    An ending starts with a separator and holds a letter, for `_2` is another picture.
    """
    known = frozenset(names)
    counts: Counter[str] = Counter()
    for other in others:
        cuts = (match.start() for match in _SEPARATOR.finditer(other))
        counts.update(other[cut:] for cut in cuts if other[:cut] in known and _TAIL.fullmatch(other, cut))
    (tail, count), (_, next_best) = (*counts.most_common(2), ("", 0), ("", 0))[:2]
    return tail if 2 * count > len(others) and count > next_best else ""


def _by_ending(
    ending: str, clean: Files, names: Sequence[str], files: Files, places: tuple[Path, Path], problems: Problems
) -> dict[str, Path]:
    """Partners by the one ending of a folder; a file that has none of it is told of."""
    found = {name: list(files[name + ending]) for name in clean if name + ending in files}
    used = {name + ending for name in found}
    others = [path.name for name, paths in files.items() if name not in used for path in paths]
    problems.add(f"only in {places[0]}, not in {places[1]}", [name for name in names if name not in found])
    problems.add(f"in {places[1]}, where other names end in {ending}", others)
    problems.add(f"ambiguous in {places[1]}", ambiguous({name: found[name] for name in names if name in found}))
    return {name: paths[0] for name, paths in found.items()}


def _without(name: str, ending: re.Pattern[str]) -> str:
    """A name without its known ending; sub-folders stay."""
    folder, slash, stem = name.rpartition("/")
    match = ending.fullmatch(stem)
    return name if match is None else f"{folder}{slash}{match[1]}"
